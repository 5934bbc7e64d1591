"A model on Modal: what Modal is sent, what the container runs, and inference against the server. Modal's control plane is a stand-in, its package is the real one."
import configparser, json, os, signal, subprocess, sys, time
import pytest
from packaging.specifiers import SpecifierSet
from agentark.core.config import AgentArkError
from agentark.engines import modal as modal_engine
from agentark.engines.serving import Serving
from agentark.methods.infer import Infer
from conftest import AGENTARK, ROOT
from modal_fake import modal, served   # fixtures

MODEL, KEY = "Qwen/Qwen3-8B", "sk-the-key-itself"
DEBATE = ["infer", "--method_name", "llm_debate", "--model_name", MODEL]

def meeting(folder):
    "A QMSum of one meeting with two questions."
    (folder/"qmsum").mkdir()
    turns = [{"speaker": "Ada", "content": "I like tea."}, {"speaker": "Bo", "content": "So do I."}]
    query = lambda q: {"query": q, "answer": "They like tea.", "relevant_text_span": [["0", "1"]]}
    row = {"topic_list": [], "general_query_list": [query("Summarize the meeting.")], "specific_query_list": [query("What does Bo like?")], "meeting_transcripts": turns}
    (folder/"qmsum"/"test.jsonl").write_text(json.dumps(row) + "\n")
    return folder

def everything(folder) -> str: return "".join(p.read_text() for p in folder.rglob("*") if p.is_file())

def test_version_is_one_that_the_extra_allows():
    settings = configparser.ConfigParser()
    settings.read(ROOT/"settings.ini")
    assert modal_engine.VLLM in SpecifierSet(settings["DEFAULT"]["vllm_requirements"].removeprefix("vllm"))

def test_what_modal_is_sent(agentark, modal, tmp_path):
    done = agentark("modal", "deploy", "--model_name", MODEL, "--gpu", "H200", "--gpu_count", 2, "--max_model_len", 16384, "--max_inputs", 100, "--max_containers", 3, "--scaledown_window", 60,
                    "--startup_timeout", 900, check=True, cwd=tmp_path, **modal.env, VLLM_API_KEY=KEY, HF_TOKEN="hf-the-token")
    assert modal.web_url in done.stdout and f"--model_name {MODEL} --use_modal_batch" in done.stdout
    f = modal.sent["FunctionCreate"][0].function
    assert modal.functions == {"agentark-Qwen-Qwen3-8B": ["serve"]} and (f.resources.gpu_config.gpu_type, f.resources.gpu_config.count) == ("H200", 2)
    assert {v.mount_path: v.volume_id for v in f.volume_mounts} == {"/root/.cache/huggingface": "vo-huggingface-cache", "/root/.cache/vllm": "vo-vllm-cache"}
    assert (f.webhook_config.web_server_port, f.webhook_config.web_server_startup_timeout) == (8000, 900) and f.webhook_config.type == modal.api.WEBHOOK_TYPE_WEB_SERVER
    assert f.max_concurrent_inputs == 100 and f.startup_timeout_secs == 900 and (f.autoscaler_settings.max_containers, f.autoscaler_settings.scaledown_window) == (3, 60)
    assert list(f.secret_ids) == ["st-1"] and list(f.mount_ids) == ["mo-1"]   # Modal's own client, and none of our sources
    image = "\n".join(c for i in modal.sent["ImageGetOrCreate"] for c in i.image.dockerfile_commands)
    assert "FROM nvidia/cuda:13.0" in image and f"vllm=={modal_engine.VLLM}" in image and f"{sys.version_info.major}.{sys.version_info.minor}" in str(modal.sent)

def test_the_key_goes_into_a_secret_and_nowhere_else(agentark, modal, tmp_path):
    done = agentark("modal", "deploy", "--model_name", MODEL, check=True, cwd=tmp_path, **modal.env, VLLM_API_KEY=KEY, HF_TOKEN="hf-the-token")
    secrets = modal.sent.pop("SecretGetOrCreate")
    assert [dict(s.env_dict) for s in secrets] == [{"VLLM_API_KEY": KEY, "HF_TOKEN": "hf-the-token"}]
    for text in (done.stdout, done.stderr, str(modal.sent), everything(tmp_path)): assert KEY not in text and "hf-the-token" not in text

def test_a_secret_at_modal_needs_no_key_here(agentark, modal):
    agentark("modal", "deploy", "--model_name", MODEL, "--secret", "stored", check=True, **modal.env, VLLM_API_KEY=KEY)
    request, = modal.sent["SecretGetOrCreate"]
    assert request.deployment_name == "stored" and list(request.required_keys) == ["VLLM_API_KEY"] and not request.env_dict
    done = agentark("modal", "deploy", "--model_name", MODEL, "--secret", "stroed", **modal.env)
    assert done.returncode == 1 and "modal secret create stroed VLLM_API_KEY=..." in done.stderr and "Traceback" not in done.stderr

