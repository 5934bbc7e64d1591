"From question to distilled student, as a user would type it; and the records that flow from stage to stage."
import json
import re
import shutil
from pathlib import Path
import datasets
import pytest
from conftest import ROOT
from agentark.core.store import read_jsonl, to_parquet, write_jsonl
from agentark.data.trajectories import read_trajectories
from agentark.distill.traces import Traces, read_traces
from agentark.eval.label import Label
from agentark.grading import answers
from agentark.methods.infer import Infer
from agentark.runs.inspect import Show

SUMS = ["--test_dataset_name", "reasoning_gym:chain_sum?max_terms=3", "--max_samples", 20, "--seed", 1]
FIRST_VERSION = ROOT/"tests"/"data"/"records_0.1"


def rows(path: Path) -> list[dict]: return list(read_jsonl(path))

def loaded(path: Path) -> datasets.Dataset:
    "A file as others load it."
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent/"cache"))

@pytest.mark.slow
def test_every_stage_in_order(agentark, tmp_path):
    def infer(method, model, name, *more):
        flags = ["--method_name", method, "--model_name", model, "--output_path", tmp_path/f"{name}.jsonl"]
        return agentark("infer", *flags, *SUMS, *more, check=True).stdout
    said = infer("llm_debate", "scripted", "debate_infer", "--split", "train")
    assert "wrote 20 trajectories" in said
    assert "120 calls" in said
    agentark("label", "--input", tmp_path/"debate_infer.jsonl", check=True)
    # the scripted agents speak of each other when they revise, and then show no step
    traces = ["traces", "--input", tmp_path/"debate_labeled.jsonl", "--min_correct", 1]
    refused = agentark(*traces, "--no_first_rounds")
    assert "--min_steps 0" in refused.stderr
    said = agentark(*traces, check=True).stdout
    assert int(re.search(r"first rounds in place of (\d+)", said)[1]) > 0
    infer("self_consistency", "scripted", "sc_infer", "--split", "train")
    agentark("label", "--input", tmp_path/"sc_infer.jsonl", check=True)
    agentark("traces", "--input", tmp_path/"sc_labeled.jsonl", check=True)
    agentark(
        "sft",
        "--model_name_or_path", "tiny-random",
        "--train_data_path", tmp_path/"sc_traces.jsonl",
        "--output_dir", tmp_path/"student",
        "--num_train_epochs", 1,
        check=True,
    )
    infer("cot", "tiny-random", "base", "--model_max_tokens", 16)
    infer("cot", tmp_path/"student", "distilled", "--model_max_tokens", 16)
    files = tmp_path/"base.jsonl", tmp_path/"distilled.jsonl"
    table = agentark("eval", "--input_file", *files, check=True).stdout
    for word in ("| tiny-random", "| student", "McNemar p"): assert word in table
    train = {r["query"] for r in rows(tmp_path/"sc_infer.jsonl")}
    assert not train & {r["query"] for r in rows(tmp_path/"base.jsonl")}

def test_the_manifest_says_what_was_run(tmp_path):
    path = str(tmp_path/"base.jsonl")
    Infer("cot", "reasoning_gym:chain_sum", "scripted", max_samples=20, output_path=path).run()
    meta = json.loads((tmp_path/"base.meta.json").read_text())
    assert meta["status"] == "finished"
    assert meta["config"]["model_temperature"] == 0.5
    assert meta["num_llm_calls"] == 20
    assert meta["versions"]["torch"]

def test_debate_on_the_real_gsm8k_file(agentark, gsm8k, tmp_path):
    path = tmp_path/"gsm8k.jsonl"
    agentark(
        "infer",
        "--method_name", "llm_debate",
        "--test_dataset_name", "GSM8K",
        "--model_name", "tiny-random",
        "--model_max_tokens", 16,
        "--max-samples", 8,
        "--output_path", path,
        check=True,
    )
    table = loaded(path)
    assert len(table) == 8
    assert set(table["kind"]) == {"math"}
    for t in table:
        assert len(t["calls"]) == 6
        assert t["gt"].lstrip("-").isdigit()
        assert t["right"] in (True, False)
        for c in t["calls"]: check_call(c)

def check_call(c: dict):
    "In the second of two rounds a debater sees what the two others said in the first."
    assert c["prompt_tokens"] > 0
    assert c["completion_tokens"] > 0
    assert c["judged_by"] == "rule"
    others = [f"{a}.0" for a in range(3) if a != int(c["agent"])]
    assert sorted(c["sees"]) == (others if c["round"] else [])

