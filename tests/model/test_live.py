"""The live company: each event once and at its moment, files that are whole, and bookings that nobody answers."""

import asyncio
import json
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_course import clients, clocks, events, live, loop, project, rhythm, services, web, world
from mlops_course.clients import FeaturePusher, Sent
from mlops_course.events import FILES, CompanyFiles, End, Life
from mlops_course.files import file_digest, write_json
from mlops_course.live import Live, LiveSettings, Outbox

HISTORY = world.WorldSettings(drivers=60, days=9, bookings_per_day=200, seed=7)
LONGER = HISTORY.model_copy(update={"days": 14, "scenario": "concept_drift", "drift_day": 11})
BEGIN = HISTORY.end


def life() -> Life:
    return Life(world.Company(LONGER), since=HISTORY.days)


def moments(minutes: int, days: int = 4):
    "Looks at the clock, from the beginning on."
    return [BEGIN + timedelta(minutes=minutes * n) for n in range(days * 1440 // minutes + 1)]


@pytest.fixture(scope="module")
def one_go(tmp_path_factory) -> dict[str, pd.DataFrame]:
    "The longer company's files, simulated in one go."
    folder = tmp_path_factory.mktemp("longer")
    world.write(LONGER, folder)
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in world.SCHEMAS}


@pytest.fixture
def folder(tmp_path):
    "An environment's folder with a history."
    world.write(HISTORY, tmp_path / "company")
    return tmp_path


async def nobody(trip):
    raise ConnectionRefusedError


async def first_one(trip):
    return Sent(trip.drivers[0], 0.9, "1")


async def taken(ends):
    return True


def lived(folder, looks, ask=first_one, push=lambda rows: None, tell=taken, **changes) -> Live:
    "A company that has lived through some looks at the clock."
    made = Live(life(), folder, LiveSettings(**changes), ask, push, tell)

    async def work():
        for moment in looks:
            made.happen(moment)
            await asyncio.gather(*made.bookings.waiting)
            await asyncio.gather(made.statistics.send(), made.labels.send(), return_exceptions=True)
        await live.flush(made)

    asyncio.run(work())
    return made


def frame(hours: list[dict]) -> pd.DataFrame:
    "Statistics as the files have them."
    return pa.Table.from_pylist(hours, world.SCHEMAS["driver_stats"]).to_pandas()


def files(folder) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(folder / f"company/{name}.parquet") for name in FILES}


# What happens


@pytest.mark.parametrize("minutes", [7, 360, 4 * 1440])
def test_the_live_days_are_those_of_a_world_simulated_in_one_go(one_go, minutes):
    here, trips, hours, ends = life(), [], [], []
    for moment in moments(minutes):
        happened = here.until(moment)
        for trip in happened.trips:
            here.send(trip, trip.logged)
        hours, trips, ends = hours + happened.hours, trips + happened.trips, ends + happened.ends
    ends += here.until(moments(minutes)[-1]).ends
    end = moments(minutes)[-1]
    key = ["driver_id", "datetime"]
    written, stats = frame(hours).sort_values(key, ignore_index=True), one_go["driver_stats"]
    expected = stats[(stats.created > BEGIN) & (stats.created <= end)].sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(written, expected)
    bookings, labels = one_go["bookings"], one_go["labels"]
    booked = bookings[(bookings.event_timestamp >= BEGIN) & (bookings.event_timestamp <= end)]
    assert [(t.request_id, t.logged) for t in trips] == list(zip(booked.request_id, booked.driver_id, strict=True))
    come = labels[(labels.created > BEGIN) & (labels.created <= end)]
    ended = {(e.request_id, e.driver, e.completed, e.created) for e in ends}
    assert len(ended) == len(ends) and any(end.moment < BEGIN for end in ends)
    assert ended == set(zip(come.request_id, come.driver_id, come.trip_completed, come.created, strict=True))


def test_history_and_live_days_have_no_event_in_common(one_go, folder):
    history = pd.read_parquet(folder / "company/driver_stats.parquet")
    hours = frame(life().until(BEGIN + timedelta(days=4)).hours)
    both = pd.concat([history, hours])
    assert not both.duplicated(["driver_id", "datetime"]).any()
    assert len(both) == (one_go["driver_stats"].created <= BEGIN + timedelta(days=4)).sum()


