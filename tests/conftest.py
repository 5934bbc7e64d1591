import os, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
AGENTARK = Path(sys.executable).parent/"agentark"

def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how many random moments each kind of run is killed at")

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out of `make check`")
    config.addinivalue_line("markers", "faults: kills vLLM, its server or Ray again and again; only in `make faults`")

@pytest.fixture
def kills(request) -> int: return request.config.getoption("--kills")

@pytest.fixture
def agentark():
    "Run the command line as a user does: in a process of its own."
    def run(*args, cwd=ROOT, check=False, **env):
        done = subprocess.run([AGENTARK, *map(str, args)], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})
        if check: assert done.returncode == 0, done.stderr[-3000:]
        return done
    return run

@pytest.fixture(scope="session")
def gsm8k():
    "The folder of real data; tests that need it skip without it."
    data = os.environ.get("AGENTARK_DATA")
    if not data or not (Path(data)/"gsm8k"/"test.jsonl").exists(): pytest.skip("AGENTARK_DATA names no folder with gsm8k/test.jsonl")
    return data

def processes(environment: str) -> dict[int, str]:
    "Living processes with this in their environment, and their names: what a run starts inherits it."
    out = {}
    for p in Path("/proc").iterdir():
        if not p.name.isdigit(): continue
        try:
            if environment.encode() in (p/"environ").read_bytes(): out[int(p.name)] = (p/"cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError: pass   # it has ended
    return out

def start(*args, mark: str):
    "Start the command line; all processes of the run have `mark` in their environment."
    return subprocess.Popen([AGENTARK, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "AGENTARK_TEST": mark})

def wait_for(condition, process=None, seconds=180):
    deadline = time.time() + seconds
    while not (found := condition()) and time.time() < deadline and (process is None or process.poll() is None): time.sleep(0.01)
    assert found, f"it never happened; {f'the run ended with {process.returncode}: {process.communicate()}' if process and process.poll() is not None else 'the time is up'}"
    return found

def gone(mark: str):
    "Wait until nothing that a run has started is left: Ray's agents notice after half a minute, later on a busy machine, that their driver was killed."
    wait_for(lambda: not processes(f"AGENTARK_TEST={mark}"), seconds=240)
