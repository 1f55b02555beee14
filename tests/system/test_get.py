"""platform/get.sh against Debian's archive: what it unpacks runs, with libraries of its own, also where it has been moved."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_course import project

pytestmark = pytest.mark.patient
NEITHER = {"redis-server", "dpkg-query"}  # the second would say which libraries are installed


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="not here: apt-get, of Debian and Ubuntu")
def test_redis_comes_from_debian_without_root_and_brings_its_libraries(tmp_path):
    shutil.copytree(project.root() / "platform", tmp_path / "course/platform", ignore=shutil.ignore_patterns("run_env"))
    (tmp_path / "bin").mkdir()
    for program in {path.name: path for path in [*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()]}.values():
        if program.name not in NEITHER:
            (tmp_path / "bin" / program.name).symlink_to(program)
    variables = {**os.environ, "PATH": str(tmp_path / "bin")}

    got = subprocess.run(
        ["sh", "course/platform/get.sh", "redis-server"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert got.returncode == 0, got.stdout + got.stderr
    moved = (tmp_path / "course").rename(tmp_path / "moved") / "out/programs"
    ran = subprocess.run([moved / "bin/redis-server", "--version"], env=variables, capture_output=True, text=True, check=True)

    assert "Redis server v=" in ran.stdout
    assert list(moved.glob("usr/lib/*/libjemalloc.so.*")) and list(moved.glob("**/libc.so.*")) == []
    assert sorted(path.name for path in (moved / "bin").iterdir()) == ["redis-server"] and not (moved / "apt").exists()


def test_airflow_is_that_of_its_lock_also_where_it_was_moved_and_another_lock_brings_another_one(tmp_path):
    course = tmp_path / "course 100 %"
    shutil.copytree(project.root() / "platform", course / "platform", ignore=shutil.ignore_patterns("run_env"))
    (course / ".venv").symlink_to(Path(sys.prefix))
    lock = course / "platform/airflow/requirements.lock"

    def got() -> str:
        done = subprocess.run(["sh", "platform/get.sh", "airflow"], cwd=course, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Getting airflow" in got() and "Getting" not in got()
    moved = (course / "out/programs").rename(tmp_path / "moved")
    ran = subprocess.run(
        [moved / "bin/airflow", "version"], env={**os.environ, "AIRFLOW_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert f"apache-airflow=={ran.stdout.split()[-1]} " in lock.read_text(encoding="utf-8"), ran.stderr
    assert sorted(path.name for path in (moved / "bin").iterdir()) == ["airflow"]

    moved.rename(course / "out/programs")
    lock.write_text("# of another time\n", encoding="utf-8")
    assert "Getting airflow" in got()