def test_an_event_is_told_once():
    here = life()
    first, second = (here.until(BEGIN + timedelta(hours=30)) for _ in range(2))
    assert first.hours and first.trips
    assert not any(second)


def test_a_label_tells_of_the_driver_who_was_sent_and_comes_at_its_moment():
    for outcome in (0, 1):
        here = life()
        trip = next(t for t in here.until(BEGIN + timedelta(days=1)).trips if t.label_at and set(t.completed) == {0, 1})
        driver = trip.drivers[trip.completed.index(outcome)]
        here.send(trip, driver)
        early, due = (here.until(trip.label_at - timedelta(microseconds=wait)).ends for wait in (1, 0))
        assert trip.request_id not in {end.request_id for end in early}
        assert End(trip.label_at, trip.request_id, trip.moment, driver, outcome) in due


def test_the_drift_begins_on_its_day_after_the_services_are_ready():
    made = loop.going_on(HISTORY, LiveSettings(drift="covariate_drift", after_days=2), HISTORY.end + timedelta(days=3, hours=1)).settings
    assert made.on(14) == world.USUAL and made.on(15) == world.SCENARIOS["covariate_drift"]


# Statistics on their way online


def table(*rows: tuple[int, str, str]) -> pa.Table:
    "Hours of drivers: number, beginning of the hour, when it was written."
    columns = {name: [0.5] * len(rows) for name in ("conv_rate", "acc_rate")}
    times = [[pd.Timestamp(f"2026-03-16T{row[i]}Z").to_pydatetime() for row in rows] for i in (1, 2)]
    columns = {
        "datetime": times[0],
        "driver_id": [row[0] for row in rows],
        **columns,
        "avg_daily_trips": [3] * len(rows),
        "created": times[1],
    }
    return pa.table(columns, world.SCHEMAS["driver_stats"])


def sent(pusher: FeaturePusher) -> dict[int, str]:
    "Who waits to go online, with the hour, after another try to send."
    with suppress(OSError):
        asyncio.run(pusher.send())
    return {driver: f"{row['datetime']:%H:%M}" for driver, row in pusher.waiting.items()}


def test_an_older_hour_never_replaces_a_newer_one():
    pushed = []
    pusher = FeaturePusher(table((1001, "08:00", "09:03")), pushed.append)
    written = table((1001, "07:00", "09:30"), (1001, "09:00", "10:05"), (1001, "08:00", "10:06"), (1002, "09:00", "10:07"))
    pusher.add(written.to_pylist())
    assert sent(pusher) == {}
    rows = pushed[0].set_index("driver_id")
    assert rows.datetime.dt.hour.to_dict() == {1001: 9, 1002: 9}
    assert rows.known_at.dt.strftime("%H:%M").to_dict() == {1001: "10:05", 1002: "10:07"}


def test_what_could_not_be_pushed_waits_but_where_something_newer_has_come():
    def push(rows):
        pusher.add(table((1001, "09:00", "10:03")).to_pylist())
        raise OSError("database is locked")

    pusher = FeaturePusher(table(), push)
    pusher.add(table((1001, "08:00", "09:03"), (1002, "08:00", "09:04")).to_pylist())
    assert sent(pusher) == {1001: "09:00", 1002: "08:00"}


def test_the_online_store_gets_what_the_world_last_wrote(folder, one_go):
    pushed = {}
    lived(folder, moments(30), push=lambda rows: pushed.update({row["driver_id"]: row for row in rows.to_dict("records")}))
    stats = one_go["driver_stats"]
    known = stats[(stats.created > BEGIN) & (stats.created <= BEGIN + timedelta(days=4))]
    newest = known.loc[known.groupby("driver_id").datetime.idxmax()].set_index("driver_id")
    assert {driver: row["datetime"] for driver, row in pushed.items()} == newest.datetime.to_dict()


# Files


