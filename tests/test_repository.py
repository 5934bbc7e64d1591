"The repository is in order: notebooks, package and README agree, every notebook runs and shows what it stores."
import ast
import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
from contents import written
from links import broken
from notebooks import ROOT, comparable, differences, flags, notebooks, run
from readme import readme
from style import cells, counted

NOTEBOOKS = [p.relative_to(ROOT) for p in notebooks()]
# notebooks by their names without numbers
ENGINES = {"vllm", "ray"}    # these start servers and clusters, and take turns on the machine
STUDIES = {
    "what_debate_adds", "agents_and_rounds", "training_questions", "teachers_and_students", "several_paths",
    "lab_pretrain", "reward_models", "reward_model_at_inference", "pad", "paper_lab", "gold_free", "evolution",
    "ways_to_teach",
}
SLOW = """
    config sandbox chains models transformers openai modal cache serving self_consistency dylan_humaneval macnet_srdd
    evomac chatdev mapcoder infer text_metrics evaluate training students weights validation sft figures
    steps spans label_steps step_loss step_trainer prm prm_report prm_engine eval_prm reward_model rollouts judged
    process_grpo grpo accepted reinforcement solver pretraining_data pretrain soak speed grader
    plan outlook divergence on_policy opd pairs dpo perplexity quality redraw
    pipeline study compare methods add_a_dataset quickstart distil_a_model
""".split()   # more than two or three seconds

def files_below(root: Path) -> set[Path]:
    "Paths of the files below a folder, without caches."
    skipped = {"__pycache__", ".ipynb_checkpoints"}
    return {p.relative_to(root) for p in root.rglob("*") if p.is_file() and not skipped & {*p.parts}}

def differing(a: Path, b: Path) -> list[str]:
    "Files that are not the same in two trees, or only in one."
    everything = files_below(a) | files_below(b)
    same = lambda f: (a/f).exists() and (b/f).exists() and filecmp.cmp(a/f, b/f, shallow=False)
    return sorted(str(f) for f in everything if not same(f))

@pytest.mark.parametrize("command, folder", [("nbdev_export", "agentark"), ("nbdev_clean", "nbs")])
def test_generated_files_are_up_to_date(command, folder, tmp_path):
    copy = tmp_path/"agentark-copy"
    copy.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "agentark"): shutil.copytree(ROOT/name, copy/name, ignore=ignored)
    for name in ("settings.ini", "setup.py"): shutil.copy(ROOT/name, copy)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    subprocess.run([Path(sys.executable).parent/command], cwd=copy, check=True, env=env)
    assert differing(ROOT/folder, copy/folder) == [], "run `make notebooks` and commit"

def test_readme_is_made_from_the_index_notebook():
    assert (ROOT/"README.md").read_text() == readme(), "run `make notebooks` and commit"

def test_every_link_and_picture_is_there():
    "From the notebook's own place, and from the README's."
    assert broken() == []

def test_notebooks_lead_to_the_next_and_to_the_contents():
    stale = [str(path.relative_to(ROOT)) for path, text in written().items() if path.read_text() != text]
    assert stale == [], "run `make notebooks` and commit"

def test_the_gpu_lock_agrees_with_the_other():
    "What both pin is the same version, but for what vLLM's CUDA build decides."
    def pins(name): return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT/name).read_text(), re.M))
    cpu, gpu = pins("constraints.txt"), pins("constraints-gpu.txt")
    assert {"torch", "vllm", "transformers", "trl"} <= gpu.keys()
    for name in ("transformers", "trl", "peft", "datasets", "accelerate"): assert gpu[name] == cpu[name], name

def marks(notebook: Path) -> list:
    "Which notebooks stay out of `make check`, and which need the machine for themselves."
    name = re.sub(r"^\d\d_", "", notebook.stem)
    found = {"engines": ENGINES, "study": STUDIES, "slow": ENGINES | STUDIES | {*SLOW}}
    return [getattr(pytest.mark, mark) for mark, names in found.items() if name in names]

@pytest.mark.parametrize("notebook", [pytest.param(n, marks=marks(n)) for n in NOTEBOOKS], ids=str)
def test_notebook(notebook, tmp_path, request):
    "It runs, and shows what is stored in it."
    slow = "not slow" not in request.config.getoption("markexpr")
    ran = run(ROOT/notebook, flags(slow), str(tmp_path))
    assert ran.error is None, ran.error
    compared = comparable(ROOT/notebook) and notebook.stem not in STUDIES   # studies sample from models
    found = differences(ROOT/notebook, ran) if compared else []
    assert found == [], "\n".join(["stored outputs are not what the code gives: run `make outputs`", *found])

def test_import_is_light():
    heavy = ("torch", "transformers", "datasets", "trl", "pandas", "scipy", "matplotlib")
    code = f"import sys, agentark, agentark.runs.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

@pytest.mark.parametrize("said, then", [("ACTIVE", "ACTIVE"), (None, "PASSIVE")])
def test_waiting_threads_sleep_unless_told_otherwise(said, then):
    "Before torch is loaded, since it reads this once; `agentark bench busy` says what it is worth."
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if said: env["OMP_WAIT_POLICY"] = said
    code = "import os, agentark; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == then

def test_runtime_needs_no_nbdev():
    for path in (ROOT/"agentark").rglob("*.py"):
        if path.name == "_modidx.py": continue
        assert "fastcore" not in path.read_text(), path
        assert "import nbdev" not in path.read_text(), path

NUMBER = re.compile(r"(\d\d)_(\w+)")
LIBRARY = [n for n in NOTEBOOKS if len(n.parts) == 3 and n.parts[1] <= "11_runs"]   # experiments are found by name

def numbered(names) -> list[int]:
    "The numbers that names begin with."
    return [int(NUMBER.fullmatch(name)[1]) for name in names]

def test_rooms_are_numbered_without_gaps():
    rooms = sorted({n.parts[1] for n in NOTEBOOKS if len(n.parts) == 3})
    assert numbered(rooms) == list(range(len(rooms)))

@pytest.mark.parametrize("room", sorted({n.parts[1] for n in LIBRARY}))
def test_notebooks_are_numbered_without_gaps(room):
    inside = sorted(n.stem for n in LIBRARY if n.parts[1] == room)
    assert numbered(inside) == list(range(len(inside)))

def module_of(notebook: Path) -> str:
    "The dotted name of the module that a notebook exports."
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
        others = imported(path) & order.keys()
        upward += [f"{notebook} imports {order[o]}" for o in sorted(others) if order[o] >= notebook]
    assert upward == []

@pytest.fixture(scope="module")
def style():
    "The counts of `make style` over all cells."
    return counted(cells(ROOT/"nbs"))

def test_cells_fit_a_page(style): assert style.cut/style.pieces < 0.02

def test_no_cell_is_too_long(style): assert style.long == 0, "python tests/style.py --cells names them"

def test_statements_have_lines_of_their_own(style): assert style.semicolons/style.lines < 0.002

def test_lines_are_not_dense(style): assert style.nodes/style.lines < 10.5
