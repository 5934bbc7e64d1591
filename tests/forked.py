"""New processes that begin with what takes seconds to load: each is forked from one that has loaded it.

    FORKED.Process(target=f)                  a process of its own, as `multiprocessing` has them
    command("sft", "--...", processes=2)      the command line, by two processes of one training; as `subprocess.run`
    with kernels(): ...                       the kernels that papermill starts
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

def launched(n: int) -> list[dict]:
    "What a launcher tells each of so many processes."
    if n == 1: return [{}]
    with socket.socket() as s:
        s.bind(("localhost", 0))
        same = {"WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": str(s.getsockname()[1])}
    return [{**same, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]

def ended(targets: list) -> list[int]:
    "Run functions side by side, each with its arguments, in processes of their own; their exit statuses."
    processes = [FORKED.Process(target=f, args=args) for f, *args in targets]
    for process in processes: process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode is not None, "it did not end"
    return [process.exitcode for process in processes]

def _command(args: list[str], folder: Path, environment: dict):
    "In a process of its own: the command line, which speaks into files."
    from agentark.runs.cli import main
    gc.freeze()   # what was loaded once is not looked through again and again
    for fd, name in ((1, "stdout"), (2, "stderr")):
        with open(folder/name, "a") as file: os.dup2(file.fileno(), fd)   # all processes append
    os.environ.update(environment)
    sys.exit(main(args))

def command(*args, processes: int = 1) -> subprocess.CompletedProcess:
    "Run the command line in so many processes, which know of each other as a launcher's do."
    args = [*map(str, args)]
    with tempfile.TemporaryDirectory() as folder:
        statuses = ended([(_command, args, Path(folder), told) for told in launched(processes)])
        said = [(Path(folder)/name).read_text() for name in ("stdout", "stderr")]
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

class Kernel:
    "A forked kernel as jupyter_client looks at its process: like a `subprocess.Popen`."
    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict, cwd: str | None = None, **options):
        assert command[1:3] == ["-m", "ipykernel_launcher"], command
        self.process = FORKED.Process(target=_kernel, args=(command[3:], env, cwd or os.getcwd()))
        self.process.start()
        self.pid = self.process.pid
        self.terminate, self.kill = self.process.terminate, self.process.kill
        while os.getpgid(self.pid) != self.pid: time.sleep(0.001)   # until a signal to its group reaches nobody else

    def poll(self) -> int | None: return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode

    def send_signal(self, number: int):
        if self.poll() is None: os.kill(self.pid, number)

def kernels(): return patch("jupyter_client.provisioning.local_provisioner.launch_kernel", Kernel)
