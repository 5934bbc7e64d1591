"The page of `agentark view`: what is in it anywhere, and in a browser where one is installed."
import contextlib
import io
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
import pytest
from agentark.core.records import Call, Labelled, Solution, Trace, Trajectory
from agentark.core.store import read_jsonl, write_jsonl
from agentark.methods.infer import Infer
from agentark.runs.shelf import Shelf, changes
from agentark.runs.view import page_of, read_page, server_of

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!--"
TEMPLATE = Path(__file__).parent.parent/"agentark"/"runs"/"view.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

def many(path: Path, method: str, n: int, **args) -> Path:
    "A run of `n` questions: 50 on the scripted engine, as often as needed under other ids."
    made = path.with_suffix(".once.jsonl")
    with contextlib.redirect_stdout(io.StringIO()):
        Infer(method, "reasoning_gym:chain_sum?min_terms=3&max_terms=5", "scripted",
              max_samples=50, method_args=args, output_path=str(made)).run()
    rows = list(read_jsonl(made))
    made.unlink()
    return write_jsonl(path, [{**rows[i % 50], "id": f"{i:04x}{rows[i % 50]['id'][4:]}"} for i in range(n)])

def hostile_record() -> Labelled:
    "A record that tries to break out of the page from every field that may hold text."
    calls = [
        Call(f"{i}{HOSTILE}", f"{HOSTILE}{i}", HOSTILE, 0, f"{HOSTILE} \ud800\u2028", HOSTILE,
             sees=[HOSTILE], messages=[{"role": "user", "content": HOSTILE}], model=HOSTILE, data=[HOSTILE])
        for i in range(2)
    ]
    steps = {"steps": [HOSTILE], "step_labels": [0.5], "steps_by": HOSTILE}
    solution = Solution(1, HOSTILE, False, HOSTILE, HOSTILE, answer=HOSTILE, judged_by=HOSTILE, **steps)
    texts = ("query", "gt", "source", "split", "response", "answer", "method", "model", "error", "id", "context")
    more = {"tag": [HOSTILE], "info": {HOSTILE: HOSTILE}, "calls": calls, "solutions": [solution]}
    return Labelled(**dict.fromkeys(texts, HOSTILE), **more)

def hostile_folder(folder: Path) -> Path:
    "Of a run, traces and a training that say the same, in files of such names."
    name = HOSTILE.replace("/", "|")[:80]
    write_jsonl(folder/f"{name}.jsonl", [hostile_record().to_dict()])
    said = [{"role": "assistant", "content": HOSTILE}]
    write_jsonl(folder/f"{name} traces.jsonl", [Trace(said, said, HOSTILE, HOSTILE, agent=HOSTILE).to_dict()])
    (folder/name).mkdir()
    (folder/name/"log.json").write_text(json.dumps([{"step": i, HOSTILE: i} for i in range(3)]))
    return folder

def page(*paths) -> str:
    shelf = Shelf([*map(str, paths)])
    shelf.update()
    return page_of(shelf)

# ---- anywhere

def test_nothing_that_is_said_opens_an_element(tmp_path):
    (tmp_path/"plain").mkdir()
    write_jsonl(tmp_path/"plain"/"run.jsonl", [Trajectory("2 + 2?", "4", response="4", answer="4").to_dict()])
    (tmp_path/HOSTILE.replace("/", "|")).mkdir()
    plain, hostile = page(tmp_path/"plain"), page(hostile_folder(tmp_path/HOSTILE.replace("/", "|")))
    for opening in ("<script>", "</script>", "<!--", "<img"):
        assert hostile.count(opening) == plain.count(opening), opening

def test_all_that_is_said_is_in_the_page(tmp_path):
    index, said = read_page(page(hostile_folder(tmp_path)))
    record, = said["said-0-0"]
    assert record["calls"][0]["text"] == f"{HOSTILE} \ud800\u2028"
    assert record["calls"][0]["messages"] == [{"role": "user", "content": HOSTILE}]
    assert record["solutions"][0]["steps"] == [[HOSTILE, 0.5]]
    assert record["context"] == record["error"] == HOSTILE
    assert index["runs"][0]["rows"][0]["state"] == "failed"
    assert index["traces"][0]["of"][HOSTILE][0]["text"] == HOSTILE
    assert index["training"][0]["log"][2][HOSTILE] == 2

