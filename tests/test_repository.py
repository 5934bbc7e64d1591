"The repository is in order: notebooks, package and README agree, and every notebook runs."
import ast, filecmp, os, re, shutil, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
import pytest
from readme import readme

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
SLOW = {"05_vllm", "09_ray", "01_sandbox", "20_mapcoder", "sft", "models", "02_sft", "00_pipeline", "02_models", "01_speed", "21_infer", "00_benchmarks", "02_text_metrics", "lab_pretrain", "what_debate_adds", "agents_and_rounds", "training_questions", "teachers_and_students"}

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

def flags(config) -> list[str]:
    "Cells marked with what is installed run, and those marked as slow unless slow tests are left out."
    found = [name for name in ("vllm", "ray", "modal") if find_spec(name)]
    if "not slow" not in config.getoption("markexpr"): found.append("slow")
    return ["--flags", " ".join(found)]

def marks(notebook: Path) -> list:
    "Slow ones stay out of `make check`; those that start vLLM take turns on the machine."
    return [pytest.mark.slow]*(notebook.stem in SLOW) + [pytest.mark.xdist_group("vllm")]*(notebook.stem == "05_vllm")

@pytest.mark.parametrize("notebook", [pytest.param(n, marks=marks(n)) for n in NOTEBOOKS], ids=str)
def test_notebook(notebook, tmp_path, request):
    done = subprocess.run([Path(sys.executable).parent/"nbdev_test", "--path", notebook, "--do_print", *flags(request.config)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

def test_import_is_light():
    code = "import sys, agentark, agentark.runs.cli; print([m for m in ('torch', 'transformers', 'datasets', 'trl', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

def test_runtime_needs_no_nbdev():
    for path in (ROOT/"agentark").rglob("*.py"):
        if path.name != "_modidx.py": assert "fastcore" not in path.read_text() and "import nbdev" not in path.read_text(), path

NUMBER = re.compile(r"(\d\d)_(\w+)")
LIBRARY = [n for n in NOTEBOOKS if n.parts[1] <= "11_runs" and len(n.parts) == 3]   # experiments are found by name

def numbered(names) -> list[int]:
    "The numbers that names begin with."
    return [int(NUMBER.fullmatch(name)[1]) for name in names]

def test_folders_and_notebooks_are_numbered_without_gaps():
    rooms = sorted({n.parts[1] for n in NOTEBOOKS if len(n.parts) == 3})
    assert numbered(rooms) == list(range(len(rooms)))
    for room in sorted({n.parts[1] for n in LIBRARY}):
        inside = sorted(n.stem for n in LIBRARY if n.parts[1] == room)
        assert numbered(inside) == list(range(len(inside))), room

def module_of(notebook: Path) -> str:
    "The dotted name that a notebook exports to."
    return f"agentark.{NUMBER.fullmatch(notebook.parts[1])[2]}.{NUMBER.fullmatch(notebook.stem)[2]}"

def imported(path: Path) -> set[str]:
    "The modules of this package that a module imports, wherever in its text."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        if not isinstance(node, ast.ImportFrom): continue
        here = path.relative_to(ROOT).with_suffix("").parts
        base = ".".join(here[:-node.level]) + "." if node.level else ""
        found |= {f"{base}{node.module}", *(f"{base}{node.module}.{a.name}" for a in node.names)}
    return {name for name in found if name.startswith("agentark.")}

def test_number_is_reading_order_is_import_order():
    order = {module_of(n): n for n in LIBRARY}
    upward = []
    for module, notebook in order.items():
        path = ROOT/(module.replace(".", "/") + ".py")
        for other in imported(path) & order.keys():
            if order[other] >= notebook: upward.append(f"{notebook} imports {order[other]}")
    assert upward == []
