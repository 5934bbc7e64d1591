"The models that people run: their architectures alone and in a batch, their templates in inference and training."
import asyncio
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from agentark.core.records import Query, Trace
from agentark.core.thinking import parse_reply
from agentark.distill.weights import encoded
from agentark.engines.base import Request, Sampling, chat_prompt
from agentark.engines.models import auto_class, context_length, quietly, resolve
from agentark.engines.scripted import Scripted
from agentark.engines.transformers import Row, TransformersEngine, generate
from agentark.methods.base import run_one
from agentark.methods.registry import get_method

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
