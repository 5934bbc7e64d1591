"Scenarios of what must not go wrong, each a script that exits with 0 where it is right, 77 where it cannot be tried."
import json
import os
import subprocess
import tempfile
from pathlib import Path
import pytest
from conftest import AGENTARK, ROOT

SHARED = Path(os.environ.get("AGENTARK_DATA", ROOT.parent/"shared/data")).parent
CASES = SHARED/"cases/reliability.jsonl"
SCENARIOS = [json.loads(line) for line in CASES.read_text().splitlines()] if CASES.exists() else []
MOVED = {    # modules that the scripts name, and where they are now
    "from agentark.core.sandbox import": "from agentark.sandbox.sandbox import",
    "from agentark.core import sandbox": "from agentark.sandbox import sandbox",
    "/nbs/experiments": "/nbs/12_experiments",
    "from agentark.core.equality import": "from agentark.grading.equality import",
}

def test_there_are_scenarios():
    if not SCENARIOS: pytest.skip(f"there is no {CASES.name} beside this checkout")

@pytest.fixture
def open_folder():
    "An empty folder that every user may enter."
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield folder

@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["id"])
def test_scenario(scenario, open_folder):
    script = scenario["script"]
    for old, new in MOVED.items(): script = script.replace(old, new)
    path = f"{AGENTARK.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PROJECT": str(ROOT), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=open_folder, env=environment, capture_output=True, text=True)
    if done.returncode == 77: pytest.skip("not possible on this machine")
    assert done.returncode == 0, f"{scenario['title']}\n{done.stdout}{done.stderr}"
