"""Each file of tests has one budget, and a run that exceeds it says so."""

import pytest
from costs import DEVELOPERS, LONGEST, Group, budgets, spent

from mlops_course import project

GROUPS = budgets(DEVELOPERS.read_text(encoding="utf-8"))
FILES = [path for folder in ("notebooks/*.ipynb", "tests/*/test_*.py") for path in project.root().glob(folder)]


@pytest.mark.parametrize("file", sorted(path.relative_to(project.root()).as_posix() for path in FILES))
def test_a_file_of_tests_has_one_budget(file):
    assert len([group.name for group in GROUPS if group.holds(file)]) == 1


def test_a_budget_is_of_files_that_are_there():
    files = [path.relative_to(project.root()).as_posix() for path in FILES]

    for group in GROUPS:
        for pattern in group.files:
            assert any(Group("", [pattern], 0).holds(file) for file in files), pattern


def test_what_begins_first_is_there():
    assert [name for name in LONGEST if not (project.root() / f"tests/system/test_{name}.py").is_file()] == []


def test_what_exceeds_its_budget_is_said():
    groups = [Group("a notebook", ["notebooks/*.ipynb"], 20), Group("code", ["tests/code/*"], 5), Group("loop", ["test_loop"], 9)]
    seconds = {"notebooks/10_a.ipynb": 21.0, "notebooks/20_b.ipynb": 3.0, "tests/code/test_a.py": 2.0, "tests/code/test_b.py": 2.5}

    assert spent(seconds, groups) == ["10_a     21 s of 20   OVER ITS BUDGET", "20_b      3 s of 20", "code      4 s of 5"]
    assert spent({"tests/system/test_loop.py": 10.0, "elsewhere.py": 99.0}, groups) == ["loop     10 s of 9   OVER ITS BUDGET"]
