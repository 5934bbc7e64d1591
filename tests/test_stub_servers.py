"A server that answers as real ones do, a behaviour for each model's name: each request is answered, or has one line."
import json
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from agentark.core.config import AgentArkError, run_async
from agentark.core.records import Query
from agentark.core.thinking import parse_reply, visible
from agentark.engines.base import EngineDead, EngineError, Reply, Request, Sampling
from agentark.engines.openai import OpenAIEngine
from agentark.engines.scheduler import Scheduler


class Stub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): pass

    def send(self, status, body, kind="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self): self.send(*self.server.models)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        refused = REFUSALS.get(asked["model"], lambda asked: None)(asked)
        if refused: return self.send(*refused)
        self.send(200, MESSAGES.get(asked["model"], completion({"content": "The answer is 42."})))

class Busy(ThreadingHTTPServer): request_queue_size = 128

def completion(message, reason="stop"): return {"choices": [{"message": message, "finish_reason": reason}]}

def error(message, status=400, **more): return status, {"error": {"message": message, **more}}

def over(asked, wording):
    "A refusal of more than 4,096 tokens of prompt and reply; a prompt has a token for each four bytes."
    prompt, limit = len(json.dumps(asked["messages"]))//4, asked.get("max_tokens", 16)
    return error(wording.format(prompt=prompt, limit=limit, sum=prompt + limit)) if prompt + limit > 4096 else None

def takes_no(name, message): return lambda asked: error(message) if name in asked else None

def long_seed(asked): return error("seed: must be less than 2147483648") if asked.get("seed", 0) >= 2**31 else None

LONG = {
    "vllm": "This model's maximum context length is 4096 tokens. However, you requested {sum} tokens "
            "({prompt} in the messages, {limit} in the completion). Please reduce the length of the messages.",
    "sglang": "Requested token count exceeds the model's maximum context length of 4096 tokens. "
              "You requested a total of {sum} tokens: {prompt} tokens from the input messages "
              "and {limit} tokens for the completion.",
    "tgi": "`inputs` tokens + `max_new_tokens` must be <= 4096. "
           "Given: {prompt} `inputs` tokens and {limit} `max_new_tokens`",
    "other": "the request exceeds the available context size",
}
REFUSALS = {
    **{name: lambda asked, wording=wording: over(asked, wording) for name, wording in LONG.items()},
    "modern": takes_no("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    "cold": takes_no("temperature", "Unsupported value: 'temperature' does not support 0.7 with this model."),
    "seedless": takes_no("seed", "seed is not supported"),
    "int32": long_seed,
    "free": takes_no("structured_outputs", "Unrecognized request argument supplied: structured_outputs"),
    "fastapi": lambda asked: (422, {"detail": [{"loc": ["body", "top_k"], "msg": "not wanted"}]}),
    "tgi error": lambda asked: (422, {"error": "the template is broken", "error_type": "template_error"}),
    "quota": lambda asked: error("You exceeded your current quota", 429, code="insufficient_quota"),
    "page": lambda asked: (200, "<!DOCTYPE html><title>Welcome</title>", "text/html"),
    "nowhere": lambda asked: (404, {"detail": "Not Found"}),
}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Six sevens"}]}
CALL = {"function": {"name": "sum", "arguments": "{}"}}
MESSAGES = {
    "null": completion({"content": None}, "content_filter"),
    "parts": completion({"content": [THINKING, {"type": "text", "text": "42"}]}),
    "missing": {"choices": [{"finish_reason": "stop"}]},
    "refusal": completion({"content": None, "refusal": "I would rather not."}),
    "tools": completion({"content": None, "tool_calls": [CALL]}, "tool_calls"),
    "reasoning": completion({"content": "42", "reasoning_content": "It may be 41."}),
    "cut": completion({"content": None, "reasoning": "It may be 41."}, "length"),
    "free": completion({"content": "<think>\nFalse?\n</think>\nThe verdict is true."}),
}

@pytest.fixture(scope="module")
def server():
    server = Busy(("127.0.0.1", 0), Stub)
    server.models, server.asked = (403, {"error": "no list"}), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()

def url(server): return f"http://127.0.0.1:{server.server_port}/v1"

def ask(server, model, n=64, **sampling):
    "Replies or errors to so many requests in flight, and the warnings."
    sampling = Sampling(**{"temperature": 0.7, "max_tokens": 4096, **sampling})
    engine = OpenAIEngine(model, url(server))
    requests = [Request([{"role": "user", "content": f"What is 6*7? {i}"}], sampling, 2**62 + i) for i in range(n)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replies = run_async(engine.generate(requests))
    engine.close()
    return replies, [str(w.message) for w in caught if "does not take" in str(w.message)]

@pytest.mark.parametrize("model, said", [
    *[(name, 0) for name in LONG],
    ("modern", 1), ("cold", 1), ("seedless", 2), ("int32", 1), ("plain", 0),
])
def test_64_in_flight_are_all_answered(server, model, said):
    replies, warned = ask(server, model)
    assert [r.text for r in replies] == ["The answer is 42."]*64
    assert len(warned) == said, warned

@pytest.mark.parametrize("model, line, ends", [
    ("fastapi", "body.top_k: not wanted", False),
    ("tgi error", "the template is broken", False),
    ("missing", "without a message", False),
    ("quota", "used up", True),
    ("page", "web site", True),
    ("nowhere", "--base_url", True),
])
def test_64_in_flight_have_the_right_line(server, model, line, ends):
    replies, _ = ask(server, model)
    assert all(isinstance(r, EngineError) for r in replies)
    assert all(line in str(r) and "\n" not in str(r) for r in replies), replies[0]
    assert isinstance(replies[0], EngineDead) == ends

@pytest.mark.parametrize("model, shown, end", [
    ("null", "", "content_filter"),
    ("parts", "42", "stop"),            # llm-mistral 38
    ("refusal", "I would rather not.", "refusal"),
    ("tools", "sum({})", "tool_calls"),
    ("reasoning", "42", "stop"),
    ("cut", "", "length"),              # lm-evaluation-harness 3382
])
def test_what_a_message_says_is_kept(server, model, shown, end):
    [reply], _ = ask(server, model, 1)
    assert visible(reply.text).strip() == shown
    assert reply.finish_reason == end
    assert bool(parse_reply(reply.text).thinking) == (model in ("parts", "reasoning", "cut"))

def test_a_choice_is_read_from_what_is_visible(server):
    replies, _ = ask(server, "free", 8, choices=("true", "false"))
    assert {r.text for r in replies} == {"true"}

def test_nothing_that_was_refused_is_sent_again(server):
    ask(server, "cold", 4)
    engine = OpenAIEngine("cold", url(server))
    chat = Request([{"role": "user", "content": "?"}], Sampling(temperature=0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_async(engine.generate([chat]))
        server.asked.clear()
        run_async(engine.generate([chat]*8))
    engine.close()
    assert len(server.asked) == 8
    assert not any("temperature" in asked for asked in server.asked)

@pytest.mark.parametrize("models", [
    (403, {"error": "no"}), (405, ""), (500, "oops"), (200, "<html></html>"), (200, {"data": [{"id": "another"}]}),
], ids=str)
def test_a_list_of_models_is_no_reason_to_refuse(server, models):
    server.models = models
    try: [reply], _ = ask(server, "plain", 1)
    finally: server.models = (403, {"error": "no list"})
    assert reply.text == "The answer is 42."

@pytest.mark.parametrize("model", LONG)
def test_40_questions_with_a_context_of_4096_and_default_flags(server, model):
    "ogx 4534: the limit of a reply is lowered to what the prompt leaves."
    from agentark.methods.base import run_one
    from agentark.methods.registry import get_method
    debate = get_method("llm_debate")
    engine = OpenAIEngine(model, url(server))
    async def one(query, submit): return await debate_of(query, submit, debate, engine)
    queries = [Query(f"{i} + 1?", "42") for i in range(40)]
    async def all_(): return [t async for t in Scheduler(engine).run(queries, one)]
    ts = run_async(all_())
    engine.close()
    assert run_one
    assert [t.error for t in ts] == [None]*40
    assert all(len(t.calls) == 6 for t in ts)

async def debate_of(query, submit, debate, engine):
    from agentark.methods.base import solve
    return await solve(query, submit, debate, debate.config(), engine, Sampling(), 0)

@pytest.mark.parametrize("key, named", [("sk-1\n", "line break"), ("sk-é", "ASCII")])
def test_a_key_that_no_header_can_carry(server, monkeypatch, key, named):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AgentArkError, match=named): OpenAIEngine("plain", url(server))

@pytest.mark.parametrize("address, named", [
    ("https://127.0.0.1:{port}/v1", "http://"),
    ("http://no-such-host.invalid/v1", "DNS"),
    ("http://127.0.0.1:9/v1", "no server answers"),
    ("ftp://127.0.0.1/v1", "http://"),
])
def test_the_cause_of_no_connection_is_named(server, address, named):
    with pytest.raises(AgentArkError, match=named) as e: OpenAIEngine("plain", address.format(port=server.server_port))
    assert "\n" not in str(e.value)

def test_a_proxy_of_the_environment_is_named(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"): monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"): monkeypatch.delenv(name, raising=False)
    with pytest.raises(AgentArkError, match=r"through the proxy http://127\.0\.0\.1:9") as e:
        OpenAIEngine("plain", url(server))
    assert "secret" not in str(e.value)

def test_a_socks_proxy_names_what_it_needs(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)   # as where it is not installed
    for name in ("NO_PROXY", "no_proxy"): monkeypatch.delenv(name, raising=False)
    for name in ("ALL_PROXY", "all_proxy"): monkeypatch.setenv(name, "socks5://me:secret@127.0.0.1:9")
    with pytest.raises(AgentArkError, match=r"httpx\[socks\]") as e: OpenAIEngine("plain", url(server))
    assert "secret" not in str(e.value)

def test_a_reply_is_a_reply(server): assert isinstance(ask(server, "plain", 1)[0][0], Reply)
