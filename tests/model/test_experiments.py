"""Splits, tests that may be looked at, variance that is taken out, and estimators of what was never tried."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_course import experiments


@pytest.mark.parametrize(
    ("counts", "shares", "broken"),
    [
        ({"a": 5_010, "b": 4_990}, {"a": 0.5, "b": 0.5}, False),
        ({"a": 5_400, "b": 4_600}, {"a": 0.5, "b": 0.5}, True),
        ({"a": 9_900, "b": 100}, {"a": 0.99, "b": 0.01}, False),
        ({"a": 9_970, "b": 30}, {"a": 0.99, "b": 0.01}, True),
        ({"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}, False),
    ],
)
def test_a_split_that_is_no_luck_is_seen(counts, shares, broken):
    assert (experiments.mismatch(counts, shares) < 0.001) is broken


def test_sound_splits_are_called_broken_one_time_in_a_thousand():
    rng = np.random.default_rng(7)
    treated = rng.binomial(10_000, 0.2, 3_000)

    alarms = sum(experiments.mismatch({"a": 10_000 - t, "b": t}, {"a": 0.8, "b": 0.2}) < 0.001 for t in treated.tolist())

    assert alarms <= 10


@pytest.mark.parametrize(("base", "gain"), [(0.6, 0.05), (0.3, 0.1)])
def test_so_many_trips_find_the_gain_four_times_in_five(base, gain):
    rng, n = np.random.default_rng(7), experiments.trips_needed(base, gain)
    one, zero = rng.binomial(n, base + gain, 4_000) / n, rng.binomial(n, base, 4_000) / n
    both = (one + zero) / 2

    z = (one - zero) / np.sqrt(2 * both * (1 - both) / n)

    assert np.mean(abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_half_the_gain_takes_four_times_the_trips():
    assert experiments.trips_needed(0.5, 0.01) / experiments.trips_needed(0.5, 0.02) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_sequential_interval_holds_the_truth_at_all_times(share):
    rng, missed = np.random.default_rng(7), 0
    for _ in range(200):
        treated = rng.random(2_000) < share
        path = experiments.sequential(rng.random(2_000) < 0.6 + 0.05 * treated, treated, share)
        missed += bool(((path.low > 0.05) | (path.high < 0.05)).any())

    assert missed / 200 <= 0.06


def test_a_sequential_test_finds_seven_points_within_some_thousand_trips():
    rng, found_after = np.random.default_rng(7), []
    for _ in range(50):
        treated = rng.random(6_000) < 0.5
        path = experiments.sequential(rng.random(6_000) < 0.6 - 0.07 * treated, treated)
        found_after.append(int((path.high < 0).to_numpy().argmax()) or 6_000)

    assert np.median(found_after) < 3_000


@given(st.integers(0, 2**32 - 1))
def test_cuped_keeps_the_mean_and_never_adds_variance(seed):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=200)
    outcome = rng.normal() * before + rng.normal(size=200)

    adjusted = experiments.cuped(outcome, before)

    assert adjusted.mean() == pytest.approx(outcome.mean(), abs=1e-9)
    assert adjusted.var() <= outcome.var() * (1 + 1e-12)


def test_cuped_with_a_covariate_that_says_nothing_changes_nothing():
    outcome = np.array([0.0, 1.0, 1.0])

    assert experiments.cuped(outcome, np.ones(3)).tolist() == outcome.tolist()


def logs(times: int, epsilon: float = 0.3, n: int = 400, k: int = 4):
    "The estimates of many logs, less the truth."
    rng = np.random.default_rng(7)
    for _ in range(times):
        p = rng.beta(4, 3, (n, k))
        old, new = (np.argmax(p + rng.normal(0, s, p.shape), axis=1) for s in (0.4, 0.1))
        chance = epsilon / k + (1 - epsilon) * (np.arange(k) == old[:, None])
        logged, row = np.where(rng.random(n) < epsilon, rng.integers(0, k, n), old), np.arange(n)
        label = rng.random(n) < p[row, logged]
        weight = (new == logged) / chance[row, logged]
        guess = rng.random((n, k))
        made = experiments.off_policy(weight, label, guess[row, logged], guess[row, new], most=1e9)
        yield {name: value - p[row, new].mean() for name, value in made.items()}


def test_estimators_without_a_limit_are_unbiased_whatever_is_expected():
    errors = list(logs(400))

    for name in ("IPS", "DR", "switch DR", "clipped IPS"):
        values = np.array([error[name] for error in errors])
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)), name


def test_a_log_that_never_agrees_says_nothing_by_its_weights():
    made = experiments.off_policy(np.zeros(3), [1, 0, 1], np.full(3, 0.5), np.full(3, 0.7))

    assert made["IPS"] == 0 and np.isnan(made["SNIPS"]) and made["DR"] == pytest.approx(0.7)


def test_a_limit_cuts_weights_or_leaves_them_out():
    made = experiments.off_policy(np.array([20.0, 0.0]), [1, 1], np.array([0.5, 0.5]), np.array([0.5, 0.5]), most=10)

    assert made["IPS"] == 10 and made["clipped IPS"] == 5
    assert made["DR"] == pytest.approx(0.5 + 20 * 0.5 / 2) and made["switch DR"] == 0.5
