"""Each rule of the lessons sees the fault that it is there for."""

import json
from collections import Counter

import pytest
from rules import faults, pages, show_place

from mlops_course import project

GOOD = [
    (
        "markdown",
        "# A title\n> A line.\n\n**10 minutes** · before this: *nothing* · makes: nothing\n\nIn this lesson you will\n- a;\n- b;\n- c.",
    ),
    ("code", "print(1)"),
    ("markdown", "## Findings\n\n- A was 1 of 2.\n- B.\n- C.\n\nNext: *nothing*"),
]


def write(folder, cells, outputs=(), metadata=None):
    "A notebook of these cells; the outputs go to its code cells."
    path = folder / "01_planted.ipynb"
    made = [
        {"cell_type": kind, "source": text.splitlines(True), "metadata": metadata or {}}
        | ({"outputs": list(outputs)} if kind == "code" else {})
        for kind, text in cells
    ]
    path.write_text(json.dumps({"cells": made}), encoding="utf-8")
    return path


def stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": [text]}


def test_a_good_lesson_has_no_fault(tmp_path):
    assert faults(write(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda c: [("markdown", "# Another\n> b\n"), *c], "must have one H1"),
        (lambda c: [("markdown", c[0][1].replace("> A line.", "A line.")), *c[1:]], "one-line subtitle"),
        (lambda c: [c[0], ("markdown", "#### Deep"), *c[1:]], "jumps from level 1 to 4"),
        (lambda c: [("markdown", c[0][1].replace("- c.", "")), *c[1:]], "three to five promises, makes 2"),
        (lambda c: [("markdown", c[0][1].replace("10 minutes", "ten minutes")), *c[1:]], "must open with minutes"),
        (lambda c: [*c[:2], ("markdown", c[2][1].replace("- C.\n", ""))], "three to five findings"),
        (lambda c: [*c[:2], ("markdown", c[2][1].replace("Findings", "The end"))], "three to five findings"),
        (lambda c: [*c[:2], ("markdown", c[2][1].replace("1 of 2", "small"))], "findings with their numbers"),
        (lambda c: [("markdown", c[0][1].replace("10 minutes", "90 minutes")), *c[1:]], "says 90 minutes, by the rule it takes 10"),
        (lambda c: [c[0], ("markdown", "![](https://example.org/a.png)"), *c[1:]], "without alt text"),
        (lambda c: [c[0], ("markdown", '<img src="a.png">'), *c[1:]], "without alt text"),
        (lambda c: [c[0], ("markdown", "![a chart](https://example.org/a.png)"), *c[1:]], "without alt text"),
        (lambda c: [c[0], ("markdown", "```mermaid\na --> b\n```"), *c[1:]], "diagram without words"),
        (lambda c: [c[0], ("markdown", "```mermaid\na --> b\n```"), *c[1:]], "a dark theme hides"),
        (lambda c: [c[0], ("code", "import matplotlib.pyplot as plt"), *c[1:]], "draws without `plt.style.use(STYLE)`"),
        (lambda c: [c[0], ("code", "ax.legend(fontsize=8)"), *c[1:]], "fewer than 9"),
        (lambda c: [c[0], ("markdown", "[there](nowhere.ipynb)"), *c[1:]], "link to nowhere.ipynb"),
        (lambda c: [c[0], ("markdown", "See *01 Sown*."), *c[1:]], "calls page 01 `Sown`"),
        (lambda c: [c[0], ("code", "open('/ho" + "me/me/data.csv')"), *c[1:]], "path of a machine"),
        (lambda c: [c[0], ("code", "#| export\n" + "a = 1\n" * 30), *c[1:]], "an exported cell of 31 lines"),
        (lambda c: [c[0], *[("code", "#| export\n" + "a = 1\n" * 20)] * 3, *c[1:]], "more than 60 lines of definitions before"),
        (lambda c: [c[0], ("code", f"a = '{'x' * 95}'"), *c[1:]], "a line of 101 characters"),
        (lambda c: [c[0], ("code", "while not answer:\n    answer = ask()"), *c[1:]], "may wait for ever: while not answer:"),
        (lambda c: [c[0], ("code", "#| hide what it is\n1"), *c[1:]], "a cell to fold: #| hide"),
        (lambda c: [c[0], ("code", "#| default_exp planted"), *c[1:]], "a cell to fold: #| default_exp"),
        (lambda c: [c[0], ("code", "# why\n#| export\na = 1"), *c[1:]], "a directive that nbdev does not see"),
        (lambda c: [c[0], ("code", "#| export\nfrom mlops_course.project import (\n    a,\n)"), *c[1:]], "does not make relative"),
        (lambda c: [c[0], ("markdown", "This is great!"), *c[1:]], "prose says 'great!'"),
        (lambda c: [*c[:2], ("markdown", c[2][1].replace("1 of 2", "0.71"))], "a finding says 0.71, and no cell shows it"),
    ],
)
def test_a_planted_fault_is_seen(tmp_path, change, fault):
    assert any(fault in line for line in faults(write(tmp_path, change(GOOD))))


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "stores an error"),
        (stream("written to /ro" + "ot/out/a.parquet"), "path of a machine"),
        (stream("a loss\nROC AUC over 0.7: True\n"), "ends in a bare True"),
        (stream("x" * 300_001), "more than 300 kB"),
        (stream("x" * 1_000_001), "more than 1 MB"),
    ],
)
def test_a_planted_output_is_seen(tmp_path, output, fault):
    assert any(fault in line for line in faults(write(tmp_path, GOOD, [output])))


