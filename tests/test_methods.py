"""Every variant of every method, against scripted engines that agree, disagree, ramble or break.

Its cost stays in its bounds and its trajectory is whole.
"""
import asyncio
import itertools
import json
import random
from pathlib import Path
import pytest
from agentark.core.records import Query, Trajectory
from agentark.data import datasets
from agentark.engines.base import EngineError, Sampling
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted
from agentark.grading.answers import is_right
from agentark.methods.base import solve
from agentark.methods.registry import get_method, method_config, method_names, pick_variant, variants

DATA = Path(__file__).parent/"data"

# Calls per question with the shipped configurations: the fewest and the most.
# (Formulas and golden runs: the methods' notebooks.)
CALLS = {
    "vanilla main": (1, 1),
    "cot main": (1, 1),
    "self_consistency main": (5, 5),
    "llm_debate main": (6, 6),
    "controlled_debate main": (6, 6),
    "dylan main": (3, 11),
    "dylan math": (3, 11),
    "dylan mmlu": (5, 17),
    "dylan humaneval": (11, 19),
    "agentverse main": (4, 27),
    "agentverse mgsm": (4, 27),
    "agentverse humaneval": (4, 27),
    "mav main": (10, 10),
    "mav math": (10, 10),
    "mav mmlu": (10, 10),
    "mav gpqa": (10, 10),
    "mav humaneval": (10, 10),
    "mad main": (3, 11),
    "camel main": (3, 8),
    "autogen main": (1, 5),
    "macnet main": (9, 27),
    "macnet random": (9, 27),
    "macnet chain": (9, 9),
    "macnet star": (12, 12),
    "macnet tree": (11, 11),
    "macnet net": (27, 27),
    "macnet mlp": (20, 20),
    "macnet srdd": (9, 180),
    "evomac main": (4, 40),
    "chatdev srdd": (6, 45),
    "chatdev humaneval": (2, 23),
    "mapcoder humaneval": (4, 25),
    "mapcoder mbpp": (4, 25),
}
VARIANTS = [(name, variant) for name in method_names() for variant in variants(name)]
each_variant = pytest.mark.parametrize("name, variant", VARIANTS, ids=lambda x: x)

def test_every_variant_is_in_the_table():
    assert {f"{name} {variant}" for name, variant in VARIANTS} == set(CALLS)

# ---- questions, and models that answer them

DOUBLE = 'def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    """'

def writes_code(name: str, variant: str) -> bool: return variant in ("humaneval", "mbpp", "srdd") or name == "evomac"

def question(name: str, variant: str) -> Query:
    "A question of the kind that this variant is made for."
    if variant == "srdd": return Query("A program that prints a calendar.", kind="open", source="SRDD")
    if writes_code(name, variant): return Query(DOUBLE, "assert double(3) == 6", "code", source="HumanEval")
    if variant in ("mmlu", "gpqa"):
        return Query("Which is prime?", "B", "choice", choices=["4", "5", "6", "8"], source="MMLU")
    return Query("What is 7 * 6?", "42", source="MATH")

CODE = [
    "```python\ndef double(x):\n    return 2*x\n```",
    "```python\ndef double(x):\n    return x\n```",
    "main.py\n```python\nprint('calendar')\n```",
]
REPLIES = [
    "7 * 6 = 42.\nThe answer is 42.",
    "The answer is 41.",
    "(B)",
    "The answer is (C).",
    "I do not know.",
    "",
    *CODE,
    "[[1, 2]]",
    "Ratings: [[5, 1, 3]]\nThe answer is 42.",
    "[Agree]",
    "I object.\n[Disagree]",
    "Correctness: 1\nResponse: good",
    "Correctness: 0\nResponse: check again",
    "True",
    "False",
    '{"side": "affirmative", "reason": "it holds", "answer": "42"}',
    '{"side": null, "answer": ""}',
    "1. A mathematician\n2. A critic",
    "TERMINATE",
    "<problem>\n<description>x</description>\n</problem>",
    "Confidence: 80",
    "<think>never ends",
]

def stubborn(text: str):
    "A rule that always gives this reply, and takes any choice where it must choose."
    return lambda request: chosen(request) or text

def moody(seed: int):
    "A rule that gives any of the replies, by the seed of the request."
    return lambda request: chosen(request) or random.Random(f"any {seed} {request.seed}").choice(REPLIES)

