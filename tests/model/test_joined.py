"""Predictions and labels: each counted once, joined in whatever order they come, and forgotten in time."""

import sqlite3
from contextlib import closing
from datetime import timedelta

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from old_state import TABLES, put_back
from rides import CONTRACT
from traffic import BEGIN, MONDAY, SETTINGS, entry

from mlops_course import joined
from mlops_course.joined import Label, LabelStore, Source
from mlops_course.problem import KNOWN


@pytest.fixture
def store(tmp_path):
    made = LabelStore(tmp_path / "state.db", CONTRACT)
    yield made
    made.close()


def pairs(store: LabelStore) -> list[tuple]:
    return store.ask("SELECT request_id, label, version, score FROM predictions WHERE label IS NOT NULL ORDER BY request_id, version")


KINDS = {  # of what comes: version, role, driver
    "prediction": ("1", "champion", 1001),
    "shadow": ("2", "shadow", 1001),
    "other shadow": ("3", "shadow", 1002),
    "label": (None, None, 1001),
    "other driver": (None, None, 1002),
    "killed": (None, None, None),
}
_events = st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 5)), max_size=60)


def killed(store: LabelStore, file) -> LabelStore:
    "The store of a service that was killed in the middle of a transaction, opened again."
    store._db.execute("BEGIN IMMEDIATE")
    store._db.execute("DELETE FROM labels")
    store._db.execute("UPDATE predictions SET label = 1 - label")
    store._db.close()
    return LabelStore(file, CONTRACT)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_events)
def test_each_label_counts_once_in_whatever_order_it_comes(events, tmp_path_factory):
    file = tmp_path_factory.mktemp("any") / "state.db"
    store = LabelStore(file, CONTRACT)
    for kind, number in events:
        version, role, driver = KINDS[kind]
        if kind == "killed":
            store = killed(store, file)
        elif role:
            store.add([{**entry(f"r{number}", driver, version), "role": role}])
        else:
            store.label([Label(f"r{number}", driver, number % 2, 0.0)])
    first = {}  # what the first kept label of a request is about
    seen = {kind: {number for other, number in events if other == kind} for kind in KINDS}
    known = set()
    for kind, number in events:
        if kind == "prediction":
            known.add(number)
            if first.get(number) == "other driver":
                del first[number]
        elif kind in ("label", "other driver") and not (kind == "other driver" and number in known):
            first.setdefault(number, kind)
    right = {number for number, kind in first.items() if kind == "label"} & seen["prediction"]
    rows = [(f"r{n}", n % 2, "1", 0.7) for n in right] + [(f"r{n}", n % 2, "2", 0.7) for n in right & seen["shadow"]]
    assert pairs(store) == sorted(rows), "and no shadow that chose another driver"
    assert store.counts("labels").get("joined", 0) == len(right), "a pair of a shadow is no further trip"
    assert store.ask("SELECT count(*) FROM labels WHERE joined") == [(len(right),)]
    assert store.counts("predictions") == {KINDS[kind][0]: len(n) for kind, n in seen.items() if KINDS[kind][1] and n}
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
    window, _, _ = joined.window_of(store, Source("2"), SETTINGS.model_copy(update={"window_requests": 3}))
    assert list(window[CONTRACT.booking]) == ["r15", "r17", "r19"]
    window, _, _ = joined.window_of(store, Source("2"), SETTINGS.model_copy(update={"window_hours": 5 / 60}))
    assert list(window[CONTRACT.booking]) == ["r15", "r17", "r19"]


# ---- who answered


def in_arm(number: int, arm: str, version: str = "1", **about) -> dict:
    "An answer in the experiment march."
    return {**entry(f"r{number}", version=version, minutes=number / 100), "experiment": "march", "arm": arm, **about}


def test_a_shadow_of_the_same_request_is_kept_beside_the_champion_and_is_no_unknown(store):
    assert store.add([entry("r1"), {**entry("r1", 1002, "2"), "role": "shadow"}] * 2) == {"new": 2}
    assert store.label([Label("r1", 1001, 1, 0.0)]) == {"joined": 1}
    assert store.counts("labels") == {"joined": 1}
    assert joined.sources_of(store, SETTINGS) == [Source("1"), Source("2", "shadow")]
    shadow, labelled, unlabelled = joined.window_of(store, Source("2", "shadow"), SETTINGS)
    assert list(shadow[CONTRACT.booking]) == ["r1"] and labelled.empty and unlabelled == 1


