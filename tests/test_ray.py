"Replicas on Ray: what one process says, whatever dies."
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from typing import NamedTuple
import pytest
from conftest import AGENTARK, ROOT, processes, start, wait_for, wait_until_ended
from test_resume import complete, kill_at_random_moments, lines, records

pytest.importorskip("ray", reason="Ray is not installed: make setup EXTRAS=ray")
pytestmark = [pytest.mark.slow, pytest.mark.engines]


def flags(path, n=24, **kw) -> list[str]:
    "The arguments of a debate on so many questions; `None` leaves one out."
    given = {
        "method_name": "llm_debate",
        "model_name": "tiny-random",
        "model_max_tokens": 16,
        "model_temperature": 0.8,
        "test_dataset_name": "reasoning_gym:chain_sum",
        "max_samples": n,
        "batch_size": 6,
        "max_live": 2,
        "output_path": path,
        **kw,
    }
    words = ["infer"]
    for name, value in given.items():
        if value is not None: words += [f"--{name}", str(value)]
    return words

def said(done) -> list[str]:
    "The lines of standard error; a progress bar that is drawn anew is a line each time."
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The run without Ray."
    path = tmp_path_factory.mktemp("whole")/"run.jsonl"
    subprocess.run([AGENTARK, *flags(path)], cwd=ROOT, check=True, capture_output=True)
    return records(path)

@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_say_what_one_process_says(agentark_process, tmp_path, whole, replicas):
    done = agentark_process(*flags(tmp_path/"run.jsonl", num_replicas=replicas), check=True)
    assert records(tmp_path/"run.jsonl") == whole
    assert "wrote 24 trajectories" in done.stdout
    assert done.stdout.count("\n") == 1, done.stdout
    for line in said(done):   # the bar and nothing of Ray's
        assert "question" in line, done.stderr
        assert "died" not in line, done.stderr

def test_scripted(agentark_process, tmp_path):
    one, ray = tmp_path/"one.jsonl", tmp_path/"ray.jsonl"
    agentark_process(*flags(one, 200, model_name="scripted"), check=True)
    agentark_process(*flags(ray, 200, model_name="scripted", num_replicas=2), check=True)
    assert records(one) == records(ray)

def wait_for_lines(n: int, path, process): wait_for(lambda: lines(path) >= n, process)

def replicas_of(mark: str) -> list[int]:
    "The processes of the replicas of a run."
    found = processes(f"AGENTARK_TEST={mark}")
    return [pid for pid, name in found.items() if name.startswith("ray::Replica")]

def test_a_killed_replica_is_replaced(tmp_path, whole):
    path, mark = tmp_path/"run.jsonl", f"replica{os.getpid()}"
    process = start(*flags(path, num_replicas=2), mark=mark)
    for n in (1, 8, 15):
        wait_for_lines(n, path, process)
        working = wait_for(lambda: replicas_of(mark), process)
        os.kill(working[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "wrote 24 trajectories" in out
    assert "0 failed" in out
    assert "a replica died" in err, err
    assert records(path) == whole

@pytest.mark.faults
def test_killed_driver(tmp_path, agentark_process, kills):
    path, mark, n = tmp_path/"run.jsonl", f"driver{os.getpid()}", 8*kills
    args = flags(path, n, num_replicas=2)
    kept = kill_at_random_moments(kills, lambda: start(*args, mark=mark), path)
    assert len(kept) < n
    wait_until_ended(mark)   # Ray's processes end with it
    agentark_process(*args, check=True)
    assert kept.items() <= complete(path, n).items()

def test_control_c(tmp_path, agentark_process, whole):
    path, mark = tmp_path/"run.jsonl", f"interrupt{os.getpid()}"
    process = start(*flags(path, num_replicas=2), mark=mark)
    wait_for_lines(3, path, process)
    os.killpg(process.pid, signal.SIGINT)   # as a terminal does: to Ray's processes too
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err, err
    wait_until_ended(mark)
    kept = records(path)
    assert 3 <= len(kept) < 24
    assert kept.items() <= whole.items()
    agentark_process(*flags(path), check=True)   # and on without Ray
    assert records(path) == whole

class RayCluster(NamedTuple):
    port: int
    client_port: int
    env: dict[str, str]   # with the token that it asks for

def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [server.getsockname()[1] for server in servers]

@pytest.fixture(scope="module")
def cluster():
    "A cluster that is already there and asks for a token."
    mark, folder = f"cluster{os.getpid()}", tempfile.mkdtemp(prefix="ray", dir="/tmp")   # its sockets need a short path
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    port, client_port = free_ports(2)
    command = [
        AGENTARK.with_name("ray"), "start", "--head",
        "--node-ip-address", "127.0.0.1",
        "--port", str(port),
        "--ray-client-server-port", str(client_port),
        "--include-dashboard", "false",
        "--disable-usage-stats",
    ]
    env = {**os.environ, **token, "RAY_TMPDIR": folder, "AGENTARK_TEST": mark}
    started = subprocess.run(command, capture_output=True, text=True, env=env, start_new_session=True)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield RayCluster(port, client_port, token)
    finally:
        for pid in processes(f"AGENTARK_TEST={mark}"): os.kill(pid, signal.SIGKILL)
        wait_until_ended(mark)
        shutil.rmtree(folder)

@pytest.mark.parametrize("address", ["auto", "127.0.0.1:{port}", "ray://127.0.0.1:{client_port}"])
def test_a_cluster(agentark_process, tmp_path, whole, cluster, address):
    "It is found by `auto` and RAY_ADDRESS, by its port and through Ray's client."
    env = dict(cluster.env)
    if address == "auto": env["RAY_ADDRESS"] = f"127.0.0.1:{cluster.port}"   # other clusters may run here
    address = address.format(port=cluster.port, client_port=cluster.client_port)
    done = agentark_process(*flags(tmp_path/"run.jsonl", num_replicas=2, ray_address=address), check=True, **env)
    assert records(tmp_path/"run.jsonl") == whole
    assert "Traceback" not in done.stderr, done.stderr
    for p in tmp_path.iterdir():
        if p.is_file(): assert cluster.env["RAY_AUTH_TOKEN"] not in p.read_text()

MISTAKES = [
    (dict(num_replicas=0), "--num_replicas must be at least 1"),
    (dict(ray_address="127.0.0.1:9"), "no Ray cluster at --ray_address 127.0.0.1:9"),
    (dict(num_replicas=2, model_name="tiny-randm"), "did you mean tiny-random"),
]

@pytest.mark.parametrize("kw, expected", MISTAKES)
def test_mistakes(agentark_process, tmp_path, kw, expected):
    done = agentark_process(*flags(tmp_path/"run.jsonl", **kw))
    error, = [line for line in said(done) if line.startswith("agentark: ")]
    assert done.returncode == 1
    assert expected in error
    assert "Traceback" not in done.stderr, done.stderr

def test_ray_is_missing(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['ray'] = None\n"
        "from agentark.runs.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    args = flags(tmp_path/"run.jsonl", num_replicas=2)
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "agentark: --num_replicas and --ray_address need Ray: make setup EXTRAS=ray\n"