def test_the_page_reads_no_text_as_markup():
    script, = re.findall(r"<script>(.*?)</script>", TEMPLATE.read_text(), re.S)
    ways = "innerHTML outerHTML insertAdjacentHTML setHTML document.write eval( Function( srcdoc DOMParser"
    for way in ways.split(): assert way not in script, way

def test_the_page_asks_nobody_for_anything(tmp_path):
    text = page(hostile_folder(tmp_path))
    policy, = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r"<(?:link|img|iframe|script[^>]* src)", text)

def test_command_writes_one_file(tmp_path, agentark):
    many(tmp_path/"run.jsonl", "llm_debate", 120)
    done = agentark("view", tmp_path, check=True)
    assert "wrote 120 questions of 1 runs" in done.stdout
    index, said = read_page((tmp_path/"view.html").read_text())
    assert [len(said[f"said-0-{k}"]) for k in range(3)] == [50, 50, 20]
    assert len(index["runs"][0]["rows"]) == 120

# ---- in a browser

@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM: pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Two runs on 2,000 questions and their page."
    folder = tmp_path_factory.mktemp("runs")
    files = {
        "llm_debate": many(folder/"llm_debate.jsonl", "llm_debate", 2000, num_rounds=3),
        "vanilla": many(folder/"vanilla.jsonl", "vanilla", 2000),
    }
    (folder/"view.html").write_text(page(folder))
    found = {name: [Trajectory.from_dict(row) for row in read_jsonl(path)] for name, path in files.items()}
    return SimpleNamespace(url=(folder/"view.html").as_uri(), **found)

@pytest.fixture
def tab(browser):
    "An empty tab that fails the test if the page's script fails or something tries to talk."
    with contextlib.closing(browser.new_page(viewport={"width": 1300, "height": 850})) as page:
        trouble = []
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("dialog", lambda d: trouble.append(d.message))
        page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        yield page
    assert trouble == []

def counted(tab) -> int:
    "How many questions the list says there are."
    said = tab.locator(".count span").inner_text()
    return int(said.split(" of ")[0].replace(",", ""))

def at(tab, runs, **state):
    "Open the page in a state."
    words = [f"{key}={value}" for key, value in {"tab": "questions", "a": "llm_debate", **state}.items()]
    tab.goto(f"{runs.url}#{'&'.join(words)}")
    tab.wait_for_selector(".count")