def test_results_go_where_the_specification_says(agentark, tmp_path):
    task = ["--test_dataset_name", "reasoning_gym:chain_sum", "--max_samples", 2]
    agentark("infer", "--method_name", "cot", "--model_name", "scripted", *task, cwd=tmp_path, check=True)
    assert (tmp_path/"results"/"reasoning_gym_chain_sum"/"scripted"/"cot_infer.jsonl").exists()

def test_a_local_file_in_the_specifications_format(tmp_path):
    questions = [{"query": "What is 2 + 3?", "gt": "5"}, {"query": "What is 4 - 1?", "gt": 3}]
    write_jsonl(tmp_path/"mine.jsonl", questions)
    stage = Infer("vanilla", "mine", "scripted", data_dir=str(tmp_path), output_path=str(tmp_path/"out.jsonl"))
    found = sorted(rows(stage.run()), key=lambda r: r["query"])
    assert [r["gt"] for r in found] == ["5", "3"]
    assert found[0]["source"] == "mine"


# Files of the first version, which kept no verdicts in its trajectories and no trajectories in its labels.

@pytest.fixture
def first_version(tmp_path) -> Path:
    "A copy of its files: evaluation writes beside what it reads."
    return shutil.copytree(FIRST_VERSION, tmp_path/"first_version")

def agree(new: list[dict], old: list[dict]):
    "The new records say all that the old ones say."
    assert len(new) == len(old)
    for a, b in zip(new, old):
        for key, value in b.items(): assert a[key] == value, key

def test_old_inference_is_labelled_alike(first_version, tmp_path):
    path = Label(str(first_version/"debate_infer.jsonl"), output_path=str(tmp_path/"new.jsonl")).run()
    old, new = rows(first_version/"debate_labeled.jsonl"), rows(path)
    for a, b in zip(new, old, strict=True): agree(a.pop("solutions"), b.pop("solutions"))
    agree(new, old)

def test_old_labels_give_the_same_traces(first_version, tmp_path):
    labels = str(first_version/"debate_labeled.jsonl")
    path = Traces(labels, first_rounds=False, output_path=str(tmp_path/"new.jsonl")).run()
    agree(rows(path), rows(first_version/"debate_traces.jsonl"))

def test_old_traces_are_read(first_version):
    traces = read_traces(first_version/"debate_traces.jsonl")
    old = rows(first_version/"debate_traces.jsonl")
    agree([t.to_dict() for t in traces], old)
    assert {t.weight for t in traces} == {1.0}

def test_old_inference_is_evaluated_and_shown(agentark, first_version):
    run = first_version/"debate_infer.jsonl"
    assert "accuracy" in agentark("eval", "--input_file", run, check=True).stdout
    said = agentark("show", "--input_file", run, check=True).stdout
    assert "4 questions" in said
    right = sum(answers.is_correct(t) for t in read_trajectories(run))
    assert said.count(" right ") == right > 0


# What one stage has found out, the next does not ask again.

def test_files_are_tables(first_version, tmp_path):
    "Each file has one schema, for `datasets` and in Parquet; verdicts may be missing in some rows."
    labelled = Label(str(first_version/"debate_infer.jsonl"), output_path=str(tmp_path/"labelled.jsonl")).run()
    traces = Traces(str(labelled), output_path=str(tmp_path/"traces.jsonl")).run()
    for path in (labelled, traces):
        table = loaded(path)
        parquet = datasets.Dataset.from_parquet(str(to_parquet(path)), cache_dir=str(tmp_path/"cache"))
        assert len(table) == len(parquet) == len(rows(path))
        assert set(table.column_names) == set(parquet.column_names)
    first = loaded(labelled)[0]
    assert [c["right"] for c in first["calls"]] == first["labels"]

def test_programs_are_run_once(monkeypatch, tmp_path):
    ran = []
    def passes(program, tests):
        ran.append(program)
        return True
    monkeypatch.setattr(answers, "passes", passes)
    answers._passes.cache_clear()
    path = tmp_path/"x_infer.jsonl"
    data = str(ROOT/"tests"/"data")
    Infer("self_consistency", "HumanEval", "scripted", data_dir=data, output_path=str(path), max_samples=2).run()
    calls = 2*5
    assert 2 <= len(ran) == len(set(ran)) < calls   # equal programs are run once
    answers._passes.cache_clear()   # as in another process
    found = list(ran)
    labelled = Label(str(path)).run()
    for file in (path, labelled):
        Show(str(file), html=str(tmp_path/"page.html")).run()
        assert all(answers.is_correct(t) for t in read_trajectories(file))
    assert ran == found
    answers._passes.cache_clear()   # forget what the sandbox has not said