def test_the_files_have_each_event_once_with_the_driver_who_was_sent(folder, one_go):
    before = files(folder)
    made = lived(folder, moments(15))
    after = files(folder)
    for name in FILES:
        pd.testing.assert_frame_equal(after[name][: len(before[name])], before[name])
    new = after["bookings"][len(before["bookings"]) :]
    assert after["bookings"].request_id.is_unique and after["labels"].request_id.is_unique
    assert set(new.request_id) == set(
        one_go["bookings"].request_id[one_go["bookings"].event_timestamp.between(BEGIN, BEGIN + timedelta(days=4))]
    )
    candidates = one_go["candidates"].groupby("request_id").driver_id.first()
    assert (new.driver_id.to_numpy() == candidates[new.request_id].to_numpy()).all() and (new.propensity == 0.9).all()
    labels = after["labels"].merge(after["bookings"], on="request_id", validate="one_to_one")
    assert (labels.driver_id_x == labels.driver_id_y).all()
    truth = one_go["truth"].rename(columns={"trip_completed": "would"})
    ended = labels.merge(truth, left_on=["request_id", "driver_id_x"], right_on=["request_id", "driver_id"])
    assert len(ended) == len(labels) and (ended.trip_completed == ended.would).all()
    assert made.truth.answered == len(new) and made.truth.unanswered == 0


def test_files_are_whole_at_any_moment_and_no_label_is_without_its_booking(folder):
    kept, over, torn, names = CompanyFiles(folder / "company"), threading.Event(), [], ("labels", "bookings")

    def reads():
        while not over.is_set():
            try:
                labels, bookings = (
                    {*pq.ParquetFile(folder / f"company/{name}.parquet").read()["request_id"].to_pylist()} for name in names
                )
                torn.extend(labels - bookings)
            except Exception as error:
                torn.append(error)

    reader = threading.Thread(target=reads)
    reader.start()
    for n in range(60):
        kept.add("labels", [(f"r {n}", BEGIN, 1001, 1, BEGIN)])
        kept.add("bookings", [(f"r {n}", BEGIN, 1001, 0.5)])
        kept.write(kept.taken())
    over.set()
    reader.join()
    assert not torn and not [path for path in (folder / "company").iterdir() if path.suffix == ".part"]


# Nobody answers


def test_a_booking_without_an_answer_gets_the_old_policy_with_its_propensity(folder, one_go):
    before = len(files(folder)["bookings"])
    made = lived(folder, moments(60), ask=nobody)
    new, logged = files(folder)["bookings"][before:], one_go["bookings"].set_index("request_id")
    pd.testing.assert_frame_equal(new.set_index("request_id"), logged.loc[new.request_id])
    assert made.truth.answered == 0 and made.truth.unanswered == len(new)


def test_a_service_that_is_silent_costs_no_more_than_the_patience(folder):
    async def silent(trip):
        await asyncio.sleep(60)

    began = time.monotonic()
    made = lived(folder, [BEGIN + timedelta(days=1)], ask=silent, patience_seconds=0.05, most_waiting=1000)
    assert time.monotonic() - began < 30
    assert made.truth.unanswered == HISTORY.bookings_per_day


def test_a_booking_does_not_wait_behind_too_many_others(folder):
    asked = []

    async def slow(trip):
        asked.append(trip)
        await asyncio.sleep(0.01)
        return await first_one(trip)

    made = lived(folder, [BEGIN + timedelta(days=1)], ask=slow, most_waiting=10)
    assert len(asked) == made.truth.answered == 10 and made.truth.unanswered == HISTORY.bookings_per_day - 10


def test_labels_are_kept_until_monitoring_has_taken_them(folder):
    taken, tries = [], []

    async def at_times(ends):
        tries.append(len(ends))
        if len(tries) % 3 == 1:
            raise ConnectionResetError
        taken.extend(ends if len(tries) % 3 == 2 else [])
        return len(tries) % 3 == 2

    made = lived(folder, moments(60), tell=at_times)
    labels = files(folder)["labels"]
    live_ones = set(labels.request_id[labels.event_timestamp > BEGIN])
    assert len({end.request_id for end in taken}) == len(taken) == made.labels.taken
    assert {end.request_id for end in taken} | {end.request_id for end in made.labels.waiting} == live_ones


