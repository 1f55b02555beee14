"""Monitoring: a log that grows, a restart that changes nothing, the verdict on a version, and what comes over HTTP.

Times that cannot be believed, and what fails within the service: test_monitoring_faults.py. The join: test_joined.py. Drift and chance: test_drift.py.
"""

import re
import threading
from datetime import timedelta

import company
import numpy as np
import orjson
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rides import CONTRACT, RIDES
from traffic import BEGIN, CLOCK, LATER, MONDAY, NAMES, SETTINGS, entry, judged, logged, normal, write

from mlops_course import clocks, health, joined, monitoring, project, references, registry, reports, telemetry
from mlops_course.drift import reference_of
from mlops_course.files import write_json
from mlops_course.joined import LabelStore, Source
from mlops_course.monitoring import Monitor


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


# ---- the log


def test_half_a_line_waits_for_its_end(tmp_path, store):
    write(tmp_path, [entry("r1"), entry("r2")], end=b"")
    folder = tmp_path / "serving/predictions"
    assert monitoring.read_log(store, folder) == 1
    write(tmp_path, [], end=b"\n")
    assert monitoring.read_log(store, folder) == 1
    assert monitoring.read_log(store, folder) == 0


def test_a_line_that_cannot_be_read_costs_no_other(tmp_path, store):
    write(tmp_path, [entry("r1"), {"request_id": "strange"}, entry("r2")])
    assert monitoring.read_log(store, tmp_path / "serving/predictions") == 2
    assert store.counts("predictions") == {"1": 2, "unreadable": 1}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 30), max_size=5), failing=st.integers(0, 5))