def test_what_the_container_runs(agentark, modal, tmp_path):
    agentark("modal", "deploy", "--model_name", MODEL, "--gpu_count", 4, "--max_model_len", 16384, check=True, **modal.env, VLLM_API_KEY=KEY)
    (tmp_path/"serve.pkl").write_bytes(modal.sent["FunctionCreate"][0].function.function_serialized)
    vllm = tmp_path/"vllm"
    vllm.write_text('#!/bin/sh\necho "$@" > said\nexit 3\n'); vllm.chmod(0o755)
    code = "import pickle, sys, time; pickle.load(open('serve.pkl', 'rb'))(); assert 'agentark' not in sys.modules; time.sleep(60)"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}   # without PYTHONPATH: the container has no agentark
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50)
    assert done.returncode == 3, done.stderr   # a dead server ends its container
    assert (tmp_path/"said").read_text().split() == modal_engine.command(MODEL, 4, 16384)[1:]
    assert f"serve {MODEL} --served-model-name {MODEL} --host 0.0.0.0 --port 8000 --tensor-parallel-size 4" in (tmp_path/"said").read_text()

def test_the_documented_commands(agentark, modal, served, tmp_path):
    env = {**modal.env, "VLLM_API_KEY": KEY, "AGENTARK_DATA": str(meeting(tmp_path))}
    infer = lambda **kw: agentark(*DEBATE, "--test_dataset_name", "QMSum", "--use_modal_batch", "--result_dir", tmp_path/"results", **{**env, **kw})
    done = infer()
    assert done.returncode == 1 and f"agentark: {MODEL} is not on Modal: agentark modal deploy --model_name {MODEL}" in done.stderr and "Traceback" not in done.stderr
    agentark("modal", "deploy", "--model_name", MODEL, check=True, **env)
    done = infer(VLLM_API_KEY="sk-another")
    assert done.returncode == 1 and "refuses the key: set the environment variable VLLM_API_KEY" in done.stderr and "sk-another" not in done.stderr
    done = infer()
    assert done.returncode == 0 and "wrote 2 trajectories (" in done.stdout and served.polls > 2, done.stderr
    row, _ = (json.loads(line) for line in (tmp_path/"results/QMSum/Qwen/Qwen3-8B/llm_debate_infer.jsonl").read_text().splitlines())
    assert row["source"] == "QMSum" and served.answered == 2*len(row["calls"])
    for text in (done.stdout, done.stderr, everything(tmp_path/"results")): assert KEY not in text

def test_serve_until_control_c(modal):
    env = {**os.environ, **modal.env, "VLLM_API_KEY": KEY}
    process = subprocess.Popen([AGENTARK, "modal", "serve", "--model_name", MODEL], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    while "--base_url" not in (said or [""])[-1] and process.poll() is None: said.append(process.stdout.readline())
    assert f"--base_url {modal.web_url}/v1" in said[-1] and KEY not in "".join(said)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in out and modal.sent["AppClientDisconnect"], out

@pytest.mark.parametrize("args", [["modal", "deploy", "--model_name", MODEL], [*DEBATE, "--test_dataset_name", "reasoning_gym:chain_sum", "--max_samples", 1, "--use_modal_batch"]])
def test_without_an_account(agentark, modal, tmp_path, args):
    out = [] if args[0] == "modal" else ["--output_path", tmp_path/"x.jsonl"]
    done = agentark(*args, *out, **{**modal.env, "MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}, VLLM_API_KEY=KEY)
    assert done.returncode == 1 and done.stderr.endswith("agentark: Modal does not know you: run modal setup, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET\n") and "Traceback" not in done.stderr

@pytest.mark.slow   # Modal's client tries for a minute
def test_without_network(agentark, modal):
    done = agentark("modal", "deploy", "--model_name", MODEL, **{**modal.env, "MODAL_SERVER_URL": "http://127.0.0.1:9"}, VLLM_API_KEY=KEY)
    assert done.returncode == 1 and done.stderr.endswith("agentark: Modal cannot be reached: check the network and https://status.modal.com\n")

def test_inference_by_an_injected_address(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setattr(modal_engine, "deployed_url", lambda model: served.url)
    run = Infer("llm_debate", "reasoning_gym:chain_sum", MODEL, max_samples=5, use_modal_batch=True, output_path=str(tmp_path/"run.jsonl"))
    rows = [json.loads(line) for line in run.run().read_text().splitlines()]
    assert len(rows) == 5 and served.answered == sum(len(r["calls"]) for r in rows) and served.polls == 2 and KEY not in everything(tmp_path)

def test_one_way_to_run_a_model():
    with pytest.raises(AgentArkError, match="choose one"): Serving(use_modal_batch=True, base_url="http://127.0.0.1:9/v1").open_engine(MODEL)
