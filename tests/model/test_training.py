"""The gate lets a good model through and names what is wrong with any other; the estimates are right; a run can be repeated."""

import html
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from conftest import run_stages
from mlops_course import checks, project, registry, stages, telemetry, training
from mlops_course.problem import ACCEPTANCE, CONTRACT
from mlops_course.training import BOOKING, ENTITY, FEATURES, KNOWN, LABEL, PROPENSITY, TIME, Champion, TrainingSettings

TOLD = TrainingSettings(test_days=14, validation_days=7, seed=7)


@cache
def company(days=35, bookings=330, signal=5.0, seed=7, near_counts=0.8) -> pd.DataFrame:
    "Candidates of bookings as `extract` gives them, and the column `probability` that only a simulation knows."
    draw = np.random.default_rng(seed)
    n, k = days * bookings, 5
    day = np.sort(draw.random(n)) * days
    driver = draw.random((n, 60)).argsort(axis=1)[:, :k]
    features = (draw.beta(5, 3, (60, 2))[driver] + draw.normal(0, 0.03, (n, k, 2))).clip(0, 1)
    near = draw.exponential(1, (n, k)).argsort(axis=1) == 0
    probability = 1 / (1 + np.exp(0.1 - near_counts * near - signal * (features[:, :, 0] - 0.62)))
    propensity = np.where(near, 0.6, 0.1)
    chosen = (propensity.cumsum(axis=1) < draw.random((n, 1))).sum(axis=1)[:, None] == np.arange(k)
    time = pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(np.repeat(day, k), unit="D").floor("us")
    frame = pd.DataFrame({BOOKING: np.repeat([f"b{i:05}" for i in range(n)], k), TIME: time.as_unit("us"), ENTITY: 1001 + driver.ravel()})
    frame[FEATURES] = np.column_stack([*features.reshape(-1, 2).T, draw.poisson(9, n * k)])
    frame[PROPENSITY] = np.where(chosen, propensity, np.nan).ravel()
    frame[LABEL] = np.where(chosen, draw.random((n, k)) < probability, np.nan).ravel()
    frame[KNOWN] = (
        (frame[TIME] + pd.to_timedelta(draw.exponential(3600, n * k), unit="s").floor("s")).where(frame[LABEL].notna()).dt.as_unit("us")
    )
    frame["probability"] = probability.ravel()
    return frame.astype({BOOKING: "string"}).sort_values([TIME, BOOKING, ENTITY], ignore_index=True)


def table(**changes) -> pd.DataFrame:
    return company(**changes).drop(columns="probability")


def history(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[ENTITY, *FEATURES]].assign(**{KNOWN: frame[TIME]})


def judge(frame: pd.DataFrame, told=TOLD, champion=None) -> training.Judged:
    return training.judge(frame, history(frame), told, champion)


def refused(judged: training.Judged) -> set[str]:
    return {result.name for result in judged.results if not result.passed}


@pytest.fixture(scope="module")
def good() -> training.Judged:
    return judge(table())


# the gate


def test_a_model_that_sees_a_signal_passes(good):
    assert good.passed and refused(good) == set()
    assert good.uplift.robust.low > ACCEPTANCE.uplift
    assert good.metrics["log_loss"] < good.metrics["base_log_loss"]


def test_a_company_without_a_signal_is_refused_for_being_no_better_than_the_base_rate():
    found = refused(judge(table(signal=0.0, near_counts=0.0)))

    assert {"better than the base rate: log loss", "better than the base rate: RMSE", "uplift"} <= found


def test_too_few_labels_are_said_before_anything_else_although_rmse_looks_good():
    times = pd.date_range("2026-01-05T20:00Z", periods=10, freq="8h").as_unit("us")
    ten = pd.DataFrame({BOOKING: pd.array([pd.NA] * 10, "string"), TIME: times, ENTITY: [1001, 1002, 1003] * 3 + [1001]})
    ten[FEATURES] = ten[[ENTITY]].to_numpy() * [0.0005, 0.0003, 0.01] % 1
    ten = ten.assign(**{PROPENSITY: np.nan, LABEL: [1.0, 0, 0] * 3 + [1.0], KNOWN: times})

    judged = judge(ten, TrainingSettings(test_days=1, validation_days=1))

    assert judged.metrics["rmse"] < ACCEPTANCE.rmse
    first = training.reasons(judged.results)[0]
    assert first.startswith("too little evidence: 3 labels of 2,000 (RMSE 0.")
    assert "looks good, and means nothing yet" in first


