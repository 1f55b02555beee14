"""The split is by time, every recipe gives probabilities, and the metrics keep their bounds."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import shop
from hypothesis import given, settings
from hypothesis import strategies as st
from rides import CONTRACT
from sklearn.linear_model import LogisticRegression

from mlops_course import models, registry
from mlops_course.kinds import promised
from mlops_course.problem import KNOWN
from mlops_course.project import UserError
from mlops_course.toy import company

ENTITY, FEATURES, LABEL, TIME = CONTRACT.entity, list(CONTRACT.features), CONTRACT.label, CONTRACT.time

FRAME, _ = company(CONTRACT, days=35)


def test_a_label_counts_only_from_when_it_was_known():
    frame = FRAME
    windows = models.windows_of(frame, 14, 7, CONTRACT)

    for name, part in models.split(frame, windows, CONTRACT).items():
        end = {"train": windows.validation, "validation": windows.test, "test": windows.end}[name]
        assert (part[KNOWN] <= end).all() and (part[TIME] < end).all()
    late = frame[LABEL].notna() & (frame[TIME] < windows.test) & (frame[KNOWN] > windows.test)
    assert late.any()
    assert not models.labelled(frame, None, windows.test, CONTRACT).index.intersection(frame.index[late]).size


def test_every_recipe_lives_with_missing_values_and_gives_probabilities():
    rows = FRAME.dropna(subset=[LABEL]).head(400)
    holes = rows.assign(
        **{FEATURES[0]: rows[FEATURES[0]].where(rows.index % 3 == 0), FEATURES[2]: rows[FEATURES[2]].where(rows.index % 5 == 0)}
    )
    unknown = rows.assign(**dict.fromkeys(FEATURES, np.nan))

    for name in models.recipes(7, CONTRACT):
        model = models.fit(name, holes, 7, CONTRACT)
        for asked in (rows, holes, unknown):
            score = models.probability(model, asked, CONTRACT)
            assert ((score >= 0) & (score <= 1)).all(), name


def test_the_seeds_elastic_net_never_promises_more_than_everything():
    rows = FRAME.dropna(subset=[LABEL]).head(2000)
    model = models.fit("elastic net", rows.assign(**{LABEL: (rows[FEATURES[0]] > 0.6).astype(float)}), 7, CONTRACT)
    extreme = pd.DataFrame([[5.0, 1, 9], [-5.0, 1, 9]], columns=FEATURES)

    assert models.probability(model, extreme, CONTRACT).tolist() == [1.0, 0.0]


def test_the_same_rows_and_seed_give_the_same_model_bytes(tmp_path):
    rows = FRAME.dropna(subset=[LABEL]).head(3000)

    for name in models.recipes(7, CONTRACT):
        digests = {registry.save_model(models.fit(name, rows, 7, CONTRACT), tmp_path / f"{name}{i}", CONTRACT.kinds) for i in range(2)}
        assert len(digests) == 1, name


def test_the_driver_with_few_trips_is_held_near_the_average():
    train = pd.DataFrame({ENTITY: [1] * 100 + [2], LABEL: [1.0] * 50 + [0.0] * 50 + [1.0]})

    one, two, stranger = models.per_entity(train, pd.DataFrame({ENTITY: [1, 2, 3]}), CONTRACT)

    assert one == pytest.approx(0.5, abs=0.01)
    assert 0.5 < two < 0.55
    assert stranger == train[LABEL].mean()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_metrics_stay_within_their_bounds(rows):
    label, score = (np.array(column, float) for column in zip(*rows, strict=True))

    measured = models.measure(label, score)

    assert 0 <= measured["mae"] <= measured["rmse"] + 1e-12 <= 1 + 1e-9
    assert 0 <= measured["calibration_error"] <= 1
    assert measured["log_loss"] >= 0
    assert measured["auc"] is None if len(set(label)) < 2 else 0 <= measured["auc"] <= 1


def test_metrics_of_nothing_are_not_measurable():
    assert set(models.measure([], []).values()) == {None}


def test_a_perfect_promise_has_no_calibration_error_and_a_wrong_one_has():
    draw = np.random.default_rng(0)
    score = draw.random(20_000)
    label = draw.random(20_000) < score

    assert models.measure(label, score)["calibration_error"] < 0.02
    assert models.measure(label, score**3)["calibration_error"] > 0.15


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=1, max_size=40))
def test_the_area_under_the_curve_counts_the_pairs_in_order_ties_by_half_and_is_none_for_one_class(rows):
    label, score = np.array(rows).T

    area = models.measure(label, score / 6)["auc"]

    pairs = np.sign(np.subtract.outer(score[label == 1], score[label == 0]))
    assert area is None if not pairs.size else area == pytest.approx((pairs.mean() + 1) / 2)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_the_log_loss_is_the_mean_of_its_rows(rows):
    label, score = (np.array(column, float) for column in zip(*rows, strict=True))

    assert models.measure(label, score)["log_loss"] == pytest.approx(models.row_log_loss(label, score).mean())


def test_days_to_train_on_must_be_left_before_the_validation():
    with pytest.raises(UserError, match="no day is left to train on"):
        models.windows_of(FRAME, 14, 5, CONTRACT, train_days=5)


# a project with categories, booleans and a feature that never varies

ORDERS = shop.examples(days=20)


@cache
def of_shop(name: str):
    return models.fit(name, ORDERS, 7, shop.CONTRACT)


known = st.sampled_from(["Hanoi", "Hue", "Vinh"])
odd = st.sampled_from([None, "", np.nan, "Sa Pa", "Atlantis"])  # missing, rare in training, and never seen
number = st.none() | st.floats(-1e3, 1e3)
order = st.tuples(number, st.none() | st.booleans(), known | odd, number, number, st.sampled_from(["phone", "laptop"]) | odd)


@pytest.mark.parametrize("name", models.recipes(7, shop.CONTRACT))
@settings(max_examples=25, deadline=None)
@given(st.lists(order, min_size=1, max_size=20))
def test_a_row_has_one_probability_alone_and_among_others_to_the_last_bit(name, orders):
    rows = pd.DataFrame(orders, columns=list(shop.CONTRACT.features), dtype=object)

    together = models.probability(of_shop(name), rows, shop.CONTRACT)

    alone = [models.probability(of_shop(name), rows.iloc[[row]], shop.CONTRACT)[0] for row in range(len(rows))]
    assert ((together >= 0) & (together <= 1)).all() and together.tolist() == alone


@pytest.mark.parametrize("name", models.recipes(7, shop.CONTRACT))
def test_a_category_that_was_never_seen_is_like_one_that_is_rare_and_missing_has_one_meaning(name):
    rows = pd.concat([ORDERS.head(1)] * 5, ignore_index=True).assign(city=["Sa Pa", "Atlantis", None, "", np.nan])

    rare, unseen, *missing = models.probability(of_shop(name), rows, shop.CONTRACT)

    assert len(set(missing)) == 1
    assert rare == unseen or name == "gradient boosting"


@pytest.mark.parametrize("name", models.recipes(7, shop.CONTRACT))
def test_a_model_with_categories_comes_back_from_its_file(tmp_path, name):
    digests = {registry.save_model(models.fit(name, ORDERS, 7, shop.CONTRACT), tmp_path / str(i), shop.CONTRACT.kinds) for i in range(2)}
    again = registry.loads((tmp_path / "0/model.skops").read_bytes())

    assert len(digests) == 1
    assert (models.probability(again, ORDERS, shop.CONTRACT) == models.probability(of_shop(name), ORDERS, shop.CONTRACT)).all()


@pytest.mark.parametrize(("score", "sign"), [("rises", 1), ("falls", -1)])
def test_boosting_keeps_the_direction_of_the_contract_behind_the_encoder_too(score, sign):
    features = shop.CONTRACT.features
    turned = shop.CONTRACT.model_copy(update={"features": {**features, "basket": features["basket"].model_copy(update={"score": score})}})
    model = models.fit("gradient boosting", ORDERS, 7, turned)
    steps = pd.concat([ORDERS.head(1)] * 50, ignore_index=True).assign(basket=np.linspace(0, 300, 50))

    assert (sign * np.diff(models.probability(model, steps, turned)) >= 0).all()
    fell = models.behaviour(of_shop("gradient boosting"), ORDERS, turned)[-1]
    assert fell.name == "direction: basket" and fell.passed is (score == "rises")


def test_a_model_of_numbers_alone_has_one_probability_too():
    model = models.fit("logistic regression", FRAME.dropna(subset=[LABEL]), 7, CONTRACT)

    together = models.probability(model, FRAME.head(301), CONTRACT)

    assert together.tolist() == [models.probability(model, FRAME.iloc[[row]], CONTRACT)[0] for row in range(301)]


def test_a_feature_that_is_known_only_of_late_leaves_every_recipe_a_candidate():
    late = ORDERS.assign(orders=ORDERS.orders.where(ORDERS.index > 500))
    parts = {"train": late.head(2000), "validation": late.tail(1000)}

    tried = {trial.name: trial.note for trial in models.compare(parts, 7, shop.CONTRACT)}

    assert tried["gradient boosting"] == ""


@pytest.mark.parametrize("features", [3, 8, 20])
def test_a_row_of_many_numbers_has_one_probability_too(features):
    draw = np.random.default_rng(features)
    table = pd.DataFrame(draw.normal(size=(301, features)), columns=[f"f{i}" for i in range(features)])
    model = LogisticRegression().fit(table, table.f0 + draw.normal(size=301) > 0)

    together = promised(model, table, dict.fromkeys(table, "number"))

    assert together.tolist() == [promised(model, table.iloc[[row]], dict.fromkeys(table, "number"))[0] for row in range(301)]
