"""The pictures of the README, made from the running thing (`make screenshots`): JupyterLab in a browser, and the pipeline as it was built."""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from browser import CHROMIUM, MISSING, jupyterlab, open_lesson, page
from workshop import BIN, Workshop

from mlops_course import project

IMAGES = project.root() / "images"
KINDS = {"raw": "raw files", "statistics": "tables", "store": "feature store", "decision": "champion", "scores": "scores"}


def pipeline(out: Path) -> None:
    "Draw the stages of pipeline.yaml with what each makes, and the seconds of its work in the last build."
    lines = [json.loads(line) for line in (out / "logs/pipeline.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = {line["stage"]: line["seconds"] for line in lines if line["event"] == "stage finished"}
    fig, ax = plt.subplots(figsize=(11, 1.9))
    for place, (name, task) in enumerate(project.tasks().items()):
        ax.text(
            place, 0.62, name, ha="center", va="center", fontsize=12, bbox={"boxstyle": "round,pad=0.5", "fc": "#dbe9f6", "ec": "#3b6ea5"}
        )
        ax.text(place, 0.22, Path(task["source"]).stem.replace("_", " "), ha="center", fontsize=8, color="#555555")
        ax.text(place, 0.05, f"{seconds[name]:.1f} s of work", ha="center", fontsize=8, color="#555555")
        made = next(text for key, text in KINDS.items() if key in task["product"])
        ax.annotate("", (place + 0.68, 0.62), (place + 0.34, 0.62), arrowprops={"arrowstyle": "->", "color": "#3b6ea5"})
        ax.text(place + 0.5, 0.82, made, ha="center", fontsize=8)
    ax.set(xlim=(-0.4, len(project.tasks()) - 0.2), ylim=(0, 1))
    ax.axis("off")
    fig.savefig(IMAGES / "pipeline.png", dpi=110, bbox_inches="tight")


def lessons(folder: Path) -> None:
    "A lesson with its table of contents, and an exercise that has just been solved."
    copy = Workshop(folder)
    with jupyterlab(copy.folder, BIN / "jupyter", copy.variables) as address, page(copy.folder) as opened:
        open_lesson(opened, address, "20_world")
        opened.get_by_role("tab", name="Table of Contents").click()
        opened.locator(".jp-OutputArea-output img").first.scroll_into_view_if_needed()
        opened.wait_for_timeout(1000)
        opened.screenshot(path=IMAGES / "lesson.png")
        open_lesson(opened, address, "00_start_here")
        cell = opened.locator(".jp-CodeCell", has_text="def small():")
        cell.locator(".cm-content").click()
        opened.keyboard.press("Control+A")
        opened.keyboard.type("def small():\nfrom mlops_course.project import environment\n\n")
        opened.keyboard.type('return environment("env.yaml", world={"drivers": 60})')
        first = opened.locator(".jp-CodeCell", has_text="from mlops_course.exercises import check").first
        first.locator(".cm-content").click()
        opened.keyboard.press("Control+Enter")
        cell.locator(".cm-content").click()
        opened.keyboard.press("Shift+Enter")
        opened.keyboard.press("Shift+Enter")
        opened.get_by_text("pass", exact=True).first.wait_for(timeout=30_000)
        opened.wait_for_timeout(1000)
        opened.screenshot(path=IMAGES / "exercise.png")


if __name__ == "__main__":
    if CHROMIUM is None:
        raise SystemExit(MISSING)
    pipeline(project.root() / project.environment().out)
    with tempfile.TemporaryDirectory() as scratch:
        lessons(Path(scratch))
    print("images/pipeline.png, images/lesson.png and images/exercise.png were made anew")
