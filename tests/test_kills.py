"Trainings killed at random moments go on to the same weights: `pytest -m faults --kills 50 tests/test_kills.py`."
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from forked import Forked
from test_training import traces, train, weights
from agentark.distill.sft import Sft
from agentark.distill.training import Training, read_manifest

pytestmark = pytest.mark.faults

def sft(folder: Path, name: str) -> Sft:
    "Nine steps of the tiny model, with a checkpoint after each."
    given = dict(train_data_path=traces(folder), output_dir=str(folder/name), save_steps=1)
    return Sft("tiny-random", num_train_epochs=1.0, per_device_train_batch_size=4, **given)

def start(stage: Training) -> Forked: return Forked(train, stage, "left_alone", {})

def begun(process, out: Path):
    "Wait until the first checkpoint is being written."
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(out.glob(".part/*")) and time.monotonic() < deadline: time.sleep(0.002)

def trained(stage: Training) -> float:
    "Train to the end; the seconds from the first checkpoint on."
    process = start(stage)
    begun(process, Path(stage.output_dir))
    begin = time.monotonic()
    assert process.wait(300) == 0
    return time.monotonic() - begin

def same(a: dict, b: dict) -> bool: return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_killed_at_random_moments(tmp_path, kills):
    "Every third run starts anew over a finished model."
    whole = sft(tmp_path, "whole")
    trained(whole)
    seconds = trained(sft(tmp_path, "timed"))
    found, dice = {"never begun": 0, "resumed": 0, "finished": 0}, random.Random(0)
    for n in range(kills):
        out = tmp_path/f"killed{n}"
        stage = sft(tmp_path, out.name)
        if n % 3 == 0: shutil.copytree(whole.output_dir, out)
        process = start(replace(stage, overwrite=n % 3 == 0))
        if dice.random() < 0.9: begun(process, out)   # the others die while they are prepared
        process.wait(dice.uniform(0, 0.8)*seconds)
        process.kill()
        process.wait()
        found[state(out)] += 1
        trained(stage)
        assert same(weights(out), weights(whole.output_dir)), n
        left = {path.name for path in out.iterdir()}
        assert not [name for name in left if name.startswith((".", "checkpoint"))], left
        shutil.rmtree(out)
    print(found)

def state(out: Path) -> str:
    "What a kill left."
    if any(out.glob("checkpoint-*")): return "resumed"
    return "finished" if read_manifest(out).get("status") == "finished" else "never begun"
