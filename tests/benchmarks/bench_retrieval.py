"""Historical retrieval: our Feast store beside the bare DuckDB join, and beside Feast's DuckDB store as data grows.

`python tests/benchmarks/bench_retrieval.py [--quick] [--plot images/retrieval.png]` prints Markdown tables. Each
measurement is a process of its own; what counts are ratios within one run, not seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

FULL = {
    "target": (500_000, 5_000_000),
    "large": [(1_000_000, 10_000_000), (10_000_000, 100_000_000)],
    "sizes": [(50_000, 500_000), (100_000, 1_000_000), (200_000, 2_000_000), (300_000, 3_000_000)],
}
QUICK = {"target": (2_000, 20_000), "large": [(2_000, 20_000)], "sizes": [(2_000, 20_000)]}
LIMIT_GB = 12
PROMISED = {"times": 2, "gb": 4}  # of the bare join's seconds, and of memory, at the largest size
WEEK, NO_LIMIT = 7, 0  # days to live
FEATURES = ["conv_rate", "acc_rate", "avg_daily_trips"]
LABELS, ROWS, OURS, THEIRS, BARE = "labels.parquet", "features.parquet", "mlops_course.offline.AsofOfflineStore", "duckdb", "bare"
JOIN = f"""SELECT l.*, {", ".join(f"f.{name}" for name in FEATURES)} FROM '{{0}}/{LABELS}' l
    ASOF LEFT JOIN '{{0}}/{ROWS}' f ON l.driver_id = f.driver_id AND l.event_timestamp >= f.known_at"""


def make(folder: Path, labels: int, rows: int) -> None:
    "A row each hour of many drivers, for a thousand hours (fewer in small sizes), and labels anywhere within them."
    draw, hours = np.random.default_rng(labels), min(1_000, rows // 20)
    drivers, start = rows // hours, np.datetime64("2026-01-05", "us")
    known = np.tile(np.arange(hours) * 3600 + 3600, drivers) + draw.integers(0, 1800, drivers * hours)
    times = pa.array(start + known.astype("timedelta64[s]"), pa.timestamp("us", "UTC"))
    numbers = {
        "conv_rate": draw.random(len(known)),
        "acc_rate": draw.random(len(known)),
        "avg_daily_trips": draw.integers(0, 30, len(known)),
    }
    who = np.repeat(np.arange(1, drivers + 1), hours)
    pq.write_table(pa.table({"driver_id": who, "known_at": times, **numbers, "created": times}), folder / ROWS)
    when = start + draw.integers(0, hours * 3600, labels).astype("timedelta64[s]")
    asked = {"driver_id": draw.integers(1, drivers + 1, labels), "event_timestamp": pa.array(when, pa.timestamp("us", "UTC"))}
    pq.write_table(pa.table(asked), folder / LABELS)


def once(folder: Path, kind: str, days: int) -> dict:
    "In a process of its own: seconds and seconds of CPU from files to a DataFrame of labels and features, and peak memory."
    seconds, cpu = _bare(folder) if kind == BARE else _feast(folder, kind, days)
    return {"seconds": seconds, "cpu": cpu, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}


def _timed(work: Callable, rows: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    frame = work()
    spent = time.perf_counter() - began, time.process_time() - cpu
    assert len(frame) == rows
    return spent


def _bare(folder: Path) -> tuple[float, float]:
    import duckdb
    import pandas  # noqa: F401  DuckDB imports it at the first DataFrame; that is no part of the join

    return _timed(lambda: duckdb.sql(JOIN.format(folder)).df(), pq.read_metadata(folder / LABELS).num_rows)


def _feast(folder: Path, kind: str, days: int) -> tuple[float, float]:
    import pandas as pd
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    from mlops_course.contracts import read_project
    from mlops_course.features import definitions, references

    contract, ttl = read_project("projects/ride_hailing.yaml").contract, timedelta(days=days)

    with tempfile.TemporaryDirectory() as own:
        online = {"type": "sqlite", "path": f"{own}/online.db"}
        config = RepoConfig(project="bench", provider="local", registry=f"{own}/r.db", online_store=online, offline_store={"type": kind})
        store = FeatureStore(config=config)
        store.apply(definitions({"statistics": str(folder / ROWS)}, {"statistics": ttl}, contract))
        retrieve = lambda: store.get_historical_features(pd.read_parquet(folder / LABELS), references(contract)).to_df()
        return _timed(retrieve, pq.read_metadata(folder / LABELS).num_rows)


def measured(folder: Path, kind: str, days: int, limit_gb: float = LIMIT_GB, timeout: float = 600) -> dict | None:
    "`once` in a fresh process; None if it takes more memory than `limit_gb`, or too long, and is ended."
    command = [sys.executable, __file__, "--once", kind, str(folder), str(days)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + timeout
    while child.poll() is None:
        try:
            large = psutil.Process(child.pid).memory_info().rss > limit_gb * 1024**3
        except psutil.NoSuchProcess:
            break
        if large or time.monotonic() > until:
            child.kill()
            child.communicate()
            return None
        time.sleep(0.05)
    out, err = child.communicate()
    if child.returncode:
        raise RuntimeError(err[-2000:])
    return json.loads(out.splitlines()[-1])


def repeated(folder: Path, kinds: list[str], days: int, times: int) -> dict:
    "The median of seconds and the largest peak of each kind, measured in turns so that a busy machine is busy for all."
    runs = {kind: [] for kind in kinds}
    for _ in range(times):
        for kind in kinds:
            runs[kind].append(measured(folder, kind, days))
    return {kind: all(several) and _together(several) for kind, several in runs.items()}


def _together(several: list[dict]) -> dict:
    return {key: (max if key == "gb" else median)(one[key] for one in several) for key in several[0]}


def table(head: list[str], rows: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *rows])


def plot(growth: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mlops_course.project import STYLE

    plt.style.use(STYLE)
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, key, name in zip(axes, ["seconds", "gb"], ["seconds", "peak memory, GB"], strict=True):
        for kind, label, style in [("theirs", "Feast's DuckDB store", "C3o-"), ("ours", "AsofOfflineStore", "C0s--")]:
            points = [(size["rows"] / 1e6, size[kind][key]) for size in growth if size[kind]]
            ax.plot(*zip(*points, strict=True), style, label=label)
        ax.set(xlabel="million rows of features", ylabel=name, ylim=(0, None))
    axes[0].legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file, dpi=90)


def main(argv: list[str] | None = None) -> dict:
    "Run, print the tables, and return the figures."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--plot", type=Path, help="write the growth of both stores to this PNG")
    parser.add_argument("--once", nargs=3, metavar=("KIND", "FOLDER", "DAYS"), help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.once:
        print(json.dumps(once(Path(asked.once[1]), asked.once[0], int(asked.once[2]))))
        return {}
    plan, turns = (QUICK, 1) if asked.quick else (FULL, 3)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), *plan["target"])
        results = repeated(Path(folder), [BARE, OURS], WEEK, turns)
    large = [beside_bare(labels, rows) for labels, rows in plan["large"]]
    growth = [compared(labels, rows, NO_LIMIT, turns) for labels, rows in plan["sizes"]]
    survived = [size for size in growth if size["theirs"]]
    week = compared(survived[-1]["labels"], survived[-1]["rows"], WEEK, turns) if survived else None
    if asked.plot:
        plot(growth, asked.plot)
    return report(plan["target"], results, growth, week) | {"large": reached(large) or asked.quick}


def beside_bare(labels: int, rows: int) -> dict:
    "Our store beside the bare join at one size, seven days to live; the better of two turns of each."
    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own: a child begins with the peak of its parent
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            alone.submit(make, Path(folder), labels, rows).result()
        turns = [{kind: measured(Path(folder), kind, WEEK) for kind in (BARE, OURS)} for _ in range(2)]
    best = {kind: min((turn[kind] for turn in turns), key=lambda each: each["seconds"]) for kind in (BARE, OURS)}
    return {"labels": labels, "rows": rows, "bare": best[BARE], "ours": best[OURS]}


def reached(sizes: list[dict]) -> bool:
    "Print how our store grows beside the bare join; whether the largest size keeps what was promised."
    lines = [[f"{s['labels']:,} x {s['rows']:,}", *_pair(s["bare"]), *_pair(s["ours"]), f"{_ratio(s):.2f}"] for s in sizes]
    print("\nMore than fits into memory, seven days to live; a large join is made in parts, each of a range of keys:\n")
    print(table(["labels x rows", "bare, s", "GB", "ours, s", "GB", "ours / bare"], lines) + "\n")
    largest = sizes[-1]
    kept = _ratio(largest) <= PROMISED["times"] and largest["ours"]["gb"] <= PROMISED["gb"]
    measure = f"{_ratio(largest):.2f} times the bare join's seconds, at most {PROMISED['times']}, in {largest['ours']['gb']:.1f} GB"
    print(f"- {lines[-1][0]}: {measure}, at most {PROMISED['gb']}: {'reached' if kept else 'MISSED'}")
    return kept


def _ratio(size: dict) -> float:
    return size["ours"]["seconds"] / size["bare"]["seconds"]


def compared(labels: int, rows: int, days: int, turns: int) -> dict:
    "Our store beside Feast's at one size."
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), labels, rows)
        size = repeated(Path(folder), [OURS], days, turns) | repeated(Path(folder), [THEIRS], days, 1)
    return {"labels": labels, "rows": rows, "ours": size[OURS], "theirs": size[THEIRS]}


def report(target: tuple[int, int], results: dict, growth: list[dict], week: dict | None) -> dict:
    "Print the tables; the figures."
    ratio, of_cpu = (results[OURS][key] / results[BARE][key] for key in ("seconds", "cpu"))
    print(f"\n{target[0]:,} labels against {target[1]:,} rows of features, seven days to live\n")
    lines = [["bare ASOF join", results[BARE]], ["Feast with AsofOfflineStore", results[OURS]]]
    print(
        table(["", "seconds", "of CPU", "peak GB"], [[name, *(f"{m[key]:.2f}" for key in ("seconds", "cpu", "gb"))] for name, m in lines])
    )
    print(f"\nours / bare: {ratio:.2f}; of CPU: {of_cpu:.2f}")
    head = ["labels x rows", "ours, s", "GB", "Feast's DuckDB store, s", "GB", "times faster", "less CPU"]
    print("\nGrowth; a row counts however old it is:\n")
    print(table(head, [_line(size) for size in growth]))
    if week:
        print("\nThe largest size that Feast's store survived, with seven days to live:\n")
        print(table(head, [_line(week)]))
    faster = [size["theirs"]["seconds"] / size["ours"]["seconds"] for size in growth if size["theirs"]]
    figures = {"ratio": ratio, "ratio_cpu": of_cpu, "gb": results[OURS]["gb"], "faster": faster[-1] if faster else None}
    return figures | {"target": target, "bare": results[BARE], "ours": results[OURS], "growth": growth, "week": week}


def _line(size: dict) -> list[str]:
    name = f"{size['labels']:,} x {size['rows']:,}"
    return [name, *_pair(size["ours"]), *_pair(size["theirs"]), _times(size, "seconds"), _times(size, "cpu")]


def _pair(measure: dict | None) -> tuple[str, str]:
    return (f"{measure['seconds']:.2f}", f"{measure['gb']:.2f}") if measure else ("ended", f"> {LIMIT_GB}")


def _times(size: dict, key: str) -> str:
    return f"{size['theirs'][key] / size['ours'][key]:.0f}" if size["theirs"] else "-"


if __name__ == "__main__":
    sys.exit(0 if main().get("large", True) else 3)
