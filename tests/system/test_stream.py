"""The stream with a real broker: events of drivers reach both stores, each once, whatever is killed meanwhile."""

import json
import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import checkouts
import psutil
import pytest
import streams
from company import CLOCK
from confluent_kafka import Consumer as KafkaReader
from confluent_kafka import TopicPartition
from online import wait_for
from streams import Consumer, Sender

from mlops_course import broker, programs, stack, supervision

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
    pytest.mark.skipif(programs.locate("kafka") is None, reason="Kafka is not here: sh platform/get.sh kafka"),
    pytest.mark.patient,
]


class Kafka:
    "The platform's broker, in a project of its own."

    def __init__(self, folder: Path):
        self.folder = folder / "out/platform"
        self.platform = stack.Local()
        self.bootstrap = f"127.0.0.1:{self.platform.listed['kafka'].port}"

    def pid(self) -> int | None:
        return next((state.pid for state in supervision.states(self.folder) if state.name == "kafka"), None)

    def kill(self) -> None:
        "Its supervisor starts another one."
        psutil.Process(self.pid()).kill()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory) -> Iterator[Kafka]:
    place, before = checkouts.checkout(tmp_path_factory.mktemp("project")), Path.cwd()
    checkouts.platform_on_free_ports(place)
    checkouts.with_programs(place)
    os.chdir(place)
    try:
        started = Kafka(place)
        assert [each.fault for each in stack.up(started.platform, ("kafka",))] == [""]
    finally:
        os.chdir(before)
    yield started
    supervision.stop(started.folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return streams.make(tmp_path_factory.mktemp("built"))


@pytest.fixture
def company(kafka, built, tmp_path) -> Iterator["Company"]:
    made = Company(built, tmp_path / "company", kafka)
    yield made
    for consumer in made.consumers:
        consumer.end()


class Company:
    "A company with a topic of its own."

    def __init__(self, built: Path, folder: Path, kafka: Kafka):
        self.folder = shutil.copytree(built, folder)
        topic = f"drivers-{folder.parent.name[:40]}"
        self.settings = streams.environment(folder, bootstrap=kafka.bootstrap, topic=topic, group=topic, offline_seconds=0.5)
        self.consumers = []

    def consumer(self, **settings) -> Consumer:
        self.consumers.append(Consumer(self.folder, len(self.consumers) + 1, **settings))
        return self.consumers[-1]

    def send(self, events: list[dict]) -> None:
        streams.send(self.settings, events)

    def make_topic_anew(self) -> None:
        broker.delete_topics(self.settings)
        wait_for(lambda: self.settings.topic not in broker.answered(self.settings.bootstrap).topics)
        broker.make_topics(self.settings)

    def shared(self) -> list[int]:
        "The partitions that its consumers have."
        return sorted(number for each in self.consumers for number in each.state()["partitions"])

    def dead_letters(self, n: int) -> list:
        "The first ones."
        ours = {"bootstrap.servers": self.settings.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"}
        reader = KafkaReader(ours)
        reader.assign([TopicPartition(broker.dead(self.settings.topic), 0, 0)])
        try:
            return reader.consume(n, 10)
        finally:
            reader.close()

    def is_whole(self, events: list[dict]) -> bool:
        return all(each.state() for each in self.consumers) and streams.is_whole(self.folder, events)


def test_events_reach_both_stores_each_once(company):
    events = streams.afternoon(600)
    broker.make_topics(company.settings)
    company.send(events + events[-50:])

    consumer = company.consumer()
    wait_for(lambda: company.is_whole(events))

    assert consumer.ready() and consumer.state()["partitions"] == [0, 1, 2]
    assert consumer.meter('stream_events_total{outcome="taken"}') == 600
    assert consumer.meter('stream_events_total{outcome="duplicate"}') == 50
    consumer.terminate()


def test_nothing_is_lost_or_doubled_while_consumer_sender_and_broker_are_killed(company, kafka):
    events, draw = streams.afternoon(12_000), random.Random(16)
    broker.make_topics(company.settings)
    consumer, sender = company.consumer(), Sender(company.folder, company.settings, events, rate=800)
    wait_for(consumer.ready)

    for victim in draw.sample(["consumer", "sender", "broker"], 5, counts=[2, 2, 1]):
        time.sleep(draw.uniform(0.5, 2))
        if victim == "broker":
            wait_for(lambda: consumer.supervised() and consumer.ready())
            kafka.kill()
        else:
            process = {"consumer": consumer, "sender": sender}[victim]
            process.kill()
            process.start()

    assert sender.process.wait(60) == 0
    wait_for(lambda: consumer.supervised() and company.is_whole(events))
    consumer.terminate()
    assert streams.is_whole(company.folder, events)


def test_what_cannot_be_counted_is_laid_aside_with_its_reason_and_its_partition_goes_on(company):
    good = streams.afternoon(200)
    last = good[-1]
    key = broker.message_key(last["driver_id"])
    dead = {
        "malformed": (b"offered", key),
        "oversized": (broker.encode({**last, "event_id": "large", "note": "x" * 10_000}), key),
        "key": (broker.encode({**last, "event_id": "key"}), b"other"),
        "unknown": (broker.encode({**last, "event_id": "nobody", "driver_id": 9999}), b"9999"),
        "future": (broker.encode({**last, "event_id": "tomorrow", "created": CLOCK + timedelta(days=1)}), key),
        "late": (broker.encode({**last, "event_id": "late", "event_timestamp": last["event_timestamp"] - timedelta(minutes=20)}), key),
    }
    broker.make_topics(company.settings)
    company.send(good)
    sender = broker.producer(company.settings)
    for message in dead.values():
        sender.produce(company.settings.topic, *message)
    broker.confirmed(sender)
    good.append({**last, "event_id": "after", "event_timestamp": last["event_timestamp"] - timedelta(minutes=5)})
    company.send(good[-1:])

    consumer = company.consumer()
    wait_for(lambda: company.is_whole(good))

    letters = {dict(letter.headers())["reason"].decode(): letter for letter in company.dead_letters(len(dead))}
    assert letters.keys() == dead.keys()
    for reason, (value, name) in dead.items():
        assert (letters[reason].value(), letters[reason].key()) == (value[:10_000], name)
        assert consumer.meter(f'stream_events_total{{outcome="{reason}"}}') == 1
        headers = {name: text.decode() for name, text in letters[reason].headers()}
        assert headers["topic"] == company.settings.topic and headers["offset"].isdigit() and headers["partition"] in "012"
    assert "10,000" in dict(letters["oversized"].headers())["detail"].decode()
    consumer.terminate()


def test_members_come_and_go_and_nothing_is_lost_or_doubled(company):
    events = streams.afternoon(6_000, seed=3)
    broker.make_topics(company.settings)
    first, sender = company.consumer(), Sender(company.folder, company.settings, events, rate=400)
    wait_for(lambda: first.state()["partitions"] == [0, 1, 2])

    second = company.consumer()
    wait_for(lambda: first.ready() and second.ready() and company.shared() == [0, 1, 2])
    second.terminate()
    wait_for(lambda: first.state()["partitions"] == [0, 1, 2])
    second.start()
    wait_for(lambda: first.ready() and second.ready() and company.shared() == [0, 1, 2])
    second.kill()

    assert sender.process.wait(60) == 0
    company.consumers.remove(second)
    second.client.close()
    wait_for(lambda: company.is_whole(events))
    first.terminate()


def test_while_a_store_is_away_the_consumer_stays_in_its_group_and_goes_on_afterwards(company):
    events = streams.afternoon(1_000, seed=4)
    broker.make_topics(company.settings)
    consumer = company.consumer(poll_events=20)
    wait_for(consumer.ready)
    with closing(sqlite3.connect(company.folder / "features/online.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        company.send(events)
        wait_for(lambda: any("online: " in why and "locked" in why for why in consumer.state()["trouble"]))
        wait_for(lambda: consumer.meter("stream_lag_events") > 0)
        assert consumer.state()["partitions"] == [0, 1, 2]

    wait_for(lambda: company.is_whole(events))
    wait_for(lambda: consumer.meter("stream_lag_events") == 0 and not consumer.state()["trouble"])
    assert consumer.meter('stream_store_failures_total{store="online"}') >= 1
    consumer.terminate()
    log = [json.loads(line) for line in (company.folder / "logs/stream.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in log if line.get("what") == "online"] == ["does not work", "works again"]


def test_a_state_that_is_lost_is_made_again_of_the_offline_store(company):
    events = streams.afternoon(2_000, seed=5)
    broker.make_topics(company.settings)
    company.send(events[:1_000])
    consumer = company.consumer()
    wait_for(lambda: company.is_whole(events[:1_000]))
    consumer.terminate()
    shutil.rmtree(company.folder / "streamed/state")
    company.send(events[990:])

    consumer.start()
    wait_for(lambda: company.is_whole(events))

    assert consumer.meter('stream_events_total{outcome="taken"}') == 1_000
    consumer.terminate()


def test_a_build_that_replaces_the_online_store_gets_all_rows_again(company):
    events = streams.afternoon(300, seed=6)
    broker.make_topics(company.settings)
    company.send(events)
    consumer = company.consumer()
    wait_for(lambda: company.is_whole(events))

    streams.make(company.folder)

    wait_for(lambda: company.is_whole(events), 20)
    consumer.terminate()


def test_a_topic_that_was_made_anew_begins_at_its_first_event_and_the_counts_go_on(company):
    events = streams.afternoon(400, seed=7)
    broker.make_topics(company.settings)
    company.send(events[:300])
    consumer = company.consumer()
    wait_for(lambda: company.is_whole(events[:300]))

    consumer.terminate()
    company.make_topic_anew()
    company.send(events[290:350])
    consumer.start()
    wait_for(lambda: company.is_whole(events[:350]))

    company.make_topic_anew()  # while it runs
    company.send(events[340:])
    wait_for(lambda: company.is_whole(events))
    consumer.terminate()


def test_while_its_topic_is_gone_the_consumer_is_not_ready_and_goes_on_as_soon_as_there_is_one(company):
    events = streams.afternoon(300, seed=8)
    broker.make_topics(company.settings)
    company.send(events[:200])
    consumer = company.consumer()
    wait_for(lambda: company.is_whole(events[:200]))

    broker.delete_topics(company.settings)
    wait_for(lambda: not consumer.ready())
    wait_for(lambda: any("there is no topic" in why for why in consumer.state()["trouble"]))
    time.sleep(8)  # by now it rests as long as it ever does
    assert not consumer.ready()

    broker.make_topics(company.settings)
    company.send(events[200:])
    wait_for(lambda: company.is_whole(events), 30)
    wait_for(lambda: consumer.ready() and not consumer.state()["trouble"])
    consumer.terminate()


def test_without_a_broker_a_person_reads_what_would_start_one(company):
    consumer = company.consumer(bootstrap="127.0.0.1:1")

    assert consumer.process.wait(60) == 1
    assert "no broker of Kafka answers at 127.0.0.1:1" in consumer.out.read_text(encoding="utf-8")
