"The wheel, made from the sdist, works away from the repository: no clone, no notebooks, an empty folder."
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path
import pytest
from conftest import ROOT


def quiet(*command, **options) -> str:
    "Standard output of a command that has to succeed."
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout

pytestmark = pytest.mark.slow   # building takes ten seconds

@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    "The sdist, and the wheel made from it."
    folder = tmp_path_factory.mktemp("dist")
    tree = folder/"tree"
    names = quiet("git", "ls-files", cwd=ROOT).splitlines()
    for name in names:
        if not (ROOT/name).exists(): continue
        (tree/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT/name, tree/name)
    setup = [sys.executable, "setup.py", "--quiet"]
    quiet(*setup, "sdist", "--dist-dir", folder, cwd=tree)
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive: archive.extractall(folder, filter="data")
    unpacked = folder/sdist.name.removesuffix(".tar.gz")
    quiet(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
          "--wheel-dir", folder, unpacked)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel

@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    "A folder with the wheel unpacked in `site`: what pip does with a wheel of pure Python."
    folder = tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(built[1]) as archive: archive.extractall(folder/"site")
    return folder

def away(folder: Path, *args, check: bool=True) -> str:
    "What the command line of the installed wheel says, in an empty folder."
    code = "import agentark, sys; from agentark.runs.cli import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(folder/"site"), "HF_HUB_OFFLINE": "1"}
    (folder/"work").mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=folder/"work", env=env,
                          capture_output=True, text=True)
    if check: assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout + done.stderr

def test_it_is_another_package(installed):
    code = "import agentark; print(agentark.__file__)"
    env = {**os.environ, "PYTHONPATH": str(installed/"site")}
    where = quiet(sys.executable, "-c", code, cwd=installed, env=env)
    assert where.startswith(str(installed/"site"))

def test_metadata_name_no_example(built):
    with zipfile.ZipFile(built[1]) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("METADATA")]
        metadata = archive.read(name).decode()
    assert "example.org" not in metadata
    head = message_from_string(metadata)
    assert {"vllm", "ray", "modal", "deepspeed", "tracking", "dev"} <= {*head.get_all("Provides-Extra")}

def test_infer_label_and_show(installed):
    task = "--method_name cot --test_dataset_name chains --model_name lab-m --max_samples 2 --model_max_tokens 48"
    said = away(installed, "infer", *task.split(), "--output_path", "run.jsonl")
    assert "wrote 2 trajectories" in said
    away(installed, "label", "run.jsonl")
    assert "What is" in away(installed, "show", "run_labeled.jsonl", "--id", "1")

def test_experiments_come_along(installed):
    said = away(installed, "run", "no_such_experiment", check=False)
    assert "demo" in said
    assert said.count("\n") == 1
    code = "from agentark.runs.experiment import find_experiment; print(find_experiment('demo'))"
    env = {**os.environ, "PYTHONPATH": str(installed/"site")}
    copied = quiet(sys.executable, "-c", code, cwd=installed/"work", env=env)
    assert copied.strip() == "papermill_runs/demo/demo.yaml"
    (installed/"work"/copied.strip()).write_text("""
task: &task {method_name: cot, test_dataset_name: chains, model_name: scripted}
steps:
  few:
    notebook: infer
    params: {<<: *task, max_samples: 3, output_path: "{out}/few.jsonl"}
""")
    assert "finished" in away(installed, "run", copied.strip())
    assert len((installed/"work"/"papermill_runs"/"demo"/"outputs"/"few.jsonl").read_text().splitlines()) == 3

def test_missing_parts_are_installed_with_pip(installed):
    code = "from agentark.core.extras import how_to_install; print(how_to_install('ray'))"
    env = {**os.environ, "PYTHONPATH": str(installed/"site")}
    assert quiet(sys.executable, "-c", code, cwd=installed, env=env).strip() == "pip install 'agentark[ray]'"
