"""Pictures, diagrams and reports are also for those who do not see them, or not as others do."""

import itertools
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from nbclient import NotebookClient
from PIL import Image
from rules import faults

from mlops_course import dashboards, profiles, project

NOTEBOOKS = sorted((project.root() / "notebooks").glob("[0-9]*.ipynb"))


class Page(HTMLParser):
    "A page's elements: (name, attributes)."

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.title = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.title += data if self.elements and self.elements[-1][0] == "title" else ""

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture
def styled():
    "The style of lessons, without a window."
    backend = plt.get_backend()
    plt.switch_backend("agg")
    with plt.style.context(project.STYLE):
        yield
    plt.close("all")
    plt.switch_backend(backend)


def stored_pictures(path) -> list[dict]:
    "The images that a notebook stores."
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    return [image for output in outputs for image in Page("".join(output.get("data", {}).get("text/html", ""))).all("img")]


# in lessons


def test_each_picture_that_a_lesson_stores_has_words_of_its_own():
    words = [image.get("alt", "") for path in NOTEBOOKS for image in stored_pictures(path)]

    assert len(words) > 30 and len(set(words)) == len(words)
    assert min(map(len, words)) >= 40
    assert [fault for path in NOTEBOOKS for fault in faults(path) if "without alt text" in fault or "diagram" in fault] == []


def test_each_picture_of_the_readme_and_the_documents_has_words():
    pages = [path for pattern in ("*.md", "docs/*.md", "platform/**/*.md") for path in project.root().glob(pattern)]
    words = re.findall(r"!\[(.*?)\]\(", "\n".join(path.read_text() for path in pages))

    assert len(words) >= 5 and min(map(len, words)) >= 40


def test_the_rules_see_a_picture_without_words_in_an_output(tmp_path):
    for shown in ({"image/png": "iVBO"}, {"text/html": "<img src='data:image/png;base64,iVBO'>"}, {"text/html": '<img alt="a chart">'}):
        output = {"output_type": "display_data", "data": shown, "metadata": {}}
        cell = {"cell_type": "code", "source": [], "metadata": {}, "outputs": [output]}
        path = tmp_path / "01_planted.ipynb"
        path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["# A"], "metadata": {}}, cell]}))
        assert any("without alt text" in fault for fault in faults(path)), shown


def test_no_picture_is_seen_through_where_the_page_is_dark():
    for path in (project.root() / "images").glob("*.png"):
        assert Image.open(path).convert("RGBA").getextrema()[3] == (255, 255), path.name


def test_each_picture_is_shown_by_a_page_and_made_by_a_program():
    root = project.root()
    pages = "\n".join(path.read_text(encoding="utf-8") for path in [*NOTEBOOKS, *root.glob("*.md"), *root.glob("docs/*.md")])
    makers = "".join((root / "tests" / name).read_text(encoding="utf-8") for name in ("system/screenshots.py", "benchmarks/run.py"))
    there = {path.name for path in (root / "images").glob("*.png")}

    assert set(re.findall(r"images/([\w-]+\.png)", pages)) == there
    assert set(re.findall(r"([\w-]+\.png)\"", makers)) == there


def test_a_figure_is_shown_once_and_with_its_words():
    words = 'The <first> line & the "second" one rise, and a driver\'s fare falls'
    source = (
        "import matplotlib.pyplot as plt\n"
        "from mlops_course.project import show_figure\n"
        f"plt.plot([1, 2])\nshow_figure({words!r})\nprint(len(plt.get_fignums()))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])

    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(project.root())}}).execute()

    shown, printed = notebook.cells[0].outputs
    (image,) = Page(shown.data["text/html"]).all("img")
    assert image["alt"] == words == shown.data["text/plain"]
    assert image["src"].startswith("data:image/png;base64,iVBO") and "image/png" not in shown.data
    assert printed.text == "0\n"


# for those to whom colours look alike


def test_lines_differ_by_their_dashes(styled):
    _, (left, right) = plt.subplots(1, 2)
    for place in range(6):
        left.plot([0, place], label=str(place))
    pd.DataFrame(np.eye(6)).plot(ax=right)

    for axes in (left, right):
        assert len({str(line._dash_pattern) for line in axes.lines}) == 6


