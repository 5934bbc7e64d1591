"What goes wrong around a run: Ctrl-C, kills, a second writer, a full disk, a clock set back, a server that fails. Nothing finished is lost, nothing is answered twice."
import json, random, resource, signal, subprocess, sys, time
import pytest
from conftest import AGENTARK, ROOT
from test_resume import TINY, lines, records, records_until_torn

TASK = ["--test_dataset_name", "reasoning_gym:chain_sum"]
SCRIPTED = ["infer", "--method_name", "llm_debate", "--model_name", "scripted", *TASK]

running = []

@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    while running: (run := running.pop()).kill(); run.wait()

def popen(*command, **kw):
    running.append(subprocess.Popen(list(map(str, command)), **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kw}))
    return running[-1]

def start(*args, **kw): return popen(AGENTARK, *args, **kw)
def python(code: str, *args): return popen(sys.executable, "-c", code, *args)   # a script that uses the package

def until(happened, process, seconds=120):
    end = time.monotonic() + seconds
    while not happened() and process.poll() is None and time.monotonic() < end: time.sleep(0.01)
    assert process.poll() is None and happened(), process.communicate()[1][-2000:]

def status(path): return json.loads(path.with_suffix(".meta.json").read_text())["status"]

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The records of an uninterrupted run, and the seconds it took."
    path, begin = tmp_path_factory.mktemp("whole")/"whole.jsonl", time.monotonic()
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
    assert run.returncode == 130
    last = err.strip().splitlines()[-1]
    assert last.startswith("agentark: interrupted;") and f"records are saved in {path}; the same command goes on from there" in last and "Traceback" not in err
    kept = records(path)   # whole lines only
    assert status(path) == "interrupted" and 2 <= len(kept) < 8
    agentark(*args, check=True)
    assert status(path) == "finished" and records(path) == whole[0] and kept.items() <= whole[0].items()

def test_ctrl_c_does_not_wait_for_a_batch(tmp_path):
    path, said = tmp_path/"run.jsonl", tmp_path/"stderr"
    with open(said, "w") as err:   # one batch of replies that take minutes
        run = start("infer", "--method_name", "cot", "--model_name", "tiny-random", *TASK, "--max_samples", 600, "--batch_size", 600, "--model_max_tokens", 1900, "--output_path", path, stderr=err)
        until(lambda: "0/600" in said.read_text(), run)
        time.sleep(2)   # in the middle of it
        run.send_signal(signal.SIGINT)
        run.wait(timeout=20)
    assert run.returncode == 130 and "0 finished records" in said.read_text() and status(path) == "interrupted"

STUCK = """
import sys, time
from agentark.engines.scripted import Scripted
from agentark.runs import cli
from agentark.methods import infer
class Stuck(Scripted):
    def close(self): print("closing", flush=True); time.sleep(120)
infer.Infer.open_engine = lambda self, name: Stuck(delay=60)
cli.main()
"""
def test_second_ctrl_c_ends_at_once(tmp_path):
    path = tmp_path/"run.jsonl"
    run = python(STUCK, *SCRIPTED, "--max_samples", 3, "--output_path", path)
    until(path.with_suffix(".meta.json").exists, run); time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    assert run.stdout.readline() == "closing\n" and run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=5) == 130

@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(agentark, tmp_path, kills, whole):
    dice, kept, path, args = random.Random(), {}, tmp_path/"0.jsonl", [*TINY, *TASK, "--output_path"]
    for n in range(kills):
        run = start(*args, path)
        try: run.wait(timeout=dice.uniform(0, whole[1]))
        except subprocess.TimeoutExpired: run.kill(); run.wait()
        now = records_until_torn(path) if path.exists() else {}
        assert kept.items() <= now.items() and now.items() <= whole[0].items(), "a finished question was lost or changed"
        kept = now
        print(f"kill {n + 1}: {len(now)} of 8 questions on disk, {path.stat().st_size if path.exists() else 0} bytes")
        if len(now) == 8:
            assert records(path) == whole[0]
            path, kept = tmp_path/f"{n + 1}.jsonl", {}   # it got through: another run
    agentark(*args, path, check=True)
    assert records(path) == whole[0]

def test_two_processes_one_output(tmp_path):
    path = tmp_path/"run.jsonl"
    args = [*SCRIPTED, "--max_samples", 3000, "--output_path", path]
    runs = [start(*args) for _ in range(2)]
    errors = [r.communicate()[1] for r in runs]
    assert sorted(r.returncode for r in runs) == [0, 1] and len(records(path)) == 3000
    refused = errors[[r.returncode for r in runs].index(1)]
    assert f"agentark: {path} is being written by another process; wait for it or choose another output path" in refused and "Traceback" not in refused

def tmpfs(folder, size):
    "A real, tiny disk; None where the system does not let us mount one."
    folder.mkdir()
    return folder if not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode else None

@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_full_disk(agentark, tmp_path, kind):
    disk = tmpfs(tmp_path/"disk", "64k") if kind == "tmpfs" else tmp_path
    if disk is None: pytest.skip("no tmpfs can be mounted here")
    try:
        path = disk/"run.jsonl"
        args = [*SCRIPTED, "--max_samples", 60, "--output_path", path]
        limit = None if kind == "tmpfs" else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        for _ in range(2):   # the same command again, still without space
            run = start(*args, preexec_fn=limit)
            err = run.communicate()[1]
            last = err.strip().splitlines()[-1]
            assert run.returncode == 1 and last.startswith("agentark: cannot write to") and "free some space and run the same command again" in last and "Traceback" not in err
            kept = records(path)
            assert 5 <= len(kept) < 60
        if kind == "tmpfs": subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        agentark(*args, check=True)
        agentark(*SCRIPTED, "--max_samples", 60, "--output_path", tmp_path/"whole.jsonl", check=True)
        assert records(path) == records(tmp_path/"whole.jsonl") and kept.items() <= records(path).items() and status(path) == "finished"
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
    path = tmp_path/"run.jsonl"
    for n in (4, 12):   # and a resume
        run = python(BACKWARDS, *SCRIPTED, "--max_samples", n, "--output_path", path)
        out, err = run.communicate()
        assert run.returncode == 0 and "[-" not in err and "<-" not in err and "[00:0" in err, err   # elapsed and remaining time on the bar
    agentark(*SCRIPTED, "--max_samples", 12, "--output_path", tmp_path/"whole.jsonl", check=True)
    assert records(path) == records(tmp_path/"whole.jsonl")
    assert json.loads(path.with_suffix(".meta.json").read_text())["seconds"] < 60 and all(0 <= json.loads(l)["wall_s"] < 60 for l in path.read_text().splitlines())

def test_a_server_that_fails_three_times_in_ten(agentark, tmp_path):
    from agentark.bench.soak import faulty_server
    (tmp_path/"sums.jsonl").write_text("".join(json.dumps({"query": f"What is 7 + {n}?", "gt": str(7 + n)}) + "\n" for n in range(40)))
    with faulty_server(0.3, delay=0.02) as url:
        said = agentark("infer", "--method_name", "llm_debate", "--model_name", "m", "--base_url", f"{url}/v1", "--test_dataset_name", tmp_path/"sums.jsonl", "--output_path", tmp_path/"run.jsonl", check=True).stdout
    assert "wrote 40 trajectories (40 correct, 0 failed; 240 calls" in said and len(records(tmp_path/"run.jsonl")) == 40
