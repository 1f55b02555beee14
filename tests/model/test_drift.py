"""Drift told from chance: an alarm for each change and its reason, and none while nothing changes."""

import math

import numpy as np
import pandas as pd
import pytest
from rides import CONTRACT
from scipy.stats import wasserstein_distance
from traffic import BEGIN, LATER, NAMES, SETTINGS, TRIPLES, hours, judged, normal, of_kinds, one_window, reference, unchanged, windows

from mlops_course import drift, project
from mlops_course.drift import judge, reference_of
from mlops_course.problem import KNOWN

NO_LABELS = pd.DataFrame({CONTRACT.label: [], "score": []})


@pytest.fixture(scope="module")
def usual():
    return reference_of(normal(1), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)


def test_normal_traffic_raises_no_alarm(usual):
    rows = [normal(seed, 7, LATER) for seed in range(50, 60)]
    assert not any(any(judged(usual, each).detected.values()) for each in rows)


def test_night_alone_is_no_drift_but_would_be_one_against_the_whole_day(usual):
    rows = normal(50, 28, LATER)
    night = rows[rows[CONTRACT.time].dt.hour < 6]
    assert not judged(usual, night).detected["features"]
    as_noon = night.assign(**{CONTRACT.time: night[CONTRACT.time] + pd.Timedelta(hours=12)})
    assert judged(usual, as_noon).detected["features"]


def test_moved_features_are_seen_and_named(usual):
    verdict = judged(usual, normal(50, 7, LATER, shift=0.2))
    assert verdict.detected["features"] and verdict.detected["predictions"]
    assert verdict.scores[NAMES[0]] > 1


def test_a_concept_drift_is_seen_by_labels_alone(usual):
    verdict = judged(usual, normal(50, 7, LATER, completes=-0.45))
    assert verdict.detected == {"features": False, "predictions": False, "performance": True, "quality": False}
    assert verdict.rmse > verdict.rmse_reference


def test_without_labels_performance_is_not_judged(usual):
    rows = normal(50, 7, LATER, completes=-0.45)
    verdict = judge(rows, pd.DataFrame({CONTRACT.label: [], "score": []}), usual, SETTINGS, CONTRACT)
    assert math.isnan(verdict.scores["residual"]) and not verdict.detected["performance"]


def test_repeating_a_request_does_not_move_a_window(usual):
    rows = normal(50, 7, LATER)
    hour = rows[rows[CONTRACT.time].dt.hour == 9].tail(20)
    again = pd.concat([hour.assign(**{CONTRACT.booking: f"again {n}"}) for n in range(30)])
    assert len(drift.entity_hours(again, CONTRACT)) == len(drift.entity_hours(hour, CONTRACT))


@pytest.mark.parametrize(
    ("problem", "spoil"),
    [
        ("missing", lambda rows: rows.assign(**{NAMES[0]: np.nan})),
        ("out_of_range", lambda rows: rows.assign(**{NAMES[0]: 1.7})),
        ("stale", lambda rows: rows.assign(**{KNOWN: rows[KNOWN] - pd.Timedelta(days=2)})),
        ("feed_hours", lambda rows: rows.assign(**{KNOWN: rows[CONTRACT.time].min()})),
    ],
)
def test_bad_data_is_seen_without_a_reference(problem, spoil):
    rows = normal(50, 3, LATER)
    good, bad = (judge(each, pd.DataFrame({CONTRACT.label: [], "score": []}), None, SETTINGS, CONTRACT) for each in (rows, spoil(rows)))
    assert not good.detected["quality"] and bad.detected["quality"]
    assert bad.quality[problem] > bad.limits[problem]


def test_a_reference_that_is_too_short_is_refused():
    with pytest.raises(project.UserError, match="14 are needed"):
        reference_of(normal(1, days=6), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)


def test_a_short_reference_judges_performance_alone():
    reference = reference_of(normal(1, days=10), SETTINGS, pd.Timestamp(BEGIN) + pd.Timedelta(days=3), CONTRACT)
    verdict = judged(reference, normal(50, 7, LATER, shift=0.2, completes=-0.45))
    assert verdict.detected == {"features": False, "predictions": False, "performance": True, "quality": False}
    assert all(math.isnan(verdict.scores[name]) for name in [*NAMES, "score"])
    assert verdict.rmse_reference > 0


def test_performance_is_what_the_models_own_choices_would_get():
    "The company took the model's favourite in four of five easy bookings, which all complete, and in one of five hard ones, which never do."
    numbers = np.arange(2_000)
    easy, taken = numbers % 2 == 0, np.random.default_rng(1).random(2_000)
    propensity = np.where(easy, 0.8, 0.2)
    best = pd.DataFrame(
        {
            CONTRACT.booking: [f"r{n}" for n in numbers],
            CONTRACT.time: pd.Timestamp(BEGIN) + pd.to_timedelta(numbers * 15, unit="min"),
            CONTRACT.entity: 1001,
            "score": 0.6,
            CONTRACT.propensity: np.where(taken < propensity, propensity, np.nan),
            CONTRACT.label: np.where(taken < propensity, easy.astype(float), np.nan),
        }
    )
    other = best.assign(**{CONTRACT.entity: 1002, "score": 0.1, CONTRACT.propensity: 1 - propensity, CONTRACT.label: 1.0})
    other.loc[taken < propensity, [CONTRACT.propensity, CONTRACT.label]] = np.nan
    performance = drift.performance_of(pd.concat([best, other]).sort_values(CONTRACT.time), CONTRACT)
    assert performance.residual == pytest.approx(0.5 - 0.6, abs=4 * performance.standard_errors[0])
    assert abs(0.8 - 0.6 - performance.residual) > 4 * performance.standard_errors[0], "the log's own mean is another one"


