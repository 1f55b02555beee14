"""Monitoring when something is wrong: times that cannot be, references that are kept, works that fail, threads that meet."""

import json
import re
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from old_state import put_back
from rides import CONTRACT, RIDES
from traffic import (
    BEGIN,
    CLOCK,
    LATER,
    MONDAY,
    NAMES,
    SETTINGS,
    TRIPLES,
    entry,
    logged,
    of_kinds,
    one_window,
    reference,
    unchanged,
    windows,
    write,
)

from mlops_course import clocks, distances, drift, joined, monitoring, predictions, project, references, reports
from mlops_course.drift import Reference, judge, reference_of
from mlops_course.files import write_json
from mlops_course.health import Health
from mlops_course.joined import Label, LabelStore, Source
from mlops_course.monitoring import Monitor, MonitoringSettings

SLACK = timedelta(seconds=SETTINGS.clock_slack_seconds)
KEPT = timedelta(days=SETTINGS.retention_days)
NO_LABELS = pd.DataFrame({CONTRACT.label: [], "score": []})


@pytest.fixture(autouse=True)
def clock():
    "A service lets the clock run; the next test has one that stands still."
    yield
    clocks.leave()


@pytest.fixture
def monitor(tmp_path):
    made = Monitor(tmp_path, SETTINGS, RIDES)
    yield made
    made.store.close()


@pytest.fixture
def client(monitor):
    with TestClient(monitoring.application(monitor), raise_server_exceptions=False) as caller:
        yield caller


def dated(moment: datetime | str, request: str = "strange", **more) -> dict:
    "A line of the log, of that time."
    return {**entry(request, **more), "time": moment if isinstance(moment, str) else moment.isoformat()}


def ended(moment: datetime | str | None, request: str = "strange") -> dict:
    "A label as it is sent."
    body = {"request_id": request, "driver_id": 1001, "trip_completed": 0}
    return body if moment is None else {**body, "event_timestamp": moment if isinstance(moment, str) else moment.isoformat()}


def metrics(client) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


# ---- times


STRANGE = {
    "2099": ("2099-01-01T00:00:00+00:00", "future"),
    "a second beyond the slack": (CLOCK + SLACK + timedelta(seconds=60), "future"),
    "the last year": ("9999-12-31T23:59:59.999999+00:00", "future"),
    "the last year, beyond UTC": ("9999-12-31T23:59:59-23:59", "future"),
    "later in another zone": ((CLOCK + timedelta(hours=1)).astimezone(tz=None).isoformat(), "future"),
    "before 1970": ("1969-12-31T23:59:59+00:00", "old"),
    "the first year, before UTC": ("0001-01-01T00:00:00+23:59", "old"),
    "older than what is kept": (CLOCK - KEPT - timedelta(hours=1), "old"),
}


