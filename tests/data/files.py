"""Makers of input files for the tests of the data stage, and a way to run it on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_course import data, project, readers, stages

CLOCK = "2026-01-08T00:00:00+00:00"


def _each_hour(drivers: range, hours: pd.DatetimeIndex) -> pd.DataFrame:
    rows = pd.MultiIndex.from_product([drivers, hours], names=["driver_id", "datetime"]).to_frame(index=False)
    return rows[["datetime", "driver_id"]]


def statistics(drivers: int = 5, hours: int = 24, start: str = "2026-01-05T00:00Z", seed: int = 1) -> pd.DataFrame:
    "Good rows, each driver in each hour, with the telephone numbers that the contract drops."
    rng = np.random.default_rng(seed)
    rows = _each_hour(range(1001, 1001 + drivers), pd.date_range(start, periods=hours, freq="h"))
    rows["conv_rate"], rows["acc_rate"] = rng.random((2, len(rows))).round(3)
    rows["avg_daily_trips"] = rng.integers(0, 20, len(rows))
    rows["created"] = rows.datetime + pd.Timedelta(minutes=70)
    rows["driver_phone"] = [f"+84 90 {n:07d}" for n in rng.integers(0, 10**7, len(rows))]
    return rows


def bookings(count: int = 40, drivers: int = 5, seed: int = 2) -> pd.DataFrame:
    "Good rows, with riders' names and telephone numbers."
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"request_id": [f"b{n:04d}" for n in range(count)]})
    rows["event_timestamp"] = pd.Timestamp("2026-01-06T08:00Z").as_unit("us") + pd.to_timedelta(range(count), unit="min")
    rows["driver_id"] = rng.integers(1001, 1001 + drivers, count)
    rows["propensity"] = 0.25
    rows["rider_id"] = [f"RIDER-{n:05d}" for n in rng.integers(0, 20, count)]
    rows["rider_phone"] = [f"+84 91 {n:07d}" for n in rng.integers(0, 10**7, count)]
    return rows


def candidates(booked: pd.DataFrame, drivers: int = 5) -> pd.DataFrame:
    "Every driver for every booking."
    return booked[["request_id"]].merge(pd.DataFrame({"driver_id": range(1001, 1001 + drivers)}), how="cross")


def labels(booked: pd.DataFrame, seed: int = 3) -> pd.DataFrame:
    "A label of every booking, an hour later."
    rows = booked[["request_id", "event_timestamp", "driver_id"]].copy()
    rows["trip_completed"] = np.random.default_rng(seed).integers(0, 2, len(rows))
    return rows.assign(created=rows.event_timestamp + pd.Timedelta(hours=1))


def write(frame: pd.DataFrame, path: Path, **csv) -> dict:
    "Write a frame as Parquet or CSV, and give the part of an environment that names it."
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False, **csv)
    return {"path": str(path), "owner": "a test", **({"separator": csv["sep"]} if "sep" in csv else {})}


def source(frame: pd.DataFrame, path: Path, **more) -> readers.Source:
    "Write a frame, and give the source that names it."
    return readers.Source(**write(frame, path), **more)


def company(folder: Path) -> dict[str, dict]:
    "All four tables as Parquet files in a folder, and the sources that name them."
    booked = bookings()
    tables = {"statistics": statistics(), "bookings": booked, "candidates": candidates(booked), "labels": labels(booked)}
    return {name: write(frame, folder / f"{name}.parquet") for name, frame in tables.items()}


def run_data(out: Path, sources: dict[str, dict], limit: float = 0.05, clock: str = CLOCK) -> Path:
    "Run the data stage as a pipeline would: products, inputs and environment given."
    product = {key: path.replace("{{out}}", str(out)) for key, path in stages.tasks()["data"]["product"].items()}
    (out / "raw").mkdir(parents=True, exist_ok=True)
    with stages.stage("data", product, {"world": {"raw": out / "raw"}}, _shown(out, sources, limit, clock)) as stage:
        data.run(stage)
    return out


def _shown(out: Path, sources: dict[str, dict], limit: float = 0.05, clock: str = CLOCK) -> dict:
    return {"name": "test", "out": str(out), "clock": clock, "data": {"quarantine_limit": limit, "sources": sources}}


def changed(out: Path, sources: dict[str, dict], limit: float = 0.05, clock: str = CLOCK) -> list[str]:
    "What of a data stage that ran so is not as it left it."
    return stages.changed(project.Environment(**_shown(out, sources, limit, clock)), "data")


def seed_twin(folder: Path) -> Path:
    "Files of the same shape as the seed course's: five drivers, noise, one lone row in April each, two rows doubled."
    rng = np.random.default_rng(2021)
    hours = pd.date_range("2021-07-13T11:00Z", "2021-07-28T10:00Z", freq="h")
    times = pd.DatetimeIndex([pd.Timestamp("2021-04-12T07:00Z"), *hours])
    rows = _each_hour(range(1001, 1006), times)
    rows["conv_rate"], rows["acc_rate"] = rng.random((2, len(rows)))
    rows["avg_daily_trips"] = rng.integers(0, 1000, len(rows))
    rows["created"] = pd.Timestamp("2021-07-28T11:08:04.802").as_unit("us")
    twice = rows[(rows.driver_id == 1003) & (rows.datetime == pd.Timestamp("2021-07-20T23:00Z"))]
    pd.concat([rows, twice, twice]).to_parquet(folder / "driver_stats.parquet")
    orders = pd.DataFrame({"event_timestamp": pd.date_range("2021-04-16T20:29:28Z", periods=10, freq="8h")})
    orders["driver_id"] = [1001, 1002, 1003, 1001, 1002, 1003, 1001, 1002, 1003, 1004]
    orders.to_csv(folder / "batch_request.csv", sep="\t", index=False)
    orders["trip_completed"] = orders.driver_id.isin([1001, 1004]).astype(int)
    orders.to_csv(folder / "driver_orders.csv", sep="\t", index=False)
    return folder


def everything_in(folder: Path) -> Iterator[tuple[Path, str]]:
    "All that the files below a folder say: their bytes, and for Parquet the values of their cells."
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            yield path, pq.read_table(path).to_pandas().astype(str).to_csv()


SEEDS = ["twin", pytest.param("seed", marks=pytest.mark.seed_data)]  # for a fixture that gives both to `seed_environment`


@contextmanager
def seed_environment(which: str, scratch: Path) -> Iterator[None]:
    "The environment env.seed.yaml, on the seed course's own files or on their generated twin."
    folder = os.environ.get("SEED_DATA") if which == "seed" else str(seed_twin(scratch))
    if not folder:
        pytest.skip("the environment variable SEED_DATA is not set: the folder of the seed course's files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEED_DATA", folder)
        patch.setenv("PLOOMBER_ENV_FILENAME", "env.seed.yaml")
        yield
