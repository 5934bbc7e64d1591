"Reinforcement that is killed, shared out over processes, cut into other pieces, or exploited."
import json
import shutil
import signal
from pathlib import Path
import pytest
from forked import command
from test_training import run, weights
from agentark.core.records import Labelled, Solution
from agentark.core.store import read_jsonl, write_jsonl
from agentark.data.chains import ask, expressions, gold_steps, written
from agentark.distill.grpo import Grpo
from agentark.distill.prm import Prm
from agentark.distill.training import last_checkpoint, read_manifest
from agentark.engines.models import resolve
from agentark.methods.prompts import solo

CHAINS = "chains?min_terms=3&max_terms=3"


def solution(i: int, steps: list, slip: bool) -> Solution:
    "A solution of a chain, right or with a slip in its last step."
    if slip:
        *before, (a, sign, b, c) = steps
        steps = [*before, (a, sign, b, c + 1)]
    text = written(steps)
    lines = text.splitlines(keepends=True)
    labels = [1]*len(steps) + [1] if not slip else [1]*(len(steps) - 1) + [0, None]
    return Solution(i, text, is_correct=not slip, steps=lines, step_labels=labels)

def labelled(folder: Path, questions: int = 40) -> str:
    "A file of chains, each with a right and a wrong solution."
    rows = []
    for x in expressions("train", questions, min_terms=3, max_terms=3):
        query, steps = ask(x), gold_steps(x)
        said = [solution(i, steps, slip) for i, slip in enumerate((False, True), 1)]
        prompt = [{"role": "user", "content": solo(query)}]
        rows.append(Labelled(query.query, query.gt, id=query.id, prompt=prompt, solutions=said).to_dict())
    return str(write_jsonl(folder/"steps.jsonl", rows))

@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    "A reward model that has hardly learnt anything."
    folder = tmp_path_factory.mktemp("reward")
    return str(Prm("lab-s", labelled(folder), str(folder/"prm"), num_train_epochs=1, learning_rate=1e-3).run())

def grpo(folder: Path, name: str, **options) -> Grpo:
    "Nine steps of the smallest model, of three questions with four answers each; a checkpoint after every third."
    fixed = dict(
        prompt_data=CHAINS, max_samples=9, num_episodes=3, rollout_batch_size=3, n_samples_per_prompt=4,
        micro_train_batch_size=6, generate_max_len=40, actor_learning_rate=1e-3, save_steps=3,
    )
    return Grpo("lab-s", save_path=str(folder/name), **{**fixed, **options})

def same(ours: dict, theirs: dict) -> bool:
    "Do two models have the same weights?"
    return ours.keys() == theirs.keys() and all((ours[k] == theirs[k]).all() for k in ours)

def apart(ours: dict, theirs: dict) -> float:
    "How far two students are from each other, where 1 is as far as the second has come from its start."
    start = weights(resolve("lab-s"))
    def length(a: dict, b: dict) -> float: return sum((a[k].float() - b[k].float()).square().sum() for k in a)**0.5
    return float(length(ours, theirs)/length(theirs, start))

TIMES = ("time/", "step_time", "num_tokens")

def logged(folder: Path) -> list[dict]:
    rows = json.loads((folder/"log.json").read_text())
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]

KINDS = {
    "gated": dict(),
    "lora": dict(use_peft=True, lora_r=4, reward_mode="PRMVR"),
    "critic": dict(advantage_estimator="gae", init_kl_coef=0.01),
    "used twice": dict(
        train_batch_size=6, max_epochs=2, reward_mode="VR", num_episodes=2, max_samples=6, save_steps=4, refill=2,
    ),
}

@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_uninterrupted(kind, reward_model, tmp_path):
    "Killed before the first checkpoint, while one is written, after it and in another episode, and at the end."
    options = dict(reward_pretrain=reward_model) | KINDS[kind]
    stage, out = grpo(tmp_path, "killed", **options), tmp_path/"killed"
    for moment in ("at_step_2", "in_checkpoint_6", "at_step_8", "in_saving"):
        if moment == "in_checkpoint_6" and kind == "used twice": continue   # it has none there
        assert run(stage, moment) == -signal.SIGKILL
    assert last_checkpoint(out)
    assert run(stage) == 0
    assert read_manifest(out)["status"] == "finished"
    assert run(grpo(tmp_path, "whole", **options)) == 0
    assert same(weights(out), weights(tmp_path/"whole"))
    assert logged(out) == logged(tmp_path/"whole")
    told = [[*read_jsonl(tmp_path/name/"completions.jsonl")] for name in ("killed", "whole")]
    assert told[0] == told[1]

