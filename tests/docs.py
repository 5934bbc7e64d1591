"""What is on the site that `make docs` builds: a hook of mkdocs (mkdocs.yml).

Notebooks, pages and figures keep their places in the repository, so that their links hold on the site too;
the reference has a page for every module, made from its docstrings. Notebooks become Markdown here: with
mkdocs-jupyter every page carries a megabyte of styles, and the site is six times as large.
"""
import base64
import re
import sys
from pathlib import Path
import nbformat
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT/"tests"))
from contents import NBS, rooms, titled
from notebooks import notebooks

NOTEBOOK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s#]+)\.ipynb\b")   # a link to one
PAGES = ["CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "papermill_runs/LOG.md"]
FOLDERS = {   # what pages show and link to
    "figures": "*",
    "papermill_runs": "*/*.*",
    "papermill_runs/paper": "full/*.*",
    "agentark/runs": "*.html",
    "tests": "*.py",
}

def to_pages(text: str) -> str:
    "A text whose links to notebooks lead to their pages."
    return NOTEBOOK.sub(r"\1.md", text)

def is_shown(cell) -> bool:
    "Is it neither hidden nor empty?"
    return cell.source.strip() and not cell.source.startswith(("#| hide", "#| default_exp", "# ---"))

def page(path: Path) -> str:
    "A notebook as Markdown, with its stored outputs."
    from nbconvert import MarkdownExporter
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if is_shown(c)]
    nb.metadata["language_info"] = {"name": "python"}    # of the fences
    for c in nb.cells:
        if "#| echo: false" in c.source: c.cell_type, c.source = "markdown", c.outputs[0].data["text/markdown"]
    text, pictures = MarkdownExporter().from_notebook_node(nb)
    for name, data in pictures["outputs"].items():
        text = text.replace(f"]({name})", f"](data:image/png;base64,{base64.b64encode(data).decode()})")
    return to_pages(text)

def modules() -> dict[str, list[str]]:
    "The modules of the package by room, in the order of the notebooks."
    found = {}
    for path in notebooks():
        room, name = path.parent.name[3:], path.stem[3:]
        if (ROOT/"agentark"/room/f"{name}.py").exists(): found.setdefault(room, []).append(name)
    return found

def reference(room: str, name: str) -> str:
    "The page of a module in the reference."
    [notebook] = NBS.glob(f"[0-9][0-9]_{room}/[0-9][0-9]_{name}.ipynb")
    title, about = titled(notebook)
    source = f"[{title}](../../nbs/{notebook.relative_to(NBS).with_suffix('.md')})"
    return f"# agentark.{room}.{name}\n\n> {about}\n\nThe notebook: {source}\n\n::: agentark.{room}.{name}\n"

def at(path: Path) -> str:
    "Where the page of a notebook is."
    return str(path.relative_to(ROOT).with_suffix(".md"))

def on_config(config):
    "What the menu shows."
    def inside(room): return [at(p) for p in notebooks() if p.parent.name == room]
    library = {room[3:]: inside(room) for room in rooms() if room < "12"}
    config.nav = [
        {"Home": "index.md"},
        {"Tutorials": inside("13_tutorials")},
        {"Guide": "nbs/guide.md"},
        {"Results": "nbs/results.md"},
        {"The paper": inside("14_reproduced")},
        {"Notebooks": [{"All": "nbs/contents.md"}, *({k: v} for k, v in library.items()),
                       {"experiments": inside("12_experiments")}]},
        {"Reference": [{room: [f"api/{room}/{name}.md" for name in names]} for room, names in modules().items()]},
        {"Contributing": "CONTRIBUTING.md"},
    ]
    return config

@event_priority(100)
def on_files(files, config):
    "The pages, from where they are."
    for file in list(files):
        if file.src_dir == config.docs_dir: files.remove(file)   # the theme's own stay
    def add(path): files.append(File(str(path), str(ROOT), config.site_dir, config.use_directory_urls))
    def make(name, text): files.append(File.generated(config, name, content=text))
    for path in notebooks(): make(at(path), page(path))
    for name in PAGES:
        if name.endswith(".md"): make(name, to_pages((ROOT/name).read_text()))
        else: add(name)
    for folder, pattern in FOLDERS.items():
        for path in sorted((ROOT/folder).glob(pattern)):
            if path.is_file(): add(path.relative_to(ROOT))
    make("index.md", to_pages((ROOT/"README.md").read_text()))
    for room, names in modules().items():
        for name in names: make(f"api/{room}/{name}.md", reference(room, name))
    return files
