"""pipeline.yaml, the notebooks and the package say the same."""

import ast
import json

import pytest
from imports import of_stage

from conftest import UPSTREAM
from mlops_course import project, stages


@pytest.mark.parametrize("task", stages.tasks())
def test_a_task_reruns_when_any_module_it_loads_changes(task):
    listed = stages.tasks()[task]["params"]["resources_"]

    assert set(listed) == of_stage(task)
    assert all(path == f"mlops_course/{name}.py" for name, path in listed.items())


@pytest.mark.parametrize("task", stages.tasks())
def test_a_task_comes_after_the_stages_that_its_notebook_names(task):
    notebook = json.loads((project.root() / stages.tasks()[task]["source"]).read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]

    assert len(cells) == 1
    written = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cells[0]).body if isinstance(n, ast.Assign)}
    assert set(written) == {"upstream", "product", "environment"}
    assert (written["upstream"] or []) == UPSTREAM[task] == stages.upstream(task)
    assert set(stages.tasks()[task]["params"]) - {"resources_"} <= set(written), "Ploomber cannot tell a misspelt parameter"


def test_platform_is_no_package():
    assert not list((project.root() / "platform").rglob("__init__.py"))
