"""New processes that begin with what takes seconds to load: each is forked from one that has loaded it.

    Forked(f, *args)                        a function in a process of its own, to be killed
    start("infer", "--...")                 the command line in a process of its own, to be killed
    command("sft", "--...", processes=2)    the command line, by two processes of one training: what it says
    with kernels(): ...                     the kernels that papermill starts
"""
import gc
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

NOTEBOOKS = [
    "torch",
    "transformers",
    "pandas",
    "matplotlib.pyplot",
    "scipy.stats",
    "sympy",
    "nbdev.test",
    "ipykernel.ipkernel",   # after all that shows bars: they would draw them as in a notebook
]
TRAININGS = [
    "agentark.distill.process_grpo",
    "agentark.distill.validation",
    "agentark.distill.weights",
    "agentark.lab.pretrain",
    "peft",
    "reasoning_gym",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "trl.trainer.sft_trainer",
]
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(NOTEBOOKS)   # what is set when the first process starts counts


def load_trainings(): FORKED.set_forkserver_preload(TRAININGS + NOTEBOOKS)

class Forked:
    "A forked process that is looked at like a `subprocess.Popen`."
    stdin = stdout = stderr = None

    def __init__(self, target, *args):
        self.process = FORKED.Process(target=target, args=args)
        self.process.start()
        self.pid, self.kill, self.terminate = self.process.pid, self.process.kill, self.process.terminate

    @property
    def returncode(self) -> int | None: return self.process.exitcode

    def poll(self) -> int | None: return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.returncode

    def send_signal(self, number: int):
        if self.returncode is None: os.kill(self.pid, number)

def launched(n: int) -> list[dict]:
    "What a launcher tells each of so many processes."
    if n == 1: return [{}]
    with socket.socket() as s:
        s.bind(("localhost", 0))
        same = {"WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": str(s.getsockname()[1])}
    return [{**same, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]

def ended(processes: list[Forked]) -> list[int]:
    "Wait for processes; their exit statuses."
    for process in processes: assert process.wait(300) is not None, "it did not end"
    return [process.returncode for process in processes]

# ---- the command line

def _main(args: list[str], stdout: str, stderr: str, environment: dict):
    "In a process of its own: the command line, which speaks into files."
    from agentark.runs.cli import main
    gc.freeze()   # what was loaded once is not looked through again and again
    for fd, name in ((1, stdout), (2, stderr)):
        with open(name, "a") as file: os.dup2(file.fileno(), fd)   # all processes append
    os.environ.update(environment)
    sys.exit(main(args))

def start(*args, **environment) -> Forked:
    "Start the command line, which nobody listens to."
    return Forked(_main, [*map(str, args)], os.devnull, os.devnull, environment)

def command(*args, processes: int = 1) -> subprocess.CompletedProcess:
    "Run the command line in so many processes, which know of each other as a launcher's do."
    args = [*map(str, args)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder)/name for name in ("stdout", "stderr")]
        statuses = ended([Forked(_main, args, *map(str, files), told) for told in launched(processes)])
        said = [file.read_text() for file in files]
    return subprocess.CompletedProcess(args, max(statuses, key=abs), *said)

# ---- kernels

def _kernel(args: list[str], environment: dict, folder: str):
    "In a process of its own: a kernel, as `python -m ipykernel_launcher` with these arguments."
    from ipykernel.kernelapp import launch_new_instance
    os.setsid()
    gc.freeze()
    os.environ.clear()
    os.environ.update({**environment, "JPY_PARENT_PID": str(os.getppid())})   # it ends with that process
    os.chdir(folder)
    launch_new_instance(args)

def _launch_kernel(command: list[str], env: dict, cwd: str | None = None, **options) -> Forked:
    "In place of jupyter_client's function."
    assert command[1:3] == ["-m", "ipykernel_launcher"], command
    kernel = Forked(_kernel, command[3:], env, cwd or os.getcwd())
    while os.getpgid(kernel.pid) != kernel.pid: time.sleep(0.001)   # until a signal to its group reaches nobody else
    return kernel

def kernels(): return patch("jupyter_client.provisioning.local_provisioner.launch_kernel", _launch_kernel)
