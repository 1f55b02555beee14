"""The first minutes of a stranger: what make says when something is missing, and that setting up twice is once."""

import os
import shutil
import signal
import subprocess

import pytest
from browser import free_port
from workshop import BIN

pytestmark = pytest.mark.patient


def make(workshop, *words: str, **variables: str) -> subprocess.CompletedProcess:
    "Call make in the copy of the project."
    return subprocess.run(
        ["make", *words], cwd=workshop.folder, env={**workshop.variables, **variables}, capture_output=True, text=True, check=False
    )


def lacking(folder, what: str) -> str:
    "A Python that fails when it is asked for `what`, as one that is too old, or has no venv, does."
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"{what}"*) exit 1;; "--version") echo "Python 3.9.2";; esac\n')
    python.chmod(0o755)
    return str(python)


def test_make_alone_lists_the_targets(workshop):
    output = make(workshop)

    assert output.returncode == 0
    for target in ["run", "test", "test-all", "lab", "ui", "bench", "clean"]:
        assert f"make {target} " in output.stdout


def test_an_old_make_is_one_clear_line(workshop):
    output = make(workshop, "MAKE_VERSION=3.81")

    assert "GNU make 4 or newer is needed, this is 3.81" in output.stderr and len(output.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("what", "message"),
    [("version_info", "Python 3.11 or newer is needed and was not found (Python 3.9.2)"), ("ensurepip", "has no venv module")],
)
def test_a_python_that_will_not_do_is_one_clear_line_and_changes_nothing(workshop, tmp_path, what, message):
    output = make(workshop, "setup", f"PYTHON={lacking(tmp_path, what)}")

    assert output.returncode != 0
    assert len(output.stdout.splitlines()) == 1 and message in output.stdout
    assert not (workshop.folder / ".venv").exists()


def test_a_python_that_was_tried_is_taken_before_a_newer_one(workshop, tmp_path):
    for name in ["python3", "python3.12"]:
        (tmp_path / name).write_text(f'#!/bin/sh\ncase "$*" in *"-m venv"*) echo "made by {name}"; exit 9;; esac\n')
        (tmp_path / name).chmod(0o755)
    for name in ["python3.13", "python3.11"]:
        (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / name).chmod(0o755)

    output = make(workshop, "setup", PATH=f"{tmp_path}:{workshop.variables['PATH']}")
    (tmp_path / "python3.12").unlink()
    last = make(workshop, "setup", PATH=f"{tmp_path}:/usr/bin:/bin")

    assert "made by python3.12" in output.stdout and "made by python3\n" in last.stdout
    assert last.stdout.splitlines()[-1] == "python3 -m venv has failed, as said above: nothing was set up"
    assert not (workshop.folder / ".venv").exists()


@pytest.mark.parametrize("name", ["a:b", "a{b}", "a\\b"])
def test_a_folder_in_which_a_tool_cannot_work_is_one_clear_line_before_anything_is_made(workshop, tmp_path, name):
    folder = tmp_path / name
    (folder / "platform").mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "settings.ini", "setup.py", "pyproject.toml", "platform/setup.sh"):
        (folder / file).write_bytes((workshop.folder / file).read_bytes())

    completed = subprocess.run(["make", "setup"], cwd=folder, env=workshop.variables, capture_output=True, text=True, check=False)

    assert completed.returncode != 0 and len(completed.stdout.splitlines()) == 1
    assert "The course cannot work in the folder" in completed.stdout and "Move or rename it" in completed.stdout
    assert not (folder / ".venv").exists()


def test_make_clean_removes_what_runs_have_made_and_nothing_else(workshop):
    before = sorted(path for path in workshop.folder.rglob("*") if path.is_file())
    (workshop.folder / "out/dev/data").mkdir(parents=True)
    (workshop.folder / "out/dev/data/labels.parquet").write_text("made by a run")

    assert make(workshop, "clean").returncode == 0

    assert sorted(path for path in workshop.folder.rglob("*") if path.is_file()) == before
    assert not (workshop.folder / "out").exists()


FOREIGN = {
    "PIP_USER": "1",
    "PIP_TARGET": "/nowhere",
    "PIP_REQUIRE_HASHES": "1",
    "UV_SYSTEM_PYTHON": "1",
    "UV_NO_BINARY": "1",
    "UV_EXCLUDE_NEWER": "2020-01-01",
    "PYTHONHOME": "/nowhere",
    "PYTHONOPTIMIZE": "2",
    "VIRTUAL_ENV": "/nowhere",
    "ENV": "production",
}


def lab_opens(workshop, variables: dict[str, str]) -> bool:
    "Whether `make lab` comes as far as to say where it is."
    lab = subprocess.Popen(
        ["make", "lab"], cwd=workshop.folder, env={**workshop.variables, **variables, "BROWSER": "true", "JUPYTER_PORT": str(free_port())},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        return any("is running at" in line for line in lab.stdout)
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.communicate(timeout=30)


def test_a_moved_checkout_is_set_up_in_earnest_without_a_home_and_whatever_was_set_for_another_python(workshop, tmp_path):
    old = workshop.folder / ".venv"
    old.mkdir()
    (old / "ready").write_text("/where/it/was\n/usr/bin/python3\n")
    for name in ("typer", "yaml", "pip", "venv"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('foreign')")
    cache = subprocess.run([BIN / "uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    foreign = {**FOREIGN, "PYTHONPATH": str(tmp_path), "HOME": "/proc/nowhere", "UV_CACHE_DIR": cache}
    try:
        first = make(workshop, "setup", **foreign)
        second = make(workshop, "setup", **foreign)
        status = make(workshop, "-s", "--eval", "status: ; @mlops-course status", "status", **foreign)
        opened = lab_opens(workshop, foreign)
    finally:
        shutil.rmtree(old)

    assert first.returncode == 0 and "making it anew" in first.stdout, first.stderr
    assert "packages of requirements.lock ." in first.stdout and len(first.stdout.splitlines()) <= 6
    assert "Nothing to be done" in second.stdout and opened
    assert status.returncode != 0 and "nothing was built in out/test yet" in status.stderr, status.stderr
