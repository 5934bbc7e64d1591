"Memory does not grow with the questions: five thousand more of them take no stage more than 20 MB."
import subprocess
import sys
import pytest
from agentark.core.store import read_jsonl, write_jsonl
from agentark.methods.infer import Infer

FEW, MANY = 1_000, 6_000
PEAK = """
import resource, subprocess, sys
code = "from agentark.runs.cli import main; sys.exit(main())"
subprocess.run([sys.executable, "-c", "import sys; " + code, *sys.argv[1:]], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss/1024)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Runs of few and of many questions: twenty debates of six calls, again and again under other ids."
    folder = tmp_path_factory.mktemp("scale")
    debates = {"method_args": {"num_agents": "3"}, "max_samples": 20, "output_path": str(folder/"held.jsonl")}
    held = [*read_jsonl(Infer("llm_debate", "chains", "scripted", **debates).run())]
    def rows(n): return ({**held[i % 20], "id": f"{i:08d}"} for i in range(n))
    return {n: write_jsonl(folder/f"{n}.jsonl", rows(n)) for n in (FEW, MANY)}

def peak(*command) -> float:
    "The most memory, in MB, that a stage holds."
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, command)], capture_output=True, text=True, check=True)
    return float(done.stdout)

@pytest.mark.parametrize("stage", ["label", "eval --input_file"])
def test_memory_is_bounded(runs, stage):
    few, many = (peak(*stage.split(), runs[n]) for n in (FEW, MANY))
    assert many - few < 20

def test_shards_are_one_run(runs, agentark, tmp_path):
    "A folder of two shards gives what the file gives, to the byte."
    lines = runs[FEW].read_text().splitlines(keepends=True)[:40]
    whole, shards = tmp_path/"whole.jsonl", tmp_path/"shards"
    shards.mkdir()
    whole.write_text("".join(lines))
    for name, some in {"0": lines[:25], "1": lines[25:]}.items(): (shards/f"{name}.jsonl").write_text("".join(some))
    assert "read 2 files" in agentark("label", shards).stdout
    agentark("label", whole)
    assert (tmp_path/"shards_labeled.jsonl").read_bytes() == (tmp_path/"whole_labeled.jsonl").read_bytes()
