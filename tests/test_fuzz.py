"Every field of a record with every wrong type, through every stage that reads records: one line, no traceback."
import contextlib
import io
import warnings
import pytest
from agentark.core.config import AgentArkError, Stage
from agentark.core.records import Labelled, Trace, Trajectory
from agentark.core.store import read_jsonl, write_jsonl
from agentark.distill.accepted import TracesBoth
from agentark.distill.label_steps import Steps
from agentark.distill.traces import read_traces
from agentark.eval.evaluate import Eval
from agentark.eval.label import Label
from agentark.methods.infer import Infer
from agentark.runs.inspect import Show

VALUES = (None, True, -1, 1e400, "x", "\ud83d\x1b[2J", [], [1], [None], {}, {"a": [1]}, [{}], "", 10**30)

def quietly(stage: Stage):
    "Run a stage for its errors alone; those of users are fine."
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(AgentArkError): return stage.run()

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A debate, and its labels."
    root = tmp_path_factory.mktemp("fuzz")
    run = Infer("llm_debate", "chains", "scripted", max_samples=1, output_path=str(root/"run.jsonl"))
    quietly(run)
    quietly(Label(input=str(root/"run.jsonl")))
    return root

def changed(record: dict):
    "The record with each of its fields, and of the first of its parts, replaced or left out."
    for key, value in record.items():
        for other in VALUES: yield key, {**record, key: other}
        yield key, {k: v for k, v in record.items() if k != key}
        if not (isinstance(value, list) and value and isinstance(value[0], dict)): continue
        for name, part in changed(value[0]): yield f"{key}.{name}", {**record, key: [part, *value[1:]]}

def stages(name: str, path: str) -> list[Stage]:
    "What reads such a file."
    evaluation = Eval(input_file=[path])
    if name == "run.jsonl": return [Label(input=path, overwrite=True), evaluation, Show(path), Show(path, id="1")]
    return [Steps(path, overwrite=True), TracesBoth(path, min_correct=1), Show(path, id="1")]

@pytest.mark.parametrize("name, read", [("run.jsonl", Trajectory), ("run_labeled.jsonl", Labelled)])
def test_no_wrong_type_is_read(files, name, read):
    record, *_ = read_jsonl(files/name)
    failed = []
    for field, wrong in changed(record):
        try: read.from_dict(wrong)
        except AgentArkError: pass
        except Exception as e: failed.append(f"{field}: {type(e).__name__} {e}")
    assert not failed, "\n".join(dict.fromkeys(failed))

@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.jsonl", "run_labeled.jsonl"])
def test_no_wrong_type_is_a_traceback(files, tmp_path, name):
    "Every 11th of them, so that each field has one or more."
    record, *_ = read_jsonl(files/name)
    failed = []
    for field, wrong in [*changed(record)][::11]:
        path = str(write_jsonl(tmp_path/name, [wrong]))
        for stage in stages(name, path):
            try: quietly(stage)
            except Exception as e: failed.append(f"{type(stage).__name__} {field}: {type(e).__name__} {e}")
    assert not failed, "\n".join(dict.fromkeys(failed))

def test_no_wrong_type_in_a_trace(tmp_path):
    said = [{"role": "user", "content": "1 + 1?"}]
    record = Trace(said, said, steps=["2"], structure=["+"], call="0.0").to_dict()
    failed = []
    for field, wrong in changed(record):
        path = write_jsonl(tmp_path/"traces.jsonl", [wrong])
        try: read_traces(path)
        except AgentArkError: pass
        except Exception as e: failed.append(f"{field}: {type(e).__name__} {e}")
    assert not failed, "\n".join(failed)
