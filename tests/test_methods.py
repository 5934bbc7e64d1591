"Every variant of every method, against scripted engines that agree, disagree, ramble or break: its cost stays in its bounds and its trajectory is whole."
import asyncio, itertools, json, random
from pathlib import Path
import pytest
from agentark.data import datasets
from agentark.core.records import Query, Trajectory
from agentark.engines.base import EngineError, Sampling
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted
from agentark.methods.registry import get_method, method_config, method_names, pick_variant, variants
from agentark.methods.base import solve

# Calls per question with the shipped configurations: the fewest and the most (formulas and golden runs: the methods' notebooks).
CALLS = {
    "vanilla main": (1, 1), "cot main": (1, 1), "self_consistency main": (5, 5), "llm_debate main": (6, 6), "mad main": (3, 11), "camel main": (3, 8), "autogen main": (1, 5),
    "controlled_debate main": (6, 6), "dylan main": (3, 11), "dylan math": (3, 11), "dylan mmlu": (5, 17), "dylan humaneval": (11, 19), "agentverse main": (4, 27), "agentverse mgsm": (4, 27), "agentverse humaneval": (4, 27),
    **{f"mav {v}": (10, 10) for v in ("main", "math", "mmlu", "gpqa", "humaneval")}, "mapcoder humaneval": (4, 25), "mapcoder mbpp": (4, 25), "evomac main": (4, 40), "chatdev srdd": (6, 45), "chatdev humaneval": (2, 23),
    "macnet chain": (9, 9), "macnet star": (12, 12), "macnet tree": (11, 11), "macnet net": (27, 27), "macnet mlp": (20, 20), "macnet main": (9, 27), "macnet random": (9, 27), "macnet srdd": (9, 180),
}
VARIANTS = [(name, v) for name in method_names() for v in variants(name)]

def question(name: str, variant: str) -> Query:
    if variant == "srdd": return Query("A program that prints a calendar.", kind="open", source="SRDD")
    if variant in ("humaneval", "mbpp") or name == "evomac": return Query('def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    """', "assert double(3) == 6", "code", source="HumanEval")
    if variant in ("mmlu", "gpqa"): return Query("Which is prime?", "B", "choice", choices=["4", "5", "6", "8"], source="MMLU")
    return Query("What is 7 * 6?", "42", source="MATH")

REPLIES = ["7 * 6 = 42.\nThe answer is 42.", "The answer is 41.", "(B)", "The answer is (C).", "I do not know.", "", "```python\ndef double(x):\n    return 2*x\n```", "```python\ndef double(x):\n    return x\n```",
           "main.py\n```python\nprint('calendar')\n```", "[[1, 2]]", "Ratings: [[5, 1, 3]]\nThe answer is 42.", "[Agree]", "I object.\n[Disagree]", "Correctness: 1\nResponse: good", "Correctness: 0\nResponse: check again", "True", "False",
           '{"side": "affirmative", "reason": "it holds", "answer": "42"}', '{"side": null, "answer": ""}', "1. A mathematician\n2. A critic", "TERMINATE", "<problem>\n<description>x</description>\n</problem>", "Confidence: 80", "<think>never ends"]

def speaker(character: str):
    "A rule for the scripted engine: always the same reply, or any of them, by the request's seed."
    def rule(request):
        if request.sampling.choices: return request.sampling.choices[request.seed % len(request.sampling.choices)]
        return REPLIES[int(character)] if character.isdigit() else random.Random(f"{character} {request.seed}").choice(REPLIES)
    return rule

async def runs(name, variant, characters, q):
    method, cfg = get_method(name, variant), method_config(name, f"config_{variant}")
    out = []
    for seed, character in enumerate(characters):
        engine = Scripted(default=speaker(character))
        out += [t async for t in Scheduler(engine).run([q], lambda q, submit: solve(q, submit, method, cfg, engine, Sampling(max_tokens=200), seed))]
    return out

