"What starts a stage: flags in every spelling, modules, launchers, and DeepSpeed where it is installed."
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
import pytest
from conftest import AGENTARK, ROOT
from agentark.core.store import write_jsonl
from agentark.distill.training import last_checkpoint, read_manifest
from agentark.runs.cli import STAGES, parse, switches

MISSING = dataclasses.MISSING

def required(stage) -> list[str]:
    "Flags for the fields that have no default."
    fields = [f.name for f in dataclasses.fields(stage) if f.default is f.default_factory is MISSING]
    return [word for name in fields for word in (f"--{name}", "x")]

SWITCHES = [(name, switch) for name, stage in STAGES.items() for switch in sorted(switches(stage))]
SPELLINGS = {
    True: ["--{}", "--{} True", "--{}=True", "--{} true", "--{}=true"],
    False: ["--no_{}", "--{} False", "--{}=False", "--{} false", "--{}=false"],
}

@pytest.mark.parametrize("name, switch", SWITCHES)
def test_every_switch_in_every_spelling(name, switch):
    for value, spellings in SPELLINGS.items():
        for spelling in spellings:
            for form in (switch, switch.replace("_", "-")):
                words = [name, *required(STAGES[name]), *spelling.format(form).split()]
                assert getattr(parse(words), switch) is value, words

def test_the_value_of_another_flag_is_let_alone():
    words = "infer --method_name True --model_name false --use_vllm --test_dataset_name no --method_args stop True"
    stage = parse(words.split())
    assert stage.method_name == "True"
    assert stage.model_name == "false"
    assert stage.use_vllm is True
    assert stage.method_args == {"stop": "True"}

def test_the_fix_is_named(agentark):
    done = agentark("run", "--overwrite", "papermill_runs/demo/demo.yaml")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("write --overwrite True or --overwrite False")

SPECIFIED = """
infer --method_name llm_debate --test_dataset_name QMSum --model_name Qwen/Qwen3-8B --use_vllm --tensor_parallel_size 2
infer --method_name dylan --test_dataset_name MATH --model_name M --use_vllm --tensor_parallel_size 4 --model_temperature 0.7
infer --method_name llm_debate --test_dataset_name QMSum --use_modal_batch --model_name Qwen/Qwen3-8B
label --input llm_debate_infer.jsonl --dataset_name QMSum --model Qwen/Qwen2.5-72B-Instruct --tensor_parallel_size 4
eval --input_file results/QMSum/Qwen/Qwen3-8B/llm_debate_infer.jsonl --dataset_name QMSum
eval --model_name_or_path M --dataset_name QMSum --split validation --output_dir outputs --temperature 0.7 --use_vllm --apply_chat_template
eval --model_name_or_path M --dataset_name QMSum --split validation --output_dir outputs --use_vllm
sft --model_name_or_path M --train_data_path t.jsonl --output_dir o --num_train_epochs 3 --per_device_train_batch_size 64 --gradient_accumulation_steps 1 --learning_rate 1e-4 --weight_decay 0.1 --warmup_ratio 0.0 --logging_steps 1 --save_steps 500 --gradient_checkpointing True
"""   # noqa: E501

@pytest.mark.parametrize("line", SPECIFIED.strip().splitlines())
def test_command_lines_of_the_specification(line):
    name, *_ = line.split()
    assert isinstance(parse(line.split()), STAGES[name])


def process(*command, **env) -> subprocess.CompletedProcess:
    "A command with this Python."
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, env={**os.environ, **env})

@pytest.mark.parametrize("module", ["agentark", "agentark.runs.cli"])
def test_modules_are_the_command(module):
    command = subprocess.run([AGENTARK, "--version"], capture_output=True, text=True, check=True)
    assert process("-m", module, "--version").stdout == command.stdout
    wrong = process("-m", module, "infr")
    assert wrong.returncode == 1
    assert "did you mean infer?" in wrong.stderr

def traces(folder: Path) -> str:
    "A file of 36 traces."
    rows = []
    for n in range(36):
        a = 10 + n
        rows.append({
            "prompt": [{"role": "user", "content": f"What is {a} + 5?"}],
            "completion": [{"role": "assistant", "content": f"{a} + 5 = {a + 5}\n{a + 5}"}],
        })
    return str(write_jsonl(folder/"traces.jsonl", rows))

def sft(folder: Path, out: Path, *more) -> list[str]:
    "Nine steps of the tiny model in two processes, eighteen in one; a checkpoint after every third."
    return [
        "sft",
        "--model_name_or_path", "tiny-random",
        "--train_data_path", traces(folder),
        "--output_dir", str(out),
        "--num_train_epochs", "1",
        "--per_device_train_batch_size", "2",
        "--save_steps", "3",
        *map(str, more),
    ]

@pytest.mark.slow
def test_accelerate_reaches_the_stages(tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = process(*launcher, "-m", "agentark", *sft(tmp_path, tmp_path/"out", "--gradient_checkpointing", "True"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained on 36 traces, 18 steps") == 1
    assert read_manifest(tmp_path/"out")["status"] == "finished"


DIE_AT_FIVE = """
import os
import sys
from transformers import Trainer, TrainerCallback
from agentark.runs.cli import main

class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5: os._exit(9)

train = Trainer.train
def dying(self, *args, **kwargs):
    self.add_callback(Die())
    return train(self, *args, **kwargs)
Trainer.train = dying
raise SystemExit(main(sys.argv[1:]))
"""

def torchrun(*command) -> subprocess.CompletedProcess:
    "Two processes on the CPU."
    return process("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command)

def weights(folder) -> dict:
    from safetensors.torch import load_file
    return load_file(Path(folder)/"model.safetensors")

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Path:
    "A student of two processes without DeepSpeed."
    folder = tmp_path_factory.mktemp("without")
    done = torchrun("-m", "agentark", *sft(folder, folder/"out"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder/"out"

@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("options", [(1,), (2,), (3,), (3, "--zero_offload")], ids=str)
def test_shared_out_killed_and_resumed_is_the_same_student(options, without, tmp_path):
    "Stage 3 would save empty tensors if the main process saved alone."
    out = tmp_path/"out"
    (tmp_path/"die.py").write_text(DIE_AT_FIVE)
    command = sft(tmp_path, out, "--zero_stage", *options)
    assert torchrun(tmp_path/"die.py", *command).returncode != 0
    assert Path(last_checkpoint(out)).name == "checkpoint-3"

    done = torchrun("-m", "agentark", *command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "9 steps (resumed)" in done.stdout
    written = json.loads((out/"deepspeed.json").read_text())
    assert written["zero_optimization"]["stage"] == options[0]

    ours, theirs = weights(out), weights(without)
    assert ours.keys() == theirs.keys()
    for name in ours: assert (ours[name] - theirs[name]).abs().max() < 1e-6, name

@needs_deepspeed
def test_the_json_is_what_deepspeed_reads():
    from deepspeed.runtime.config import DeepSpeedConfig
    from agentark.distill.students import FILLED_IN, zero_config
    for stage in range(4):
        config = zero_config(stage) | dict.fromkeys(FILLED_IN, 1) | {"bf16": {"enabled": True}}
        assert DeepSpeedConfig(config).zero_optimization_stage == stage