def test_two_looks_at_once_count_a_refused_prediction_once(monitor, monkeypatch):
    write(monitor.folder, [entry("r1"), dated(STRANGE["before 1970"][0])])
    unread, both = predictions.unread, threading.Barrier(2, timeout=1)

    def slow(*arguments):
        pieces = list(unread(*arguments))
        with suppress(threading.BrokenBarrierError):  # the other one has to wait, or both have read the same
            both.wait()
        return iter(pieces)

    monkeypatch.setattr(predictions, "unread", slow)
    looks = [threading.Thread(target=monitor.look) for _ in range(2)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()

    assert monitor.store.counts("refused")["predictions old"] == 1


@pytest.mark.parametrize("way", ["posted", "read"])
@pytest.mark.parametrize(("moment", "reason"), STRANGE.values(), ids=STRANGE)
def test_a_prediction_of_a_time_that_cannot_be_is_refused_counted_and_said(monitor, client, way, moment, reason):
    good = [entry(f"r{n}", minutes=n) for n in range(5)]
    if way == "posted":
        answer = client.post("/predictions", json=[*good, dated(moment)]).json()
        assert answer == {"new": 5, f"refused_{reason}": 1}
    else:
        write(monitor.folder, [*good, dated(moment)])
    monitor.look()
    joined.forget(monitor.store, SETTINGS)

    assert [name for (name,) in monitor.store.ask("SELECT request_id FROM predictions ORDER BY number")] == [f"r{n}" for n in range(5)]
    assert monitor.verdicts[Source("1")].requests == 5
    assert metrics(client)[f'monitoring_refused_total{{of="predictions",reason="{reason}"}}'] == 1
    (trouble,) = client.get("/ready").json()["trouble"]
    assert trouble.startswith("times: 1 predictions") and "2026-03-16 00:00" in trouble


@pytest.mark.parametrize("moment", [moment for moment, reason in STRANGE.values() if reason == "future"])
def test_a_label_of_the_future_is_refused_and_the_company_keeps_its_own_number(monitor, client, moment):
    client.post("/predictions", json=[entry(f"r{n}", minutes=n) for n in range(4)])
    client.post("/labels", json=[{**ended(None, f"r{n}"), "trip_completed": 1} for n in range(3)])
    assert client.post("/labels", json=[ended(moment, "r3"), ended(moment, "unheard of"), ended(None, "r3")]).json() == {
        "refused_future": 2,
        "joined": 1,
    }
    joined.forget(monitor.store, SETTINGS)

    assert joined.positive_share(monitor.store) == 0.75
    assert metrics(client)['monitoring_refused_total{of="labels",reason="future"}'] == 2
    assert "2 labels dated after now" in client.get("/ready").json()["trouble"][0]


def test_what_is_within_the_slack_is_taken(client):
    near = CLOCK + SLACK - timedelta(seconds=5)
    assert client.post("/predictions", json=[dated(near)]).json() == {"new": 1}
    assert client.post("/labels", json=[ended(near)]).json() == {"joined": 1}
    assert client.get("/ready").json()["trouble"] == []


def test_the_slack_is_a_setting(tmp_path):
    for seconds, new in [(0, 0), (7200, 1)]:
        monitor = Monitor(tmp_path / str(seconds), SETTINGS.model_copy(update={"clock_slack_seconds": seconds}), RIDES)
        write(monitor.folder, [dated(CLOCK + timedelta(hours=1))])
        monitor.look()
        assert monitor.store.ask("SELECT count(*) FROM predictions") == [(new,)]
        monitor.store.close()
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(project.UserError, match="clock_slack_seconds"):
            project.validated(MonitoringSettings, {"clock_slack_seconds": wrong}, "a test")


@pytest.mark.parametrize("known", ["2099-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+00:00"])
@pytest.mark.parametrize("way", ["posted", "read"])
def test_features_from_the_future_lose_that_time_and_nothing_else(monitor, client, way, known):
    strange = entry("strange", minutes=600)
    strange["candidates"][0]["known_at"] = known
    if way == "posted":
        assert client.post("/predictions", json=[entry("r1"), strange]).json() == {"new": 2, "refused_known_at": 1}
    else:
        write(monitor.folder, [entry("r1"), strange])
    monitor.look()

    assert monitor.verdicts[Source("1")].requests == 2
    assert monitor.verdicts[Source("1")].quality["feed_hours"] == pytest.approx(11), "the feed looks no fresher than it is"
    assert metrics(client)['monitoring_refused_total{of="candidates",reason="known_at"}'] == 1


@pytest.mark.parametrize("spoiled", ["NaN", "1e999", '"nan"', '"NaT"', '""', "null", "true", "[]", '"2026-03-02T00:00:00"', '"2026-13-40"'])
def test_what_is_no_time_at_all_is_refused_as_a_whole(monitor, client, spoiled):
    line = json.dumps({**entry("strange"), "time": "TIME"}).replace('"TIME"', spoiled)
    assert client.post("/predictions", content=f"[{line}]", headers={"content-type": "application/json"}).status_code == 422
    write(monitor.folder, [entry("r1")])
    with open(monitor.folder / "serving/predictions/2026-03-02.jsonl", "a") as opened:
        opened.write(line + "\n")
    monitor.look()
    assert monitor.store.counts("predictions") == {"1": 1, "unreadable": 1}


POISON = {
    "no driver has this number": {"prediction": 2**63},
    "a driver's name": {"prediction": "Ann"},
    "a score in words": {"score": "high"},
    "values without names": {"candidates": [{"driver_id": 1001, "score": 0.5, "values": "x"}]},
    "a value in words": {"candidates": [{"driver_id": 1001, "score": 0.5, "values": {NAMES[0]: "x"}}]},
    "a candidate in words": {"candidates": ["x"]},
    "no candidates": {"candidates": None},
}


@pytest.mark.parametrize("spoiled", POISON.values(), ids=POISON)
def test_a_line_that_is_not_of_this_log_costs_no_other(monitor, spoiled):
    write(monitor.folder, [entry("r1"), {**entry("strange"), **spoiled}, entry("r2")])
    monitor.look()
    assert monitor.store.counts("predictions") == {"1": 2, "unreadable": 1}
    assert monitor.verdicts[Source("1")].requests == 2


def test_a_piece_of_rubbish_without_end_is_passed_over(monitor, monkeypatch):
    monkeypatch.setattr(predictions, "PIECE", 1_000)
    write(monitor.folder, [entry("r1")])
    with open(monitor.folder / "serving/predictions/2026-03-02.jsonl", "ab") as opened:
        opened.write(b"x" * 3_500 + b"\n")
    write(monitor.folder, [entry("r2")])
    for _ in range(8):
        monitor.look()
    assert monitor.store.counts("predictions")["1"] == 2


def test_a_stream_of_refusals_is_said_once_in_the_log_and_as_long_as_it_lasts(monitor, monkeypatch, caplog):
    monkeypatch.setattr(Health, "late", 0.2)
    monitor.look()
    for n in range(3):
        write(monitor.folder, [dated("2099-01-01T00:00:00+00:00", f"s{n}-{k}") for k in range(10)])
        monitor.look()
        assert f"{10 * (n + 1)} predictions dated after now" in monitor.trouble["times"]
    assert sum("times refused" in record.getMessage() for record in caplog.records) == 1
    time.sleep(0.25)
    monitor.look()
    assert dict(monitor.trouble.items()) == {}
    write(monitor.folder, [dated("2099-01-01T00:00:00+00:00", "again")])
    monitor.look()
    assert "1 predictions" in monitor.trouble["times"], "only the new ones"


def test_refusals_of_an_earlier_run_are_counted_and_no_trouble_of_this_one(tmp_path):
    for _ in range(2):
        monitor = Monitor(tmp_path, SETTINGS, RIDES)
        monitor.look()
        assert dict(monitor.trouble.items()) == {}
        write(tmp_path, [dated("2099-01-01T00:00:00+00:00")])
        monitor.look()
        monitor.store.close()
    assert monitor.refused == {"predictions future": 2}


@pytest.fixture
def before(tmp_path):
    "A database of a version that took any time: half a year of it is to come, and one row has all of the future."
    store = LabelStore(tmp_path / "monitoring/state.db", CONTRACT)
    store.add([entry(f"r{n}", minutes=n) for n in range(300)])
    store.label([Label(f"r{n}", 1001, 1, (MONDAY + timedelta(minutes=n)).timestamp()) for n in range(200)])
    store.add([dated("2099-01-01T00:00:00+00:00", f"bad{n}", version="9") for n in range(250)])
    store.label([Label("bad1", 1001, 0, 4e9), Label("waits", 1001, 0, 4e9), Label("r200", 1001, 1, 4e9)])
    candidates = orjson.dumps([[1001, 0.7, 4e9, 0.6, 0.7, 9.0]])
    store.ask("UPDATE predictions SET candidates = ? WHERE request_id = 'r299'", candidates)
    store.ask("UPDATE counts SET of = 'waiting' WHERE name = 'labels' AND of = 'early'")
    store.close()
    put_back(tmp_path / "monitoring/state.db")
    with closing(sqlite3.connect(tmp_path / "monitoring/state.db", isolation_level=None)) as db:
        db.execute("UPDATE labels SET time = 4e9 WHERE request_id = 'r200'")
        db.execute("PRAGMA user_version = 0")
    return tmp_path


def test_a_database_of_before_the_outcomes_had_their_names_goes_on_counting(before):
    store = LabelStore(before / "monitoring/state.db", CONTRACT)
    was = store.counts("labels")

    store.label([Label("waits too", 1001, 0, MONDAY.timestamp())])

    assert was["early"] >= 1 and "waiting" not in was
    assert store.counts("labels") == {**was, "early": was["early"] + 1}
    store.close()


def test_a_database_that_holds_the_future_recovers(before):
    monitor = Monitor(before, SETTINGS, RIDES)
    joined.forget(monitor.store, SETTINGS)
    with TestClient(monitoring.application(monitor)) as client:
        assert project.now() - CLOCK < timedelta(minutes=1), "the clock of the run is not that of a sender"
        monitor.look()
        assert list(monitor.verdicts) == [Source("1")] and monitor.verdicts[Source("1")].requests == 200
        assert monitor.verdicts[Source("1")].labels == 201 and monitor.completed == 1.0
        assert monitor.verdicts[Source("1")].quality["feed_hours"] <= 2
        assert "250 predictions that are kept are dated after now" in client.get("/ready").json()["trouble"][0]
    assert monitor.store.ask("SELECT count(*) FROM predictions WHERE version = '1'") == [(300,)]
    assert monitor.store.ask("SELECT count(*) FROM labels") == [(203,)]


def test_a_clock_that_goes_back_costs_nothing(monitor, monkeypatch):
    write(monitor.folder, [entry(f"r{n}", minutes=n) for n in range(300)])
    monitor.look()
    assert monitor.verdicts[Source("1")].requests == 200
    monkeypatch.setattr(project, "now", lambda: MONDAY - timedelta(days=300))
    early = [dated(project.now(), f"early{n}") for n in range(5)]
    write(monitor.folder, [{**each, "candidates": [{**each["candidates"][0], "known_at": None}]} for each in early])
    monitor.look()
    joined.forget(monitor.store, SETTINGS)
    assert monitor.verdicts[Source("1")].requests == 5, "what is dated after now does not count"
    assert "300 predictions that are kept are dated after now" in monitor.trouble["times"]
    monkeypatch.setattr(project, "now", lambda: CLOCK)
    write(monitor.folder, [entry("last", minutes=300)])
    monitor.look()
    assert monitor.verdicts[Source("1")].requests == 200 and "times" not in monitor.trouble
    assert monitor.store.ask("SELECT count(*) FROM predictions") == [(306,)]


def test_a_label_of_1970_counts_with_its_booking_and_only_once(monitor):
    store = monitor.store
    store.add([entry("r1")])
    assert store.label([Label("r1", 1001, 1, 0.0), Label("never predicted", 1001, 1, 0.0)]) == {"joined": 1, "unknown": 1}
    joined.forget(store, SETTINGS)
    assert joined.positive_share(store) == 1.0
    assert store.label([Label("r1", 1001, 1, 0.0)]) == {"duplicate": 1}
    assert store.counts("labels") == {"joined": 1, "unknown": 1, "duplicate": 1}


def test_what_was_forgotten_does_not_come_back(monitor):
    "A log that is read again has lines that were counted and forgotten."
    old = dated(CLOCK - KEPT + timedelta(seconds=1), "old")
    write(monitor.folder, [old])
    monitor.look()
    monitor.store.ask("UPDATE predictions SET time = time - 3600")
    write(monitor.folder, [entry("new", minutes=10_000)])
    monitor.look()
    monitor.store.ask("DELETE FROM predictions WHERE request_id = 'old'")  # as `forget` does an hour later
    (monitor.folder / "serving/predictions/2026-03-02.jsonl").write_bytes(
        orjson.dumps({**old, "time": (CLOCK - KEPT * 2).isoformat()}) + b"\n"
    )
    monitor.look()
    assert monitor.store.counts("predictions") == {"1": 2}


def ran(folder, days: float, speed: float = 1.0) -> None:
    "What the last clock of a folder leaves behind, `days` of its own time after it began."
    real = datetime.now(UTC) - timedelta(days=days / speed)
    write_json(folder / "clock.json", project.Clock(CLOCK, real, speed)._asdict())


@pytest.mark.parametrize(
    ("lived", "lines", "then"),
    [
        (4, [CLOCK + timedelta(days=3)], CLOCK + timedelta(days=3)),
        (4, [CLOCK + timedelta(days=3), datetime(2099, 1, 1, tzinfo=UTC)], CLOCK + timedelta(days=3)),
        (4, [datetime(2099, 1, 1, tzinfo=UTC)], CLOCK),
        (None, [datetime(2099, 1, 1, tzinfo=UTC)], CLOCK),
        (4, [], CLOCK),
    ],
)
def test_a_clock_goes_on_where_the_last_one_was_and_not_where_a_sender_is(tmp_path, lived, lines, then):
    if lived:
        ran(tmp_path, lived)
    if lines:
        write(tmp_path, [dated(moment, f"r{n}") for n, moment in enumerate(lines)], day="2099-01-01")
    monitor = Monitor(tmp_path, SETTINGS, RIDES)
    with TestClient(monitoring.application(monitor)):
        assert timedelta(0) <= project.now() - then < timedelta(minutes=1)
        monitor.look()
        kept = [moment for moment in lines if moment < datetime(2099, 1, 1, tzinfo=UTC)]
        assert monitor.store.ask("SELECT count(*) FROM predictions") == [(len(kept),)], "a log that was there before is read whole"


# ---- references of columns that hardly vary


def test_such_a_reference_is_kept_and_read_as_it_is(tmp_path):
    for kind in ("constant", "all missing"):
        made, window, _ = one_window(kind)
        references.keep_reference(tmp_path, "1", made, SETTINGS, RIDES)
        again = references.kept_reference(tmp_path, "1", SETTINGS, RIDES)
        scores = [judge(window, NO_LABELS, each, SETTINGS, CONTRACT).scores for each in (made, again)]
        assert scores[0] == pytest.approx(scores[1], nan_ok=True)


@pytest.mark.parametrize("spoil", [lambda f: f.write_bytes(f.read_bytes()[:100]), lambda f: f.write_text("[]"), lambda f: f.unlink()])
@pytest.mark.parametrize("ending", [".json", ".parquet"])
def test_a_kept_reference_that_cannot_be_read_is_made_anew(tmp_path, ending, spoil):
    references.keep_reference(tmp_path, "1", reference(TRIPLES[0], 1), SETTINGS, RIDES)
    spoil((tmp_path / "monitoring/reference/1").with_suffix(ending))
    assert references.kept_reference(tmp_path, "1", SETTINGS, RIDES) is None


# ---- works that fail


@pytest.fixture
def two(monitor):
    "A monitor on two versions that answer, both judged."
    write(monitor.folder, [entry(f"r{n}", version="12"[n % 2], minutes=n) for n in range(20)])
    monitor.look()
    assert sorted(monitor.verdicts) == [Source("1"), Source("2")]
    return monitor


def spoil(monitor) -> None:
    "Half a page of the disk is lost: candidates of version 2 cannot be read any more."
    monitor.store.ask("UPDATE predictions SET candidates = X'5B5B' WHERE version = '2' AND request_id = 'r19'")


def test_a_verdict_that_fails_costs_no_other_one_and_gets_old(two, monkeypatch):
    with TestClient(monitoring.application(two)) as client:
        spoil(two)
        write(two.folder, [entry(f"s{n}", version="12"[n % 2], minutes=30 + n) for n in range(10)])
        two.look()
        assert (two.verdicts[Source("1")].requests, two.verdicts[Source("2")].requests) == (15, 10), "of version 2 the last one is told"
        assert "JSONDecodeError" in "".join(client.get("/ready").json()["trouble"])
        assert metrics(client)['monitoring_failures_total{what="verdict of version 2"}'] >= 1
        two.look()  # nothing new has come
        values = metrics(client)
        ages = {version: values[f'monitoring_verdict_age_seconds{{arm="",role="champion",version="{version}"}}'] for version in "12"}
        assert ages["1"] < ages["2"]
        monkeypatch.setattr(Health, "late", 0.05)
        time.sleep(0.1)
        assert re.search(r"verdict of version 2: it is \d+ seconds old", "\n".join(client.get("/ready").json()["trouble"]))
        two.store.ask("DELETE FROM predictions WHERE request_id = 'r19'")
        two.look()
        assert two.verdicts[Source("2")].requests == 14 and "verdict of version 2" not in two.trouble


def test_a_failure_is_logged_once_and_its_end_too(two, caplog):
    spoil(two)
    write(two.folder, [entry("s1", minutes=30)])
    for _ in range(3):
        two.look()
    two.store.ask("DELETE FROM predictions WHERE request_id = 'r19'")
    two.look()
    lines = [record.getMessage() for record in caplog.records if "verdict of version 2" in record.getMessage()]
    assert ["does not work" in line for line in lines] == [True, False] and "works again" in lines[1]
    assert two.failures["verdict of version 2"] == 3


def test_trouble_about_a_version_that_answers_no_more_is_forgotten(two):
    spoil(two)
    write(two.folder, [entry("s1", minutes=30)])
    two.look()
    write(two.folder, [entry(f"t{n}", minutes=40) for n in range(SETTINGS.active_requests)])
    two.look()
    two.references["1"] = reference(TRIPLES[0], 1)
    monitoring.refer(two)
    assert not [name for name in two.trouble if name.endswith("version 2")]


def weekdays(rows: pd.DataFrame, weekend: bool) -> pd.DataFrame:
    return rows[(rows[CONTRACT.time].dt.dayofweek >= 5) == weekend]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda rows: weekdays(rows, False), lambda rows: weekdays(rows, True)),
        (lambda rows: rows[rows[CONTRACT.time].dt.hour < 12], lambda rows: rows[rows[CONTRACT.time].dt.hour >= 12]),
    ],
    ids=["no day of the week", "no hour of the day"],
)
def test_a_window_that_shares_no_hour_of_the_week_with_the_reference_has_a_report(tmp_path, before, after):
    kept, rows = reference_of(before(unchanged(BEGIN, 28)), SETTINGS, pd.Timestamp(BEGIN), CONTRACT), after(unchanged(LATER, 7))
    reports.report(rows.tail(1_000), kept, SETTINGS, tmp_path / "report.html", CONTRACT)
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_the_reference_of_a_report_has_the_windows_hours():
    kept, window = reference(TRIPLES[0], 1), drift.entity_hours(unchanged(LATER, 7).iloc[:2_000], CONTRACT)
    kept.units = kept.units.assign(weight=distances.same_hours(window, kept.units))
    both = [(window.assign(weight=1.0)), kept.units]
    hours = [rows.groupby([rows[distances.HOUR].dt.dayofweek, rows[distances.HOUR].dt.hour]).weight.sum() for rows in both]
    pd.testing.assert_series_equal(*(each[each > 0] for each in hours))


