"""JupyterLab as a learner meets it, in a real browser: it opens, lessons run by the menu, an exercise is solved by typing."""

import json
import re
import subprocess

import httpx
import pytest
from browser import CHROMIUM, MISSING, cursor_in, errors, jupyterlab, open_lesson, page, run_all
from online import wait_for
from playwright.sync_api import expect
from rules import Notebook
from workshop import BIN

from mlops_course import project

LESSONS = sorted((project.root() / "notebooks").glob("[0-9]*.ipynb"))
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason=MISSING), pytest.mark.patient]


@pytest.fixture(scope="module")
def lab(workshop):
    "JupyterLab as `make lab` starts it on a checkout of the project, and a page of a browser that shows it."
    for words in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "-m", "The course"],
    ):
        subprocess.run(["git", *words], cwd=workshop.folder, check=True, capture_output=True)
    with jupyterlab(workshop.folder, BIN, workshop.variables) as address, page(workshop.folder / "out") as opened:
        opened.address, opened.folder = address, workshop.folder
        yield opened


def changes(lab) -> str:
    return subprocess.run(["git", "status", "--porcelain"], cwd=lab.folder, check=True, capture_output=True, text=True).stdout


def save(lab) -> None:
    "Save the lesson, and wait until it is."
    lab.keyboard.press("Control+S")
    is_saved(lab)


def is_saved(lab) -> None:
    lab.wait_for_function("() => !document.querySelector('.lm-TabBar-tab.jp-mod-current.jp-mod-dirty')", timeout=30_000)


def test_it_opens_on_00_with_its_table_of_contents(lab):
    lab.goto(lab.address)
    lab.get_by_text("| Idle").wait_for(timeout=90_000)

    lab.get_by_role("tab", name="Table of Contents").click()

    shown = lab.locator(".jp-TableOfContents-tree").inner_text()
    assert "Start here" in shown and "The map" in shown and "Your turn" in shown
    assert lab.locator(".jp-Notebook .jp-Cell").first.get_by_role("heading", name="Start here").is_visible()


def test_all_of_the_project_can_be_reached(lab):
    lab.get_by_role("tab", name="File Browser").click()
    lab.locator(".jp-BreadCrumbs-home").click()

    for name in ("README.md", "env.yaml", "images", "notebooks", "out"):
        lab.locator(".jp-DirListing-item", has_text=name).first.wait_for(timeout=30_000)


def test_a_terminal_begins_in_the_folder_that_is_shown(lab):
    open_lesson(lab, lab.address, "00_start_here")
    lab.keyboard.press("Control+Shift+L")
    lab.locator(".jp-LauncherCard", has_text="Terminal").click()
    lab.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="Terminal").click()  # a lesson that opens late comes before it
    cursor_in(lab, lab.locator(".jp-Terminal-body"))

    lab.keyboard.type("pwd > ../out/terminal\n")

    wait_for(lambda: (lab.folder / "out/terminal").is_file() and (lab.folder / "out/terminal").read_text(), 30)
    assert (lab.folder / "out/terminal").read_text() == f"{lab.folder}/notebooks\n"


def pictures(path) -> int:
    "How many pictures and diagrams the prose of a lesson has."
    return sum(len(re.findall(r"!\[[^]]+\]\(|<img |```mermaid", text)) for text in Notebook(path).markdown)


@pytest.mark.parametrize("path", [path for path in LESSONS if pictures(path)], ids=lambda path: path.stem)
def test_every_picture_of_a_lesson_is_there(lab, path):
    lab.goto(f"{lab.address.replace('00_start_here', path.stem)}&reset", wait_until="domcontentloaded")
    shown = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-RenderedMarkdown img"

    lab.wait_for_function("([all, n]) => document.querySelectorAll(all).length == n", arg=[shown, pictures(path)], timeout=120_000)
    lab.wait_for_function("all => [...document.querySelectorAll(all)].every(image => image.complete)", arg=shown)

    assert lab.locator(shown).evaluate_all("all => all.filter(image => !image.naturalWidth).map(image => image.alt)") == []


