"Nothing is lost: runs that are killed with SIGKILL, torn files, failed records, and the same results whatever the batch."
import json, random, shutil, signal, subprocess, time
from pathlib import Path
import pytest
from conftest import AGENTARK, ROOT
from agentark.core.store import write_manifest
from agentark.engines.models import resolve
from agentark.eval.metrics import read_results

def lines(path: Path) -> int: return path.read_bytes().count(b"\n") if path.exists() else 0

def records(path) -> dict:
    "Trajectories by id, without what differs between runs by nature; fails on a duplicate."
    rows = [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]
    assert len({r["id"] for r in rows}) == len(rows), "a question was recorded twice"
    return {r["id"]: {k: v for k, v in r.items() if k != "wall_s"} for r in rows}

def complete(path, n):
    "All questions are there, once, and answered by three agents in two rounds."
    rows = records(path)
    assert len(rows) == n and not any(r.get("error") for r in rows.values()) and all(len(r["calls"]) == 6 for r in rows.values())
    return rows

def start(*args): return subprocess.Popen([AGENTARK, *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

def kill_at(n: int, path: Path, *args) -> int:
    "Start a run, kill -9 it as soon as `n` records are on disk; how many there were."
    process = start(*args)
    deadline = time.time() + 120
    while lines(path) < n and process.poll() is None and time.time() < deadline: time.sleep(0.005)
    assert process.poll() is None, f"the run ended before it could be killed: {process.stderr.read().decode()[-500:]}"
    process.send_signal(signal.SIGKILL); process.wait()
    return lines(path)

def kill_at_random_moments(kills: int, start, path: Path, dice=random.Random()) -> dict:
    "Kill the run that `start()` begins or resumes so many times: soon after it has added some records, or while it starts. What is on disk then; nothing finished is lost or changed on the way."
    kept = {}
    for _ in range(kills):
        more = dice.randrange(4)
        run, deadline = start(), time.time() + 180
        while lines(path) < len(kept) + more and run.poll() is None and time.time() < deadline: time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.2 if more else 5))
        assert run.poll() is None and time.time() < deadline, f"the run ended before it could be killed: {run.communicate()}"
        run.kill(); run.communicate()
        now = records_until_torn(path) if path.exists() else {}
        assert kept.items() <= now.items(), "a finished question was lost or changed"
        print(f"killed {'after' if more else 'before'} {len(now) - len(kept)} more: {len(now)} questions on disk")
        kept = now
    assert kept, "no run got as far as to finish a question"
    return kept

TINY = ["infer", "--method_name", "llm_debate", "--model_name", "tiny-random", "--model_max_tokens", 24, "--max_samples", 8, "--batch_size", 3, "--max_live", 1]

@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["reasoning_gym:chain_sum", "GSM8K"])
def test_kill_minus_nine_three_times(agentark, tmp_path, request, dataset):
    env = {"AGENTARK_DATA": request.getfixturevalue("gsm8k")} if dataset == "GSM8K" else {}
    args = [*TINY, "--test_dataset_name", dataset]
    path = tmp_path/"killed.jsonl"
    seen = []
    for n in (1, 3, 6):
        assert kill_at(n, path, *args, "--output_path", path) < 8
        before = records_until_torn(path)
        assert all(before.get(i) == r for i, r in (seen[-1] if seen else {}).items()), "a finished question was lost"
        seen.append(before)
    with open(path, "a") as f: f.write('{"id": "torn')     # and once in the middle of a write
    done = agentark(*args, "--output_path", path, check=True, **env)
    assert "cut off by a crash" in done.stderr
    agentark(*args, "--output_path", tmp_path/"whole.jsonl", check=True, **env)
    assert records(path) == records(tmp_path/"whole.jsonl") and len(records(path)) == 8

def records_until_torn(path: Path) -> dict:
    text = path.read_text()
    return {r["id"]: {k: v for k, v in r.items() if k != "wall_s"} for r in map(json.loads, text[:text.rfind("\n") + 1].split("\n")[:-1])}

def test_failed_records_are_redone(agentark, tmp_path):
    path = tmp_path/"run.jsonl"
    args = ["infer", "--method_name", "cot", "--model_name", "scripted", "--test_dataset_name", "reasoning_gym:chain_sum", "--max_samples", 5, "--output_path", path]
    agentark(*args, check=True)
    whole, rows = records(path), [json.loads(l) for l in path.read_text().split("\n")[:-1]]
    rows[2] = {**rows[2], "error": "TransportError: gone", "response": "", "answer": None, "calls": []}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "wrote 1 trajectories" in agentark(*args, check=True).stdout
    assert records(path) == whole

@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_same_trajectories_at_any_batch_size(agentark, tmp_path, temperature):
    runs = []
    for size in (1, 7, 64):
        path = tmp_path/f"{size}.jsonl"
        agentark("infer", "--method_name", "llm_debate", "--model_name", "tiny-random", "--model_max_tokens", 12, "--model_temperature", temperature, "--max_samples", 12,
                 "--test_dataset_name", "reasoning_gym:chain_sum", "--batch_size", size, "--output_path", path, check=True)
        runs.append(records(path))
    assert runs[0] == runs[1] == runs[2] and len({c["text"] for r in runs[0].values() for c in r["calls"]}) > 12

