"""docs/FAULTS.md lists the faults that the tests inject, and each row is true: its test exists, and no fault is silent."""

import re

import pytest

from mlops_course import project

TABLE = project.root() / "docs/FAULTS.md"
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| .*tests/", line)
]


def test_there_are_thirty_or_more_and_none_stands_there_twice():
    faults = [row[0] for row in ROWS]
    assert len(faults) >= 30
    assert len(set(faults)) == len(faults)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_each_names_what_is_lost_and_a_test_that_is_there_and_is_never_silent(row):
    injected, lost, silent, test = row
    file, function = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()

    assert injected and re.match(r"0\b|at most |up to ", lost), "what is lost is 0, or has a bound"
    assert silent == "no"
    assert f"def {function}(" in (project.root() / file).read_text(encoding="utf-8")
