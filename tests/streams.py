"""A company whose drivers send events: its feature store, what was sent, and the consumer as a process."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import company
import httpx
import numpy as np
import pandas as pd
import yaml
from browser import free_port
from company import CLOCK, KNOWN
from online import COMMAND

from mlops_course import broker, features, lookup, project, stream
from mlops_course.contracts import read_project
from mlops_course.problem import KNOWN as KNOWN_AT

PROJECT = "projects/ride_hailing_stream.yaml"
CONTRACT = read_project(PROJECT).contract
ACTIVITY, EVENTS = CONTRACT.tables["activity"], CONTRACT.tables["events"]
NAMES = tuple(CONTRACT.views["activity"])


def frame(events: list[dict]) -> pd.DataFrame:
    "Events as the data stage has them."
    rows = pd.DataFrame(events, columns=EVENTS.names)
    return rows.astype({"event_timestamp": "datetime64[us, UTC]", "created": "datetime64[us, UTC]"})


def rows(made: list[dict]) -> pd.DataFrame:
    "Rows of features as the data stage has them."
    times = dict.fromkeys([ACTIVITY.time, CONTRACT.created, KNOWN_AT], "datetime64[us, UTC]")
    return pd.DataFrame(made).astype(times)


def statistics(drivers: Sequence[int]) -> pd.DataFrame:
    "The same row for each of some drivers."
    return company.statistics().head(1).drop(columns="driver_id").merge(pd.DataFrame({"driver_id": list(drivers)}), how="cross")


def make(
    folder: Path,
    drivers: Sequence[int] | None = None,  # None: those of the company
) -> Path:
    "A build of a company, before any event."
    (folder / "data").mkdir(parents=True, exist_ok=True)
    known = company.statistics() if drivers is None else statistics(drivers)
    known.to_parquet(folder / "data/statistics.parquet", index=False)
    none = stream.history(frame([]), ACTIVITY, CONTRACT)
    none.assign(**{KNOWN_AT: none.created}).to_parquet(folder / "data/activity.parquet", index=False)
    files = {view: folder / f"data/{view}.parquet" for view in CONTRACT.views}
    features.build(folder / "features", files, "company", features.FeatureSettings(), CLOCK, CONTRACT)
    return folder


def environment(folder: Path, **settings) -> broker.StreamSettings:
    "An environment's file in the folder of a company, and its section `stream`."
    config = {"name": "company", "out": str(folder), "clock": CLOCK.isoformat(), "project": PROJECT, "stream": settings}
    (folder / "env.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return broker.StreamSettings(**settings)


def afternoon(n: int, hours: float = 20, seed: int = 1) -> list[dict]:
    "What the drivers did in the hours until now, in the order of sending: some of it a few minutes late."
    draw = np.random.default_rng(seed)
    sent = np.sort(draw.random(n)) * hours * 3_600
    late = np.where(draw.random(n) < 0.1, draw.random(n) * 240, draw.random(n))
    types = draw.choice(["offered", "accepted", "completed"], n, p=[0.5, 0.3, 0.2])
    who = draw.choice(KNOWN, n)
    begin = CLOCK - timedelta(hours=hours)
    return [
        {
            "event_id": f"e-{seed}-{i:06}",
            "event_timestamp": begin + timedelta(seconds=float(sent[i] - late[i])),
            "driver_id": int(who[i]),
            "event_type": str(types[i]),
            "created": begin + timedelta(seconds=float(sent[i])),
        }
        for i in range(n)
    ]


def send(settings: broker.StreamSettings, events: list[dict]) -> None:
    "All of them, confirmed."
    sender = broker.producer(settings)
    for event in events:
        sender.produce(settings.topic, broker.encode(event), broker.message_key(event["driver_id"]))
    broker.confirmed(sender)


SENDER = """
import json, sys, time
from pathlib import Path
from mlops_course import broker
lines, place, rate, settings = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4])
settings, messages = broker.StreamSettings(**settings), lines.read_bytes().splitlines()
done, sender = int(place.read_text()) if place.exists() else 0, broker.producer(settings)
while done < len(messages):
    began, some = time.monotonic(), messages[done : done + 50]
    for message in some:
        sender.produce(settings.topic, message, broker.message_key(json.loads(message)["driver_id"]))
    broker.confirmed(sender, 60)
    done += len(some)
    beside = place.with_suffix(".part")
    beside.write_text(str(done)); beside.replace(place)
    time.sleep(max(0, began + len(some) / rate - time.monotonic()))
