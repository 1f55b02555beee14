"""A learner who has worked through the book, in place, still has green checks."""

import json
import re
import shutil
import subprocess
from secrets import token_hex

import pytest
from rules import Notebook, exercise_cells
from workshop import Workshop

from mlops_course import answers
from mlops_course.exercises import EXERCISES
from mlops_course.project import UserError

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
        ["ruff", "format", "--check", "--line-length", "100", "out/lint/notebooks"],
        ["typos", "out/lint/notebooks"],
        ["python", "tests/rules.py", *notebooks],
    ]:
        code, output = solved.call(*command)
        assert code == 0, output


def test_the_tests_of_package_and_exercises_stay_green(solved):
    of_the_package = "not the_solution_passes and not typical_wrong_answer"  # whatever stands in the lessons
    tests = [f"tests/code/test_{name}.py" for name in ("exercises", "in_step", "pipeline")]
    code, output = solved.call("pytest", *tests, "-k", of_the_package)

    assert code == 0, output


def test_nbval_takes_a_solved_lesson_for_what_it_is(solved):
    code, output = solved.call("pytest", "--nbval", "notebooks/10_problem.ipynb")

    assert code == 0, output


# A teacher's changes, and a learner's answers


STUB, ANSWER = EXERCISES["00.1"].stub, EXERCISES["00.1"].solution
QUESTION = "**00.1**"
LESSON = "notebooks/00_start_here.ipynb"


class Clone:
    "A git checkout of the course, and the hands that write in its lessons."

    def __init__(self, folder):
        self.folder = folder

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def cells(self, lesson: str = LESSON) -> list[dict]:
        return json.loads((self.folder / lesson).read_text(encoding="utf-8"))["cells"]

    def texts(self, lesson: str = LESSON) -> list[str]:
        return ["".join(cell["source"]) for cell in self.cells(lesson)]

    def write(self, cells: list[dict], lesson: str = LESSON) -> None:
        notebook = json.loads((self.folder / lesson).read_text(encoding="utf-8")) | {"cells": cells}
        (self.folder / lesson).write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

    def replace(self, old: str, new: str, lesson: str = LESSON) -> None:
        "Change the first cell in which `old` stands."
        cells = self.cells(lesson)
        cell = next(cell for cell in cells if old in "".join(cell["source"]))
        cell["source"] = "".join(cell["source"]).replace(old, new).splitlines(True)
        self.write(cells, lesson)

    def add(self, before: str, text: str, kind: str = "code", lesson: str = LESSON) -> None:
        "Put a cell before the first one in which `before` stands."
        cells, code = self.cells(lesson), {"execution_count": None, "outputs": []} if kind == "code" else {}
        place = next(i for i, cell in enumerate(cells) if before in "".join(cell["source"]))
        cells.insert(place, {"cell_type": kind, "id": token_hex(4), "metadata": {}, "source": text.splitlines(True), **code})
        self.write(cells, lesson)

    def remove(self, *texts: str) -> None:
        self.write([cell for cell in self.cells() if not any(text in "".join(cell["source"]) for text in texts)])


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("origin")
    Workshop(folder)
    course = Clone(folder)
    course.git("init", "--quiet", "--initial-branch=main")
    course.git("add", "--all")
    course.git("commit", "--quiet", "-m", "The course")
    return course


@pytest.fixture
def teacher(origin, tmp_path):
    origin.git("clone", "--quiet", str(origin.folder), str(tmp_path / "teacher"))
    return Clone(tmp_path / "teacher")


@pytest.fixture
def learner(teacher, tmp_path, monkeypatch):
    "A clone of the teacher's, in which 00.1 and 00.3 are answered, and which is the working folder."
    teacher.git("clone", "--quiet", str(teacher.folder), str(tmp_path / "learner"))
    learner = Clone(tmp_path / "learner")
    learner.replace(STUB, ANSWER)
    learner.replace(EXERCISES["00.3"].stub, EXERCISES["00.3"].solution)
    monkeypatch.delenv("MLOPS_COURSE_LAB", raising=False)
    monkeypatch.setenv("MLOPS_COURSE_LEARNER", "ada")
    monkeypatch.chdir(learner.folder)
    return learner


