"""The registry's database is whole or not there: a full disk, a kill or a second process leaves nothing that stops the next run."""

import subprocess
import sys

import pytest
from disks import disk, remount
from rides import RIDES

from mlops_course import project, registry

CONNECT = (
    "import sys; from pathlib import Path; from mlops_course import registry; registry.connect(Path(sys.argv[1]), 'driver-completion')"
)


def test_a_registry_that_found_no_room_is_made_when_there_is_some(tmp_path):
    with disk(tmp_path / "small", "size=300k"):
        with pytest.raises(Exception, match="full"):
            registry.connect(tmp_path / "small/mlflow", RIDES.name)
        assert not (tmp_path / "small/mlflow/mlflow.db").exists()

        remount(tmp_path / "small", "size=10m")

        assert registry.connect(tmp_path / "small/mlflow", RIDES.name).get_experiment_by_name(RIDES.name)


def test_two_processes_that_make_one_registry_do_not_hurt_each_other(tmp_path):
    both = [subprocess.Popen([sys.executable, "-c", CONNECT, tmp_path], cwd=project.root()) for _ in range(2)]

    assert [process.wait() for process in both] == [0, 0]
