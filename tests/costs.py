"""What a run has cost, beside what it may: the budgets of DEVELOPERS.md, by notebook and by group of tests."""

import re
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

DEVELOPERS = Path(__file__).parent.parent / "DEVELOPERS.md"

LONGEST = ["loop", "serving", "prometheus"]  # who has the two tests of the loop is given a second file at once: a short one
LONGEST += [
    "papermill",
    "containers",
    "readme",
    "airflow",
    "build",
    "flights",
    "hostile_environment",
    "jupyterlab",
    "platform_build",
    "setup",
]
"These of tests/system begin first, or one of them would be left over at the end, with nothing beside it."


class Group(NamedTuple):
    name: str
    files: list[str]  # patterns of paths from the root, or the stems of files in tests/system
    seconds: int

    def holds(self, path: str) -> bool:
        return any(fnmatch(path, file if "/" in file else f"tests/system/{file}.py") for file in self.files)


def budgets(text: str) -> list[Group]:
    "The groups in the table that begins with `| group | files | seconds |`."
    table = re.search(r"\| group \| files \| seconds \|\n.*?\n((?:\|.*\n)+)", text)[1]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()]
    return [Group(name, re.findall(r"`([^`]+)`", files), int(seconds)) for name, files, seconds in rows]


def spent(
    seconds: dict[str, float],  # by file, from the root
    groups: list[Group],
) -> list[str]:
    "A line for each notebook and each group of which something has run; those over their budget say so."
    costs: dict[tuple[str, int], float] = defaultdict(float)
    for path, cost in sorted(seconds.items()):
        for group in groups:
            if group.holds(path):
                costs[Path(path).stem if path.endswith(".ipynb") else group.name, group.seconds] += cost
    width = max(map(len, (name for name, _ in costs)), default=0)
    return [
        f"{name:<{width}} {cost:6.0f} s of {limit}" + ("   OVER ITS BUDGET" if cost > limit else "")
        for (name, limit), cost in costs.items()
    ]
