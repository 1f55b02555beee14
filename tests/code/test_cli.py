"""The command line: what is said when there is nothing, when something has changed, and when it fails."""

import json

import pytest
from typer.testing import CliRunner

from mlops_course import cli, project


@pytest.fixture
def out(tmp_path, monkeypatch):
    "The folder of an environment in which two stages have left a file each."
    environment = project.environment().model_copy(update={"out": tmp_path})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)
    for name in project.tasks():
        project.write_json(tmp_path / f"made/{name}.json", {"stage": name, "files": {}, "folders": []})
    for stage, file in [("world", "raw/a.parquet"), ("data", "data/b.parquet")]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(stage)
        made = {"stage": stage, "files": {file: project.digest(tmp_path / file)}, "folders": []}
        project.write_json(tmp_path / f"made/{stage}.json", made)
    project.write_json(tmp_path / "made/build.json", {"fingerprint": cli.fingerprint("env.test.yaml")})
    return tmp_path


def test_a_build_that_nobody_has_touched_is_current(out):
    assert cli.stale("env.test.yaml") == {}


def test_a_file_that_was_lost_or_altered_makes_its_stage_stale(out):
    (out / "raw/a.parquet").unlink()
    (out / "data/b.parquet").write_text("altered")

    assert cli.stale("env.test.yaml") == {"world": ["raw/a.parquet"], "data": ["data/b.parquet"]}


def test_a_stage_that_was_begun_and_not_ended_is_stale(out):
    (out / "made/features.json").unlink()

    assert list(cli.stale("env.test.yaml")) == ["features"]


def test_other_settings_or_code_make_the_build_stale(out):
    project.write_json(out / "made/build.json", {"fingerprint": cli.fingerprint("env.yaml")})

    assert list(cli.stale("env.test.yaml")) == ["build"]


def test_what_a_learner_ran_and_saved_is_no_change(out, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("copy")
    (root / "notebooks").mkdir()
    for name in ["pipeline.yaml", "settings.ini", "env.test.yaml"]:
        (root / name).write_bytes((project.root() / name).read_bytes())
    for task in project.tasks().values():
        (root / task["source"]).write_bytes((project.root() / task["source"]).read_bytes())
    monkeypatch.setattr(cli.project, "root", lambda: root)
    before = cli.fingerprint("env.test.yaml")

    path = root / "notebooks/20_world.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        cell["execution_count"], cell["outputs"] = number, []
    path.write_text(json.dumps(notebook), encoding="utf-8")

    assert cli.fingerprint("env.test.yaml") == before


def test_before_the_first_build_the_message_says_how_to_make_one(tmp_path, monkeypatch):
    environment = project.environment().model_copy(update={"out": tmp_path})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)

    for command in (["status"], ["trace", "champion"], ["rollback"], ["reproduce", "0" * 32], ["ui"]):
        told = CliRunner().invoke(cli.app, command)

        assert told.exit_code == 1 and "`make run` makes" in told.output, command


def test_a_fault_in_our_own_code_keeps_its_stack(monkeypatch):
    monkeypatch.setattr(cli, "summary", lambda file: {}["no such thing"])

    assert isinstance(CliRunner().invoke(cli.app, ["status"]).exception, KeyError)


def test_a_command_without_words_lists_the_commands():
    told = CliRunner().invoke(cli.app, [])

    for command in ["run", "status", "trace", "rollback", "reproduce", "progress", "ui"]:
        assert command in told.output
