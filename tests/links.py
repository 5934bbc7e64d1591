"""Are all links and pictures there: in notebooks, in Markdown files, and on the site that `make docs` built?

    python tests/links.py          notebooks and Markdown files of the project
    python tests/links.py _docs    the pages of a site
"""
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from notebooks import ROOT, notebooks

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`|\$[^$]*\$", re.S)    # brackets in code and formulas are no links

def is_outside(target: str) -> bool: return re.match(r"[a-z]+:|//|#", target) is not None

def written() -> Iterator[tuple[Path, str]]:
    "Every link in the text of notebooks and Markdown files, with the file."
    for path in notebooks():
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] != "markdown": continue
            for target in LINK.findall(CODE.sub("", "".join(cell["source"]))): yield path, target
    for path in [*ROOT.glob("*.md"), *ROOT.glob("papermill_runs/*.md")]:
        for target in LINK.findall(CODE.sub("", path.read_text())): yield path, target

class Page(HTMLParser):
    "The targets of a page's links, pictures, styles and scripts, and the names of its places."

    def __init__(self, text: str):
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]

def broken_on_site(site: Path) -> list[str]:
    "Links of a site that lead nowhere, places within pages included."
    pages = {p.resolve(): Page(p.read_text()) for p in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        if path.name == "404.html": continue    # its links start at the server's root
        for target in page.targets:
            if re.match(r"[a-z]+:|//", target): continue
            name, _, place = unquote(target).partition("#")
            to = (path.parent/name).resolve() if name else path
            if to.is_dir(): to /= "index.html"
            missing = not to.exists() or (place and to in pages and place not in pages[to].places)
            if missing and place != "__top": found.append(f"{path.relative_to(site.resolve())}: {target}")
    return sorted(set(found))

def broken() -> list[str]:
    "Links of the project that lead nowhere, each from its own file's place."
    inside = ((path, target) for path, target in written() if not is_outside(target))
    return [f"{p.relative_to(ROOT)}: {t}" for p, t in inside if not (p.parent/unquote(t.partition("#")[0])).exists()]

if __name__ == "__main__":
    found = broken_on_site(Path(sys.argv[1])) if len(sys.argv) > 1 else broken()
    print(*found, sep="\n")
    sys.exit(bool(found))