@pytest.mark.parametrize("link", ["*nothing*", "[30 B title](30_b.ipynb)", "[20 Another](20_a.ipynb)"])
def test_a_lesson_that_skips_the_next_one_or_calls_it_otherwise_is_seen(tmp_path, link):
    for name, title in [("20_a", "A title"), ("30_b", "B title")]:
        write(tmp_path, [("markdown", f"# {title}\n> A line.")]).rename(tmp_path / f"{name}.ipynb")

    planted = [*GOOD[:2], ("markdown", GOOD[2][1].replace("*nothing*", link))]
    mended = [*GOOD[:2], ("markdown", GOOD[2][1].replace("*nothing*", "[20 A title](20_a.ipynb)"))]

    assert faults(write(tmp_path, planted)) == ["01_planted.ipynb: must close on `Next: [20 A title](20_a.ipynb)`"]
    assert faults(write(tmp_path, mended)) == []


def test_a_lesson_in_which_there_is_nothing_to_do_for_five_screens_is_seen(tmp_path):
    late = [GOOD[0], ("markdown", "A line.\n" * 200), *GOOD[1:]]

    seen = [faults(write(tmp_path, cells, metadata={"tags": ["exercise"]})) for cells in (late, GOOD)]

    assert [[fault for fault in lines if "the first exercise" in fault] for lines in seen] == [
        ["01_planted.ipynb: the first exercise comes after 5.2 screens, more than 5"],
        [],
    ]


MAP = '```mermaid\n%%{lineColor}%%\nflowchart LR\n    accTitle: Where each lesson of the course is\n    a["01 02<br>the start"] --> b["20<br>an end"]\n```'


def test_a_lesson_shows_its_place_on_the_map_of_lesson_00_as_that_draws_it(tmp_path):
    start = write(tmp_path, [("markdown", f"# Start here\n> A line.\n\n{MAP}")]).rename(tmp_path / "00_start_here.ipynb")
    path = write(tmp_path, GOOD)

    def of_the_map() -> list[str]:
        return [fault for fault in faults(path) if "map" in fault]

    assert of_the_map() == ["01_planted.ipynb: does not show its place on the map as lesson 00 draws it: run `make export`"]
    show_place(path)
    assert of_the_map() == []
    assert "part: the start" in path.read_text() and "class a here" in path.read_text()

    start.write_text(start.read_text().replace("01 02", "02"))
    assert of_the_map() == ["01_planted.ipynb: is on no part of the map of 00"]


def test_metadata_of_a_program_is_seen(tmp_path):
    assert any("metadata of a program" in line for line in faults(write(tmp_path, GOOD, metadata={"papermill": {}})))
    assert any("folded in another way" in line for line in faults(write(tmp_path, GOOD, metadata={"jupyter": {"outputs_hidden": True}})))


FOLDED = {"jupyter": {"source_hidden": True}}


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([("code", "1")], "whose first line does not say what is in it"),
        ([("code", "#| hide\nassert 1")], "whose first line does not say what is in it"),
        ([("code", "#| hide what this checks\nassert 1")], "whose first line does not say what is in it"),
        ([("code", "1"), ("code", "#| export\na = 1")], "a folded definition without a sentence above it"),
        ([("code", "#| hide what is asserted\nassert 1")], None),
        ([("code", "# the set-up\na = 1")], None),
        ([("markdown", "The lock, folded."), ("code", "#| export\n" + "a = 1\n" * 40)], None),
    ],
)
def test_what_is_folded_says_what_it_is(tmp_path, cells, fault):
    seen = faults(write(tmp_path, [GOOD[0], *cells, GOOD[2]], metadata=FOLDED))

    assert any(fault in line for line in seen) if fault else not seen


def test_a_wall_of_folded_definitions_is_a_wall(tmp_path):
    wall = [("markdown", "Folded."), ("code", "#| export\n" + "a = 1\n" * 35)] * 2

    seen = faults(write(tmp_path, [GOOD[0], *wall, GOOD[2]], metadata=FOLDED))

    assert any("more than 60 lines of definitions before" in fault for fault in seen)


def test_definitions_between_which_something_is_shown_are_no_wall(tmp_path):
    wall = [("code", "#| export\n" + "a = 1\n" * 25), ("code", "a")] * 3

    assert not [line for line in faults(write(tmp_path, [GOOD[0], *wall, GOOD[2]], [stream("1")])) if "lines of definitions" in line]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda c: c, None),
        (lambda c: [*c, ("code", "a = 1\n" * 46)], "a cell of 46 lines, more than 45"),
        (lambda c: [("markdown", GOOD[0][1]), *c[1:]], "no minutes, no promises, no exercises"),
    ],
)
def test_the_appendix_promises_nothing_and_its_cells_are_short(tmp_path, change, fault):
    cells = change([("markdown", "# A title\n> A line.\n\nA sentence."), ("code", "#| export\n" + "a = 1\n" * 44)])

    seen = faults(write(tmp_path, cells).rename(tmp_path / "95_planted.ipynb"))

    assert any(fault in line for line in seen) if fault else not seen


@pytest.mark.parametrize("notebook", sorted((project.root() / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_lesson_keeps_the_rules(notebook):
    assert faults(notebook) == []


def test_a_cell_has_an_id_of_its_own_by_which_answers_know_it_again():
    shared = {"09cd5344", "where-we-are"}  # "Your turn" and the map, in nearly every lesson
    ids = [cell["id"] for path in (project.root() / "notebooks").glob("*.ipynb") for cell in json.loads(path.read_text())["cells"]]

    assert {name for name, times in Counter(ids).items() if times > 1} <= shared


def test_the_lessons_and_the_appendix_are_listed_as_they_are():
    assert all(page.read_text(encoding="utf-8") == text for page, text in pages(project.root()).items()), "run `make export`"
