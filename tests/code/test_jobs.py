"""A function in a process of its own: what it gives, how it fails, and that it never outlives whoever has begun it."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from mlops_course import project
from mlops_course.jobs import Job
from mlops_course.project import UserError

# a module of its own, since a job names its function
WORK = """
import os, sys, time
from pathlib import Path

def speak(words: dict[str, int], file: Path) -> str:
    print("on the way")
    print("a warning", file=sys.stderr)
    return f"{words} {file.name} {os.environ.get('MOOD')} {os.nice(0)}"

def sleep(seconds: float, mark: Path):
    mark.touch()
    time.sleep(seconds)

def fall(code: int):
    os._exit(code)

def divide(number: int) -> float:
    return 1 / number
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "night_work.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield __import__("night_work")
    del sys.modules["night_work"]


def test_arguments_arrive_as_what_they_are_and_the_result_is_the_last_line(work):
    assert Job(work.speak, {"a": 1}, Path("b/c"), nice=19, MOOD="calm").result() == "{'a': 1} c calm 19"


def test_what_it_prints_is_kept_in_the_file_that_it_is_given(work, tmp_path):
    job = Job(work.speak, {}, Path("x"), output=tmp_path / "job.log")

    job.result()

    assert {"on the way", "a warning"} < set((tmp_path / "job.log").read_text(encoding="utf-8").splitlines())


def test_a_wrong_number_of_arguments_is_an_error_here_and_not_there(work):
    with pytest.raises(ValueError, match="zip"):
        Job(work.divide)


def test_a_users_error_arrives_as_it_was_said(tmp_path):
    with pytest.raises(UserError, match=f"^no project around {tmp_path}"):
        Job(project.root, tmp_path).result()


@pytest.mark.parametrize(("function", "output"), [("divide", "ZeroDivisionError: division by zero"), ("fall", "it was done")])
def test_an_error_of_the_function_is_one_of_the_job(work, function, output):
    arguments = {"divide": 0, "fall": 3}

    with pytest.raises(UserError, match=output):
        Job(getattr(work, function), arguments[function]).result()


def test_a_job_that_takes_too_long_is_killed(work, tmp_path):
    job = Job(work.sleep, 60, tmp_path / "begun")

    with pytest.raises(UserError, match="given up"):
        job.result(seconds=0)

    assert job.process.poll() == -signal.SIGKILL


def test_a_job_is_killed_when_its_service_ends(work, tmp_path):
    job, ended = Job(work.sleep, 60, tmp_path / "begun"), threading.Event()
    ended.set()

    with pytest.raises(UserError, match="given up"):
        job.result(ended)

    assert job.process.poll() == -signal.SIGKILL


PARENT = """
import sys, time
from pathlib import Path
import night_work
from mlops_course.jobs import Job
mark = Path(sys.argv[1])
job = Job(night_work.sleep, 600, mark)
while not mark.exists():
    time.sleep(0.05)
print(job.process.pid, flush=True)
time.sleep(600)
"""


def test_a_job_ends_with_whoever_has_begun_it_also_by_a_kill(work, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "begun")], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.communicate()

    child.wait(30)
