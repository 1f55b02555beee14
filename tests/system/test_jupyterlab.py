"""JupyterLab as a learner meets it, in a real browser: it opens, lessons run by the menu, an exercise is solved by typing."""

import pytest
from browser import CHROMIUM, MISSING, errors, jupyterlab, open_lesson, page, run_all
from playwright.sync_api import expect
from workshop import BIN

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@pytest.fixture(scope="module")
def lab(workshop):
    "JupyterLab on a copy of the project, and a page of a browser that shows it."
    with jupyterlab(workshop.folder, BIN, workshop.variables) as address, page(workshop.folder) as opened:
        opened.address = address
        yield opened


def test_it_opens_on_00_with_its_table_of_contents(lab):
    open_lesson(lab, lab.address, "00_start_here")

    lab.get_by_role("tab", name="Table of Contents").click()

    shown = lab.locator(".jp-TableOfContents-tree").inner_text()
    assert "Start here" in shown and "The map" in shown and "Your turn" in shown
    assert lab.locator(".jp-Notebook .jp-Cell").first.get_by_role("heading", name="Start here").is_visible()


def test_stored_pictures_show_before_anything_has_run(lab):
    open_lesson(lab, lab.address, "20_world")

    pictures = lab.locator(".jp-OutputArea-output img")
    pictures.first.scroll_into_view_if_needed()

    assert pictures.count() >= 3
    assert pictures.first.evaluate("image => image.naturalWidth") > 200


@pytest.mark.parametrize("lesson", ["00_start_here", "21_poc"])
def test_a_lesson_runs_from_top_to_bottom_by_the_menu(lab, lesson):
    open_lesson(lab, lab.address, lesson)

    run_all(lab, seconds=180)

    assert errors(lab) == []


def test_an_exercise_is_solved_by_typing_and_turns_to_pass(lab):
    open_lesson(lab, lab.address, "00_start_here")
    run_all(lab, seconds=120)
    cell = lab.locator(".jp-CodeCell", has_text="def small():")
    check = lab.locator(".jp-CodeCell", has_text='check("00.1", small)')
    assert "not yet" in check.inner_text()

    cell.locator(".cm-content").click()
    lab.keyboard.press("Control+A")
    lab.keyboard.type("def small():\n")
    lab.keyboard.type('return environment("env.yaml", world={"drivers": 60})')
    expect(cell.locator(".cm-content")).to_contain_text('world={"drivers": 60})')
    lab.keyboard.press("Control+Enter")
    check.locator(".cm-content").click()
    lab.keyboard.press("Control+Enter")

    check.get_by_text("pass", exact=True).wait_for(timeout=120_000)


def test_nothing_was_asked_of_another_host(lab):
    assert lab.outside == []
