"""Run notebooks as nbdev does, and compare or store what they show.

    python tests/notebooks.py                        execute all and store their outputs (make outputs)
    python tests/notebooks.py nbs/00_core/...ipynb   only these
    python tests/notebooks.py --check ...            say what differs, and store nothing

A cell with the flag `#| varies` shows what differs from machine to machine (sampled text, speeds):
its outputs are stored and not compared.
"""
import argparse
import base64
import contextlib
import io
import json
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from forked import FORKED

ROOT = Path(__file__).parent.parent
ENGINES = ("vllm", "ray", "modal")                      # cells marked with these run where they are installed


def notebooks() -> list[Path]:
    "All notebooks of the project, by path."
    return sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)

def flags(slow: bool = True) -> list[str]:
    "Which of the flags that nbdev skips by default are run here."
    return [name for name in ENGINES if find_spec(name)] + ["slow"]*slow

# ---- running

@dataclass
class Ran:
    "What a notebook showed: outputs by the index of the cell, of those that ran; or the error that stopped it."
    outputs: dict[int, list[dict]] = field(default_factory=dict)
    error: str | None = None

def execute(path: Path, run_flags: list[str]) -> Ran:
    "Run a notebook in this process, skipping cells as nbdev_test does."
    from execnb.shell import CaptureShell
    from nbdev.config import get_config
    from nbdev.process import NBProcessor
    os.environ["IN_TEST"] = "1"
    skipped = {*(get_config().tst_flags or "").split()} - {*run_flags}
    nb = NBProcessor(path, process=True).nb
    done = Ran()
    def skip(cell) -> bool:
        if cell.cell_type != "code" or "nbdev_export(" in cell.source: return True
        if "skip-execution" in cell.metadata.get("tags", ()): return True
        directives = getattr(cell, "directives_", None) or {}
        if directives.get("eval:", [""])[0].lower() == "false": return True
        if skipped & directives.keys(): return True
        done.outputs[cell.idx_] = cell.outputs = []   # what it showed before counts no more
        return False
    shell = CaptureShell(path, mpl_format="png")
    before = Path.cwd()
    os.chdir(path.parent)
    try: shell.run_all(nb, exc_stop=True, preproc=skip)
    except BaseException: done.error = shell.prettytb(fname=path)
    finally: os.chdir(before)
    done.outputs = {c.idx_: [dict(o) for o in c.get("outputs", [])] for c in nb.cells if c.get("idx_") in done.outputs}
    return done

def _child(connection, path, run_flags, folder):
    "In a process of its own: run, and send back what was shown."
    signal.signal(signal.SIGINT, signal.default_int_handler)   # also where the starter ignores it
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    with contextlib.redirect_stdout(io.StringIO()): done = execute(path, run_flags)
    connection.send(json.dumps({"outputs": done.outputs, "error": done.error}, default=str))
    connection.close()
    os._exit(0)   # threads of engines and kernels may still be around

def run(path: Path, run_flags: list[str], folder: str, seconds: float = 1500) -> Ran:
    "Run a notebook in a process of its own, with temporary files below `folder`."
    ours, theirs = FORKED.Pipe(duplex=False)
    child = FORKED.Process(target=_child, args=(theirs, path, run_flags, folder))
    child.start()
    theirs.close()
    try:
        if not ours.poll(seconds): return Ran(error=f"{path}: not finished after {seconds:.0f} s")
        sent = json.loads(ours.recv().replace(folder, "/tmp"))   # wherever this machine keeps such files
    except EOFError: return Ran(error=f"{path}: its process ended without a word")
    finally:
        child.join(20)
        if child.is_alive(): child.kill()
    return Ran({int(i): o for i, o in sent["outputs"].items()}, sent["error"])

# ---- comparing

_TEMPORARY = re.compile(r"(?:/private)?/(?:tmp|var/folders)/[^\s'\"<>,:)]*/(?=[^/\s'\"<>,:)]*)")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_MEASURED = re.compile(   # times, speeds and sizes, with their units
    r"\b\d[\d,.]*\s?(?:ms|s|seconds?|minutes?|min|h|microseconds|µs|tokens/s|tok/s|calls/s|it/s|[KMG]i?B)\b"
)
_SPENT = re.compile(r"\b\d+:\d\d(?::\d\d)?\b")
_DATE = re.compile(r"\b20\d\d-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[+-]\d{4}|Z)?)?")

def stored_form(text: str) -> str:
    "A text as it is stored: without this machine's folders and addresses."
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    return _ADDRESS.sub("0x...", _TEMPORARY.sub("/tmp/", text))

