"What a student may learn: sentences that stand alone, steps that are found, a selection that survives being killed."
import json
import random
import re
import time
from pathlib import Path
from unittest.mock import patch
import pytest
from conftest import ROOT
from agentark.core.config import error_of, run_async
from agentark.core.records import Labelled, Query, Solution
from agentark.core.store import Store, read_jsonl, write_jsonl
from agentark.data.chains import add, gold_steps, operations, step_labels, steps_in, written
from agentark.distill.phrases import mentions
from agentark.distill.selection import common, farthest_first, select_by_model
from agentark.distill.standalone import alone
from agentark.distill.steps import Step, operations_in, sentences, steps_of, structure
from agentark.distill.talk import SOLVERS, spoken, standing, talk
from agentark.distill.traces import RULES, Traces, read_traces, table3
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted
from agentark.eval.label import Label
from agentark.methods.infer import Infer

# ---- sentences

SENTENCES = list(read_jsonl(ROOT/"tests"/"data"/"mentions.jsonl"))

def test_the_table_has_both_sides():
    said = [r["mentions"] for r in SENTENCES]
    assert min(said.count(True), said.count(False)) > 200

@pytest.mark.parametrize("wanted", [True, False], ids=["mentions", "false alarms"])
def test_sentences(wanted):
    wrong = [r["text"] for r in SENTENCES if r["mentions"] is wanted and bool(mentions(r["text"])) is not wanted]
    assert wrong == []

def test_a_question_lends_its_words():
    chemistry = "The first solution holds 30% acid and the second 50%. How much acid do both solutions give?"
    assert mentions("Both solutions give 4 liters.")
    assert not mentions("Both solutions give 4 liters.", chemistry)
    assert mentions("I agree with the others.", chemistry)

FLOWERS = Query("Mary had 14 roses and gave away 5. How many roses has she left?", "9")

SPOKEN = """\
The error is your own.
You can find more options by going to the next answer.
It doesn't say anything about the mistake, but it is important to notice that the total is 9.
These mistakes are correct based on the context of simple interest calculations.
Dumping the answer is what is asked, so I will simply write the answer in short lines.
The other mistake is that the original equation contains a fraction.
This is the final answer to the puzzle.
You've already successfully solved the problem.
The answer is correct, there are 2 more birds.
A few more words to explain, the answer is consistently wrong, there is 1 more bird.
The original problem was effectively solved by checking if the answer was 1.
Well, that's not really a line.
Yes, she will pay 1.1 x 12 = 12.1, not 2.2.
So to solve it again, I just need to add the last step.
We compare this to the last answer (C) and take note of the first letter.
Here is a new example:
You're actually adding 3 more cups of flour.
So, Melissa's answer is 600.
"""

@pytest.mark.parametrize("text", SPOKEN.splitlines())
def test_what_a_small_model_says_in_debates(text):
    said = ["She had 14 roses.\n", text + "\n", "14 - 5 = 9 roses are left.\n"]
    before, there, after = spoken([Step(x, 0, len(x)) for x in said], FLOWERS)
    assert there
    assert not before | after

HEADS = """\
Upon careful consideration of the feedback, she has 9 roses.
As confirmed by the verification above: she has 9 roses.
Having combed through the disparate responses, she has 9 roses.
She has 9 roses, which aligns with the consensus.
Therefore, the revised and indeed correct answer is 9.
After reevaluating, 14 - 5 = 9 roses.
"""

@pytest.mark.parametrize("text", HEADS.splitlines())
def test_a_part_without_talk_stays(text):
    left = standing(text, FLOWERS)
    assert left in ("She has 9 roses.", "Therefore, the answer is 9.", "14 - 5 = 9 roses.")

def test_the_questions_own_expression_is_no_step():
    sums = Query("What is the result of 2+3*4-1?", "13")
    assert alone("Therefore, the result of 2 + 3 * 4 - 1 is 13.", sums).fault == "disconnected"
    assert alone("The result of 2 + 3 * 4 - 1 is 13.", sums).fault == "too_few_steps"
    assert alone("2 + 3 * 4 - 1\n= 2 + 12 - 1\n= 13", sums).fault is None

def test_words_of_a_program_are_its_own():
    program = 'def f(message):\n    raise ValueError("I hope: no error, please")\n'
    assert alone(program, Query("Write f.", kind="code")).text == program

def test_no_solution_begins_with_a_demonstrative():
    assert alone("This is 14 - 5 = 9.", FLOWERS).fault == "disconnected"
    assert alone("2. 14 - 5 = 9.", FLOWERS).fault == "disconnected"
    assert alone("1. 14 - 5 = 9.", FLOWERS).fault is None

