"The models that people run: their architectures alone and in a batch, their templates in inference and training."
import asyncio
import tempfile
import warnings
from functools import cache
from importlib.resources import files
from pathlib import Path
import pytest
import torch
from test_methods import VARIANTS, ask, chosen
from transformers import AutoConfig, AutoTokenizer
from agentark.core.records import Trace
from agentark.core.thinking import parse_reply
from agentark.distill.weights import encoded
from agentark.engines.base import EngineError, Request, Sampling, chat_prompt, open_tokenizer, template_settings
from agentark.engines.models import auto_class, context_length, quietly, resolve
from agentark.engines.transformers import Row, TransformersEngine, generate

# ---- architectures

SIZES = dict(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
WINDOW = dict(sliding_window=4)
TURNS = dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"]*2)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LINEAR = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8)
ARCHITECTURES = {
    "llama": {},
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "qwen3_5_text": LINEAR,
    "qwen3_next": dict(LINEAR, **EXPERTS, shared_expert_intermediate_size=16),
    "gemma2": dict(WINDOW, query_pre_attn_scalar=8),
    "gemma3_text": dict(TURNS, query_pre_attn_scalar=8),
    "mistral": WINDOW,
    "phi3": dict(WINDOW, partial_rotary_factor=1.0),
    "gpt_oss": dict(WINDOW, num_local_experts=4, num_experts_per_tok=2),
    "olmo3": TURNS,
    "lfm2": dict(layer_types=["conv", "full_attention"]*2, block_ff_dim=48),
    "falcon_h1": dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1,
                      mamba_chunk_size=8),
    "granitemoehybrid": dict(MAMBA, layer_types=["mamba", "attention"]*2, mamba_expand=2, num_local_experts=4,
                             num_experts_per_tok=2, shared_intermediate_size=16),
    "mamba": dict(state_size=8, expand=2, conv_kernel=4, time_step_rank=4),
}
SEE = ("qwen2_5_vl", "gemma3")