@pytest.mark.parametrize("kinds", [TRIPLES[0], *TRIPLES[3:]], ids=" | ".join)
def test_a_report_on_such_columns_says_what_the_verdict_says(tmp_path, kinds):
    *_, window = windows(of_kinds(unchanged(LATER, 7), kinds, 1_001))
    changed = window.assign(**{NAMES[0]: 0.9, NAMES[1]: 0.9})
    for rows in (window, changed) if kinds == TRIPLES[0] else (window,):
        reports.report(rows, reference(kinds, 1), SETTINGS, tmp_path / "report.html", CONTRACT)
        drifts = (tmp_path / "report.html").read_text().count("Data drift detected")
        assert drifts == sum(share >= 1 for share in judge(rows, NO_LABELS, reference(kinds, 1), SETTINGS, CONTRACT).scores.values())


@pytest.fixture
def reporting(monitor, monkeypatch):
    "A monitor with two versions whose reports are due; version 1's fail while `broken` is set."
    entries, _ = logged(unchanged(LATER, 7))
    write(monitor.folder, [{**each, "version": "12"[n % 2]} for n, each in enumerate(entries)])
    monitor.references["1"] = monitor.references["2"] = reference(TRIPLES[0], 1)
    monitor.look()
    monitor.broken, monitor.begun = True, []

    class Played:
        "In place of a `Job`, which takes seconds."

        def __init__(self, folder, source, settings, asked, nice=0):
            self.version = source.version
            monitor.begun.append(source.version)

        def result(self, ended=None):
            if self.version == "1" and monitor.broken:
                raise project.UserError("no space is left")
            return f"report-{self.version}.html"

    monkeypatch.setattr(monitoring, "begin_report", Played)
    monkeypatch.setattr(Health, "late", 0.3)
    return monitor