@pytest.mark.parametrize("rows", [4, 300])
def test_each_kind_of_evidence_that_is_missing_is_counted(good, rows):
    found = training.enough(good.tested.head(rows), effective=10.0)

    assert [result.passed for result in found] == [False, rows > 60, False, False]
    assert found[0].message == f"too little evidence: {rows} labels of 2,000"


def test_labels_of_one_class_give_no_model_and_the_reason():
    frame = table()

    judged = judge(frame.assign(**{LABEL: frame[LABEL].where(frame[LABEL].isna(), 1.0)}))

    assert judged.model is None and not judged.passed
    assert "no model: the training labels are of one class only" in training.reasons(judged.results)


def test_a_test_of_one_class_cannot_be_measured_and_is_refused():
    frame = table()
    end = training.windows(frame, TOLD).test

    judged = judge(frame.assign(**{LABEL: frame[LABEL].mask((frame[TIME] >= end) & frame[LABEL].notna(), 1.0)}))

    assert judged.metrics["auc"] is None
    assert "better than the base rate" in refused(judged)


def test_a_feature_with_the_label_in_it_is_refused():
    frame = table()
    leaked = frame.assign(**{FEATURES[1]: frame[LABEL].fillna(frame[FEATURES[1]])})

    assert "leak of the label" in refused(judge(leaked))


def test_a_feature_that_was_known_later_is_refused():
    frame = table()
    ahead = history(frame).assign(**{KNOWN: frame[TIME] + pd.Timedelta(minutes=1)})

    assert "features known in time" in refused(training.judge(frame, ahead, TOLD))


def test_a_table_against_its_contract_is_refused():
    frame = table()

    assert "contract: training table" in refused(judge(frame.assign(**{FEATURES[0]: frame[FEATURES[0]] * 2})))


def test_splits_that_overlap_are_refused(monkeypatch):
    honest = training.split
    monkeypatch.setattr(
        training, "split", lambda *given: {**honest(*given), "train": pd.concat([honest(*given)["train"], honest(*given)["test"]])}
    )

    assert {"splits: rows", "splits: entities", "splits: time"} <= refused(judge(table()))


def test_an_uplift_that_cannot_be_measured_is_refused_with_the_reason():
    frame = table()

    judged = judge(frame[frame[LABEL].notna()].assign(**{BOOKING: pd.NA}).astype({BOOKING: "string"}))

    assert judged.metrics["rmse"] < ACCEPTANCE.rmse
    assert judged.uplift.robust is None and judged.uplift.effective_sample is None
    assert refused(judged) == {"evidence: effective sample", "uplift"}
    assert any("not measurable" in reason for reason in training.reasons(judged.results))


def labels_alone(frame: pd.DataFrame) -> pd.DataFrame:
    "The labels of a company that logs neither candidates nor propensities."
    return frame[frame[LABEL].notna()].assign(**{BOOKING: pd.NA, PROPENSITY: np.nan}).astype({BOOKING: "string"})


@pytest.mark.parametrize("logged", [labels_alone, lambda frame: frame.assign(**{PROPENSITY: np.nan})], ids=["labels", "candidates"])
def test_where_no_propensity_was_ever_logged_labels_decide_and_the_verdict_says_what_they_cannot(logged):
    judged = judge(logged(table()))
    verdict = training.verdict(judged)

    assert verdict["passed"] and verdict["uplift"]["estimate"] is None
    assert [check["name"] for check in verdict["unmeasured"]] == ["evidence: effective sample", "uplift"]
    assert all("no source tells who the candidates" in check["message"] for check in verdict["unmeasured"])


def test_labels_alone_refuse_a_model_that_knows_nothing_and_one_with_too_few_labels():
    assert "better than the base rate: log loss" in refused(judge(labels_alone(table(signal=0.0, near_counts=0.0))))
    assert "evidence: labels" in refused(judge(labels_alone(table(bookings=60))))


def test_labels_alone_compare_a_challenger_with_its_champion(good):
    frame = labels_alone(table())
    turned = frame.assign(**{LABEL: (1 - frame[LABEL]).where(frame[TIME] < good.at.test, frame[LABEL])})

    assert judge(frame, champion=scores(good.model)).passed
    assert "no worse in RMSE" in refused(judge(turned, champion=scores(good.model)))


AT_THE_GOAL = training.Interval(0.14, 0.10, 0.18, 20)


def test_an_uplift_below_the_goal_by_its_lower_bound_alone_is_refused():
    close = training.Uplift(training.Interval(0.14, 0.09, 0.19, 20), None, 900, 5000)

    (_, uplift), (_, enough) = (training.first_champion(0.4, gain) for gain in (close, close._replace(robust=AT_THE_GOAL)))
    assert uplift.passed is False and enough.passed


