"The figures of the repository are what their files say: drawn again from CSV and manifest they are the same pictures."
import base64
import io
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
import matplotlib
import notebooks
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.image import imsave
from agentark.core.store import manifest_path
from agentark.eval.metrics import read_results
from agentark.paper.figures import redraw
from agentark.paper.plots import read_table
from agentark.paper.redraw import drawn_in
from agentark.paper.results import debates

matplotlib.use("Agg")

FIGURES = sorted((ROOT/"figures").glob("*.png"))

def config(picture: Path) -> dict:
    "Which figure it is, its tables and its options."
    return json.loads(manifest_path(picture).read_text())["config"]

def pixels(picture: Path) -> np.ndarray:
    "A picture as an array (rows, columns, RGB)."
    return (255*matplotlib.image.imread(picture)[..., :3]).round()

def copied(picture: Path, folder: Path) -> Path:
    "The files of a figure, its picture left out, in another folder."
    for name in (manifest_path(picture).name, *config(picture)["tables"]): shutil.copy(picture.with_name(name), folder)
    return folder/picture.name

def same_versions(picture: Path) -> bool:
    "Was it drawn with the matplotlib that is installed? Another one may set letters a pixel apart."
    return json.loads(manifest_path(picture).read_text())["drawn_with"]["matplotlib"] == version("matplotlib")

def test_there_are_figures(): assert len(FIGURES) >= 6

@pytest.mark.parametrize("picture", FIGURES, ids=lambda p: p.stem)
def test_a_figure_can_be_drawn_again_from_its_files(picture, tmp_path):
    again = copied(picture, tmp_path)
    redraw(again)
    if same_versions(picture):
        old, new = pixels(picture), pixels(again)
        assert old.shape == new.shape
        assert (old == new).all()
        assert again.with_suffix(".pdf").read_bytes() == picture.with_suffix(".pdf").read_bytes()
    for name in config(picture)["tables"]: assert (tmp_path/name).read_bytes() == picture.with_name(name).read_bytes()

WITHOUT = {   # words, curves, means, as printed
    "debate", "lab_pad_training", "lab_several_paths", "paper_published", "paper_tables_9_to_13",
    "lab_evolve",    # its intervals are named by what they are of
}

@pytest.mark.parametrize("picture", [p for p in FIGURES if p.stem not in WITHOUT], ids=lambda p: p.stem)
def test_every_table_has_its_intervals(picture):
    for name in config(picture)["tables"]:
        assert {"ci95_low", "ci95_high", "n"} <= {*read_table(picture.with_name(name)).columns}

PAPER = {"figure_3", "figure_4", "figure_5", "figure_6", *(f"table_{i}" for i in range(1, 9)), "tables_9_to_13"}

def test_the_figures_and_tables_of_the_paper_are_drawn():
    assert {f"paper_{name}" for name in PAPER} <= {*drawn_in(ROOT/"figures")}

def test_every_picture_is_drawn_by_agentark_figures():
    assert [*drawn_in(ROOT/"figures")] == [p.stem for p in FIGURES]

BESIDE = [p for p in FIGURES if config(p)["figure"] == "beside"]

@pytest.mark.parametrize("picture", BESIDE, ids=lambda p: p.stem)
def test_every_value_of_ours_names_a_command_that_is_there(picture):
    sources = {*read_table(picture.with_suffix(".csv")).source}
    named = [re.search(r"\S+\.(yaml|ipynb)", source) for source in sources - {"published"}]
    assert all(named)
    for found in named: assert (ROOT/found[0]).exists(), found[0]

def test_another_number_is_another_picture(tmp_path):
    picture = ROOT/"figures"/"demo.png"
    again = copied(picture, tmp_path)
    table = again.with_suffix(".csv")
    table.write_text(table.read_text().replace(",0.848,", ",0.838,"))
    redraw(again)
    old, new = pixels(picture), pixels(again)
    assert old.shape != new.shape or (old != new).any()

def test_a_picture_that_changed_is_stored_in_its_notebook(tmp_path):
    "Though no word did; the same picture, drawn by another version, is not."
    def outputs(height, version):
        drawn = io.BytesIO()
        imsave(drawn, np.full((height, 4), 0.5), metadata={"Software": version})
        picture = base64.b64encode(drawn.getvalue()).decode()
        return [{"output_type": "display_data", "metadata": {}, "data": {"image/png": picture, "text/plain": "fig"}}]
    notebook = tmp_path/"some.ipynb"
    stored = {"cell_type": "code", "source": "fig", "outputs": outputs(4, "1.0")}
    notebook.write_text(json.dumps({"cells": [stored]}))
    assert not notebooks.store(notebook, notebooks.Ran({0: outputs(4, "2.0")}))
    assert notebooks.store(notebook, notebooks.Ran({0: outputs(5, "2.0")}))

def test_the_table_of_the_demo_shows_the_numbers_of_its_figure():
    text = (ROOT/"figures"/"demo.md").read_text()
    for r in read_table(ROOT/"figures"/"demo.csv").itertuples():
        cells = [f"{r.accuracy:.1%}", f"{r.ci95_low:.1%} - {r.ci95_high:.1%}", f"{r.calls_per_question:.1f}"]
        [line] = [line for line in text.splitlines() if re.match(rf"\| {re.escape(r.run)} +\|", line)]
        for cell in cells: assert f" {cell} |" in line

def test_the_demo_is_what_the_card_of_its_model_says():
    "The demo's debates are runs of the evaluation of lab-m: same questions, same seed."
    results, _ = read_results(ROOT/"agentark"/"lab"/"models"/"lab-m"/"evaluation.json")
    named = {"debate": "debate", "copies for peers": "own copies", "no peers": "no peers"}
    expected = debates({label: results[name] for label, name in named.items()})
    assert expected.equals(read_table(ROOT/"figures"/"demo_rounds.csv"))
