"""The rolling features of lesson 33 by Spark Structured Streaming beside ours: compared row by row, then seconds and memory.

`python tests/benchmarks/bench_spark.py [--quick]` prints Markdown tables; a row that differs is an error. Spark's job is
spark/job.py. It needs Java, and has an environment of its own that is made on first use (500 MB).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil

from mlops_course import project, stream
from mlops_course.contracts import read_project
from mlops_course.files import write_json
from mlops_course.tables import schema_of, table_of, write_table

CONTRACT = read_project("projects/ride_hailing_stream.yaml").contract
TABLE = CONTRACT.tables["activity"]
ROLLING, EVENTS = TABLE.rolling, CONTRACT.tables[TABLE.rolling.of]
SCHEMA = schema_of({column.name: column.kind for column in EVENTS.columns})
ID, TIME, ENTITY, TYPE, CREATED = EVENTS.key[0], EVENTS.time, TABLE.entity, ROLLING.type, CONTRACT.created
KEY, FEATURES = [ENTITY, "tile"], list(ROLLING.features)

HERE, SECOND, START = Path(__file__).parent, timedelta(seconds=1), datetime(2026, 3, 16, tzinfo=UTC)
DAYS, FULL, QUICK = 2, [100, 1_000], [10]  # numbers of drivers
# Files of events, each a micro-batch of Spark. Its watermark tells what is too late by the batch before the last: a file of a
# minute between two of hours lets that be minutes too.
HOURS, MINUTE = timedelta(hours=6), timedelta(minutes=1)
USUAL, OFFLINE, LATE = 1_001, 8_001, 9_001  # the first driver of each group
OFFLINE_FOR, LATE_BY = timedelta(hours=6), 6 * ROLLING.lateness
SPARK, HISTORY, TILES = "Spark, two threads", "`history`, in DuckDB", "`Tiles`, event by event"


# --- events ---


def made(
    first: int,  # driver
    drivers: int,
    latest: timedelta,  # one event in twenty is sent later than at once, by this at most
) -> pd.DataFrame:
    "About 30 offers a day of each driver, within ten hours, and what became of them."
    draw, n = np.random.default_rng(first), drivers * DAYS * 30
    who, begins = draw.integers(0, drivers, n), draw.integers(0, 24, drivers)
    offered = (draw.integers(0, DAYS, n) * 24 + begins[who] + draw.random(n) * 10) * 3600
    accepted = offered + draw.exponential(15, n)
    completed = accepted + draw.uniform(300, 2400, n)
    taken = draw.random(n) < 0.7
    ended = taken & (draw.random(n) < 0.85)
    groups = [("offered", offered, np.full(n, True)), ("accepted", accepted, taken), ("completed", completed, ended)]
    what = np.concatenate([np.repeat(name, chosen.sum()) for name, _, chosen in groups])
    who = np.concatenate([who[chosen] for _, _, chosen in groups])
    moment = np.concatenate([seconds[chosen] for _, seconds, chosen in groups])
    # every other one in whole seconds: some at the first moment of a tile, some at the moment of another
    moment = np.where(draw.random(len(moment)) < 0.5, moment.round(), moment)
    late = np.minimum(draw.random(len(moment)) * 1.1, 1) * (latest / SECOND)  # some as late as can be
    delay = np.where(draw.random(len(moment)) < 0.05, late, draw.integers(0, 3, len(moment)))
    names = [f"{first}-{number:07d}" for number in draw.permutation(len(moment))]
    times = [((START.timestamp() + seconds) * 1e6).round().astype("int64") for seconds in (moment, moment + delay)]
    return table_of(SCHEMA, names, times[0], first + who, what, times[1]).to_pandas()


def everything(drivers: int) -> pd.DataFrame:
    "In the order of sending: events that nobody may lose, and two small groups that are later than is allowed."
    few = max(1, drivers // 20)
    offline = made(OFFLINE, few, 0 * SECOND)
    offline[CREATED] += OFFLINE_FOR
    groups = [made(USUAL, drivers, ROLLING.lateness), offline, made(LATE, few, LATE_BY)]
    return pd.concat(groups).sort_values([CREATED, ID], ignore_index=True)


def usual(frame: pd.DataFrame) -> pd.DataFrame:
    "Without the two groups."
    return frame[frame[ENTITY].between(USUAL, OFFLINE - 1)]


def send(events: pd.DataFrame, folder: Path) -> None:
    "Files in the order of sending, and a last one with an event of nobody that is a day younger: it closes all tiles."
    later = {column: events[column].max() + timedelta(days=1) for column in (TIME, CREATED)}
    closing = events.tail(1).assign(**{ENTITY: 0}, **later)
    folder.mkdir()
    hours = events[CREATED].dt.floor(HOURS)
    parts = events.groupby([hours, events[CREATED] - hours >= MINUTE])
    for number, part in enumerate([*(part for _, part in parts), closing]):
        path = folder / f"{number:04d}.parquet"
        write_table(part, SCHEMA, path)
        os.utime(path, (number, number))  # Spark takes the oldest first


def read(folder: Path) -> pd.DataFrame:
    "The files of Parquet in a folder, one below the other."
    return pd.concat(map(pd.read_parquet, sorted(folder.glob("**/*.parquet"))), ignore_index=True)


# --- three ways, each in a process of its own ---


def definition() -> dict:
    "What the job is told: names, and spans of time in seconds."
    features = {name: feature.model_dump() | {"window": feature.window // SECOND} for name, feature in ROLLING.features.items()}
    names = {"entity": ENTITY, "time": TIME, "type": TYPE, "types": ROLLING.types}
    return names | {"tile": ROLLING.tile // SECOND, "lateness": ROLLING.lateness // SECOND, "features": features}


def environment() -> Path:
    "The Python of Spark's own environment, made when the list of its packages changes."
    listed, folder = HERE / "spark/requirements.txt", project.root() / "out/bench/spark"
    python, noted = folder / "bin/python", folder / "requirements.txt"
    if not noted.is_file() or noted.read_bytes() != listed.read_bytes():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", listed], check=True)
        shutil.copyfile(listed, noted)
    return python


def by_history(events: pd.DataFrame) -> pd.DataFrame:
    "Our rows, as training has them."
    return stream.history(events, TABLE, CONTRACT)


def by_tiles(events: pd.DataFrame) -> pd.DataFrame:
    "Our rows, as a consumer makes them."
    tiles, rows = {}, []
    for name, who, moment, what in events[[ID, ENTITY, TIME, TYPE]].itertuples(index=False, name=None):
        mine = tiles.setdefault(who, stream.Tiles(ROLLING))
        if mine.add(moment.to_pydatetime(), what):
            stream.forget(mine)
            rows.append([name, who, mine.newest, *stream.features_of(mine).values()])
    return pd.DataFrame(rows, columns=[ID, ENTITY, TABLE.time, *FEATURES])


WAYS = {HISTORY: by_history, TILES: by_tiles}


def once(way: str, folder: Path, out: Path) -> None:
    "One of ours: from files of events to a file of features."
    ready = time.time()
    WAYS[way](read(folder).query(f"{ENTITY} > 0")).to_parquet(out)
    print(json.dumps({"ready": ready, "done": time.time()}))


def measured(command: list, folder: Path) -> dict:
    "What a process has printed, its seconds until it was ready, of its work and of CPU, and its peak memory in MB."
    # another Spark's settings are not for this one
    variables = {name: text for name, text in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    used, peak, began = 0, 0, time.time()
    with open(folder / "errors.txt", "w+", encoding="utf-8") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**variables, "SPARK_LOCAL_IP": "127.0.0.1"}, text=True
        ) as work:
            while work.poll() is None:
                cpu, memory = _used(work.pid)
                used, peak = max(used, cpu), max(peak, memory)
                time.sleep(0.02)
            printed = work.stdout.read()
        if work.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read()[-5000:])
    noted = json.loads(printed.splitlines()[-1])
    return noted | {"start": noted["ready"] - began, "run": noted["done"] - noted["ready"], "cpu": used, "mb": peak / 2**20}


def _used(process: int) -> tuple[float, int]:
    "Seconds of CPU and bytes of memory, of a process and of the Java that it has started."
    try:
        work = psutil.Process(process)
        # not of Java's children: there are some for an instant, and they seem to be as large as Java itself
        family = [work, *work.children()]
        return sum(sum(each.cpu_times()[:2]) for each in family), sum(each.memory_info().rss for each in family)
    except psutil.NoSuchProcess:
        return 0, 0


# --- compared ---


def counted(events: pd.DataFrame) -> dict[int, stream.Tiles]:
    "Each driver's tiles when all of her events had come; nothing is forgotten."
    tiles = {}
    for who, moment, what in events[[ENTITY, TIME, TYPE]].itertuples(index=False, name=None):
        tiles.setdefault(who, stream.Tiles(ROLLING)).add(moment.to_pydatetime(), what)
    return tiles


def counts(tiles: dict[int, stream.Tiles]) -> pd.DataFrame:
    "Events of each driver and tile, a column for each type."
    none = dict.fromkeys(ROLLING.types, 0)
    return pd.DataFrame([{ENTITY: who, "tile": tile} | none | n for who, mine in tiles.items() for tile, n in mine.counts.items()])


def as_of_tiles(tiles: dict[int, stream.Tiles]) -> pd.DataFrame:
    "Features as of each tile, by all that came to it."
    rows = []
    for who, mine in tiles.items():
        then = stream.Tiles(ROLLING)
        for tile in sorted(mine.counts):
            then.newest, then.counts[tile] = stream.EPOCH + tile * ROLLING.tile, mine.counts[tile]
            stream.forget(then)
            rows.append([who, tile, *stream.features_of(then).values()])
    return pd.DataFrame(rows, columns=[*KEY, *FEATURES])


def last_rows(history: pd.DataFrame) -> pd.DataFrame:
    "The last of the history's rows in each tile."
    return history.assign(tile=stream.tile_of(history[TABLE.time], ROLLING.tile)).drop_duplicates(KEY, keep="last")


def reopened(events: pd.DataFrame) -> set[tuple[int, int]]:
    "Drivers and tiles whose sums have changed after the driver's next tile had begun: the history has no row that knows it."
    tile = stream.tile_of(events[TIME], ROLLING.tile)
    newest = stream.tile_of(events.groupby(ENTITY)[TIME].cummax(), ROLLING.tile)
    return {(who, each) for who, since, until in zip(events[ENTITY], tile, newest, strict=True) for each in range(since, until)}


def different(ours: pd.DataFrame, theirs: pd.DataFrame, key: list[str], names: list[str]) -> tuple[int, int]:
    "Rows, and how many of them have a value that is not the same, or are in one of the two only."
    left, right = (frame.set_index(key, verify_integrity=True)[names].astype("float64") for frame in (ours, theirs))
    left, right = left.align(right)
    return len(left), int(((left != right) & ~(left.isna() & right.isna())).any(axis=1).sum())


SAME = ["events of a tile by type: `Tiles`", "features of a tile: the last row of `history` in it", "features of a tile: `Tiles`"]
CHANGED = "features of a tile to which an event came when the next had begun: the last row of `history` in it"


def compared(events: pd.DataFrame, history: pd.DataFrame, tiles: pd.DataFrame, features: pd.DataFrame) -> dict[str, tuple[int, int]]:
    "Spark's tiles and features beside ours of the same events: rows, and those that differ."
    ours, late = counted(events), reopened(events)
    last = last_rows(history)
    settled, changed = (
        [frame[frame.set_index(KEY).index.isin(late) == is_late] for frame in (last, features)] for is_late in (False, True)
    )
    return {
        SAME[0]: different(counts(ours), tiles, KEY, ROLLING.types),
        SAME[1]: different(*settled, KEY, FEATURES),
        CHANGED: different(*changed, KEY, FEATURES),
        SAME[2]: different(as_of_tiles(ours), features, KEY, FEATURES),
    }


def by_group(events: pd.DataFrame, tiles: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    "Events that were sent, and how many of them each has counted."
    groups = {"at once, or as late as is allowed": range(USUAL, OFFLINE)}
    groups[f"in their order, {OFFLINE_FOR // timedelta(hours=1)} hours later: a phone without network"] = range(OFFLINE, LATE)
    groups[f"one in twenty late, by {LATE_BY // timedelta(minutes=1)} minutes at most"] = range(LATE, sys.maxsize)
    rows = {}
    for name, drivers in groups.items():
        sent, theirs = (frame[frame[ENTITY].between(drivers[0], drivers[-1])] for frame in (events, tiles))
        rows[name] = (len(sent), *(int(each[ROLLING.types].to_numpy().sum()) for each in (counts(counted(sent)), theirs)))
    return rows


class Figures(NamedTuple):
    "What a run has shown."

    events: int
    compared: dict[str, tuple[int, int]]
    planted: dict[str, tuple[int, int]]  # the same when ours lacks an event
    groups: dict[str, tuple[int, int, int]]
    ways: dict[str, dict]


def run(drivers: int) -> Figures:
    "Events, the three ways, and the comparison."
    events, python = everything(drivers), environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        send(events, folder / "events")
        write_json(folder / "definition.json", definition())
        words = [python, HERE / "spark/job.py", folder / "definition.json", folder / "events", folder / "spark"]
        ways, rows = {SPARK: measured(words, folder)}, {}
        for number, way in enumerate(WAYS):
            out = folder / f"{number}.parquet"
            ways[way] = measured([sys.executable, __file__, "--once", way, folder / "events", out], folder)
            rows[way] = pd.read_parquet(out)
        tiles, features = (read(folder / f"spark/{part}") for part in ("tiles", "features"))
    for way, frame in {SPARK: features, **rows}.items():
        ways[way]["rows"] = len(frame)
    history, live = rows[HISTORY], rows[TILES]
    ours = different(live[live[ID].isin(history[ID])], history, [ID], FEATURES)
    if ours[1]:
        raise RuntimeError(f"{HISTORY} and {TILES} differ in {ours[1]} rows")
    theirs, sent = (usual(tiles), usual(features)), usual(events)
    fewer = sent.drop(sent.index[len(sent) // 2])
    return Figures(
        len(events),
        compared(sent, usual(history), *theirs),
        compared(fewer, by_history(fewer), *theirs),
        by_group(events, tiles),
        ways,
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def report(sizes: dict[int, Figures]) -> None:
    "Print the tables, by the number of drivers."
    largest = list(sizes.values())[-1]
    spark = largest.ways[SPARK]
    print(f"{spark['versions']}; tiles, features and lateness as in `projects/ride_hailing_stream.yaml`.\n")
    print("Spark's rows beside ours, and once more when ours lack one event:\n")
    lines = [
        [text, f"{drivers:,}", *(f"{n:,}" for n in figures.compared[text]), f"{figures.planted[text][1]:,}" if text in SAME else "-"]
        for text in largest.compared
        for drivers, figures in sizes.items()
    ]
    print(table(["Spark beside", "drivers", "rows", "that differ", "without one event"], lines))
    print("\nWhat differs by design is which events are too late; events that were sent, and how many of them were counted:\n")
    print(table(["sent", "events", "ours", "Spark"], [[name, *(f"{n:,}" for n in numbers)] for name, numbers in largest.groups.items()]))
    print("\nFrom files of events to files of features; Spark makes a row for each tile, ours for each event:\n")
    head = ["way", "events", "rows", "start, s", "run, s", "CPU, s", "peak MB", "run / history's", "CPU / history's", "MB / history's"]
    lines = [_line(name, f.events, way, f.ways[HISTORY]) for f in sizes.values() for name, way in f.ways.items()]
    print(table(head, lines))
    print(f"\nSpark: {spark['batches']} micro-batches, {spark['run'] / spark['batches']:.1f} s each.")


def _line(name: str, events: int, way: dict, base: dict) -> list[str]:
    seconds = [f"{way[key]:.1f}" for key in ("start", "run", "cpu")]
    ratios = [f"{way[key] / base[key]:.1f}" for key in ("run", "cpu", "mb")]
    return [name, f"{events:,}", f"{way['rows']:,}", *seconds, f"{way['mb']:,.0f}", *ratios]


def check(figures: Figures) -> None:
    "Raise RuntimeError if a row differs, or if one less event makes no difference."
    if differ := [text for text in SAME if figures.compared[text][1]]:
        raise RuntimeError(f"Spark differs from ours: {differ}")
    if unseen := [text for text in SAME if not figures.planted[text][1]]:
        raise RuntimeError(f"a planted difference was not seen: {unseen}")


def main(argv: list[str] | None = None) -> int:
    "Run and print; 1 if Java is missing."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten drivers: does it run?")
    parser.add_argument("--once", nargs=3, metavar=("WAY", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.once:
        once(asked.once[0], *map(Path, asked.once[1:]))
        return 0
    if not shutil.which("java"):
        print("java is missing: sudo apt install default-jre-headless", file=sys.stderr)
        return 1
    sizes = {drivers: run(drivers) for drivers in (QUICK if asked.quick else FULL)}
    report(sizes)
    for figures in sizes.values():
        check(figures)
    rows = sum(figures.compared[text][0] for figures in sizes.values() for text in SAME)
    print(f"\n- {rows:,} rows of Spark's compared with ours, 0 differ: reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