def test_an_rmse_above_the_limit_is_refused_for_a_first_champion():
    gain = training.Uplift(AT_THE_GOAL, None, 900, 5000)

    assert [training.first_champion(rmse, gain)[0].passed for rmse in (0.5, 0.501, None)] == [True, False, None]


def test_every_rule_of_the_gate_can_refuse_by_itself(good):
    for place in range(len(good.results)):
        for verdict in (False, None):
            planted = [*good.results]
            planted[place] = planted[place]._replace(passed=verdict)
            assert not good._replace(results=planted).passed


# champion and challenger


def scores(model) -> Champion:
    return Champion(lambda rows: training.probability(model, rows), training.windows(table(), TOLD).test)


def test_an_equal_challenger_is_accepted(good):
    assert judge(table(), champion=scores(good.model)).passed


def test_a_challenger_need_not_reach_what_is_asked_of_a_first_champion(good):
    names = {result.name for result in judge(table(), champion=scores(good.model)).results}

    assert not {"uplift", "RMSE"} & names and {"no worse in completed trips", "no worse in RMSE"} <= names


def test_a_worse_challenger_is_refused(good):
    frame = table()
    early = frame[TIME] < good.at.test
    turned = frame.assign(**{FEATURES[0]: frame[FEATURES[0]].where(~early, draw_again(frame))})

    judged = judge(turned, champion=scores(good.model))

    assert "no worse in completed trips" in refused(judged)


