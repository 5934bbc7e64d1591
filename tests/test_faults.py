"""What goes wrong around a run: Ctrl-C, kills, a second writer, a full disk, a clock set back, a server that fails.

Nothing finished is lost, nothing is answered twice.
"""
import json
import random
import resource
import signal
import subprocess
import sys
import time
import pytest
from conftest import AGENTARK, ROOT
from test_resume import TASK, TINY, lines, manifest, records, records_until_torn
from agentark.bench.soak import faulty_server

pytestmark = pytest.mark.slow   # they wait for processes to start and to end
SCRIPTED = ["infer", "--method_name", "llm_debate", "--model_name", "scripted", *TASK]

running = []

@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    for run in running:
        run.kill()
        run.wait()
    running.clear()

def popen(*command, stderr=subprocess.PIPE, **kw):
    command = list(map(str, command))
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, **kw)
    running.append(run)
    return run

def start(*args, **kw): return popen(AGENTARK, *args, **kw)

def python(code: str, *args):
    "A script that uses the package."
    return popen(sys.executable, "-c", code, *args)

def until(happened, process, seconds=120):
    "Wait for something that happens while the process runs."
    end = time.monotonic() + seconds
    while not happened() and process.poll() is None and time.monotonic() < end: time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1][-2000:]
    assert happened(), "it never happened"

def status(path): return manifest(path)["status"]

def last_line(stderr: str) -> str:
    "The last line that a run wrote to stderr, where no traceback may stand."
    assert "Traceback" not in stderr, stderr
    return stderr.strip().splitlines()[-1]

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The records of an uninterrupted run, and the seconds it took."
    path = tmp_path_factory.mktemp("whole")/"whole.jsonl"
    begin = time.monotonic()
    assert start(*TINY, *TASK, "--output_path", path).wait() == 0
    return records(path), time.monotonic() - begin

@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(agentark, tmp_path, whole, sig):
    path = tmp_path/"run.jsonl"
    args = [*TINY, *TASK, "--output_path", path]
    run = start(*args)
    until(lambda: lines(path) >= 2, run)
    run.send_signal(sig)
    err = run.communicate(timeout=20)[1]
    assert run.returncode == 128 + sig
    last = last_line(err)
    assert last.startswith("agentark: interrupted;")
    assert f"records are saved in {path}; the same command goes on from there" in last
    kept = records(path)   # whole lines only
    assert status(path) == "interrupted"
    assert 2 <= len(kept) < 8
    agentark(*args, check=True)
    assert status(path) == "finished"
    assert records(path) == whole[0]
    assert kept.items() <= whole[0].items()

def test_ctrl_c_does_not_wait_for_a_batch(tmp_path):
    path, said = tmp_path/"run.jsonl", tmp_path/"stderr"
    args = ["infer", "--method_name", "cot", "--model_name", "tiny-random", *TASK]
    args += ["--max_samples", 600, "--batch_size", 600, "--model_max_tokens", 1900]   # a batch that takes minutes
    with open(said, "w") as err:
        run = start(*args, "--output_path", path, stderr=err)
        until(lambda: "0/600" in said.read_text(), run)
        time.sleep(2)   # in the middle of it
        run.send_signal(signal.SIGINT)
        run.wait(timeout=20)
    assert run.returncode == 130
    assert "0 finished records" in said.read_text()
    assert status(path) == "interrupted"

STUCK = """
import sys, time
from agentark.engines.scripted import Scripted
from agentark.runs import cli
from agentark.methods import infer
class Stuck(Scripted):
    def close(self):
        print("closing", flush=True)
        time.sleep(120)
infer.Infer.open_engine = lambda self, name: Stuck(delay=60)
cli.main()
"""

def test_second_ctrl_c_ends_at_once(tmp_path):
    path = tmp_path/"run.jsonl"
    run = python(STUCK, *SCRIPTED, "--max_samples", 3, "--output_path", path)
    until(path.with_suffix(".meta.json").exists, run)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    assert run.stdout.readline() == "closing\n"
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=5) == 130