def test_a_restart_leaves_the_same_as_no_restart(cuts, failing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("restart")
    entries = [entry(f"r{n}", version=str(n % 2), minutes=n) for n in range(30)]
    write(folder, [])
    lines = [orjson.dumps(e) + b"\n" for e in entries]
    file, done = folder / "serving/predictions/2026-03-02.jsonl", 0
    for place, cut in enumerate([*sorted(cuts), 30]):
        with open(file, "ab") as opened:
            opened.writelines(lines[done:cut])
        done = max(done, cut)
        store = LabelStore(folder / "state.db", CONTRACT)
        if place == failing:  # killed in the middle of a transaction
            store._db.execute("BEGIN IMMEDIATE")
            store._db.execute("INSERT INTO files VALUES ('2026-03-02.jsonl', 10) ON CONFLICT DO UPDATE SET read = 10")
            store._db.close()
            store = LabelStore(folder / "state.db", CONTRACT)
        monitoring.read_log(store, folder / "serving/predictions")
        store.close()
    store = LabelStore(folder / "state.db", CONTRACT)
    monitoring.read_log(store, folder / "serving/predictions")
    assert store.ask("SELECT count(*), count(DISTINCT request_id) FROM predictions") == [(30, 30)]
    assert {version: n for version, n in store.counts("predictions").items() if version != "unreadable"} == {"0": 15, "1": 15}
    store.close()


# ---- the service


@pytest.fixture(scope="module")
def reference():
    return reference_of(normal(1), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)


def served(folder, reference=None) -> Monitor:
    "A monitor that has looked once."
    monitor = Monitor(folder, SETTINGS, RIDES)
    if reference:
        monitor.references["1"] = reference
    monitor.look()
    return monitor


def test_the_log_and_late_labels_give_the_same_verdict_as_the_window_in_memory(tmp_path, reference):
    rows = normal(50, 7, LATER, completes=-0.45)
    entries, labels = logged(rows)
    write(tmp_path, entries)
    monitor = served(tmp_path, reference)
    monitor.store.label(labels[::-1])
    monitor.look()
    logged_verdict, there = monitor.verdicts[Source("1")], judged(reference, rows)
    assert logged_verdict.detected == there.detected
    assert {k: logged_verdict.scores[k] for k in NAMES} == pytest.approx({k: there.scores[k] for k in NAMES})


def test_a_version_that_answers_no_more_is_no_longer_told(tmp_path):
    write(tmp_path, [entry(f"old{n}", minutes=n) for n in range(10)])
    monitor = served(tmp_path)
    assert list(monitor.verdicts) == [Source("1")]
    write(tmp_path, [entry(f"new{n}", version="2", minutes=10 + n) for n in range(SETTINGS.active_requests)])
    monitor.look()
    assert list(monitor.verdicts) == [Source("2")]


def test_a_kept_reference_is_the_same_reference(tmp_path, reference):
    references.keep_reference(tmp_path, "1", reference, SETTINGS, RIDES)
    again = references.kept_reference(tmp_path, "1", SETTINGS, RIDES)
    rows = normal(50, 7, LATER)
    assert judged(again, rows) == judged(reference, rows)
    assert references.kept_reference(tmp_path, "1", SETTINGS.model_copy(update={"reference_days": 3}), RIDES) is None, "of other settings"


@pytest.fixture(scope="module")
def made(template, tmp_path_factory):
    return company.copy(template, tmp_path_factory.mktemp("made") / "company")


def trained_on(folder, rows: pd.DataFrame, **tags: str):
    "Let the run of the champion say what it has learned from."
    client = registry.connect(folder / "mlflow", RIDES.name)
    snapshot = registry.trace(client, "1")["snapshot"]
    (folder / "snapshots").mkdir(exist_ok=True)
    rows.drop(columns=["score", "ended"]).to_parquet(folder / f"snapshots/{snapshot}.parquet", index=False)
    for name, value in tags.items():
        client.set_tag(registry.version_of(client, "1").run_id, name, value)


@pytest.mark.parametrize(("since", "drift"), [(None, True), (16, False)])
def test_a_reference_begins_when_its_model_began_to_learn(made, tmp_path, since, drift):
    folder = company.copy(made, tmp_path / "company")
    begin = pd.Timestamp(BEGIN)
    tags = {} if since is None else {"since": (begin + pd.Timedelta(days=since)).isoformat()}
    trained_on(folder, normal(1, days=28), until=(begin + pd.Timedelta(days=21)).isoformat(), **tags)
    monitor = Monitor(folder, SETTINGS, RIDES)
    monitoring.refer(monitor)
    reference = monitor.references["1"]
    assert monitor.trouble == {}
    assert bool(reference.traffic) == drift and reference.performance
    assert (reference.units[CONTRACT.time].min() - begin).days == (since or 0)
    shown = {
        s.labels["kind"]: s.value for f in health.VerdictCollector(monitor).collect() for s in f.samples if s.name == "monitoring_reference"
    }
    assert shown == {"drift": drift, "performance": 1}
    monitor.store.close()


def test_a_version_without_snapshot_says_so_and_is_watched_for_quality(template, tmp_path):
    made = company.copy(template, tmp_path / "company")
    monitor = Monitor(made, SETTINGS, RIDES)
    monitoring.refer(monitor)
    assert "snapshot" in monitor.trouble["reference of version 1"]
    write(made, [entry("r1", values=(1.7, 0.5, 3.0))])
    monitor.look()
    assert not monitor.verdicts[Source("1")].detected["quality"], "one request is too few to say so"
    write(made, [entry("r2", values=(1.7, 0.5, 3.0))])
    monitor.look()
    assert monitor.verdicts[Source("1")].detected["quality"]


@pytest.fixture
def door(tmp_path, reference):
    "A client, its monitor, and nothing read yet."
    monitor = Monitor(tmp_path, SETTINGS, RIDES)
    monitor.references["1"] = reference
    with TestClient(monitoring.application(monitor), raise_server_exceptions=False) as client:
        yield client, monitor


SEED = {
    "driver_id": {"3": 1004},
    "conv_rate": {"3": 0.2},
    "acc_rate": {"3": 0.9},
    "avg_daily_trips": {"3": 120},
    "prediction": {"3": 0.7},
    "request_id": {"3": "uuid-1"},
    "best_driver_id": {"3": 1004},
}


def test_the_seed_courses_message_is_understood_and_counts_once(door):
    client, monitor = door
    other = {**SEED, "driver_id": {"0": 1005}, "prediction": {"0": 0.4}}
    for message in (SEED, SEED, other):
        answer = client.post("/iterate", json=message)
        assert (answer.status_code, answer.text) == (200, "ok")
    ((entity, score, candidates),) = monitor.store.ask("SELECT entity, score, candidates FROM predictions")
    assert (entity, score) == (1004, 0.7)
    assert [c[0] for c in orjson.loads(candidates)["rows"]] == [1004, 1005]


def test_predictions_and_labels_can_be_pushed(door):
    client, _ = door
    assert client.post("/predictions", json=[entry("r1"), entry("r1"), entry("r2")]).json() == {"new": 2}
    label = {"request_id": "r1", "driver_id": 1001, "trip_completed": 1, "event_timestamp": MONDAY.isoformat()}
    assert client.post("/labels", json=[label, label]).json() == {"joined": 1, "duplicate": 1}
    contradicts = {**label, "trip_completed": 0}
    assert client.post("/labels", json=[contradicts]).json() == {"conflict": 1}
    early = {**label, "request_id": "r9"}
    assert client.post("/labels", json=[early, early, {**early, "driver_id": 1002}]).json() == {"early": 1, "duplicate": 1, "conflict": 1}


def test_ids_come_as_numbers_or_as_text_and_great_ones_stay_exact(door):
    client, monitor = door
    driver = 2**63 - 1
    prediction = entry("r1")
    prediction["prediction"] = prediction["candidates"][0]["driver_id"] = str(driver)
    label = {"request_id": "r1", "driver_id": str(driver), "trip_completed": 1, "event_timestamp": MONDAY.isoformat()}

    assert client.post("/predictions", json=[prediction]).json() == {"new": 1}
    assert client.post("/labels", json=[label, {**label, "driver_id": driver}]).json() == {"joined": 1, "duplicate": 1}
    assert monitor.store.ask("SELECT entity FROM predictions") == [(driver,)]
    for id in ("", "0", "01", "+1", " 1", "1.0", "1e3", "\u0661", str(2**63), "9" * 5000, True, 1.0, None):
        assert client.post("/labels", json=[{**label, "driver_id": id}]).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/labels", b"[", 422),
        ("/labels", b'[{"request_id": "r", "driver_id": 1, "trip_completed": 2}]', 422),
        ("/labels", b'[{"request_id": "r", "driver_id": 1, "trip_completed": 1, "event_timestamp": "2026-03-02T00:00:00"}]', 422),
        ("/predictions", b'{"request_id": "r"}', 422),
        ("/iterate", orjson.dumps({**SEED, "driver_id": {}}), 422),
        ("/nowhere", b"{}", 404),
        ("/labels", b"[" + b" " * 4_000_000 + b"]", 413),
    ],
)
def test_every_refusal_has_one_form(door, path, body, status):
    answer = door[0].post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"] and answer.json()["error"]


