"Recipes of the paper's size are run once from end to end with small models in place of large ones."
import pytest
from test_repository import ROOT
from agentark.core.store import read_jsonl
from agentark.runs.pipeline import Run

FULL = ROOT/"papermill_runs"/"paper"/"full"
SMALL = {   # what stands in the recipe, and in its place
    "gsm8k_qwen3": {
        "Qwen/Qwen3-32B": "lab-m",
        "Qwen/Qwen3-0.6B": "lab-s",
        "model: Qwen/Qwen2.5-72B-Instruct, ": "",
        "use_vllm: true, ": "",
        "tensor_parallel_size: 4, ": "",
        ", use_vllm: colocate": "",
        "GSM8K": "chains",
        "test_dataset_name: MedMCQA, split: validation": "test_dataset_name: chains, split: test",
        "max_samples: 7473": "max_samples: 16",
        "max_samples: 1319": "max_samples: 8",
        "max_samples: 4183": "max_samples: 8",
        "max_tokens: 4096": "max_tokens: 96",
        "max_tokens: 2048": "max_tokens: 96",
        "num_agents: 5, num_rounds: 3": "num_agents: 3, num_rounds: 2",
        "rollout_batch_size: 64": "rollout_batch_size: 4",
        "train_batch_size: 128": "train_batch_size: 32",
        "generate_max_len: 2048": "generate_max_len: 96",
    },
}

@pytest.mark.recipes
@pytest.mark.parametrize("name", SMALL)
def test_runs_whole(name, tmp_path):
    text = (FULL/f"{name}.yaml").read_text()
    for large, small in SMALL[name].items():
        assert large in text, large
        text = text.replace(large, small)
    file = tmp_path/"small.yaml"
    file.write_text(text)
    Run(str(file)).run()
    [out] = (tmp_path/"outputs").iterdir()
    assert {len([*read_jsonl(p)]) for p in out.glob("*_gsm8k.jsonl")} == {8}
    assert (out/"gsm8k.md").read_text().count("against") == 3