@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(agentark, tmp_path, kills, whole):
    expected, seconds = whole
    args = [*TINY, *TASK, "--output_path"]
    path = tmp_path/"0.jsonl"
    kept = {}
    for n in range(kills):
        run = start(*args, path)
        try: run.wait(timeout=random.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
        now = records_until_torn(path)
        assert kept.items() <= now.items(), "a finished question was lost or changed"
        assert now.items() <= expected.items(), "a question was answered otherwise"
        kept = now
        print(f"kill {n + 1}: {len(now)} of 8 questions on disk")
        if len(now) == 8:   # it got through: another run
            assert records(path) == expected
            path = tmp_path/f"{n + 1}.jsonl"
            kept = {}
    agentark(*args, path, check=True)
    assert records(path) == expected

def test_two_processes_one_output(tmp_path):
    path = tmp_path/"run.jsonl"
    args = [*SCRIPTED, "--max_samples", 3000, "--output_path", path]
    runs = [start(*args) for _ in range(2)]
    errors = [r.communicate()[1] for r in runs]
    said = {r.returncode: err for r, err in zip(runs, errors)}
    assert sorted(said) == [0, 1]
    assert len(records(path)) == 3000
    refusal = f"agentark: {path} is being written by another process; wait for it or choose another output path"
    assert refusal in said[1]
    assert "Traceback" not in said[1]

def tmpfs(folder, size):
    "A real, tiny disk; None where the system does not let us mount one."
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    return folder if mount.returncode == 0 else None

def limit_files(): resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_full_disk(agentark, tmp_path, kind):
    disk = tmpfs(tmp_path/"disk", "64k") if kind == "tmpfs" else tmp_path
    if disk is None: pytest.skip("no tmpfs can be mounted here")
    path, whole = disk/"run.jsonl", tmp_path/"whole.jsonl"
    args = [*SCRIPTED, "--max_samples", 60, "--output_path"]
    try:
        for _ in range(2):   # the same command again, still without space
            run = start(*args, path, preexec_fn=limit_files if kind == "limit" else None)
            last = last_line(run.communicate()[1])
            assert run.returncode == 1
            assert last.startswith("agentark: cannot write to")
            assert "free some space and run the same command again" in last
            kept = records(path)
            assert 5 <= len(kept) < 60
        if kind == "tmpfs": subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        agentark(*args, path, check=True)
        agentark(*args, whole, check=True)
        assert records(path) == records(whole)
        assert kept.items() <= records(path).items()
        assert status(path) == "finished"
    finally:
        if kind == "tmpfs": subprocess.run(["umount", disk])

BACKWARDS = """
import itertools, time
now = itertools.count(2e9, -3600)   # every look at the clock finds it an hour earlier
time.time = lambda: next(now)
time.strftime = lambda f, *t, real=time.strftime: real(f, time.gmtime(next(now)))
from agentark.runs import cli
raise SystemExit(cli.main())
"""

def test_clock_set_back(agentark, tmp_path):
    path, whole = tmp_path/"run.jsonl", tmp_path/"whole.jsonl"
    for n in (4, 12):   # and a resume
        run = python(BACKWARDS, *SCRIPTED, "--max_samples", n, "--output_path", path)
        _, err = run.communicate()
        assert run.returncode == 0, err
        for negative in ("[-", "<-"): assert negative not in err   # elapsed and remaining time on the bar
        assert "[00:0" in err
    agentark(*SCRIPTED, "--max_samples", 12, "--output_path", whole, check=True)
    assert records(path) == records(whole)
    assert manifest(path)["seconds"] < 60
    for line in path.read_text().splitlines(): assert 0 <= json.loads(line)["wall_s"] < 60

def test_a_server_that_fails_three_times_in_ten(agentark, tmp_path):
    sums, path = tmp_path/"sums.jsonl", tmp_path/"run.jsonl"
    with open(sums, "w") as f:
        for n in range(40): f.write(json.dumps({"query": f"What is 7 + {n}?", "gt": str(7 + n)}) + "\n")
    args = ["infer", "--method_name", "llm_debate", "--model_name", "m", "--test_dataset_name", sums]
    with faulty_server(0.3, delay=0.02) as url:
        said = agentark(*args, "--base_url", f"{url}/v1", "--output_path", path, check=True).stdout
    assert "wrote 40 trajectories (40 correct, 0 failed; 240 calls" in said
    assert len(records(path)) == 40
