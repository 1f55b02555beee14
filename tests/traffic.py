"""Requests and their answers, as the tests of monitoring send them: normal traffic, and the log of serving."""

from datetime import UTC, date, datetime, timedelta
from functools import cache

import numpy as np
import orjson
import pandas as pd
from rides import CONTRACT

from mlops_course import project
from mlops_course.drift import Reference, Verdict, judge, reference_of
from mlops_course.joined import Label
from mlops_course.monitoring import MonitoringSettings
from mlops_course.problem import KNOWN

NAMES = list(CONTRACT.features)
CLOCK = project.environment().clock  # where a service's clock begins
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
BEGIN = MONDAY - timedelta(days=21)  # of normal traffic; a week after it ends the clock begins
SETTINGS = MonitoringSettings(window_requests=200, window_labels=400, min_labels=50, min_requests=2)
LATER = BEGIN + timedelta(days=28)


def entry(request: str, driver: int = 1001, version: str = "1", minutes: float = 0, values=(0.6, 0.7, 9.0), score: float = 0.7) -> dict:
    "A line of serving's log, with one candidate."
    moment = MONDAY + timedelta(minutes=minutes)
    known = (moment - timedelta(hours=1)).isoformat()
    candidate = {
        "driver_id": driver,
        "score": score,
        "features": "fresh",
        "values": dict(zip(NAMES, values, strict=True)),
        "known_at": known,
    }
    about = {"time": moment.isoformat(), "request_id": request, "prediction": driver, "score": score, "version": version, "run_id": "a"}
    return {**about, "candidates": [candidate]}


def write(folder, entries: list[dict], day: str = "2026-03-02", end: bytes = b"\n") -> None:
    "Append lines to the prediction log."
    log = project.Paths(folder).predictions
    log.mkdir(parents=True, exist_ok=True)
    with open(log / f"{day}.jsonl", "ab") as opened:
        opened.write(b"\n".join(orjson.dumps(each, option=orjson.OPT_SERIALIZE_NUMPY) for each in entries) + end)


def days_of(folder, *ago: int, since: datetime = CLOCK) -> None:
    "Files of the log as they were written so many days ago."
    folder.mkdir(parents=True, exist_ok=True)
    for days in ago:
        (folder / f"{since - timedelta(days=days):%Y-%m-%d}.jsonl").write_bytes(b"{}\n")


def ages(folder, since: datetime = CLOCK) -> list[int]:
    "How many days ago the files that are there were written."
    return sorted((since.date() - date.fromisoformat(file.stem)).days for file in folder.glob("*.jsonl"))


def normal(seed: int, days: int = 28, begin: datetime = BEGIN, shift: float = 0.0, completes: float = 0.0) -> pd.DataFrame:
    "Requests by 40 drivers whose own level stays, and whose values differ by the hour: five candidates, each hour four times."
    rng, drivers = np.random.default_rng(seed), np.arange(1001, 1041)
    hours = np.repeat(np.arange(24 * days), 4)
    who = np.stack([rng.permutation(40)[:5] for _ in hours])
    level = np.random.default_rng(3).normal(0.6, 0.08, 40)
    hourly = (
        level + 0.04 * np.random.default_rng(seed + 1).standard_normal((24 * days, 40)) + 0.1 * (np.arange(24 * days) % 24 < 6)[:, None]
    )
    value = (hourly[hours[:, None], who] + shift).clip(0.01, 0.99)
    score = value.clip(0.05, 0.95)
    chosen = rng.integers(0, 5, len(hours))[:, None] == np.arange(5)
    ended = rng.random(who.shape) < (score + completes).clip(0, 1)
    times = pd.Timestamp(begin).as_unit("us") + pd.to_timedelta(hours * 3600 + np.tile([60, 120, 180, 240], 24 * days), unit="s")
    return pd.DataFrame(
        {
            CONTRACT.booking: np.repeat([f"r{begin:%m%d}-{n}" for n in range(len(hours))], 5),
            CONTRACT.time: times.repeat(5),
            CONTRACT.entity: drivers[who].ravel(),
            **dict.fromkeys(NAMES[:2], value.ravel()),
            NAMES[2]: 20 * value.ravel(),
            KNOWN: times.repeat(5) - pd.Timedelta(hours=1),
            "score": score.ravel(),
            CONTRACT.propensity: np.where(chosen, 0.2, np.nan).ravel(),
            CONTRACT.label: np.where(chosen, ended, np.nan).ravel(),
            "ended": ended.ravel(),
        }
    )