def draw_again(frame: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng(0).permutation(frame[FEATURES[0]].to_numpy())


def test_a_challenger_is_better_in_trips_when_the_champion_is_blind(good):
    blind = Champion(lambda rows: np.full(len(rows), 0.5), good.at.test)

    judged = judge(table(), champion=blind)

    assert judged.passed


def test_a_first_champion_needs_two_weeks_and_a_successor_one(good):
    week = TOLD.model_copy(update={"test_days": 7})

    assert "evidence: days" in refused(judge(table(), week))
    assert judge(table(), week, champion=scores(good.model)).passed


def test_a_successor_is_asked_for_labels_drivers_and_days_but_for_no_effective_sample(good):
    found = training.enough(good.tested, effective=10.0, paired=True)

    assert [(result.name, result.passed) for result in found] == [
        ("evidence: labels", True),
        ("evidence: drivers", True),
        ("evidence: days", True),
    ]
    six = good.tested[good.tested[TIME] >= good.at.end - pd.Timedelta(days=6)]
    assert training.enough(six, None, paired=True)[-1].message == "too little evidence: 6 days of 7"


def test_six_days_later_than_both_trainings_are_too_few_for_a_comparison(good):
    later = scores(good.model)._replace(until=good.at.end - pd.Timedelta(days=6))

    assert {"no worse in completed trips", "no worse in RMSE"} <= refused(judge(table(), champion=later))


def test_a_training_on_the_newest_days_does_not_see_what_was_before(good):
    frame, newest = table(), TOLD.model_copy(update={"train_days": 10})
    at = training.windows(frame, newest)
    before = frame[TIME] < at.since
    nonsense = frame.assign(**{LABEL: frame[LABEL].mask(before & frame[LABEL].notna(), 0.0)})

    one, other = judge(frame, newest), judge(nonsense, newest)

    assert at.test - at.since == pd.Timedelta(days=10) and at[1:] == good.at[1:]
    assert (one.tested["score"] == other.tested["score"]).all() and one.kind == other.kind
    assert [trial.metrics for trial in one.trials] == [trial.metrics for trial in other.trials]
    assert not (one.tested["score"] == good.tested["score"]).all()


def test_a_kind_that_misbehaves_once_it_has_learned_from_all_gives_way_to_the_next_one(good, monkeypatch):
    honest = training.behaviour

    def strict(model, rows):
        last = rows[TIME].min() >= good.at.test and repr(model) == repr(good.model)
        return [checks.Result("never falls", False, "it falls")] if last else honest(model, rows)

    monkeypatch.setattr(training, "behaviour", strict)
    judged = judge(table())

    assert judged.passed and judged.kind == training.ranked(good.trials)[1] != good.kind


def test_days_to_train_on_must_be_left_before_the_validation():
    with pytest.raises(project.UserError, match="no day is left to train on"):
        judge(table(), TrainingSettings(train_days=5, validation_days=5))


def test_without_a_window_later_than_both_trainings_the_champion_stays(good):
    later = scores(good.model)._replace(until=good.at.end - pd.Timedelta(days=3))

    judged = judge(table(), champion=later)

    assert refused(judged) == {"no worse in completed trips", "no worse in RMSE"}
    assert all("champion stays" in reason for reason in training.reasons(judged.results))


# what the steps promise


def test_a_label_counts_only_from_when_it_was_known():
    frame = table()
    at = training.windows(frame, TOLD)

    for name, part in training.split(frame, at).items():
        end = {"train": at.validation, "validation": at.test, "test": at.end}[name]
        assert (part[KNOWN] <= end).all() and (part[TIME] < end).all()
    late = frame[LABEL].notna() & (frame[TIME] < at.test) & (frame[KNOWN] > at.test)
    assert late.any()
    assert not training.labelled(frame, None, at.test).index.intersection(frame.index[late]).size


def test_extraction_keeps_every_candidate_and_every_label_in_order_of_time():
    time = pd.to_datetime(["2026-01-05T10:00Z", "2026-01-05T09:00Z"]).as_unit("us")
    bookings = pd.DataFrame({BOOKING: ["b2", "b1"], TIME: time, ENTITY: [1, 2], PROPENSITY: [0.5, 0.25]})
    candidates = pd.DataFrame({BOOKING: ["b2", "b2", "b1", "b1", "b9"], ENTITY: [1, 3, 2, 1, 1]})
    labels = pd.DataFrame({BOOKING: ["b2", None], TIME: [time[0], time[1]], ENTITY: [1, 7], LABEL: [1, 0], KNOWN: [time[0], time[1]]})

    frame = training.extract(labels, bookings, candidates, lambda rows: rows.assign(**dict.fromkeys(FEATURES, 0.5)))

    assert frame[BOOKING].fillna("-").tolist() == ["b1", "b1", "-", "b2", "b2"]
    assert frame[ENTITY].tolist() == [1, 2, 7, 1, 3]
    assert frame[LABEL].fillna(-1).tolist() == [-1, -1, 0, 1, -1]
    assert frame[PROPENSITY].fillna(-1).tolist() == [-1, 0.25, -1, 0.5, -1]
    assert checks.meets(frame, training.examples()).passed


def test_extraction_gives_each_row_the_features_of_its_own_entity_and_time():
    frame = table().head(500)
    known = frame[[ENTITY, TIME, *FEATURES]]
    logged = frame[frame[PROPENSITY].notna()]

    again = training.extract(
        logged.dropna()[[BOOKING, TIME, ENTITY, LABEL, KNOWN]].sample(frac=1, random_state=1),
        logged[[BOOKING, TIME, ENTITY, PROPENSITY]].sample(frac=1, random_state=2),
        frame[[BOOKING, ENTITY]].sample(frac=1, random_state=3),
        lambda rows: rows.merge(known, how="left"),
    )

    pd.testing.assert_frame_equal(again, frame)


def test_every_recipe_lives_with_missing_values_and_gives_probabilities():
    rows = table().dropna(subset=[LABEL]).head(400)
    holes = rows.assign(
        **{FEATURES[0]: rows[FEATURES[0]].where(rows.index % 3 == 0), FEATURES[2]: rows[FEATURES[2]].where(rows.index % 5 == 0)}
    )
    unknown = rows.assign(**dict.fromkeys(FEATURES, np.nan))

    for name in training.recipes(7):
        model = training.fit(name, holes, 7)
        for asked in (rows, holes, unknown):
            score = training.probability(model, asked)
            assert ((score >= 0) & (score <= 1)).all(), name


def test_the_seeds_elastic_net_never_promises_more_than_everything():
    rows = table().dropna(subset=[LABEL]).head(2000)
    model = training.fit("elastic net", rows.assign(**{LABEL: (rows[FEATURES[0]] > 0.6).astype(float)}), 7)
    extreme = pd.DataFrame([[5.0, 1, 9], [-5.0, 1, 9]], columns=FEATURES)

    assert training.probability(model, extreme).tolist() == [1.0, 0.0]


def test_the_same_rows_and_seed_give_the_same_model_bytes(tmp_path):
    rows = table().dropna(subset=[LABEL]).head(3000)

    for name in training.recipes(7):
        digests = {registry.save_model(training.fit(name, rows, 7), tmp_path / f"{name}{i}", tuple(FEATURES)) for i in range(2)}
        assert len(digests) == 1, name


def test_the_policy_takes_the_highest_score_ties_the_lowest_number_and_the_unknown_last():
    time = pd.Timestamp("2026-01-05", tz="UTC")
    rows = pd.DataFrame(
        {BOOKING: ["a"] * 3 + ["b"] * 2, TIME: time, ENTITY: [3, 1, 2, 8, 9], PROPENSITY: [0.5, np.nan, np.nan, 0.5, np.nan], LABEL: 1.0}
    )
    rows[FEATURES] = 0.5
    rows.loc[rows[ENTITY] == 9, FEATURES] = np.nan

    chosen = training.choices(rows.astype({BOOKING: "string"}), np.array([0.4, 0.7, 0.7, 0.1, 0.9]))

    assert chosen.set_index(BOOKING).picked.to_dict() == {"a": 1, "b": 8}


def test_the_driver_with_few_trips_is_held_near_the_average():
    train = pd.DataFrame({ENTITY: [1] * 100 + [2], LABEL: [1.0] * 50 + [0.0] * 50 + [1.0]})

    one, two, stranger = training.per_entity(train, pd.DataFrame({ENTITY: [1, 2, 3]}))

    assert one == pytest.approx(0.5, abs=0.01)
    assert 0.5 < two < 0.55
    assert stranger == train[LABEL].mean()


# the estimates


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
    found = [
        (training.uplift(frame, seed=1), truth)
        for frame, truth in (logs(seed, wrong_expectations=wrong_expectations) for seed in range(150))
    ]

    for kind in ("robust", "weighted"):
        gains = [(getattr(gain, kind), truth) for gain, truth in found]
        assert np.mean([gain.estimate - truth for gain, truth in gains]) == pytest.approx(0, abs=0.012)
        assert 0.89 <= np.mean([gain.low <= truth <= gain.high for gain, truth in gains]) <= 0.99


def test_the_obvious_estimate_is_biased_where_the_doubly_robust_one_is_not():
    frame = company()
    later = frame[frame[TIME] >= training.windows(frame, TOLD).test]
    model = training.fit("logistic regression", training.labelled(frame, None, training.windows(frame, TOLD).test), 7)
    chosen = training.choices(later, training.probability(model, later))
    agreed = chosen[chosen.picked == chosen[ENTITY]]
    gain = training.uplift(chosen, 7)
    truth = training.compare_with_truth(chosen, frame, gain.robust._asdict())

    assert truth["inside_interval"]
    assert agreed[LABEL].mean() / chosen[LABEL].mean() - 1 > gain.robust.high


def test_the_interval_is_clustered_by_day():
    draw = np.random.default_rng(0)
    day = np.repeat(np.arange(20), 200)
    value = np.repeat(draw.normal(0, 1, 20), 200)  # all rows of a day are the same
    time = pd.Series(pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(day, unit="D"))

    found = training.interval(time, [value, np.ones(4000)], lambda s, n: s / n, 0)

    standard_error = value[::200].std(ddof=1) / np.sqrt(20)
    assert (found.high - found.low) / 2 == pytest.approx(2.09 * standard_error, rel=0.1)


def test_one_day_gives_no_interval():
    time = pd.Series(pd.to_datetime(["2026-01-05T01:00Z", "2026-01-05T02:00Z"]))

    assert training.interval(time, [np.ones(2), np.ones(2)], lambda s, n: s / n, 0) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_effective_sample_lies_between_nothing_and_the_number_of_rows(weight):
    assert 0 <= training.effective_sample(np.array(weight)) <= len(weight) * (1 + 1e-9)


def test_equal_weights_count_fully():
    assert training.effective_sample(np.full(7, 3.0)) == pytest.approx(7)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_metrics_stay_within_their_bounds(rows):
    label, score = (np.array(column, float) for column in zip(*rows, strict=True))

    found = training.measure(label, score)

    assert 0 <= found["mae"] <= found["rmse"] + 1e-12 <= 1 + 1e-9
    assert 0 <= found["calibration_error"] <= 1
    assert found["log_loss"] >= 0
    assert found["auc"] is None if len(set(label)) < 2 else 0 <= found["auc"] <= 1


def test_metrics_of_nothing_are_not_measurable():
    assert set(training.measure([], []).values()) == {None}


def test_a_perfect_promise_has_no_calibration_error_and_a_wrong_one_has():
    draw = np.random.default_rng(0)
    score = draw.random(20_000)
    label = draw.random(20_000) < score

    assert training.measure(label, score)["calibration_error"] < 0.02
    assert training.measure(label, score**3)["calibration_error"] > 0.15


# runs


@pytest.fixture
def place(tmp_path):
    "A client of an empty MLflow, and the folder of snapshots beside it."
    return registry.connect(tmp_path / "mlflow"), tmp_path / "snapshots"


def train(place, frame, told=TOLD):
    client, folder = place
    snapshot = training.keep(frame, folder)
    return training.train(client, training.kept(snapshot, folder), history(frame), told, snapshot)[0]


def runs(client) -> int:
    return len(client.search_runs([registry.experiment(client)]))


def versions(client) -> int:
    return len(client.search_model_versions(f"name = '{registry.NAME}'"))


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    "A folder in which one model has passed the gate. Copy it, do not write to it."
    folder = tmp_path_factory.mktemp("champion")
    decision = train((registry.connect(folder / "mlflow"), folder / "snapshots"), table())
    return folder, decision


@pytest.fixture
def trained(champion, tmp_path):
    "A copy of that folder: client and snapshots, and the decision."
    shutil.copytree(champion[0], tmp_path, dirs_exist_ok=True)
    return (registry.connect(tmp_path / "mlflow"), tmp_path / "snapshots"), champion[1]


def test_what_passes_is_registered_promoted_and_can_be_loaded(trained):
    (client, _), decision = trained

    assert decision["decision"] == "promoted" and decision["found"] is False and decision["reasons"] == []
    assert registry.load(client).digest == decision["model"]["digest"]
    assert registry.aliases(client)["champion"] == decision["model"]["version"]


def test_every_trial_is_a_run_with_what_is_needed_to_repeat_it(trained):
    (client, _), decision = trained
    found = {run.info.run_name: run for run in client.search_runs([registry.experiment(client)])}
    notes = {trial["name"]: trial["note"] for trial in decision["trials"]}

    assert set(found) == {"base rate", "per driver", *training.recipes(7), "final"}
    for name, run in found.items():
        assert run.data.tags["stage"] == "training" and run.data.tags["snapshot"] == decision["snapshot"]
        assert {"seed", "features", "code", "test_days"} <= set(run.data.params)
        assert "log_loss" in run.data.metrics
        assert ("model_digest" in run.data.tags) == (notes.get(name, "") == "")


def test_an_unchanged_key_is_found_and_makes_nothing_new(trained, monkeypatch):
    place, decision = trained
    monkeypatch.setattr(training, "judge", None)  # nothing is trained either
    before = runs(place[0]), versions(place[0])

    again = train(place, table())

    assert again == {**decision, "found": True}
    assert (runs(place[0]), versions(place[0])) == before


def test_two_runs_from_the_same_data_and_seed_decide_the_same_but_for_the_names_of_runs(champion, place):
    one, other = (without_run(decision) for decision in (train(place, table()), champion[1]))

    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def without_run(decision: dict) -> dict:
    return {**decision, "model": {name: value for name, value in decision["model"].items() if name != "run_id"}}


def test_a_found_key_does_not_undo_a_rollback(trained):
    place, first = trained
    second = train(place, table(), TOLD.model_copy(update={"seed": 8}))
    assert second["decision"] == "promoted" and second["model"]["version"] != first["model"]["version"]
    registry.rollback(place[0])

    again = train(place, table(), TOLD.model_copy(update={"seed": 8}))

    assert again["decision"] == "kept" and again["found"]
    assert registry.aliases(place[0])["champion"] == first["model"]["version"]


def test_a_refused_model_leaves_the_champion_and_no_version(trained):
    place, first = trained
    coin = table(signal=0.0, near_counts=0.0)

    decision = train(place, coin)

    assert decision["decision"] == "refused" and decision["reasons"]
    assert decision["model"]["version"] is None and versions(place[0]) == 1
    assert registry.aliases(place[0])["champion"] == first["model"]["version"]


def test_labels_of_one_class_end_in_a_decision_not_in_an_error(place):
    frame = table().assign(**{LABEL: table()[LABEL].where(table()[LABEL].isna(), 0.0)})

    decision = train(place, frame)

    assert decision["decision"] == "refused" and decision["model"]["digest"] is None
    assert train(place, frame)["found"]


def test_the_key_depends_on_data_parameters_code_and_libraries_but_not_on_the_truth(monkeypatch):
    def key(snapshot="a", **changes):
        return training.key_of(training.recipe_of(snapshot, TOLD.model_copy(update=changes)))

    assert key() == key(truth="out/truth.parquet")
    assert len({key(), key(seed=8), key(test_days=15), key(train_days=10), key("b")}) == 5
    before = key()
    monkeypatch.setattr(stages, "digest_of_code", lambda *modules: "other code")
    changed = key()
    monkeypatch.setattr(registry, "libraries", lambda: {"scipy": "1.99.0"})
    assert len({before, changed, key()}) == 3


def test_a_run_is_made_again_to_the_same_digest(trained, tmp_path):
    (client, _), decision = trained

    for run in client.search_runs([registry.experiment(client)], "tags.model_digest != ''"):
        kept, made = training.reproduce(tmp_path / "mlflow", run.info.run_id)
        assert kept == made == run.data.tags["model_digest"]
    assert decision["model"]["digest"] in {run.data.tags.get("model_digest") for run in client.search_runs([registry.experiment(client)])}


def test_a_run_on_the_newest_days_says_since_when_it_has_learned_and_is_made_again(place, tmp_path):
    decision = train(place, table(), TOLD.model_copy(update={"train_days": 10}))
    at = decision["windows"]

    tags = place[0].get_run(decision["model"]["run_id"]).data.tags
    assert (tags["since"], tags["until"]) == (at["since"], at["test"])
    assert pd.Timestamp(at["test"]) - pd.Timestamp(at["since"]) == pd.Timedelta(days=10)
    assert len(set(training.reproduce(tmp_path / "mlflow", decision["model"]["run_id"]))) == 1


def test_reproducing_says_that_the_code_has_changed_and_goes_on(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stages, "digest_of_code", lambda *modules: "other code")

    kept, made = training.reproduce(tmp_path / "mlflow", trained[1]["model"]["run_id"])

    assert kept == made and "the code has changed" in capsys.readouterr().out


def elsewhere(client, run_id: str) -> None:
    "Let a run's model be one that another SciPy has saved, and that holds what this one does not have."
    folder = registry.artifacts(client, run_id) / "model"
    pins, file = folder / "requirements.txt", folder / "model.skops"
    pins.write_text(re.sub(r"scipy==.*", "scipy==1.99.0", pins.read_text()))
    file.write_bytes(registry.canonical(skops.io.dumps(make_pipeline(FunctionTransformer(np.exp2), FunctionTransformer(print)))))
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    client.set_model_version_tag(registry.NAME, "1", "files", json.dumps(digests))


def test_a_champion_that_other_libraries_have_saved_is_logged_and_the_gate_asks_as_of_a_first_one(trained):
    client, folder = trained[0]
    elsewhere(client, trained[1]["model"]["run_id"])

    with telemetry.logging_to(folder / "log.jsonl", stage="training"):
        decision = train(trained[0], table(seed=8))

    assert decision["decision"] == "promoted" and decision["model"]["version"] == "2"
    assert {"RMSE", "uplift"} <= {check["name"] for check in decision["checks"]}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    [warned] = [line for line in lines if line["event"] == "no comparison with the champion"]
    assert "saved with scipy 1.99.0" in warned["reason"]


def test_reproducing_to_another_model_says_which_libraries_made_the_first(trained, tmp_path, capsys):
    client, run = trained[0][0], trained[1]["model"]["run_id"]
    elsewhere(client, run)
    client.set_tag(run, "model_digest", "0" * 64)

    kept, made = training.reproduce(tmp_path / "mlflow", run)

    assert kept != made
    assert f"made with scipy 1.99.0 (here {registry.libraries()['scipy']}): that may be why it differs" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "said"), [("deleted", "no snapshot"), ("altered", "was altered")])
