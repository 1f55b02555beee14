"""A build that is killed in any stage, and resumed, ends as one that was never disturbed."""

import pytest

from conftest import UPSTREAM

pytestmark = pytest.mark.patient


@pytest.mark.parametrize("stage", UPSTREAM)
def test_a_build_killed_in_a_stage_resumes_to_the_same_result(finished, stage, tmp_path):
    killed = type(finished)(tmp_path)
    killed.kill_in(stage)
    assert ("stage finished", stage) not in killed.events()

    code, told = killed.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0, told
    assert killed.result() == finished.result()
