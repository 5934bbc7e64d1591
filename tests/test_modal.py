"""A model on Modal: what Modal is sent, what the container runs, and inference against the server.

Modal's control plane is a stand-in, its package is the real one.
"""
import configparser
import json
import os
import signal
import subprocess
import sys
import time
import pytest
from conftest import AGENTARK, ROOT
from packaging.specifiers import SpecifierSet
from agentark.core.config import AgentArkError
from agentark.engines import modal as modal_engine
from agentark.engines.serving import Serving
from agentark.methods.infer import Infer

pytest_plugins = ["modal_fake"]   # the fixtures `modal` and `served`
MODEL, KEY, TOKEN = "Qwen/Qwen3-8B", "sk-the-key-itself", "hf-the-token"
DEPLOY = ["modal", "deploy", "--model_name", MODEL]
DEBATE = ["infer", "--method_name", "llm_debate", "--model_name", MODEL]


def meeting(folder):
    "A QMSum of one meeting with two questions."
    def asked(question): return {"query": question, "answer": "They like tea.", "relevant_text_span": [["0", "1"]]}
    row = {
        "topic_list": [],
        "general_query_list": [asked("Summarize the meeting.")],
        "specific_query_list": [asked("What does Bo like?")],
        "meeting_transcripts": [
            {"speaker": "Ada", "content": "I like tea."},
            {"speaker": "Bo", "content": "So do I."},
        ],
    }
    (folder/"qmsum").mkdir()
    (folder/"qmsum"/"test.jsonl").write_text(json.dumps(row) + "\n")
    return folder

def everything(folder) -> str: return "".join(p.read_text() for p in folder.rglob("*") if p.is_file())

def rows(path) -> list[dict]: return [json.loads(line) for line in path.read_text().splitlines()]

def assert_one_line(done, expected: str):
    "It failed, and said why without a traceback."
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr

def test_version_is_one_that_the_extra_allows():
    settings = configparser.ConfigParser()
    settings.read(ROOT/"settings.ini")
    allowed = settings["DEFAULT"]["vllm_requirements"].removeprefix("vllm")
    assert modal_engine.VLLM in SpecifierSet(allowed)

FLAGS = {
    "gpu": "H200",
    "gpu_count": 2,
    "max_model_len": 16384,
    "max_inputs": 100,
    "max_containers": 3,
    "scaledown_window": 60,
    "startup_timeout": 900,
}

def test_what_modal_is_sent(agentark_process, modal):
    args = list(DEPLOY)
    for name, value in FLAGS.items(): args += [f"--{name}", value]
    done = agentark_process(*args, check=True, **modal.env, VLLM_API_KEY=KEY, HF_TOKEN=TOKEN)
    assert modal.web_url in done.stdout
    assert f"--model_name {MODEL} --use_modal_batch" in done.stdout
    assert modal.functions == {"agentark-Qwen-Qwen3-8B": ["serve"]}
    check_function(modal.sent["FunctionCreate"][0].function, modal.api)
    images = [request.image for request in modal.sent["ImageGetOrCreate"]]
    commands = "\n".join("\n".join(image.dockerfile_commands) for image in images)
    assert "FROM nvidia/cuda:13.0" in commands
    assert f"vllm=={modal_engine.VLLM}" in commands
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in str(modal.sent)

def check_function(sent, api):
    "The flags, the volumes and the secret are in the function that Modal is sent."
    assert sent.resources.gpu_config.gpu_type == "H200"
    assert sent.resources.gpu_config.count == 2
    assert sent.webhook_config.type == api.WEBHOOK_TYPE_WEB_SERVER
    assert sent.webhook_config.web_server_port == 8000
    assert sent.webhook_config.web_server_startup_timeout == 900
    assert sent.startup_timeout_secs == 900
    assert sent.max_concurrent_inputs == 100
    assert sent.autoscaler_settings.max_containers == 3
    assert sent.autoscaler_settings.scaledown_window == 60
    assert list(sent.secret_ids) == ["st-1"]
    assert list(sent.mount_ids) == ["mo-1"]   # Modal's own client, and none of our sources
    assert {v.mount_path: v.volume_id for v in sent.volume_mounts} == {
        "/root/.cache/huggingface": "vo-huggingface-cache",
        "/root/.cache/vllm": "vo-vllm-cache",
    }

