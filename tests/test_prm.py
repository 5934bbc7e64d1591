"Reward models that are killed, or trained by two processes, end as one that is left alone."
import json
import signal
from pathlib import Path
import pytest
from forked import command
from test_training import logged, run, weights
from agentark.core.store import write_jsonl
from agentark.distill.prm import Prm
from agentark.distill.training import last_checkpoint, read_manifest


def labelled(n: int, steps: list[str], labels: list) -> dict:
    return {"id": n, "text": "".join(steps), "is_correct": None, "steps": steps, "step_labels": labels}

def file_of(path: Path, questions: range) -> str:
    "A right and a wrong solution of each question."
    rows = []
    for n in questions:
        a, b = 10 + n // 6, 3 + n % 6
        c = a + b
        right = labelled(1, [f"{a} + {b} = {c}\n", f"{c} + 1 = {c + 1}\n", f"{c + 1}"], [1, 1, 1])
        wrong = labelled(2, [f"{a} + {b} = {c}\n", f"{c} + 1 = {c + 2}\n", f"{c + 2}"], [1, 0, None])
        rows.append({
            "id": str(n), "query": f"{a} + {b} + 1?", "gt": str(c + 1), "kind": "math", "source": "made up",
            "prompt": [{"role": "user", "content": f"What is {a} + {b} + 1?"}], "solutions": [right, wrong],
        })
    return str(write_jsonl(path, rows))

def prm(folder: Path, name: str, **options) -> Prm:
    "Twelve steps of the tiny model, with a checkpoint after every third."
    held = file_of(folder/"held.jsonl", range(24, 30))
    fixed = dict(eval_data_path=held, save_steps=3, learning_rate=1e-3, per_device_train_batch_size=4)
    return Prm("tiny-random", file_of(folder/"steps.jsonl", range(24)), str(folder/name), **{
        **fixed, "stages": "II", "num_train_epochs": 1.0, **options,
    })

def two_stages(folder: Path, name: str) -> Prm:
    "Killed in both stages; Muon, both losses, evaluations."
    more = dict(stages="I+II", stage1_epochs=0.5, num_train_epochs=0.5, optimizer="muon", loss="both", eval_steps=2)
    return prm(folder, name, **more)

def best(folder: Path, name: str) -> Prm:
    "The best model is kept."
    return prm(folder, name, eval_steps=3, load_best_model_at_end=True, metric_for_best_model="loss")

def head(folder: Path, name: str) -> Prm: return prm(folder, name, fix_llm=True)

def lora(folder: Path, name: str) -> Prm: return prm(folder, name, use_peft=True)

@pytest.mark.slow
@pytest.mark.parametrize("make", [two_stages, best, head, lora])
def test_killed_and_resumed_is_uninterrupted(make, tmp_path):
    "Killed before the first checkpoint, after the second, and when the model is saved."
    stage, out = make(tmp_path, "killed"), tmp_path/"killed"
    assert run(stage, "at_step_2") == -signal.SIGKILL
    assert last_checkpoint(out) is None
    assert run(stage, "at_step_8") == -signal.SIGKILL
    assert Path(last_checkpoint(out)).name == "checkpoint-6"
    assert run(stage, "left_alone") == 0
    assert not list(out.glob("checkpoint-*"))

    whole = tmp_path/"whole"
    assert run(make(tmp_path, "whole")) == 0
    import torch
    ours, theirs = weights(out), weights(whole)
    assert ours.keys() == theirs.keys()
    for name in ours: assert torch.equal(ours[name], theirs[name]), name
    assert logged(out) == logged(whole)
    assert (out/"prm.json").read_text() == (whole/"prm.json").read_text()
    assert read_manifest(out)["steps"] == read_manifest(whole)["steps"] == 12

@pytest.mark.slow
def test_two_processes_train_one_reward_model(tmp_path):
    "Each takes half of every batch and scores half of what is held out; the first writes and speaks."
    options = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, eval_steps=6)
    assert run(prm(tmp_path, "alone", **options)) == 0
    done = command(
        "prm",
        "--model_name_or_path", "tiny-random",
        "--train_data_path", tmp_path/"steps.jsonl",
        "--eval_data_path", tmp_path/"held.jsonl",
        "--output_dir", tmp_path/"both",
        "--stages", "II",
        "--num_train_epochs", 1,
        "--learning_rate", 1e-3,
        "--per_device_train_batch_size", 2,
        "--eval_steps", 6,
        processes=2,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained on 48 solutions") == 1
    assert done.stdout.count("\n") == 1
    ours, theirs = weights(tmp_path/"both"), weights(tmp_path/"alone")
    for name in ours: assert (ours[name] - theirs[name]).abs().max() < 1e-6, name
    both, alone = (json.loads((tmp_path/name/"log.json").read_text()) for name in ("both", "alone"))
    for x, y in zip(both, alone, strict=True):
        for k, v in y.items(): assert x[k] == pytest.approx(v, abs=1e-5), k
    assert read_manifest(tmp_path/"both")["tokens_per_second"] > 0
