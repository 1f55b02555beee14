"""What drivers do after the files end: as events, each once, in their order, at a rate, and on from where it was."""

import subprocess
import sys
from datetime import timedelta
from itertools import islice, takewhile

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from mlops_course import broker, clocks, project, world
from mlops_course.contracts import read_project
from mlops_course.emitter import Emitter, ahead, check_alone, check_begun, teardown

SETTINGS = world.WorldSettings(drivers=80, days=3, bookings_per_day=100, scenario="tired", events=True)
EVENTS = broker.event_type(read_project("projects/ride_hailing_stream.yaml").contract.tables["events"])
TWO_DAYS = timedelta(days=2)


@pytest.fixture
def settings():
    with broker.mock("drivers") as address:
        yield broker.StreamSettings(bootstrap=address)


@pytest.fixture
def clock(tmp_path):
    clocks.begin(tmp_path, SETTINGS.end, 1e6, SETTINGS.end + TWO_DAYS, led=True)
    yield
    clocks.leave()


def received(settings) -> list[dict]:
    "All messages of the topic: partition after partition, in their order."
    partitions = broker.answered(settings.bootstrap).topics[settings.topic].partitions
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(settings.topic, number, 0) for number in partitions])
    messages = []
    while some := consumer.consume(1_000, timeout=2):
        messages += some
    consumer.close()
    return [broker.decode(message.value(), EVENTS) for message in sorted(messages, key=lambda m: (m.partition(), m.offset()))]


def test_history_and_what_is_ahead_are_one_stream_without_a_seam(tmp_path):
    longer = SETTINGS.model_copy(update={"days": 5, "drift_day": SETTINGS.days * 5 // 7})
    company = world.Company(longer)
    whole = [event for day in range(5) for event in world.driver_events(company, day).to_pylist()]
    after = sorted((e for e in whole if e["created"] > SETTINGS.end), key=lambda e: (e["created"], e["event_id"]))

    events = list(takewhile(lambda event: event["created"] <= longer.end, ahead(SETTINGS, (SETTINGS.end, ""))))

    assert events == after and len(after) > 1_000
    world.write(SETTINGS, tmp_path)
    history = pq.read_table(tmp_path / "driver_events.parquet").to_pylist()
    assert not {e["event_id"] for e in history} & {e["event_id"] for e in events}


@pytest.mark.parametrize("place", [0, 1, 1_234, 2_997])
def test_it_begins_anywhere(place):
    events = list(islice(ahead(SETTINGS, (SETTINGS.end, "")), 3_000))
    after = events[place]["created"], events[place]["event_id"]

    assert list(islice(ahead(SETTINGS, after), 2)) == events[place + 1 : place + 3]


def test_each_event_is_sent_once_by_its_driver_and_the_clock_stands_at_the_last(tmp_path, settings, clock):
    emitter = Emitter(tmp_path, SETTINGS, settings, rate=5_000)
    for _ in range(3):
        assert emitter.step()

    events = received(settings)

    assert len(events) == emitter.sent == 1_500 == len({event["event_id"] for event in events})
    for driver in {event["driver_id"] for event in events}:
        mine = [event["created"] for event in events if event["driver_id"] == driver]
        assert mine == sorted(mine)
    assert project.now() == emitter.last[0] == max(event["created"] for event in events)


def test_an_emitter_that_died_before_it_noted_its_place_sends_those_again_and_no_other(tmp_path, settings, clock):
    first = Emitter(tmp_path, SETTINGS, settings, rate=5_000)
    first.step()
    place = first.place.read_bytes()
    first.step()
    first.place.write_bytes(place)  # as if it had been killed before

    second = Emitter(tmp_path, SETTINGS, settings, rate=5_000)
    second.step()

    names = [event["event_id"] for event in received(settings)]
    assert len(names) == 1_500 and len(set(names)) == 1_000
    assert second.last == first.last and project.now() == first.last[0]  # the clock never went back


@pytest.mark.parametrize("rate", [5, 20, 2_000])
def test_the_rate_is_kept(tmp_path, settings, clock, rate, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    emitter = Emitter(tmp_path, SETTINGS, settings, rate)

    emitter.step()

    assert emitter.sent == max(1, rate / 10)
    assert sum(slept) <= emitter.sent / rate < sum(slept) + 5


def test_a_broker_that_is_gone_is_said_and_nothing_is_noted(tmp_path, clock, monkeypatch):
    gone = broker.StreamSettings(bootstrap="127.0.0.1:9")
    monkeypatch.setattr(broker, "confirmed", lambda sender, seconds=0.2, real=broker.confirmed: real(sender, 0.2))
    emitter = Emitter(tmp_path, SETTINGS, gone, rate=20)

    with pytest.raises(project.UserError, match="2 messages are not confirmed"):
        emitter.step()
    assert not emitter.place.exists()


@pytest.mark.parametrize(
    "place",
    [
        "{broken",
        "[]",
        "null",
        "{}",
        '{"created": "x", "event_id": "e"}',
        '{"created": "2026-01-09T12:00:00", "event_id": "e"}',
        '{"created": "2399-01-01T00:00:00+00:00", "event_id": "e"}',
    ],
)
def test_a_place_that_cannot_be_read_is_named_with_what_helps(tmp_path, settings, place, monkeypatch):
    monkeypatch.setattr(broker, "delete_topics", lambda settings: None)  # the mock cannot
    file = project.Paths(tmp_path).streamed / "emitter.json"
    file.parent.mkdir(parents=True)
    file.write_text(place)

    with pytest.raises(project.UserError, match=r"emitter\.json does not say which event was sent last.*`mlops-course emit teardown`"):
        Emitter(tmp_path, SETTINGS, settings, rate=20)

    teardown(tmp_path, SETTINGS, settings)
    assert Emitter(tmp_path, SETTINGS, settings, rate=20).last == (SETTINGS.end, "")


def test_a_teardown_is_refused_while_services_run_by_the_clock_of_the_events(tmp_path):
    there = (
        "import sys, mlops_course.supervision as s\nwith s.running(sys.argv[1], 'stream-2'): print('runs', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", there, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"runs\n"
        with pytest.raises(project.UserError, match="stream-2 of .*: still running"):
            check_alone(tmp_path)
        process.stdin.close()
    check_alone(tmp_path)


def test_a_consumer_waits_for_the_clock_that_the_events_begin(tmp_path, clock):
    with pytest.raises(project.UserError, match="begin these first, with `mlops-course emit start --env env.stream.yaml`"):
        check_begun(tmp_path / "other", "env.stream.yaml")
    check_begun(tmp_path, "env.stream.yaml")
    check_begun(tmp_path / "other", "env.yaml")


@pytest.mark.parametrize(
    "wrong",
    [
        {"group": ""},
        {"group": "a b"},
        {"partitions": 10_000_000},
        {"bootstrap": ""},
        {"bootstrap": "127.0.0.1"},
        {"topic": "x" * 101},
        {"event_bytes": 1_000_000},
    ],
)
def test_a_setting_that_kafka_or_a_file_cannot_have_is_refused(wrong):
    with pytest.raises(project.UserError, match=f"in stream:\n  {next(iter(wrong))}"):
        project.validated(broker.StreamSettings, wrong, "stream")
