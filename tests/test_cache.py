"The reply cache on the command line: the same results with it and without, and no fault of it reaches a run."
import json, os, signal, subprocess, time
import pytest
from agentark.engines.models import prepare
from conftest import AGENTARK, ROOT

def entries(folder): return [p for p in (folder/"replies").rglob("*") if p.is_file()]

def records(path) -> list:
    "Trajectories without their times."
    return [{k: v for k, v in json.loads(line).items() if k != "wall_s"} for line in path.read_text().split("\n")[:-1]]

@pytest.fixture
def infer(agentark, agentark_process, tmp_path):
    "Run a debate of 24 calls into a file, with a cache of this test's own (but for the prepared models)."
    (tmp_path/"cache").mkdir(); (tmp_path/"cache"/"models").symlink_to(prepare("tiny-random").parent)
    def run(name, *args, model="scripted", check=True, **env):
        path = tmp_path/f"{name}.jsonl"
        command = agentark_process if "PYTHONPATH" in env else agentark
        done = command("infer", "--method_name", "llm_debate", "--test_dataset_name", "reasoning_gym:chain_sum", "--model_name", model, "--model_max_tokens", 30, "--max_samples", 4,
                        "--output_path", path, *args, check=check, **{"AGENTARK_CACHE": str(tmp_path/"cache"), **env})
        return done, path
    return run

def test_a_second_run_asks_nobody(infer, tmp_path):
    first, a = infer("a", "--cache", "write", model="tiny-random", OPENAI_API_KEY="sk-do-not-keep-me")
    (tmp_path/"no").mkdir(); (tmp_path/"no"/"torch.py").write_text("raise ImportError('torch was loaded')\n")
    no_torch = {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path/"no"), os.environ.get("PYTHONPATH")]))}
    assert infer("x", model="tiny-random", check=False, **no_torch)[0].returncode, "this test would not see that torch is loaded"
    again, b = infer("b", "--cache", "read", model="tiny-random", **no_torch)
    plain, c = infer("c", model="tiny-random")
    assert records(a) == records(b) == records(c) and "from the cache" not in plain.stdout
    assert "\n0 of 24 replies of tiny-random from the cache" in "\n" + first.stdout and "\n24 of 24 replies of tiny-random from the cache" in "\n" + again.stdout
    everything = b"".join(p.read_bytes() for p in [*entries(tmp_path/"cache"), *tmp_path.glob("*.json*")])
    assert b"sk-do-not" not in everything and "sk-do-not" not in first.stdout + first.stderr

def test_read_adds_nothing(infer, tmp_path):
    done, _ = infer("a", "--cache", "read")
    assert not (tmp_path/"cache"/"replies").exists() and "0 of 24" in done.stdout
    infer("b", "--cache", "write", "--max_samples", 2)
    before = sorted(entries(tmp_path/"cache"))
    done, c = infer("c", "--cache", "read")
    assert sorted(entries(tmp_path/"cache")) == before and "12 of 24" in done.stdout

def test_another_seed_temperature_or_prompt_is_another_entry(infer):
    infer("a", "--cache", "write")
    for i, other in enumerate((("--seed", 1), ("--model_temperature", 0.7), ("--model_max_tokens", 9), ("--no_apply_chat_template",))):
        assert "\n0 of 24" in "\n" + infer(f"o{i}", "--cache", "write", *other)[0].stdout, other

def test_damaged_entries_are_asked_again(infer, tmp_path):
    _, a = infer("a", "--cache", "write")
    for i, p in enumerate(entries(tmp_path/"cache")): p.write_bytes([b"", p.read_bytes()[:-1], b"\0" * 100, p.read_bytes().replace(b'"', b"'", 1)][i % 4])
    done, b = infer("b", "--cache", "write")
    assert "0 of 24" in done.stdout and records(a) == records(b)
    assert "24 of 24" in infer("c", "--cache", "read")[0].stdout