def configuration(name: str):
    if name == "gemma3":
        text = {**SIZES, **TURNS, "query_pre_attn_scalar": 8}
        vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
        return AutoConfig.for_model(name, text_config=text, vision_config=vision)
    if name == "qwen2_5_vl":
        text = dict(SIZES, rope_scaling={"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]})
        vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)
        return AutoConfig.for_model(name, text_config=text, vision_config=vision, vision_start_token_id=290,
                                    vision_end_token_id=291, image_token_id=292, video_token_id=293)
    return AutoConfig.for_model(name, **{**SIZES, **ARCHITECTURES[name]})

def tiny(name: str):
    "A model of an architecture, of random weights that tell tokens apart."
    torch.manual_seed(0)
    config = configuration(name)
    model = auto_class(config).from_config(config).eval()
    for p in model.parameters():
        if p.dim() > 1: torch.nn.init.normal_(p, std=0.3)
    return model

PROMPTS = [(1, 5, 6, 7), (1, 5, *range(20, 45)), (1, 5, 6, 7), (1, 9, 30), (1, 5, *range(50, 62))]

def replies(model, batches, temperature=0.0) -> list[list[int]]:
    rows = [Row(p, 12 + 3*i, temperature, seed=i) for i, p in enumerate(PROMPTS)]
    with torch.inference_mode():
        for batch in batches: generate(model, [rows[i] for i in batch], ends={2})
    return [r.ids for r in rows]

@pytest.mark.slow
@pytest.mark.parametrize("name", [*ARCHITECTURES, *SEE])
def test_alone_as_in_a_batch(name):
    model = tiny(name)
    alone = replies(model, [[i] for i in range(5)])
    assert len({tuple(ids) for ids in alone}) > 1
    assert replies(model, [range(5)]) == alone
    by_library = model.generate(
        torch.tensor([PROMPTS[1]]), max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0
    )[0, len(PROMPTS[1]):].tolist()
    ours = alone[1][:12]
    assert ours == by_library[:len(ours)]

@pytest.mark.parametrize("name", ["gpt_oss", "gemma3", "qwen2_5_vl", "mistral"])
def test_a_folder_of_each_is_opened_as_what_it_is(name, tmp_path):
    model = tiny(name)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(resolve("tiny-random")).save_pretrained(tmp_path)
    with quietly(): engine = TransformersEngine(str(tmp_path), name, device="cpu")
    assert engine.context_length == 256 == context_length(model.config)
    kernel = engine.model.config.get_text_config()._attn_implementation
    assert kernel == ("eager" if name == "gpt_oss" else "grouped")
    prompts = ["hi", "a much longer question than that"]
    requests = [Request([{"role": "user", "content": p}], Sampling(0, max_tokens=8)) for p in prompts]
    together = asyncio.run(engine.generate(requests))
    alone = [asyncio.run(engine.generate([r]))[0] for r in requests]
    assert [r.text for r in together] == [r.text for r in alone]
    assert asyncio.run(engine.generate(requests[:1]))[0].completion_tokens <= 8

# ---- chat templates

OF_TRL = [
    "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4_v5", "glm4moe", "gptoss", "lfm2",
    "llama3", "llama3_2", "nemotron_3_nano", "phi3", "qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink",
    "qwen3_instruct_2507",
]
TYPED = {   # the rules of templates that TRL does not have
    "mistral v0.1": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "drops system": (
        "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
    "qwq": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip('\n') }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{{ '\n' }}{% endif %}"
    ),
    "dated": (
        "Today is {{ strftime_now('%d %B %Y') }}.{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
    "base": None,
}
FAMILIES = [*OF_TRL, *TYPED]

@cache
def folder_of(family: str) -> Path:
    "A tokenizer of bytes with the family's chat template."
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny-random"))
    tokenizer.bos_token = "<|system|>"
    templates = files("trl")/"chat_templates"
    tokenizer.chat_template = TYPED[family] if family in TYPED else (templates/f"{family}.jinja").read_text()
    folder = Path(tempfile.mkdtemp())
    tokenizer.save_pretrained(folder)
    return folder

def tokenizer_of(family: str, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # of the one without a template
        return open_tokenizer(str(folder_of(family)), settings=settings)

@cache
def chats() -> list[list[dict]]:
    "All chats of all variants of the methods."
    asked = []
    def rule(request):
        asked.append(request.messages)
        return chosen(request) or "7 * 6 = 42.\nThe answer is 42."
    for name, variant in VARIANTS: assert asyncio.run(ask(name, variant, rule)).error is None
    return asked

@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_every_chat_of_every_method(family):
    tokenizer = tokenizer_of(family)
    assert len(VARIANTS) >= 27
    for chat in chats():
        text = tokenizer.decode(chat_prompt(tokenizer, chat).ids)
        for m in chat:
            if m["role"] != "assistant": assert m["content"].strip() in text

ANSWER = "13 + 2 = 15\n\nThe answer is \\boxed{15}."
THOUGHTS = {
    "gptoss": "<|channel|>analysis<|message|>Add them: 15.<|end|><|start|>assistant<|channel|>final<|message|>",
    "gemma4_v5": "<|channel>thought\nAdd them: 15.<channel|>",
}

@pytest.mark.parametrize("thinks", [False, True], ids=["aloud", "thinking"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_reads_what_inference_reads(family, thinks):
    tokenizer = tokenizer_of(family, **template_settings(True if thinks and family == "qwen3_5_nothink" else None))
    thoughts = THOUGHTS.get(family, "<think>\nAdd them: 15.\n</think>\n\n") if thinks else ""
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 13?"}]
    completion = [{"role": "assistant", "content": thoughts + ANSWER}]
    row = encoded(tokenizer, Trace(prompt, completion, gt="15"))
    asked = chat_prompt(tokenizer, prompt)
    n = row["labels"].count(-100)
    assert row["input_ids"][:n] == asked.ids
    learnt = tokenizer.decode(row["labels"][n:])
    said = parse_reply(asked.opened + learnt)
    assert ANSWER in said.visible
    assert ("Add them: 15." in said.thinking) == thinks
    assert said.finished
    assert learnt != ANSWER, "it learns to end its turn"
    stated = [t for t, is_answer in zip(row["input_ids"], row["answer"]) if is_answer]
    assert tokenizer.decode(stated).startswith("15}.")

def test_one_chat_that_cannot_be_written_fails_alone():
    with quietly(): engine = TransformersEngine(resolve("tiny-random"), "tiny-random", device="cpu")
    engine.tokenizer.chat_template = TYPED["mistral v0.1"]
    ok, broken = [{"role": "user", "content": "hi"}], [{"role": "tool", "content": "hi"}]
    good, bad = asyncio.run(engine.generate([Request(c, Sampling(0, max_tokens=4)) for c in (ok, broken)]))
    assert good.completion_tokens
    assert isinstance(bad, EngineError)
    assert "roles must alternate" in str(bad)

def test_the_date_is_fixed():
    chat = [{"role": "user", "content": "hi"}]
    def told(**settings):
        tokenizer = tokenizer_of("dated", **settings)
        return tokenizer.decode(chat_prompt(tokenizer, chat).ids)
    assert told().startswith("Today is 01 January 2025.")
    assert told(today="2024-07-26").startswith("Today is 26 July 2024.")

def test_thinking_is_turned_off_by_the_template():
    chat = [{"role": "user", "content": "hi"}]
    assert chat_prompt(tokenizer_of("qwen3_5_think"), chat).opened == "<think>\n"
    off = chat_prompt(tokenizer_of("qwen3_5_think", **template_settings(enable_thinking=False)), chat)
    assert off.opened == ""
    assert off.text.endswith("<think>\n\n</think>\n\n")

def test_a_model_without_a_template_says_so_once():
    with pytest.warns(UserWarning, match="has no chat template") as said: open_tokenizer(str(folder_of("base")))
    assert len(said) == 1

# ---- thoughts in debates

SCORED = {"best_of_n", "weighted_vote", "step_beam_search"}   # these ask a reward model, which the script is not

@pytest.mark.parametrize("name, variant", [v for v in VARIANTS if v[0] not in SCORED], ids=lambda x: x)
def test_thoughts_cost_no_prompts(name, variant):
    def answers(thoughts):
        def rule(request): return chosen(request) or f"{thoughts}7 * 6 = 42.\nThe answer is 42."
        return asyncio.run(ask(name, variant, rule))
    aloud, thinking = answers(""), answers("<think>\n" + "Is it 41? "*40 + "\n</think>\n\n")
    assert thinking.error is None
    assert thinking.usage.prompt_tokens <= 1.2*aloud.usage.prompt_tokens
    spoken = [c for c in thinking.calls if "42" in c.text]
    assert all(c.text.startswith("<think>") for c in spoken)
    assert len(spoken) == len([c for c in aloud.calls if "42" in c.text])