@pytest.mark.parametrize("lesson", ["10_problem", "44_model_registry", "91_command_line"])
def test_a_lesson_that_was_opened_and_saved_is_no_change(lab, lesson):
    open_lesson(lab, lab.address, lesson)
    before = (lab.folder / f"notebooks/{lesson}.ipynb").stat().st_mtime_ns
    assert changes(lab) == ""

    save(lab)
    saved = (lab.folder / f"notebooks/{lesson}.ipynb").stat().st_mtime_ns
    for key in ("Escape", "b", "d", "d"):  # a change, taken back
        lab.keyboard.press(key)
    lab.wait_for_timeout(1000)
    save(lab)

    assert before < saved < (lab.folder / f"notebooks/{lesson}.ipynb").stat().st_mtime_ns
    assert lab.locator(".jp-Dialog").count() == 0  # what was cleaned is not taken for another's change
    assert changes(lab) == ""


def store(lab, path: str, notebook: dict) -> dict:
    "Save a notebook as JupyterLab does, by the server's API: what the file says then."
    address = f"{lab.address.split('/lab')[0]}/api/contents/{path}"
    words = {"type": "notebook", "format": "json", "content": notebook}
    headers = {"Authorization": "token let-me-in"}
    response = httpx.put(address, json=words, headers=headers, trust_env=False, timeout=60)
    assert response.status_code in (200, 201), response.text
    return json.loads((lab.folder / path).read_text(encoding="utf-8"))


def cell(source: str, **parts) -> dict:
    return {"cell_type": "code", "execution_count": 7, "metadata": {}, "outputs": [], "source": source} | parts


SHOWN = {"output_type": "execute_result", "execution_count": 7, "metadata": {}, "data": {"text/plain": "<f at 0x7f0123456789>"}}
PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": ["iVBORw0K\n", "Ggo=\n"], "text/plain": ["<Figure>"]}}
KINDS = {
    "a result": [cell("f", id="a", outputs=[SHOWN])],
    "a picture in lines": [cell("plot()", id="a", outputs=[PICTURE])],
    "no id": [cell("1"), cell("2")],
    "two of one id": [cell("1", id="a"), cell("2", id="a")],
    "no source": [cell("", id="a"), cell("1", id="b")],
    "a cell of text": [{"cell_type": "markdown", "id": "a", "metadata": {"tags": ["x"]}, "source": "a line\n\nand one"}],
    "a raw cell": [{"cell_type": "raw", "id": "a", "metadata": {}, "source": "raw"}],
    "an attachment": [
        {
            "cell_type": "markdown",
            "id": "a",
            "metadata": {},
            "source": "![a](attachment:a.png)",
            "attachments": {"a.png": {"image/png": "aa"}},
        }
    ],
    "nothing": [],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("minor", [4, 5])
def test_no_cell_is_lost_by_saving(lab, kind, minor):
    written = KINDS[kind]
    notebook = {"nbformat": 4, "nbformat_minor": minor, "metadata": {"language_info": {"name": "python"}}, "cells": written}

    saved = store(lab, "notebooks/05_mine.ipynb", notebook)
    (lab.folder / "notebooks/05_mine.ipynb").unlink()

    assert ["".join(each["source"]) for each in saved["cells"]] == [each["source"] for each in written]
    assert [len(each.get("outputs", [])) for each in saved["cells"]] == [len(each.get("outputs", [])) for each in written]
    assert [each["metadata"] for each in saved["cells"]] == [each["metadata"] for each in written]
    assert [each.get("attachments") for each in saved["cells"]] == [each.get("attachments") for each in written]
    if "lines" not in kind:
        assert saved["metadata"] == {} and not any(each.get("execution_count") for each in saved["cells"])


@pytest.mark.parametrize("settings", [None, "no settings", "[DEFAULT]\nnbs_path = notebooks\n"])
def test_a_lesson_is_saved_as_it_is_when_it_cannot_be_cleaned(lab, settings):
    file, before = lab.folder / "settings.ini", (lab.folder / "settings.ini").read_text(encoding="utf-8")
    file.unlink() if settings is None else file.write_text(settings, encoding="utf-8")
    try:
        notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell("1", id="a", metadata={"tags": ["exercise"]})]}
        saved = store(lab, "notebooks/05_mine.ipynb", notebook)
    finally:
        file.write_text(before, encoding="utf-8")
        (lab.folder / "notebooks/05_mine.ipynb").unlink()

    assert saved["cells"] == [{**notebook["cells"][0], "source": ["1"]}]


