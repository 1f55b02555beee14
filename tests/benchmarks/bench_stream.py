"""The stream against a real broker: how fresh the online store is, how much it takes, what kills do, and micro-batches beside it."""

import argparse
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "system")]

import checkouts
import streams
from company import CLOCK
from confluent_kafka import Consumer as KafkaReader
from confluent_kafka import TopicPartition
from online import wait_for

from mlops_course import broker, features, project, stack, supervision, world
from mlops_course.stream_state import EntityState, Fields, fields_of, row_of

RATE, SECONDS, LIMIT = 2_000, 180, 1.0  # events a second, for so long; 99 % are to be online after so many seconds
RATES = (4_000, 8_000, 16_000)  # which of these is kept up with?
KILLS, KILLED_EVENTS, KILLED_RATE = 20, 60_000, 1_000
BATCH = 30  # seconds between two micro-batches, as in the seed course
DRIVERS = 400

SENDER = """
import pickle, sys, time
from confluent_kafka import Producer
from mlops_course import broker
messages, first, count, rate, bootstrap, topic = pickle.load(open(sys.argv[1], "rb")), *map(int, sys.argv[2:5]), *sys.argv[5:]
sender, began, sent = broker.producer(broker.StreamSettings(bootstrap=bootstrap)), time.monotonic(), 0
while sent < count:
    due = min(count, int((time.monotonic() - began) * rate) + 1)
    for value, key in messages[first + sent : first + due]:
        sender.produce(topic, value, key)
    sender.poll(0)
    sent = due
    time.sleep(0.02)
broker.confirmed(sender, 60)
"""


@contextmanager
def kafka(folder: Path) -> Iterator[tuple[str, Path]]:
    "A real broker in a project of its own: its address, and the folder of its supervisor."
    place, before = checkouts.checkout(folder), Path.cwd()
    checkouts.platform_on_free_ports(place)
    checkouts.with_programs(place)
    os.chdir(place)
    platform = stack.Local()
    if faults := [each.fault for each in stack.up(platform, ("kafka",)) if each.fault]:
        raise RuntimeError(faults)
    os.chdir(before)
    out = place / "out/platform"
    try:
        yield f"127.0.0.1:{platform.listed['kafka'].port}", out
    finally:
        supervision.stop(out)


class Ground:
    "Messages of a simulated company, and folders with a build of it."

    def __init__(self, folder: Path, count: int):
        self.folder, self.used, self.file = folder, 0, folder / "messages.pickle"
        days = count // 15_000 + 3
        start = (CLOCK - timedelta(days=days)).date()
        company = world.Company(world.WorldSettings(drivers=DRIVERS, days=days, start=start, events=True))
        self.events = [event for day in range(days) for event in world.driver_events(company, day).to_pylist()]
        self.events.sort(key=lambda event: (event["created"], event["event_id"]))
        messages = [(broker.encode(event), broker.message_key(event["driver_id"])) for event in self.events]
        self.file.write_bytes(pickle.dumps(messages))

    def company(self, name: str, bootstrap: str, **settings) -> tuple[Path, broker.StreamSettings]:
        "A folder whose stores are empty, with a topic of its own."
        made = streams.make(self.folder / name, range(1001, 1001 + DRIVERS))
        stream_settings = streams.environment(made, bootstrap=bootstrap, topic=name, group=name, **settings)
        broker.make_topics(stream_settings)
        return made, stream_settings

    def send(self, settings: broker.StreamSettings, count: int, rate: float) -> tuple[subprocess.Popen, list[dict]]:
        "A process that sends the next messages, and what they say."
        first, self.used = self.used, self.used + count
        words = [str(self.file), str(first), str(count), str(int(rate)), settings.bootstrap, settings.topic]
        process = subprocess.Popen([sys.executable, "-c", SENDER, *words], cwd=project.root())
        return process, self.events[first : self.used]


