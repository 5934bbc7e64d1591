"Programs with their tests: right ones, in families with a number K, and forged ones."
import re
from pathlib import Path

FOLDER = Path(__file__).parent/"data"/"sandbox"

def _read(name: str) -> dict[str, tuple[str, str]]:
    "Program and tests by name, from a file of `=== name`, program, `---`, tests."
    sections = re.split(r"^=== (.*)\n", (FOLDER/name).read_text(), flags=re.M)[1:]
    return {title: tuple(text.split("---\n")) for title, text in zip(sections[::2], sections[1::2])}

def _tests(calls: str, k: int) -> str:
    "Lines `call -> value` as asserts, as in MBPP, or where k is even as a `check` of a candidate, as in HumanEval."
    pairs = [line.split(" -> ") for line in calls.splitlines()]
    lines = [f"assert {call} == {eval(value)!r}" for call, value in pairs]
    if k % 2: return "\n".join(lines)
    name = calls.partition("(")[0]
    checks = [line.replace(f"{name}(", "candidate(", 1) for line in lines]
    return "\n    ".join(["def check(candidate):", *checks]) + f"\n\ncheck({name})"

def right_programs(numbers) -> dict[str, tuple[str, str]]:
    "Program and tests by name, for each number of each family."
    found = {}
    for k in numbers:
        for name, texts in _read("right.txt").items():
            program, tests = (re.sub(r"\bK\b", str(k), text) for text in texts)
            found[f"{name} {k}"] = program, _tests(tests, k) if " -> " in tests else tests
    return found

FORGED = _read("forged.txt")
