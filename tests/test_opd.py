"Distillation without gold answers, and preferences: killed at any moment, they end where one that is left alone ends."
import dataclasses
import signal
from pathlib import Path
import pytest
from forked import command
from test_grpo import apart, logged, same
from test_training import run, weights
from agentark.core.records import Call, Trajectory
from agentark.core.store import write_jsonl
from agentark.distill.dpo import Dpo
from agentark.distill.opd import Opd
from agentark.distill.pairs import Pairs
from agentark.distill.training import last_checkpoint, read_manifest


def debates(folder: Path) -> str:
    "Eighteen questions that three agents have answered, one of them wrongly."
    rows = []
    for a in range(2, 20):
        said = [f"{a} + 3 = {c}\n{c}" for c in (a + 3, a + 3, a + 4)]
        calls = [Call(f"{i}.0", i, "debater", 0, text=x, answer=x.split()[-1]) for i, x in enumerate(said)]
        rows.append(Trajectory(f"What is {a} + 3?", method="llm_debate", calls=calls, response=said[0]).to_dict())
    return str(write_jsonl(folder/"debates.jsonl", rows))

FIXED = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-3, save_steps=3)

def opd(folder: Path, name: str) -> Opd:
    "Nine steps, in two passes; teachers are the student's past and the student itself."
    more = dict(teachers=["ema", "live"], num_episodes=2, generate_max_len=24)
    return Opd("lab-s", debates(folder), str(folder/name), **FIXED, **more)

def dpo(folder: Path, name: str) -> Dpo:
    "Nine steps, in two passes over 18 pairs."
    pairs = Pairs(debates(folder), kinds=["contrast"], by="consensus", most=1, output_path=str(folder/"pairs.jsonl"))
    return Dpo("lab-s", str(pairs.run()), str(folder/name), **FIXED, num_train_epochs=2.0)

@pytest.mark.slow
@pytest.mark.parametrize("make", [opd, dpo])
def test_killed_and_resumed_is_uninterrupted(make, tmp_path):
    "Killed while a checkpoint is written, after it, and when the model is saved."
    stage, out = make(tmp_path, "killed"), tmp_path/"killed"
    assert run(stage, "in_checkpoint_6") == -signal.SIGKILL
    assert Path(last_checkpoint(out)).name == "checkpoint-3"
    assert run(stage, "at_step_8") == -signal.SIGKILL
    assert Path(last_checkpoint(out)).name == "checkpoint-6"
    assert run(stage) == 0
    assert read_manifest(out)["status"] == "finished"
    assert run(make(tmp_path, "whole")) == 0
    assert same(weights(out), weights(tmp_path/"whole"))
    assert logged(out) == logged(tmp_path/"whole")

@pytest.mark.slow
@pytest.mark.parametrize("make", [opd, dpo])
def test_two_processes_are_one(make, tmp_path):
    "Each takes half of every batch; the student is that of one process with whole batches."
    for name, processes, batch in [("both", 2, 3), ("alone", 1, 6)]:
        stage = make(tmp_path, name)
        stage.per_device_train_batch_size = batch
        stage.gradient_accumulation_steps = 1
        done = command(*words(stage), processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert read_manifest(tmp_path/name)["status"] == "finished"
    assert apart(weights(tmp_path/"both"), weights(tmp_path/"alone")) < 0.01

def words(stage) -> list[str]:
    "The command line of a stage: what is not as by default."
    found = [type(stage).__name__.lower()]
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        if not value or value == field.default: continue
        found += [f"--{field.name}", *(value if isinstance(value, list) else [value])]
    return found
