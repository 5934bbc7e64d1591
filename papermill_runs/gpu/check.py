"""What runs on one GPU, and how fast: inference, R-SFT, a reward model and GRPO, in at most eight minutes on an H100.

python papermill_runs/gpu/check.py                                    writes papermill_runs/gpu/check.json
python papermill_runs/gpu/check.py --model lab-s --steps 2 --questions 8 --out check.json    a look, on a CPU
"""
import argparse
import importlib.util
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
import torch
from agentark.bench.training import gold_traces
from agentark.core.store import provenance
from agentark.data.trajectories import read_trajectories
from agentark.distill.grpo import Grpo
from agentark.distill.label_steps import LabelBoth
from agentark.distill.prm import Prm
from agentark.distill.sft import Sft
from agentark.distill.training import read_manifest
from agentark.engines.models import resolve
from agentark.methods.infer import Infer

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}   # bf16 operations a second, without sparsity


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dataset", default="chains")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--out", default="papermill_runs/gpu/check.json")
    return parser.parse_args()

def device() -> str: return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

def share_of_peak(model: str, tokens_per_second: float) -> float | None:
    "Six operations a parameter and token, of what the device could do; None where that is not known."
    from transformers import AutoModelForCausalLM
    peak = next((flops for name, flops in PEAK.items() if name in device()), None)
    if peak is None: return None
    parameters = AutoModelForCausalLM.from_pretrained(resolve(model)).num_parameters()
    return round(6*parameters*tokens_per_second/peak, 4)

def attentions() -> list[str]:
    "Those that can be tried: sdpa, and FlashAttention 2 where it is installed on a GPU."
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn")
    return ["sdpa", *["flash_attention_2"]*bool(flash)]

def inference(args, folder: Path) -> dict:
    "Greedy answers of all questions in batches, and of the first ones one at a time: the same?"
    def answers(name, n, batch_size):
        start = time.perf_counter()
        path = Infer(
            "vanilla", args.dataset, args.model, max_samples=n, model_temperature=0.0, model_max_tokens=64,
            batch_size=batch_size, output_path=str(folder/f"{name}.jsonl"),
        ).run()
        return read_trajectories(path), time.perf_counter() - start
    many, seconds = answers("batched", args.questions, None)
    few = min(args.questions, 32)
    alone, _ = answers("alone", few, 1)
    tokens = sum(t.usage.completion_tokens for t in many)
    equal = sum(a.response == b.response for a, b in zip(alone, many))
    return {"alone_as_in_a_batch": f"{equal} of {few}", "tokens_per_second": round(tokens/seconds, 1)}

def rsft(args, folder: Path) -> dict:
    "So many steps on gold solutions, with each attention."
    traces = gold_traces(folder/"gold.jsonl", args.steps*8)
    found = {}
    for attention in attentions():
        out = folder/f"sft_{attention}"
        Sft(
            args.model, str(traces), str(out), num_train_epochs=1, per_device_train_batch_size=8,
            attn_implementation=attention, learning_rate=1e-4,
        ).run()
        m = read_manifest(out)
        found[attention] = {key: m[key] for key in ("first_loss", "last_loss", "tokens_per_second", "peak_memory_mib")}
        found[attention]["share_of_peak"] = share_of_peak(args.model, m["tokens_per_second"])
    return found

def reward_model(args, folder: Path) -> dict:
    "Trained on the consensus of samples of a model of the laboratory, whose labels any model can learn."
    samples = Infer(
        "self_consistency", args.dataset, "lab-m", method_args={"parallel_num": 4}, max_samples=max(args.questions, 24),
        model_temperature=1.0, split="train", output_path=str(folder/"samples.jsonl"),
    ).run()
    steps = LabelBoth(str(samples), steps=["consensus"]).run()
    Prm(args.model, str(steps), str(folder/"prm"), num_train_epochs=1, per_device_train_batch_size=8, stages="II").run()
    m = read_manifest(folder/"prm")
    kept = ("examples", "held_out_f1", "held_out_auc", "tokens_per_second", "peak_memory_mib")
    return {key: m.get(key) for key in kept}

def reinforcement(args, folder: Path) -> dict:
    "By the outcome alone, from the student of R-SFT."
    out = folder/"grpo"
    Grpo(
        str(folder/"sft_sdpa"), None, str(out), reward_mode="VR", prompt_data=args.dataset, max_samples=4*args.steps,
        rollout_batch_size=4, n_samples_per_prompt=8, generate_max_len=64, actor_learning_rate=1e-5,
    ).run()
    m = read_manifest(out)
    kept = ("first_solved", "last_solved", "sampled_tokens_per_second", "tokens_per_second", "peak_memory_mib")
    return {key: m.get(key) for key in kept}

def main() -> int:
    args = arguments()
    found = {"device": device(), **provenance(), "command": " ".join(["python", *sys.argv])}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in (inference, rsft, reward_model, reinforcement):
            start = time.perf_counter()
            try: result = part(args, Path(folder))
            except Exception as e:   # the other parts are worth their minutes all the same
                traceback.print_exc()
                failed += 1
                result = {"error": f"{type(e).__name__}: {e}"}
            found[part.__name__] = result | {"seconds": round(time.perf_counter() - start, 1)}
            Path(args.out).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(failed > 0)

if __name__ == "__main__": sys.exit(main())
