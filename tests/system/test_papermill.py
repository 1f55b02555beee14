"""papermill alone, without Ploomber, runs every notebook with small parameters."""

import papermill
import pytest

from mlops_course import project

pytestmark = pytest.mark.patient

NOTEBOOKS = sorted((project.root() / "notebooks").glob("[0-9]*.ipynb"))
SMALL = {"world": {"drivers": 120, "bookings_per_day": 400}}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    "A lab for these runs; the notebooks are run in their order, so each finds what the earlier ones made."
    folder = tmp_path_factory.mktemp("papermill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_COURSE_LAB", str(folder / "lab"))
        patch.setenv("PLOOMBER_ENV_FILENAME", "env.test.yaml")
        yield folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_runs_the_notebook(notebook, scratch):
    known = papermill.inspect_notebook(str(notebook))
    told = {"environment": {**SMALL, "out": str(scratch / "no-build")}}
    parameters = {name: value for name, value in told.items() if name in known}

    papermill.execute_notebook(
        str(notebook),
        str(scratch / notebook.name),
        parameters=parameters,
        cwd=str(notebook.parent),
        progress_bar=False,
        kernel_name="python3",
    )

    assert (scratch / notebook.name).is_file()


def test_every_stage_takes_its_environment_as_a_parameter():
    for task in project.tasks().values():
        assert set(papermill.inspect_notebook(str(project.root() / task["source"]))) == {"upstream", "product", "environment"}