def test_a_label_that_comes_while_others_are_sent_waits_for_the_next_time():
    first, second = (End(BEGIN, f"r {n}", BEGIN, 1001, 1) for n in range(2))

    async def tell(ends):
        box.waiting.append(second)
        return True

    box = Outbox(tell)
    box.waiting.append(first)
    asyncio.run(box.send())
    assert box.waiting == [second] and box.taken == 1


def test_statistics_that_cannot_be_pushed_are_pushed_later(folder):
    pushed, tries = {}, []

    def at_times(rows):
        tries.append(len(rows))
        if len(tries) % 2:
            raise OSError("database is locked")
        pushed.update(dict.fromkeys(rows["driver_id"]))

    lived(folder, moments(60), push=at_times)
    assert len(pushed) > 50


def test_the_truth_says_who_answered_and_what_was_possible(folder):
    lived(folder, moments(60))
    truth = pd.read_json(folder / "live/truth.jsonl", lines=True, dtype={"version": "string"}, convert_dates=False)
    assert truth.request_id.is_unique and (truth.version == "1").all()
    assert (truth.best >= truth.chosen).all() and (truth.best >= truth.logged).all()


# By the clock


def test_by_the_clock_all_that_happens_is_asked_told_and_written(folder, monkeypatch):
    clocks.begin(folder, BEGIN + timedelta(hours=12), speed=86_400, until=BEGIN + timedelta(days=40))
    pushed, ended = [], []

    async def tell(ends):
        ended.extend(ends)
        return True

    made = Live(life(), folder, LiveSettings(), first_one, lambda rows: pushed.extend(rows["driver_id"]), tell)
    asyncio.run(rhythm.live_on(made, BEGIN + timedelta(days=2)))
    written = files(folder)
    new = written["bookings"][written["bookings"].event_timestamp > BEGIN]
    asked = new[new.propensity == 0.9]
    assert 200 <= made.truth.answered == len(asked) and made.truth.unanswered == 0
    assert asked.event_timestamp.min() > made.began > BEGIN + timedelta(hours=12) and len(pushed) > 50
    labels = written["labels"]
    assert {end.request_id for end in ended} == set(labels.request_id[labels.event_timestamp > made.began])


def test_a_work_that_fails_is_tried_again_and_once_more_at_the_end():
    tries, over = [], asyncio.Event()

    async def work():
        tries.append(1)
        if len(tries) == 2:
            over.set()
        if len(tries) < 3:
            raise OSError("not yet")

    asyncio.run(web.Background(pause=None).repeat("work", work, 0, over))
    assert len(tries) == 3


def test_a_work_that_fails_is_known_as_long_as_it_does(caplog):
    background, over, seen = web.Background(pause=None), asyncio.Event(), []

    async def work():
        seen.append(dict(background.trouble))
        if len(seen) == 4:
            over.set()
        if len(seen) in (1, 2):
            raise OSError("disk full")

    asyncio.run(background.repeat("files", work, 0, over))
    assert seen[:4] == [{}, {"files": "OSError: disk full"}, {"files": "OSError: disk full"}, {}] and background.trouble == {}


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a driver")])
def test_a_look_at_the_clock_that_fails_is_said_and_tried_again(folder, monkeypatch, error):
    clocks.begin(folder, BEGIN + timedelta(hours=12), speed=86_400, until=BEGIN + timedelta(days=40))
    made, troubles = Live(life(), folder, LiveSettings(), first_one, lambda rows: None, taken), []
    happen, tries = made.happen, []

    def fails_at_times(moment):
        tries.append(moment)
        if 5 < len(tries) < 10:
            raise error
        troubles.append(dict(made.background.trouble))
        happen(moment)

    monkeypatch.setattr(made, "happen", fails_at_times)
    asyncio.run(rhythm.live_on(made, BEGIN + timedelta(days=2)))
    assert made.truth.answered + made.truth.unanswered > 50 and made.background.trouble == {}
    assert {"events": f"{type(error).__name__}: {error}"} in troubles


