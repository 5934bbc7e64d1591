"Learns which words people use who solve alone: `AGENTARK_DATA=... python tests/solver_words.py`."
import json
import os
from collections.abc import Iterator
from pathlib import Path
from agentark.core.store import read_jsonl
from agentark.distill.talk import ARITHMETIC, STRUCK, words_in


def solved(data: Path) -> Iterator[tuple[str, str]]:
    "Questions with their worked solutions: GSM8K's for training, MATH-500, AQuA's for development."
    for r in read_jsonl(data/"gsm8k"/"train.jsonl"): yield r["question"], r["answer"]
    for r in read_jsonl(data/"math500"/"test500.jsonl"): yield r["problem"], r["solution"]
    for line in (data/"aqua"/"dev.json").read_text().splitlines():
        r = json.loads(line)
        yield r["question"] + " ".join(r["options"]), r["rationale"]

def learnt(data: Path) -> list[str]:
    "The words of the solutions that their questions do not have."
    found: set[str] = set()
    for question, solution in solved(data): found |= words_in(solution) - words_in(question.lower())
    return sorted((found | ARITHMETIC) - STRUCK)

if __name__ == "__main__":
    from agentark.distill.talk import SOLVERS
    SOLVERS.write_text("\n".join(learnt(Path(os.environ["AGENTARK_DATA"]))) + "\n")