def test_reproducing_without_the_snapshot_says_what_is_wrong_with_it(trained, tmp_path, damage, said):
    snapshot = tmp_path / f"snapshots/{trained[1]['snapshot']}.parquet"
    snapshot.unlink() if damage == "deleted" else snapshot.write_bytes(b"x")

    with pytest.raises(project.UserError, match=said):
        training.reproduce(tmp_path / "mlflow", trained[1]["model"]["run_id"])


def test_a_baseline_and_an_unknown_run_cannot_be_reproduced(trained, tmp_path):
    (client, _), _ = trained
    baseline = client.search_runs([registry.experiment(client)], "attributes.run_name = 'base rate'")[0].info.run_id

    with pytest.raises(project.UserError, match="has no model"):
        training.reproduce(tmp_path / "mlflow", baseline)
    with pytest.raises(project.UserError, match="no run"):
        training.reproduce(tmp_path / "mlflow", "0" * 32)


MOMENTS = ["log_model", "register", "promote"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_comes_back_to_the_same_end(champion, tmp_path, moment):
    killed = f"""
import os, sys
from pathlib import Path
import pandas as pd
from mlops_course import registry, training
folder, snapshot, told = Path(sys.argv[1]), sys.argv[2], training.TrainingSettings(test_days=14, validation_days=7, seed=7)
frame = training.kept(snapshot, folder / "snapshots")
history = pd.read_parquet(folder / "history.parquet")
calls, real = [], registry.{moment}
def once(*given, **named):
    calls.append(1)
    made = real(*given, **named)
    if len(calls) == {3 if moment == "log_model" else 1}:
        os.kill(os.getpid(), 9)
    return made
registry.{moment} = once
training.train(registry.connect(folder / "mlflow"), frame, history, told, snapshot)
"""
    place = (None, tmp_path / "snapshots")
    snapshot = training.keep(table(), place[1])
    history(table()).to_parquet(tmp_path / "history.parquet")
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path), snapshot], cwd=project.root(), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]

    client = registry.connect(tmp_path / "mlflow")
    decision = train((client, place[1]), table())

    assert decision["model"]["digest"] == champion[1]["model"]["digest"]
    assert decision["decision"] == "promoted" and registry.load(client).digest == decision["model"]["digest"]
    assert versions(client) == 1
    names = [run.info.run_name for run in client.search_runs([registry.experiment(client)])]
    assert sorted(names) == sorted(["base rate", "per driver", *training.recipes(7), "final"])


