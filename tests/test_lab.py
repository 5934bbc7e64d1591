"The laboratory models: they are what their cards say, engines read them alike, no test question was ever learnt from."
import itertools
import json
from importlib.util import find_spec
from pathlib import Path
import pytest
import yaml
from conftest import ROOT
from agentark.core.config import run_async
from agentark.data import datasets
from agentark.data.chains import STYLES, expression_of, gold_steps, is_clean, split_of, steps_in, style_of, written
from agentark.distill.prm import Scorer
from agentark.engines.base import Request, Sampling, chat_ids
from agentark.engines.models import LAB, LAB_REWARD, resolve
from agentark.engines.scheduler import Scheduler
from agentark.engines.scripted import Scripted, replay
from agentark.engines.transformers import TransformersEngine
from agentark.eval.metrics import Estimate, read_results
from agentark.eval.rounds import rounds
from agentark.lab.pretraining_data import curriculum
from agentark.lab.solver import Slips
from agentark.methods.base import solve
from agentark.methods.prompts import solo
from agentark.methods.registry import get_method, method_config

MODELS = ROOT/"agentark"/"lab"/"models"


def debates(engine, n=34, temperature=0, seed=0, agents=3) -> dict:
    "Debates on test chains by id, greedy unless said otherwise: two prompts an agent."
    f, cfg = get_method("llm_debate"), method_config("llm_debate", overrides={"num_agents": agents})
    sampling = Sampling(temperature, 96)
    queries = datasets.load("chains", "test", n, seed)
    def debate(q, submit): return solve(q, submit, f, cfg, engine, sampling, seed)
    async def all_of_them(): return [t async for t in Scheduler(engine).run(queries, debate)]
    return {t.id: t for t in run_async(all_of_them())}

@pytest.fixture(scope="module")
def lab():
    engine = TransformersEngine(resolve("lab-m"), "lab-m")
    yield engine
    engine.close()

@pytest.fixture(scope="module")
def recorded(lab): return debates(lab)


def read(name: str, file: str):
    "A JSON file of a laboratory model."
    return json.loads((MODELS/name/file).read_text())

@pytest.mark.parametrize("name", LAB)
def test_a_model_is_what_its_card_says(name):
    config, generation = read(name, "config.json"), read(name, "generation_config.json")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["use_cache"]   # without a cache the library's `generate` is thirty times slower
    assert generation["use_cache"]
    assert resolve(name) == str(MODELS/name)
    assert (MODELS/name/"model.safetensors").stat().st_size < 9e6

    card = (MODELS/name/"README.md").read_text()
    found, _ = read_results(MODELS/name/"evaluation.json")
    assert card.startswith("---\nlicense")
    assert f"# {name}\n" in card
    assert f"single, greedy: {found['single, greedy']['accuracy'].mean:.1%}" in card

@pytest.mark.parametrize("name", LAB_REWARD)
def test_a_reward_model_is_what_its_card_says(name):
    "It scores, passes the truncation test, and names no file of the machine that trained it."
    about, card = read(name, "prm.json"), (MODELS/name/"README.md").read_text()
    queries = datasets.load("chains", "test", 60)
    steps = [gold_steps(expression_of(q.query)) for q in queries]
    slips = [[(left, sign, right, result + 1), *rest] for (left, sign, right, result), *rest in steps]
    scorer = Scorer(name)
    def n_accepted(solutions) -> int:
        prompts = [[{"role": "user", "content": solo(q)}] for q in queries]
        return sum(min(of) > scorer.threshold for of in scorer.score(prompts, [*map(written, solutions)]))
    assert n_accepted(steps) > 50
    assert n_accepted(slips) < 40
    assert about["truncation"] >= 0.95
    assert about["prompt_data"]["dataset"] == "chains"
    assert f"# {name}\n" in card
    assert str(Path.home()) not in card + json.dumps(about)

@pytest.mark.slow
def test_a_card_can_be_checked(lab):
    "The sampled debate of the card, on other questions: both rounds are what it says, within three standard errors."
    card, _ = read_results(MODELS/"lab-m"/"evaluation.json")
    sampled = debates(lab, 300, temperature=0.8, seed=1)
    found, _ = rounds(sampled.values())
    for a, b in zip(card["debate"].rounds, found, strict=True):
        error = (standard_error(a)**2 + standard_error(b)**2)**0.5
        assert abs(a.mean - b.mean) < 3*error, (a, b)

def standard_error(found: Estimate) -> float:
    low, high = found.interval
    return (high - low)/3.92

@pytest.mark.slow
@pytest.mark.parametrize("name, least, most", [("lab-m", 0.8, 1.1), ("lab-m-styles", 1.5, 3.0)])
def test_how_many_right_ways_a_debate_leaves(name, least, most):
    "Right solutions that differ in their steps, a question, after a debate of five; in their styles, and clean."
    engine = TransformersEngine(resolve(name), name)
    try: found = debates(engine, 60, temperature=0.8, agents=5)
    finally: engine.close()
    ways, styles, clean = [], set(), []
    for t in found.values():
        right = [c.text for c in t.calls if c.round == 1 and c.answer == t.gt]
        expression = expression_of(t.query)
        ways.append(len({tuple(steps_in(text)) for text in right}))
        styles |= {style_of(expression, steps_in(text)) for text in right}
        clean += [is_clean(expression, text) for text in right]
    assert least < sum(ways)/len(ways) < most
    assert styles >= ({*STYLES} if most > 2 else {"left"})
    assert sum(clean) > 0.9*len(clean)

