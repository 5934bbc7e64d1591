"Files of older versions go on: a manifest without digests, without fields that came later."
import errno
import json
from pathlib import Path
from agentark.core.config import error_of
from agentark.core.folders import ASIDE, checkpoints, drop_aside, is_full, put_back, set_aside
from agentark.core.store import Store, manifest_path, read_manifest, write_manifest
from agentark.distill import training
from agentark.distill.sft import Sft
from agentark.engines.models import resolve
from agentark.methods.infer import Infer

SINCE = ("made_from", "package", "versions", "commit")     # what older manifests may lack

def aged(manifest: Path):
    "The manifest as a version before digests wrote it."
    found = read_manifest(manifest)
    manifest.write_text(json.dumps({key: value for key, value in found.items() if key not in SINCE}))

def test_a_store_without_digests_goes_on(tmp_path):
    path, model = tmp_path/"x.jsonl", {"model": "digest"}
    with Store(path, {"a": 1}, made_from=model) as store: store.append({"id": "1"})
    aged(manifest_path(path))
    with Store(path, {"a": 1}, made_from=model) as store:
        assert store.done == {"1"}
        store.append({"id": "2"})
        store.close()
    assert read_manifest(manifest_path(path))["made_from"] == model
    with Store(path, {"a": 1}, made_from={"model": "another"}) as store: assert not store.done

def infer(folder: Path):
    task = {"test_dataset_name": "reasoning_gym:chain_sum", "max_samples": 3}
    return Infer(method_name="cot", model_name="scripted", output_path=str(folder/"x.jsonl"), **task)

def test_inference_without_digests_goes_on(tmp_path):
    infer(tmp_path).run()
    before = (tmp_path/"x.jsonl").read_bytes()
    aged(manifest_path(tmp_path/"x.jsonl"))
    infer(tmp_path).run()
    assert (tmp_path/"x.jsonl").read_bytes() == before

def test_a_training_without_digests_is_the_same_training(tmp_path):
    "The manifest of another one is refused."
    data = tmp_path/"traces.jsonl"
    data.write_text('{"text": "1"}\n')
    options = {"train_data_path": str(data), "output_dir": str(tmp_path/"out")}
    stage = Sft(model_name_or_path=resolve("tiny-random"), **options)
    out = Path(stage.output_dir)
    out.mkdir()
    (out/"model.safetensors").write_text("")
    write_manifest(out/"training", stage.identity(), status="finished", made_from=training.made_from(stage))
    data.write_text('{"text": "2"}\n')
    assert "has other content now" in error_of(training.is_finished, stage, out)
    aged(manifest_path(out/"training"))
    assert training.is_finished(stage, out)

def test_nothing_stays_aside(tmp_path):
    (tmp_path/"model.safetensors").write_text("old")
    for done in (put_back, drop_aside):
        set_aside(tmp_path, ["*.safetensors"])
        done(tmp_path)
        assert not (tmp_path/ASIDE).exists()

def test_only_numbered_folders_are_checkpoints(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-9.part", "checkpoint-best"): (tmp_path/name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]

def test_a_full_disk_is_seen_behind_another_error():
    error = ValueError("not written")
    assert not is_full(error)
    error.__cause__ = OSError(errno.ENOSPC, "no")
    assert is_full(error)
