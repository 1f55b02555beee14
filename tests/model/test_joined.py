"""Predictions and labels: each counted once, joined in whatever order they come, and forgotten in time."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rides import CONTRACT
from traffic import BEGIN, MONDAY, SETTINGS, entry

from mlops_course import joined
from mlops_course.joined import Label, LabelStore


@pytest.fixture
def store(tmp_path):
    made = LabelStore(tmp_path / "state.db", CONTRACT)
    yield made
    made.close()


def pairs(store: LabelStore) -> list[tuple]:
    return store.ask("SELECT request_id, label, version, score FROM labels WHERE joined ORDER BY request_id")


_events = st.lists(st.tuples(st.sampled_from(["prediction", "label", "other driver"]), st.integers(0, 5)), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_events)
def test_each_label_counts_once_in_whatever_order_it_comes(events, tmp_path_factory):
    store = LabelStore(tmp_path_factory.mktemp("any") / "state.db", CONTRACT)
    for kind, number in events:
        if kind == "prediction":
            store.add([entry(f"r{number}")])
        else:
            store.label([Label(f"r{number}", 1001 if kind == "label" else 1002, number % 2, 0.0)])
    first = {}  # what the first kept label of a request is about
    predicted = {number for kind, number in events if kind == "prediction"}
    known = set()
    for kind, number in events:
        if kind == "prediction":
            known.add(number)
            if first.get(number) == "other driver":
                del first[number]
        elif not (kind == "other driver" and number in known):
            first.setdefault(number, kind)
    right = sorted(number for number, kind in first.items() if kind == "label" and number in predicted)
    assert pairs(store) == [(f"r{number}", number % 2, "1", 0.7) for number in right]
    assert store.counts("labels").get("joined", 0) == len(right)
    assert store.counts("predictions").get("1", 0) == len(predicted)
    store.close()


def test_the_first_of_two_labels_counts(store):
    store.add([entry("r1")])
    assert store.label([Label("r1", 1001, 1, 0.0), Label("r1", 1001, 0, 0.0)]) == {"joined": 1, "conflict": 1}
    assert pairs(store) == [("r1", 1, "1", 0.7)]


def test_a_label_of_another_driver_is_not_joined(store):
    store.label([Label("r1", 1002, 1, 0.0)])
    store.add([entry("r1")])
    assert store.counts("labels") == {"unknown": 1, "early": 1}
    assert store.label([Label("r1", 1001, 0, 0.0)]) == {"joined": 1}, "the right one still finds its place"


def test_a_label_whose_prediction_never_comes_is_forgotten_and_counted(store):
    store.label([Label("lost", 1001, 1, MONDAY.timestamp())])
    store.add([entry("r1", minutes=60 * 24 * 40)])
    joined.forget(store, SETTINGS)
    assert store.counts("labels")["unknown"] == 1
    assert store.ask("SELECT count(*) FROM labels") == [(0,)]


def test_the_share_of_completed_trips_is_that_of_the_last_month(store):
    days = [0, 40, 41, 42]
    store.label([Label(f"r{day}", 1001, int(day != 41), (BEGIN + timedelta(days=day)).timestamp()) for day in days])
    assert joined.positive_share(store) == pytest.approx(2 / 3)


def test_a_window_is_of_one_version_and_its_newest_requests(store):
    store.add([entry(f"r{n}", version="12"[n % 2], minutes=n) for n in range(20)])
    window, _, _ = joined.window_of(store, "2", SETTINGS.model_copy(update={"window_requests": 3}))
    assert list(window[CONTRACT.booking]) == ["r15", "r17", "r19"]
    window, _, _ = joined.window_of(store, "2", SETTINGS.model_copy(update={"window_hours": 5 / 60}))
    assert list(window[CONTRACT.booking]) == ["r15", "r17", "r19"]
