"""Nothing is lost: runs killed with SIGKILL, torn files, failed records; and the same results whatever the batch."""
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
import forked
import pytest
from conftest import AGENTARK, ROOT
from safetensors.torch import load_file, save_file
from agentark.core.store import Store
from agentark.engines.models import resolve
from agentark.eval.metrics import read_results

TASK = ["--test_dataset_name", "reasoning_gym:chain_sum"]
TINY = ["infer", "--method_name", "llm_debate", "--model_name", "tiny-random", "--model_max_tokens", 24]
TINY += ["--max_samples", 8, "--batch_size", 3, "--max_live", 1]
SCRIPTED_COT = ["infer", "--method_name", "cot", "--model_name", "scripted", *TASK]

# ---- what is on disk

def lines(path: Path) -> int: return path.read_bytes().count(b"\n") if path.exists() else 0

def parsed(text: str) -> list[dict]: return [json.loads(line) for line in text.split("\n")[:-1]]

def by_id(rows: list[dict]) -> dict:
    "Trajectories by id, without what differs between runs by nature; fails on a duplicate."
    for r in rows: r.pop("wall_s", None)
    found = {r["id"]: r for r in rows}
    assert len(found) == len(rows), "a question was recorded twice"
    return found

def records(path) -> dict: return by_id(parsed(Path(path).read_text()))

def records_until_torn(path: Path) -> dict:
    "The same without what follows the last newline; nothing if there is no file."
    if not path.exists(): return {}
    text = path.read_text()
    return by_id(parsed(text[:text.rfind("\n") + 1]))

def tear(path: Path):
    "End the file in the middle of a write."
    with open(path, "a") as f: f.write('{"id": "torn')

def complete(path, n):
    "All questions are there, once, and answered by three agents in two rounds."
    rows = records(path)
    assert len(rows) == n
    for r in rows.values():
        assert not r.get("error")
        assert len(r["calls"]) == 6
    return rows

# ---- killing