def test_the_files_are_written_while_the_company_lives(folder):
    made, over = Live(life(), folder, LiveSettings(), first_one, lambda rows: None, taken), asyncio.Event()
    made.truth.lines = ["one\n"]
    over.set()
    work, _ = rhythm.works_of(made)["files"]
    asyncio.run(made.background.repeat("files", work, 0, over))

    assert (folder / "live/truth.jsonl").read_text() == "one\n"


def test_a_task_that_dies_ends_the_company_with_its_reason(folder, monkeypatch):
    clocks.begin(folder, BEGIN + timedelta(hours=12), speed=86_400, until=BEGIN + timedelta(days=40))
    made = Live(life(), folder, LiveSettings(), first_one, lambda rows: None, nobody)
    monkeypatch.setattr(made.background, "_note", lambda name, error: 1 / 0)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(rhythm.live_on(made, BEGIN + timedelta(days=40)))
    assert time.monotonic() - began < 20


# Bookings that nobody answers are counted, with the reason


def test_why_a_booking_has_no_answer_is_counted_and_said(folder):
    kinds = [TimeoutError, OSError("serving answers 401: no key"), KeyError("prediction"), RuntimeError(), None]

    async def ask(trip):
        kind = kinds[len(asked) % len(kinds)]
        asked.append(trip)
        if kind is None:
            return None
        raise kind

    asked = []
    made = lived(folder, moments(60), ask=ask)
    assert made.truth.answered == 0 and sum(made.bookings.reasons.values()) == made.truth.unanswered == len(asked)
    reasons = {
        "no answer within 2 seconds",
        "serving answers 401: no key",
        "'prediction'",
        "RuntimeError",
        "nothing is known of the candidates",
    }
    assert set(made.bookings.reasons) == reasons and min(made.bookings.reasons.values()) > 10


def test_a_booking_that_is_lost_on_its_way_is_counted(folder, monkeypatch):
    made = Live(life(), folder, LiveSettings(most_waiting=1_000), first_one, lambda rows: None, taken)
    monkeypatch.setattr(events, "truth_of", lambda *given: 1 / 0)

    async def work():
        made.happen(BEGIN + timedelta(days=1))
        await asyncio.gather(*made.bookings.waiting, return_exceptions=True)

    asyncio.run(work())
    assert made.bookings.reasons["lost: ZeroDivisionError: division by zero"] > 50


def test_truth_that_cannot_be_written_is_written_later(folder):
    made = lived(folder, moments(60)[:24])
    (folder / "live/truth.jsonl").rename(folder / "kept")
    (folder / "live/truth.jsonl").mkdir()
    made.truth.lines = ["one\n"]
    with pytest.raises(IsADirectoryError):
        asyncio.run(live.flush(made))
    (folder / "live/truth.jsonl").rmdir()
    asyncio.run(live.flush(made))
    assert (folder / "live/truth.jsonl").read_text() == "one\n"


# Connections


class Stub:
    "A service that answers as it is told, and hangs up after each answer if it is to. It notes what it hears."

    def __init__(self, status: int = 200, body: bytes = b"{}", hangs_up: bool = False):
        self.status, self.body, self.hangs_up, self.connections, self.heard = status, body, hangs_up, 0, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.client = web.async_client(f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}")
        return self.client

    async def __aexit__(self, *_):
        await self.client.close()
        self.server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        while words := await reader.read(100_000):
            self.heard.append(words)
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (self.status, len(self.body)) + self.body)
            if self.hangs_up:
                break
        writer.close()


@pytest.mark.parametrize("hangs_up, connections", [(False, 1), (True, 3)])
def test_a_connection_is_used_again_unless_the_other_side_has_hung_up(hangs_up, connections):
    async def work():
        stub = Stub(hangs_up=hangs_up)
        async with stub as client:
            for _ in range(3):
                assert await web.answer(client, "/model") == (200, b"{}")
                await asyncio.sleep(0.02)
            return stub.connections

    assert asyncio.run(work()) == connections


