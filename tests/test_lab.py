"The laboratory models: they are what their cards say, every engine reads them alike, and no test question was ever learnt from."
import json
from importlib.util import find_spec
import pytest
import yaml
from conftest import ROOT
from agentark.data import datasets
from agentark.data.chains import expression_of, split_of
from agentark.core.config import run_async
from agentark.engines.base import Sampling
from agentark.engines.models import LAB, resolve
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted, replay
from agentark.engines.transformers import TransformersEngine
from agentark.eval.rounds import rounds
from agentark.lab.pretraining_data import curriculum
from agentark.lab.solver import Slips
from agentark.methods.registry import get_method, method_config
from agentark.methods.base import solve

def debates(engine, n=34, temperature=0, seed=0):
    "Debates on test chains, greedy unless said otherwise: six prompts each."
    f, cfg = get_method("llm_debate"), method_config("llm_debate")
    async def all_(): return [t async for t in Scheduler(engine).run(datasets.load("chains", "test", n, seed), lambda q, submit: solve(q, submit, f, cfg, engine, Sampling(temperature, 96), seed))]
    return {t.id: t for t in run_async(all_())}

@pytest.fixture(scope="module")
def lab():
    engine = TransformersEngine(resolve("lab-m"), "lab-m")
    yield engine
    engine.close()

@pytest.fixture(scope="module")
def recorded(lab): return debates(lab)

@pytest.mark.parametrize("name", LAB)
def test_a_model_is_what_its_card_says(name):
    folder = ROOT/"agentark"/"lab"/"models"/name
    found, card, config = json.loads((folder/"evaluation.json").read_text()), (folder/"README.md").read_text(), json.loads((folder/"config.json").read_text())
    assert config["use_cache"] and json.loads((folder/"generation_config.json").read_text())["use_cache"]   # without a cache the library's `generate` is thirty times slower
    assert resolve(name) == str(folder) and config["architectures"] == ["Qwen3ForCausalLM"] and card.startswith("---\nlicense") and f"# {name}\n" in card
    assert f"single, greedy: {found['single, greedy']['accuracy']:.1%}" in card and (folder/"model.safetensors").stat().st_size < 9e6

def test_a_card_can_be_checked(lab):
    "The sampled debate of the card, on other questions: both rounds are what the card says, within three standard errors."
    claimed = json.loads((ROOT/"agentark"/"lab"/"models"/"lab-m"/"evaluation.json").read_text())["debate"]["rounds"]
    found = rounds(list(debates(lab, 300, temperature=0.8, seed=1).values()))["rounds"]
    for a, b in zip(claimed, found):
        error = sum(((x["ci95"][1] - x["ci95"][0])/3.92)**2 for x in (a, b))**0.5
        assert abs(a["accuracy"] - b["accuracy"]) < 3*error, (a, b)

def test_nothing_was_learnt_from_a_test_question():
    taught = {expression_of("\n".join(m["content"] for m in c)) for part in curriculum(500, Slips()) for c in part}
    assert taught and {split_of(x) for x in taught} == {"pretrain"}
    for spec in ("chains", "chains?min_terms=6&max_terms=8"):
        test, train = datasets.load(spec, "test", 500), datasets.load(spec, "train", 500)
        assert not datasets.overlap(train, test) and not taught & {expression_of(q.query) for q in test + train}

def test_a_replay_is_the_run(recorded):
    again = debates(Scripted(default=replay(list(recorded.values()))))
    said = lambda runs: {i: [(c.id, c.text, c.answer) for c in t.calls] for i, t in runs.items()}
    assert said(again) == said(recorded) and sum(len(t.calls) for t in recorded.values()) == 204

@pytest.mark.slow
@pytest.mark.xdist_group("vllm")
@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed (make engines)")
def test_vllm_says_the_same(lab, recorded, capsys):
    "Greedily, on 204 prompts of debates: the same prompts, and the same replies but where two tokens are as likely."
    import torch
    from agentark.engines.base import Request, chat_ids
    from agentark.engines.vllm import VLLMEngine
    asked = []
    for t in recorded.values():
        calls = {c.id: c for c in t.calls}
        for c in t.calls:
            before = calls.get(c.parent)
            asked.append((Request([*(before.messages + [{"role": "assistant", "content": before.text}] if before else []), *c.messages], Sampling(0, 96)), c))
    vllm = VLLMEngine(resolve("lab-m"), "lab-m")
    try: replies = run_async(vllm.generate([r for r, _ in asked]))
    finally: vllm.close()
    assert all(r.prompt_tokens == c.prompt_tokens for r, (_, c) in zip(replies, asked))
    differ = [(request, c.text, r.text) for r, (request, c) in zip(replies, asked) if r.text != c.text]
    with capsys.disabled(): print(f"\nlab-m on {len(asked)} prompts: {len(asked) - len(differ)} replies of vLLM and transformers are identical")
    for request, a, b in differ:
        x, y = (lab.tokenizer(s, add_special_tokens=False).input_ids for s in (a, b))
        n = next((i for i, (s, t) in enumerate(zip(x, y)) if s != t), min(len(x), len(y)))
        with torch.no_grad(): best = lab.model(torch.tensor([chat_ids(lab.tokenizer, request.messages) + x[:n]])).logits[0, -1].topk(2).values
        assert best[0] - best[1] < 0.01, (a, b)
    assert len(differ) < 0.05*len(asked)

@pytest.mark.slow
def test_the_demo_in_small(agentark, tmp_path):
    "All steps of `make demo` on a few questions: its metrics have what they should."
    text = (ROOT/"papermill_runs"/"demo"/"demo.yaml").read_text().replace("max_samples: 500", "max_samples: 30").replace("max_samples: 600", "max_samples: 40").replace("figures/demo.png", str(tmp_path/"demo.png"))
    experiment = yaml.safe_load(text) | {"notebooks": str(ROOT/"nbs"/"experiments"), "outputs": str(tmp_path/"out")}
    (tmp_path/"demo.yaml").write_text(yaml.safe_dump(experiment))
    agentark("run", tmp_path/"demo.yaml", check=True)
    metrics = json.loads((tmp_path/"out"/"metrics.json").read_text())
    assert {"base", "mas", "distilled", "paired", "self_consistency", "control_independent", "control_no_peers", "control_own_copy"} <= metrics.keys()
    assert all(metrics[k]["n"] == 30 and len(metrics[k]["rounds"]) == 2 for k in ("mas", "control_own_copy", "control_no_peers"))
    first = [metrics[k]["rounds"][0] for k in ("mas", "control_own_copy", "control_no_peers")]
    assert first[0] == first[1] == first[2], "the controls begin with the debate's own first round"
    counts = [sum(1 for _ in open(tmp_path/"out"/f)) for f in ("traces.jsonl", "samples_traces.jsonl")]
    assert counts[0] == counts[1] > 0 and (tmp_path/"demo.png").exists()
