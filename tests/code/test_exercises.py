"""Every exercise: its stub is not yet, its wrong answer is told why, its solution passes, and its lesson uses it."""

import inspect
import os
import re
import shutil
import subprocess

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
    wrong, hints = answer(EXERCISES[name].wrong), EXERCISES[name].hints

    shown = [check(name, wrong).hint for _ in range(len(hints) + 1)]

    assert len(hints) >= 2 and len(set(hints)) == len(hints)
    assert [hint in text for hint, text in zip(hints, shown, strict=False)] == [True] * len(hints)
    assert f'solution("{name}")' in shown[-1]


@pytest.mark.parametrize("first", ["wrong", "solution"])
def test_a_lesson_that_was_run_with_nothing_written_is_no_try(tmp_path, monkeypatch, first):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    name = next(iter(EXERCISES))
    unwritten = [check(name, answer(EXERCISES[name].stub)).hint for _ in range(5)]

    result = check(name, answer(getattr(EXERCISES[name], first)))

    assert len(set(unwritten)) == 1 and unwritten[0].startswith("Hint 1 of ")
    assert result.hint == unwritten[0] if first == "wrong" else result.message == "well done"
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 1


def test_a_build_notes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path / "lab"))
    name = next(iter(EXERCISES))

    with project.building(tmp_path / "out"):
        assert check(name, answer(EXERCISES[name].solution)).passed

    assert not (tmp_path / "lab").exists()


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
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 1
    assert "0 of" in exercises.show_progress() and "minutes to go" in exercises.show_progress()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A checkout of the course in which nobody has learned yet, and the working folder in it."
    for name in ("pipeline.yaml", "settings.ini", "Makefile", "env.yaml", "env.test.yaml"):
        shutil.copy(project.root() / name, tmp_path)
    shutil.copytree(project.root() / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("MLOPS_COURSE_LAB", "MLOPS_COURSE_LEARNER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solve(name: str) -> None:
    assert check(name, answer(EXERCISES[name].solution)).passed


def passed() -> int:
    return exercises.progress().passed.sum()


def make_clean(folder) -> str:
    words = ["make", "clean", "MAKE_VERSION=4.3"]
    return subprocess.run(words, cwd=folder, env={**os.environ, "MAKEFLAGS": ""}, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("linked", [False, True])
def test_progress_outlives_make_clean_which_says_so(checkout, tmp_path_factory, linked):
    if linked:
        (checkout / "out").symlink_to(tmp_path_factory.mktemp("disk"))
    (checkout / "out/dev").mkdir(parents=True)
    solve("00.1")

    printed = make_clean(checkout)

    assert passed() == 1 and not (checkout / "out/dev").exists()
    assert "Kept: notebooks/ with your answers in them, learners/ with your progress" in printed


@pytest.mark.parametrize("cleaned", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_progress_of_an_earlier_course_is_moved_once_and_that_is_said(checkout, tmp_path_factory, capsys, linked, cleaned):
    if linked:
        (checkout / "out").symlink_to(tmp_path_factory.mktemp("disk"))
    old = checkout / "out/lab/progress.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text('{"exercise": "00.1", "passed": true, "time": "2026-03-16T01:00:00+00:00"}\n{"exercise": "00.2", "pas')
    if cleaned:
        assert "Kept too: out/lab/progress.jsonl" in make_clean(checkout)

    solve("00.3")
    printed = capsys.readouterr().out

    assert passed() == passed() == 2 and not old.exists()
    assert printed.startswith("Your progress is in learners/") and capsys.readouterr().out == ""


def test_progress_of_an_earlier_course_that_another_learner_has_made_stays(checkout, monkeypatch):
    old = checkout / "out/lab/progress.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text('{"exercise": "00.1", "passed": true, "time": "2026-03-16T01:00:00+00:00"}\n')
    monkeypatch.setattr(os, "geteuid", lambda: old.stat().st_uid + 1)

    assert passed() == 0 and old.exists()


def test_two_learners_of_one_checkout_have_their_own_progress(checkout, monkeypatch):
    names = ["ada", "../ben", ".carl", "d e"]
    for number, name in enumerate(names, start=1):
        monkeypatch.setenv("MLOPS_COURSE_LEARNER", name)
        for exercise in list(EXERCISES)[:number]:
            solve(exercise)
        assert passed() == number

    assert sorted(path.parent.parent for path in checkout.rglob("progress.jsonl")) == [checkout / "learners"] * len(names)


def test_a_folder_of_learners_can_be_used_by_all_who_may_write_in_the_checkout(checkout):
    checkout.chmod(0o775)

    solve("00.1")

    assert (checkout / "learners").stat().st_mode & 0o777 == 0o775


def test_a_folder_of_learners_that_cannot_be_used_is_said_and_stops_nothing(checkout, capsys):
    (checkout / "learners").write_text("a file")

    solve("00.1")

    assert re.fullmatch(r"This try is not noted, learners/\S+ cannot be used: Not a directory\n", capsys.readouterr().out)
    assert passed() == 0