# the stage, on the small build


def test_the_stage_promotes_a_champion_and_its_interval_holds_the_truth(built):
    decision, truth = (json.loads((built / f"training/{name}.json").read_text()) for name in ("decision", "truth"))

    assert decision["decision"] == "promoted" and all(check["passed"] for check in decision["checks"])
    assert decision["metrics"]["rmse"] <= decision["thresholds"]["rmse"]
    assert decision["uplift"]["low"] <= truth["model_uplift"] <= decision["uplift"]["high"]
    assert truth["model_uplift"] < truth["oracle_uplift"]
    assert "passed the gate" in (built / "reports/training.html").read_text()


def test_the_report_is_for_those_who_do_not_see_it_too(built):
    report = (built / "reports/training.html").read_text()
    gain = json.loads((built / "training/decision.json").read_text())["uplift"]

    calibration, uplift = (html.unescape(words) for words in re.findall(r'<img alt="([^"]+)"', report))
    assert report.startswith('<!doctype html><html lang="en"><meta charset="utf-8"><title>Training</title>')
    assert len(re.findall(r"promised 0\.\d\d: 0\.\d\d came true", calibration)) == 10
    assert f"doubly robust {gain['estimate']:.2f}, from {gain['low']:.2f} to {gain['high']:.2f}" in uplift


