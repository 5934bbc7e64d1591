"`agentark run` on the real notebooks: what a user of experiments does to them, and what must not happen then."
import json
import re
import shutil
import signal
from pathlib import Path
import pytest
import yaml
from conftest import ROOT, processes, start, wait_for, wait_until_ended
from agentark.runs.pipeline import Run

EXPERIMENT = """
notebooks: {root}/nbs/12_experiments
task: &sums {{test_dataset_name: "reasoning_gym:chain_sum", model_name: scripted, max_samples: 12}}
steps:
  samples:
    notebook: infer
    params: {{<<: *sums, method_name: self_consistency, split: train, output_path: "{{out}}/samples.jsonl"}}
  labels: {{notebook: label, params: {{input: "{{samples}}", output_path: "{{out}}/labels.jsonl"}}}}
  traces:
    notebook: traces
    params: {{input: "{{labels}}", min_correct: 1, output_path: "{{out}}/traces.jsonl"}}
  student:
    notebook: sft
    params:
      model_name_or_path: tiny-random
      train_data_path: "{{traces}}"
      num_train_epochs: 1
      output_dir: "{{out}}/student"
"""
STEPS = ["samples", "labels", "traces", "student"]

@pytest.fixture(scope="module")
def finished(kernels, tmp_path_factory) -> Path:
    "A project with an experiment that is done."
    project = tmp_path_factory.mktemp("project")
    (project/"pyproject.toml").touch()
    (project/"runs"/"exp").mkdir(parents=True)
    path = project/"runs"/"exp"/"exp.yaml"
    path.write_text(EXPERIMENT.format(root=ROOT))
    Run(str(path)).run()
    return project

@pytest.fixture
def project(finished, tmp_path) -> Path:
    "The project, moved to another place."
    return shutil.copytree(finished, tmp_path/"moved")

def became(said: str) -> dict[str, str]:
    "What became of each step, as the run has said it."
    found = {}
    for name, what in re.findall(r"^\[\d+/\d+\] (\w+): (done before|running .*)$", said, re.M):
        found[name] = "done" if what == "done before" else "anew" if "anew" in what else "run"
    return found

def rewritten(path: Path, old: str, new: str):
    "Replace a text in a file."
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

@pytest.mark.slow
def test_the_same_from_everywhere(agentark, project):
    "In a moved project, by another path and from another working directory there is nothing to do."
    done = dict.fromkeys(STEPS, "done")
    assert became(agentark("run", "runs/exp/exp.yaml", cwd=project, check=True).stdout) == done
    assert became(agentark("run", "exp.yaml", cwd=project/"runs"/"exp", check=True).stdout) == done
    assert became(agentark("run", project/"runs"/"exp"/"exp.yaml", check=True).stdout) == done

@pytest.mark.slow
def test_a_changed_step_in_a_copied_folder(agentark, project):
    "What is copied is done; with other epochs the training alone is redone, and what it had made is kept."
    copy = shutil.copytree(project/"runs"/"exp", project/"runs"/"mine")
    before = (copy/"outputs"/"traces.jsonl").read_bytes()
    rewritten(copy/"exp.yaml", "num_train_epochs: 1", "num_train_epochs: 2")
    done = agentark("run", copy/"exp.yaml", check=True)
    assert became(done.stdout) == {**dict.fromkeys(STEPS, "done"), "student": "anew"}
    assert "num_train_epochs 1.0 -> 2.0" in done.stdout
    assert done.stderr == ""
    manifest = json.loads((copy/"outputs"/"student"/"training.meta.json").read_text())
    assert manifest["config"]["num_train_epochs"] == 2
    assert (copy/"outputs"/"earlier"/"student-1"/"student"/"config.json").exists()
    assert (copy/"outputs"/"traces.jsonl").read_bytes() == before
    page = json.loads((copy/"outputs"/"04_student.ipynb").read_text())
    assert "".join(page["cells"][0]["source"]) == "# exp: student"

@pytest.mark.slow
def test_fewer_questions_than_were_answered(agentark, project):
    "A result never counts more questions than were asked; what depends on it is redone, and nothing else."
    out = project/"runs"/"exp"/"outputs"
    said = agentark("run", out.parent/"exp.yaml", "--set", "max_samples=5", "--steps", "labels", check=True).stdout
    assert became(said) == {"samples": "anew", "labels": "anew"}
    for name in ("samples", "labels"): assert len((out/f"{name}.jsonl").read_text().splitlines()) == 5

MISTAKES = {
    "num_train_epochs: 1": ("num_epochs: 1", "did you mean num_train_epochs"),
    "model_name: scripted": ("model: scripted", "did you mean model_name"),
    ", model_name: scripted": ("", "step samples: missing model_name"),
    'train_data_path: "{traces}"': ("seed: 1", "step student: missing train_data_path"),
    'output_dir: "{out}/student"': ("seed: 1", "step student: missing output_dir"),
    "min_correct: 1": ("min_correct: one", "min_correct must be int"),
    "  student:": ("  traces:", "traces is there twice"),
    "min_correct: 1,": ("min_correct: 1, min_correct: 2,", "min_correct is there twice"),
    "notebook: sft": ("notebook: stf", "did you mean sft"),
    '"{traces}"': ('"{trace}"', "did you mean traces"),
    "{out}/labels": ("{out}/samples", "steps samples and labels both write"),
}

