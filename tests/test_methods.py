"""Every variant of every method, against scripted engines that agree, disagree, ramble or break.

Its cost stays in its bounds, its trajectory is whole, and what a student may learn of it are whole solutions alone.
"""
import asyncio
import itertools
import json
import random
import re
from pathlib import Path
import pytest
from agentark.core.records import Query, Trajectory
from agentark.data import datasets
from agentark.engines.base import EngineError, EngineGroup, Sampling
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted
from agentark.eval.label import label
from agentark.grading.answers import is_right, visible
from agentark.methods.base import solve
from agentark.methods.program import read_files
from agentark.methods.prompts import solo
from agentark.methods.registry import get_method, method_config, method_names, pick_variant, variants

DATA = Path(__file__).parent/"data"

# Calls per question with the shipped configurations: the fewest and the most.
# (Formulas and golden runs: the methods' notebooks.)
CALLS = {
    "vanilla main": (1, 1),
    "cot main": (1, 1),
    "self_consistency main": (5, 5),
    "best_of_n main": (16, 16),
    "weighted_vote main": (16, 16),
    "step_beam_search main": (9, 512),
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
SCORED = ("best_of_n", "weighted_vote", "step_beam_search")    # methods that ask a reward model
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

def scores(request) -> str:
    "What a reward model replies: a line with the right answer is probably right."
    lines = request.messages[-1]["content"].splitlines()
    return json.dumps([[line, 0.9 if "42" in line else 0.1] for line in lines])

def models(code: bool) -> list:
    "Running code takes time, so methods that do so meet fewer of them."
    replies, moods = (CODE, 3) if code else (REPLIES, 40)
    return [stubborn(text) for text in replies] + [moody(seed) for seed in range(moods)]

async def ask(name: str, variant: str, rule, seed: int = 0, **options) -> Trajectory:
    "One question answered by a model that follows the rule."
    if name in SCORED: options = {"prm": "prm", **options}
    method, cfg = get_method(name, variant), method_config(name, f"config_{variant}", options)
    reward_model = Scripted(default=scores)
    reward_model.name = "prm"
    engine, sampling = EngineGroup([Scripted(default=rule), reward_model]), Sampling(max_tokens=200)
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
        assert c.model in ("scripted", "prm")
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

# ---- what a student may learn

THOUGHTS = "<think>\nRatings: [[1, 1]]? TERMINATE? [Agree]\n43\n</think>\n\n"   # nothing in here is a form
FILES = ["main.py\n```python\nimport util\nprint(util.MONTHS)\n```", "util.py\n```python\nMONTHS = 12\n```"]

def work(query: Query, right: bool, i: int = 0) -> str:
    "A whole solution; a wrong one differs from agent to agent."
    if query.kind == "open": return "\n\n".join(FILES)
    if query.kind == "code":
        double = "x + x" if right else " * ".join(["x"]*(i + 3))
        return f"Twice is x and x again.\n\n```python\ndef double(x):\n    return {double}\n```"
    if query.kind == "choice": return f"I try all of them.\n{'B' if right else 'ACD'[i % 3]}"
    answer = 42 if right else 50 + i
    return f"7 * 6 = {answer}\n\nSo it is the sum of six sevens.\n{answer}"

# What prompts ask for in the seats that do not solve, and what a model says to it.
SEATS = [
    ("ame exactly 2", "1. A mathematician: counts.\n2. A teacher: explains."),
    ("On the last line write [Agree]", "7 * 6 = 42, as I found.\n[Agree]"),
    ("Correctness: a digit", "Correctness: 1\nResponse: 42 is right."),
    ("form [[first, second]]", "The first two say 42.\n[[1, 2]]"),
    ("Which answers have been proposed?", "42, by counting."),
    ("Decide which answer is right.", "Most say so.\n\n42"),
    ("say whether the final answer of this solution is right", "7 * 6 = 42, and it says so."),
    ("Say precisely what has to be worked out", "Work out 7 * 6."),
    ("Give your first instruction", "Instruction: Multiply.\nInput: 7, 6"),
    ("Give your next instruction", "<CAMEL_TASK_DONE>"),
    ("Which of these 2 proposals", "Both are fine.\nChoice: 2"),
    ("You work for a PhD Student", "Solution: 7 * 6 = 42\n\nNext request."),
    ("Reply to the assistant as the user would", "Is every step right?"),
    ("Say in a few short points", "- Nothing is wrong: 42."),
    ("Divide the work among programmers", "1. [after: none] Write it.\n2. [after: 1] Check it."),
    ("Decide how it is tested", "1. double(2)"),
    ("You write one test of this", "```python\nimport main\nassert main.double(2) == 4\n```"),
    ("Write a few assert statements", "```python\nassert double(2) == 4\n```"),
    ("Write at most 10 assertions", "```python\nassert double(2) == 4\n```"),
    ("Write a short numbered section for each", "1. Good.\n2. Good.\nRatings: [[5, 5, 5, 5]]"),
    ("DECISION: what is decided", "A window is best.\nDECISION: Python"),
    ("reply with one line `QUESTION", "QUESTION: May x be a float?"),
    ("Your partner asks", "Yes."),
    ("VERDICT: FIX, or VERDICT: FINE", "It could be shorter.\nVERDICT: FIX"),
    ("Which packages does it need", "requirements.txt\n```\n\n```"),
    ("Write its manual for users", "# Calendar\nRun main.py."),
    ("recall 3", "<problem><description>a</description><planning>b</planning><code>c</code></problem>"),
    ("<confidence>number</confidence>", "<confidence>90</confidence>"),
    ("Write a short plan of its solution", "Add x to itself."),
]

def other_seat(request) -> str | None:
    "What a model says in a seat that does not solve; None in one that does."
    prompt, turn = request.messages[-1]["content"], request.origin[-1]
    if "one JSON object" in prompt:   # a moderator, who wants to hear more
        return json.dumps({"side": "affirmative", "reason": "It counts.", "answer": "42" if turn else ""})
    if "write [Agree]" in prompt and turn == 0: return "Count again.\n[Disagree]"
    told = prompt + request.messages[0]["content"]
    return next((reply for asked, reply in SEATS if asked in told), None)

def with_forms(text: str, request) -> str:
    "A solution as a model hands it in: with what its method asks for besides, or with what it has heard."
    prompt, system = request.messages[-1]["content"], request.messages[0]["content"]
    _, agent, turn = request.origin
    rated = re.search(r"Rate each of the (\d+)", prompt)
    if rated:
        ratings = f"Ratings: {[[5, 1, 3, 2, 4, 5, 1][:int(rated[1])]]}"
        return f"{text}\n\n**{ratings}**" if agent else f"{ratings}\n\n{text}"
    if "Compare with your own solution" in prompt: return f"Compare with your own solution:\n\n{text}"
    if "Compare your solution with" in prompt: return f"You are agent {agent + 1}. Compare your solution.\n\n{text}"
    if "Your group disagrees" in prompt: return f"{text}\n\n[Agree]"
    heading = f"**The {agent} side in round {turn + 1}:**"
    if "in a debate of at most" in system: return f"{heading}\nI am the {agent} side.\n\n{text}"
    if "A colleague's solution:" in prompt: return f"A reviewer's advice:\n\n{text}"
    if "Put their results together" in prompt: return f"Solution: {text}\n\n<CAMEL_TASK_DONE>"
    if "TERMINATE" in system and turn: return f"{text}\n\nTERMINATE\n\nUser: Thank you, 41 it is."
    if "develops software" in system: return f"NO QUESTION\n\n{text}"
    if "A colleague wrote this program" in prompt: return FILES[1]   # and main.py stays as it is
    return text

def teacher(query: Query, name: str, thoughts: str):
    "A rule that replies in every seat as a good model would; all agents but the first are wrong at first."
    def rule(request):
        choice = chosen(request)
        if choice: return choice
        _, agent, turn = request.origin
        slips = turn == 0 and agent in ("assistant", "coder0", "programmer@coding")
        if isinstance(agent, int) and agent: slips = turn < (2 if name == "dylan" else 1)
        text = work(query, right=not slips, i=agent if slips and isinstance(agent, int) else 0)
        last = request.messages[-1]
        begun = last["content"] if last["role"] == "assistant" else ""    # it goes on from there
        return (thoughts + (other_seat(request) or with_forms(text, request))).removeprefix(begun)
    return rule

# The seats that solve the question, and their solutions. (By hand, from the methods' notebooks.)
LEARNT = [
    ("vanilla main", 1, 1, {}),
    ("cot main", 1, 1, {}),
    ("self_consistency main", 5, 5, {}),
    ("self_consistency main", 5, 5, {"aggregation": "llm"}),
    ("best_of_n main", 8, 8, {}),
    ("weighted_vote main", 8, 8, {}),
    ("step_beam_search main", 1, 1, {}),
    ("llm_debate main", 3, 6, {}),
    ("llm_debate main", 3, 6, {"aggregation": "llm"}),
    ("llm_debate main", 3, 6, {"layout": "shared"}),
    ("controlled_debate main", 3, 6, {}),
    ("controlled_debate main", 3, 6, {"peers": "off_topic", "others": ["What is 3 * 4?", "What is 3 * 5?"]}),
    ("dylan main", 4, 10, {}),
    ("dylan math", 4, 10, {}),
    ("dylan mmlu", 7, 16, {}),
    ("dylan humaneval", 4, 10, {}),
    ("agentverse main", 1, 2, {}),
    ("agentverse main", 3, 5, {"structure": "horizontal"}),
    ("agentverse mgsm", 1, 2, {}),
    ("agentverse humaneval", 1, 2, {"execute": True}),
    ("mav main", 2, 2, {}),
    ("mav math", 2, 2, {}),
    ("mav mmlu", 2, 2, {}),
    ("mav gpqa", 2, 2, {}),
    ("mav humaneval", 2, 2, {}),
    ("mad main", 2, 4, {}),
    ("mad main", 3, 6, {"num_players": 4}),
    ("camel main", 1, 1, {}),
    ("camel main", 1, 1, {"option_num": 2}),
    ("autogen main", 1, 2, {}),
    ("autogen main", 1, 2, {"code_execute": True}),
    ("macnet main", 6, 14, {"graph_seed": 5}),
    ("macnet random", 5, 9, {"graph_seed": 3}),
    ("macnet chain", 5, 5, {}),
    ("macnet star", 6, 8, {}),
    ("macnet tree", 6, 7, {}),
    ("macnet net", 5, 17, {}),
    ("macnet mlp", 6, 14, {}),
    ("macnet srdd", 5, 5, {"topology": "chain"}),
    ("evomac main", 1, 2, {}),
    ("chatdev srdd", 1, 1, {}),
    ("chatdev humaneval", 1, 4, {}),
    ("chatdev humaneval", 1, 4, {"dehallucination": 1}),
    ("mapcoder humaneval", 1, 2, {}),
    ("mapcoder mbpp", 1, 2, {}),
]

def test_every_variant_is_learnt_from(): assert {case for case, *_ in LEARNT} == set(CALLS)

@pytest.mark.parametrize("thoughts", ["", THOUGHTS], ids=["aloud", "thinking"])
@pytest.mark.parametrize("case, agents, count, options", LEARNT, ids=str)
def test_only_whole_solutions_are_learnt(case, agents, count, options, thoughts):
    name, variant = case.split()
    query = question(name, variant)
    t = asyncio.run(ask(name, variant, teacher(query, name, thoughts), **options))
    assert t.error is None, t.error
    learnt = asyncio.run(label(t))
    assert learnt.prompt == [{"role": "user", "content": solo(query)}]
    found = learnt.solutions
    assert (len({s.agent for s in found}), len(found)) == (agents, count), [(s.agent, s.call) for s in found]
    check_solutions(found, query, thoughts)
    last = {s.agent: s for s in sorted(found, key=lambda s: s.round)}
    wrong = {a for a, s in last.items() if not s.is_correct}
    assert query.kind == "open" or len(wrong) < agents

def check_solutions(found, query: Query, thoughts: str):
    "Each is all that its agent worked out, with its thoughts, and nothing else."
    whole = {work(query, right=False, i=i): False for i in range(8)} | {work(query, right=True): True}
    for s in found:
        if query.kind == "open":
            assert read_files(work(query, right=True)).items() <= read_files(s.text).items()
            continue
        assert s.text.startswith(thoughts)
        text = visible(s.text).strip()
        assert text in whole, text
        assert s.is_correct == whole[text]

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
