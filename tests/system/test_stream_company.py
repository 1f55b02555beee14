"""The company whose drivers send events, on the platform: history, a model with the stream, live events, and answers that follow them."""

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple
from uuid import uuid4

import checkouts
import httpx
import pandas as pd
import psutil
import pytest
import streams
import yaml
from online import wait_for
from workshop import Workshop

from mlops_course import broker, emitter, features, lookup, programs, stack, stream, supervision, world

PROGRAMS = ("redis-server", "postgres", "kafka")
pytestmark = [
    pytest.mark.skipif(not all(map(programs.locate, PROGRAMS)), reason="programs of the platform are not here: platform/get.sh"),
    pytest.mark.patient,
]
FILE = "env.there.yaml"
SMALL = {"drivers": 120, "days": 42, "bookings_per_day": 400, "start": "2026-02-02"}


class There(NamedTuple):
    "A copy of the project with a build on the platform."

    workshop: Workshop
    platform: stack.Local

    def call(self, *words: str) -> str:
        code, output = self.workshop.call("mlops-course", *words, "--env", FILE)
        assert code == 0, output
        return output

    def ask(self, name: str, path: str, body: dict | None = None) -> httpx.Response:
        "What a service answers; the connection is closed, so that a service that ends waits for nobody."
        with httpx.Client(base_url=self.platform.listed[name].address, trust_env=False, timeout=30) as client:
            return client.get(path) if body is None else client.post(path, json=body)

    def meter(self, name: str) -> float:
        "A number of the consumer."
        text = self.ask("stream", "/metrics").text
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M))

    @property
    def settings(self) -> tuple[world.WorldSettings, broker.StreamSettings]:
        return emitter.settings_of(FILE)

    @property
    def streamed(self) -> pd.DataFrame:
        "The events of the offline store."
        return pd.concat(map(pd.read_parquet, (self.platform.folder / "streamed/events").glob("*.parquet")), ignore_index=True)


@pytest.fixture(scope="module")
def there(workshop) -> Iterator[There]:
    folder = workshop.folder
    fresh, platform = (yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in ("env.stream.yaml", "env.platform.yaml"))
    fresh["world"] |= SMALL
    fresh["features"] |= {name: platform["features"][name] for name in ("registry", "online_store")}
    fresh["stream"] |= {"bootstrap": "127.0.0.1:29092", "offline_seconds": 0.5}
    checkouts.platform_on_free_ports(folder, FILE, **{**fresh, "out": "out/there"})
    checkouts.with_programs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(folder))
        made = There(workshop, stack.Local(FILE))
        try:
            assert [each for each in stack.up(made.platform, ("redis", "mlflow", "kafka")) if not each.look] == []
            yield made
        finally:
            supervision.stop(made.platform.folder)
    assert checkouts.marked(folder) == []


def test_a_build_trains_a_champion_that_sees_the_last_hour(there):
    output = there.call("run")

    assert re.search(r"^Champion +driver-completion-stream version 1", output, re.M)
    activity = pd.read_parquet(there.platform.folder / "data/activity.parquet")
    events = pd.read_parquet(there.platform.folder / "data/events.parquet")
    assert len(events) > 50_000 and events.event_id.is_unique
    assert 0.99 * len(events) < len(activity) <= len(events)  # of one moment the last one counts


def test_events_that_come_now_change_what_is_answered(there):
    assert "emitter: 400 events a second to topic drivers" in there.call("emit", "start", "--rate", "400")
    consumer, serving = (there.workshop.start("mlops-course", name, "--env", FILE) for name in ("stream", "serve"))
    try:
        wait_for(lambda: _answers(there, "stream"))
        wait_for(lambda: there.meter('stream_events_total{outcome="taken"}') > 4_000)
        wait_for(lambda: _answers(there, "serving"))
        before = asked(there)
        wait_for(lambda: changed(before, asked(there)) > 5)
    finally:
        there.workshop.stop(serving)
        there.workshop.stop(consumer)


