"""Print README.md as made from nbs/index.ipynb: its text, its code and its stored outputs.

Hidden cells are left out, and of `echo: false` cells the code. Links are turned to start from the README's place.
"""
import posixpath
import re
from pathlib import Path

root = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+")   # the target of a link or an image, unless it is an address

def from_root(text: str) -> str:
    "A text of a notebook in `nbs` with its links as from the project's root."
    return LINK.sub(lambda m: posixpath.normpath(f"nbs/{m[0]}"), text)

def readme() -> str:
    import nbformat
    from nbconvert import MarkdownExporter
    nb = nbformat.read(root/"nbs"/"index.ipynb", 4)
    nb.cells = [c for c in nb.cells if "#| hide" not in c.source and c.get("id") != "navigation"]
    for c in nb.cells:
        if c.source.startswith("#| echo: false"): c.cell_type, c.source = "markdown", c.outputs[0].data["text/markdown"]
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return from_root(text).strip() + "\n"

if __name__ == "__main__": print(readme(), end="")