def chosen(request) -> str | None:
    choices = request.sampling.choices
    return choices[request.seed % len(choices)] if choices else None

def models(code: bool) -> list:
    "Running code takes time, so methods that do so meet fewer of them."
    replies, moods = (CODE, 3) if code else (REPLIES, 40)
    return [stubborn(text) for text in replies] + [moody(seed) for seed in range(moods)]

async def ask(name: str, variant: str, rule, seed: int = 0) -> Trajectory:
    "One question answered by a model that follows the rule."
    method, cfg = get_method(name, variant), method_config(name, f"config_{variant}")
    engine, sampling = Scripted(default=rule), Sampling(max_tokens=200)
    run = lambda query, submit: solve(query, submit, method, cfg, engine, sampling, seed)
    [trajectory] = [t async for t in Scheduler(engine).run([question(name, variant)], run)]
    return trajectory

async def all_answers(name: str, variant: str) -> list[Trajectory]:
    "The question answered by every model, all at once."
    rules = models(writes_code(name, variant))
    return await asyncio.gather(*(ask(name, variant, rule, seed) for seed, rule in enumerate(rules)))

# ---- costs and trajectories

@each_variant
def test_costs_and_trajectories(name, variant):
    low, high = CALLS[f"{name} {variant}"]
    for t in asyncio.run(all_answers(name, variant)):
        assert t.error is None, t.error
        assert low <= len(t.calls) <= high, (len(t.calls), t.calls[0].text)
        assert t.usage.num_llm_calls == len(t.calls)
        assert isinstance(t.response, str)
        check_calls(t.calls)
        assert Trajectory.from_dict(json.loads(json.dumps(t.to_dict()))) == t

def check_calls(calls):
    "Every call is complete, and reads only what was said before."
    rounds = {c.id: c.round for c in calls}
    assert len(rounds) == len(calls), "ids are unique"
    for c in calls:
        assert set(c.sees) <= set(rounds)
        assert c.parent is None or c.parent in rounds
        for seen in c.sees: assert rounds[seen] <= c.round, "nobody reads the future"
        assert c.model == "scripted"
        assert c.messages
        assert c.seed is not None

@each_variant
def test_a_dead_engine_fails_the_question_and_keeps_its_calls(name, variant):
    count = itertools.count()
    t = asyncio.run(ask(name, variant, lambda request: "I do not know." if next(count) < 2 else EngineError("gone")))
    fewest, _ = CALLS[f"{name} {variant}"]
    if fewest > 2:
        assert t.error == "EngineError: gone"
        assert t.response == ""
        assert len(t.calls) == 2
    elif t.error is not None:
        assert t.error == "EngineError: gone"
        assert t.response == ""

# ---- which variant

@pytest.mark.parametrize("name, dataset, kind, expected", [
    ("dylan", "MATH", "math", "math"),
    ("dylan", "MMLU-Pro", "choice", "mmlu"),
    ("dylan", "MedMCQA", "choice", "mmlu"),
    ("dylan", "QMSum", "summary", "main"),
    ("mav", "GSM8K", "math", "math"),
    ("mav", "GPQA", "choice", "gpqa"),
    ("mav", "QASPER", "short", "main"),
    ("agentverse", "GSM8K", "math", "mgsm"),
    ("agentverse", "MATH", "math", "main"),
    ("mapcoder", "HumanEval", "code", "humaneval"),
    ("mapcoder", "MBPP", "code", "mbpp"),
    ("evomac", "HumanEval", "code", "main"),
    ("macnet", "SRDD", "open", "srdd"),
    ("chatdev", "SRDD", "open", "srdd"),
    ("macnet", "MATH", "math", "main"),
    ("llm_debate", "reasoning_gym:chain_sum", "math", "main"),
])
def test_the_dataset_picks_the_variant(name, dataset, kind, expected):
    assert pick_variant(name, dataset, kind) == expected

# ---- the programming tasks themselves

@pytest.mark.parametrize("dataset", ["HumanEval", "MBPP"])
def test_programming_tasks_are_solved_by_their_solutions(dataset):
    queries = datasets.load(dataset, data_dir=str(DATA))
    [path] = (DATA/dataset).glob("*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for query, row in zip(queries, rows, strict=True):
        assert is_right(row.get("canonical_solution") or row["code"], query)
        assert not is_right("def f(): pass", query)
