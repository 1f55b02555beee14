"""A learner turns JupyterLab's theme dark in the middle of a lesson: diagrams and pictures are seen as before."""

import io
import re

import numpy as np
import pytest
from browser import CHROMIUM, MISSING, jupyterlab, open_lesson, page
from PIL import Image
from playwright.sync_api import expect
from workshop import BIN

from mlops_course import project

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason=MISSING), pytest.mark.patient]


@pytest.fixture(scope="module")
def lab(workshop):
    "JupyterLab with settings of its own, and a page of a browser that shows it."
    variables = workshop.variables | {"JUPYTERLAB_SETTINGS_DIR": str(workshop.folder / "settings")}
    with jupyterlab(workshop.folder, BIN / "jupyter", variables) as address, page(workshop.folder) as opened:
        opened.address = address
        yield opened


def pictures(lab, lesson: str) -> list:
    "The images of the lesson that is open, and how light each of their pixels is."
    stored = (project.root() / f"notebooks/{lesson}.ipynb").read_text(encoding="utf-8")
    expect(lab.locator(".jp-Notebook img")).to_have_count(len(re.findall(r"<img |!\[|```mermaid", stored)), timeout=60_000)
    shown = lab.locator(".jp-Notebook img").all()
    return [(image, np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("L"), float) / 255) for image in shown]


def contrast(light: np.ndarray) -> np.ndarray:
    "How far each pixel and its eight neighbours are apart, as a contrast of 1 to 21."
    near = np.lib.stride_tricks.sliding_window_view(light**2.2 + 0.05, (3, 3))
    return near.max((2, 3)) / near.min((2, 3))


def turn(lab, theme: str) -> None:
    "Choose a theme in the menu."
    lab.get_by_role("menuitem", name="Settings", exact=True).click()
    lab.locator(".lm-Menu-itemLabel", has_text="Theme").first.hover()
    lab.locator(".lm-Menu-itemLabel").get_by_text(theme, exact=True).click()
    lab.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")


def test_what_is_seen_in_the_light_is_seen_in_the_dark(lab):
    lesson = "20_world"  # a diagram with dashes and a label, and six pictures
    open_lesson(lab, lab.address, lesson)
    before = pictures(lab, lesson)

    turn(lab, "JupyterLab Dark")
    turned = pictures(lab, lesson)
    open_lesson(lab, lab.address, lesson)
    opened = pictures(lab, lesson)

    assert len(before) == len(turned) == len(opened) >= 4
    for name, dark in (("turned", turned), ("opened", opened)):
        for place, ((_, then), (image, now)) in enumerate(zip(before, dark, strict=True)):
            ink = contrast(then) > 2
            assert then.shape == now.shape and ink.any()
            assert (contrast(now)[ink] > 1.6).mean() > 0.95, f"{name}: image {place}"
            assert len(image.get_attribute("alt")) >= 20, f"image {place} has no words"