@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--reward_baseline step --no_normalise", "--init_kl_coef 0.05"])
def test_two_processes_are_one(options, reward_model, tmp_path):
    "The answers to a question are on both: three questions with four answers make six rows for each."
    words = [
        "grpo", "--pretrain", "lab-s", "--reward_pretrain", reward_model, "--prompt_data", CHAINS, "--max_samples", 9,
        "--rollout_batch_size", 3, "--n_samples_per_prompt", 4, "--generate_max_len", 40, "--actor_learning_rate", 1e-3,
    ]
    for name, processes, micro in [("both", 2, 3), ("alone", 1, 6)]:
        own = ["--micro_train_batch_size", micro, "--save_path", tmp_path/name]
        done = command(*words, *options.split(), *own, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("answered 9 questions") == 1
    assert apart(weights(tmp_path/"both"), weights(tmp_path/"alone")) < 0.01

@pytest.mark.slow
def test_merged_and_in_other_pieces(reward_model, tmp_path):
    "Equal answers once, or each; in one part, or in six: the same student."
    fixed = dict(reward_pretrain=reward_model, num_episodes=1, n_samples_per_prompt=8, max_samples=6)
    grpo(tmp_path, "one", micro_train_batch_size=24, **fixed).run()
    grpo(tmp_path, "six", micro_train_batch_size=4, **fixed).run()
    class Each(Grpo):
        def trainer(self):
            trainer = super().trainer()
            trainer.merges = False
            return trainer
    Each(**vars(grpo(tmp_path, "each", micro_train_batch_size=12, **fixed))).run()
    assert apart(weights(tmp_path/"six"), weights(tmp_path/"one")) < 0.01
    assert apart(weights(tmp_path/"each"), weights(tmp_path/"one")) < 0.01
    assert logged(tmp_path/"one")[0]["distinct"] < 1


@pytest.mark.slow
def test_a_model_that_pays_for_stopping_early_is_refused(agentark, reward_model, tmp_path):
    command = ["grpo", "--pretrain", "lab-s", "--reward_pretrain", reward_model, "--save_path", tmp_path/"out"]
    told = json.loads((Path(reward_model)/"prm.json").read_text())["truncation"]
    assert told < 0.95
    done = agentark(*command, "--reward_mode", "PRM")
    assert done.returncode == 1
    assert "would pay for stopping early" in done.stderr
    assert not (tmp_path/"out"/"model.safetensors").exists()

class Deliberate:
    "A reward model that can be exploited: the fewer steps, the better."
    about: dict = {}
    def __init__(self, tokenizer): self.tokenizer = tokenizer
    def score_rows(self, rows): return [[1/len(row["ends"])]*len(row["ends"]) for row in rows]

@pytest.fixture
def exploitable(monkeypatch, tmp_path):
    "A training that it rewards, and nothing else does; its log and totals."
    from agentark.distill.students import load_student
    _, tokenizer = load_student(resolve("lab-s"))
    monkeypatch.setattr("agentark.distill.grpo._scorer", lambda stage: Deliberate(tokenizer))
    data = labelled(tmp_path, 48)
    def run(name: str, **options):
        out = grpo(
            tmp_path, name, reward_pretrain="deliberate", reward_mode="PRM", prompt_data=data, max_samples=48,
            rollout_batch_size=12, n_samples_per_prompt=8, micro_train_batch_size=96, **{"num_episodes": 8, **options},
        ).run()
        return json.loads((out/"log.json").read_text()), read_manifest(out)
    return run

def of(log: list[dict], name: str, last: bool = True) -> float:
    "A mean over the last five steps, or the first."
    rows = log[-5:] if last else log[:5]
    return sum(row[name] for row in rows)/5

@pytest.mark.slow
def test_what_can_be_exploited_is(exploitable):
    "Without guards the answers become one step, and wrong; the alarm hears it."
    log, _ = exploitable("bare", guards="", alarm_fall=1.0, num_episodes=4)
    assert of(log, "steps") < 1.5 < of(log, "steps", last=False)
    assert of(log, "solved") < of(log, "solved", last=False)/2
    heard, made = exploitable("heard", guards="")
    assert len(heard) < len(log)
    assert made["alarm_at_step"] == len(heard)
    assert made["kept"] == "the student that it started from"

@pytest.mark.slow
def test_no_worse_where_the_alarm_is_deaf(exploitable):
    "What nothing but a reward model has paid for is not kept where less is solved."
    _, made = exploitable("deaf", guards="", alarm_fall=0.999, alarm_slow_fall=0.999, num_episodes=3)
    assert "alarm_at_step" not in made
    assert made["kept"] == "the student that it started from"

@pytest.mark.slow
def test_guards_bite(exploitable):
    "They keep the steps; that answers are right only the outcome keeps."
    log, _ = exploitable("guarded", alarm_fall=1.0, num_episodes=4)
    assert max(row["guarded/short"] for row in log) > 0
    assert of(log, "steps") > 3
    known, made = exploitable("known", guards="empty,cut,answerless,short,long,wrong", actor_learning_rate=2e-4)
    assert of(known, "solved") > of(known, "solved", last=False)
    assert "alarm_at_step" not in made

def without_labels(row: dict) -> dict:
    "A labelled record as agentark label writes it, of three agents that end right alike."
    right, wrong = [{k: v for k, v in s.items() if k not in ("steps", "step_labels")} for s in row["solutions"]]
    solutions = [{**s, "id": i, "agent": str(i), "round": 0} for i, s in enumerate((right, right, wrong), 1)]
    return {**row, "solutions": solutions, "labels": [s["is_correct"] for s in solutions]}

@pytest.mark.slow
def test_the_command_of_the_specification(agentark, tmp_path):
    "Word for word, with small models below the names of large ones."
    for name in ("Qwen3-8B", "Qwen3-0.6B"): shutil.copytree(resolve("lab-s"), tmp_path/"Qwen"/name)
    (tmp_path/"results"/"QMSum").mkdir(parents=True)
    write_jsonl(tmp_path/"results"/"QMSum"/"labeled.jsonl", map(without_labels, read_jsonl(labelled(tmp_path, 100))))
    for line in SPECIFIED.strip().splitlines():
        done = agentark(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    made = read_manifest(tmp_path/"outputs"/"grpo_qmsum")
    assert made["steps"] == 4
    assert made["questions"] == 100
    assert "--zero_stage shares a training out over processes" in done.stderr

SPECIFIED = """
prm --model_name_or_path Qwen/Qwen3-8B --train_data_path results/QMSum/labeled.jsonl --output_dir outputs/prm_qmsum --num_train_epochs 3 --per_device_train_batch_size 64 --per_device_eval_batch_size 16 --gradient_accumulation_steps 1 --learning_rate 1e-4 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.0 --logging_steps 1 --save_strategy steps --save_steps 500 --save_total_limit 3 --bf16 True --gradient_checkpointing True --fix_llm True --enable_nan_monitoring True
grpo --pretrain Qwen/Qwen3-0.6B --reward_pretrain outputs/prm_qmsum --save_path outputs/grpo_qmsum --temperature 0.5 --n_samples_per_prompt 8 --advantage_estimator rloo --reward_baseline token --reward_mode PRMVR --verifiable_reward_coef 1.0 --micro_rollout_batch_size 4 --rollout_batch_size 64 --micro_train_batch_size 2 --train_batch_size 128 --actor_learning_rate 5e-7 --init_kl_coef 0.001 --max_epochs 1 --num_episodes 1 --prompt_max_len 40960 --generate_max_len 2048 --zero_stage 2 --bf16 --flash_attn --gradient_checkpointing --save_steps 20 --logging_steps 1
"""   # noqa: E501