@pytest.mark.parametrize(
    "status, body, expected",
    [
        (200, b'{"prediction": %d, "propensity": 0.9, "version": "3"}', True),
        (200, b'{"prediction": null, "propensity": null, "version": "3"}', False),
        (200, b'{"prediction": 1, "propensity": 0.9, "version": "3"}', False),
    ],
    ids=["answered", "nothing known", "no candidate"],
)
def test_only_a_candidate_is_an_answer(status, body, expected):
    trip = life().until(BEGIN + timedelta(days=1)).trips[0]

    async def work():
        async with Stub(status, body % trip.drivers[2] if b"%d" in body else body) as client:
            return await clients.asks(client)(trip)

    assert asyncio.run(work()) == (Sent(trip.drivers[2], 0.9, "3") if expected else None)


def test_the_old_policy_decides_where_serving_says_so_and_that_is_an_answer(folder):
    words = b'{"prediction": null, "propensity": null, "version": "3", "role": "fallback", "error": "the logged policy decides"}'

    async def work():
        async with Stub(200, words) as client:
            made = Live(life(), folder, LiveSettings(), clients.asks(client), lambda rows: None, taken)
            made.happen(BEGIN + timedelta(hours=12))
            await asyncio.gather(*made.bookings.waiting)
            return made

    made = asyncio.run(work())
    truth = [json.loads(line) for line in made.truth.lines]
    assert made.truth.answered == len(truth) > 20 and made.truth.unanswered == 0
    assert {(row["role"], row["version"]) for row in truth} == {("fallback", None)}
    bookings = made.files.taken()["bookings"].to_pylist()[-len(truth) :]
    trips = {trip.request_id: trip for trip in life().until(BEGIN + timedelta(hours=12)).trips}
    for booking in bookings:
        trip = trips[booking["request_id"]]
        assert (booking["driver_id"], booking["propensity"]) == (trip.logged, trip.chance[trip.drivers.index(trip.logged)])


def test_phases_know_when_the_fallback_was_on_and_how_many_trips_it_has_saved():
    drift = BEGIN + timedelta(days=1)
    about = [("champion", "1", 0.7), ("champion", "1", 0.4), ("champion", "1", 0.5), ("fallback", None, 0.6), ("fallback", None, 0.5)]
    about += [("champion", "1", 0.45), ("champion", "2", 0.7)]
    truth = pd.DataFrame(about, columns=["role", "version", "chosen"]).assign(real=np.arange(7.0), best=0.8, logged=0.5)
    truth["time"] = [(drift + timedelta(hours=h)).isoformat() for h in range(-1, 6)]
    moments = {"fallback 1: over": 6.5, "fallback 1: fallen back": 4.0, "fallback 1: trial": 2.0, "case 1: alerted": 1.0}
    phase = loop.phases(truth, drift, moments)
    assert phase.tolist() == ["before the drift", "old champion", *["trial"] * 2, *["fallen back"] * 2, "new champion"]
    assert loop.saved(truth, phase) == pytest.approx(0.6 + 0.5 - 2 * 0.45)


@pytest.mark.parametrize(
    "status, body, reason",
    [
        (503, b'{"prediction": null, "error": "no model"}', "503: no model"),
        (401, b'{"error": "the header X-API-Key is missing or wrong"}', "401: the header X-API-Key is missing or wrong"),
        (502, b"<html>", "502: not in the words"),
        (404, b"[]", "404: not in the words"),
    ],
)
def test_a_refusal_is_a_reason_for_bookings_and_for_labels(status, body, reason):
    trip = life().until(BEGIN + timedelta(days=1)).trips[0]

    async def work():
        async with Stub(status, body) as client:
            with pytest.raises(OSError, match=f"serving answers {reason}"):
                await clients.asks(client)(trip)
            with pytest.raises(OSError, match=f"monitoring answers {reason}"):
                await clients.tells(client)([End(BEGIN, "r", BEGIN, 1001, 1)])

    asyncio.run(work())


def test_the_live_company_shows_the_key_to_everybody(monkeypatch):
    monkeypatch.setenv(web.KEY, "a secret")
    trip = life().until(BEGIN + timedelta(days=1)).trips[0]

    async def work():
        stub = Stub(body=b'{"prediction": null}')
        async with stub as client:
            await clients.asks(client)(trip)
            await clients.tells(client)([])
        return stub.heard

    heard = asyncio.run(work())
    assert len(heard) == 2 and all(b"X-API-Key: a secret\r\n" in words for words in heard)