@pytest.mark.slow
def test_killed_and_continued(tmp_path, infer):
    for n in (1, 9, 17):
        run = subprocess.Popen([AGENTARK, "infer", "--method_name", "llm_debate", "--test_dataset_name", "reasoning_gym:chain_sum", "--model_name", "tiny-random", "--model_max_tokens", "30", "--max_samples", "4", "--max_live", "1",
                                "--batch_size", "1", "--overwrite", "--cache", "write", "--output_path", str(tmp_path/"killed.jsonl")], cwd=ROOT, env={**os.environ, "AGENTARK_CACHE": str(tmp_path/"cache")}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while len(entries(tmp_path/"cache")) < n and run.poll() is None and time.time() < deadline: time.sleep(0.002)
        run.send_signal(signal.SIGKILL); run.wait()
    done, a = infer("a", "--cache", "write", model="tiny-random")
    assert records(a) == records(infer("plain", model="tiny-random")[1]) and "\n0 of" not in "\n" + done.stdout

@pytest.fixture
def small_disk(tmp_path):
    "A disk of 64 kB; skips where none can be mounted."
    (tmp_path/"disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path/"disk"], capture_output=True).returncode: pytest.skip("no right to mount a disk")
    yield tmp_path/"disk"
    subprocess.run(["umount", tmp_path/"disk"], check=True)

def test_full_disk(infer, tmp_path, small_disk):
    (tmp_path/"cache"/"replies").symlink_to(small_disk)
    done, a = infer("a", "--cache", "write")
    assert "No space left" in done.stderr and done.stderr.count("cannot add to the cache") == 1
    assert records(a) == records(infer("plain")[1])
    kept = len(entries(tmp_path/"cache"))
    assert 0 < kept < 20 and "0 of 24" not in infer("b", "--cache", "read")[0].stdout

def test_a_folder_that_cannot_be_written(infer, tmp_path):
    (tmp_path/"cache"/"replies").write_text("in the way")
    done, a = infer("a", "--cache", "write")
    assert done.stderr.count("cannot add to the cache") == 1 and records(a) == records(infer("plain")[1])

def test_eight_runs_at_once(tmp_path, agentark):
    args = ["infer", "--method_name", "self_consistency", "--test_dataset_name", "reasoning_gym:chain_sum", "--model_name", "scripted", "--max_samples", "50", "--cache", "write"]
    env = {**os.environ, "AGENTARK_CACHE": str(tmp_path/"cache")}
    runs = [subprocess.Popen([AGENTARK, *args, "--output_path", str(tmp_path/f"{i}.jsonl")], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(8)]
    assert [r.communicate()[1].count("Traceback") + r.returncode for r in runs] == [0]*8
    agentark(*args[:-2], "--output_path", tmp_path/"plain.jsonl", check=True)
    order = lambda path: sorted(records(path), key=lambda r: r["id"])
    assert all(order(tmp_path/f"{i}.jsonl") == order(tmp_path/"plain.jsonl") for i in range(8))
    assert not [p for p in entries(tmp_path/"cache") if "." in p.name]

def test_mistakes(infer):
    done, _ = infer("a", "--cache", "write", "--cache_gb", 0, check=False)
    assert done.returncode == 1 and "more than 0 GB" in done.stderr
    done, _ = infer("b", "--cache", "on", check=False)
    assert done.returncode == 2 and "off" in done.stderr and "write" in done.stderr
    done, _ = infer("c", "--cache", "write", "--tensor_parallel_size", 2, model="tiny-random", check=False)
    assert done.returncode == 1 and "add --use_vllm" in done.stderr

def test_off_in_yaml(infer, tmp_path):
    (tmp_path/"run.yaml").write_text("cache: off\n")
    assert "from the cache" not in infer("a", "--config", tmp_path/"run.yaml")[0].stdout
    assert not (tmp_path/"cache"/"replies").exists()

def test_help(agentark):
    said = " ".join(agentark("infer", "--help", check=True).stdout.replace("│", " ").split())
    assert "--cache {off,read,write}" in said and "replies of earlier runs" in said and "--cache_gb" in said
