"Whatever a user gets wrong: one line that names the fix, a non-zero exit, and nothing lost."
import json
import pytest

BASE = {"method_name": "llm_debate", "test_dataset_name": "reasoning_gym:chain_sum", "model_name": "scripted", "max_samples": 4}

def flags(**kw): return [x for k, v in {**BASE, **kw}.items() for x in (f"--{k}", *(v if isinstance(v, list) else [v]))]

CASES = {
    "method": (dict(method_name="llm_debat"), "did you mean llm_debate or controlled_debate?"),
    "dataset": (dict(test_dataset_name="GSM9K"), "did you mean GSM8K"),
    "task": (dict(test_dataset_name="reasoning_gym:chain_sun"), "did you mean chain_sum"),
    "model": (dict(model_name="smollm2-135m"), "did you mean smollm2-135m-instruct"),
    "model folder": (dict(model_name="./outputs/none"), "no such model folder: ./outputs/none"),
    "config key": (dict(method_args=["num_agent", "3"]), "did you mean num_agents"),
    "config value": (dict(method_args=["num_agents", "many"]), "num_agents must be int"),
    "config name": (dict(method_config_name="config_mian"), "did you mean config_main"),
    "temperature": (dict(model_temperature="-0.5"), "temperature must be 0 (greedy) or more"),
    "missing file": (dict(test_dataset_name="none.jsonl"), "no such dataset file: none.jsonl"),
    "data folder": (dict(test_dataset_name="GSM8K", data_dir="/nowhere"), "no such folder: --data_dir /nowhere"),
    "split": (dict(split="tset"), "did you mean test"),
}