def test_metrics_tell_the_documented_names_with_the_version(door):
    client, monitor = door
    entries, labels = logged(normal(50, 7, LATER, completes=-0.45))
    write(monitor.folder, entries)
    monitor.store.label(labels)
    monitor.look()
    samples = {sample.name: sample for family in text_string_to_metric_families(client.get("/metrics").text) for sample in family.samples}
    text = (project.root() / "notebooks/920_health.ipynb").read_text(encoding="utf-8")
    assert {name for name in samples if f"`{name}`" not in text} == set()
    assert samples["monitoring_rmse"].labels == {"version": "1", "role": "champion", "arm": ""}
    assert 'monitoring_drift_detected{arm="",kind="performance",role="champion",version="1"} 1.0' in client.get("/metrics").text


def test_beyond_loopback_a_key_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("MLOPS_COURSE_API_KEY", raising=False)
    with pytest.raises(project.UserError, match="MLOPS_COURSE_API_KEY"):
        monitoring.monitor(tmp_path, SETTINGS.model_copy(update={"host": "0.0.0.0"}), RIDES)
    with TestClient(monitoring.application(Monitor(tmp_path, SETTINGS, RIDES), key="secret")) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"X-API-Key": "secret"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_pipelines_metrics_come_with_those_of_the_service(door):
    client, monitor = door
    write_json(monitor.folder / "metrics/batch.json", telemetry.stage_note({}, 3.0, {"scores": 12}))
    assert 'pipeline_stage_rows{stage="batch",table="scores"} 12.0' in client.get("/metrics").text


def test_what_is_made_elsewhere_is_given_up_when_the_service_ends(tmp_path, reference):
    references.keep_reference(tmp_path, "1", reference, SETTINGS, RIDES)
    work, ended = reports.begin_report(tmp_path, Source("1"), SETTINGS, RIDES), threading.Event()
    ended.set()
    with pytest.raises(project.UserError, match="given up"):
        work.result(ended)
    assert work.process.poll() is not None


def test_a_report_is_written_and_linked(door, reference):
    client, monitor = door
    assert client.get("/report").status_code == 404
    entries, _ = logged(normal(50, 7, LATER))
    write(monitor.folder, entries)
    references.keep_reference(monitor.folder, "1", reference, SETTINGS, RIDES)
    monitor.look()
    monitoring.write_reports(monitor)
    link = client.get("/report").json()["link"]
    assert re.search(r'<html lang="en">\s*<head><title>Traffic until .+ beside normal traffic</title>', client.get(link).text[:2_000])
    assert client.get("/report/..%2Fstate.db").status_code == 404


# ---- arms and shadows


CONTROL, TREATMENT, SHADOW = Source("1", "champion", "march/control"), Source("2", "challenger", "march/treatment"), Source("2", "shadow")