# From the build to the end


def test_an_environment_with_files_of_its_own_does_not_live(tmp_path, monkeypatch):
    usual, written = project.environment(), {"path": str(tmp_path / "company/labels.parquet")}
    for sources in ({}, {"labels": {"path": str(tmp_path / "raw/labels.parquet")}, "bookings": written}):
        own = usual.model_copy(update={"out": tmp_path, "data": {"sources": sources}})
        monkeypatch.setattr(project, "environment", lambda file=None, own=own: own)
        with pytest.raises(project.UserError, match="not the files of a company that lives on"):
            loop.history_of("env.mine.yaml")
    assert not list(tmp_path.iterdir())


def test_a_run_begins_with_the_build_and_not_with_what_earlier_runs_have_left(tmp_path):
    loop.prepare(tmp_path, HISTORY)
    history = file_digest(tmp_path / "company/labels.parquet")
    write_json(tmp_path / "made/build.json", {"fingerprint": "one"})
    loop.save_build(tmp_path)
    for stays in ("clock.json", "clock.lock"):
        (tmp_path / stays).write_bytes(b"of those who live")
    for left in ("company/labels.parquet", "monitoring/state.db", "serving/predictions/2026-03-16.jsonl", "live/truth.jsonl"):
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).write_bytes(b"left")
    loop.prepare(tmp_path, HISTORY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clock.json", "clock.lock", "company", "first", "made"]
    assert (tmp_path / "clock.lock").read_bytes() == b"of those who live" and not list((tmp_path / "first").glob("clock*"))
    assert file_digest(tmp_path / "company/labels.parquet") == history


def test_a_newer_build_is_not_taken_back(tmp_path):
    loop.prepare(tmp_path, HISTORY)
    for fingerprint in ("one", "two"):
        write_json(tmp_path / "made/build.json", {"fingerprint": fingerprint})
        loop.prepare(tmp_path, HISTORY)
        loop.save_build(tmp_path)
    assert "two" in (tmp_path / "first/made/build.json").read_text()


@pytest.mark.parametrize("key", [None, "the user's"])
def test_one_key_is_taken_by_all_services_that_want_one(tmp_path, monkeypatch, key):
    settings = project.environment("env.live.yaml", out=str(tmp_path))
    monkeypatch.setattr(project, "environment", lambda file=None: settings)
    monkeypatch.setenv(web.KEY, key) if key else monkeypatch.delenv(web.KEY, raising=False)
    listed = {service.name: service for service in loop.platform("env.live.yaml", LiveSettings())}

    kept = (tmp_path / "services/key").read_text()
    assert kept == (key or kept) and (tmp_path / "services/key").stat().st_mode & 0o777 == 0o600
    assert listed["retraining"].variables == {web.KEY: kept}
    for name in ("serving", "monitoring"):  # they have the user's, or none
        assert web.KEY not in listed[name].variables
    for file in ("prometheus/prometheus.yml", "alertmanager/alertmanager.yml"):
        assert str(tmp_path / "services/key") in (tmp_path / file).read_text() and kept not in (tmp_path / file).read_text()


@pytest.mark.parametrize("seconds", [0, 60, 240])
def test_the_clock_has_an_end_that_is_later_than_all_that_happens(monkeypatch, tmp_path, seconds):
    environment, settings = project.environment("env.live.yaml"), LiveSettings()
    listed = [services.Service(name="web", command=("web",), port=1, seconds=60)] * 4
    end = loop.clock_end(environment, HISTORY, settings, listed)
    company = loop.going_on(HISTORY, settings, HISTORY.end + timedelta(seconds=seconds * settings.speed))

    assert company.settings.end + timedelta(days=9) <= end < HISTORY.end + timedelta(days=200)


@pytest.mark.parametrize(
    "wrong", [{"speed": 1e12}, {"speed": float("inf")}, {"speed": float("nan")}, {"days": 10**9}, {"after_days": 10**9}]
)
def test_settings_that_no_calendar_can_hold_are_refused(wrong):
    with pytest.raises(project.UserError, match=next(iter(wrong))):
        project.validated(LiveSettings, wrong, "the section `live`")


def test_recovery_is_told_by_phases_and_its_seconds_from_the_first_drifted_request():
    drift = BEGIN + timedelta(days=1)
    time = [drift + timedelta(hours=h) for h in (-9, -8, 4, 5, 6, 7, 8)]
    versions = ["1", None, "1", None, "1", "2", "1"]
    truth = pd.DataFrame({"time": [t.isoformat() for t in time], "version": versions, "real": 100.0 + np.arange(7)})
    truth = truth.assign(chosen=[0.8, 0.6, 0.4, 0.4, 0.4, 0.7, 0.7], best=0.8, logged=0.5)
    truth = truth.assign(role=["champion" if version else None for version in versions])
    recovery = loop.recovery(truth, loop.phases(truth, drift))
    assert recovery.trips.to_dict() == {"before the drift": 2, "old champion": 3, "new champion": 2}
    assert recovery.sent.to_dict() == {"before the drift": 0.7, "old champion": 0.4, "new champion": 0.7}
    moments = {"alarm: features of version 1": 90.0, "alarm: performance of version 1": 103.5, "case 1: alerted": 104.0}
    assert loop.recovery_seconds(truth, drift, moments) == {"alarm": 1.5, "alert": 2.0, "new champion answers": 3.0}


def test_a_challengers_trips_are_not_yet_those_of_a_new_champion():
    drift = BEGIN + timedelta(days=1)
    roles = ["champion", "challenger", "champion", "challenger", "champion"]
    truth = pd.DataFrame({"time": [(drift + timedelta(hours=h)).isoformat() for h in (-1, 1, 2, 3, 4)], "role": roles})
    truth = truth.assign(version=["1", "2", "1", "2", "2"], real=100.0 + np.arange(5))

    phases = loop.phases(truth, drift)

    assert list(phases) == ["before the drift", "old champion", "old champion", "old champion", "new champion"]


def test_the_line_of_the_present_fits_a_terminal():
    recent = [{"ms": 12.0, "version": "12", "role": "champion", "chosen": 0.63, "best": 0.74, "logged": 0.5}]
    made = SimpleNamespace(
        truth=SimpleNamespace(recent=recent, unanswered=0),
        bookings=SimpleNamespace(reasons=clients.Unanswered()),
        background=web.Background(pause=None),
    )

    def line(width: int) -> str:
        return loop.present(made, "12", ["performance of version 12"], width)

    assert line(78).endswith("· version 12 · 63% completed, 74% possible · alarm: performance")
    assert line(40).endswith("· version 12") and line(200).endswith(" · p99 12 ms")


def test_what_came_of_it_is_a_table_for_people(tmp_path):
    rows = [(BEGIN + timedelta(hours=h), v, 100.0 + h, 0.4 + 0.1 * (v == "2")) for h, v in [(-2, "1"), (1, "1"), (2, "2")]]
    truth = [
        {"time": t.isoformat(), "version": v, "role": "champion", "real": r, "chosen": c, "best": 0.8, "logged": 0.5} for t, v, r, c in rows
    ]
    write_json(tmp_path / "live/story.json", {"drift": BEGIN.isoformat(), "moments": {}})
    (tmp_path / "live/truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))

    lines = loop.summary(tmp_path).splitlines()

    assert max(map(len, lines)) <= 80
    assert [line.split()[-4:] for line in lines[-3:]] == [["1", share, "80.0%", "50.0%"] for share in ("40.0%", "40.0%", "50.0%")]

    truth[2:2] = [truth[1] | {"version": None, "role": "fallback", "real": 101.5, "chosen": 0.9}] * 4
    (tmp_path / "live/truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    write_json(
        tmp_path / "live/story.json",
        {"drift": BEGIN.isoformat(), "moments": {"fallback 1: trial": 101.2, "fallback 1: fallen back": 101.4}},
    )
    text = loop.summary(tmp_path)
    assert "fallen back             4" in text and "saved 2 completed trips" in text
