"""Drift of categories and booleans, and of projects that differ from the first: no choices, own features, several tables."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orders import BEGIN, LATER, SETTINGS, orders
from pydantic import ValidationError
from shop import CONTRACT

from mlops_course import distances, drift
from mlops_course.distances import BINS, shares_of
from mlops_course.drift import judge, reference_of
from mlops_course.problem import KNOWN, Feature
from mlops_course.quality import known_columns

START = pd.Timestamp(BEGIN)


def newest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.tail(SETTINGS.window_requests)


def judged(usual: drift.Reference, rows: pd.DataFrame) -> drift.Verdict:
    window = newest(rows)
    return judge(window, window[[CONTRACT.label, "score"]], usual, SETTINGS, CONTRACT)


@pytest.fixture(scope="module")
def usual():
    return reference_of(orders(1), SETTINGS, START, CONTRACT)


# ---- the distance

_counts = st.lists(st.integers(0, 50), min_size=3, max_size=8).filter(any)


@given(_counts, st.integers(1, 9))
def test_the_same_shares_are_no_distance_apart(counts, times):
    here = np.array(counts)
    assert shares_of(pd.Series(["a"])).distance(here, here * times) == pytest.approx(0, abs=1e-12)


@given(st.tuples(_counts, _counts).map(lambda both: [each[:3] for each in both]).filter(lambda both: all(map(any, both))))
def test_a_distance_is_the_same_in_both_directions_and_never_more_than_one(both):
    (one, other), grid = map(np.array, both), shares_of(pd.Series(["a"]))
    assert grid.distance(one, other) == grid.distance(other, one)
    assert 0 <= grid.distance(one, other) <= 1 + 1e-12


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=200), st.data())
def test_a_distance_is_the_share_of_an_unseen_category(values, data):
    usual = pd.Series(values)
    grid, few = shares_of(usual), data.draw(st.integers(0, len(values)))
    changed = usual.where(np.arange(len(values)) >= few, "new")
    here, there = (np.bincount(grid.cells(each), minlength=BINS) for each in (changed, usual))
    assert grid.distance(here, there) == pytest.approx(few / len(values))


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=300))
def test_what_has_more_than_a_hundredth_of_the_rows_shares_its_cell_with_no_other_such(values):
    column = pd.Series(values, dtype=object)
    grid = shares_of(column)
    shares = column.value_counts(normalize=True)
    frequent = [grid.cell_of[value] for value in shares.index[shares > 0.0101]]
    assert len(set(frequent)) == len(frequent)
    assert set(grid.cell_of.values()) <= set(range(distances.UNSEEN))
    cells = grid.cells(column)
    assert (cells == distances.MISSING).sum() == column.isna().sum() and not (cells == distances.UNSEEN).any()


def test_a_thousand_categories_have_cells_of_a_hundredth_each():
    column = pd.Series([f"c{number % 1_000}" for number in range(10_000)])
    counts = np.bincount(shares_of(column).cells(column), minlength=BINS)
    assert counts[: distances.UNSEEN].min() >= 50 and counts.max() <= 150 and counts[distances.UNSEEN :].sum() == 0


def test_a_boolean_moves_by_its_share_of_yes():
    flag = pd.Series(np.repeat([0.0, 1.0, np.nan], [60, 30, 10]))
    grid = shares_of(flag)
    here, there = (np.bincount(grid.cells(each), minlength=BINS) for each in (flag.replace(0.0, 1.0), flag))
    assert grid.distance(here, there) == pytest.approx(0.6)


# ---- the verdict


def test_while_nothing_changes_nothing_rings(usual):
    for seed in range(50, 58):
        assert not any(judged(usual, orders(seed, 7, LATER)).detected.values())


CHANGES = {
    "a new city": ("city", lambda rows: rows.city.where(rows.index % 5 > 0, "Genf")),
    "a rare city": ("city", lambda rows: rows.city.where(rows.index % 3 > 0, "Chur")),
    "cities get lost": ("city", lambda rows: rows.city.where(rows.index % 3 > 0)),
    "all cities get lost": ("city", lambda rows: None),
    "more members": ("member", lambda rows: rows.member.where(rows.index % 2 > 0, 1.0)),
    "membership gets lost": ("member", lambda rows: rows.member.where(rows.index % 2 > 0)),
    "another device": ("device", lambda rows: "tablet"),
    "larger baskets": ("basket", lambda rows: rows.basket * 3),
    "a constant is another": ("constant", lambda rows: 2.0),
}


@pytest.mark.parametrize(("name", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_and_named(usual, name, change):
    rows = orders(50, 7, LATER)
    verdict = judged(usual, rows.assign(**{name: change(rows)}))
    assert [each for each in CONTRACT.features if verdict.scores[each] >= 1] == [name]
    assert verdict.detected["features"] and not verdict.detected["predictions"]


def test_a_change_of_outcomes_is_seen_without_any_propensity(usual):
    assert usual.performance.residual == pytest.approx(0, abs=0.05)
    assert judged(usual, orders(50, 7, LATER, returned=0.4)).detected["performance"]


def test_without_propensities_the_choices_among_candidates_cannot_be_measured():
    chosen = CONTRACT.model_copy(update={"candidates": "labels"})
    assert drift.performance_of(orders(1), chosen) is None


@pytest.mark.parametrize(
    "values",
    [None, "Bern", [f"c{number}" for number in range(1_000)]],
    ids=["all missing", "one category", "a thousand categories"],
)
def test_no_kind_of_category_breaks_a_verdict(values):
    def drawn(rows, seed):
        return rows.assign(city=np.random.default_rng(seed).choice(values, len(rows)) if isinstance(values, list) else values)

    usual = reference_of(drawn(orders(1), 2), SETTINGS, START, CONTRACT)
    rows = drawn(orders(50, 7, LATER), 3)
    assert judged(usual, rows).scores["city"] < 1
    assert judged(usual, rows.assign(city="Genf")).scores["city"] >= 1


def test_where_a_request_brings_features_of_its_own_each_row_is_a_unit():
    "One customer may order twice in an hour, and one airline has more than a flight."
    rows = orders(1, 3)
    rows[CONTRACT.entity] = "the only one"
    pd.testing.assert_frame_equal(drift.entity_hours(rows, CONTRACT).drop(columns=distances.HOUR), rows)


def test_an_entity_may_be_a_feature_too():
    "As an airline is, whose flights are scored and whose name a model sees."
    own = CONTRACT.model_copy(update={"features": {CONTRACT.entity: Feature(table=CONTRACT.request), **CONTRACT.features}})
    rows = orders(1)
    made = reference_of(rows, SETTINGS, START, own)
    verdict = judge(newest(rows), rows[[CONTRACT.label, "score"]], made, SETTINGS, own)
    assert made.units.columns.is_unique and verdict.scores[CONTRACT.entity] < 1


def by_new_york(rows: pd.DataFrame, begin: str) -> pd.DataFrame:
    "Orders between eight and four by the clocks of New York, the large ones before noon."
    number = np.arange(len(rows))
    wall = pd.Timestamp(begin) + pd.to_timedelta(number // 16 * 24 + 8 + number % 16 / 2, unit="h")
    time = wall.tz_localize("America/New_York").tz_convert("UTC").as_unit("us")
    return rows.assign(**{CONTRACT.time: time, "basket": np.where(wall.hour < 12, 90.0, 10.0) + number % 7})


def test_clocks_that_change_move_no_traffic_where_the_zone_is_told():
    usual, later = by_new_york(orders(1).head(27 * 16), "2013-10-07"), by_new_york(orders(50).head(7 * 16), "2013-11-04")
    scores = {}
    for zone in ("UTC", "America/New_York"):
        settings = SETTINGS.model_copy(update={"zone": zone, "window_requests": 7 * 16})
        made = reference_of(usual, settings, START, CONTRACT)
        scores[zone] = judge(later, later[[CONTRACT.label, "score"]], made, settings, CONTRACT).scores["basket"]
    assert scores["America/New_York"] < 0.01 and scores["UTC"] > 0.5, scores


def test_a_zone_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="no time zone New_York"):
        drift.DriftSettings(zone="New_York")


# ---- quality


def quality(rows: pd.DataFrame, contract=CONTRACT, **categories: set) -> dict[str, float]:
    return drift.quality(drift.entity_hours(rows, contract), categories, contract)


def test_new_categories_are_counted(usual):
    rows = orders(50, 7, LATER)
    assert judged(usual, rows).quality["new_category"] == 0
    verdict = judged(usual, rows.assign(city=rows.city.where(rows.index % 4 > 0, "Genf"), device="tablet"))
    assert verdict.quality["new_category"] == 1 and verdict.detected["quality"]
    assert "new_category" not in judge(newest(rows), rows[[CONTRACT.label, "score"]], None, SETTINGS, CONTRACT).quality


def test_what_may_be_empty_is_missing_only_where_all_of_it_is():
    rows = orders(1, 3)
    assert quality(rows)["missing"] == 0
    assert quality(rows.assign(city=None))["missing"] == 1
    half = rows.assign(basket=rows.basket.where(rows.index % 2 > 0))
    assert quality(half)["missing"] == 0.5


def test_what_was_mostly_empty_in_normal_traffic_may_be_wholly_empty():
    "As the gusts of a calm day are."
    few = orders(1).assign(city=lambda rows: rows.city.where(rows.index % 5 == 0))
    usual, window = reference_of(few, SETTINGS, START, CONTRACT), orders(50, 7, LATER).assign(city=None)
    assert usual.sparse == {"city"} and judged(usual, window).quality["missing"] == 0
    unknown = judge(newest(window), window[[CONTRACT.label, "score"]], None, SETTINGS, CONTRACT)
    assert unknown.quality["missing"] == 0, "while nothing is known of normal traffic, nobody can say"


def test_a_range_that_nobody_has_set_is_not_left():
    rows = orders(1, 3)
    assert quality(rows.assign(constant=-1e9))["out_of_range"] == 0
    assert quality(rows.assign(basket=-1.0))["out_of_range"] == 1


def test_of_several_tables_the_worst_one_counts():
    habits = CONTRACT.tables["habits"]
    tables = {
        **CONTRACT.tables,
        "places": habits.model_copy(update={"name": "places", "fresh": timedelta(days=30)}),
        "names": habits.model_copy(update={"name": "names", "fresh": None}),
    }
    moved = {"city": Feature(table="places"), "constant": Feature(table="names")}
    contract = CONTRACT.model_copy(update={"tables": tables, "features": {**CONTRACT.features, **moved}})
    rows = orders(1, 3)
    ages = {"habits": 1, "places": 31, "names": 1_000}
    known = {column: rows[CONTRACT.time] - pd.Timedelta(days=ages[view]) for view, column in known_columns(contract).items()}
    verdict = quality(rows.drop(columns=KNOWN).assign(**known), contract)
    assert verdict["stale"] == 1 and verdict["feed_hours"] == 31 * 24
    fresh = {**known, known_columns(contract)["places"]: rows[CONTRACT.time]}
    verdict = quality(rows.drop(columns=KNOWN).assign(**fresh), contract)
    assert verdict["stale"] == 0 and verdict["feed_hours"] == 24


def test_a_project_whose_requests_bring_all_features_is_never_stale():
    own = CONTRACT.model_copy(update={"features": {name: CONTRACT.features[name] for name in CONTRACT.own}})
    verdict = quality(orders(1, 3).drop(columns=KNOWN), own)
    assert verdict == {"missing": 0, "out_of_range": 0, "stale": 0, "feed_hours": 0}
