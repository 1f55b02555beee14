"""A stage: its inputs, its products, what it notes; one build of a folder."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from mlops_course import project, stages
from mlops_course.files import locked, write_json
from mlops_course.project import UserError


def test_the_digest_of_code_sees_behaviour_and_not_prose(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text('"doc"\ndef f(x):\n    "says"\n    return x + 1  # why\n')
    monkeypatch.setattr(stages, "__file__", str(tmp_path / "stages.py"))
    before = stages.digest_of_code("a")

    (tmp_path / "a.py").write_text('def f(x):\n    "says more"\n\n    return x + 1\n')
    assert stages.digest_of_code("a") == before

    (tmp_path / "a.py").write_text("def f(x):\n    return x + 2\n")
    assert stages.digest_of_code("a") != before


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))])
def test_whatever_a_library_says_of_a_full_disk_a_stage_says_it_clearly(tmp_path, monkeypatch, error):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with pytest.raises(UserError, match=r"the disk is full \(.* are free in"), stages.stage("world"):
        raise error

    assert '"error": "could not write' in (tmp_path / "logs/pipeline.jsonl").read_text()
    assert not (tmp_path / "made/world.json").exists()


def test_a_stage_before_its_upstream_names_the_notebook_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with (
        pytest.raises(UserError, match=r"missing: .*raw.* Run notebooks/20_world.ipynb first"),
        stages.stage("data", upstream=["world"], environment={"out": str(tmp_path / "no-build")}),
    ):
        pass


def test_a_stage_that_does_not_make_its_products_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with pytest.raises(UserError, match="ended without making raw"), stages.stage("world"):
        pass

    assert stages.changed(project.environment(out=str(tmp_path)), "world") == ["made/world.json"]
    last = json.loads((tmp_path / "logs/pipeline.jsonl").read_text().splitlines()[0])
    assert (last["event"], last["stage"], last["environment"]) == ("stage started", "world", "test")


def test_a_stage_forgets_ploombers_notes_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    note = tmp_path / ".raw.metadata"
    note.write_text("{}")

    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    assert not note.exists()


# One build of a folder


BUILD = """
import sys
from pathlib import Path
from mlops_course import stages
with stages.building(Path(sys.argv[1]), "a retraining"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_build(tmp_path):
    "Another process that builds `tmp_path`."
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project.root()
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def stage_of_a_build(out):
    return stages.stage("world", {"made": out / "made/world.json", "raw": out / "raw"}, {}, {"name": "test", "out": str(out)})


def test_a_stage_of_a_second_build_is_refused_and_says_who_builds(tmp_path, other_build):
    made = tmp_path / "made/world.json"
    write_json(made, {"stage": "world", "files": {}, "folders": []})

    with pytest.raises(UserError, match=rf"a retraining of .* runs already: process {other_build.pid} \("), stage_of_a_build(tmp_path):
        raise AssertionError("two build one folder")

    assert made.is_file(), "what the first one has made was taken away"


def test_whoever_waits_builds_as_soon_as_the_first_one_has_ended_or_was_killed(tmp_path, other_build):
    other_build.kill()

    with stages.building(tmp_path, wait=20), stage_of_a_build(tmp_path):
        (tmp_path / "raw").mkdir()


def test_a_stage_in_the_lab_waits_for_its_turn(tmp_path, other_build, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    threading.Timer(0.5, other_build.kill).start()

    with stages.stage("world"):
        assert other_build.wait(10) == -9
        (tmp_path / "raw").mkdir()


def test_what_a_build_starts_is_part_of_it_and_what_comes_after_is_not(tmp_path):
    inner = [sys.executable, "-c", BUILD, tmp_path]
    with stages.building(tmp_path):
        with stages.building(tmp_path):
            subprocess.run(inner, check=True, stdin=subprocess.DEVNULL, cwd=project.root())
        with pytest.raises(UserError, match="a build of .* runs already"), locked(tmp_path / "logs/.build.lock", "a count"):
            pass
    with locked(tmp_path / "logs/.build.lock", "a count"):
        assert subprocess.run(inner, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=project.root()).returncode == 1
