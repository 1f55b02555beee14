"""Monitoring of another project: entities of text, values of three kinds, and a service that speaks the project's words."""

import re
import sqlite3
from contextlib import closing

import orjson
import pandas as pd
import pytest
import shop
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orders import BEGIN, LATER, SETTINGS, logged, orders
from rides import CONTRACT as RIDES_CONTRACT
from rides import RIDES
from shop import CONTRACT, SHOP
from traffic import SETTINGS as TRAFFIC
from traffic import entry

from mlops_course import clocks, joined, messages, models, monitoring, references, registry, reports
from mlops_course.drift import judge, reference_of
from mlops_course.joined import Label, LabelStore, Source
from mlops_course.monitoring import Monitor
from mlops_course.problem import KNOWN, Feature
from mlops_course.quality import known_columns


@pytest.fixture(autouse=True)
def clock():
    "A service lets the clock run; the next test has one that stands still."
    yield
    clocks.leave()


@pytest.fixture
def store(tmp_path):
    made = LabelStore(tmp_path / "state.db", CONTRACT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def usual():
    return reference_of(orders(1), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)


# ---- the store


def line(number: int = 1, customer: str = "007", **values) -> dict:
    (entry,), _ = logged(orders(number, 1).head(1).assign(**{CONTRACT.entity: customer}))
    entry["candidates"][0]["values"].update(values)
    return {**entry, "request_id": f"o-{number}"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(customer=st.text(min_size=1, max_size=20).filter(lambda name: name.encode("utf-8", "ignore").decode() == name and "\0" not in name))
@pytest.mark.filterwarnings("ignore")
def test_an_entity_is_kept_as_it_is_named(customer, tmp_path_factory):
    with closing(LabelStore(tmp_path_factory.mktemp("any") / "state.db", CONTRACT)) as store:
        assert store.add([line(customer=customer)]) == {"new": 1}
        assert store.label([Label("o-1", customer, 1, 0.0)]) == {"joined": 1}
        window, _, _ = joined.window_of(store, Source("1"), SETTINGS)
        assert window[CONTRACT.entity].tolist() == [customer]


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("1e3", "1000"), ("1.0", "1")])
def test_texts_that_are_the_same_number_are_two_entities(store, one, other):
    store.add([line(customer=one)])
    assert store.label([Label("o-1", other, 1, 0.0), Label("o-1", one, 1, 0.0)]) == {"unknown": 1, "joined": 1}


def test_a_window_has_values_of_their_kinds(store):
    rows = orders(1, 5)
    store.add(logged(rows)[0])
    window, _, _ = joined.window_of(store, Source("1"), SETTINGS)
    assert {name: window[name].dtype.name for name in CONTRACT.features} == {
        name: "object" if kind == "category" else "float64" for name, kind in CONTRACT.kinds.items()
    }
    same = rows.set_index(CONTRACT.booking)[list(CONTRACT.features)]
    features = window.set_index(CONTRACT.booking)[list(CONTRACT.features)]
    pd.testing.assert_frame_equal(features, same, check_dtype=False)
    assert set(window.city) == {"Bern", "Basel", "Chur", None}


def test_a_boolean_may_be_one_in_the_log(store):
    store.add([line(member=True)])
    assert joined.window_of(store, Source("1"), SETTINGS)[0].member.tolist() == [1.0]


@pytest.mark.parametrize(
    "values", [{"city": 3}, {"city": True}, {"orders": "3"}, {"orders": True}, {"member": "yes"}, {"device": ["phone"]}]
)
def test_a_value_of_another_kind_makes_a_line_unreadable(store, values):
    assert store.add([line(**values), line(2)]) == {"unreadable": 1, "new": 1}


@pytest.mark.parametrize("who", [7, None, ["007"]])
def test_a_number_is_no_name(store, who):
    assert store.add([{**line(), "candidates": [{**line()["candidates"][0], CONTRACT.entity: who}]}]) == (
        {"new": 1} if who is None else {"unreadable": 1}
    )


def test_values_are_kept_by_name(tmp_path):
    with closing(LabelStore(tmp_path / "state.db", CONTRACT)) as store:
        store.add([line(orders=3.0, city="Chur")])
    others = {"city": CONTRACT.features["city"], "orders": CONTRACT.features["orders"], "late": Feature(table="habits")}
    column = CONTRACT.column("habits", "orders").model_copy(update={"name": "late"})
    habits = CONTRACT.tables["habits"]
    tables = {**CONTRACT.tables, "habits": habits.model_copy(update={"columns": (*habits.columns, column)})}
    changed = CONTRACT.model_copy(update={"features": others, "tables": tables})
    with closing(LabelStore(tmp_path / "state.db", changed)) as store:
        window, _, _ = joined.window_of(store, Source("1"), SETTINGS)
    assert window[["city", "orders"]].to_numpy().tolist() == [["Chur", 3.0]] and window.late.isna().all()