def test_without_the_truth_the_model_and_the_decision_are_the_same(built, tmp_path):
    shutil.copytree(built, tmp_path / "blind", ignore=shutil.ignore_patterns("truth.*", "mlflow", "training"))
    assert not list((tmp_path / "blind").rglob("truth*"))

    run_stages(tmp_path / "blind", "training")

    blind, seeing = (json.loads((folder / "training/decision.json").read_text()) for folder in (tmp_path / "blind", built))
    assert without_run(blind) == without_run(seeing)
    assert not (tmp_path / "blind/training/truth.json").exists()


def test_the_decision_names_nothing_that_only_the_truth_knows(built):
    text = (built / "training/decision.json").read_text()
    truth = json.loads((built / "training/truth.json").read_text())

    assert "oracle" not in text
    assert not any(str(round(value, 4)) in text for value in (truth["oracle_uplift"], truth["model_uplift"]))


def test_products_that_were_lost_are_written_again_from_what_is_kept(built, tmp_path):
    shutil.copytree(built, tmp_path / "again")
    for lost in ("training/decision.json", "training/truth.json", "reports/training.html"):
        (tmp_path / "again" / lost).unlink()

    run_stages(tmp_path / "again", "training")

    for name in ("training/truth.json", "reports/training.html"):
        assert (tmp_path / "again" / name).read_bytes() == (built / name).read_bytes()
    decision, before = (json.loads((folder / "training/decision.json").read_text()) for folder in (tmp_path / "again", built))
    assert decision == {**before, "found": True}


def test_a_company_in_which_a_coin_decides_gets_no_champion(tmp_path, capsys):
    run_stages(tmp_path, "world", "data", "features", "training", world={"scenario": "no_signal"})

    decision = json.loads((tmp_path / "training/decision.json").read_text())
    assert decision["decision"] == "refused" and decision["model"]["version"] is None
    assert any("uplift" in reason for reason in decision["reasons"])
    assert "refused, no new champion" in capsys.readouterr().out


def test_features_of_the_contract_are_what_the_model_sees(trained):
    assert registry.load(trained[0][0]).features == CONTRACT.features
