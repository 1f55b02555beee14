"""What a lesson teaches runs under any clock, zone and settings: its samples are its own."""

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from mlops_course import project

pytestmark = pytest.mark.patient
STAGES = ["20_world", "30_data_pipeline", "31_feature_store", "40_training_pipeline", "50_batch_serving"]


@pytest.fixture(params=["1999-06-15T12:00:00+00:00", "2100-06-15T12:00:00+00:00"], ids=["1999", "2100"])
def hostile(request, tmp_path, monkeypatch):
    "An environment whose clock stands far away, in another zone, with other settings."
    settings = yaml.safe_load((project.root() / "env.test.yaml").read_text(encoding="utf-8"))
    settings |= {"name": "hostile", "out": str(tmp_path / "out é"), "clock": request.param}
    settings["data"]["quarantine_limit"], settings["features"]["ttl_hours"] = 0.5, 3
    (tmp_path / "env.hostile.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", str(tmp_path / "env.hostile.yaml"))
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path / "lab"))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")


@pytest.mark.parametrize("lesson", STAGES)
def test_the_teaching_cells_of_a_stage_depend_on_nothing_of_the_environment(lesson, hostile):
    notebook = nbformat.read(project.root() / f"notebooks/{lesson}.ipynb", as_version=4)
    working = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells = notebook.cells[:working]

    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": project.root() / "notebooks"}}).execute()
