"The repository is in order: notebooks, package and README agree, and every notebook runs."
import filecmp, os, shutil, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
import pytest
from readme import readme

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
SLOW = {"05_vllm", "09_ray", "01f_sandbox", "14_mapcoder", "sft", "models", "01_sft", "01_pipeline", "03_models", "02_bench", "00_infer", "04b_benchmarks", "00b_text_metrics", "lab_pretrain", "what_debate_adds", "agents_and_rounds", "training_questions", "teachers_and_students"}

def differing(a: Path, b: Path) -> list[str]:
    "Files that are not the same in two trees, or only in one."
    keep = lambda root: {p.relative_to(root) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}
    return sorted(str(f) for f in keep(a) | keep(b) if not ((a/f).exists() and (b/f).exists() and filecmp.cmp(a/f, b/f, shallow=False)))

@pytest.mark.parametrize("command, folder", [("nbdev_export", "agentark"), ("nbdev_clean", "nbs")])
def test_generated_files_are_up_to_date(command, folder, tmp_path):
    copy = tmp_path/"agentark-copy"
    copy.mkdir()
    for name in ("nbs", "agentark"): shutil.copytree(ROOT/name, copy/name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py"): shutil.copy(ROOT/name, copy)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    subprocess.run([Path(sys.executable).parent/command], cwd=copy, check=True, env=env)
    assert differing(ROOT/folder, copy/folder) == [], "run `make notebooks` and commit"

def test_readme_is_made_from_the_index_notebook():
    assert (ROOT/"README.md").read_text() == readme(), "run `make notebooks` and commit"

FLAGS = ["--flags", " ".join(p for p in ("vllm", "ray", "modal") if find_spec(p))]   # cells that need these

def marks(notebook: Path) -> list:
    "Slow ones stay out of `make check`; those that start vLLM take turns on the machine."
    return [pytest.mark.slow]*(notebook.stem in SLOW) + [pytest.mark.xdist_group("vllm")]*(notebook.stem == "05_vllm")

@pytest.mark.parametrize("notebook", [pytest.param(n, marks=marks(n)) for n in NOTEBOOKS], ids=str)
def test_notebook(notebook, tmp_path):
    done = subprocess.run([Path(sys.executable).parent/"nbdev_test", "--path", notebook, "--do_print", *FLAGS], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

def test_import_is_light():
    code = "import sys, agentark, agentark.runs.cli; print([m for m in ('torch', 'transformers', 'datasets', 'trl', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

def test_runtime_needs_no_nbdev():
    for path in (ROOT/"agentark").rglob("*.py"):
        if path.name != "_modidx.py": assert "fastcore" not in path.read_text() and "import nbdev" not in path.read_text(), path