def update(teacher: Clone, learner: Clone) -> str:
    "The teacher's changes reach a learner who has set her answers aside and brings them back: what she is shown."
    teacher.git("add", "--all")
    teacher.git("commit", "--quiet", "--allow-empty", "-m", "Better")
    shown = list(answers.set_aside())
    assert learner.git("status", "--porcelain") == ""
    learner.git("pull", "--quiet")
    shown += answers.bring_back()
    assert learner.git("diff", "--name-only").split() == [
        path for path in learner.git("ls-files", "notebooks").split() if path in learner.git("status", "--porcelain")
    ]
    return "\n".join(shown)


def everything(learner: Clone) -> str:
    "All that a learner has, in her lessons and in her folder."
    files = [*learner.folder.glob("notebooks/*.ipynb"), *learner.folder.glob("learners/ada/**/*.ipynb")]
    return "\n".join("\n".join(learner.texts(str(file.relative_to(learner.folder)))) for file in files)


def test_answers_get_along_with_a_pull_by_the_commands_of_the_page(workshop, teacher, learner):
    variables = {**workshop.variables, "PYTHONPATH": str(learner.folder)}
    teacher.replace(QUESTION, "**00.1** (new)")
    teacher.git("commit", "--quiet", "--all", "-m", "Better")
    page = (learner.folder / "docs/USING.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(mlops-course answers aside.*?)```", page, re.S)[1]

    done = subprocess.run(["sh", "-ec", commands], cwd=learner.folder, env=variables, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "00_start_here: 00.1, 00.3 set aside" in done.stdout and "00_start_here: 00.1, 00.3 back in the lesson" in done.stdout
    assert {ANSWER, EXERCISES["00.3"].solution} < set(learner.texts()) and "(new)" in everything(learner)


def test_a_lesson_that_the_teacher_has_not_changed_comes_back_as_it_was(teacher, learner):
    learner.add(QUESTION, "my_own = 1")
    cells = learner.cells()
    next(cell for cell in cells if cell["cell_type"] == "code")["outputs"] = [
        {"name": "stdout", "output_type": "stream", "text": ["mine\n"]}
    ]
    learner.write(cells)
    before = (learner.folder / LESSON).read_bytes()
    teacher.replace("# The problem", "# The question", "notebooks/10_problem.ipynb")

    shown = update(teacher, learner)

    assert "CONFLICT" not in shown
    assert (learner.folder / LESSON).read_bytes() == before and "The question" in learner.texts("notebooks/10_problem.ipynb")[0]


NEAR = {
    "the question": lambda teacher: teacher.replace(QUESTION, "**00.1** (new)"),
    "a cell before the answer": lambda teacher: teacher.add(STUB, "(new)", "markdown"),
    "a cell after the answer": lambda teacher: teacher.add('check("00.1"', "new = 1  # (new)"),
    "the next exercise": lambda teacher: teacher.replace(EXERCISES["00.2"].stub, "(new)"),
    "the cell after the check": lambda teacher: teacher.replace("**00.2**", "(new)"),
    "the check": lambda teacher: teacher.replace('check("00.1", small)', 'check("00.1", small)  # (new)'),
    "the first cell": lambda teacher: teacher.replace("# Start here", "# Start here (new)"),
    "a cell at the end": lambda teacher: teacher.write([*teacher.cells(), {**teacher.cells()[0], "id": "new", "source": ["(new)"]}]),
    "other ids": lambda teacher: teacher.write(
        [
            {**c, "id": token_hex(4), "metadata": {**c["metadata"], "tags": [*c["metadata"].get("tags", []), "(new)"]}}
            for c in teacher.cells()
        ]
    ),
    "another number": lambda teacher: teacher.replace('check("00.1", small)', 'check("00.9", small)  # (new)'),
    "another name": lambda teacher: (
        teacher.replace("# Start here", "# Start here (new)"),
        teacher.git("mv", LESSON, "notebooks/00_begin_here.ipynb"),
    ),
}


@pytest.mark.parametrize("change", NEAR)
def test_answers_and_own_cells_come_back_to_a_lesson_that_has_changed_near_them(teacher, learner, change):
    learner.add('check("00.1"', "small().world  # mine")
    learner.add(QUESTION, "My note", "markdown")
    learner.replace("## The map", "## The map, as I see it")
    NEAR[change](teacher)

    shown = update(teacher, learner)

    lesson = next(learner.folder.glob("notebooks/00_*.ipynb")).relative_to(learner.folder).as_posix()
    assert "CONFLICT" not in shown
    assert "(new)" in (learner.folder / lesson).read_text(encoding="utf-8")
    texts = learner.texts(lesson)
    for written in (ANSWER, EXERCISES["00.3"].solution, "small().world  # mine", "My note"):
        assert texts.count(written) == 1, written
    assert sum("as I see it" in text for text in texts) == 1
    check = next(i for i, text in enumerate(texts) if text.startswith('check("00.') and "small" in text)
    assert texts.index("My note") < texts.index(ANSWER) < texts.index("small().world  # mine") < check
    assert STUB not in texts


PLACES = {
    "the stub": lambda teacher: teacher.replace(STUB, STUB + "  # (new)"),
    "the exercise": lambda teacher: teacher.remove(STUB, 'check("00.1"'),
    "the lesson": lambda teacher: teacher.git("rm", "--quiet", LESSON),
}


@pytest.mark.parametrize("what", PLACES)
def test_an_answer_whose_exercise_has_changed_is_a_conflict_that_is_shown_and_nothing_is_lost(teacher, learner, what):
    PLACES[what](teacher)

    shown = update(teacher, learner)

    conflicts = [line for line in shown.splitlines() if "CONFLICT" in line]
    assert len(conflicts) == 1 and ("00.1" in conflicts[0]) == (what != "the lesson")
    assert ANSWER in learner.texts(re.search(r"[Yy]ours is (\S+)$", conflicts[0])[1]) and EXERCISES["00.3"].solution in everything(learner)
    if what != "the lesson":
        assert EXERCISES["00.3"].solution in learner.texts() and learner.texts().count(ANSWER) == 0
    if what == "the stub":
        assert STUB + "  # (new)" in learner.texts()


def test_answers_that_were_committed_are_set_aside_too(teacher, learner):
    learner.git("commit", "--quiet", "--all", "-m", "My answers")
    teacher.replace(QUESTION, "**00.1** (new)")
    teacher.git("commit", "--quiet", "--all", "-m", "Better")

    shown = list(answers.set_aside())

    assert shown[-3:] == ["  git commit -m 'Answers set aside'", "  git pull --no-rebase", "  mlops-course answers back"]
    learner.git("commit", "-m", "Answers set aside")
    learner.git("pull", "--no-rebase", "--no-edit", "--quiet")
    assert "CONFLICT" not in "".join(answers.bring_back()) and ANSWER in learner.texts() and "(new)" in everything(learner)


def test_what_was_set_aside_twice_or_staged_or_is_there_already_is_not_lost(teacher, learner):
    learner.git("add", "--all")
    list(answers.set_aside())
    assert learner.git("status", "--porcelain") == ""
    learner.replace(STUB, "def small(): return 'another'")

    with pytest.raises(UserError, match="was set aside before, and has changed again: `mlops-course answers back` first"):
        list(answers.set_aside())
    shown = "\n".join(answers.bring_back())

    assert "CONFLICT: 00.1 is no longer what you began with. The lesson stays as it is, yours is learners/ada/copies/" in shown
    assert ANSWER in everything(learner) and "another" in everything(learner) and EXERCISES["00.3"].solution in learner.texts()
    assert list(answers.bring_back()) == ["Nothing was set aside"]


def test_with_nothing_changed_there_is_nothing_to_set_aside(teacher, learner):
    learner.git("checkout", "--quiet", "--", ".")

    assert list(answers.set_aside()) == ["No lesson differs from the course's: there is nothing to set aside"]


def test_a_lesson_in_which_git_has_left_its_marks_is_one_message(teacher, learner):
    (learner.folder / LESSON).write_text("<<<<<<< HEAD\n{}\n=======\n", encoding="utf-8")

    with pytest.raises(UserError, match="00_start_here.ipynb is no whole notebook.*git checkout notebooks/00_start_here.ipynb"):
        list(answers.set_aside())

    assert not (learner.folder / "learners").exists()


def test_without_git_the_reason_is_one_message(learner, monkeypatch, tmp_path):
    shutil.rmtree(learner.folder / ".git")

    with pytest.raises(UserError, match="this folder is no clone of the course"):
        list(answers.set_aside())


def test_another_file_that_was_changed_is_named(learner):
    (learner.folder / "env.yaml").write_text("name: mine\n", encoding="utf-8")

    assert "may stop at it: env.yaml\n" in "\n".join(answers.set_aside())