def masked(text: str) -> str:
    "A text as it is compared: also without times, speeds, dates and differences in white space."
    text = stored_form(text)
    text = _DATE.sub("<date>", text)
    text = _MEASURED.sub("<measured>", text)
    text = _SPENT.sub("<time>", text)
    return " ".join(text.split())

def _joined(text) -> str: return text if isinstance(text, str) else "".join(text)

def shown(outputs: list[dict]) -> list[tuple[str, str]]:
    "What outputs say, as `(type, text)`; standard error (progress bars, warnings) and pictures are left out."
    found = []
    for output in outputs:
        if output.get("name") == "stdout": found.append(("stdout", _joined(output["text"])))
        found += [(kind, _joined(text)) for kind, text in _telling(output).items() if kind.startswith("text/")]
    streams = "".join(text for kind, text in found if kind == "stdout")
    rest = sorted(pair for pair in found if pair[0] != "stdout")
    return [("stdout", streams)]*bool(streams) + rest

RICH = ("image/png", "text/html", "text/markdown")

def _telling(output: dict) -> dict:
    "What an output shows, by kind; plain text only where nothing richer stands for it."
    data = output.get("data", {})
    rich = {kind: content for kind, content in data.items() if kind in RICH}
    return rich or data

def says(outputs: list[dict]) -> list[tuple[str, str]]:
    "What is compared of outputs."
    return [(kind, masked(text)) for kind, text in shown(outputs)]

def pictures(outputs: list[dict]) -> list[tuple]:
    "Size and pixels of the pictures: their files also say which version drew them."
    from PIL import Image
    stored = [_joined(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    opened = [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA") for png in stored]
    return [(picture.size, picture.tobytes()) for picture in opened]

def varies(cell: dict) -> bool: return re.search(r"^#\|\s*varies\b", _joined(cell["source"]), re.M) is not None

def differences(path: Path, ran: Ran) -> list[str]:
    "For every cell whose stored output is not what it shows now: which, what is stored and what it is."
    out = []
    for i, cell in enumerate(json.loads(path.read_text())["cells"]):
        if i not in ran.outputs or varies(cell): continue
        stored, now = says(cell.get("outputs", [])), says(ran.outputs[i])
        if stored != now: out.append(f"cell {i}:\n  stored {stored}\n  now    {now}")
    return out

def comparable(path: Path) -> bool:
    "Outputs made from real datasets are compared only where these are at hand."
    return "AGENTARK_DATA" in os.environ or "AGENTARK_DATA" not in path.read_text()

# ---- storing

def tidied(output: dict) -> dict | None:
    "An output as it is stored, or None for one that is not."
    if output["output_type"] == "stream":
        if output["name"] != "stdout": return None
        return {**output, "text": stored_form(_joined(output["text"])).splitlines(keepends=True)}
    data = {}
    for kind, text in _telling(output).items():
        data[kind] = stored_form(_joined(text)).splitlines(keepends=True) if kind.startswith("text/") else text
    return {**output, "data": data, **({"execution_count": None} if "execution_count" in output else {})}

def merged_streams(outputs: list[dict]) -> list[dict]:
    "Consecutive pieces of standard output as one."
    merged = []
    for output in outputs:
        follows = merged and "text" in merged[-1] and "text" in output
        if follows: merged[-1]["text"] += output["text"]
        else: merged.append(output)
    return merged

def store(path: Path, ran: Ran) -> bool:
    "Write new outputs into the notebook, where they do not say and show what is there; was anything changed?"
    nb = json.loads(path.read_text())
    before = json.dumps(nb)
    for i, outputs in ran.outputs.items():
        cell = nb["cells"][i]
        old = cell.get("outputs", [])
        if says(old) == says(outputs) and pictures(old) == pictures(outputs): continue
        cell["outputs"] = merged_streams([t for o in outputs if (t := tidied(o))])
    if json.dumps(nb) == before: return False
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n")
    return True

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: all")
    parser.add_argument("--check", action="store_true", help="compare and store nothing")
    args = parser.parse_args()
    failed = False
    for path in [p.resolve() for p in args.paths] or notebooks():
        run_flags = flags() if args.check else [*flags(), "measured"]
        with tempfile.TemporaryDirectory() as folder: ran = run(path, run_flags, folder)
        found = [] if ran.error else differences(path, ran)
        changed = not args.check and not ran.error and store(path, ran)
        print(path.relative_to(ROOT), "stored"*changed, flush=True)
        if args.check: print(*found, sep="\n")
        if ran.error: print(ran.error)
        failed |= bool(ran.error) or (args.check and bool(found))
    sys.exit(failed)

if __name__ == "__main__": main()
