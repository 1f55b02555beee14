"""A build depends on no teaching cell, and what a lesson teaches on no clock, zone or settings: its samples are its own."""

import json
import shutil
from datetime import datetime, timedelta

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from workshop import Workshop

from conftest import run_stages
from mlops_course import project, stages

pytestmark = pytest.mark.patient
STAGES = [task["source"] for task in stages.tasks().values()]
CLOCKS = ["1999-06-15T12:00:00+00:00", "2100-06-15T12:00:00+00:00"]
THEIRS = {"driver_stats": "Fahrer & Zeiten.parquet", "bookings": "l'été.parquet", "candidates": "3.parquet", "labels": "LABELS (1).parquet"}


def settings(clock: str) -> dict:
    "Those of env.test.yaml, as a company would have them that lives at another time."
    changed = yaml.safe_load((project.root() / "env.test.yaml").read_text(encoding="utf-8"))
    changed |= {"name": "hostile", "clock": clock}
    changed["world"] |= {"start": (datetime.fromisoformat(clock) - timedelta(days=changed["world"]["days"])).date().isoformat()}
    return changed


@pytest.fixture(scope="module", params=CLOCKS, ids=["1999", "2100"])
def finished(request, tmp_path_factory) -> Workshop:
    "A build at another time, in another zone, from files with other names, in lessons whose teaching cells are all broken."
    workshop, written = Workshop(tmp_path_factory.mktemp("a folder of Zoé")), settings(request.param)
    raw = run_stages(tmp_path_factory.mktemp("theirs"), "world", clock=request.param, world=written["world"]) / "raw"
    (workshop.folder / "their files").mkdir()
    for source in written["data"]["sources"].values():
        name = source["path"].rpartition("/")[2]
        source["path"] = f"their files/{THEIRS[name.removesuffix('.parquet')]}"
        shutil.copy2(raw / name, workshop.folder / source["path"])
    (workshop.folder / "env.hostile.yaml").write_text(yaml.safe_dump(written | {"out": "out/é è"}, sort_keys=False), encoding="utf-8")
    for lesson in STAGES:
        notebook = nbformat.read(workshop.folder / lesson, as_version=4)
        for cell in notebook.cells:
            exported = cell.source.startswith("#| export")  # must be in step with the package
            if cell.cell_type == "code" and not exported and not stages.TAGS & set(cell.metadata.get("tags", [])):
                cell.source = "def half_done("
        nbformat.write(notebook, workshop.folder / lesson)
    workshop.variables |= {"TZ": "Pacific/Kiritimati", "PLOOMBER_ENV_FILENAME": "env.hostile.yaml"}
    workshop.out = workshop.folder / "out/é è"
    code, output = workshop.call("mlops-course", "run")
    assert code == 0 and "Champion   driver-completion version 1" in output, output
    return workshop


@pytest.mark.parametrize("lesson", STAGES)
def test_of_a_stages_notebook_a_build_runs_the_cells_of_the_stage_and_no_others(finished, lesson):
    ran = json.loads((finished.out / lesson).read_text(encoding="utf-8"))["cells"]

    code = [cell for cell in ran if cell["cell_type"] == "code"]
    counted = {tag for cell in code if cell["execution_count"] for tag in cell["metadata"]["tags"]}
    assert counted - {"nbval-ignore-output"} == stages.TAGS
    assert sum(bool(cell["execution_count"]) for cell in code) == 3
    assert not [cell for cell in code if cell["outputs"] and not cell["execution_count"]]
    assert all("skip-execution" not in cell["metadata"].get("tags", []) for cell in ran)


@pytest.fixture(params=CLOCKS, ids=["1999", "2100"])
def hostile(request, tmp_path, monkeypatch):
    "An environment whose clock stands far away, in another zone, with other settings."
    changed = settings(request.param)
    changed["data"]["quarantine_limit"], changed["features"]["ttl_hours"] = 0.5, 3
    (tmp_path / "env.hostile.yaml").write_text(yaml.safe_dump(changed | {"out": str(tmp_path / "out é")}), encoding="utf-8")
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", str(tmp_path / "env.hostile.yaml"))
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path / "lab"))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")


@pytest.mark.parametrize("lesson", STAGES)
def test_the_teaching_cells_of_a_stage_depend_on_nothing_of_the_environment(lesson, hostile):
    notebook = nbformat.read(project.root() / lesson, as_version=4)
    working = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells = notebook.cells[:working]

    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": project.root() / "notebooks"}}).execute()