def test_a_shadow_alone_decides_nothing_about_a_label(store):
    store.add([{**entry("r1", version="2"), "role": "shadow"}])
    assert store.label([Label("r1", 1001, 1, 0.0)]) == {"early": 1} and pairs(store) == []
    store.add([entry("r1", 1002)])
    assert store.counts("labels") == {"early": 1, "unknown": 1} and pairs(store) == [], "what the shadow would have done has not happened"


@pytest.mark.parametrize(
    "strange",
    [{"role": "king"}, {"role": ["champion"]}, {"experiment": 7, "arm": "a"}, {"experiment": ["x"], "arm": "a"}, {"propensity": "high"}],
)
def test_an_entry_whose_source_cannot_be_read_costs_no_other(store, strange):
    assert store.add([{**entry("r1"), **strange}, entry("r2")]) == {"unreadable": 1, "new": 1}


def test_propensity_and_arm_stand_beside_the_label(store):
    store.add([in_arm(1, "treatment", "2", role="challenger", propensity=0.05)])
    store.label([Label("r1", 1001, 1, 0.0)])
    joined_rows = "SELECT version, role, arm, propensity, label FROM predictions WHERE label IS NOT NULL"
    assert store.ask(joined_rows) == [("2", "challenger", "march/treatment", 0.05, 1)]


def test_a_small_arm_counts_while_it_answers_and_an_old_champion_does_not(store):
    old = [entry(f"old{n}", version="0", minutes=n / 100 - 60) for n in range(1_000)]
    rare = [in_arm(n, "treatment", "2", role="challenger") if n % 100 == 0 else in_arm(n, "control") for n in range(1_500)]
    store.add([*old, *rare])
    control, treatment = Source("1", "champion", "march/control"), Source("2", "challenger", "march/treatment")
    assert joined.sources_of(store, SETTINGS) == [control, treatment]
    store.add(in_arm(n, "control") for n in range(1_500, 2_400))
    assert joined.sources_of(store, SETTINGS) == [control, treatment], "it is silent for 999 requests, ten times its gap is 1,000"
    store.add([in_arm(2_400, "control"), in_arm(2_401, "control")])
    assert joined.sources_of(store, SETTINGS) == [control]


