"""Each check of the gate can refuse by itself, and says why; what the whole pipeline is told stands in test_training.py."""

import pandas as pd
import pytest
from rides import CONTRACT, RIDES

from mlops_course import gate, models, policy
from mlops_course.toy import company

TIME, NEEDED = CONTRACT.time, RIDES.acceptance

FRAME, _ = company(CONTRACT, days=35)
WINDOWS = models.windows_of(FRAME, 14, 7, CONTRACT)
TEST = models.labelled(FRAME, WINDOWS.test, WINDOWS.end, CONTRACT)


@pytest.mark.parametrize("rows", [4, 300])
def test_each_kind_of_evidence_that_is_missing_is_counted(rows):
    results = gate.enough(TEST.head(rows), 10.0, NEEDED, CONTRACT)

    assert [result.passed for result in results] == [False, rows > 60, False, False]
    assert results[0].message == f"too little evidence: {rows} labels of 2,000"


AT_THE_GOAL = policy.Interval(0.14, 0.10, 0.18, 20)


def test_an_uplift_below_the_goal_by_its_lower_bound_alone_is_refused():
    close = policy.Uplift(policy.Interval(0.14, 0.09, 0.19, 20), None, 900, 5000)

    (_, uplift), (_, enough) = (gate.first_champion(0.4, gain, NEEDED) for gain in (close, close._replace(doubly_robust=AT_THE_GOAL)))
    assert uplift.passed is False and enough.passed


def test_an_rmse_above_the_limit_is_refused_for_a_first_champion():
    gain = policy.Uplift(AT_THE_GOAL, None, 900, 5000)

    assert [gate.first_champion(rmse, gain, NEEDED)[0].passed for rmse in (0.5, 0.501, None)] == [True, False, None]


def test_a_challenger_is_asked_for_labels_drivers_and_days_but_for_no_effective_sample():
    results = gate.enough(TEST, 10.0, NEEDED, CONTRACT, paired=True)

    assert [(result.name, result.passed) for result in results] == [
        ("evidence: labels", True),
        ("evidence: drivers", True),
        ("evidence: days", True),
    ]
    six = TEST[TEST[TIME] >= WINDOWS.end - pd.Timedelta(days=6)]
    assert gate.enough(six, None, NEEDED, CONTRACT, paired=True)[-1].message == "too little evidence: 6 days of 7"