def quantile(buckets: dict[float, float], share: float) -> float:
    "As Prometheus' histogram_quantile: between two bounds it goes in a straight line."
    wanted, before, lower = share * buckets[float("inf")], 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted:
            return lower if bound == float("inf") else lower + (bound - lower) * (wanted - before) / max(count - before, 1)
        before, lower = count, bound
    return lower


def freshness(consumer: streams.Consumer) -> dict[float, float]:
    "Events by the seconds after which their row was online."
    lines = [line for line in consumer.client.get("/metrics").text.splitlines() if line.startswith("stream_freshness_seconds_bucket")]
    return {float(line.split('"')[1]): float(line.split()[-1]) for line in lines}


def steady(ground: Ground, bootstrap: str, rate: int, seconds: int) -> dict:
    "A run at a rate: how fresh, how much processor, how much memory, and what was behind at its end."
    folder, settings = ground.company(f"steady-{rate}", bootstrap)
    consumer = streams.Consumer(folder)
    try:
        wait_for(consumer.ready)
        process = psutil.Process(consumer.process.pid)
        spent, began = sum(process.cpu_times()[:2]), time.monotonic()
        sender, events = ground.send(settings, rate * seconds, rate)
        peak = 0
        while sender.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.5)
        lasted, behind = time.monotonic() - began, consumer.meter("stream_lag_events")
        cores = (sum(process.cpu_times()[:2]) - spent) / lasted
        wait_for(lambda: consumer.meter('stream_events_total{outcome="taken"}') == len(events), 120)
        buckets = freshness(consumer)
        consumer.terminate()
    finally:
        consumer.end()
    whole = streams.is_whole(folder, events, [*{event["driver_id"] for event in events}])
    sent = len(events) / lasted
    return {"rate": sent, "buckets": buckets, "cores": cores, "memory": peak, "behind": behind, "whole": whole}


def micro_batches(ground: Ground, bootstrap: str, batches: int) -> list[float]:
    "The seed's way: what has come in half a minute is read at once. Seconds until each event was online, in order."
    folder, settings = ground.company("micro", bootstrap)
    store, states, fields = features.open_store(folder / "features"), {}, fields_of(streams.ACTIVITY, streams.CONTRACT)
    reader = KafkaReader({"bootstrap.servers": bootstrap, "group.id": "micro", "auto.offset.reset": "earliest"})
    partitions = [TopicPartition(settings.topic, number, 0) for number in range(settings.partitions)]
    reader.assign(partitions)
    kind, seconds = broker.event_type(streams.EVENTS), []
    sender, _ = ground.send(settings, RATE * BATCH * batches, RATE)
    for _ in range(batches):
        time.sleep(BATCH)
        messages, waiting = [], sum(reader.get_watermark_offsets(each)[1] for each in partitions) - len(seconds)
        while len(messages) < waiting:  # what comes meanwhile is of the next batch
            messages += reader.consume(min(10_000, waiting - len(messages)), timeout=1)
        touched = set()
        for message in messages:
            event = broker.decode(message.value(), kind)
            values = Fields(*(event[name] for name in fields))
            states.setdefault(values.entity, EntityState(streams.ACTIVITY.rolling)).take(values)
            touched.add(values.entity)
        made = [row_of(entity, states[entity], streams.ACTIVITY, fields) for entity in touched]
        features.push(store, "activity", streams.rows(made), streams.CONTRACT, CLOCK)
        online = time.time()
        seconds += [online - message.timestamp()[1] / 1000 for message in messages]
    reader.close()
    sender.wait(60)
    return sorted(seconds)


