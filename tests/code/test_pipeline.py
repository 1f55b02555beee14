"""pipeline.yaml, the notebooks and the package say the same."""

import ast
import json
import re

import pytest

from conftest import UPSTREAM
from mlops_course import project

PACKAGE = project.root() / "mlops_course"
MODULES = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
FLOORS = [
    {"project", "telemetry", "files", "clocks"},
    {"problem", "engine"},
    {"world", "data", "asof", "services", "checks"},
    {"features", "registry", "poc"},
    {"stream", "training", "batch", "serving", "monitoring", "experiments"},
    {"release", "orchestration"},
    {"retraining", "delivery"},
    {"live"},
    {"exercises"},
    {"cli"},
]


def nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def imports(source: str) -> set[str]:
    "The modules of this package that `source` imports, anywhere in its code."
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mlops_course.")}
        elif isinstance(node, ast.ImportFrom):
            first, *rest = (node.module or "").split(".")
            if node.level == 1:
                found |= {first} if first else {alias.name for alias in node.names}
            elif first == "mlops_course":
                found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found & MODULES


def named(source: str) -> set[str]:
    "The modules of this package that a text in `source` names, so that somebody loads them by that name: a class, say."
    texts = [node.value for node in nodes(source) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {name for text in texts for name in re.findall(r"\bmlops_course\.(\w+)", text)} & MODULES


def code(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


def reaches(module: str, links) -> set[str]:
    "`module` and all that it leads to, directly or not; `links` gives the next ones of a source."
    seen, new = set(), {module}
    while new:
        seen |= new
        new = set().union(*(links(code(each)) for each in new)) - seen
    return seen


def test_imports_are_found_however_they_are_written():
    for source in [
        "from .data import read",
        "from . import data",
        "def f():\n    from mlops_course import data",
        "def f():\n    from mlops_course.data import read",
        "import mlops_course.data as d",
    ]:
        assert imports(source) == {"data"}, source
    assert imports("from os import path\nimport data") == set()
    assert named("store = {'type': 'mlops_course.asof.AsofOfflineStore'}") == {"asof"}


@pytest.mark.parametrize("task", project.tasks())
def test_a_task_reruns_when_any_module_it_loads_changes(task):
    listed = project.tasks()[task]["params"]["resources_"]
    loaded = reaches(task, lambda source: imports(source) | named(source))

    assert set(listed) == loaded
    assert all(path == f"mlops_course/{name}.py" for name, path in listed.items())
    for module in loaded:
        texts = [node for node in nodes(code(module)) if isinstance(node, ast.JoinedStr) and "mlops_course." in ast.unparse(node)]
        assert not texts, f"{module} makes up the name of a module while it runs: nobody can list it"


@pytest.mark.parametrize("task", project.tasks())
def test_a_task_comes_after_the_stages_that_its_notebook_names(task):
    notebook = json.loads((project.root() / project.tasks()[task]["source"]).read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]

    assert len(cells) == 1
    told = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cells[0]).body if isinstance(n, ast.Assign)}
    assert set(told) == {"upstream", "product", "environment"}
    assert (told["upstream"] or []) == UPSTREAM[task]
    assert set(project.tasks()[task]["params"]) - {"resources_"} <= set(told), "Ploomber cannot tell a misspelt parameter"


@pytest.mark.parametrize("module", sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_")))
def test_a_module_imports_only_from_the_floors_below(module):
    floor = next(i for i, names in enumerate(FLOORS) if module in names)
    allowed = set().union(*FLOORS[: floor + 1])

    assert imports(code(module)) <= allowed
    assert all(module not in reaches(other, imports) for other in imports(code(module))), "imports in a circle"


def test_platform_is_no_package():
    assert not list((project.root() / "platform").rglob("__init__.py"))
