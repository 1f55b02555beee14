"""Each check passes on what is good, finds the fault that was planted, and says so where it cannot tell."""

import numpy as np
import pandas as pd
import pytest
from rides import CONTRACT
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlops_course import checks

FEATURES = ["conv_rate", "acc_rate"]


@pytest.fixture
def trips() -> pd.DataFrame:
    "400 labelled trips of ten drivers, an hour apart."
    draw = np.random.default_rng(3)
    frame = pd.DataFrame(draw.beta(4, 3, (400, 2)), columns=FEATURES)
    frame["request_id"] = pd.Series([f"r{i}" for i in range(400)], dtype="string")
    frame["event_timestamp"] = pd.date_range("2026-01-05", periods=400, freq="h", tz="UTC").as_unit("us")
    frame["driver_id"] = 1001 + draw.integers(0, 10, 400)
    frame["trip_completed"] = (draw.random(400) < frame.conv_rate).astype("int64")
    frame["created"] = (frame.event_timestamp + pd.Timedelta(hours=1)).dt.as_unit("us")
    return frame


def halves(trips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"train": trips.iloc[:200], "test": trips.iloc[200:]}


def test_a_table_that_keeps_its_contract_passes_and_a_broken_rule_is_counted(trips):
    labels = trips[CONTRACT.tables["labels"].names]

    assert checks.meets(labels, CONTRACT.tables["labels"]).passed
    broken = checks.meets(labels.assign(trip_completed=labels.trip_completed * 2), CONTRACT.tables["labels"])
    assert broken.passed is False
    assert f"({(labels.trip_completed == 1).sum()} times)" in broken.message


def test_a_missing_column_breaks_the_contract(trips):
    assert checks.meets(trips[CONTRACT.tables["labels"].names].drop(columns="driver_id"), CONTRACT.tables["labels"]).passed is False


def test_a_value_out_of_its_range_is_found_and_an_empty_column_cannot_be_judged(trips):
    assert checks.within(trips, "conv_rate", 0, 1).passed
    assert checks.within(trips.assign(conv_rate=2.0), "conv_rate", 0, 1).passed is False
    assert checks.within(trips.assign(conv_rate=np.nan), "conv_rate", 0, 1).passed is None


def test_too_many_gaps_are_found(trips):
    holes = trips.assign(acc_rate=trips.acc_rate.where(trips.index % 2 == 0))

    assert checks.filled(trips, FEATURES).passed
    assert checks.filled(holes, FEATURES).passed is False
    assert checks.filled(trips.head(0), FEATURES).passed is None


def test_a_key_that_comes_twice_is_found(trips):
    assert checks.unique(trips, ["request_id"]).passed
    assert checks.unique(pd.concat([trips, trips.head(1)]), ["request_id"]).passed is False


def test_a_row_in_two_splits_is_found(trips):
    overlapping = {"train": trips.iloc[:201], "test": trips.iloc[200:]}

    assert checks.no_overlap_of_rows(halves(trips), ["request_id"]).passed
    assert checks.no_overlap_of_rows(overlapping, ["request_id"]).message.startswith("1 rows")


def test_a_row_that_is_repeated_within_one_split_is_no_leak(trips):
    assert checks.no_overlap_of_rows({"train": pd.concat([trips.head(5)] * 2), "test": trips.tail(5)}, ["request_id"]).passed


def test_a_driver_whose_test_is_not_later_than_her_training_is_found(trips):
    mixed = {"train": trips.iloc[::2], "test": trips.iloc[1::2]}

    assert checks.no_overlap_of_entities(halves(trips), "driver_id", "event_timestamp").passed
    assert checks.no_overlap_of_entities(mixed, "driver_id", "event_timestamp").passed is False


def test_a_driver_is_followed_across_all_three_splits(trips):
    one = trips[trips.driver_id == 1001]
    others = trips[trips.driver_id != 1001]
    parts = {"train": one.iloc[5:], "validation": others, "test": one.iloc[:5]}

    result = checks.no_overlap_of_entities(parts, "driver_id", "event_timestamp")

    assert result.passed is False and result.message.startswith("1 of 10")


def test_a_split_that_knew_what_came_later_is_found(trips):
    late = {"train": trips.iloc[:200].assign(created=trips.created.max()), "test": trips.iloc[200:]}

    assert checks.no_overlap_of_time(halves(trips), "event_timestamp").passed
    assert checks.no_overlap_of_time(late, "event_timestamp").passed
    assert checks.no_overlap_of_time(late, "event_timestamp", "created").passed is False


def test_an_empty_split_cannot_be_judged_and_is_named(trips):
    result = checks.no_overlap_of_time({"train": trips, "test": trips.head(0)}, "event_timestamp")

    assert result.passed is None and "test" in result.message


