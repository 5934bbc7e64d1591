"Replicas on Ray: what one process says, whatever dies."
import contextlib, os, shutil, signal, socket, subprocess, sys, tempfile, uuid
import pytest
from conftest import AGENTARK, ROOT, wait_until_ended, processes, start, wait_for
from test_resume import complete, kill_at_random_moments, lines, records

pytest.importorskip("ray", reason="Ray is not installed: make setup EXTRAS=ray")
pytestmark = [pytest.mark.slow, pytest.mark.engines]

def flags(path, n=24, **kw):
    given = {"method_name": "llm_debate", "model_name": "tiny-random", "model_max_tokens": 16, "model_temperature": 0.8, "test_dataset_name": "reasoning_gym:chain_sum", "max_samples": n,
             "batch_size": 6, "max_live": 2, "output_path": path, **kw}
    return ["infer", *(str(x) for k, v in given.items() if v is not None for x in (f"--{k}", v))]

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run without Ray."
    path = tmp_path_factory.mktemp("whole")/"run.jsonl"
    subprocess.run([AGENTARK, *flags(path)], cwd=ROOT, check=True, capture_output=True)
    return records(path)

@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_say_what_one_process_says(agentark_process, tmp_path, whole, replicas):
    done = agentark_process(*flags(tmp_path/"run.jsonl", num_replicas=replicas), check=True)
    assert records(tmp_path/"run.jsonl") == whole and "wrote 24 trajectories" in done.stdout
    assert done.stdout.count("\n") == 1 and all("question" in l and "died" not in l for l in done.stderr.replace("\r", "\n").splitlines() if l.strip()), done.stdout + done.stderr   # the bar and nothing of Ray's

def test_scripted(agentark_process, tmp_path):
    for name, kw in (("one", {}), ("ray", {"num_replicas": 2})):
        agentark_process(*flags(tmp_path/f"{name}.jsonl", 200, model_name="scripted", **kw), check=True)
    assert records(tmp_path/"one.jsonl") == records(tmp_path/"ray.jsonl")

def test_a_killed_replica_is_replaced(tmp_path, whole):
    path, mark = tmp_path/"run.jsonl", f"replica{os.getpid()}"
    process = start(*flags(path, num_replicas=2), mark=mark)
    for n in (1, 8, 15):
        wait_for(lambda: lines(path) >= n, process)
        working = wait_for(lambda: [p for p, name in processes(f"AGENTARK_TEST={mark}").items() if name.startswith("ray::Replica")], process)
        os.kill(working[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "wrote 24 trajectories" in out and "0 failed" in out and "a replica died" in err, err
    assert records(path) == whole

@pytest.mark.faults
def test_killed_driver(tmp_path, agentark_process, kills):
    path, mark, n = tmp_path/"run.jsonl", f"driver{os.getpid()}", 8*kills
    kept = kill_at_random_moments(kills, lambda: start(*flags(path, n, num_replicas=2), mark=mark), path)
    assert len(kept) < n
    wait_until_ended(mark)   # Ray's processes end with it
    agentark_process(*flags(path, n, num_replicas=2), check=True)
    assert kept.items() <= complete(path, n).items()

def test_control_c(tmp_path, agentark_process, whole):
    path, mark = tmp_path/"run.jsonl", f"interrupt{os.getpid()}"
    process = start(*flags(path, num_replicas=2), mark=mark)
    wait_for(lambda: lines(path) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)   # as a terminal does: to Ray's processes too
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on from there" in err and "Traceback" not in err, err
    wait_until_ended(mark)
    kept = records(path)
    assert 3 <= len(kept) < 24 and all(whole[i] == r for i, r in kept.items())
    agentark_process(*flags(path), check=True)   # and on without Ray
    assert records(path) == whole

def test_a_cluster(agentark_process, tmp_path, whole):
    "A cluster that is already there and asks for a token: found by `auto` and RAY_ADDRESS, by its port and through Ray's client."
    mark, folder = f"cluster{os.getpid()}", tempfile.mkdtemp(prefix="ray", dir="/tmp")   # Ray's sockets need a short path
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    with contextlib.ExitStack() as held:   # ports that are free
        port, client = (held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(2))
    started = subprocess.run([AGENTARK.with_name("ray"), "start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client), "--include-dashboard", "false", "--disable-usage-stats"],
                             capture_output=True, text=True, env={**os.environ, **token, "RAY_TMPDIR": folder, "AGENTARK_TEST": mark}, start_new_session=True)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        for name, address in (("auto", "auto"), ("port", f"127.0.0.1:{port}"), ("client", f"ray://127.0.0.1:{client}")):
            done = agentark_process(*flags(tmp_path/f"{name}.jsonl", num_replicas=2, ray_address=address), check=True, **token, **({"RAY_ADDRESS": f"127.0.0.1:{port}"} if address == "auto" else {}))   # other clusters may run here
            assert records(tmp_path/f"{name}.jsonl") == whole and "Traceback" not in done.stderr, done.stderr
        assert token["RAY_AUTH_TOKEN"] not in "".join(p.read_text() for p in tmp_path.iterdir() if p.is_file())
    finally:
        for pid in processes(f"AGENTARK_TEST={mark}"): os.kill(pid, signal.SIGKILL)
        wait_until_ended(mark); shutil.rmtree(folder)

@pytest.mark.parametrize("kw, expected", [(dict(num_replicas=0), "--num_replicas must be at least 1"), (dict(ray_address="127.0.0.1:9"), "no Ray cluster at --ray_address 127.0.0.1:9"),
                                          (dict(num_replicas=2, model_name="tiny-randm"), "did you mean tiny-random")])
def test_mistakes(agentark_process, tmp_path, kw, expected):
    done = agentark_process(*flags(tmp_path/"run.jsonl", **kw))
    said = [l for l in done.stderr.replace("\r", "\n").splitlines() if l.startswith("agentark: ")]
    assert done.returncode == 1 and len(said) == 1 and expected in said[0] and "Traceback" not in done.stderr, done.stderr

def test_ray_is_missing(tmp_path):
    code = "import sys; sys.modules['ray'] = None; from agentark.runs.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *flags(tmp_path/"run.jsonl", num_replicas=2)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "agentark: --num_replicas and --ray_address need Ray: pip install 'agentark[ray]'\n"
