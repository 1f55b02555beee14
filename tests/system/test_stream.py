"""The stream with a real broker: events of drivers reach both stores, each once, whatever is killed meanwhile."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import checkouts
import psutil
import pytest
import streams
from online import wait_for
from streams import Consumer, Sender

from mlops_course import broker, programs, recipes, stack, supervision

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
    pytest.mark.skipif(programs.locate("kafka") is None, reason="Kafka is not here: sh platform/get.sh kafka"),
]


class Kafka:
    "The platform's broker, in a project of its own."

    def __init__(self, folder: Path):
        self.folder = folder / "out/platform"
        self.platform = recipes.Platform()
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
