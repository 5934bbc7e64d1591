"The script for a GPU runs on a CPU too, so that minutes on a device are not spent on its mistakes."
import json
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent

@pytest.mark.slow
def test_every_part_runs(tmp_path):
    out = tmp_path/"check.json"
    told = ["--model", "lab-s", "--steps", "2", "--questions", "8", "--out", str(out)]
    ran = subprocess.run([sys.executable, ROOT/"papermill_runs/gpu/check.py", *told], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["inference"]["alone_as_in_a_batch"] == "8 of 8"
    assert found["rsft"]["sdpa"]["last_loss"] > 0
    assert found["reward_model"]["examples"] > 0
    assert found["reinforcement"]["sampled_tokens_per_second"] > 0