def an_experiment(days: int = 210) -> list[dict]:
    "Normal traffic, a drift in the arm that gets one request of a hundred, and a shadow that scores the newest ones."
    begin = CLOCK - timedelta(days=days)
    rows, drifted = normal(50, days, begin), normal(50, days, begin, shift=0.2)
    small = np.arange(len(rows)) // 5 % 100 == 0
    rows = rows.assign(**{name: np.where(small, drifted[name], rows[name]) for name in (*NAMES, "score")})
    columns = [rows[name].to_numpy().reshape(-1, 5).tolist() for name in ("driver_id", "score", *NAMES)]
    names, times = rows[CONTRACT.booking].to_numpy()[::5], rows[CONTRACT.time].iloc[::5]
    entries = []
    for number, (name, time, *of) in enumerate(zip(names, times, *columns, strict=True)):
        known = (time - pd.Timedelta(hours=1)).isoformat()
        candidates = [
            {"driver_id": int(driver), "score": score, "known_at": known, "values": dict(zip(NAMES, values, strict=True))}
            for driver, score, *values in zip(*of, strict=True)
        ]
        best = max(candidates, key=lambda c: c["score"])
        choice = {"prediction": best["driver_id"], "score": best["score"], "propensity": 1.0}
        source = TREATMENT if number % 100 == 0 else CONTROL
        about = {"request_id": name, "time": time.isoformat(), "candidates": candidates, **choice}
        experiment, arm = source.arm.split("/")
        entries.append({**about, "version": source.version, "role": source.role, "experiment": experiment, "arm": arm})
        if number % 100 and len(names) - number < 400:
            entries.append({**about, "version": SHADOW.version, "role": SHADOW.role})
    return entries


def test_the_drift_of_an_arm_of_one_percent_is_seen_there_and_nowhere_else(tmp_path, reference):
    "4 requests an hour: it takes 200 days until the arm has 200 of them, so that much is kept."
    settings = SETTINGS.model_copy(update={"retention_days": 400, "window_hours": 24 * 365})
    monitor = Monitor(tmp_path, settings, RIDES)
    monitor.references["1"] = monitor.references["2"] = reference
    monitor.store.add(an_experiment())
    for _ in range(2):
        monitor.look()
        joined.forget(monitor.store, settings)
        assert {source: verdict.requests for source, verdict in monitor.verdicts.items()} == dict.fromkeys(
            [CONTROL, TREATMENT, SHADOW], 200
        )
        drifts = {source for source, verdict in monitor.verdicts.items() if verdict.detected["features"]}
        assert drifts == {TREATMENT}
        monitor._basis = None
    about = {"version": "2", "role": "challenger", "arm": "march/treatment"}
    samples = [s for family in health.VerdictCollector(monitor).collect() for s in family.samples]
    shown = [s.labels for s in samples if s.name == "monitoring_drift_detected" and s.labels["kind"] == "features" and s.value]
    assert shown == [{**about, "kind": "features"}]
    ages = [s.labels for s in samples if s.name == "monitoring_verdict_age_seconds"]
    assert ages == [source._asdict() for source in (CONTROL, TREATMENT, SHADOW)]
    monitor.store.close()


def test_a_drift_is_logged_with_the_arm_that_it_is_about(reference, caplog):
    verdict = judged(reference, normal(50, 7, LATER, shift=0.2))
    health.log_changes(TREATMENT, None, verdict)
    lines = [record.getMessage() for record in caplog.records if "drift" in record.getMessage()]
    assert lines and all("march/treatment" in line and "challenger" in line for line in lines)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source("2"), "version-2"),
        (TREATMENT, "version-2-challenger-march-treatment"),
        (CONTROL, "version-1-march-control"),
        (SHADOW, "version-2-shadow"),
        (Source("../../x", "champion", "a b/ü\n"), "version-..-..-x-a-b-"),
        (Source("1" * 128, "champion", "e" * 128 + "/" + "a" * 128), "version-" + "1" * 128 + "-" + "e" * 13),
    ],
)
def test_a_report_has_a_name_that_is_safe(source, name):
    assert reports._file_name(source) == name


def test_a_shadow_that_is_pushed_stays_a_shadow(door):
    client, monitor = door
    shadow = {**entry("r1", version="2"), "role": "shadow", "experiment": "march", "arm": "treatment", "propensity": 0.5}
    assert client.post("/predictions", json=[entry("r1"), shadow]).json() == {"new": 2}
    assert client.post("/predictions", json=[{**shadow, "role": "king"}]).status_code == 422
    assert monitor.store.ask("SELECT role, arm, propensity FROM predictions WHERE version = '2'") == [("shadow", "march/treatment", 0.5)]


def test_the_seed_courses_row_belongs_to_the_champion_not_to_a_shadow(door):
    client, monitor = door
    now = {"time": project.now().isoformat()}
    write(monitor.folder, [{**entry("r1", version="2"), **now}, {**entry("r1", version="1"), **now, "role": "shadow"}])
    monitor.look()
    client.post("/iterate", json=SEED)
    assert monitor.store.ask("SELECT version FROM predictions WHERE request_id = 'uuid-1'") == [("2",)]