def test_2000_debates_open_in_two_seconds_and_are_drawn_in_pieces(tab, runs):
    metrics = tab.context.new_cdp_session(tab)
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})   # seconds of the processor, not of the clock
    at(tab, runs)
    tab.wait_for_load_state("load")
    busy = {m["name"]: m["value"] for m in metrics.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    assert busy < 2
    assert counted(tab) == 2000
    assert tab.locator(".item").count() < 50
    tab.locator(".list").evaluate("list => list.scrollTop = 1000*50")
    tab.wait_for_selector(f".item >> text={runs.llm_debate[1000].query[:80]}")
    assert tab.locator(".item").count() < 50

def test_filters_find_what_python_finds(tab, runs):
    debates, alone = runs.llm_debate, {t.id: t for t in runs.vanilla}
    tokens = sorted(t.usage.total_tokens for t in debates)[1000]
    expected = {
        "show=wrong": [t for t in debates if not t.right],
        "moves=mended": [t for t in debates if changes(t)[False, True]],
        "moves=spoiled": [t for t in debates if changes(t)[True, False]],
        f"more={tokens}": [t for t in debates if t.usage.total_tokens >= tokens],
        "b=vanilla&show=won": [t for t in debates if not t.right and alone[t.id].right],
        "b=vanilla&show=lost": [t for t in debates if t.right and not alone[t.id].right],
        "q=most of": [t for t in debates if any("Most of" in c.text for c in t.calls)],
        "q=most of&show=right": [t for t in debates if t.right and any("Most of" in c.text for c in t.calls)],
        "q=no-such-word": [],
    }
    for state, found in expected.items():
        at(tab, runs, **dict(part.split("=") for part in state.split("&")))
        assert counted(tab) == len(found), state
        assert (state == "q=no-such-word") == (not found), f"{state} tests nothing"

def test_search_by_hand_and_the_address_keeps_it(tab, runs):
    wanted = runs.llm_debate[7]
    at(tab, runs)
    tab.keyboard.press("/")
    tab.keyboard.type(wanted.id)
    tab.wait_for_selector(".count span:text('1 of 2,000')")
    assert wanted.query in tab.locator(".asked").inner_text()
    tab.reload()
    tab.wait_for_selector(".count")
    assert counted(tab) == 1
    assert tab.locator("#search").input_value() == wanted.id

def test_next_and_previous_by_keyboard(tab, runs):
    wrong = [t.id for t in runs.llm_debate if not t.right]
    at(tab, runs, show="wrong")
    seen = []
    for key in "jjjk":
        tab.keyboard.press(key)
        seen.append(tab.evaluate("new URLSearchParams(location.hash.slice(1)).get('id')"))
    assert seen == [wrong[1], wrong[2], wrong[3], wrong[2]]
    assert tab.locator(".item.chosen").count() == 1

def test_two_runs_side_by_side(tab, runs):
    at(tab, runs, b="vanilla", show="won")
    heads = tab.locator(".runs h3").all_inner_texts()
    assert [h.split()[0] for h in heads] == ["llm_debate", "vanilla"]
    assert tab.locator(".runs > div").nth(0).locator("circle").count() == 9
    assert tab.locator(".runs > div").nth(1).locator(".card.right").count() == 1
    tab.goto(runs.url + "#tab=runs&a=llm_debate&b=vanilla")
    said = tab.locator(".against p").inner_text()
    only = sum(a.right < b.right for a, b in zip(runs.llm_debate, runs.vanilla))
    assert f"{only} only vanilla right" in said

def test_hostile_text_is_text(tab, tmp_path):
    path = hostile_folder(tmp_path)/"view.html"
    path.write_text(page(tmp_path), encoding="utf-8", errors="replace")
    tab.goto(path.as_uri())
    scripts = tab.locator("script").count()
    for view in ("runs", "questions", "training"):
        tab.goto(path.as_uri() + f"#tab={view}")
        tab.wait_for_selector(f"[role=tab][aria-selected=true] >> text={view}")
        for summary in tab.locator("summary").all(): summary.click()
        assert tab.locator("img").count() == 0
        assert tab.locator("script").count() == scripts
    assert tab.title() != "owned"
    tab.goto(path.as_uri() + "#tab=questions")
    assert HOSTILE in tab.locator(".card .text").first.inner_text()
    assert HOSTILE in tab.locator(".asked").inner_text()

def test_served_page_grows_with_its_run(tab, tmp_path):
    lines = many(tmp_path/"all.jsonl", "llm_debate", 60).read_bytes().splitlines(keepends=True)
    path = tmp_path/"run.jsonl"
    path.write_bytes(b"".join(lines[:20]))
    with server_of(Shelf([str(path)]), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.goto(f"http://localhost:{server.server_port}/#tab=questions")
        tab.keyboard.press("j")
        reading = tab.locator(".asked").inner_text()
        path.write_bytes(b"".join(lines[:60]))
        tab.wait_for_selector(".count span:text('60 of 60')")
        assert tab.locator(".asked").inner_text() == reading
        tab.goto(f"{tab.url.split('#')[0]}#tab=questions&id={json.loads(lines[59])['id']}")
        tab.wait_for_selector("nav >> text=60 of 60")
        assert tab.locator(".card").count() == 6
        tab.goto("about:blank")
        server.shutdown()
