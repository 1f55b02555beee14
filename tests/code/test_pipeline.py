"""pipeline.yaml, the notebooks and the package say the same."""

import ast
import json

import pytest

from conftest import UPSTREAM
from mlops_course import project

PACKAGE = project.root() / "mlops_course"
FLOORS = [
    {"project", "telemetry"},
    {"problem"},
    {"world", "data", "asof", "services", "checks"},
    {"features", "registry", "poc", "exercises"},
    {"stream", "training", "batch", "serving", "monitoring", "experiments"},
    {"release", "orchestration"},
    {"retraining", "delivery"},
    {"live"},
    {"cli"},
]


def imports(module: str) -> set[str]:
    "The modules of this package that `module` imports, anywhere in its code."
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def reaches(module: str) -> set[str]:
    "`module` and all that it imports, directly or not."
    seen, new = set(), {module}
    while new:
        seen |= new
        new = set().union(*map(imports, new)) - seen
    return seen


@pytest.mark.parametrize("task", project.tasks())
def test_a_task_reruns_when_any_module_it_uses_changes(task):
    listed = project.tasks()[task]["params"]["resources_"]

    assert set(listed) == reaches(task)
    assert all(path == f"mlops_course/{name}.py" for name, path in listed.items())


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

    assert imports(module) <= allowed
    assert all(module not in reaches(other) for other in imports(module)), "imports in a circle"


def test_platform_is_no_package():
    assert not list((project.root() / "platform").rglob("__init__.py"))
