"""A choice has the propensity that is logged, and the estimates from such a log are right."""

from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rides import CONTRACT

from mlops_course import models, policy, training
from mlops_course.toy import company

BOOKING, ENTITY, FEATURES, LABEL, PROPENSITY, TIME = (
    CONTRACT.booking,
    CONTRACT.entity,
    list(CONTRACT.features),
    CONTRACT.label,
    CONTRACT.propensity,
    CONTRACT.time,
)

# choosing

some_scores = st.lists(st.none() | st.sampled_from([0.1, 0.5, 0.5, 0.9]) | st.floats(0, 1), min_size=1, max_size=12)


shares = st.sampled_from([0, 1]) | st.floats(0, 1)


@given(st.text(min_size=1), some_scores, shares)
def test_a_choice_is_one_of_those_with_a_score_and_the_same_at_each_try(request_id, scores, epsilon):
    drivers = list(range(7, 7 + len(scores)))

    choice = policy.choose(request_id, drivers, scores, epsilon)

    assert choice == policy.choose(request_id, drivers, scores, epsilon)
    if all(score is None for score in scores):
        assert choice == (None, False, None)
    else:
        assert scores[choice.place] is not None
        assert 0 <= choice.propensity <= 1
        assert not (epsilon == 0 and choice.explored)
        assert choice.explored or scores[choice.place] == max(s for s in scores if s is not None)