def test_each_table_of_features_may_have_a_time_of_its_own(tmp_path):
    two = CONTRACT.model_copy(
        update={
            "tables": {**CONTRACT.tables, "places": CONTRACT.tables["habits"]},
            "features": {**CONTRACT.features, "city": Feature(table="places")},
        }
    )
    one, own = line(1), line(2)
    own["candidates"][0][KNOWN] = {"habits": BEGIN.isoformat()}
    with closing(LabelStore(tmp_path / "state.db", two)) as store:
        assert store.add([one, own]) == {"new": 2}
        window, _, _ = joined.window_of(store, Source("1"), SETTINGS)
    habits, places = window[list(known_columns(two).values())].to_numpy().T
    assert habits[0] == places[0] == pd.Timestamp(one["candidates"][0][KNOWN])
    assert habits[1] == pd.Timestamp(BEGIN) and pd.isna(places[1])


BEFORE = """
CREATE TABLE predictions (number INTEGER PRIMARY KEY, request_id TEXT UNIQUE,
    time REAL, version TEXT, entity INTEGER, score REAL, candidates BLOB);
CREATE TABLE labels (request_id TEXT PRIMARY KEY, entity INTEGER, label INTEGER,
    time REAL, joined INTEGER, version TEXT, booked REAL, score REAL);
PRAGMA user_version = 2;
"""


def test_a_database_whose_candidates_have_no_names_goes_on(tmp_path):
    first, second = entry("r1"), entry("r2", minutes=1)
    with closing(LabelStore(tmp_path / "new.db", RIDES_CONTRACT)) as store:
        store.add([first])
        ((row,),) = store.ask("SELECT candidates FROM predictions")
        fresh, _, _ = joined.window_of(store, Source("1"), TRAFFIC)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as before:
        before.executescript(BEFORE)
        moment = pd.Timestamp(first["time"]).timestamp()
        before.execute("INSERT INTO predictions VALUES (1, 'r1', ?, '1', 1001, 0.7, ?)", [moment, orjson.dumps(orjson.loads(row)["rows"])])
        before.execute("INSERT INTO predictions VALUES (2, 'r0', ?, '1', 1001, 0.7, NULL)", [moment - 60])
    for _ in range(2):  # and once more
        with closing(LabelStore(tmp_path / "state.db", RIDES_CONTRACT)) as store:
            assert store.ask("PRAGMA user_version") == [(4,)]
            assert store.ask("SELECT candidates FROM predictions ORDER BY number") == [(row,), (None,)]
            window, _, _ = joined.window_of(store, Source("1"), TRAFFIC)
            pd.testing.assert_frame_equal(window, fresh)
    with closing(LabelStore(tmp_path / "state.db", RIDES_CONTRACT)) as store:
        store.add([second])
        assert store.label([Label("r1", 1001, 1, 0.0), Label("r2", 1001, 0, 0.0)]) == {"joined": 2}
        assert len(joined.window_of(store, Source("1"), TRAFFIC)[0]) == 2


# ---- references and reports


def test_where_nobody_chose_each_row_is_a_request():
    rows = orders(1, 1)
    pd.testing.assert_frame_equal(references._requests(rows, CONTRACT), rows)
    nameless = references._requests(rows.drop(columns=CONTRACT.booking), CONTRACT)
    assert nameless[CONTRACT.booking].nunique() == len(rows)
    assert references._requests(rows.assign(request_id=None), RIDES_CONTRACT).empty


def test_a_reference_is_made_of_what_a_version_has_learned_from(tmp_path):
    rows = shop.examples()
    client = registry.connect(tmp_path / "mlflow", SHOP.name)
    run = client.create_run(registry.experiment(client)).info.run_id
    registry.log_model(client, run, models.fit("logistic regression", rows, 1, CONTRACT), CONTRACT.kinds)
    client.set_tag(run, "until", rows[CONTRACT.time].quantile(0.6).isoformat())
    client.set_terminated(run)
    registry.promote(client, registry.register(client, run, "key", {"snapshot": "orders", "code": "abc"}))
    (tmp_path / "snapshots").mkdir()
    rows.to_parquet(tmp_path / "snapshots/orders.parquet", index=False)
    monitor = Monitor(tmp_path, SETTINGS, SHOP)
    monitoring.refer(monitor)
    made = monitor.references["1"]
    assert dict(monitor.trouble) == {} and made.traffic and made.performance
    assert made.categories["city"] == {"Hanoi", "Hue", "Vinh", "Sa Pa"}
    moved = rows.tail(SETTINGS.window_requests).assign(score=made.units.score.mean(), city="Bern")
    verdict = judge(moved, moved[[CONTRACT.label, "score"]], made, SETTINGS, CONTRACT)
    assert verdict.scores["city"] >= 1 and verdict.quality["new_category"] == 1
    monitor.store.close()


