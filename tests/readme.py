"""Print README.md as made from nbs/index.ipynb: its text, its code and its stored outputs.

Hidden cells are left out, and of `echo: false` cells the code.
"""
from pathlib import Path

root = Path(__file__).parent.parent

def readme() -> str:
    import nbformat
    from nbconvert import MarkdownExporter
    nb = nbformat.read(root/"nbs"/"index.ipynb", 4)
    nb.cells = [c for c in nb.cells if "#| hide" not in c.source]
    for c in nb.cells:
        if c.source.startswith("#| echo: false"): c.cell_type, c.source = "markdown", c.outputs[0].data["text/markdown"]
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return text.replace("../figures/", "figures/").strip() + "\n"

if __name__ == "__main__": print(readme(), end="")
