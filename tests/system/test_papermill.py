"""papermill alone, without Ploomber, runs every notebook with small parameters, as a learner leaves it who has solved all of it."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from rules import Notebook, exercise_cells

from mlops_course import project, stages
from mlops_course.engine import Kernel
from mlops_course.exercises import EXERCISES

pytestmark = pytest.mark.patient

NOTEBOOKS = sorted((project.root() / "notebooks").glob("[0-9]*.ipynb"))
SMALL = {"world": {"drivers": 120, "bookings_per_day": 400}}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    "A lab for these runs; the notebooks are run in their order, so each finds what the earlier ones made."
    folder = tmp_path_factory.mktemp("papermill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_COURSE_LAB", str(folder / "lab"))
        patch.setenv("PLOOMBER_ENV_FILENAME", "env.test.yaml")
        yield folder


def solved(path: Path) -> nbformat.NotebookNode:
    "The notebook with all its solutions, as a learner writes them: with the lesson's own definitions, not imported from its module."
    notebook, exercises = nbformat.read(path, as_version=4), exercise_cells(Notebook(path))
    for cell in notebook.cells:
        for name, source in exercises.items():
            if cell.source == source:
                own = rf"^ +from mlops_course\.{Notebook(path).module} import .*\n\n?"
                cell.source = re.sub(own, "", EXERCISES[name].solution, flags=re.M)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_runs_the_notebook_to_its_end_and_every_check_of_a_solution_says_pass(path, scratch):
    source, ran = scratch / path.name, scratch / f"ran_{path.name}"
    nbformat.write(solved(path), source)
    known = papermill.inspect_notebook(str(source))
    parameters = {name: value for name, value in {"environment": {**SMALL, "out": str(scratch / "no-build")}}.items() if name in known}

    papermill.execute_notebook(
        str(source), str(ran), parameters=parameters, cwd=str(path.parent), progress_bar=False, kernel_name="python3",
        request_save_on_cell_execute=False, kernel_manager_class=Kernel,
    )  # fmt: skip

    cells = nbformat.read(ran, as_version=4).cells
    exercises = exercise_cells(Notebook(path))
    shown = {name: json.dumps(cell.outputs) for cell in cells for name in exercises if cell.source.startswith(f'check("{name}"')}
    assert set(shown) == set(exercises)
    assert all(f"{name} PASS" in text for name, text in shown.items()), shown


def test_every_stage_takes_its_environment_as_a_parameter():
    for task in stages.tasks().values():
        assert set(papermill.inspect_notebook(str(project.root() / task["source"]))) == {"upstream", "product", "environment"}
