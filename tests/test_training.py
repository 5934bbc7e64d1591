"Trainings that are killed again and again, and trainings of several processes, end where one that is left alone ends."
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
import pytest
from conftest import ROOT
from forked import Forked, command, ended, launched
from agentark.core.store import write_jsonl
from agentark.distill.sft import Sft
from agentark.distill.training import Training, last_checkpoint, read_manifest
from agentark.lab.pretrain import Pretrain


def traces(folder: Path) -> str:
    "A file of 36 traces, of twelve questions with two and twelve with one."
    rows = []
    for n in range(36):
        a, b = 10 + n // 6, 3 + n % 6
        rows.append({
            "prompt": [{"role": "user", "content": f"What is {a} + {b}?"}],
            "completion": [{"role": "assistant", "content": f"{a} + {b} = {a + b}\n{a + b}"}],
            "query_id": str(min(n // 2, n - 12)),
        })
    return str(write_jsonl(folder/"traces.jsonl", rows))

def sft(folder: Path, name: str, **options) -> Sft:
    "Nine steps of the tiny model, with a checkpoint after every third."
    fixed = dict(train_data_path=traces(folder), output_dir=str(folder/name), save_steps=3)
    return Sft("tiny-random", **fixed, **{"per_device_train_batch_size": 4, "num_train_epochs": 1.0, **options})

def two_passes(folder: Path, name: str) -> Sft:
    "Killed in the second pass over the data too."
    return sft(folder, name, num_train_epochs=2.0, per_device_train_batch_size=8)

def da(folder: Path, name: str) -> Sft:
    "Weighted, and accumulated."
    parts = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    return sft(folder, name, strategy="da", answer_weight=0.5, **parts)

def da_of_two(folder: Path, name: str) -> Sft:
    "The same steps, for two processes."
    return sft(folder, name, strategy="da", answer_weight=0.5, per_device_train_batch_size=2)

def answer(folder: Path, name: str) -> Sft:
    "Examined, with an eye on which was best and how long that is ago."
    held = dict(eval_data_path=traces(folder), eval_steps=3, load_best_model_at_end=True, early_stopping_patience=2)
    return sft(folder, name, strategy="answer", num_train_epochs=1.5, learning_rate=0.02, **held)

def lora(folder: Path, name: str) -> Sft:
    "It ends within a pass."
    parts = dict(num_train_epochs=1.5, per_device_train_batch_size=6)
    return sft(folder, name, use_peft=True, lora_r=4, **parts)

def pretrain(folder: Path, name: str) -> Pretrain:
    "A dozen steps of the smallest model."
    return Pretrain(str(folder/name), size="s", questions=60, tokens_per_batch=1024, warmup_steps=2, save_steps=3)


def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)

def at_step(n: int):
    "Die after this step."
    def prepare(stage: Training, trainer):
        from transformers import TrainerCallback
        class Die(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == n: die()
        trainer.add_callback(Die())
    return prepare

def in_checkpoint(n: int):
    "Die in the middle of writing the checkpoint of this step."
    def prepare(stage: Training, trainer):
        save = trainer._save_rng_state
        trainer._save_rng_state = lambda out: die() if trainer.state.global_step == n else save(out)
    return prepare

def in_saving(stage: Training, trainer):
    "Die when the model is saved and nothing says so yet."
    finish = stage.finish
    stage.finish = lambda *args: die(finish(*args))

def left_alone(stage: Training, trainer): "Nothing happens."

MOMENTS = {
    "at_step_2": (at_step, 2),
    "in_checkpoint_6": (in_checkpoint, 6),
    "at_step_8": (at_step, 8),
    "in_saving": (in_saving,),
    "left_alone": (left_alone,),
}

def train(stage: Training, moment: str, environment: dict):
    "Run the stage in this process, which dies at this moment."
    gc.freeze()   # what was loaded once is not looked through again and again
    os.environ.update(environment)
    f, *args = MOMENTS[moment]
    prepare = f(*args) if args else f
    build = stage.trainer
    def trainer():
        built = build()
        prepare(stage, built)
        return built
    stage.trainer = trainer
    stage.run()

def run(stage: Training, moment: str = "left_alone", world: int = 1) -> int:
    "Run the stage in new processes; the exit status of the first."
    first, *_ = ended([Forked(train, stage, moment, told) for told in launched(world)])
    return first

def weights(folder) -> dict:
    "The tensors of a model, by name."
    from safetensors.torch import load_file
    return load_file(Path(folder)/"model.safetensors")

def log(folder) -> list[dict]: return json.loads((Path(folder)/"log.json").read_text())


def logged(folder) -> list[dict]:
    "A log, without TRL's count of tokens, which begins anew."
    return [{k: v for k, v in row.items() if not k.endswith("num_tokens")} for row in log(folder)]

@pytest.mark.slow
@pytest.mark.parametrize("make, world", [(f, 1) for f in (two_passes, da, answer, lora, pretrain)] + [(da_of_two, 2)])
def test_killed_and_resumed_is_uninterrupted(make, world, tmp_path):
    "Killed before the first checkpoint, while one is written, after it, and when the model is saved."
    stage, out = make(tmp_path, "killed"), tmp_path/"killed"
    assert run(stage, "at_step_2", world) == -signal.SIGKILL
    assert last_checkpoint(out) is None

    assert run(stage, "in_checkpoint_6", world) == -signal.SIGKILL
    assert list((out/".part"/"checkpoint-6").glob("*model.safetensors"))   # begun, but not complete:
    assert Path(last_checkpoint(out)).name == "checkpoint-3"

    assert run(stage, "at_step_8", world) == -signal.SIGKILL
    assert Path(last_checkpoint(out)).name == "checkpoint-6"

    assert run(stage, "in_saving", world) == -signal.SIGKILL
    assert read_manifest(out)["status"] == "running"

    assert run(stage, "left_alone", world) == 0
    assert read_manifest(out)["status"] == "finished"
    assert not list(out.glob("checkpoint-*"))

    whole = tmp_path/"whole"
    assert run(make(tmp_path, "whole"), "left_alone", world) == 0
    import torch
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    for name in ours: assert torch.equal(ours[name], theirs[name]), name
    assert logged(out) == logged(whole)
    steps = ("steps", "evaluated_step")
    assert [read_manifest(out).get(k) for k in steps] == [read_manifest(whole).get(k) for k in steps]


def torchrun(*command) -> subprocess.CompletedProcess:
    "Two processes on the CPU."
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run([*launcher, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=500)

@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    "Each takes half of every batch, weighted; the first writes and speaks, over what an earlier training left there."
    out = tmp_path/"both"
    assert run(sft(tmp_path, "both", learning_rate=1e-3)) == 0   # another training, to be dropped
    done = command(
        "sft",
        "--model_name_or_path", "tiny-random",
        "--train_data_path", traces(tmp_path),
        "--output_dir", out,
        "--strategy", "da",
        "--answer_weight", 0.5,
        "--num_train_epochs", 1,
        "--per_device_train_batch_size", 2,
        "--save_steps", 3,
        "--overwrite",
        processes=2,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained on 36 traces, 9 steps") == 1
    assert done.stdout.count("\n") == 1
    assert read_manifest(out)["status"] == "finished"
    assert read_manifest(out)["steps"] == 9   # of four examples: two of each process
    assert not list(out.glob("checkpoint-*"))

    assert run(da(tmp_path, "alone")) == 0   # in two parts, one after the other
    ours, theirs = weights(out), weights(tmp_path/"alone")
    for name in ours: assert (ours[name] - theirs[name]).abs().max() < 1e-6, name

SCRIPT = """
from agentark.distill.sft import Sft
from agentark.lab.pretrain import Pretrain
student = dict(model_name_or_path="tiny-random", train_data_path={data!r}, output_dir={out!r} + "/student")
Sft(**student).run()
Sft(**student).run()
Pretrain({out!r} + "/lab", size="s", questions=60, tokens_per_batch=512).run()
Sft(**student, learning_rate=1e-3).run()
"""

@pytest.mark.slow
def test_two_processes_speak_once(tmp_path):
    "Trained, trained already, pretrained; and an error is one process's, while both end."
    script = tmp_path/"script.py"
    script.write_text(SCRIPT.format(data=traces(tmp_path), out=str(tmp_path)))
    done = torchrun(script)
    assert done.returncode != 0
    assert done.stderr.count("AgentArkError: ") == 1
    assert "learning_rate 5e-05 -> 0.001" in done.stderr
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert said == ["trained", "already", "pretrained"]

    alone = Pretrain(str(tmp_path/"alone"), size="s", questions=60, tokens_per_batch=512)
    assert run(alone) == 0
    steps = read_manifest(tmp_path/"alone")["steps"]
    assert read_manifest(tmp_path/"lab")["steps"] == steps // 2   # each process takes every other batch
