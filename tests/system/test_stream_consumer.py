"""The consumer on the mock broker: what does not work stops nobody else, is said, and is over when it is over."""

import itertools
import json
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from datetime import timedelta

import pytest
import streams
from company import CLOCK
from confluent_kafka import Consumer as KafkaReader
from confluent_kafka import TopicPartition
from streams import CONTRACT

from mlops_course import broker, project
from mlops_course.consumer import StreamConsumer

pytestmark = pytest.mark.patient


@pytest.fixture
def settings():
    with broker.mock("drivers") as address:
        yield broker.StreamSettings(bootstrap=address, poll_seconds=0.02, offline_seconds=0.1)


@pytest.fixture
def begun(tmp_path, settings, monkeypatch):
    "Begins a consumer of a company whose clock stands at its last event."
    monkeypatch.setattr(project, "now", lambda: CLOCK)
    folder, consumers = streams.make(tmp_path), []

    def begin(**more) -> StreamConsumer:
        consumers.append(StreamConsumer(folder, settings.model_copy(update=more), CONTRACT))
        return consumers[-1]

    yield begin
    for consumer in consumers:
        if not consumer.over.is_set():
            end(consumer)


def end(consumer: StreamConsumer) -> None:
    consumer.over.set()
    assert not consumer.step()


def steps(consumer: StreamConsumer, until, seconds: float = 30) -> None:
    "Rounds, until something is so."
    last = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < last, consumer.readiness()
        consumer.step()


def outcomes(consumer: StreamConsumer) -> dict[str, int]:
    counted = consumer.metrics.events.collect()[0].samples
    return {s.labels["outcome"]: int(s.value) for s in counted if s.name.endswith("total") and s.value}


def letters(settings) -> list:
    "All dead letters."
    ours = {"bootstrap.servers": settings.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"}
    reader, received = KafkaReader(ours), []
    reader.assign([TopicPartition(broker.dead(settings.topic), number, 0) for number in range(4)])
    while some := reader.consume(100, 1):
        received += some
    reader.close()
    return received


def test_a_message_with_a_big_key_is_laid_aside_and_its_partition_goes_on(begun, settings):
    good, sender = streams.afternoon(40), broker.producer(settings, **{"message.max.bytes": 3_000_000})
    for number in range(4):
        sender.produce("drivers", b"x", b"poison", partition=number)
        sender.produce("drivers", b"x", b"0" * 1_200_000, partition=number)
        sender.produce("drivers", b"y" * 1_200_000, b"1", partition=number)
    broker.confirmed(sender)
    streams.send(settings, good)

    consumer = begun()
    steps(consumer, lambda: outcomes(consumer).get("taken") == 40)

    assert outcomes(consumer) == {"taken": 40, "malformed": 4, "oversized": 8}
    assert Counter((len(m.key()), len(m.value())) for m in letters(settings)) == {(6, 1): 4, (10_000, 1): 4, (1, 10_000): 4}
    assert {dict(m.headers())["detail"] for m in letters(settings) if len(m.key()) > 6} == {b"1,200,000 bytes in its key, more than 10,000"}


def test_where_one_letter_cannot_be_sent_the_others_are_sent_once(begun, settings, monkeypatch):
    sender = broker.producer(settings)
    for name in ("a", "b", "c"):
        sender.produce("drivers", name.encode(), b"1001")
    broker.confirmed(sender)
    consumer = begun()
    there, refused = consumer.letters.producer, []

    class Refusing:
        def produce(self, topic, value, *rest, **more):
            if value == b"b" and len(refused) < 2:
                refused.append(value)
                raise BufferError("Local: Queue full")
            there.produce(topic, value, *rest, **more)

        def __getattr__(self, name):
            return getattr(there, name)

    consumer.letters.producer = Refusing()
    steps(consumer, lambda: outcomes(consumer).get("malformed") == 3)

    assert len(refused) == 2 and sorted(m.value() for m in letters(settings)) == [b"a", b"b", b"c"]


def logged(caplog, what: str) -> list[str]:
    "What the log has of a store."
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.getMessage().startswith("{")]
    return [line["event"] for line in lines if line.get("what") == what]


