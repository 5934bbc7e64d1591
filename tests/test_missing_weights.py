"A model folder that lacks a tensor is refused wherever a model is loaded, never filled with random weights."
import shutil
import pytest
from safetensors.torch import load_file, save_file
from agentark.core.config import error_of
from agentark.distill.prm_report import Confidence
from agentark.engines.models import resolve
from agentark.lab.pretrain import Pretrain, _start

LACKING = "model.layers.0.mlp.down_proj.weight"

@pytest.fixture
def lacking(tmp_path):
    folder = shutil.copytree(resolve("lab-s"), tmp_path/"lacking")
    tensors = load_file(folder/"model.safetensors")
    del tensors[LACKING]
    save_file(tensors, folder/"model.safetensors", metadata={"format": "pt"})
    return str(folder)

def pretrained(folder: str): return _start(Pretrain(output_dir="unused", start_from=folder), [])

@pytest.mark.parametrize("load", [Confidence, pretrained])
def test_a_folder_that_lacks_a_tensor_is_refused(load, lacking):
    said = error_of(load, lacking)
    assert LACKING in said
    assert "copy it again" in said

@pytest.mark.parametrize("load", [Confidence, pretrained])
def test_a_whole_folder_is_loaded(load): load(resolve("lab-s"))
