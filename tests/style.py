"""How dense is the code? Counts what CONTRIBUTING.md asks for, over notebooks and modules.

    python tests/style.py                  the project: exported cells, test cells, tests
    python tests/style.py --peers          beside fastcore, nbdev and TRL, as installed here
    python tests/style.py --cells          name the cells that are too wide, too long or too dense
    python tests/style.py nbs/00_core ...  only these notebooks or folders
"""
import argparse
import ast
import importlib.util
import io
import json
import re
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDE, CUT = 120, 130              # characters: our limit, and where a 1280-pixel page cuts a cell
LONG, MANY = 50, 3000             # lines and characters of a cell that is too long
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Piece:
    "A cell or a module: where it is, and its code."
    where: str
    code: str

    @property
    def lines(self) -> list[str]:
        "Its lines without blanks and comments."
        return [line for line in self.code.split("\n") if line.strip() and not line.lstrip().startswith("#")]


@dataclass
class Count:
    "Sums over pieces of code."
    pieces: int = 0
    lines: int = 0
    wide: int = 0            # lines over 120 characters
    nodes: int = 0           # of the syntax tree
    semicolons: int = 0
    nested: int = 0          # comprehensions with another inside, or with two `for`
    conditionals: int = 0    # conditional expressions inside another
    cut: int = 0             # pieces with a line over 130 characters
    long: int = 0            # pieces of more than 50 lines or 3,000 characters
    sizes: list[int] = field(default_factory=list)       # lines of each piece
    functions: list[int] = field(default_factory=list)   # lines of each function

    def add(self, piece: Piece) -> "Count":
        "Count a piece; one that is not Python (a magic) counts by its lines only."
        self.pieces += 1
        self.lines += len(piece.lines)
        self.sizes.append(len(piece.lines))
        self.wide += sum(len(line) > WIDE for line in piece.lines)
        self.cut += any(len(line) > CUT for line in piece.code.split("\n"))
        self.long += too_long(piece)
        tree = parsed(piece.code)
        if tree is None: return self
        nodes = list(ast.walk(tree))
        self.nodes += len(nodes)
        self.semicolons += semicolons(piece.code)
        self.nested += sum(is_nested(n) for n in nodes if isinstance(n, COMPREHENSIONS))
        self.conditionals += sum(has_inside(n, ast.IfExp) for n in nodes if isinstance(n, ast.IfExp))
        defs = (ast.FunctionDef, ast.AsyncFunctionDef)
        self.functions += [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, defs)]
        return self

    def row(self) -> dict[str, str]:
        "The figures by name, as they are printed."
        lines, pieces = max(self.lines, 1), max(self.pieces, 1)
        return {
            "lines": f"{self.lines:,}",
            "lines > 120, %": f"{100*self.wide/lines:.1f}",
            "cells cut at 130, %": f"{100*self.cut/pieces:.1f}",
            "syntax nodes / line": f"{self.nodes/lines:.1f}",
            "; / 1000": f"{1000*self.semicolons/lines:.1f}",
            "nested comprehensions / 1000": f"{1000*self.nested/lines:.1f}",
            "nested conditionals / 1000": f"{1000*self.conditionals/lines:.1f}",
            "cells > 50 lines or 3,000 characters": str(self.long),
            "median cell": f"{statistics.median(self.sizes or [0]):.0f}",
            "longest function": str(max(self.functions, default=0)),
        }


def too_long(piece: Piece) -> bool: return len(piece.lines) > LONG or len(piece.code) > MANY

def parsed(code: str) -> ast.AST | None:
    "The syntax tree of a cell, with magics left out; None where it is not Python."
    try: return ast.parse(re.sub(r"^\s*[%!].*$", "pass", code, flags=re.M))
    except SyntaxError: return None

def semicolons(code: str) -> int:
    "How often a `;` joins statements."
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    try: return sum(t.type == tokenize.OP and t.string == ";" for t in tokens)
    except tokenize.TokenError: return 0

def has_inside(node: ast.AST, kind) -> bool: return any(isinstance(n, kind) for n in ast.walk(node) if n is not node)

def is_nested(node: ast.AST) -> bool: return len(node.generators) > 1 or has_inside(node, COMPREHENSIONS)

# ---- where code comes from

def cells(folder: Path, exported: bool | None = None) -> Iterator[Piece]:
    "The code cells of the notebooks in a folder (or of one notebook); `exported`: only those, or only the others."
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.ipynb"))
    for path in paths:
        if ".ipynb_checkpoints" in path.parts: continue
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            code = "".join(cell["source"])
            if cell["cell_type"] != "code" or "nbdev_export()" in code: continue
            is_export = re.match(r"\s*#\|\s*exports?\b", code) is not None
            if exported in (None, is_export): yield Piece(f"{path}, cell {i}", code)

def modules(folder: Path) -> Iterator[Piece]:
    "The modules below a folder; generated indices are left out."
    for path in sorted(folder.rglob("*.py")):
        if path.name != "_modidx.py": yield Piece(str(path), path.read_text(encoding="utf-8"))

def counted(pieces) -> Count:
    "All pieces in one count."
    count = Count()
    for piece in pieces: count.add(piece)
    return count

def peers() -> dict[str, Count]:
    "The same figures of well-known packages, where they are installed."
    found = {name: importlib.util.find_spec(name) for name in ("fastcore", "nbdev", "trl")}
    return {n: counted(modules(Path(s.origin).parent)) for n, s in found.items() if s}

def named(pieces) -> Iterator[str]:
    "A line for every cell that breaks a limit."
    for piece in pieces:
        count = Count().add(piece)
        row = count.row()
        marks = [f"{count.wide} lines over {WIDE}"]*bool(count.wide) + ["too long"]*count.long
        marks += [f"{count.semicolons} ;"]*bool(count.semicolons)
        marks += [f"{count.nested} nested comprehensions"]*bool(count.nested)
        marks += [f"{count.conditionals} nested conditionals"]*bool(count.conditionals)
        dense = count.nodes/max(count.lines, 1) > 14
        marks += [f"{row['syntax nodes / line']} nodes a line"]*dense
        if marks: yield f"{piece.where}: {', '.join(marks)}"

def table(counts: dict[str, Count]) -> str:
    "A Markdown table, one column a count."
    rows = {name: c.row() for name, c in counts.items()}
    lines = ["| | " + " | ".join(rows) + " |", "|---|" + "--:|"*len(rows)]
    for figure in next(iter(rows.values())):
        lines.append(f"| {figure} | " + " | ".join(row[figure] for row in rows.values()) + " |")
    return "\n".join(lines)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks or folders of them; default: the whole project")
    parser.add_argument("--peers", action="store_true", help="count fastcore, nbdev and TRL as well")
    parser.add_argument("--cells", action="store_true", help="name every cell that breaks a limit")
    args = parser.parse_args()
    paths = args.paths or [ROOT/"nbs"]
    if args.cells:
        for path in paths: print(*named(cells(path)), sep="\n")
        return
    counts = {"exported cells": [p for path in paths for p in cells(path, True)],
              "other cells": [p for path in paths for p in cells(path, False)]}
    if not args.paths: counts |= {"package": modules(ROOT/"agentark"), "tests": modules(ROOT/"tests")}
    counts = {name: counted(pieces) for name, pieces in counts.items()}
    print(table(counts | (peers() if args.peers else {})))

if __name__ == "__main__": main()
