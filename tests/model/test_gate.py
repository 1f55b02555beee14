"""Each check of the gate can refuse by itself, and says why; what the whole pipeline is told stands in test_training.py."""

import numpy as np
import pandas as pd
import pytest
import shop
from rides import CONTRACT, RIDES

from mlops_course import gate, models, policy, worth
from mlops_course.problem import Costs
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


# where nobody chooses: the shop


ORDERS = shop.examples(days=20)
OF_SHOP = (7, shop.SHOP.acceptance, shop.SHOP.costs, shop.CONTRACT)
CHANCE = np.where(ORDERS.returned == 1, 0.8, 0.1)  # somebody who nearly knows
BLIND = np.full(len(ORDERS), ORDERS.returned.mean())


def passed(results: list) -> list[bool | None]:
    return [result.passed for result in results]


def test_a_decision_is_worth_what_its_outcome_brings_or_costs():
    costs = shop.SHOP.costs

    worths = worth.worth([1, 0, 1, 0], [costs.break_even] * 2 + [0.0] * 2, costs)

    assert worths.tolist() == [costs.true_positive, -costs.false_positive, -costs.false_negative, 0]


def test_decisions_at_the_break_even_bring_the_most_that_true_probabilities_can_where_all_three_prices_count():
    costs, chance = Costs(true_positive=4, false_positive=3, false_negative=1), np.linspace(0.005, 0.995, 100)

    brought = chance * worth.worth(np.ones(100), chance, costs) + (1 - chance) * worth.worth(np.zeros(100), chance, costs)

    assert brought == pytest.approx(np.maximum(costs.promise(chance), costs.none(chance)))


def test_a_first_champion_must_bring_more_than_the_base_rate_and_a_later_one_may_lose_little():
    assert passed(worth.first_champion(ORDERS, CHANCE, BLIND, *OF_SHOP)) == [True, True]
    assert passed(worth.first_champion(ORDERS, 1 - CHANCE, BLIND, *OF_SHOP)) == [False, False]
    assert passed(worth.no_worse(ORDERS, CHANCE, CHANCE, *OF_SHOP)) == [True, True]
    assert passed(worth.no_worse(ORDERS, BLIND, CHANCE, *OF_SHOP)) == [False, False]


def test_a_wanted_gain_decides():
    needed = shop.SHOP.acceptance.model_copy(update={"worth_gain": 3.0, "log_loss_gain": 5.0})

    assert passed(worth.first_champion(ORDERS, CHANCE, BLIND, 7, needed, shop.SHOP.costs, shop.CONTRACT)) == [True, False]
    assert passed(gate.better_than_base(ORDERS, CHANCE, BLIND, 7, needed, shop.CONTRACT)) == [True, False]


@pytest.mark.parametrize("rows", [0, 100])
def test_what_labels_cannot_tell_is_not_measurable(rows):
    some = (ORDERS.head(rows), CHANCE[:rows], BLIND[:rows])

    assert worth.first_champion(*some, *OF_SHOP)[1].passed is None
    assert passed(worth.no_worse(*some, *OF_SHOP)) == [None, None]


def test_a_project_without_choices_is_not_asked_for_an_effective_sample_and_hears_what_is_not_measured():
    results = gate.enough(ORDERS, None, shop.SHOP.acceptance, shop.CONTRACT)

    assert [result.name for result in results] == ["evidence: labels", "evidence: customers", "evidence: days"]
    asked, unmeasured = gate.measurable(results, ORDERS, shop.CONTRACT)
    assert asked == results and [result.name for result in unmeasured] == ["uplift"]