def logged(rows: pd.DataFrame, version: str = "1") -> tuple[list[dict], list[Label]]:
    "Rows as serving's log has them, and their labels."
    entries, labels = [], []
    for request, group in rows.groupby(CONTRACT.booking, sort=False):
        best = group.loc[group.score.idxmax()]
        candidates = [
            {
                "driver_id": int(c.driver_id),
                "score": c.score,
                "values": {n: getattr(c, n) for n in NAMES},
                "known_at": c.known_at.isoformat(),
            }
            for c in group.itertuples()
        ]
        about = {"time": best[CONTRACT.time].isoformat(), "request_id": request, "prediction": int(best.driver_id), "score": best.score}
        entries.append({**about, "version": version, "candidates": candidates})
        labels.append(Label(request, int(best.driver_id), int(best.ended), best[CONTRACT.time].timestamp()))
    return entries, labels


def judged(usual: Reference, rows: pd.DataFrame) -> Verdict:
    "The verdict on the newest requests, with the labels of the best candidates."
    newest = rows[rows[CONTRACT.booking].isin(rows[CONTRACT.booking].drop_duplicates().tail(SETTINGS.window_requests))]
    best = newest.sort_values("score").groupby(CONTRACT.booking).tail(1)
    return judge(newest, best.assign(**{CONTRACT.label: best.ended.astype(float)}), usual, SETTINGS, CONTRACT)


# ---- columns that hardly vary, in place of the features


def hours(rows: pd.DataFrame, seed: int) -> np.ndarray:
    "A number in [0, 1) for each row; a driver has one an hour."
    names = pd.factorize(rows[CONTRACT.time].dt.floor("h").astype("int64") + rows[CONTRACT.entity])[0]
    return np.random.default_rng(seed).random(names.max() + 1)[names]


KINDS = {
    "constant": lambda u, rows: np.full(len(u), 0.7),
    "zero": lambda u, rows: np.zeros(len(u)),
    "one of 10,000": lambda u, rows: (u < 1e-4).astype(float),
    "one of 1,000": lambda u, rows: (u < 1e-3).astype(float),
    "one of 200": lambda u, rows: (u < 5e-3).astype(float),
    "one of 60": lambda u, rows: (u < 1 / 60).astype(float),
    "one of 20": lambda u, rows: (u < 0.05).astype(float),
    "three values": lambda u, rows: np.floor(3 * u),
    "huge": lambda u, rows: u * 1e18,
    "huge, with a spread that is none": lambda u, rows: 1e18 + np.floor(3 * u) * 128,
    "a spread under all numbers": lambda u, rows: np.where(u < 0.5, 0, 5e-324),
    "tiny": lambda u, rows: u * 1e-200,
    "infinite now and then": lambda u, rows: np.where(u < 1e-3, np.inf, u),
    "the hour itself": lambda u, rows: rows[CONTRACT.time].dt.hour.to_numpy(float),
    "all missing": lambda u, rows: np.full(len(u), np.nan),
}


TRIPLES = [tuple(list(KINDS)[place : place + 3]) for place in range(0, len(KINDS), 3)]  # there are three features


def of_kinds(rows: pd.DataFrame, kinds: tuple[str, ...], seed: int) -> pd.DataFrame:
    "The rows, with a kind of column in place of each feature."
    u = hours(rows, seed)
    return rows.assign(**{name: KINDS[kind](u, rows) for name, kind in zip(NAMES, kinds, strict=True)})


@cache
def unchanged(begin: datetime, days: int) -> pd.DataFrame:
    "Normal traffic, the same for all tests."
    return normal(1 if begin == BEGIN else 50, days, begin)


@cache
def reference(kinds: tuple[str, ...], seed: int) -> Reference:
    return reference_of(of_kinds(unchanged(BEGIN, 28), kinds, seed), SETTINGS, pd.Timestamp(BEGIN), CONTRACT)


def one_window(kind: str) -> tuple[Reference, pd.DataFrame, str]:
    "A reference with a column of that kind, a window in which nothing has changed, and the column."
    kinds = next(kinds for kinds in TRIPLES if kind in kinds)
    *_, window = windows(of_kinds(unchanged(LATER, 7), kinds, 1_001))
    return reference(kinds, 1), window, NAMES[kinds.index(kind)]


def windows(rows: pd.DataFrame, step: int = 100):
    names = rows[CONTRACT.booking].drop_duplicates().to_numpy()
    for end in range(SETTINGS.window_requests, len(names) + 1, step):
        yield rows[rows[CONTRACT.booking].isin(names[end - SETTINGS.window_requests : end])]
