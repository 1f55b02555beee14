"""A whole build in a checkout whose folder's name means something else in URIs, patterns, formats and shells."""

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from workshop import Workshop

from mlops_course import project
from mlops_course.services import free_port

pytestmark = pytest.mark.patient

MARKS = "-a?b%41 %s $HOME ~ &d=e;f, *g [h] 'i\" #j é e\u0301 😀 <l>|m!(n)^`o`."


def seen(folder: Path) -> set[Path]:
    return set(folder.iterdir())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Workshop:
    "A build in such a folder; beside it lies one that its name would match as a pattern, with nothing in it."
    around = tmp_path_factory.mktemp("all")
    (around / MARKS.replace("?", "x").replace("*", "yy").replace("[h]", "h")).mkdir()
    (around / MARKS).mkdir()
    workshop = Workshop(around / MARKS)
    before = seen(around)
    code, workshop.output = workshop.call("mlops-course", "run", "--env", "env.test.yaml")
    assert code == 0, workshop.output
    yield workshop
    assert seen(around) == before
    assert all(not list(other.iterdir()) for other in before if other != workshop.folder)


def test_a_build_ends_with_a_champion_that_can_be_followed_back(checkout):
    code, output = checkout.call("mlops-course", "trace", "champion", "--env", "env.test.yaml")

    assert code == 0 and "champion" in output and "Traceback" not in output
    run = next(line.split()[1] for line in output.splitlines() if line.startswith("run_id"))
    code, output = checkout.call("mlops-course", "reproduce", run, "--env", "env.test.yaml")
    assert code == 0 and "the same model" in output
    code, output = checkout.call("mlops-course", "run", "--env", "env.test.yaml")
    assert code == 0 and "Building" not in output


def test_its_logs_are_found(checkout):
    code, output = checkout.call("mlops-course", "logs", "--env", "env.test.yaml", "--stage", "batch")

    assert code == 0 and "stage finished" in output


def test_mlflow_opens_on_it(checkout):
    port = free_port()
    command = f"{shlex.quote(str(Path(sys.executable).parent))}/mlops-course ui --env env.test.yaml --port {port}"
    work = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=checkout.folder,
        env=checkout.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/registered-models/alias?name=driver-completion&alias=champion"
        )
        answer, until = b"", time.monotonic() + 120
        while not answer and time.monotonic() < until:
            with suppress(OSError):
                answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).read()
            time.sleep(0.2)
        assert b'"version"' in answer
    finally:
        with suppress(ProcessLookupError):
            os.killpg(work.pid, signal.SIGTERM)
        work.wait(30)


@pytest.mark.parametrize("name", ["a{b}", "{{x}}", "{%", "c:d", "e\\f", "g\nh", b"i\xff"])
def test_a_folder_in_which_a_tool_cannot_work_is_one_line_and_nothing_is_written(tmp_path, name):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + os.fsencode(name)))
    folder.mkdir()
    for file in ("pipeline.yaml", "settings.ini", "env.test.yaml"):
        (folder / file).write_bytes((project.root() / file).read_bytes())
    before = seen(folder)

    completed = subprocess.run(
        [Path(sys.executable).with_name("mlops-course"), "run", "--env", "env.test.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert completed.returncode == 1 and len((completed.stdout + completed.stderr).splitlines()) == 1
    assert "the course cannot work in the folder" in completed.stderr and "Move or rename it" in completed.stderr
    assert seen(folder) == before and seen(tmp_path) == {folder}