def test_a_cell_that_a_reader_has_opened_or_closed_is_no_change(lab):
    folded = {"jupyter": {"source_hidden": True}}
    written = [cell("#| hide what this checks", id="a", metadata=folded), cell("1", id="b", metadata={"tags": ["x"]})]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": written}
    before = store(lab, "notebooks/05_mine.ipynb", notebook)

    turned = [{**written[0], "metadata": {}}, {**written[1], "metadata": {"tags": ["x"], **folded}}, cell("2", id="c")]
    saved = store(lab, "notebooks/05_mine.ipynb", {**notebook, "cells": turned})
    (lab.folder / "notebooks/05_mine.ipynb").unlink()

    assert before["cells"][0]["metadata"] == folded
    assert saved["cells"][:2] == before["cells"] and len(saved["cells"]) == 3


def test_a_notebook_that_is_no_lesson_keeps_its_own_metadata(lab):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"mine": 1}, "cells": [cell("1", id="a")]}

    assert store(lab, "out/mine.ipynb", notebook)["metadata"] == {"mine": 1}


def test_stored_pictures_show_before_anything_has_run(lab):
    open_lesson(lab, lab.address, "20_world")

    pictures = lab.locator(".jp-OutputArea-output img")
    pictures.first.scroll_into_view_if_needed()

    pictures.nth(2).wait_for(state="attached", timeout=60_000)
    assert pictures.first.evaluate("image => image.naturalWidth") > 200


def without_outputs(folder, lesson: str) -> dict:
    notebook = json.loads((folder / f"notebooks/{lesson}.ipynb").read_text(encoding="utf-8"))
    return {**notebook, "cells": [{**cell, "outputs": None} for cell in notebook["cells"]]}


@pytest.mark.parametrize("lesson", ["00_start_here", "21_poc"])
def test_a_lesson_runs_from_top_to_bottom_by_the_menu(lab, lesson):
    open_lesson(lab, lab.address, lesson)

    run_all(lab, seconds=180)
    lab.get_by_role("menuitem", name="File", exact=True).click()
    lab.locator(".lm-Menu-itemLabel").get_by_text("Save Notebook", exact=True).click()
    is_saved(lab)

    assert errors(lab) == []
    assert without_outputs(lab.folder, lesson) == without_outputs(project.root(), lesson)


def test_an_exercise_is_solved_by_typing_and_turns_to_pass(lab):
    open_lesson(lab, lab.address, "00_start_here")
    run_all(lab, seconds=120)
    cell = lab.locator(".jp-CodeCell", has_text="def small():")
    check = lab.locator(".jp-CodeCell", has_text='check("00.1", small)')
    assert "not yet" in check.inner_text()

    cursor_in(lab, cell.locator(".cm-content"))
    lab.keyboard.press("Control+A")
    lab.keyboard.type("def small():\n")
    lab.keyboard.type('return environment("env.yaml", world={"drivers": 60})')
    expect(cell.locator(".cm-content")).to_contain_text('world={"drivers": 60})')
    lab.keyboard.press("Control+Enter")
    cursor_in(lab, check.locator(".cm-content"))
    lab.keyboard.press("Control+Enter")

    check.get_by_text("pass", exact=True).wait_for(timeout=120_000)


def test_nothing_was_asked_of_another_host(lab):
    assert lab.outside == []