# ---- real texts (with AGENTARK_DATA)

@pytest.fixture
def solved(gsm8k) -> list[dict]:
    "GSM8K's questions with their worked solutions."
    return list(read_jsonl(Path(gsm8k)/"gsm8k"/"test.jsonl"))

def test_people_who_solve_alone_raise_no_alarm(solved):
    said = [(s.text, r["question"]) for r in solved for s in sentences(r["answer"])]
    alarms = [text for text, question in said if mentions(text, question)]
    assert len(alarms) < len(said)/1000, alarms

def test_people_who_solve_alone_do_not_talk(solved):
    said = [(s.text, r["question"]) for r in solved for s in sentences(re.sub("<<.*?>>", "", r["answer"]))]
    alarms = [text for text, question in said if talk(text, question)]
    assert len(alarms) < len(said)/1000, alarms

def test_the_words_of_solvers_are_learnt(gsm8k):
    "Those of the file are those of the solutions."
    from solver_words import learnt
    assert SOLVERS.read_text().split() == learnt(Path(gsm8k))

def test_what_people_write_alone_stands_alone(solved):
    "As it is, but for one in a hundred."
    shortened = disconnected = 0
    for r in solved:
        left = alone(re.sub("<<.*?>>", "", r["answer"]), Query(r["question"], r["answer"].split("#### ")[1]))
        shortened += left.cut
        disconnected += left.fault == "disconnected"
    assert shortened < len(solved)/100
    assert disconnected < len(solved)/100

def test_noted_calculations_are_found_in_the_prose(solved):
    "95 % of the calculator's notes, and of what is found 1 % at most is read as wrong."
    noted = found = wrong = operations = 0
    for r in solved:
        notes = structure("\n".join(re.findall(r"<<(.*?)>>", r["answer"])))
        prose = re.sub(r"<<.*?>>", "", r["answer"])
        noted += len(notes)
        found += len({*notes} & {*structure(prose)})
        operations += len(operations_in(prose))
        wrong += sum(not o.is_true for o in operations_in(prose))
    assert found/noted > 0.95
    assert wrong/operations < 0.01

def test_steps_cover_their_text(solved):
    for r in solved[:300]:
        for by in ("auto", "blank", "lines", "sentences"):
            assert "".join(s.text for s in steps_of(r["answer"], by)) == r["answer"]

ODD = ["", "\n\n", "$", "\\frac{1}{", "((((", "1/0 = 2", "9^9^9^9 = 1", "= = =", "٣ + ٤ = ٧", "<think>", "1"*5000]

LOOPS = ["all of the ", "I still ", "12 + ", "1 = ", "\\frac{", "(", "\n ", "x:\n", "$ "]   # of models in a loop
ODD += [x*2000 for x in LOOPS]

@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_nothing_breaks_the_reader(text):
    start = time.perf_counter()
    assert "".join(s.text for s in steps_of(text)) == text
    structure(text)
    alone(text, Query("?", "1"))
    assert time.perf_counter() - start < 10   # and not minutes

# ---- choosing

def routes(expression: str, rng: random.Random) -> list[str]:
    "Solutions of a chain by different orders of its operations, each written in two ways."
    first, ops = operations(expression)
    texts = []
    for order in (ops, ops[::-1]):
        left, steps = first, []
        for sign, right in order:
            value = add(left, sign, right)
            steps.append((left, sign, right, value))
            left = value
        texts += [written(steps), "So " + written(steps).replace("\n", ", then ") + " is the answer."]
    rng.shuffle(texts)
    return texts

def reads_chains(request) -> str:
    "A model that names the candidate whose steps differ most from the chosen ones."
    blocks = re.findall(r"(CHOSEN|CANDIDATE) (\w+)\n(.*?)(?=\n\n|\Z)", request.messages[-1]["content"], re.S)
    chosen = [steps_in(text) for what, _, text in blocks if what == "CHOSEN"]
    far = {}
    for what, letter, text in blocks:
        steps = steps_in(text)
        if what == "CANDIDATE": far[letter] = min(1 - common(steps, c)/max(len(steps), len(c)) for c in chosen)
    letter = max(far, key=far.get)
    return letter if far[letter] > 0 else "none"

def test_model_and_rule_choose_alike():
    rng = random.Random(0)
    for _ in range(50):
        scheduler = Scheduler(Scripted(default=reads_chains))
        expression = f"{rng.randint(20, 50)} + {rng.randint(1, 9)} - {rng.randint(10, 15)} + {rng.randint(16, 19)}"
        texts = routes(expression, rng)
        by_rule, alike = farthest_first(texts, 3, [False]*4)
        assert len(by_rule) == len(alike) == 2
        asked = Query(expression, "1"), texts, 3, [False]*4, scheduler.submit, scheduler.engine
        by_model, _ = run_async(select_by_model(*asked))
        assert by_model == by_rule, texts

