"""A learner who has worked through the book, in place, still has green checks."""

import json

import pytest
from rules import Notebook, exercise_cells

from mlops_course.exercises import EXERCISES

pytestmark = pytest.mark.patient


@pytest.fixture(scope="module")
def solved(workshop):
    "A copy of the project in which every exercise is solved in its lesson, in a style of the learner's own."
    for path in sorted((workshop.folder / "notebooks").glob("[0-9]*.ipynb")):
        cells = exercise_cells(Notebook(path))
        written = json.loads(path.read_text(encoding="utf-8"))
        for cell in written["cells"]:
            for name, source in cells.items():
                if "".join(cell["source"]) == source:
                    cell["source"] = (EXERCISES[name].solution + "\nmy_note = 'te" + "h  works'   # done").splitlines(True)
        for number, cell in enumerate(cell for cell in written["cells"] if cell["cell_type"] == "code"):
            cell["execution_count"] = number + 1
        path.write_text(json.dumps(written), encoding="utf-8")
    return workshop


def test_there_is_something_to_recognise(solved):
    texts = [path.read_text(encoding="utf-8") for path in (solved.folder / "notebooks").glob("[0-9]*.ipynb")]

    assert sum(text.count("my_note") for text in texts) == len(EXERCISES)


def test_the_linters_do_not_judge_a_learner(solved):
    notebooks = sorted(str(path.relative_to(solved.folder)) for path in (solved.folder / "notebooks").glob("*.ipynb"))
    for command in [
        ["python", "tests/rules.py", "--as-taught", "out/lint/notebooks", *notebooks],
        ["ruff", "check", "out/lint/notebooks"],
        ["ruff", "format", "--check", "out/lint/notebooks"],
        ["typos", "out/lint/notebooks"],
        ["python", "tests/rules.py", *notebooks],
    ]:
        code, told = solved.call(*command)
        assert code == 0, told


def test_the_tests_of_package_and_exercises_stay_green(solved):
    code, told = solved.call("pytest", "tests/code/test_exercises.py", "tests/code/test_in_step.py", "tests/code/test_pipeline.py")

    assert code == 0, told


def test_nbval_takes_a_solved_lesson_for_what_it_is(solved):
    code, told = solved.call("pytest", "--nbval", "notebooks/10_problem.ipynb")

    assert code == 0, told