@given(st.text(min_size=1), some_scores, shares, st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(request_id, scores, epsilon, shuffle):
    pairs = list(enumerate(scores, start=7))
    mixed = shuffle.sample(pairs, len(pairs))

    one = policy.choose(request_id, *map(list, zip(*pairs, strict=True)), epsilon)
    other = policy.choose(request_id, *map(list, zip(*mixed, strict=True)), epsilon)

    assert one[1:] == other[1:]
    assert (one.place is None) == (other.place is None)
    assert one.place is None or pairs[one.place] == mixed[other.place]


@settings(max_examples=15, deadline=None)
@given(some_scores.filter(lambda scores: any(s is not None for s in scores)), st.sampled_from([0, 0.05, 0.3, 1]))
def test_each_candidate_is_chosen_as_often_as_its_propensity_says(scores, epsilon):
    n, drivers = 4_000, list(range(len(scores)))

    choices = [policy.choose(f"id {i}", drivers, scores, epsilon) for i in range(n)]

    known = [i for i, score in enumerate(scores) if score is not None]
    propensities = {choice.place: choice.propensity for choice in choices}
    best = max(known, key=lambda i: scores[i])
    assert sum(propensities.get(i, epsilon / len(known)) for i in known) == pytest.approx(1)
    counted = Counter(choice.place for choice in choices)
    for place in known:
        propensity = epsilon / len(known) + (1 - epsilon) * (place == best)
        assert propensities.get(place, propensity) == pytest.approx(propensity)
        assert abs(counted[place] / n - propensity) < 5 * (propensity * (1 - propensity) / n) ** 0.5 + 1e-9
    assert abs(sum(choice.explored for choice in choices) / n - epsilon) < 5 * (epsilon * (1 - epsilon) / n) ** 0.5 + 1e-9


def test_the_policy_takes_the_highest_score_ties_the_lowest_number_and_the_unknown_last():
    time = pd.Timestamp("2026-01-05", tz="UTC")
    rows = pd.DataFrame(
        {BOOKING: ["a"] * 3 + ["b"] * 2, TIME: time, ENTITY: [3, 1, 2, 8, 9], PROPENSITY: [0.5, np.nan, np.nan, 0.5, np.nan], LABEL: 1.0}
    )
    rows[FEATURES] = 0.5
    rows.loc[rows[ENTITY] == 9, FEATURES] = np.nan

    chosen = policy.choices(rows.astype({BOOKING: "string"}), np.array([0.4, 0.7, 0.7, 0.1, 0.9]), CONTRACT)

    assert chosen.set_index(BOOKING).picked.to_dict() == {"a": 1, "b": 8}


@cache
def logs(seed: int, days: int = 21, wrong_expectations: bool = False) -> tuple[pd.DataFrame, float]:
    "Choices under a logged policy with known probabilities, and the true uplift of the policy that picks driver 1."
    draw = np.random.default_rng(seed)
    n = days * 150
    day = np.repeat(np.arange(days), 150)
    worth = np.array([0.45, 0.6, 0.5])  # of drivers 0, 1 and 2
    logged = np.array([0.6, 0.25, 0.15])
    weather = draw.normal(0, 0.05, days)[day]
    action = draw.choice(3, n, p=logged)
    label = (draw.random(n) < worth[action] + weather).astype(float)
    expected = np.full(3, 0.9) if wrong_expectations else worth + [0.05, -0.05, 0.0]
    time = pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(day, unit="D")
    frame = pd.DataFrame({TIME: time, ENTITY: action, "picked": 1, PROPENSITY: logged[action], LABEL: label})
    return frame.assign(expected=expected[action], expected_picked=expected[1]), float(worth[1] / (worth @ logged) - 1)


@pytest.mark.parametrize("wrong_expectations", [False, True])
def test_both_estimates_are_unbiased_and_their_intervals_hold_the_truth_about_19_times_in_20(wrong_expectations):
    estimates = [
        (policy.uplift(frame, 1, CONTRACT), truth)
        for frame, truth in (logs(seed, wrong_expectations=wrong_expectations) for seed in range(150))
    ]

    for kind in ("doubly_robust", "self_normalized"):
        gains = [(getattr(gain, kind), truth) for gain, truth in estimates]
        assert np.mean([gain.estimate - truth for gain, truth in gains]) == pytest.approx(0, abs=0.012)
        assert 0.89 <= np.mean([gain.low <= truth <= gain.high for gain, truth in gains]) <= 0.99


def test_the_obvious_estimate_is_biased_where_the_doubly_robust_one_is_not():
    frame, probability = company(CONTRACT, days=35)
    test = models.windows_of(frame, 14, 7, CONTRACT).test
    later = frame[frame[TIME] >= test]
    model = models.fit("logistic regression", models.labelled(frame, None, test, CONTRACT), 7, CONTRACT)
    chosen = policy.choices(later, models.probability(model, later, CONTRACT), CONTRACT)
    agreed = chosen[chosen.picked == chosen[ENTITY]]
    gain = policy.uplift(chosen, 7, CONTRACT)
    truth = training.compare_with_truth(chosen, frame.assign(probability=probability), gain.doubly_robust._asdict(), CONTRACT)

    assert truth["inside_interval"]
    assert agreed[LABEL].mean() / chosen[LABEL].mean() - 1 > gain.doubly_robust.high


def test_the_interval_is_clustered_by_day():
    draw = np.random.default_rng(0)
    day = np.repeat(np.arange(20), 200)
    value = np.repeat(draw.normal(0, 1, 20), 200)  # all rows of a day are the same
    time = pd.Series(pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(day, unit="D"))

    verdict = policy.bootstrap_interval(time, [value, np.ones(4000)], lambda s, n: s / n, 0)

    standard_error = value[::200].std(ddof=1) / np.sqrt(20)
    assert (verdict.high - verdict.low) / 2 == pytest.approx(2.09 * standard_error, rel=0.1)


def test_one_day_gives_no_interval():
    time = pd.Series(pd.to_datetime(["2026-01-05T01:00Z", "2026-01-05T02:00Z"]))

    assert policy.bootstrap_interval(time, [np.ones(2), np.ones(2)], lambda s, n: s / n, 0) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_effective_sample_lies_between_nothing_and_the_number_of_rows(weight):
    assert 0 <= policy.effective_sample(np.array(weight)) <= len(weight) * (1 + 1e-9)


def test_equal_weights_count_fully():
    assert policy.effective_sample(np.full(7, 3.0)) == pytest.approx(7)