# ---- the stage

@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> str:
    "Labelled debates of the laboratory model."
    folder = tmp_path_factory.mktemp("debates")
    task = dict(model_temperature=0.8, model_max_tokens=96, max_samples=24, split="train")
    run = Infer("llm_debate", "chains", "lab-m", **task, output_path=str(folder/"debate_infer.jsonl")).run()
    return str(Label(str(run)).run())

def test_every_solution_is_accounted_for(labelled, tmp_path):
    path = Traces(labelled, output_path=str(tmp_path/"traces.jsonl")).run()
    meta = json.loads((tmp_path/"traces.meta.json").read_text())
    assert meta["correct"] == sum(meta["removed"].values()) + meta["traces"]
    row, = table3(path).to_dict("records")
    assert row["right"] - sum(row[rule] for rule in RULES) == row["traces"]
    assert row["corrective"] == sum(t.corrective for t in read_traces(path))/row["traces"]
    records = {r["id"]: Labelled.from_dict(r) for r in read_jsonl(labelled)}
    for t in read_traces(path):
        text = t.completion[0]["content"]
        assert not any(mentions(s.text) for s in sentences(text))
        assert structure(text) == t.structure != []
        expression = re.search(r"What is (.+)\?", records[t.query_id].query)[1]
        assert len(step_labels(expression, text)) == len(gold_steps(expression))

def test_wrong_steps_are_dropped(labelled, tmp_path):
    record = Labelled.from_dict(next(read_jsonl(labelled)))
    expression = re.search(r"What is (.+)\?", record.query)[1]
    first, *rest = gold_steps(expression)
    left, sign, right, value = first
    slipped = written([(left, sign, right, value + 1), *rest])
    record.solutions = [Solution(1, written([first, *rest]), True, "0"), Solution(2, slipped, True, "1")]
    path = str(write_jsonl(tmp_path/"labeled.jsonl", [record.to_dict()]))
    for wrong_steps, n in (("keep", 2), ("drop", 1)):
        out = Traces(path, wrong_steps=wrong_steps, output_path=str(tmp_path/f"{wrong_steps}.jsonl")).run()
        assert len(read_traces(out)) == n

class Killed(BaseException): pass

def test_killed_and_resumed_asks_for_the_rest(labelled, tmp_path):
    "Killed after five questions, the models are asked for the others, and the file is the same to the byte."
    records = [Labelled.from_dict(r) for r in read_jsonl(labelled)]
    for r in records:   # every question has two routes to choose from
        texts = routes(r.query[8:-1], random.Random(1))
        r.solutions += [Solution(90 + i, t, True, f"extra {i}", round=1) for i, t in enumerate(texts)]
    path = str(write_jsonl(tmp_path/"routes_labeled.jsonl", [r.to_dict() for r in records]))
    script = Scripted(default=reads_chains)
    append = Store.append
    def appends(store, record):
        append(store, record)
        if len(store.done) == 5: raise Killed("killed")
    def run(name):
        script.batches.clear()
        stage = Traces(path, selector="scripted", max_live=2, output_path=str(tmp_path/f"{name}.jsonl"))
        with patch.object(Traces, "open_engine", lambda self, name: script): return stage.run()
    whole = run("whole").read_bytes()
    asked = sum(script.batches)
    with patch.object(Store, "append", appends): error_of(run, "killed", kind=Killed)
    assert not (tmp_path/"killed.jsonl").exists()
    assert run("killed").read_bytes() == whole
    assert 0 < sum(script.batches) < asked
    by_rule = Traces(path, output_path=str(tmp_path/"rule.jsonl")).run()
    assert by_rule.read_bytes() == whole

def test_a_real_model_selects(labelled, tmp_path):
    "A model that was not made for it keeps to the choices; whatever it says, the traces are right and differ."
    records = [Labelled.from_dict(r) for r, _ in zip(read_jsonl(labelled), range(4))]
    for r in records:
        texts = routes(r.query[8:-1], random.Random(r.id))
        r.solutions = [Solution(i, t, True, str(i)) for i, t in enumerate(texts, 1)]
    path = str(write_jsonl(tmp_path/"few_labeled.jsonl", [r.to_dict() for r in records]))
    out = Traces(path, selector="tiny-random", k=2, output_path=str(tmp_path/"few.jsonl")).run()
    assert {t.query_id for t in read_traces(out)} == {r.id for r in records}