def test_the_key_goes_into_a_secret_and_nowhere_else(agentark_process, modal, tmp_path):
    done = agentark_process(*DEPLOY, check=True, cwd=tmp_path, **modal.env, VLLM_API_KEY=KEY, HF_TOKEN=TOKEN)
    request, = modal.sent.pop("SecretGetOrCreate")
    assert dict(request.env_dict) == {"VLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}
    for text in (done.stdout, done.stderr, str(modal.sent), everything(tmp_path)):
        assert KEY not in text
        assert TOKEN not in text

def test_a_secret_at_modal_needs_no_key_here(agentark_process, modal):
    agentark_process(*DEPLOY, "--secret", "stored", check=True, **modal.env, VLLM_API_KEY=KEY)
    request, = modal.sent["SecretGetOrCreate"]
    assert request.deployment_name == "stored"
    assert list(request.required_keys) == ["VLLM_API_KEY"]
    assert not request.env_dict
    done = agentark_process(*DEPLOY, "--secret", "stroed", **modal.env)
    assert_one_line(done, "modal secret create stroed VLLM_API_KEY=...")

def test_what_the_container_runs(agentark_process, modal, tmp_path):
    flags = ["--gpu_count", 4, "--max_model_len", 16384]
    agentark_process(*DEPLOY, *flags, check=True, **modal.env, VLLM_API_KEY=KEY)
    sent = modal.sent["FunctionCreate"][0].function
    (tmp_path/"serve.pkl").write_bytes(sent.function_serialized)
    vllm = tmp_path/"vllm"
    vllm.write_text('#!/bin/sh\necho "$@" > said\nexit 3\n')
    vllm.chmod(0o755)
    (tmp_path/"container.py").write_text(
        "import pickle, sys, time\n"
        "pickle.load(open('serve.pkl', 'rb'))()\n"
        "assert 'agentark' not in sys.modules\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "container.py"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},   # without PYTHONPATH: the container has no agentark
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 3, done.stderr   # a dead server ends its container
    said = (tmp_path/"said").read_text()
    assert said.split() == modal_engine.command(MODEL, 4, 16384)[1:]
    assert f"serve {MODEL} --served-model-name {MODEL} --host 0.0.0.0 --port 8000 --tensor-parallel-size 4" in said

def test_the_documented_commands(agentark_process, modal, served, tmp_path):
    env = {**modal.env, "VLLM_API_KEY": KEY, "AGENTARK_DATA": str(meeting(tmp_path))}
    results = tmp_path/"results"
    flags = ["--test_dataset_name", "QMSum", "--use_modal_batch", "--result_dir", results]
    def infer(**kw): return agentark_process(*DEBATE, *flags, **{**env, **kw})
    assert_one_line(infer(), f"agentark: {MODEL} is not on Modal: agentark modal deploy --model_name {MODEL}")
    agentark_process(*DEPLOY, check=True, **env)
    refused = infer(VLLM_API_KEY="sk-another")
    assert_one_line(refused, "refuses the key: set the environment variable VLLM_API_KEY")
    assert "sk-another" not in refused.stderr
    done = infer()
    assert done.returncode == 0, done.stderr
    assert "wrote 2 trajectories (" in done.stdout
    assert served.polls > 2   # it was not up at first
    row, _ = rows(results/"QMSum/Qwen/Qwen3-8B/llm_debate_infer.jsonl")
    assert row["source"] == "QMSum"
    assert served.answered == 2*len(row["calls"])
    for text in (done.stdout, done.stderr, everything(results)): assert KEY not in text

def test_serve_until_control_c(modal):
    process = subprocess.Popen(
        [AGENTARK, "modal", "serve", "--model_name", MODEL],
        cwd=ROOT,
        env={**os.environ, **modal.env, "VLLM_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = [""]
    while "--base_url" not in said[-1] and process.poll() is None: said.append(process.stdout.readline())
    assert f"--base_url {modal.web_url}/v1" in said[-1]
    assert KEY not in "".join(said)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "Traceback" not in out
    assert modal.sent["AppClientDisconnect"], out

CHAIN_SUM = ["--test_dataset_name", "reasoning_gym:chain_sum", "--max_samples", 1]

@pytest.mark.parametrize("args", [DEPLOY, [*DEBATE, *CHAIN_SUM, "--use_modal_batch"]])
def test_without_an_account(agentark_process, modal, tmp_path, args):
    env = {**modal.env, "MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": "", "VLLM_API_KEY": KEY}
    out = ["--output_path", tmp_path/"x.jsonl"] if args[0] == "infer" else []
    done = agentark_process(*args, *out, **env)
    mend = "run modal setup, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
    assert_one_line(done, f"agentark: Modal does not know you: {mend}\n")
    assert done.stderr.endswith(f"{mend}\n")

@pytest.mark.slow   # Modal's client tries for a minute
def test_without_network(agentark_process, modal):
    env = {**modal.env, "MODAL_SERVER_URL": "http://127.0.0.1:9", "VLLM_API_KEY": KEY}
    done = agentark_process(*DEPLOY, **env)
    said = "agentark: Modal cannot be reached: check the network and https://status.modal.com\n"
    assert_one_line(done, said)
    assert done.stderr.endswith(said)

@pytest.mark.slow
def test_inference_by_an_injected_address(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setattr(modal_engine, "deployed_url", lambda model: served.url)
    path = tmp_path/"run.jsonl"
    run = Infer(
        "llm_debate",
        "reasoning_gym:chain_sum",
        MODEL,
        max_samples=5,
        use_modal_batch=True,
        output_path=str(path),
    )
    written = rows(run.run())
    assert len(written) == 5
    assert served.answered == sum(len(row["calls"]) for row in written)
    assert served.polls == 2
    assert KEY not in everything(tmp_path)

def test_one_way_to_run_a_model():
    serving = Serving(use_modal_batch=True, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(AgentArkError, match="choose one"): serving.open_engine(MODEL)