@pytest.mark.parametrize("styles", [("left",), STYLES])
def test_nothing_was_learnt_from_a_test_question(styles):
    chats = itertools.chain(*curriculum(500, Slips(), styles=styles))
    taught = {expression_of("\n".join(m["content"] for m in chat)) for chat in chats}
    assert taught
    assert {split_of(x) for x in taught} == {"pretrain"}
    for spec in ("chains", "chains?min_terms=6&max_terms=8"):
        test, train = datasets.load(spec, "test", 500), datasets.load(spec, "train", 500)
        assert not datasets.overlap(train, test)
        asked = {expression_of(q.query) for q in test + train}
        assert not taught & asked

def test_a_replay_is_the_run(recorded):
    again = debates(Scripted(default=replay(list(recorded.values()))))
    assert again.keys() == recorded.keys()
    for i, t in recorded.items(): assert said(again[i]) == said(t)
    assert sum(len(t.calls) for t in recorded.values()) == 204

def said(t) -> list[tuple]: return [(c.id, c.text, c.answer) for c in t.calls]


def requests(t) -> list[tuple]:
    "What was asked in a debate of two rounds, and the calls."
    calls = {c.id: c for c in t.calls}
    out = []
    for c in t.calls:
        before = calls.get(c.parent)
        earlier = before.messages + [{"role": "assistant", "content": before.text}] if before else []
        out.append((Request([*earlier, *c.messages], Sampling(0, 96)), c))
    return out

def margin(lab, request, a: str, b: str) -> float:
    "By how much the likeliest token leads (nats), where two replies to a request part."
    import torch
    x, y = (lab.tokenizer(text, add_special_tokens=False).input_ids for text in (a, b))
    parts = [i for i, (s, t) in enumerate(zip(x, y)) if s != t]
    n = parts[0] if parts else min(len(x), len(y))
    ids = chat_ids(lab.tokenizer, request.messages) + x[:n]
    with torch.no_grad(): logits = lab.model(torch.tensor([ids])).logits[0, -1]
    first, second = logits.topk(2).values
    return (first - second).item()

@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed (make engines)")
def test_vllm_says_the_same(lab, recorded, capsys):
    "Greedily, on 204 prompts of debates: the same prompts, and the same replies but where two tokens are as likely."
    from agentark.engines.vllm import VLLMEngine
    asked = list(itertools.chain.from_iterable(map(requests, recorded.values())))
    vllm = VLLMEngine(resolve("lab-m"), "lab-m")
    try: replies = run_async(vllm.generate([request for request, _ in asked]))
    finally: vllm.close()

    differ = []
    for reply, (request, call) in zip(replies, asked):
        assert reply.prompt_tokens == call.prompt_tokens
        if reply.text != call.text: differ.append((request, call.text, reply.text))
    with capsys.disabled():
        same = len(asked) - len(differ)
        print(f"\nlab-m on {len(asked)} prompts: {same} replies of vLLM and transformers are identical")
    for request, a, b in differ: assert margin(lab, request, a, b) < 0.01, (a, b)
    assert len(differ) < 0.05*len(asked)


def demo_in_small(folder) -> dict:
    "The experiment of `make demo` on a few questions."
    text = (ROOT/"papermill_runs"/"demo"/"demo.yaml").read_text()
    smaller = {
        "max_samples: 500": "max_samples: 30",
        "max_samples: 400": "max_samples: 40",
    }
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    places = {"notebooks": str(ROOT/"nbs"/"12_experiments"), "outputs": str(folder/"out")}
    return yaml.safe_load(text) | places

@pytest.mark.slow
def test_the_demo_in_small(agentark, kernels, tmp_path):
    "All steps of `make demo`: its metrics have what they should."
    (tmp_path/"demo.yaml").write_text(yaml.safe_dump(demo_in_small(tmp_path)))
    agentark("run", tmp_path/"demo.yaml", check=True)
    results, tests = read_results(tmp_path/"out"/"metrics.json")
    assert results.keys() >= {"base", "distilled", "self_consistency", "control_independent"}
    assert [c.family for c in tests] == [6]*6

    debated = [results[name] for name in ("mas", "control_own_copy", "control_no_peers")]
    for found in debated:
        assert found.n == 30
        assert len(found.rounds) == 2
        assert found.rounds[0] == debated[0].rounds[0], "the controls begin with the debate's own first round"

    counts = [sum(1 for _ in open(tmp_path/"out"/name)) for name in ("traces.jsonl", "samples_traces.jsonl")]
    assert counts[0] == counts[1] > 0
    assert (tmp_path/"out"/"demo.png").exists()