def test_what_was_sent_is_in_both_stores_each_once_although_emitter_consumer_and_redis_were_killed(there):
    consumer = there.workshop.start("mlops-course", "stream", "--env", FILE)
    try:
        wait_for(lambda: _answers(there, "stream"))
        for state in supervision.states(there.platform.folder):
            if state.name in ("emitter", "redis"):
                psutil.Process(state.pid).kill()  # the supervisor starts another one
        psutil.Process(consumer.pid).kill()
        consumer.wait()
        consumer = there.workshop.start("mlops-course", "stream", "--env", FILE)
        wait_for(lambda: _answers(there, "emitter") and _answers(there, "stream"))
        assert "stopped: emitter" in there.call("emit", "stop")

        sent = sent_by(there)
        wait_for(lambda: len(there.streamed) >= len(sent))
        assert sorted(there.streamed.event_id) == sorted(sent)
        wait_for(lambda: online(there) == newest(there))
    finally:
        there.workshop.stop(consumer)


def test_after_a_teardown_the_drivers_go_on_in_a_new_topic(there):
    before = len(there.streamed)
    assert "deleted: the topics drivers and drivers.dead" in there.call("emit", "teardown")

    there.call("emit", "start", "--rate", "400")
    consumer = there.workshop.start("mlops-course", "stream", "--env", FILE)
    try:
        wait_for(lambda: _answers(there, "stream"))
        wait_for(lambda: len(there.streamed) > before + 500)
        there.call("emit", "stop")
        sent = sent_by(there)
        wait_for(lambda: len(there.streamed) >= len(sent))
        assert sorted(there.streamed.event_id) == sorted(sent)
    finally:
        there.workshop.stop(consumer)


def _answers(there: There, name: str) -> bool:
    try:
        return there.ask(name, "/ready").status_code == 200
    except httpx.TransportError:
        return False


def asked(there: There) -> dict[int, float]:
    "The score of each driver at this moment."
    drivers = range(1001, 1001 + SMALL["drivers"])
    rows = [{"request_id": uuid4().hex, "driver_id": driver} for driver in drivers]  # each new: a repeated one has its old answer
    answers = there.ask("serving", "/score", {"rows": rows[:100]}).json()["rows"]
    return {answer["driver_id"]: answer["score"] for answer in answers}


def changed(before: dict[int, float], after: dict[int, float]) -> int:
    return sum(before[driver] != score for driver, score in after.items())


def newest(there: There) -> dict[int, tuple]:
    "What history and stream together say of each driver of whom an event came."
    table, contract = streams.ACTIVITY, streams.CONTRACT
    events = [pd.read_parquet(there.platform.folder / "data/events.parquet")[list(there.streamed)], there.streamed]
    made = stream.history(pd.concat(events).drop_duplicates("event_id"), table, contract)
    last = made[made.driver_id.isin(there.streamed.driver_id)].groupby("driver_id").tail(1)
    return {
        who: tuple(None if pd.isna(v) else float(v) for v in row)
        for who, *row in last[["driver_id", *streams.NAMES]].itertuples(index=False)
    }


def online(there: There) -> dict[int, tuple]:
    "What the online store has of the same drivers."
    drivers = sorted(there.streamed.driver_id.unique().tolist())
    store = features.open_store(there.platform.folder / "features")
    rows = lookup.read(store, "activity", "driver_id", streams.NAMES, drivers)
    return {who: row.values for who, row in zip(drivers, rows, strict=True)}


def sent_by(there: There) -> list[str]:
    "The names of all events until the place that the emitter has noted."
    company, stream = there.settings
    last = emitter.Emitter(there.platform.folder, company, stream, 1).last
    events = takewhile(lambda event: (event["created"], event["event_id"]) <= last, emitter.ahead(company, (company.end, "")))
    return [event["event_id"] for event in events]
