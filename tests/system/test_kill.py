"""A build that is killed in each of its stages, and resumed each time, ends as one that was never disturbed."""

import pytest

from conftest import UPSTREAM

pytestmark = pytest.mark.patient


def test_a_build_killed_in_each_stage_resumes_to_the_same_result(finished, tmp_path):
    killed = type(finished)(tmp_path)
    for stage in UPSTREAM:
        killed.kill_in(stage)
        assert killed.started().count(stage) == 1 and ("stage finished", stage) not in killed.events()

    code, told = killed.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0, told
    assert killed.result() == finished.result()
