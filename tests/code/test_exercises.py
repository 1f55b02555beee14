"""Every exercise: its stub is not yet, its wrong answer is told why, its solution passes, and its lesson uses it."""

import inspect

import pytest
from rules import Notebook, exercise_cells, tagged

from mlops_course import exercises, project
from mlops_course.exercises import EXERCISES, check

LESSONS = sorted((project.root() / "notebooks").glob("[0-9]*.ipynb"))
WITHOUT = {"90_exercises"}  # the page about exercises


@pytest.fixture(autouse=True)
def first_try(monkeypatch):
    monkeypatch.setattr(exercises, "_tries", {})


def answer(cell: str):
    "The function that a cell defines last."
    names: dict = {}
    exec(cell, names)
    return [value for value in names.values() if inspect.isfunction(value)][-1]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_is_not_yet_and_has_a_hint(name):
    result = check(name, answer(EXERCISES[name].stub))

    assert not result.passed and "nothing is written yet" in result.message
    assert result.hint.startswith("Hint 1 of ")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_typical_wrong_answer_is_told_what_is_wrong(name):
    result = check(name, answer(EXERCISES[name].wrong))

    assert not result.passed
    assert EXERCISES[name].message in result.message


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes(name):
    result = check(name, answer(EXERCISES[name].solution))

    assert result.passed, result


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_grow_and_the_last_points_to_the_solution(name):
    stub, hints = answer(EXERCISES[name].stub), EXERCISES[name].hints

    shown = [check(name, stub).hint for _ in range(len(hints) + 1)]

    assert len(hints) >= 2 and len(set(hints)) == len(hints)
    assert [hint in text for hint, text in zip(hints, shown, strict=False)] == [True] * len(hints)
    assert f'solution("{name}")' in shown[-1]


def test_check_never_raises():
    assert not check("99.9", print).passed
    assert not check(next(iter(EXERCISES)), None).passed


@pytest.mark.parametrize("path", [p for p in LESSONS if p.stem not in WITHOUT], ids=lambda path: path.stem)
def test_a_lesson_has_three_exercises_and_uses_each_that_is_registered(path):
    registered = [name for name in EXERCISES if name.split(".")[0] == path.stem.split("_")[0]]

    used = exercise_cells(Notebook(path))

    assert list(used) == registered, "each exercise cell is followed by its check, in order"
    assert len(used) >= 3
    assert len(used) == sum(tagged(cell, "exercise") for cell in Notebook(path).code)


@pytest.mark.parametrize("path", [p for p in LESSONS if p.stem not in WITHOUT], ids=lambda path: path.stem)
def test_the_cell_of_an_exercise_is_its_stub_unless_somebody_has_worked_on_it(path):
    for name, source in exercise_cells(Notebook(path)).items():
        if "raise NotImplementedError" in source:
            assert source == EXERCISES[name].stub, f"{name}: the lesson's cell and the registered stub differ"


def test_progress_counts_what_has_passed(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    name = next(iter(EXERCISES))
    check(name, answer(EXERCISES[name].stub))
    check(name, answer(EXERCISES[name].solution))

    table = exercises.progress().set_index("lesson")

    assert table.passed.sum() == 1
    assert (table.exercises >= 3).all() and (table.minutes >= 10).all()
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 2
    assert "0 of" in exercises.show_progress() and "minutes to go" in exercises.show_progress()