def test_a_distance_is_wassersteins_up_to_a_cell_of_the_grid():
    units = drift.entity_hours(unchanged(BEGIN, 28), CONTRACT)
    name, value = NAMES[0], units[NAMES[0]]

    for moved in (value + 0.3 * value.std(), value.mean() + 0.8 * (value - value.mean())):
        distance = drift.Traffic(units, {name: "number"}).distance(units.assign(**{name: moved}))[name]

        assert distance == pytest.approx(wasserstein_distance(moved, value) / value.std(), abs=0.02)


# ---- columns that hardly vary


@pytest.mark.parametrize("kinds", TRIPLES, ids=" | ".join)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_while_nothing_changes_no_column_rings(kinds, seed):
    for window in windows(of_kinds(unchanged(LATER, 7), kinds, 1_000 + seed)):
        verdict = judge(window, NO_LABELS, reference(kinds, seed), SETTINGS, CONTRACT)
        assert not verdict.detected["features"], verdict.scores
        for name, kind in zip(NAMES, kinds, strict=True):
            assert np.isnan(verdict.scores[name]) == (kind == "all missing")


CHANGES = {
    "a constant takes another value": ("constant", lambda x, u: x + 0.1),
    "a constant takes a smaller value": ("zero", lambda x, u: x - 1e-6),
    "one value in twenty is another": ("constant", lambda x, u: np.where(u < 0.05, 0.8, x)),
    "a constant begins to vary": ("constant", lambda x, u: u),
    "a constant gets infinite": ("constant", lambda x, u: np.where(u < 0.1, np.inf, x)),
    "a rare flag becomes frequent": ("one of 1,000", lambda x, u: (u < 0.1).astype(float)),
    "a rare flag is always there": ("one of 10,000", lambda x, u: x + 1),
    "a flag becomes another": ("one of 20", lambda x, u: x - 5),
    "one of three values is left": ("three values", lambda x, u: x * 0 + 2),
    "huge values double": ("huge", lambda x, u: x * 2),
    "a huge constant moves by a thousandth": ("huge, with a spread that is none", lambda x, u: x * 1.001),
    "from nothing to one": ("a spread under all numbers", lambda x, u: x + 1),
    "tiny values grow": ("tiny", lambda x, u: x * 3),
    "what follows from the hour follows from another": ("the hour itself", lambda x, u: (x + 12) % 24),
}


@pytest.mark.parametrize(("kind", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_of_such_a_column_is_seen_and_named(kind, change):
    reference, window, name = one_window(kind)
    changed = window.assign(**{name: change(window[name].to_numpy(float), hours(window, 5))})
    scores = judge(changed, NO_LABELS, reference, SETTINGS, CONTRACT).scores
    assert [each for each in NAMES if scores[each] >= 1] == [name]


@pytest.mark.parametrize("kind", ["constant", "one of 1,000", "three values"])
@pytest.mark.parametrize("missing", [1.0, 0.97])
def test_a_column_that_gets_lost_is_a_matter_of_quality(kind, missing):
    reference, window, name = one_window(kind)
    lost = window.assign(**{name: window[name].mask(hours(window, 5) < missing)})
    assert judge(lost, NO_LABELS, reference, SETTINGS, CONTRACT).detected == {
        "features": False,
        "predictions": False,
        "performance": False,
        "quality": True,
    }


def test_with_fewer_values_than_usual_a_column_may_wander_farther():
    kept, window, name = one_window("three values")
    few = window.assign(**{name: window[name].mask(hours(window, 5) < 0.75)})
    units, fewer = drift.entity_hours(window, CONTRACT), drift.entity_hours(few, CONTRACT)
    share = fewer[name].notna().sum() / units[name].notna().sum()
    assert kept.limits(fewer, 10)[name] / kept.limits(units, 10)[name] == pytest.approx(share**-0.5, rel=0.05)
    assert kept.limits(fewer, 10)["score"] == kept.limits(units, 10)["score"], "the others are as many as ever"


def test_a_constant_score_is_judged_and_its_change_is_seen():
    constant = reference_of(unchanged(BEGIN, 28).assign(score=0.5), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)
    *_, window = windows(unchanged(LATER, 7).assign(score=0.5))
    assert judge(window, NO_LABELS, constant, SETTINGS, CONTRACT).scores["score"] == 0
    assert judge(window.assign(score=0.6), NO_LABELS, constant, SETTINGS, CONTRACT).detected["predictions"]
