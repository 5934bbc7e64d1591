"Whatever a user gets wrong: one line that names the fix, a non-zero exit, and nothing lost."
import json
import pytest
from agentark.core.store import read_jsonl, write_jsonl

BASE = {
    "method_name": "llm_debate",
    "test_dataset_name": "reasoning_gym:chain_sum",
    "model_name": "scripted",
    "max_samples": 4,
}

def flags(**kw):
    "The command line of a stage with these fields."
    line = []
    for key, value in {**BASE, **kw}.items():
        line += [f"--{key}", *(value if isinstance(value, list) else [value])]
    return line

CASES = {
    "method": (dict(method_name="llm_debat"), "did you mean llm_debate or controlled_debate?"),
    "dataset": (dict(test_dataset_name="GSM9K"), "did you mean GSM8K"),
    "task": (dict(test_dataset_name="reasoning_gym:chain_sun"), "did you mean chain_sum"),
    "model": (dict(model_name="smollm2-135m"), "did you mean smollm2-135m-instruct"),
    "model folder": (dict(model_name="./outputs/none"), "no such model folder: ./outputs/none"),
    "config key": (dict(method_args=["num_agent", "3"]), "did you mean num_agents"),
    "config value": (dict(method_args=["num_agents", "many"]), "num_agents must be int"),
    "config name": (dict(method_config_name="config_mian"), "did you mean config_main"),
    "temperature": (dict(model_temperature="-0.5"), "temperature must be at least 0"),
    "missing file": (dict(test_dataset_name="none.jsonl"), "no such dataset file: none.jsonl"),
    "data folder": (dict(test_dataset_name="GSM8K", data_dir="/nowhere"), "no such folder: --data_dir /nowhere"),
    "split": (dict(split="tset"), "did you mean test"),
}

def one_line(done, expected):
    "The command failed, and said why in one line."
    assert done.returncode == 1
    assert expected in done.stderr, done.stderr
    assert done.stderr.startswith("agentark: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr

def nothing_in(path): return not path.exists() or not path.read_text()

@pytest.mark.parametrize("case", CASES)
def test_one_line(agentark, tmp_path, case):
    kw, expected = CASES[case]
    one_line(agentark("infer", *flags(**kw, output_path=tmp_path/"run.jsonl")), expected)
    assert nothing_in(tmp_path/"run.jsonl")

def test_unknown_flag(agentark):
    done = agentark("infer", *flags(), "--model_temperatur", 0)
    assert done.returncode == 2
    assert "--model_temperature" in done.stderr

def test_malformed_line_is_named(agentark, tmp_path):
    mine = tmp_path/"mine.jsonl"
    mine.write_text('{"query": "1+1?", "gt": "2"}\n{"query": \n')
    done = agentark("infer", *flags(test_dataset_name=mine, output_path=tmp_path/"run.jsonl"))
    one_line(done, f"{mine}, line 2")

def test_resume_with_another_configuration(agentark, tmp_path):
    path = tmp_path/"run.jsonl"
    agentark("infer", *flags(output_path=path), check=True)
    before = path.read_bytes()
    differing = [
        (dict(seed=1), "seed 0 -> 1"),
        (dict(method_args=["num_rounds", "3"]), "num_rounds"),
        (dict(method_name="cot"), "method_name 'llm_debate' -> 'cot'"),
    ]
    for kw, differs in differing:
        done = agentark("infer", *flags(**kw, output_path=path))
        one_line(done, differs)
        assert "--overwrite" in done.stderr
        assert path.read_bytes() == before
    said = agentark("infer", *flags(max_samples=6, output_path=path), check=True).stdout
    assert "wrote 2 trajectories" in said
    assert path.read_bytes().startswith(before)
    agentark("infer", *flags(seed=1, output_path=path), "--overwrite", check=True)
    assert next(read_jsonl(path))["seed"] == 1

def test_output_that_cannot_be_written(agentark, tmp_path):
    (tmp_path/"file").touch()
    done = agentark("infer", *flags(output_path=tmp_path/"file"/"run.jsonl"))
    one_line(done, "cannot write")
    assert "choose another output path" in done.stderr
    one_line(agentark("infer", *flags(output_path="/proc/agentark/run.jsonl")), "cannot write")

STAGES = [
    ("label", ["--input", "none.jsonl"], "no such file: none.jsonl"),
    ("traces", ["--input", "none.jsonl"], "no such file: none.jsonl"),
    ("sft", ["--model_name_or_path", "tiny-random", "--train_data_path", "none.jsonl"], "no such file: none.jsonl"),
    ("eval", ["--input_file", "none.jsonl"], "no such file: none.jsonl"),
    ("run", ["none.yaml"], "no such file: none.yaml"),
    ("models", ["--prepare", "smollm2-135"], "did you mean smollm2-135m-instruct"),
]

@pytest.mark.parametrize("stage, args, expected", STAGES)
def test_every_stage(agentark, stage, args, expected): one_line(agentark(stage, *args), expected)

SAID = "===== Solution 1 =====\nThe answer is 4.\n===== Solution 2 =====\nThe answer is 5."
PUBLISHED = {"query": "What is 2 + 2?", "gt": "4", "source": "GSM8K", "response": SAID}
SUMMARY = {"query": "Summarize.", "gt": "They like tea.", "source": "QMSum", "response": "They like tea."}
HOTPOT = {**SUMMARY, "source": "HotpotQA"}
OURS = {**PUBLISHED, "kind": "math"}
FAILED = {**PUBLISHED, "response": "", "error": "Traceback"}
LONG = {**SUMMARY, "gt": "tea " * 2000}

LABEL = {   # rows, flags, and what is said
    "empty file": ([], [], "empty; make it with agentark infer"),
    "pairs to grade": ([{"kind": "math", "gold": "1", "pred": "1"}], [], "not an inference record"),
    "no response": ([PUBLISHED, {"query": "x", "gt": "1"}], [], "record 2: not an inference record (no response"),
    "malformed call": ([{**OURS, "calls": [{"id": 1}]}], [], "call '1': id is 1, not str"),
    "kind": ([{**PUBLISHED, "kind": "maths"}], [], "did you mean math"),
    "id twice": ([{**PUBLISHED, "id": "a"}]*2, [], "occurs twice"),
    "another dataset": (
        [PUBLISHED],
        ["--dataset_name", "QMSum"],
        "1 of 1 records are of GSM8K, not of QMSum; pass --dataset_name GSM8K",
    ),
    "only failures": ([FAILED], [], "nothing to label: 1 of 1 questions failed"),
    "no gold": ([{**PUBLISHED, "gt": ""}], [], "1 have no readable gold answer"),
    "no judge": ([SUMMARY], [], "no rule decides 1 summary questions; name a judge with --model"),
    "never": ([SUMMARY], ["--judge", "never"], "leave out --judge never"),
    "no judge for short": ([HOTPOT], [], "let exact match decide with --judge never"),
    "always": ([PUBLISHED], ["--judge", "always"], "--judge always needs a judge"),
    "judge": ([SUMMARY], ["--model", "smollm2-135m"], "did you mean smollm2-135m-instruct"),
    "a judge that reads too little": ([LONG], ["--model", "tiny-random"], "use a model with a longer context"),
}

@pytest.mark.parametrize("case", LABEL)
def test_label(agentark, tmp_path, case):
    rows, args, expected = LABEL[case]
    write_jsonl(tmp_path/"x_infer.jsonl", rows)
    done = agentark("label", "--input", tmp_path/"x_infer.jsonl", *args)
    assert done.returncode == 1
    assert expected in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]   # below the progress bar, where a judge was asked
    assert last.startswith("agentark: ")
    assert done.stderr.count("agentark: ") == 1
    assert nothing_in(tmp_path/"x_labeled.jsonl")