def test_shadows_make_no_source_older(store):
    store.add(entry(f"r{n}", version="01"[n > 100], minutes=n) for n in range(101 + SETTINGS.active_requests // 2))
    store.add({**entry(f"r{n}", version=v, minutes=n), "role": "shadow"} for n in range(101 + SETTINGS.active_requests // 2) for v in "89")
    assert [source.version for source in joined.sources_of(store, SETTINGS)] == ["0", "1", "8", "9"]


def test_an_arm_of_one_percent_is_missing_at_less_than_one_of_2000_requests_once_it_has_answered_ten_times():
    missing = asked = 0
    for seed in range(20):
        arm = np.flatnonzero(np.random.default_rng(seed).random(100_000) < 0.01)
        now = np.arange(arm[9], 100_000)
        last, first = np.searchsorted(arm, now, "right"), np.searchsorted(arm, now - joined.RECENT, "right")
        newest = arm[last - 1]
        known = zip((now - newest).tolist(), (last - first).tolist(), (newest - arm[first]).tolist(), strict=True)
        missing, asked = missing + sum(not joined._counts(*each, SETTINGS) for each in known), asked + len(now)
    assert missing / asked < 1 / 2_000


def test_candidates_of_a_small_arms_window_stay_and_the_rest_is_bounded(store):
    few = SETTINGS.model_copy(update={"window_requests": 5})
    store.add(in_arm(n, "treatment" if n % 100 == 0 else "control") for n in range(1_501))
    joined.forget(store, few)
    window, _, _ = joined.window_of(store, Source("1", "champion", "march/treatment"), few)
    assert list(window[CONTRACT.booking]) == ["r1100", "r1200", "r1300", "r1400", "r1500"]
    ((kept,),) = store.ask("SELECT count(*) FROM predictions WHERE candidates IS NOT NULL")
    assert kept <= (joined.WINDOWS + 2) * few.window_requests
    assert store.ask("SELECT count(*) FROM predictions") == [(1_501,)]


def test_who_has_been_forgotten_is_no_source(store):
    store.add([entry("old"), entry("new", version="2", minutes=60 * 24 * 40)])
    joined.forget(store, SETTINGS)
    assert store.ask("SELECT version FROM sources") == [("2",)]


def test_a_database_without_roles_goes_on_and_loses_nothing(tmp_path):
    file, moment = tmp_path / "state.db", MONDAY.timestamp()
    blob = orjson.dumps({"names": [KNOWN, *CONTRACT.features], "rows": [[1001, 0.7, moment - 60, 0.6, 0.7, 9.0]]})
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(f"{TABLES} CREATE TABLE counts (name TEXT, of TEXT, n INTEGER, PRIMARY KEY (name, of));")
        db.executescript("CREATE TABLE files (name TEXT PRIMARY KEY, read INTEGER); PRAGMA user_version = 3;")
        predicted = [(3 + n, f"r{n}", moment + n, "1", 1001, 0.7, blob if n else None) for n in range(4)]
        db.executemany("INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?)", predicted)
        ended = [(f"r{n}", 1001, n % 2, moment + n, 1, "1", moment + n, 0.7) for n in range(3)]
        db.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [*ended, ("waits", 1001, 1, moment, 0, None, None, None)])
        db.executescript("INSERT INTO counts VALUES ('labels', 'joined', 3); INSERT INTO files VALUES ('2026-03-02.jsonl', 99);")
    for _ in range(2):  # and once more
        with closing(LabelStore(file, CONTRACT)) as store:
            assert store.ask("PRAGMA user_version") == [(4,)]
            rows = store.ask("SELECT number, request_id, time, version, entity, score, candidates FROM predictions ORDER BY number")
            assert rows == predicted and joined.sources_of(store, SETTINGS) == [Source("1")]
            assert pairs(store) == [("r0", 0, "1", 0.7), ("r1", 1, "1", 0.7), ("r2", 0, "1", 0.7)]
            assert store.counts("labels") == {"joined": 3} and store.ask("SELECT * FROM files") == [("2026-03-02.jsonl", 99)]
            window, labelled, unlabelled = joined.window_of(store, Source("1"), SETTINGS)
            assert (len(window), len(labelled)) == (3, 3) and unlabelled == pytest.approx(1 / 3)
            tables = {name for (name,) in store.ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert tables == {"predictions", "labels", "sources", "counts", "files"}
    with closing(LabelStore(file, CONTRACT)) as store:
        assert store.label([Label("r2", 1001, 0, 0.0), Label("r3", 1001, 1, 0.0)]) == {"duplicate": 1, "joined": 1}
        assert store.add([entry("r3"), entry("waits"), {**entry("r3", version="2"), "role": "shadow"}]) == {"new": 2}
        assert [row[:3] for row in pairs(store)[3:]] == [("r3", 1, "1"), ("r3", 1, "2"), ("waits", 1, "1")]


def test_a_service_killed_while_it_brings_a_database_up_to_date_finds_it_as_it_was(tmp_path, monkeypatch):
    with closing(LabelStore(tmp_path / "state.db", CONTRACT)) as store:
        store.add([entry("r1")])
        store.label([Label("r1", 1001, 1, 0.0)])
    put_back(tmp_path / "state.db")
    with monkeypatch.context() as patch, pytest.raises(sqlite3.OperationalError):
        patch.setattr(joined, "_TAKEN_OVER", joined._TAKEN_OVER + "; killed")
        LabelStore(tmp_path / "state.db", CONTRACT)
    with closing(LabelStore(tmp_path / "state.db", CONTRACT)) as store:
        assert pairs(store) == [("r1", 1, "1", 0.7)]