def test_a_report_that_cannot_be_written_says_so_and_is_tried_again_after_a_pause(reporting):
    for _ in range(3):
        monitoring.write_reports(reporting)
    assert reporting.begun == ["1", "2"], "the one that failed waits, and keeps no other"
    assert reporting.trouble["report of version 1"] == "no space is left"
    reporting.broken = False
    time.sleep(0.3)
    for _ in range(3):
        monitoring.write_reports(reporting)
    assert reporting.begun == ["1", "2", "1"] and "report of version 1" not in reporting.trouble


def test_a_reference_that_cannot_be_made_keeps_no_other(monitor, monkeypatch):
    write(monitor.folder, [entry(f"r{n}", version="12"[n % 2], minutes=n) for n in range(4)])
    monitor.look()
    kept = {"2": reference(TRIPLES[0], 1)}

    def read(folder, version, settings, asked, ended):
        if version not in kept:
            raise ZeroDivisionError
        return kept[version]

    monkeypatch.setattr(monitoring, "reference_for", read)
    monitoring.refer(monitor)
    assert monitor.referred and monitor.references["2"] is kept["2"] and monitor.references["1"] is None
    assert "ZeroDivisionError" in monitor.trouble["reference of version 1"]


# ---- tasks and threads


def test_a_service_whose_look_fails_says_so_and_goes_on(tmp_path):
    monitor = Monitor(tmp_path, SETTINGS.model_copy(update={"refresh_seconds": 0.01}), RIDES)
    look, broken = monitor.store.ask, threading.Event()
    broken.set()
    monitor.store.ask = lambda *words: sys.exit("broken") if broken.is_set() else look(*words)
    broken.clear()
    with TestClient(monitoring.application(monitor)) as client:
        broken.set()
        time.sleep(0.2)
        answer = client.get("/ready").json()
        assert "look: SystemExit: broken" in answer["trouble"]
        assert metrics(client)['monitoring_failures_total{what="look"}'] > 1
        broken.clear()
        write(tmp_path, [entry("r1")])
        time.sleep(0.3)
        assert not [line for line in client.get("/ready").json()["trouble"] if line.startswith("look")]
        assert monitor.verdicts[Source("1")].requests == 1