def test_bars_differ_by_their_hatches_in_the_legend_too(styled):
    _, (left, right) = plt.subplots(1, 2)
    pd.DataFrame(np.eye(5) + 1).plot.bar(ax=left, stacked=True)
    for place in range(3):
        right.hist([place, place + 1], label=str(place))
    right.axhline(1, label="a line")
    right.legend()

    project.show_figure("Two pictures of bars")

    for axes in (left, right):
        hatches = [bars.patches[0].get_hatch() for bars in axes.containers]
        marks = [mark.get_hatch() for mark in axes.get_legend().legend_handles if hasattr(mark, "get_hatch")]
        assert len(set(hatches)) == len(hatches) and sorted(marks) == sorted(hatches)


SEEN = {  # linear RGB as it is seen without one kind of cones: Machado, Oliveira and Fernandes 2009, severity 1
    "usual": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    "Linear RGB in the CIE's L*a*b*, where distances are differences that a person sees."
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ light / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", SEEN)
def test_colours_stay_apart_for_each_eye_and_on_white(styled, eye):
    colours = [linear(colour) for colour in plt.rcParams["axes.prop_cycle"].by_key()["color"]]
    seen = [lab(np.clip(np.array(SEEN[eye]) @ colour, 0, 1)) for colour in colours]

    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 20
    assert all(1.05 / (colour @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3 for colour in colours)


def test_all_that_is_written_in_a_picture_has_nine_points(styled):
    figure, axes = plt.subplots()
    axes.plot([1, 2], label="a")
    axes.set(xlabel="x", ylabel="y", title="t")
    axes.annotate("here", (0, 1))
    axes.legend()

    assert min(text.get_fontsize() for text in figure.findobj(plt.Text)) >= 9
    assert figure.get_facecolor() == (1, 1, 1, 1), "not seen through, where the page is dark"


# reports; the training's is looked at in tests/model/test_training.py, Evidently's in test_monitoring.py


def test_the_profile_has_a_language_a_title_and_words_for_its_bars():
    frame = pd.DataFrame({"rate": [0.0, 9.0, 9.0, 10.0], "at": pd.date_range("2026-03-01", periods=4, tz="UTC"), "name": list("abcd")})
    entry = {"rows_in": 4, "rows_out": 4, "snapshot": "0" * 64, "stale": False, "refused": {}}

    page = Page(profiles.page({"statistics": frame}, {"statistics": entry}))

    assert page.all("html") == [{"lang": "en"}] and page.title.strip() == "Profile of the data"
    assert [bars["aria-label"] for bars in page.all("svg")] == [
        f"24 bars from the least value to the greatest; number {place} is the highest" for place in (22, 1)
    ]


# the preview of the dashboards; a browser uses it without a mouse in tests/system/test_dashboards.py


@pytest.mark.parametrize("uid", sorted(dashboards.read_dashboards(project.root() / "platform")))
def test_a_dashboard_has_a_language_a_title_headings_and_names_for_all_that_can_be_used(uid):
    there = dashboards.read_dashboards(project.root() / "platform")
    text = dashboards.page(uid, there, seconds=10)

    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]

    assert page.all("html") == [{"lang": "en"}] and page.title.startswith(there[uid]["title"])
    assert len(page.all("h1")) == 1 and len(page.all("h2")) == len(there[uid]["panels"])
    assert len(set(ids)) == len(ids)
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    assert all(image["role"] == "img" and image["aria-label"] for image in page.all("div"))
    assert len(page.all("div")) == len(page.all("table")) == len(page.all("caption")), "each picture has its numbers beside it"
    assert [link["href"] for link in page.all("a") if "aria-current" in link] == [f"/{uid}"]
    assert re.search(r"<label>[^<]+<select", text) and [button["aria-pressed"] for button in page.all("button")] == ["false"]
    assert [state["id"] for _, state in page.elements if state.get("role") == "status"] == ["state"]


def test_the_words_of_the_dashboards_page_can_be_read_by_everyone():
    style = (project.root() / "platform/grafana/preview/page.css").read_text(encoding="utf-8")

    for colour in ("#222", "#444", "#074994", "#a3003a"):
        light = 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05)
        assert colour in style and light >= 4.5, f"{colour} on white: {light:.1f}"
    assert ":focus-visible" in style and "outline: none" not in style
