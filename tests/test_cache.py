"The reply cache on the command line: the same results with it and without, and no fault of it reaches a run."
import json
import os
import subprocess
import time
import forked
import pytest
from conftest import AGENTARK, ROOT
from agentark.engines.models import prepare

DEBATE = ["infer", "--method_name", "llm_debate", "--test_dataset_name", "reasoning_gym:chain_sum"]
DEBATE += ["--max_samples", "4", "--model_max_tokens", "30"]   # 24 calls


def entries(folder) -> list: return [p for p in (folder/"replies").rglob("*") if p.is_file()]

def records(path) -> list:
    "Trajectories without their times."
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    for row in rows: row.pop("wall_s")
    return rows

def by_id(path) -> list: return sorted(records(path), key=lambda r: r["id"])

def known(done) -> list[str]:
    "What a run says of its replies: `0 of 24 replies of tiny-random from the cache`."
    return [line for line in done.stdout.splitlines() if line.endswith("from the cache")]

def start(path, cache, *args):
    "Start a run that adds to a cache."
    return subprocess.Popen(
        [AGENTARK, *args, "--cache", "write", "--output_path", str(path)],
        cwd=ROOT,
        env={**os.environ, "AGENTARK_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

@pytest.fixture
def cache(tmp_path):
    "A cache of this test's own, but for the prepared models."
    folder = tmp_path/"cache"
    folder.mkdir()
    (folder/"models").symlink_to(prepare("tiny-random").parent)
    return folder

@pytest.fixture
def infer(agentark, agentark_process, tmp_path, cache):
    "Run the debate into a file; what the command line said, and the file."
    def run(name, *args, model="scripted", check=True, **env):
        path = tmp_path/f"{name}.jsonl"
        command = agentark_process if "PYTHONPATH" in env else agentark
        env = {"AGENTARK_CACHE": str(cache), **env}
        done = command(*DEBATE, "--model_name", model, "--output_path", path, *args, check=check, **env)
        return done, path
    return run

def without_torch(folder) -> dict:
    "An environment in which torch cannot be loaded."
    folder.mkdir()
    (folder/"torch.py").write_text("raise ImportError('torch was loaded')\n")
    paths = [str(folder), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

@pytest.mark.slow
def test_a_second_run_asks_nobody(infer, tmp_path):
    no_torch = without_torch(tmp_path/"no")
    fails, _ = infer("x", model="tiny-random", check=False, **no_torch)
    assert fails.returncode, "this test would not see that torch is loaded"
    first, a = infer("a", "--cache", "write", model="tiny-random")
    again, b = infer("b", "--cache", "read", model="tiny-random", **no_torch)
    plain, c = infer("c", model="tiny-random")
    assert records(a) == records(b) == records(c)
    assert known(first) == ["0 of 24 replies of tiny-random from the cache"]
    assert known(again) == ["24 of 24 replies of tiny-random from the cache"]
    assert not known(plain)

def test_the_key_is_not_kept(infer, tmp_path, cache):
    done, _ = infer("a", "--cache", "write", model="tiny-random", OPENAI_API_KEY="sk-do-not-keep-me")
    files = [*entries(cache), *tmp_path.glob("*.json*")]
    assert len(files) > 24
    for p in files: assert b"sk-do-not" not in p.read_bytes()
    assert "sk-do-not" not in done.stdout + done.stderr

def test_read_adds_nothing(infer, cache):
    done, _ = infer("a", "--cache", "read")
    assert not (cache/"replies").exists()
    assert "0 of 24" in done.stdout
    infer("b", "--cache", "write", "--max_samples", 2)
    before = sorted(entries(cache))
    done, _ = infer("c", "--cache", "read")
    assert sorted(entries(cache)) == before
    assert "12 of 24" in done.stdout

def test_another_seed_temperature_or_prompt_is_another_entry(infer):
    infer("a", "--cache", "write")
    others = [
        ("--seed", 1),
        ("--model_temperature", 0.7),
        ("--model_max_tokens", 9),
        ("--no_apply_chat_template",),
    ]
    for i, other in enumerate(others):
        done, _ = infer(f"o{i}", "--cache", "write", *other)
        assert known(done) == ["0 of 24 replies of scripted from the cache"], other

def test_damaged_entries_are_asked_again(infer, cache):
    damages = [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"\0" * 100,
        lambda data: data.replace(b'"', b"'", 1),
    ]
    _, a = infer("a", "--cache", "write")
    for i, p in enumerate(entries(cache)): p.write_bytes(damages[i % 4](p.read_bytes()))
    done, b = infer("b", "--cache", "write")
    assert "0 of 24" in done.stdout
    assert records(a) == records(b)
    done, _ = infer("c", "--cache", "read")
    assert "24 of 24" in done.stdout

@pytest.mark.slow
def test_killed_and_continued(infer, tmp_path, cache):
    args = [*DEBATE, "--model_name", "tiny-random", "--max_live", "1", "--batch_size", "1", "--overwrite"]
    args += ["--cache", "write", "--output_path", tmp_path/"killed.jsonl"]
    for n in (1, 9, 17):
        run = forked.start(*args, AGENTARK_CACHE=str(cache))
        deadline = time.time() + 60
        while len(entries(cache)) < n and run.poll() is None and time.time() < deadline: time.sleep(0.002)
        run.kill()
        run.wait()
    done, a = infer("a", "--cache", "write", model="tiny-random")
    _, plain = infer("plain", model="tiny-random")
    assert records(a) == records(plain)
    said, = known(done)
    assert not said.startswith("0 of")

@pytest.fixture
def small_disk(tmp_path):
    "A disk of 64 kB; skips where none can be mounted."
    disk = tmp_path/"disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode: pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)

def test_full_disk(infer, cache, small_disk):
    (cache/"replies").symlink_to(small_disk)
    done, a = infer("a", "--cache", "write")
    _, plain = infer("plain")
    assert "No space left" in done.stderr
    assert done.stderr.count("cannot add to the cache") == 1
    assert records(a) == records(plain)
    assert 0 < len(entries(cache)) < 20
    done, _ = infer("b", "--cache", "read")
    assert "0 of 24" not in done.stdout

def test_a_folder_that_cannot_be_written(infer, cache):
    (cache/"replies").write_text("in the way")
    done, a = infer("a", "--cache", "write")
    _, plain = infer("plain")
    assert done.stderr.count("cannot add to the cache") == 1
    assert records(a) == records(plain)

@pytest.mark.slow
def test_eight_runs_at_once(agentark, tmp_path):
    args = ["infer", "--method_name", "self_consistency", "--test_dataset_name", "reasoning_gym:chain_sum"]
    args += ["--model_name", "scripted", "--max_samples", "50"]
    paths = [tmp_path/f"{i}.jsonl" for i in range(8)]
    folder = tmp_path/"cache"
    runs = [start(path, folder, *args) for path in paths]
    for run in runs:
        _, err = run.communicate()
        assert run.returncode == 0, err
        assert "Traceback" not in err
    agentark(*args, "--output_path", tmp_path/"plain.jsonl", check=True)
    for path in paths: assert by_id(path) == by_id(tmp_path/"plain.jsonl")
    kept = entries(folder)
    assert kept
    assert not [p for p in kept if "." in p.name]

MISTAKES = [
    ("scripted", ["--cache_gb", 0], 1, ["more than 0 GB"]),
    ("scripted", ["--cache", "on"], 2, ["off", "write"]),
]

@pytest.mark.parametrize("model, args, code, expected", MISTAKES)
def test_mistakes(infer, model, args, code, expected):
    done, _ = infer("a", "--cache", "write", *args, model=model, check=False)
    assert done.returncode == code
    for words in expected: assert words in done.stderr

def test_off_in_yaml(infer, tmp_path, cache):
    (tmp_path/"run.yaml").write_text("cache: off\n")
    done, _ = infer("a", "--config", tmp_path/"run.yaml")
    assert not known(done)
    assert not (cache/"replies").exists()

def test_help(agentark):
    done = agentark("infer", "--help", check=True)
    said = " ".join(done.stdout.replace("│", " ").split())
    for words in ("--cache off|read|write", "replies of earlier runs", "--cache_gb"): assert words in said