"""


class Sender:
    "A process that sends lines of a file, so many a second, and goes on where it was when it is started again."

    def __init__(self, folder: Path, settings: broker.StreamSettings, events: list[dict], rate: float):
        self.lines, self.place = folder / "events.jsonl", folder / "sent"
        self.lines.write_bytes(b"\n".join(map(broker.encode, events)))
        self.words = [str(self.lines), str(self.place), str(rate), settings.model_dump_json()]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SENDER, *self.words], cwd=project.root())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


class Consumer:
    "The service as a process."

    def __init__(self, folder: Path, member: int = 1, port: int | None = None, **settings):
        self.folder, self.member, self.port = folder, member, port or free_port()
        self.changes = [f"--set={name}={value}" for name, value in settings.items()]
        self.out = folder / f"stream-{member}.log"
        self.client = httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{self.port}", timeout=10)
        self.start()

    def start(self) -> None:
        words = [COMMAND, "stream", "--env", str(self.folder / "env.yaml"), "--port", str(self.port), "--member", str(self.member)]
        variables = {**os.environ, "PLOOMBER_ENV_FILENAME": str(self.folder / "env.yaml")}
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(
                [*words, *self.changes], cwd=project.root(), env=variables, stdout=out, stderr=out, start_new_session=True
            )

    def state(self) -> dict:
        assert self.process.poll() is None, self.out.read_text(encoding="utf-8")[-3000:]
        try:
            return self.client.get("/ready").json()
        except httpx.TransportError:
            return {"ready": False, "partitions": [], "trouble": []}

    def ready(self) -> bool:
        return self.state()["ready"]

    def supervised(self) -> bool:
        "Is it there? One that has ended, because there was no broker, is started again."
        if self.process.poll() is not None:
            self.start()
        return True

    def meter(self, name: str) -> float:
        "The sum of a metric over all of its labels that are not named."
        bare, _, labels = name.partition("{")
        lines = re.findall(rf"^{re.escape(bare)}({{[^}}]*}})? (\S+)$", self.client.get("/metrics").text, re.M)
        return sum(float(value) for given, value in lines if labels.rstrip("}") in given)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def terminate(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0, self.out.read_text(encoding="utf-8")[-3000:]

    def end(self) -> None:
        "Whatever it does."
        if self.process.poll() is None:
            self.kill()
        self.client.close()


def offline(folder: Path) -> pd.DataFrame:
    "All events of the offline store, in order."
    files = sorted((folder / "streamed/events").glob("*.parquet"))
    rows = pd.concat([frame([]), *map(pd.read_parquet, files)], ignore_index=True)
    return rows.sort_values("event_id", ignore_index=True).astype({"driver_id": "int64"})


def online(folder: Path, drivers: Sequence[int] = tuple(KNOWN)) -> dict[int, lookup.Newest]:
    "What the online store has of each driver with an event."
    store = features.open_store(folder / "features")
    rows = lookup.read(store, "activity", "driver_id", NAMES, list(drivers))
    return {who: row for who, row in zip(drivers, rows, strict=True) if row.known}


def expected(events: list[dict]) -> dict[int, lookup.Newest]:
    "What it should have: the newest row of each driver in history."
    made = stream.history(frame(events), ACTIVITY, CONTRACT)
    rows = made.groupby("driver_id").tail(1).set_index("driver_id")  # as a whole: its empty values too
    values = {who: tuple(None if pd.isna(v) else float(v) for v in row) for who, *row in rows[list(NAMES)].itertuples()}
    known = rows[["datetime", "created"]].max(axis=1)
    return {who: lookup.Newest(values[who], known[who].to_pydatetime()) for who in rows.index}


def is_whole(folder: Path, events: list[dict], drivers: Sequence[int] = tuple(KNOWN)) -> bool:
    "Does each store have what was sent, once?"
    kept = offline(folder).event_id.tolist()
    return kept == sorted(event["event_id"] for event in events) and online(folder, drivers) == expected(events)