@pytest.mark.parametrize("name, variant", VARIANTS, ids=lambda x: x)
def test_costs_and_trajectories(name, variant):
    low, high = CALLS[f"{name} {variant}"]
    code = variant in ("humaneval", "mbpp", "srdd") or name == "evomac"
    characters = [*map(str, range(len(REPLIES))), *(f"any {i}" for i in range(4 if code else 40))] if not code else ["6", "7", "8", "any 0", "any 1", "any 2"]
    counts = set()
    for t in asyncio.run(runs(name, variant, characters, question(name, variant))):
        assert t.error is None, t.error
        assert low <= len(t.calls) <= high, (len(t.calls), t.calls[0].text)
        assert isinstance(t.response, str) and t.usage.num_llm_calls == len(t.calls)
        ids = [c.id for c in t.calls]
        assert len(set(ids)) == len(ids) and all(set(c.sees) <= set(ids) and c.parent in {None, *ids} for c in t.calls)
        rounds = {c.id: c.round for c in t.calls}
        assert all(rounds[s] <= c.round for c in t.calls for s in c.sees), "nobody reads the future"
        assert all(c.model == "scripted" and c.messages and c.seed is not None for c in t.calls)
        assert Trajectory.from_dict(json.loads(json.dumps(t.to_dict()))) == t
        counts.add(len(t.calls))
    print(name, variant, sorted(counts))

@pytest.mark.parametrize("name, variant", VARIANTS, ids=lambda x: x)
def test_a_dead_engine_fails_the_question_and_keeps_its_calls(name, variant):
    async def dies_at_third():
        method, cfg, n = get_method(name, variant), method_config(name, f"config_{variant}"), itertools.count()
        engine = Scripted(default=lambda r: EngineError("gone") if next(n) >= 2 else REPLIES[4])
        return [t async for t in Scheduler(engine).run([question(name, variant)], lambda q, submit: solve(q, submit, method, cfg, engine, Sampling(max_tokens=50), 0))][0]
    t = asyncio.run(dies_at_third())
    if CALLS[f"{name} {variant}"][0] > 2: assert t.error == "EngineError: gone" and t.response == "" and len(t.calls) == 2
    else: assert t.error in (None, "EngineError: gone") and (t.error is None or t.response == "")

@pytest.mark.parametrize("name, dataset, kind, expected", [
    ("dylan", "MATH", "math", "math"), ("dylan", "MMLU-Pro", "choice", "mmlu"), ("dylan", "MedMCQA", "choice", "mmlu"), ("dylan", "QMSum", "summary", "main"), ("mav", "GSM8K", "math", "math"), ("mav", "GPQA", "choice", "gpqa"),
    ("mav", "QASPER", "short", "main"), ("agentverse", "GSM8K", "math", "mgsm"), ("agentverse", "MATH", "math", "main"), ("mapcoder", "HumanEval", "code", "humaneval"), ("mapcoder", "MBPP", "code", "mbpp"),
    ("evomac", "HumanEval", "code", "main"), ("macnet", "SRDD", "open", "srdd"), ("chatdev", "SRDD", "open", "srdd"), ("macnet", "MATH", "math", "main"), ("llm_debate", "reasoning_gym:chain_sum", "math", "main")])
def test_the_dataset_picks_the_variant(name, dataset, kind, expected): assert pick_variant(name, dataset, kind) == expected

def test_every_variant_is_in_the_table(): assert {f"{n} {v}" for n, v in VARIANTS} == set(CALLS)

DATA = Path(__file__).parent/"data"

@pytest.mark.parametrize("dataset", ["HumanEval", "MBPP"])
def test_programming_tasks_are_solved_by_their_solutions(dataset):
    from agentark.grading.answers import is_right
    queries = datasets.load(dataset, data_dir=str(DATA))
    rows = [json.loads(line) for line in next((DATA/dataset).glob("*.jsonl")).read_text().splitlines()]
    for q, row in zip(queries, rows, strict=True): assert is_right(row.get("canonical_solution") or row["code"], q) and not is_right("def f(): pass", q)