def test_a_feature_that_holds_the_label_is_found_by_name(trips):
    leaked = trips.assign(fare=trips.trip_completed * 7.5)

    assert checks.no_target_leakage(trips, FEATURES, "trip_completed").passed
    result = checks.no_target_leakage(leaked, [*FEATURES, "fare"], "trip_completed")
    assert result.passed is False and result.message.startswith("fare separates")


def test_a_feature_that_is_low_where_the_label_is_high_gives_it_away_too(trips):
    leaked = trips.assign(refund=1 - trips.trip_completed)

    assert checks.no_target_leakage(leaked, ["refund"], "trip_completed").passed is False


def test_a_feature_that_is_missing_just_where_trips_fail_is_found(trips):
    leaked = trips.assign(rating=trips.conv_rate.where(trips.trip_completed == 1))

    assert "rating is missing" in checks.no_target_leakage(leaked, ["rating"], "trip_completed").message


def test_ten_rows_are_too_few_to_speak_of_a_leak(trips):
    assert checks.no_target_leakage(trips.head(10), FEATURES, "trip_completed").passed is None


@pytest.mark.parametrize(("shift", "passed"), [(0, True), (1, True), (-1, False)])
def test_features_must_have_been_known_at_the_moment_of_the_booking(trips, shift, passed):
    history = trips.assign(known_at=trips.event_timestamp)
    asked = trips.assign(event_timestamp=trips.event_timestamp + pd.Timedelta(shift, "s"))

    result = checks.from_the_past(asked, history, "driver_id", "event_timestamp", "known_at", dict.fromkeys(FEATURES, "number"))

    assert result.passed is passed


def test_features_of_another_driver_were_never_known_of_this_one(trips):
    history = trips.assign(known_at=trips.event_timestamp, driver_id=trips.driver_id + 100)

    assert (
        checks.from_the_past(trips, history, "driver_id", "event_timestamp", "known_at", dict.fromkeys(FEATURES, "number")).passed is False
    )


def test_rows_without_features_are_not_from_the_future(trips):
    history = trips.assign(known_at=trips.event_timestamp)
    unknown = trips.assign(conv_rate=trips.conv_rate.where(trips.index > 9), acc_rate=trips.acc_rate.where(trips.index > 9))

    result = checks.from_the_past(unknown, history, "driver_id", "event_timestamp", "known_at", dict.fromkeys(FEATURES, "number"))

    assert result.passed and "390 rows" in result.message


def test_only_a_model_that_gives_probabilities_passes_before_training(trips):
    rows, label = trips[FEATURES].head(50), trips.trip_completed.head(50)

    assert checks.gives_probabilities(LogisticRegression(), rows, label).passed
    assert checks.gives_probabilities(LinearRegression(), rows, label).passed is False
    assert checks.gives_probabilities(DummyClassifier(), rows, label * 0).passed is False


def test_the_check_before_training_does_not_train_the_model_itself(trips):
    model = LogisticRegression()

    checks.gives_probabilities(model, trips[FEATURES], trips.trip_completed)

    assert not hasattr(model, "coef_")


def test_a_model_that_rolls_dice_is_found(trips):
    dice = np.random.default_rng(0)

    assert checks.repeats(lambda rows: rows.conv_rate.to_numpy(), trips).passed
    assert checks.repeats(lambda rows: dice.random(len(rows)), trips).passed is False
    assert checks.repeats(lambda rows: rows.conv_rate.to_numpy(), trips.head(0)).passed is None


def test_a_model_that_looks_at_the_place_of_a_row_or_column_is_found(trips):
    rows = trips[FEATURES]

    assert checks.ignores_order(lambda r: r.conv_rate.to_numpy(), rows).passed
    assert checks.ignores_order(lambda r: r.iloc[:, 0].to_numpy(), rows).passed is False
    assert checks.ignores_order(lambda r: np.arange(len(r)), rows).passed is False


def test_a_score_that_falls_when_it_should_rise_is_found(trips):
    assert checks.does_not_fall(lambda r: r.conv_rate.to_numpy(), trips, "conv_rate", 0.1).passed
    assert checks.does_not_fall(lambda r: np.full(len(r), 0.5), trips, "conv_rate", 0.1).passed
    assert checks.does_not_fall(lambda r: -r.conv_rate.to_numpy(), trips, "conv_rate", 0.1).passed is False


def test_a_segment_that_is_promised_less_than_it_keeps_is_found(trips):
    label = trips.trip_completed.to_numpy()
    segment = pd.Series(np.where(trips.index < 200, "new", "old"))

    assert checks.fair(segment, label, np.full(400, label.mean()), at_most=0.2).passed
    unkind = checks.fair(segment, label, label - 0.3 * (segment == "new"))
    assert unkind.passed is False and unkind.message.startswith("old is promised 0.30 more than new")
    assert checks.fair(segment.head(50), label[:50], label[:50]).passed is None
