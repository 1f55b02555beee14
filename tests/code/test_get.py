"""platform/get.sh where there is nothing to get, and where it cannot: no network is needed for either."""

import os
import shutil
import subprocess
from pathlib import Path

from mlops_course import project

SCRIPT = "platform/get.sh"


def get(folder: Path, **programs: str) -> subprocess.CompletedProcess:
    "Run a copy of the script that finds a shell, and of all other programs only these: the text of each."
    (folder / "platform").mkdir()
    shutil.copy(project.root() / SCRIPT, folder / SCRIPT)
    (folder / "bin").mkdir()
    for tool in ("sh", "dirname", "id"):
        os.symlink(shutil.which(tool), folder / "bin" / tool)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return subprocess.run(["sh", SCRIPT], cwd=folder, env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False)


def test_programs_that_are_on_the_path_are_left_alone(tmp_path):
    done = get(tmp_path, prometheus="#!/bin/sh\n", alertmanager="#!/bin/sh\n")

    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert f"prometheus: {tmp_path}/bin/prometheus" in done.stdout


def test_where_there_is_no_apt_it_says_what_to_get_and_where_to_put_it(tmp_path):
    done = get(tmp_path, prometheus="#!/bin/sh\n")

    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "Get prometheus-alertmanager from" in done.stderr and "out/programs/usr/bin" in done.stderr
    assert "Get prometheus prometheus" not in done.stderr