EXPERIMENT = """
notebooks: {root}/nbs/12_experiments
task: &task {{test_dataset_name: "reasoning_gym:chain_sum", model_name: tiny-random, model_max_tokens: 12, max_samples: 10, batch_size: 6, max_live: 2}}
steps:
  mas: {{notebook: infer, params: {{<<: *task, method_name: llm_debate, output_path: "{{out}}/mas.jsonl"}}}}
  base: {{notebook: infer, params: {{<<: *task, method_name: cot, output_path: "{{out}}/base.jsonl"}}}}
  compare: {{notebook: compare, params: {{runs: {{base: "{{base}}", mas: "{{mas}}"}}, pairs: [[base, mas]], output_path: "{{out}}/metrics.json", figure_path: "{{out}}/figure.png"}}}}
"""

@pytest.mark.slow
def test_a_killed_experiment_continues(agentark, tmp_path):
    (tmp_path/"e.yaml").write_text(EXPERIMENT.format(root=ROOT))
    out = tmp_path/"outputs"
    kill_at(2, out/"mas.jsonl", "run", tmp_path/"e.yaml")
    time.sleep(3)   # the kernel notices that its parent is gone
    kept = records_until_torn(out/"mas.jsonl")
    done = agentark("run", tmp_path/"e.yaml", check=True)
    assert len(records(out/"mas.jsonl")) == 10 and all(records(out/"mas.jsonl")[i] == r for i, r in kept.items())
    results, [test] = read_results(out/"metrics.json")
    assert results["base"].n == results["mas"].n == test.n == 10
    assert (out/"figure.png").exists()
    assert "| base" in done.stdout
    again = agentark("run", tmp_path/"e.yaml", check=True)
    assert again.stdout.count("done before") == 3

def meetings(path: Path, n: int) -> Path:
    "A published inference file of long meetings, two solutions each."
    talk = "\n".join(f"Ada: point {i} of the agenda ." for i in range(90))
    rows = [{"query": f"Summarize meeting {i}.", "context": talk, "gt": "They like tea.", "source": "QMSum", "response": f"===== Solution 1 =====\nThey like tea {i}.\n===== Solution 2 =====\nThey like coffee."} for i in range(n)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path

@pytest.mark.slow
def test_killed_labelling_continues(agentark, tmp_path):
    infer, path = meetings(tmp_path/"m_infer.jsonl", 24), tmp_path/"killed.jsonl"
    args = ["label", "--input", infer, "--dataset_name", "QMSum", "--model", "tiny-random", "--batch_size", 2, "--max_live", 1]
    for n in (1, 9):
        assert kill_at(n, path, *args, "--output_path", path) < 24
        kept = records_until_torn(path)
    with open(path, "a") as f: f.write('{"id": "torn')
    said = agentark(*args, "--output_path", path, check=True)
    assert "cut off by a crash" in said.stderr and "labelled 48 solutions of 24 questions" in said.stdout and "by the judge tiny-random 48; 24 questions shortened" in said.stdout
    assert all(records(path)[i] == r for i, r in kept.items()), "a labelled question was changed"
    agentark(*args, "--output_path", tmp_path/"whole.jsonl", check=True)
    assert path.read_bytes() == (tmp_path/"whole.jsonl").read_bytes()
    before, meta = path.read_bytes(), json.loads((tmp_path/"killed.meta.json").read_text())
    agentark(*args, "--output_path", path, check=True)   # nothing left to do, nobody asked
    assert path.read_bytes() == before and meta["num_llm_calls"] < 48 and json.loads((tmp_path/"killed.meta.json").read_text())["num_llm_calls"] == 0

def test_two_writers(agentark, tmp_path):
    from agentark.core.store import Store
    path = tmp_path/"run.jsonl"
    args = ["infer", "--method_name", "cot", "--model_name", "scripted", "--test_dataset_name", "reasoning_gym:chain_sum", "--max_samples", 2, "--output_path", path]
    agentark(*args, check=True)
    config = json.loads((tmp_path/"run.meta.json").read_text())["config"]
    with Store(path, config):
        second = agentark(*args)
        assert second.returncode == 1 and "another process" in second.stderr
    agentark(*args, check=True)

def test_a_model_trained_anew_is_asked_anew(agentark, tmp_path):
    model, path = tmp_path/"model_0.1", tmp_path/"run.jsonl"
    shutil.copytree(resolve("tiny-random"), model); write_manifest(model, {})
    ask = lambda: agentark("infer", "--method_name", "cot", "--test_dataset_name", "reasoning_gym:chain_sum", "--model_name", model, "--model_max_tokens", 8, "--max_samples", 3, "--output_path", path, check=True).stdout
    assert "wrote 3 trajectories" in ask() and "nothing to do" in ask()
    time.sleep(1.1); write_manifest(model, {})   # manifests have seconds
    time.sleep(1.1); assert "was trained anew" in ask() and lines(path) == 3
    assert "nothing to do" in ask()
