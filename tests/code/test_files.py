"""Whole files, what is said of a failed write, locks."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from disks import disk

from mlops_course import project
from mlops_course.files import atomic_folder, atomic_write, locked, write_json
from mlops_course.project import UserError


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("old")

    with pytest.raises(ZeroDivisionError), atomic_write(file) as beside:
        beside.write_text("new")
        1 / 0

    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("scores.csv", "old")]


def test_a_folder_that_is_not_filled_to_the_end_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    with atomic_folder(tmp_path / "features") as beside:
        (beside / "rows.csv").write_text("old")

    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "features") as beside:
        (beside / "rows.csv").write_text("new")
        1 / 0

    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert (tmp_path / "features/rows.csv").read_text() == "old"


def test_a_folder_replaces_the_old_one_and_what_a_killed_run_has_left(tmp_path):
    for name in ("features", ".features.part", ".features.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.csv").touch()

    with atomic_folder(tmp_path / "features") as beside:
        (beside / "rows.csv").touch()

    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["features", "features/rows.csv"]


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


def test_a_lock_is_released_when_its_holder_dies_and_whoever_waits_gets_it(tmp_path, other):
    other.kill()
    with locked(tmp_path / ".lock", "the count", wait=10):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()


def test_a_lock_where_nobody_may_write_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not lock"), locked(tmp_path / "file/.lock", "the count"):
        pass
