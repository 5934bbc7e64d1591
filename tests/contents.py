"""Write nbs/contents.ipynb, and at the end of every notebook the links to it and to the next one (make notebooks).

    python tests/contents.py
"""
import json
import os
import re
from itertools import pairwise
from pathlib import Path
from notebooks import ROOT, notebooks

NBS = ROOT/"nbs"
CONTENTS = NBS/"contents.ipynb"
BEGINNING = "[Contents]("     # of the cell with the links

def text_of(cell: dict) -> str: return "".join(cell["source"])

def titled(path: Path) -> tuple[str, str]:
    "Title of a notebook and the sentence below it."
    cells = [text_of(c) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]
    title, about = re.search(r"^# (.+)\n+> (.+)", "\n\n".join(cells), re.M).groups()
    return title, about

def rooms() -> dict[str, str]:
    "What the rooms hold, from the table in CONTRIBUTING.md."
    return dict(re.findall(r"^\| `(\d\d_\w+)` \| (.+) \|$", (ROOT/"CONTRIBUTING.md").read_text(), re.M))

def line(path: Path) -> str:
    "A notebook in the table of contents."
    title, about = titled(path)
    return f"- [{title}]({path.relative_to(NBS)}): {about}"

def contents() -> list[str]:
    "The cells of the table of contents."
    cells = [
        "# All notebooks\n\n> The source, in the order in which it is read.",
        "\n".join(line(p) for p in notebooks() if p.parent == NBS and p != CONTENTS),
    ]
    for room, holds in rooms().items():
        inside = [line(p) for p in notebooks() if p.parent.name == room]
        cells.append("\n".join([f"## {room[3:]}", f"*{holds[0].upper()}{holds[1:]}*", "", *inside]))
    return cells

def links(path: Path, following: Path | None) -> str:
    "The links at the end of a notebook."
    def to(other): return os.path.relpath(other, path.parent)
    found = f"{BEGINNING}{to(CONTENTS)})"
    if following: found += f" · next: [{titled(following)[0]}]({to(following)})"
    return found

def markdown(identity: str, text: str) -> dict:
    "A cell."
    return {"cell_type": "markdown", "id": identity, "metadata": {}, "source": text.splitlines(keepends=True)}

def linked(nb: dict, text: str) -> dict:
    "The notebook with the links before its hidden last cell."
    cells = [c for c in nb["cells"] if not text_of(c).startswith(BEGINNING)]
    at = len(cells)
    if cells[-1]["cell_type"] == "code" and text_of(cells[-1]).startswith("#| hide"): at -= 1
    cells.insert(at, markdown("navigation", text))
    return {**nb, "cells": cells}

def written() -> dict[Path, str]:
    "Every notebook as it should be."
    order = [p for p in notebooks() if p.parent != NBS]
    order = [NBS/"index.ipynb", *order]     # what is beside the index is read when it is looked for
    following = dict(pairwise(order))
    found = {}
    for path in notebooks():
        nb = json.loads(path.read_text())
        if path == CONTENTS: nb["cells"] = [markdown(f"part{i}", text) for i, text in enumerate(contents())]
        else: nb = linked(nb, links(path, following.get(path)))
        found[path] = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    return found

def main():
    for path, text in written().items():
        if path.read_text() != text: path.write_text(text)

if __name__ == "__main__": main()
