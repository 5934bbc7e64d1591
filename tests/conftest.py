"What tests share: the command line, in process and as a process of its own, and what to wait for."
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
import forked
import pytest

ROOT = Path(__file__).parent.parent
AGENTARK = Path(sys.executable).parent/"agentark"

def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how many random moments each kind of run is killed at")

def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)   # what is started here can be stopped, also behind nohup
    config.addinivalue_line("markers", "slow: left out of `make check`")
    config.addinivalue_line("markers", "study: an experiment of the laboratory in small")
    config.addinivalue_line("markers", "engines: starts vLLM, Ray or Modal; such tests take turns on one worker")
    config.addinivalue_line("markers", "recipes: runs a recipe of the paper's size in small; only in `make recipes`")
    config.addinivalue_line("markers", "faults: kills vLLM, its server or Ray again and again; only in `make faults`")

def pytest_collection_modifyitems(items):
    "For workers, what takes long comes first, so that none is left with it at the end."
    if "PYTEST_XDIST_WORKER" not in os.environ: return
    items.sort(key=lambda item: (not item.get_closest_marker("engines"), not item.get_closest_marker("slow")))

def pytest_collection_finish(session):
    if any(item.get_closest_marker("slow") for item in session.items): forked.load_trainings()

def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadscope` a module is one worker's, with its fixtures; so are all tests that start engines.

    Notebooks are shared out one by one. (pytest-xdist 3.8 does not see its own groups with pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling
    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if re.search(r"vllm|_ray|test_servers", nodeid): return "engines"
            module, _, name = nodeid.partition("::")
            return nodeid if name.startswith("test_notebook[") else module
    config.option.loadscopereorder = False   # not by the number of tests
    return Scheduling(config, log) if config.getvalue("dist") == "loadscope" else None

@pytest.fixture(scope="session")
def kernels():
    "Kernels that papermill starts here are forked."
    with forked.kernels(): yield

@pytest.fixture
def kills(request) -> int: return request.config.getoption("--kills")

def _show_warning(message, category, filename, lineno, file=None, line=None):
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

@contextlib.contextmanager
def _as_in_a_terminal(cwd, env):
    "Standard output and error caught, warnings shown as a process would, folder and environment put back at the end."
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(cwd)
        for name, value in env.items(): patch.setenv(name, str(value))
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): yield out, err

@pytest.fixture
def agentark():
    "Run the command line in this process, which saves the start of Python; see also `agentark_process`."
    from agentark.runs.cli import main
    def run(*args, cwd=ROOT, check=False, **env):
        with _as_in_a_terminal(cwd, env) as (out, err):
            try: code = main([*map(str, args)])
            except SystemExit as e: code = e.code or 0   # --help, and what the parser of arguments refuses
        done = SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
        if check: assert done.returncode == 0, done.stderr[-3000:]
        return done
    return run

@pytest.fixture
def agentark_process():
    "Run the command line as a user does: in a process of its own."
    def run(*args, cwd=ROOT, check=False, **env):
        command = [AGENTARK, *map(str, args)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})
        if check: assert done.returncode == 0, done.stderr[-3000:]
        return done
    return run

@pytest.fixture(scope="session")
def gsm8k():
    "The folder of real data; tests that need it skip without it."
    data = os.environ.get("AGENTARK_DATA")
    if data and (Path(data)/"gsm8k"/"test.jsonl").exists(): return data
    pytest.skip("AGENTARK_DATA names no folder with gsm8k/test.jsonl")

def processes(environment: str) -> dict[int, str]:
    "Living processes with this in their environment, and their names: what a run starts inherits it."
    out = {}
    for p in Path("/proc").iterdir():
        if not p.name.isdigit(): continue
        with contextlib.suppress(OSError):   # it has ended
            if environment.encode() not in (p/"environ").read_bytes(): continue
            out[int(p.name)] = (p/"cmdline").read_bytes().replace(b"\0", b" ").decode()
    return out

def start(*args, mark: str):
    "Start the command line; all processes of the run have `mark` in their environment."
    return subprocess.Popen(
        [AGENTARK, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "AGENTARK_TEST": mark},
    )

def wait_for(condition, process=None, seconds=180):
    "What `condition()` gives once it is true; fails when the time is up or the process has ended."
    deadline = time.time() + seconds
    while not (found := condition()):
        ended = process is not None and process.poll() is not None
        assert not ended, f"it never happened; the run ended with {process.returncode}: {process.communicate()}"
        assert time.time() < deadline, "it never happened; the time is up"
        time.sleep(0.01)
    return found

def wait_until_ended(mark: str):
    """Wait until nothing that a run has started is left.

    Ray's agents notice after half a minute, later on a busy machine, that their driver was killed.
    """
    wait_for(lambda: not processes(f"AGENTARK_TEST={mark}"), seconds=240)
