"""A stage's lesson that is gone, broken or not Python is one clear message, before anything is built."""

import json
import shutil

import pytest

from mlops_course import cli, project, stages

LESSON = "notebooks/20_world.ipynb"


@pytest.fixture
def course(tmp_path, monkeypatch):
    "A checkout of which nothing was built."
    for name in ("notebooks", "mlops_course", "projects"):
        shutil.copytree(project.root() / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pipeline.yaml", "settings.ini", "env.yaml", "env.test.yaml"):
        shutil.copy2(project.root() / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def broken(source: str) -> str:
    "The lesson with one more cell that a build runs."
    notebook = json.loads((project.root() / LESSON).read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "execution_count": None, "id": "mine", "metadata": {"tags": ["stage"]}, "outputs": [], "source": source}
    notebook["cells"].append(cell)
    return json.dumps(notebook)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, f"{LESSON} is missing, and it is a stage: `git checkout {LESSON}` brings the course's back"),
        ("", f"{LESSON} is no notebook any more"),
        ("{ not json", f"{LESSON} is no notebook any more"),
        ("[]", f"{LESSON} is no notebook any more"),
        ("<<<<<<< HEAD\n{}\n=======\n", f"{LESSON} is no notebook any more"),
        (broken("def f(:\n    pass"), f"{LESSON}: Python cannot read 'def f(:' ("),
        (broken("x = 1\nif x\n    x = 2"), f"{LESSON}: Python cannot read 'if x' ("),
        (broken("for"), f"{LESSON}: Python cannot read 'for' ("),
        (broken("'''open"), f"{LESSON}: Python cannot read "),
    ],
)
def test_what_is_wrong_with_a_lesson_is_said_before_a_build(course, text, message):
    if text is None:
        (course / LESSON).unlink()
    else:
        (course / LESSON).write_text(text, encoding="utf-8")

    with pytest.raises(project.UserError) as refusal:
        cli.run("env.test.yaml")

    assert message in str(refusal.value)
    assert not (course / "out/test/raw").exists()


def test_every_lesson_of_the_course_can_be_read_and_magics_are_no_fault(course, monkeypatch):
    (course / LESSON).write_text(broken("%time 1 + 1\n!echo hello\nx = await nothing"), encoding="utf-8")

    stages.check_cells()