def start_whole(*args):
    "Start the command line as a user does, from nothing; kernels too."
    command = [AGENTARK, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def wait_for_lines(path: Path, n: int, process, seconds: float):
    "Wait until the file has `n` lines; fails if the process ends before."
    deadline = time.monotonic() + seconds
    while lines(path) < n and process.poll() is None and time.monotonic() < deadline: time.sleep(0.005)
    still_running(process)
    assert time.monotonic() < deadline, f"no {n} lines within {seconds} s"

def still_running(process):
    assert process.poll() is None, f"the run ended before it could be killed, with {process.returncode}"

def kill_at(n: int, path: Path, *args, start=forked.start) -> int:
    "Start a run, kill -9 it as soon as `n` records are on disk; how many there were."
    process = start(*args)
    wait_for_lines(path, n, process, seconds=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return lines(path)

def kill_at_random_moments(kills: int, start, path: Path, dice=random) -> dict:
    """Kill the run that `start()` begins or resumes so many times; returns what is on disk then.

    A kill comes soon after the run has added some records, or while it starts. Nothing finished is lost or changed.
    """
    kept = {}
    for _ in range(kills):
        more = dice.randrange(4)
        run = start()
        wait_for_lines(path, len(kept) + more, run, seconds=180)
        time.sleep(dice.uniform(0, 0.2 if more else 5))
        still_running(run)
        run.kill()
        run.communicate()
        now = records_until_torn(path)
        assert kept.items() <= now.items(), "a finished question was lost or changed"
        moment = "after" if more else "before"
        print(f"killed {moment} {len(now) - len(kept)} more: {len(now)} questions on disk")
        kept = now
    assert kept, "no run got as far as to finish a question"
    return kept

# ---- the tests

@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["reasoning_gym:chain_sum", "GSM8K"])
def test_kill_minus_nine_three_times(agentark, tmp_path, request, dataset):
    env = {"AGENTARK_DATA": request.getfixturevalue("gsm8k")} if dataset == "GSM8K" else {}
    args = [*TINY, "--test_dataset_name", dataset, "--output_path"]
    path, whole = tmp_path/"killed.jsonl", tmp_path/"whole.jsonl"
    kept = {}
    for n in (1, 3, 6):
        assert kill_at(n, path, *args, path) < 8
        now = records_until_torn(path)
        assert kept.items() <= now.items(), "a finished question was lost"
        kept = now
    tear(path)
    done = agentark(*args, path, check=True, **env)
    assert "cut off by a crash" in done.stderr
    agentark(*args, whole, check=True, **env)
    assert records(path) == records(whole)
    assert len(records(path)) == 8

def test_failed_records_are_redone(agentark, tmp_path):
    path = tmp_path/"run.jsonl"
    args = [*SCRIPTED_COT, "--max_samples", 5, "--output_path", path]
    agentark(*args, check=True)
    whole = records(path)
    rows = parsed(path.read_text())
    rows[2] |= {"error": "TransportError: gone", "response": "", "answer": None, "calls": []}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "wrote 1 trajectories" in agentark(*args, check=True).stdout
    assert records(path) == whole

@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_same_trajectories_at_any_batch_size(agentark, tmp_path, temperature):
    args = ["infer", "--method_name", "llm_debate", "--model_name", "tiny-random", "--model_max_tokens", 12, *TASK]
    args += ["--model_temperature", temperature, "--max_samples", 12]
    runs = []
    for size in (1, 7, 64):
        path = tmp_path/f"{size}.jsonl"
        agentark(*args, "--batch_size", size, "--output_path", path, check=True)
        runs.append(records(path))
    assert runs[0] == runs[1]
    assert runs[0] == runs[2]
    texts = set()
    for r in runs[0].values(): texts.update(c["text"] for c in r["calls"])
    assert len(texts) > 12

EXPERIMENT = """
notebooks: {root}/nbs/12_experiments
task: &task
  test_dataset_name: reasoning_gym:chain_sum
  model_name: tiny-random
  model_max_tokens: 12
  max_samples: 10
  batch_size: 6
  max_live: 2
steps:
  mas: {{notebook: infer, params: {{<<: *task, method_name: llm_debate, output_path: "{{out}}/mas.jsonl"}}}}
  base: {{notebook: infer, params: {{<<: *task, method_name: cot, output_path: "{{out}}/base.jsonl"}}}}
  compare:
    notebook: compare
    params:
      runs: {{base: "{{base}}", mas: "{{mas}}"}}
      pairs: [[base, mas]]
      output_path: "{{out}}/metrics.json"
      figure_path: "{{out}}/figure.png"
"""

@pytest.mark.slow
def test_a_killed_experiment_continues(agentark, kernels, tmp_path):
    (tmp_path/"e.yaml").write_text(EXPERIMENT.format(root=ROOT))
    out = tmp_path/"outputs"
    kill_at(2, out/"mas.jsonl", "run", tmp_path/"e.yaml", start=start_whole)
    time.sleep(3)   # the kernel notices that its parent is gone
    kept = records_until_torn(out/"mas.jsonl")
    done = agentark("run", tmp_path/"e.yaml", check=True)
    finished = records(out/"mas.jsonl")
    assert len(finished) == 10
    assert kept.items() <= finished.items(), "a finished question was lost or changed"
    results, [test] = read_results(out/"metrics.json")
    assert {results["base"].n, results["mas"].n, test.n} == {10}
    assert (out/"figure.png").exists()
    assert "| base" in done.stdout
    again = agentark("run", tmp_path/"e.yaml", check=True)
    assert again.stdout.count("done before") == 3

def meetings(path: Path, n: int) -> Path:
    "A published inference file of long meetings, two solutions each."
    talk = "\n".join(f"Ada: point {i} of the agenda ." for i in range(90))
    with open(path, "w") as f:
        for i in range(n):
            row = {
                "query": f"Summarize meeting {i}.",
                "context": talk,
                "gt": "They like tea.",
                "source": "QMSum",
                "response": f"===== Solution 1 =====\nThey like tea {i}.\n===== Solution 2 =====\nThey like coffee.",
            }
            f.write(json.dumps(row) + "\n")
    return path

@pytest.mark.slow
def test_killed_labelling_continues(agentark, tmp_path):
    infer = meetings(tmp_path/"m_infer.jsonl", 24)
    path, whole = tmp_path/"killed.jsonl", tmp_path/"whole.jsonl"
    args = ["label", "--input", infer, "--dataset_name", "QMSum", "--model", "tiny-random"]
    args += ["--batch_size", 2, "--max_live", 1, "--output_path"]
    for n in (1, 9):
        assert kill_at(n, path, *args, path) < 24
        kept = records_until_torn(path)
    tear(path)
    said = agentark(*args, path, check=True)
    assert "cut off by a crash" in said.stderr
    assert "labelled 48 solutions of 24 questions" in said.stdout
    assert "by the judge tiny-random 48; 24 questions shortened" in said.stdout
    assert kept.items() <= records(path).items(), "a labelled question was changed"
    agentark(*args, whole, check=True)
    assert path.read_bytes() == whole.read_bytes()
    assert num_calls(path) < 48
    agentark(*args, path, check=True)   # nothing left to do, nobody asked
    assert path.read_bytes() == whole.read_bytes()
    assert num_calls(path) == 0

def manifest(path: Path) -> dict: return json.loads(path.with_suffix(".meta.json").read_text())

def num_calls(path: Path) -> int: return manifest(path)["num_llm_calls"]

def test_two_writers(agentark, tmp_path):
    path = tmp_path/"run.jsonl"
    args = [*SCRIPTED_COT, "--max_samples", 2, "--output_path", path]
    agentark(*args, check=True)
    with Store(path, manifest(path)["config"]):
        second = agentark(*args)
        assert second.returncode == 1
        assert "another process" in second.stderr
    agentark(*args, check=True)

@pytest.mark.slow
def test_an_exchanged_model_is_asked_anew(agentark, tmp_path):
    model, path = tmp_path/"model_0.1", tmp_path/"run.jsonl"
    shutil.copytree(resolve("tiny-random"), model)
    weights = model/"model.safetensors"
    args = ["infer", "--method_name", "cot", "--model_name", model, "--model_max_tokens", 8, "--max_samples", 3]
    def ask(): return agentark(*args, *TASK, "--output_path", path, check=True).stdout

    assert "wrote 3 trajectories" in ask()
    assert "nothing to do" in ask()
    os.utime(weights, (2e9, 2e9))   # a clock that is ahead changes nothing
    assert "nothing to do" in ask()
    tensors = load_file(weights)
    save_file({name: x/2 for name, x in tensors.items()}, weights, metadata={"format": "pt"})
    assert "has changed since" in ask()
    assert lines(path) == 3
    assert "nothing to do" in ask()
