"""Every exercise: its stub is not yet, its wrong answer is told why, its solution passes, and its lesson uses it."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rules import Notebook, as_taught, exercise_cells, tagged
from typer.testing import CliRunner

from mlops_course import answers, exercises, project, stages
from mlops_course.cli import app
from mlops_course.exercises import EXERCISES, check
from mlops_course.questions import LESSONS, MOVED, RENUMBERED

PATHS = sorted((project.root() / "notebooks").glob("[0-8]*.ipynb"))


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

    with stages.building(tmp_path / "out"):
        assert check(name, answer(EXERCISES[name].solution)).passed

    assert not (tmp_path / "lab").exists()


def test_an_answer_that_never_ends_is_stopped_and_told_so():
    def endless(*_):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    began, before = time.monotonic(), signal.getsignal(signal.SIGALRM)
    result = check("42.1", endless, seconds=0.3)

    assert not result.passed and "not ended within 0.3 seconds" in result.message
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_check_never_raises():
    assert not check("99.9", print).passed
    assert not check(next(iter(EXERCISES)), None).passed


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_lesson_has_three_exercises_and_uses_each_that_is_registered(path):
    registered = [name for name in EXERCISES if name.split(".")[0] == path.stem.split("_")[0]]

    used = exercise_cells(Notebook(path))

    assert list(used) == registered, "each exercise cell is followed by its check, in order"
    assert len(used) >= 3
    assert len(used) == sum(tagged(cell, "exercise") for cell in Notebook(path).code)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
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
    shutil.copytree(project.root() / "projects", tmp_path / "projects")
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
    names = ["ada", "Ben.2", "zoë", "d-e", "x" * 64, "_"]
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


@pytest.mark.parametrize("name", ["  ", "~", ".", "..", ".carl", "a/b", "a\nb", "d e", "../ben", "x" * 65, "x" * 300, "\udcff"])
def test_a_name_that_will_not_do_is_refused_and_which_will_is_said(checkout, monkeypatch, capsys, name):
    monkeypatch.setenv("MLOPS_COURSE_LEARNER", name)

    with pytest.raises(project.UserError, match="MLOPS_COURSE_LEARNER=.* will not do as a name: up to 64 letters, digits, ") as refused:
        passed()
    solve("00.1")

    assert capsys.readouterr().out.startswith("This try is not noted: MLOPS_COURSE_LEARNER=") and not (checkout / "learners").exists()
    assert len(str(refused.value)) < 300 and str(refused.value).isprintable()


@pytest.mark.parametrize(("given", "folder"), [(" ada\n", "ada"), ("", "d_e")])
def test_blanks_around_a_name_do_not_count_and_without_one_the_account_has_one(checkout, monkeypatch, given, folder):
    monkeypatch.setenv("MLOPS_COURSE_LEARNER", given)
    monkeypatch.setattr(answers.pwd, "getpwuid", lambda number: answers.pwd.struct_passwd((".d e", "", number, 0, "", "", "")))

    assert answers.learner_folder() == checkout / "learners" / folder


# Numbers that have changed, and lines that are broken


BEFORE = {"00": 3, "10": 3, "11": 3, "20": 3, "21": 3, "30": 3, "31": 3, "32": 3, "40": 4, "41": 3, "42": 3}
BEFORE |= {"50": 3, "51": 3, "60": 4, "61": 3, "62": 3, "63": 3}  # how many exercises each lesson had in numbering 1


def line(exercise: str, **changes) -> str:
    return json.dumps({"exercise": exercise, "passed": True, "time": "2026-03-16T09:00:00+00:00"} | changes)


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    return tmp_path / "progress.jsonl"


def test_lessons_with_exercises_are_listed_and_there():
    assert {lesson.split("_")[0] for lesson in LESSONS} == {name.split(".")[0] for name in EXERCISES}
    assert {*LESSONS, *MOVED.values()} <= {path.stem for path in PATHS}


def test_each_exercise_of_before_has_its_own_number_today():
    before = [f"{lesson}.{number + 1}" for lesson, many in BEFORE.items() for number in range(many)]

    today = [RENUMBERED.get(name, name) for name in before]

    assert len(set(today)) == len(before) and set(today) <= set(EXERCISES)
    assert set(RENUMBERED) <= set(before)


def test_progress_under_old_numbers_counts_for_the_exercises_of_today(notes):
    notes.write_text(line("31.1") + "\n" + line("31.2") + "\n")
    solve("31.1")

    table = exercises.progress().set_index("lesson").passed

    assert table["32_feature_store"] == 2 and table["31_point_in_time"] == 1 and table.sum() == 3
    assert notes.read_text().startswith(line("31.1") + "\n")


BROKEN_LINES = {
    "cut": line("00.3")[:30],
    "a list": "[]",
    "a number": "3",
    "no time": '{"exercise": "00.3", "passed": true}',
    "no exercise": '{"passed": true, "time": "2026-03-16T09:00:00+00:00"}',
    "a time that is none": line("00.3", time="yesterday"),
    "a time of a number": line("00.3", time=3),
    "a time before all times": line("00.3", time="0001-01-01T00:00:00+14:00"),
    "a list of exercises": line("00.3").replace('"00.3"', '["00.3"]'),
    "no JSON": "\x00\x00",
    "brackets without end": "[" * 100_000,
}


@pytest.mark.parametrize("how", BROKEN_LINES)
def test_a_broken_line_is_named_with_its_file_and_the_others_count(notes, how):
    notes.write_text("\n".join([line("00.1"), BROKEN_LINES[how], line("00.2", time="2026-03-16T09:05:00"), ""]))

    shown = command("progress")

    assert "00_start_here ███████··· 2/3" in shown
    assert shown.endswith(f"{project.shown(notes)}, line 2 is not the result of a check: it does not count")


def test_notebooks_of_a_learner_beside_the_lessons_do_not_count(checkout):
    lessons = exercises.progress()
    shutil.copy(checkout / LESSON, checkout / "notebooks/00_start_here-Copy1.ipynb")
    shutil.copy(checkout / LESSON, checkout / "notebooks/10_mine.ipynb")

    assert exercises.progress().equals(lessons)


# A lesson that is broken, or gone


LESSON = "notebooks/00_start_here.ipynb"
BROKEN = {
    "no JSON": b"{ not json",
    "empty": b"",
    "no cells": b'{"cells":[]}',
    "no list of cells": b'{"cells": 3}',
    "no cell": b'{"cells": [1]}',
    "half a cell": b'{"cells": [{"cell_type": "code"}]}',
    "no text": b'{"cells": [{"cell_type": "code", "metadata": {}, "source": null}]}',
    "a list": b"[]",
    "no UTF-8": b'{"cells": "\xff"}',
    "git's marks": b'<<<<<<< HEAD\n{"cells": []}\n=======\n{"cells": []}\n>>>>>>> other\n',
}


def git(*words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout


def command(*words: str) -> str:
    "What a command shows. It ends with 0, or with a message of ours."
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code in (0, 1) and isinstance(done.exception, SystemExit | None), done.exception
    return " ".join(done.output.split())


@pytest.fixture
def clone(checkout, monkeypatch):
    "A clone of a course of two lessons."
    for path in (checkout / "notebooks").iterdir():
        if path.name not in (Path(LESSON).name, "10_problem.ipynb"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setenv("MLOPS_COURSE_LEARNER", "ada")
    git("init", "--quiet", "--initial-branch=main")
    (checkout / ".gitignore").write_text("learners/\n")
    git("add", "--all")
    git("commit", "--quiet", "-m", "The course")
    return checkout


def write(clone, text: bytes) -> None:
    (clone / LESSON).write_bytes(text)


def change(clone, text: str) -> bytes:
    "Put a text in the lesson's first cell."
    notebook = json.loads((clone / LESSON).read_bytes())
    notebook["cells"][0]["source"] = [text]
    write(clone, json.dumps(notebook, indent=1).encode())
    return (clone / LESSON).read_bytes()


def advised(shown: str) -> None:
    "Do what a message advises with its first git command."
    subprocess.run(re.search(r"`(git [^`]+)`", shown)[1].split(), check=True, capture_output=True)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_lesson_is_named_by_progress_with_what_brings_it_back(clone, how):
    solve("00.1")
    write(clone, BROKEN[how])

    shown = command("progress")

    assert "00_start_here ███······· 1/3 cannot be read: `git checkout notebooks/00_start_here.ipynb` brings the course's back" in shown
    assert "10_problem" in shown and "0 of 2 lessons done" in shown
    advised(shown)
    assert "cannot be read" not in command("progress")


def test_a_lesson_that_does_not_say_its_minutes_is_listed_without_them(clone):
    change(clone, "# Mine")

    assert re.search(r"00_start_here ·+ 0/3 10_problem ·+ 0/3 \d+ min 0 of 2", command("progress"))


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_lesson_stops_answers_aside_which_says_what_brings_it_back(clone, how):
    write(clone, BROKEN[how])

    shown = command("answers", "aside")

    assert "00_start_here.ipynb is no whole notebook. Copy it if answers of yours are in it: `git checkout notebooks/" in shown
    advised(shown)
    assert "nothing to set aside" in command("answers", "aside")


@pytest.mark.parametrize("words", [("progress",), ("answers", "aside")])
@pytest.mark.parametrize("by", ["a merge", "a stash"])
def test_a_lesson_that_git_could_not_merge_is_brought_back_by_the_command_that_is_advised(clone, words, by):
    git("checkout", "--quiet", "-b", "other")
    change(clone, "other")
    git("commit", "--quiet", "--all", "-m", "Other")
    git("checkout", "--quiet", "main")
    mine = change(clone, "mine")
    if by == "a merge":
        git("commit", "--quiet", "--all", "-m", "Mine")
    else:
        git("stash")
        git("checkout", "--quiet", "other")
    failed = subprocess.run(["git", *(("merge", "other") if by == "a merge" else ("stash", "pop"))], check=False, capture_output=True)
    assert failed.returncode and b"<<<<<<<" in (clone / LESSON).read_bytes()

    shown = command(*words)

    assert ("`git merge --abort`" in shown) == (by == "a merge")
    advised(shown)
    assert "cannot be read" not in command("progress")
    assert ((clone / LESSON).read_bytes() == mine) == (by == "a merge")


@pytest.mark.parametrize("how", ["rm", "git rm"])
def test_answers_to_a_lesson_that_the_learner_has_deleted_stay_set_aside_until_it_is_back(clone, how):
    mine = change(clone, "mine")
    command("answers", "aside")
    subprocess.run([*how.split(), LESSON], check=True, capture_output=True)

    shown = command("answers", "back")

    assert re.fullmatch(r"00_start_here: you have deleted it: `git checkout \S*.*`, then `mlops-course answers back` again", shown)
    assert (how == "git rm") == ("HEAD" in shown) and (clone / "learners/ada/aside/00_start_here.ipynb").read_bytes() == mine
    advised(shown)
    assert "back as you had it" in command("answers", "back") and (clone / LESSON).read_bytes() == mine


def test_a_lesson_that_the_course_no_longer_has_is_a_conflict(clone):
    change(clone, "mine")
    command("answers", "aside")
    git("rm", "--quiet", LESSON)
    git("commit", "--quiet", "-m", "Without it")

    assert "CONFLICT: the course no longer has this lesson. Yours is learners/ada/copies/" in command("answers", "back")


@pytest.mark.parametrize("around", [False, True])
def test_a_zip_of_the_course_has_no_answers_to_set_aside_and_another_way_is_said(clone, around):
    shutil.rmtree(clone / ".git")
    if around:  # a clone of something else
        git("init", "--quiet")

    shown = command("answers", "aside")

    assert "this folder is no clone of the course: a ZIP has no history" in shown and "Keep a copy of notebooks/" in shown
    assert "fatal" not in shown
    write(clone, b"{ not json")
    assert "00_start_here ·········· 0/3 cannot be read: " in command("progress")


# A lesson that was renumbered, or whose cells have moved


def notebook(name: str, cells: list[dict]) -> None:
    "A notebook of the clone, with these cells."
    whole = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    Path("notebooks", f"{name}.ipynb").write_text(json.dumps(whole, indent=1), encoding="utf-8")


def as_taught_cells(name: str) -> list[dict]:
    "The cells of a lesson of the course in which nothing is solved yet."
    return json.loads(as_taught(PATHS[0].with_name(f"{name}.ipynb")))["cells"]


def cells_of(name: str) -> list[dict]:
    return json.loads(Path("notebooks", f"{name}.ipynb").read_bytes())["cells"]


def texts_of(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(name)]


def write_answers(name: str, *exercises: str) -> None:
    "Solve exercises in a notebook, which may have them under any numbers."
    solutions = {EXERCISES[each].stub: EXERCISES[each].solution for each in exercises}
    cells = cells_of(name)
    for cell in cells:
        text = "".join(cell["source"])
        cell["source"] = solutions.get(text, text).splitlines(True)
    notebook(name, cells)


@pytest.fixture
def renumbered(clone):
    "A clone of the course in numbering 1, and what brings it to that of today, in which one exercise is in a lesson of its own."
    today = {name: as_taught_cells(name) for name in ("31_point_in_time", "32_feature_store")}
    earlier = {now: before for before, now in RENUMBERED.items()}
    for before, now in (("31_feature_store", "32_feature_store"), ("32_point_in_time", "31_point_in_time")):
        sources = ["".join(cell["source"]) for cell in today[now]]
        old = [re.sub(r'(?<=^check\(")[\d.]+', lambda match: earlier[match[0]], source) for source in sources]
        notebook(before, [cell | {"source": source.splitlines(True)} for cell, source in zip(today[now], old, strict=True)])
    git("add", "--all")
    git("commit", "--quiet", "-m", "Numbering 1")

    def pull() -> None:
        git("rm", "--quiet", "notebooks/31_feature_store.ipynb", "notebooks/32_point_in_time.ipynb")
        cells = today["32_feature_store"]
        place = next(i for i, cell in enumerate(cells) if "".join(cell["source"]) == EXERCISES["32.3"].stub)
        for name, content in {
            "31_point_in_time": today["31_point_in_time"],
            "32_feature_store": cells[:place],
            "33_apart": cells[place:],
        }.items():
            notebook(name, content)
        git("add", "--all")
        git("commit", "--quiet", "-m", "Numbering 2")

    return pull


def test_answers_set_aside_under_old_numbers_come_to_where_their_cells_are(renumbered):
    write_answers("31_feature_store", "32.1", "32.3")
    write_answers("32_point_in_time", "31.2")
    assert "31_feature_store: 32.1, 32.3 set aside" in command("answers", "aside")
    renumbered()
    shutil.copy("notebooks/33_apart.ipynb", "notebooks/33_apart-Copy1.ipynb")
    copy = texts_of("33_apart-Copy1")

    shown = command("answers", "back")

    assert shown == (
        "31_feature_store: 32.1 back in 32_feature_store 31_feature_store: 32.3 back in 33_apart "
        "32_point_in_time: 31.2 back in 31_point_in_time"
    )
    assert EXERCISES["32.1"].solution in texts_of("32_feature_store") and EXERCISES["32.3"].solution in texts_of("33_apart")
    assert EXERCISES["31.2"].solution in texts_of("31_point_in_time") and 'check("31.2", ' in "\n".join(texts_of("31_point_in_time"))
    assert texts_of("33_apart-Copy1") == copy


def test_own_cells_of_a_lesson_that_was_split_stay_behind_the_cells_that_they_stood_behind(renumbered):
    write_answers("31_feature_store", "32.3")
    cells = cells_of("31_feature_store")
    note = {"cell_type": "markdown", "id": "mine", "metadata": {}, "source": ["My note"]}
    place = next(i for i, cell in enumerate(cells) if "".join(cell["source"]) == EXERCISES["32.3"].solution)
    notebook("31_feature_store", [*cells[: place + 1], note, *cells[place + 1 :]])
    command("answers", "aside")
    renumbered()

    assert "32.3, the cell `My note` back in 33_apart" in command("answers", "back")
    assert texts_of("33_apart")[:2] == [EXERCISES["32.3"].solution, "My note"]


def test_answers_to_a_lesson_under_a_name_that_nobody_has_noted_come_by_the_ids_of_their_cells(clone):
    notebook("00_start_here", as_taught_cells("00_start_here"))
    git("commit", "--quiet", "--allow-empty", "--all", "-m", "As it is taught")
    write_answers("00_start_here", "00.1")
    command("answers", "aside")
    git("mv", LESSON, "notebooks/09_begin.ipynb")
    git("commit", "--quiet", "-m", "Another name")

    assert command("answers", "back") == "00_start_here: 00.1 back in 09_begin"
    assert EXERCISES["00.1"].solution in texts_of("09_begin")