@pytest.mark.parametrize("case", CASES)
def test_one_line(agentark, tmp_path, case):
    kw, expected = CASES[case]
    done = agentark("infer", *flags(**kw, output_path=tmp_path/"run.jsonl"))
    assert done.returncode == 1 and expected in done.stderr, done.stderr
    assert done.stderr.startswith("agentark: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path/"run.jsonl").exists() or not (tmp_path/"run.jsonl").read_text()

def test_unknown_flag(agentark):
    done = agentark("infer", *flags(), "--model_temperatur", 0)
    assert done.returncode == 2 and "--model_temperature" in done.stderr

def test_malformed_line_is_named(agentark, tmp_path):
    (tmp_path/"mine.jsonl").write_text('{"query": "1+1?", "gt": "2"}\n{"query": \n')
    done = agentark("infer", *flags(test_dataset_name=tmp_path/"mine.jsonl", output_path=tmp_path/"run.jsonl"))
    assert done.returncode == 1 and f"{tmp_path}/mine.jsonl, line 2" in done.stderr

def test_resume_with_another_configuration(agentark, tmp_path):
    path = tmp_path/"run.jsonl"
    agentark("infer", *flags(output_path=path), check=True)
    before = path.read_bytes()
    for kw, differs in ((dict(seed=1), "seed 0 -> 1"), (dict(method_args=["num_rounds", "3"]), "num_rounds"), (dict(method_name="cot"), "method_name 'llm_debate' -> 'cot'")):
        done = agentark("infer", *flags(**kw, output_path=path))
        assert done.returncode == 1 and differs in done.stderr and "--overwrite" in done.stderr and path.read_bytes() == before
    assert "wrote 2 trajectories" in agentark("infer", *flags(max_samples=6, output_path=path), check=True).stdout
    assert path.read_bytes().startswith(before)
    agentark("infer", *flags(seed=1, output_path=path), "--overwrite", check=True)
    assert json.loads(path.read_text().splitlines()[0])["seed"] == 1

def test_output_that_cannot_be_written(agentark, tmp_path):
    (tmp_path/"file").touch()
    done = agentark("infer", *flags(output_path=tmp_path/"file"/"run.jsonl"))
    assert done.returncode == 1 and "cannot write" in done.stderr and "choose another output path" in done.stderr
    done = agentark("infer", *flags(output_path="/proc/agentark/run.jsonl"))
    assert done.returncode == 1 and "cannot write" in done.stderr

@pytest.mark.parametrize("stage, args, expected", [
    ("label", ["--input", "none.jsonl"], "no such file: none.jsonl"),
    ("traces", ["--input", "none.jsonl"], "no such file: none.jsonl"),
    ("sft", ["--model_name_or_path", "tiny-random", "--train_data_path", "none.jsonl"], "no such file: none.jsonl"),
    ("eval", ["--input_file", "none.jsonl"], "no such file: none.jsonl"),
    ("run", ["none.yaml"], "no such file: none.yaml"),
    ("models", ["--prepare", "smollm2-135"], "did you mean smollm2-135m-instruct"),
])
def test_every_stage(agentark, stage, args, expected):
    done = agentark(stage, *args)
    assert done.returncode == 1 and expected in done.stderr and done.stderr.count("\n") == 1, done.stderr

PUBLISHED = {"query": "What is 2 + 2?", "gt": "4", "source": "GSM8K", "response": "===== Solution 1 =====\nThe answer is 4.\n===== Solution 2 =====\nThe answer is 5."}
SUMMARY = {"query": "Summarize.", "gt": "They like tea.", "source": "QMSum", "response": "They like tea."}
LABEL = {
    "empty file": ([], [], "empty; make it with agentark infer"),
    "pairs to grade": ([{"kind": "math", "gold": "1", "pred": "1"}], [], "not an inference record"),
    "no response": ([PUBLISHED, {"query": "x", "gt": "1"}], [], "record 2: not an inference record (no response"),
    "malformed call": ([{**PUBLISHED, "kind": "math", "calls": [{"id": 1}]}], [], "record 1: missing or malformed field"),
    "kind": ([{**PUBLISHED, "kind": "maths"}], [], "did you mean math"),
    "id twice": ([{**PUBLISHED, "id": "a"}]*2, [], "occurs twice"),
    "another dataset": ([PUBLISHED], ["--dataset_name", "QMSum"], "1 of 1 records are of GSM8K, not of QMSum; pass --dataset_name GSM8K"),
    "only failures": ([{**PUBLISHED, "response": "", "error": "Traceback"}], [], "nothing to label: 1 of 1 questions failed"),
    "no gold": ([{**PUBLISHED, "gt": ""}], [], "1 have no readable gold answer"),
    "no judge": ([SUMMARY], [], "no rule decides 1 summary questions; name a judge with --model"),
    "never": ([SUMMARY], ["--judge", "never"], "leave out --judge never"),
    "no judge for short": ([{**SUMMARY, "source": "HotpotQA"}], [], "let exact match decide with --judge never"),
    "always": ([PUBLISHED], ["--judge", "always"], "--judge always needs a judge"),
    "judge": ([SUMMARY], ["--model", "smollm2-135m"], "did you mean smollm2-135m-instruct"),
    "GPUs": ([SUMMARY], ["--model", "tiny-random", "--tensor_parallel_size", "4"], "add --use_vllm"),
    "a judge that reads too little": ([{**SUMMARY, "gt": "tea " * 2000}], ["--model", "tiny-random"], "use a model with a longer context"),
}

@pytest.mark.parametrize("case", LABEL)
def test_label(agentark, tmp_path, case):
    rows, args, expected = LABEL[case]
    (tmp_path/"x_infer.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = agentark("label", "--input", tmp_path/"x_infer.jsonl", *args)
    assert done.returncode == 1 and expected in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]   # below the progress bar, where a judge was asked
    assert last.startswith("agentark: ") and done.stderr.count("agentark: ") == 1
    assert not (tmp_path/"x_labeled.jsonl").exists() or not (tmp_path/"x_labeled.jsonl").read_text()

def test_a_mistyped_judge_binds_nothing(agentark, tmp_path):
    (tmp_path/"x_infer.jsonl").write_text(json.dumps(SUMMARY) + "\n")
    assert agentark("label", "--input", tmp_path/"x_infer.jsonl", "--model", "tiny-rndom").returncode == 1
    assert "labelled 1 solutions" in agentark("label", "--input", tmp_path/"x_infer.jsonl", "--model", "tiny-random", check=True).stdout

def test_labels_do_not_overwrite_their_input(agentark, tmp_path):
    (tmp_path/"x_infer.jsonl").write_text(json.dumps(PUBLISHED) + "\n")
    done = agentark("label", "--input", tmp_path/"x_infer.jsonl", "--output_path", tmp_path/"x_infer.jsonl", "--overwrite")
    assert done.returncode == 1 and "is the input" in done.stderr and json.loads((tmp_path/"x_infer.jsonl").read_text()) == PUBLISHED
    agentark("label", "--input", tmp_path/"x_infer.jsonl", "--dataset_name", "GSM8K", check=True)
    row, = (json.loads(l) for l in (tmp_path/"x_labeled.jsonl").read_text().splitlines())
    assert row["labels"] == [True, False] and [s["id"] for s in row["solutions"]] == [1, 2]