PAIR = {"prompt": [{"role": "user", "content": "2+2?"}], "completion": [{"role": "assistant", "content": "4"}]}
BLANK = {**PAIR, "completion": [{"role": "assistant", "content": " "}]}
LEARN = {   # stage, its file, and what is said
    "no labels": ("traces", [PUBLISHED], "record 1: not a labelled record (no solutions or prompt)"),
    "no pair": ("sft", [PAIR, {"prompt": "2+2?"}], "record 2: needs `prompt` and `completion` as lists of messages"),
    "nothing to learn": ("sft", [BLANK], "record 1: the completion is empty"),
    "no examples": ("sft", [], "no examples in it"),
}

@pytest.mark.parametrize("case", LEARN)
def test_what_cannot_be_learnt_from(agentark, tmp_path, case):
    stage, rows, expected = LEARN[case]
    path = write_jsonl(tmp_path/"x.jsonl", rows)
    args = ["--input", path]
    if stage == "sft":
        args = ["--model_name_or_path", "tiny-random", "--train_data_path", path, "--output_dir", tmp_path/"out"]
    one_line(agentark(stage, *args), expected)

def test_a_mistyped_judge_binds_nothing(agentark, tmp_path):
    path = write_jsonl(tmp_path/"x_infer.jsonl", [SUMMARY])
    assert agentark("label", "--input", path, "--model", "tiny-rndom").returncode == 1
    said = agentark("label", "--input", path, "--model", "tiny-random", check=True).stdout
    assert "labelled 1 solutions" in said

def test_a_training_that_does_not_start_binds_nothing(agentark, tmp_path):
    "Whatever is asked for next in its folder is another configuration, and starts."
    path = write_jsonl(tmp_path/"x.jsonl", [PAIR])
    train = ["sft", "--model_name_or_path", "tiny-random", "--train_data_path", path, "--output_dir", tmp_path/"out"]
    one_line(agentark(*train, "--max_length", 2), "an example has 9 tokens and --max_length is 2")
    said = agentark(*train, "--max_length", 64, "--num_train_epochs", 1, check=True).stdout
    assert "trained on 1 traces" in said

def test_labels_do_not_overwrite_their_input(agentark, tmp_path):
    path = write_jsonl(tmp_path/"x_infer.jsonl", [PUBLISHED])
    one_line(agentark("label", "--input", path, "--output_path", path, "--overwrite"), "is the input")
    assert json.loads(path.read_text()) == PUBLISHED
    agentark("label", "--input", path, "--dataset_name", "GSM8K", check=True)
    row, = read_jsonl(tmp_path/"x_labeled.jsonl")
    assert row["labels"] == [True, False]
    assert [s["id"] for s in row["solutions"]] == [1, 2]
