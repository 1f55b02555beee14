"""A learner who has solved every exercise of a lesson can run it to its end, and every check says pass."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient
from rules import Notebook, exercise_cells

from mlops_course import project
from mlops_course.exercises import EXERCISES

pytestmark = pytest.mark.patient

LESSONS = [path for path in sorted((project.root() / "notebooks").glob("[0-9]*.ipynb")) if exercise_cells(Notebook(path))]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    "A lab for these runs; the lessons are run in their order, so each finds what the earlier ones made."
    folder = tmp_path_factory.mktemp("solved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_COURSE_LAB", str(folder))
        yield folder


def in_lesson(solution: str, module: str) -> str:
    "A solution as a learner writes it, who uses the lesson's own definitions and does not import them from its module."
    return re.sub(rf"^ +from mlops_course\.{module} import .*\n\n?", "", solution, flags=re.M)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_with_all_its_solutions_runs_to_its_end(path, scratch):
    lesson = nbformat.read(path, as_version=4)
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    solved = exercise_cells(Notebook(path))
    for cell in code:
        for name, source in solved.items():
            if cell.source == source:
                cell.source = in_lesson(EXERCISES[name].solution, code[0].source.split()[-1])

    NotebookClient(lesson, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()

    shown = {name: json.dumps(cell.outputs) for cell in code for name in solved if cell.source.startswith(f'check("{name}"')}
    assert set(shown) == set(solved)
    assert all(f"{name} PASS" in text for name, text in shown.items()), shown