@pytest.fixture
def hurry():
    "Threads that change as often as they can."
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_whoever_reads_meets_no_change(monitor, hurry):
    "Threads write trouble, references, reports, failures and verdicts, while others ask for /ready and /metrics."
    write(monitor.folder, [entry(f"r{n}", minutes=n) for n in range(5)])
    monitor.look()
    over, (verdict,), wrong = threading.Event(), monitor.verdicts.values(), []
    reference = Reference(pd.DataFrame(), {}, 0.0, None, {})

    def changes(seed: int):
        rng = np.random.default_rng(seed)
        while not over.is_set():
            name = f"{seed}-{rng.integers(300)}"
            for shared, value in (
                (monitor.trouble, "x"),
                (monitor.references, reference),
                (monitor.reported, (0.0, {})),
                (monitor.failures, 1),
            ):
                shared[name] = value
                shared.pop(f"{seed}-{rng.integers(300)}", None)
            monitor.verdicts = {Source(f"{rng.integers(300)}"): verdict for _ in range(20)}
            monitor.judged = dict.fromkeys(monitor.verdicts, 0.0)

    def asks(client):
        while not over.is_set():
            for path in ("/ready", "/metrics"):
                answer = client.get(path)
                if answer.status_code not in (200, 503):
                    wrong.append((path, answer.status_code))

    with TestClient(monitoring.application(monitor), raise_server_exceptions=False) as client:
        threads = [threading.Thread(target=changes, args=[seed]) for seed in (1, 2)] + [threading.Thread(target=asks, args=[client])]
        for thread in threads:
            thread.start()
        time.sleep(2)
        over.set()
        for thread in threads:
            thread.join(10)
    assert wrong == []
    assert not [why for why in monitor.trouble.values() if "dictionary" in why]
