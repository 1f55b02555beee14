"""The proof of concept: the model by hand, trials that are found again, the verdict."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rides import RIDES
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mlops_course import poc, registry


@pytest.fixture
def rows() -> pd.DataFrame:
    "Two features of which the first one matters, and the label."
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2_000, 2))
    label = rng.random(2_000) < 1 / (1 + np.exp(-(0.4 + 1.5 * x[:, 0])))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": label.astype(int)})


@pytest.fixture
def client(tmp_path):
    return registry.connect(tmp_path / "mlflow", RIDES.name)


def keep(client, rows, name="logistic", features=("a", "b"), **parameters) -> str:
    return poc.track(client, name, rows, list(features), parameters, {"rmse": 0.4})


def test_the_model_by_hand_says_what_scikit_learn_says(rows):
    x, label = rows[["a", "b"]].to_numpy(), rows.label.to_numpy()

    hand = poc.by_hand(poc.fit_by_hand(x, label), x, reference=x)

    z = StandardScaler().fit_transform(x)
    library = LogisticRegression(C=1e9).fit(z, label).predict_proba(z)[:, 1]
    assert abs(hand - library).max() < 0.01


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1))
def test_rmse_is_between_0_and_1_and_0_only_for_the_truth(pairs):
    label, score = map(np.array, zip(*pairs, strict=True))

    assert 0 <= poc.rmse(label, score) <= 1
    assert poc.rmse(label, label) == 0


def test_the_same_trial_is_found_and_any_difference_makes_another(client, rows):
    first = keep(client, rows, C=1)

    assert keep(client, rows, C=1) == first
    others = [
        keep(client, rows, C=2),
        keep(client, rows, features=("a",), C=1),
        keep(client, rows.head(1_000), C=1),
        keep(client, rows, "other", C=1),
    ]
    assert len({first, *others}) == 5


def test_a_trial_that_did_not_end_is_made_again(client, rows, monkeypatch):
    monkeypatch.setattr(client, "set_terminated", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep(client, rows)
    monkeypatch.undo()

    assert keep(client, rows) in poc.table(client).run.tolist()
    assert len(poc.table(client)) == 1


def test_the_table_has_the_best_trial_first_and_the_digest_of_its_data(client, rows):
    poc.track(client, "worse", rows, ["a"], {}, {"rmse": 0.45})
    poc.track(client, "better", rows, ["a", "b"], {}, {"rmse": 0.41})

    table = poc.table(client)

    assert table.trial.tolist() == ["better", "worse"]
    assert table.features.tolist() == ["a, b", "a"]
    assert table.data.nunique() == 1


@pytest.mark.parametrize(("rmse", "verdict"), [(0.46, True), (0.48, False), (0.49, False), (0.51, False)])
def test_a_proof_of_concept_passes_under_the_limit_and_better_than_no_model(rmse, verdict):
    assert poc.passed(rmse, base=0.48, limit=0.5) is verdict


def test_a_base_rate_above_the_limit_does_not_lower_it():
    assert poc.passed(0.49, base=0.6, limit=0.5)
    assert not poc.passed(0.55, base=0.6, limit=0.5)


def test_the_link_names_the_runs_that_mlflow_shall_compare(client):
    assert poc.link(client, ["r1", "r2"], port=5001).startswith("http://127.0.0.1:5001/#/compare-runs?runs=%5B%22r1%22%2C%20%22r2%22%5D")