def killed(ground: Ground, bootstrap: str, platform: Path, kills: int, count: int) -> dict:
    "A run in which consumer, sender and broker are killed at random moments; what is lost, doubled and old at its end."
    folder, settings = ground.company("killed", bootstrap, offline_seconds=0.5)
    draw, events = random.Random(16), ground.events[ground.used : ground.used + count]
    ground.used += count
    consumer = streams.Consumer(folder)
    sender = streams.Sender(folder, settings, events, KILLED_RATE)
    victims = draw.choices(["consumer", "sender", "broker"], [9, 8, 3], k=kills)
    try:
        wait_for(consumer.ready)
        for victim in victims:
            time.sleep(draw.uniform(0.5, 2 * count / KILLED_RATE / kills - 0.5))
            if victim == "broker":
                wait_for(lambda: consumer.supervised() and consumer.ready(), 60)
                psutil.Process(next(s.pid for s in supervision.states(platform) if s.name == "kafka")).kill()
            else:
                process = {"consumer": consumer, "sender": sender}[victim]
                process.kill()
                process.start()
        sender.process.wait(180)
        drivers = [*{event["driver_id"] for event in events}]
        wait_for(lambda: consumer.supervised() and streams.is_whole(folder, events, drivers), 60)
        consumer.terminate()
    finally:
        consumer.end()
    kept, newest, wanted = streams.offline(folder).event_id, streams.online(folder, drivers), streams.expected(events)
    return {
        "kills": ", ".join(f"{victims.count(name)} of the {name}" for name in dict.fromkeys(victims)),
        "lost": len({event["event_id"] for event in events} - set(kept)),
        "doubled": len(kept) - kept.nunique(),
        "old": sum(newest.get(driver) != row for driver, row in wanted.items()),
        "values": len(wanted),
    }


def main(small: bool) -> int:
    "Print Markdown tables; 3 if the limit was missed, or anything was lost."
    seconds, rates, kills, count, batches = (5, RATES[:1], 2, 4_000, 0) if small else (SECONDS, RATES, KILLS, KILLED_EVENTS, 3)
    wanted = RATE * seconds + sum(rates) * min(seconds, 20) + count + RATE * BATCH * batches
    with tempfile.TemporaryDirectory() as name, kafka(Path(name)) as (bootstrap, platform):
        ground = Ground(Path(name), wanted)
        first, peer = steady(ground, bootstrap, RATE, seconds), micro_batches(ground, bootstrap, batches)
        faster = {}
        for rate in rates:
            faster[rate] = steady(ground, bootstrap, rate, min(seconds, 20))
            if faster[rate]["behind"] > rate:
                break
        ended = killed(ground, bootstrap, platform, kills, count)
    p99 = quantile(first["buckets"], 0.99)
    print(f"From an event's sending until its row is online, {RATE:,} events/s of {DRIVERS} drivers for {seconds} s, beside the broker:\n")
    print("| way | p50, s | p99, s | online within 1 s | cores | memory, MB |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    share = first["buckets"][1.0] / first["buckets"][float("inf")]
    print(
        f"| `mlops-course stream` | {quantile(first['buckets'], 0.5):.2f} | {p99:.2f} | {share:.1%} "
        f"| {first['cores']:.2f} | {first['memory'] / 1e6:.0f} |"
    )
    if peer:
        middle, last = peer[len(peer) // 2], peer[int(len(peer) * 0.99)]
        print(
            f"| micro-batches of {BATCH} s, as in the seed course | {middle:.2f} | {last:.2f} | {sum(s <= 1 for s in peer) / len(peer):.1%} | | |"
        )
    print(f"\nHow much it takes, each rate for {min(seconds, 20)} s; behind: events that were not counted when the last one was sent:\n")
    print("| events/s wanted | sent | behind | p99, s | cores of the consumer |\n| ---: | ---: | ---: | ---: | ---: |")
    for rate, run in faster.items():
        print(f"| {rate:,} | {run['rate']:,.0f} | {run['behind']:,.0f} | {quantile(run['buckets'], 0.99):.2f} | {run['cores']:.2f} |")
    print(f"\n{kills} kills in one run of {count:,} events ({ended['kills']}):\n")
    print("| events lost | doubled | online values that are not the newest | of |\n| ---: | ---: | ---: | ---: |")
    print(f"| {ended['lost']} | {ended['doubled']} | {ended['old']} | {ended['values']} |")
    whole = first["whole"] and all(run["whole"] for run in faster.values())
    return 3 if p99 > LIMIT or not whole or ended["lost"] + ended["doubled"] + ended["old"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes, to see that it runs")
    sys.exit(main(parser.parse_args().small))