def test_a_failure_that_only_comes_with_messages_is_one_failure_and_the_pauses_grow(begun, settings, monkeypatch, caplog):
    sender = broker.producer(settings)
    sender.produce("drivers", b"no event", b"1001")
    broker.confirmed(sender)
    consumer, tries = begun(), []
    real = consumer.letters.send

    def send(letters):
        if letters:
            tries.append(time.monotonic())
            raise project.UserError("dead letters do not arrive: no answer")

    monkeypatch.setattr(consumer.letters, "send", send)
    steps(consumer, lambda: len(tries) == 5)

    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[-1] > 0.8
    assert consumer.readiness()["trouble"] == ["dead letters: dead letters do not arrive: no answer"]
    monkeypatch.setattr(consumer.letters, "send", real)
    steps(consumer, lambda: not consumer.readiness()["trouble"])
    assert logged(caplog, "dead letters") == ["does not work", "works again"] and outcomes(consumer) == {"malformed": 1}


@pytest.mark.parametrize("damage", ["bytes", "entity"])
def test_a_state_that_is_damaged_is_named_and_the_other_partitions_go_on(begun, settings, tmp_path, damage):
    events = streams.afternoon(200)
    streams.send(settings, events[:100])
    first = begun()
    steps(first, lambda: streams.is_whole(tmp_path, events[:100]))
    end(first)
    file = max((tmp_path / "streamed/state").glob("*.db"), key=lambda file: len(states_of(file)))
    if damage == "bytes":
        file.write_bytes(random.Random(5).randbytes(20_000))
    else:
        with closing(sqlite3.connect(file)) as db:
            db.execute("UPDATE entities SET state = '{broken'")
            db.commit()
    streams.send(settings, events[100:])

    consumer = begun()
    steps(consumer, lambda: any(f"{file.name} cannot be read" in why for why in consumer.readiness()["trouble"]))
    counted = outcomes(consumer).get("taken", 0)
    steps(consumer, lambda: len(consumer.partitions) == 3 and not any(consumer.metrics.lag.get(n, 1) for n in consumer.partitions))

    assert not consumer.readiness()["ready"] and 0 <= counted < 100
    assert any("delete it" in why for why in consumer.readiness()["trouble"])
    failures = consumer.failures["state"]
    until = time.monotonic() + 2
    steps(consumer, lambda: time.monotonic() > until)
    assert consumer.failures["state"] <= failures + 2
    file.unlink()
    steps(consumer, lambda: consumer.readiness()["ready"] and not consumer.readiness()["trouble"])
    steps(consumer, lambda: streams.is_whole(tmp_path, events))


def states_of(file) -> list:
    with closing(sqlite3.connect(file)) as db:
        return db.execute("SELECT * FROM entities").fetchall()


def test_what_was_sent_before_it_happened_or_too_late_is_laid_aside_with_how(begun, settings):
    last = streams.afternoon(10)[-1] | {"event_timestamp": CLOCK, "created": CLOCK, "event_id": "last"}
    early = last | {"event_id": "early", "created": CLOCK - timedelta(minutes=6)}
    late = last | {"event_id": "late", "event_timestamp": CLOCK - timedelta(minutes=20)}
    slack = last | {"event_id": "slack", "created": CLOCK - timedelta(minutes=4)}
    streams.send(settings, [last, early, late, slack])

    consumer = begun()
    steps(consumer, lambda: sum(outcomes(consumer).values()) == 4)

    assert outcomes(consumer) == {"taken": 2, "order": 1, "late": 1}
    details = {dict(m.headers())["reason"]: dict(m.headers())["detail"].decode() for m in letters(settings)}
    assert details[b"order"] == "it was sent before it happened"
    assert details[b"late"].startswith("0:20:00 older than the newest of")


def test_a_clock_that_is_behind_all_events_is_said(begun, settings, monkeypatch):
    monkeypatch.setattr(project, "now", lambda: CLOCK - timedelta(days=1))
    streams.send(settings, streams.afternoon(20, hours=2))

    consumer = begun()
    steps(consumer, lambda: outcomes(consumer).get("future") == 20)

    assert any(why.startswith("clock: the last 20 events are dated after") for why in consumer.readiness()["trouble"])


def test_a_last_settling_that_fails_is_kept_to_be_said(begun, settings, monkeypatch):
    streams.send(settings, streams.afternoon(20))
    consumer = begun()
    steps(consumer, lambda: outcomes(consumer).get("taken") == 20)

    monkeypatch.setattr(consumer.online, "identity", lambda: 1 / 0)
    end(consumer)

    assert consumer.unsettled.store == "online" and "online" in consumer.trouble