def test_a_kept_reference_has_its_categories_again(tmp_path, usual):
    references.keep_reference(tmp_path, "1", usual, SETTINGS, SHOP)
    again = references.kept_reference(tmp_path, "1", SETTINGS, SHOP)
    window = orders(50, 7, LATER).tail(SETTINGS.window_requests)
    both = [judge(window, window[[CONTRACT.label, "score"]], each, SETTINGS, CONTRACT) for each in (usual, again)]
    assert both[0] == both[1] and again.categories == usual.categories
    assert references.kept_reference(tmp_path, "1", SETTINGS, RIDES) is None, "of another project"


@pytest.mark.parametrize(
    "changes",
    [{}, {"city": "Genf"}, {"city": None, "member": 1.0}, {"device": "tablet", "basket": 1e4}],
    ids=["nothing", "a new city", "no city, all members", "another device, large baskets"],
)
def test_a_report_says_what_the_verdict_says(tmp_path, usual, changes):
    window = orders(50, 7, LATER).tail(SETTINGS.window_requests).assign(**changes)
    reports.report(window, usual, SETTINGS, tmp_path / "report.html", CONTRACT)
    page = (tmp_path / "report.html").read_text()
    scores = judge(window, window[[CONTRACT.label, "score"]], usual, SETTINGS, CONTRACT).scores.items()
    moved = [name for name, share in scores if share >= 1 and name in CONTRACT.features]
    assert page.count("Data drift detected") == len(moved) == len(changes)
    assert ("(not seen before)" in page) == ("tablet" in changes.values() or "Genf" in changes.values())


# ---- the service


@pytest.fixture
def served(tmp_path, usual):
    monitor = Monitor(tmp_path, SETTINGS, SHOP)
    monitor.references["1"] = usual
    with TestClient(monitoring.application(monitor), raise_server_exceptions=False) as client:
        yield client, monitor


def test_the_service_speaks_the_projects_words(served):
    client, _ = served
    described = client.get("/openapi.json").json()
    assert described["info"]["title"] == "Monitoring of order return"
    assert list(described["components"]["schemas"]["Ended"]["properties"]) == ["request_id", "customer", "returned", "event_timestamp"]
    assert not re.findall("driver|trip|rate", client.get("/openapi.json").text)


def test_the_seed_courses_form_is_offered_only_where_a_request_has_it(served):
    assert served[0].post("/iterate", json={}).status_code == 404
    assert messages.iteration_type(RIDES_CONTRACT) and not messages.iteration_type(CONTRACT)


def test_labels_and_predictions_come_over_http(served):
    client, monitor = served
    entries, labels = logged(orders(50, 7, LATER).tail(300))
    ended = [{"request_id": e.request_id, "customer": e.entity, "returned": e.label} for e in labels]
    assert client.post("/labels", json=ended[:100]).json() == {"early": 100}
    assert client.post("/predictions", json=entries).json() == {"new": 300}
    assert client.post("/labels", json=ended).json() == {"joined": 200, "duplicate": 100}
    monitor.look()
    verdict = monitor.verdicts[Source("1")]
    assert verdict.requests == 300 and not any(verdict.detected.values())
    assert 'monitoring_quality_share{arm="",problem="new_category",role="champion",version="1"} 0.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    "body", [{"customer": 7}, {"customer": ""}, {"returned": 2}, {"returned": True}, {"event_timestamp": "2026-03-02T00:00:00"}]
)
def test_a_label_that_is_none_of_the_project_is_refused(served, body):
    good = {"request_id": "o-1", "customer": "007", "returned": 1}
    assert served[0].post("/labels", json=[{**good, **body}]).status_code == 422


def test_a_process_serves_one_project_after_the_other(tmp_path):
    shop = {"request_id": "1", "customer": "007", "returned": 1}
    ride = {"request_id": "1", "driver_id": 7, "trip_completed": 1}
    for turn in range(2):
        for project, good, bad in ((SHOP, shop, ride), (RIDES, ride, shop)):
            monitor = Monitor(tmp_path / f"{project.name}{turn}", SETTINGS, project)
            with TestClient(monitoring.application(monitor)) as client:
                assert client.post("/labels", json=[good]).json() == {"early": 1}
                assert client.post("/labels", json=[bad]).status_code == 422