@pytest.mark.parametrize("right", MISTAKES)
def test_mistakes_are_found_before_anything_runs(agentark, tmp_path, right):
    wrong, message = MISTAKES[right]
    path = tmp_path/"e.yaml"
    path.write_text(EXPERIMENT.format(root=ROOT))
    rewritten(path, right, wrong)
    done = agentark("run", path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("agentark:") == 1
    assert not (tmp_path/"outputs").exists()

def test_the_name_of_a_parameter_is_no_code(agentark, tmp_path):
    experiment = yaml.safe_load(EXPERIMENT.format(root=ROOT))
    experiment["steps"]["samples"]["params"]["x = 1\nopen('pwned', 'w')\ny"] = 1
    (tmp_path/"e.yaml").write_text(yaml.safe_dump(experiment))
    assert agentark("run", tmp_path/"e.yaml").returncode == 1
    assert not [*tmp_path.rglob("pwned")]

def test_what_is_left_out_has_the_default_of_the_stage(agentark, tmp_path):
    "Not the 24 questions that the notebook shows something with."
    path = tmp_path/"e.yaml"
    path.write_text(EXPERIMENT.format(root=ROOT).replace(", max_samples: 12", ""))
    said = agentark("run", path, "--dry_run", "--steps", "samples", check=True).stdout
    questions = re.search(r"1 samples .*never run \| +([\d,]+)", said)[1]
    assert int(questions.replace(",", "")) > 24

@pytest.mark.parametrize("path", sorted((ROOT/"papermill_runs").glob("*/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_has_a_plan(agentark, path, tmp_path):
    "Each is valid, and says what it would do, without doing anything."
    outputs = path.parent/"outputs"
    before = outputs.exists()
    done = agentark("run", path, "--dry_run", "--tokens_per_second", 1000, cwd=tmp_path, check=True)
    assert "hours at 1,000 tokens a second" in done.stdout
    assert done.stderr == ""
    assert outputs.exists() == before

def test_settings_that_are_given_one_by_one_all_count(agentark, tmp_path):
    path = tmp_path/"e.yaml"
    path.write_text(EXPERIMENT.format(root=ROOT))
    settings = ["--set", "samples.max_samples=7", "--set", "samples.method_args={parallel_num: 3}"]
    said = agentark("run", path, "--dry_run", "--steps", "samples", *settings, check=True).stdout
    assert re.search(r"1 samples .*never run \| +7 \| +21 ", said)

def test_experiments_are_listed_and_found_by_name(agentark, tmp_path):
    listed = agentark("run", cwd=tmp_path, check=True).stdout
    assert re.search(r"^  demo +debate, its controls", listed, re.M)
    assert "1 debate_train" in agentark("run", "demo", "--dry_run", "--steps", "debate_train", cwd=tmp_path).stdout
    assert "did you mean demo" in agentark("run", "dmo").stderr


# Two branches that do not need each other.

BRANCHES = """
notebooks: {root}/nbs/12_experiments
task: &sums {{test_dataset_name: "reasoning_gym:chain_sum", model_name: {model}, {more}}}
steps:
  debate: {{notebook: infer, params: {{<<: *sums, method_name: llm_debate, output_path: "{{out}}/debate.jsonl"}}}}
  single: {{notebook: infer, params: {{<<: *sums, method_name: cot, output_path: "{{out}}/single.jsonl"}}}}
  labels: {{notebook: label, params: {{input: "{{debate}}", output_path: "{{out}}/labels.jsonl"}}}}
"""

def branches(folder: Path, model: str = "scripted", more: str = "max_samples: 40") -> Path:
    "The YAML file of an experiment with two branches."
    folder.mkdir()
    (folder/"e.yaml").write_text(BRANCHES.format(root=ROOT, model=model, more=more))
    return folder/"e.yaml"

def results(path: Path) -> dict[str, str]:
    "The files of results of an experiment, without how long each answer took."
    files = sorted((path.parent/"outputs").glob("*.jsonl"))
    return {file.name: re.sub(r'"wall_s": [^,]*', "", file.read_text()) for file in files}

@pytest.fixture(scope="module")
def one_by_one(kernels, tmp_path_factory) -> dict[str, str]:
    path = branches(tmp_path_factory.mktemp("one")/"by_one")
    Run(str(path)).run()
    return results(path)

@pytest.mark.slow
def test_side_by_side_is_the_same(agentark, tmp_path, one_by_one):
    path = branches(tmp_path/"two")
    said = agentark("run", path, "--jobs", 2, check=True).stdout
    assert said.index("single: running") < said.index("debate: ", said.index("debate: running") + 1), "not side by side"
    assert len(one_by_one) == 3
    assert results(path) == one_by_one

@pytest.mark.slow
@pytest.mark.engines
def test_on_ray_is_the_same(agentark_process, tmp_path, one_by_one):
    pytest.importorskip("ray")
    path = branches(tmp_path/"ray")
    agentark_process("run", path, "--ray_address", "local", check=True)
    assert results(path) == one_by_one

@pytest.mark.slow
def test_stopped_it_saves_and_ends(agentark, tmp_path):
    "One line, no process left, and what was answered is there to go on from."
    slow = "max_samples: 30, model_max_tokens: 48, batch_size: 3, max_live: 1"
    path = branches(tmp_path/"stopped", "tiny-random", slow)
    mark = f"stopped-{tmp_path}"
    run = start("run", path, "--jobs", 2, mark=mark)
    file = path.parent/"outputs"/"debate.jsonl"
    wait_for(lambda: file.exists() and file.read_text().count("\n") > 2, run)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert said.strip().splitlines()[-1].startswith("agentark: interrupted; ")
    assert "Traceback" not in said
    wait_until_ended(mark)
    assert not processes(f"AGENTARK_TEST={mark}")
    assert json.loads((path.parent/"outputs"/"debate.meta.json").read_text())["status"] == "interrupted"
    assert re.search(r"debate +\| go on \| +it was interrupted", agentark("run", path, "--status").stdout)
