"""Root, settings, digests, whole files, stages."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from disks import disk
from hypothesis import given
from hypothesis import strategies as st

from mlops_course import clocks, project
from mlops_course.files import atomic_write, locked, write_json
from mlops_course.project import UserError


def test_every_topic_of_the_map_is_alive():
    for topic in project.TOPICS:
        notebook = project.root() / f"notebooks/{topic.notebook}.ipynb"
        if topic.test:
            assert notebook.is_file(), f"{topic.name} names a notebook that is not there"
            assert (project.root() / f"mlops_course/{topic.module}.py").is_file(), topic
            assert (project.root() / "tests" / topic.test).is_file(), topic
        else:
            assert not notebook.is_file(), f"{topic.name} is planned, but {topic.notebook} is there"


def test_outside_of_a_project_the_root_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="run this from the folder that has pipeline.yaml"):
        project.root(tmp_path)


@pytest.mark.parametrize("name", ["a{b", "a}", "a:b", "a\\b", "a\nb", "a\tb", "a\udcffb"])
def test_a_folder_that_a_tool_reads_otherwise_is_refused_in_a_line(tmp_path, name):
    folder = tmp_path / name / "course"
    folder.mkdir(parents=True)
    for file in ("pipeline.yaml", "settings.ini"):
        (folder / file).touch()

    with pytest.raises(UserError, match="because of its .*Move or rename it") as refused:
        project.root(folder)

    assert len(str(refused.value).splitlines()) == 1 and str(refused.value).isprintable()


def test_an_environment_writes_to_no_folder_with_braces_but_may_to_one_with_a_colon():
    assert str(project.environment("env.yaml", out="out/2026-03-16T00:00").out) == "out/2026-03-16T00:00"
    with pytest.raises(UserError, match="because of its '{'"):
        project.environment("env.yaml", out="out/{x}")


@pytest.mark.parametrize("file", ["env.yaml", "env.test.yaml"])
def test_an_environment_has_its_placeholders_filled_at_any_depth(file):
    told = project.environment(file)

    assert told.data["sources"]["labels"]["path"] == f"{told.out}/raw/labels.parquet"
    assert "{{" not in told.model_dump_json()


def test_a_change_replaces_one_value_of_a_section_and_keeps_the_rest():
    told = project.environment("env.yaml", world={"drivers": 3})

    assert told.world == {**project.environment("env.yaml").world, "drivers": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"clokc": None}, "clokc"), ({"clock": "2026-01-01T00:00:00"}, "timezone"), ({"out": None}, "out"), ({"world": 3}, "world")],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        project.environment("env.yaml", **changes)


def test_a_setting_under_its_old_name_is_refused_with_the_new_one(monkeypatch):
    monkeypatch.setattr(project, "RENAMED", {"serving.explore": "serving.epsilon", "clokc": "clock", "data.sources.x": "data.tables.x"})

    with pytest.raises(UserError, match="in env.yaml:\n  serving.explore is now serving.epsilon\n  clokc is now clock$"):
        project.environment("env.yaml", serving={"explore": 0.1}, clokc=None)


def test_every_setting_that_was_renamed_has_its_line_in_the_changelog():
    changelog = (project.root() / "CHANGELOG.md").read_text(encoding="utf-8")

    for old, new in project.RENAMED.items():
        assert f"| `{old}` | `{new}` |" in changelog


def test_a_missing_environment_lists_those_that_are_there():
    with pytest.raises(UserError, match=r"no environment env.moon.yaml .*env.yaml"):
        project.environment("env.moon.yaml")


def test_the_clock_is_fixed_by_the_environment():
    assert project.now() == datetime(2026, 3, 16, tzinfo=UTC)


def test_the_digest_of_code_sees_behaviour_and_not_prose(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text('"doc"\ndef f(x):\n    "says"\n    return x + 1  # why\n')
    monkeypatch.setattr(project, "__file__", str(tmp_path / "project.py"))
    before = project.digest_of_code("a")

    (tmp_path / "a.py").write_text('def f(x):\n    "says more"\n\n    return x + 1\n')
    assert project.digest_of_code("a") == before

    (tmp_path / "a.py").write_text("def f(x):\n    return x + 2\n")
    assert project.digest_of_code("a") != before


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("old")

    with pytest.raises(ZeroDivisionError), atomic_write(file) as beside:
        beside.write_text("new")
        1 / 0

    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("scores.csv", "old")]


def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path):
    (tmp_path / "big.json").write_text("old")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "from pathlib import Path; from mlops_course.files import write_json\n"
        f"write_json(Path({str(tmp_path / 'big.json')!r}), 'x' * 100_000)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "UserError: could not write" in ran.stderr and "Nothing was changed" in ran.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("big.json", "old")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("size=64k", r"the disk is full \(.* of 65.5 kB are free in .*small/inner, and that is not enough\)"),
        ("size=64k,nr_inodes=1", "the disk is full .* for no more files"),
        ("ro", "Read-only file system"),
    ],
)
def test_a_disk_that_takes_nothing_says_why_and_what_to_do(tmp_path, options, reason):
    with disk(tmp_path / "small", options):
        for write in [
            lambda: write_json(tmp_path / "small/inner/big.json", "x" * 100_000),
            lambda: pd.DataFrame({"a": range(100_000)}).to_parquet(beside),
        ]:
            with (
                pytest.raises(UserError, match=f"could not write .*: {reason}.*Nothing was changed; free some space or rights"),
                atomic_write(tmp_path / "small/inner/big.parquet") as beside,
            ):
                write()
        assert not [path for path in (tmp_path / "small").rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))])
def test_whatever_a_library_says_of_a_full_disk_a_stage_says_it_clearly(tmp_path, monkeypatch, error):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with pytest.raises(UserError, match=r"the disk is full \(.* are free in"), project.stage("world"):
        raise error

    assert '"error": "could not write' in (tmp_path / "logs/pipeline.jsonl").read_text()
    assert not (tmp_path / "made/world.json").exists()


def test_a_stage_before_its_upstream_names_the_notebook_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with (
        pytest.raises(UserError, match=r"missing: .*raw.* Run notebooks/20_world.ipynb first"),
        project.stage("data", upstream=["world"], environment={"out": str(tmp_path / "no-build")}),
    ):
        pass


def test_a_stage_that_does_not_make_its_products_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))

    with pytest.raises(UserError, match="ended without making raw"), project.stage("world"):
        pass

    assert project.changed(project.environment(out=str(tmp_path)), "world") == ["made/world.json"]
    last = json.loads((tmp_path / "logs/pipeline.jsonl").read_text().splitlines()[0])
    assert (last["event"], last["stage"], last["environment"]) == ("stage started", "world", "test")


def test_a_stage_forgets_ploombers_notes_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    note = tmp_path / ".raw.metadata"
    note.write_text("{}")

    with pytest.raises(ZeroDivisionError), project.stage("world"):
        1 / 0

    assert not note.exists()


# Locks


OTHER = """
import sys
import time
from pathlib import Path
from mlops_course.files import locked
with locked(Path(sys.argv[1]), "the count"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    "Another process that holds the lock of `tmp_path`."
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project.root()
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_that_another_process_holds_is_refused_with_the_holders_name(tmp_path, other):
    with (
        pytest.raises(UserError, match=rf"the count runs already: process {other.pid} \(-c .*UTC"),
        locked(tmp_path / ".lock", "the count"),
    ):
        raise AssertionError("two hold it")


def test_a_lock_falls_with_its_holder_and_whoever_waits_gets_it(tmp_path, other):
    other.kill()
    with locked(tmp_path / ".lock", "the count", wait=10):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()


def test_a_lock_where_nobody_may_write_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not lock"), locked(tmp_path / "file/.lock", "the count"):
        pass


# One build of a folder


BUILD = """
import sys
from pathlib import Path
from mlops_course import project
with project.building(Path(sys.argv[1]), "a retraining"):
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
    return project.stage("world", {"made": out / "made/world.json", "raw": out / "raw"}, {}, {"name": "test", "out": str(out)})


def test_a_stage_of_a_second_build_is_refused_and_says_who_builds(tmp_path, other_build):
    made = tmp_path / "made/world.json"
    write_json(made, {"stage": "world", "files": {}, "folders": []})

    with pytest.raises(UserError, match=rf"a retraining of .* runs already: process {other_build.pid} \("), stage_of_a_build(tmp_path):
        raise AssertionError("two build one folder")

    assert made.is_file(), "what the first one has made was taken away"


def test_whoever_waits_builds_as_soon_as_the_first_one_has_ended_or_was_killed(tmp_path, other_build):
    other_build.kill()

    with project.building(tmp_path, wait=20), stage_of_a_build(tmp_path):
        (tmp_path / "raw").mkdir()


def test_a_stage_in_the_lab_waits_for_its_turn(tmp_path, other_build, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    threading.Timer(0.5, other_build.kill).start()

    with project.stage("world"):
        assert other_build.wait(10) == -9
        (tmp_path / "raw").mkdir()


def test_what_a_build_starts_is_part_of_it_and_what_comes_after_is_not(tmp_path):
    inner = [sys.executable, "-c", BUILD, tmp_path]
    with project.building(tmp_path):
        with project.building(tmp_path):
            subprocess.run(inner, check=True, stdin=subprocess.DEVNULL, cwd=project.root())
        with pytest.raises(UserError, match="a build of .* runs already"), locked(tmp_path / "logs/.build.lock", "a count"):
            pass
    with locked(tmp_path / "logs/.build.lock", "a count"):
        assert subprocess.run(inner, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=project.root()).returncode == 1


# Clocks that run


JOIN = """
import os, sys
from pathlib import Path
from mlops_course import clocks, project
os.environ["PLOOMBER_ENV_FILENAME"] = "env.test.yaml"
clocks.join(Path(sys.argv[1]))
print(project.now().isoformat(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def joins(tmp_path):
    "Start another process that lives by the clock of `tmp_path`; what its clock shows."
    started = []

    def start() -> datetime:
        process = subprocess.Popen(
            [sys.executable, "-c", JOIN, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project.root()
        )
        started.append(process)
        return datetime.fromisoformat(process.stdout.readline().strip())

    start.processes = started
    yield start
    clocks.leave()
    for process in started:
        process.kill()
        process.communicate()


FIXED = datetime(2026, 3, 16, tzinfo=UTC)


def test_whoever_starts_while_another_lives_joins_its_clock(tmp_path, joins):
    clocks.begin(tmp_path, FIXED, 86_400, FIXED + timedelta(days=1_000))
    time.sleep(0.2)
    told = joins()
    assert FIXED + timedelta(hours=4) < told <= project.now()


def test_a_clock_of_a_dead_run_counts_no_longer(tmp_path, joins):
    clocks.begin(tmp_path, FIXED, 86_400 * 365, FIXED + timedelta(days=100_000))
    clocks.leave()
    assert joins() < FIXED + timedelta(minutes=1)


def test_a_clock_of_a_killed_process_counts_no_longer(tmp_path, joins):
    joins()
    joins.processes[0].kill()
    joins.processes[0].wait()
    clocks.begin(tmp_path, FIXED + timedelta(days=9), 1, FIXED + timedelta(days=10))
    assert project.now() >= FIXED + timedelta(days=9)


def test_a_clock_is_not_changed_under_those_who_live_by_it(tmp_path, joins):
    joins()
    with pytest.raises(UserError, match="make stop"):
        clocks.begin(tmp_path, FIXED, 2, FIXED + timedelta(days=1))
    assert project.now() == FIXED


@given(speed=st.floats(0.001, 1e9), years=st.integers(0, 5_000))
def test_a_clock_stops_at_its_end_and_never_overflows(speed, years):
    until = FIXED + timedelta(days=40)
    clock = project.Clock(FIXED, datetime.now(UTC) - timedelta(days=min(365 * years, 700_000)), speed, until)
    assert FIXED <= clock.time() <= until
