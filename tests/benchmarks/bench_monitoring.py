"""False alarms on normal traffic, and requests until an alarm under each drift, on seeds that were not used for tuning.

Requests come straight from the world: the champion of each seed is fitted once, scores all candidates and chooses, and the labels
of its choices come as late as the world's labels do. Run: python tests/benchmarks/bench_monitoring.py [--small]
"""

import argparse
import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_course import training, world
from mlops_course.monitoring import MonitoringSettings, Reference, judge, reference_of
from mlops_course.problem import CONTRACT

FEATURES = list(CONTRACT.features)
DRIFTS = ("covariate_drift", "concept_drift", "feed_missing", "feed_stale")
WITHIN = 2_000  # requests
EXPLORE = 0.05


class Size(NamedTuple):
    "How large a company is simulated, and for how long."

    drivers: int
    bookings_per_day: int
    before: int = 70  # days of normal traffic that the champion and the reference come from
    test: int = 21  # the newest of these days, which the champion has not learned from
    live: int = 70  # days of normal traffic that must raise no alarm


DEV, TEST = Size(400, 1_200), Size(150, 500, test=28)
SMALL = Size(100, 400, before=42, live=8)


def pieces(company: world.Company, days: range, week: world.Week, booked: bool = True) -> dict[str, pd.DataFrame]:
    "The world's tables of some days; `week` goes with them."
    found: dict[str, list] = {}
    for day in days:
        for rows in world.statistics(company, day, week):
            found.setdefault("driver_stats", []).append(rows)
        for piece in world.bookings(company, day) if booked and day >= 0 else ():
            for name, rows in piece.items():
                found.setdefault(name, []).append(rows)
    return {name: pa.concat_tables(rows).to_pandas() for name, rows in found.items()}


def candidates_of(tables: dict[str, pd.DataFrame], hours: pd.DataFrame) -> pd.DataFrame:
    "A row a candidate in the order of time: features as known, the logged choice's propensity, every outcome, and when a label comes."
    hours = hours.assign(known_at=np.maximum(hours.created, hours.datetime + pd.Timedelta(hours=1)).astype("datetime64[us, UTC]"))
    hours = hours.sort_values(["driver_id", "known_at", "datetime"])
    hours = hours[hours.datetime >= hours.groupby("driver_id").datetime.cummax()].sort_values("known_at")
    booked = tables["bookings"][["request_id", "event_timestamp", "driver_id"]].rename(columns={"driver_id": "sent"})
    rows = tables["truth"].merge(booked, on="request_id").sort_values(["event_timestamp", "request_id"], ignore_index=True)
    newest = hours[["driver_id", "known_at", *FEATURES]]
    rows = pd.merge_asof(rows, newest, left_on="event_timestamp", right_on="known_at", by="driver_id", tolerance=pd.Timedelta(days=7))
    late = tables["labels"].set_index("request_id")
    rows["label_at"] = rows.event_timestamp + rows.request_id.map(late.created - late.event_timestamp)
    logged = rows.driver_id == rows.sent
    return rows.assign(
        outcome=rows.trip_completed,
        propensity=rows.propensity.where(logged),
        trip_completed=rows.trip_completed.astype(float).where(logged & rows.label_at.notna()),
    )


def served(rows: pd.DataFrame, model, seed: int) -> pd.DataFrame:
    "The rows with the champion's score, and its choice: the best, or in a share of requests a drawn one."
    known, rng = rows[FEATURES].notna().any(axis=1), np.random.default_rng(seed)
    rows = rows.assign(score=np.where(known, training.probability(model, rows), np.nan))
    number = pd.factorize(rows.request_id)[0]
    drawn = rng.random(number.max() + 1)[number] < EXPLORE
    rank = np.where(drawn, rng.random(len(rows)), rows.score.fillna(-1))
    order = np.lexsort((rows.driver_id, -rank, number))
    chosen = np.zeros(len(rows), bool)
    chosen[order[np.flatnonzero(np.diff(number[order], prepend=-1))]] = True
    return rows.assign(chosen=chosen & known)


def traffic(size: Size, seed: int, drifts: tuple[str, ...] = DRIFTS, live: bool = True) -> tuple[pd.Timestamp, dict[str, pd.DataFrame]]:
    "The moment until which the champion has learned, and requests: `before`, `normal` after it, and each drift, which begins on some weekday."
    first = size.before + seed % 7
    total = size.before + max(size.live, 14) + 1
    told = {"drivers": size.drivers, "days": total, "bookings_per_day": size.bookings_per_day, "seed": seed}
    company = world.Company(world.WorldSettings(**told))
    week = world.Week(size.drivers)
    past = pieces(company, range(-world.WEEK, size.before), week)
    before = candidates_of(past, past["driver_stats"])
    before = before[before.event_timestamp >= before.event_timestamp.min() + pd.Timedelta(days=7)]
    recent = [past["driver_stats"].tail(size.drivers * 12 * 10)]
    made = {"before": before}
    if live:
        days = pieces(company, range(size.before, size.before + size.live), copy.deepcopy(week))
        made["normal"] = candidates_of(days, pd.concat([*recent, days["driver_stats"]]))
    lead = pieces(company, range(size.before, first), week)
    recent += [lead["driver_stats"]] if lead else []
    enough = range(first, first + 2 + WITHIN // size.bookings_per_day)
    for scenario in drifts:
        drifted = world.Company(world.WorldSettings(**told, scenario=scenario, drift_day=first))
        days = pieces(drifted, enough, copy.deepcopy(week))
        made[scenario] = candidates_of(days, pd.concat([*recent, days["driver_stats"]]))
    until = before.event_timestamp.max().ceil("D") - pd.Timedelta(days=size.test)
    labelled = before[(before.event_timestamp < until) & before.trip_completed.notna()]
    champion = training.fit("gradient boosting", labelled, 7)
    return until, {name: served(rows, champion, seed) for name, rows in made.items()}


def verdicts(rows: pd.DataFrame, reference: Reference, told: MonitoringSettings, step: int, earlier: pd.DataFrame | None = None):
    "The verdict after each `step` requests; `earlier` is normal traffic just before, for the first windows."
    skipped = 0 if earlier is None else earlier.request_id.nunique()
    rows = rows if earlier is None else pd.concat([earlier, rows])
    starts = np.append(np.flatnonzero((rows.request_id != rows.request_id.shift()).to_numpy()), len(rows))
    for end in range(max(told.window_requests, skipped + step), len(starts), step):
        window = rows.iloc[starts[end - told.window_requests] : starts[end]]
        seen = rows.iloc[starts[max(0, end - 3 * told.window_labels // 2)] : starts[end]]
        come = seen[seen.chosen & (seen.label_at <= window.event_timestamp.iloc[-1])].tail(told.window_labels)
        yield end - skipped, judge(window, come.assign(trip_completed=come.outcome), reference, told)


def highest(found) -> dict[str, float]:
    "The largest share of the alarm for each kind."
    over = {"features": max(found.scores[name] for name in FEATURES), "predictions": found.scores["score"]}
    over["performance"] = np.nanmax([found.scores["residual"], found.scores["squared_error"], 0])
    return {**over, "quality": max(found.quality[name] / limit for name, limit in found.limits.items())}


def one_seed(size: Size, seed: int, live: bool, drifts: tuple[str, ...] = DRIFTS) -> dict:
    "Normal windows with their alarms and nearest misses, and requests until the alarm under each drift."
    told = MonitoringSettings()
    until, made = traffic(size, seed, drifts, live)
    newest = made["before"].event_timestamp.max()
    recent = made["before"][made["before"].event_timestamp > newest - pd.Timedelta(days=told.reference_days)]
    reference = reference_of(recent, told, until)
    result = {"seed": seed, "normal": [], "delay": {}}
    if live:
        for _, found in verdicts(made["normal"], reference, told, 100):
            result["normal"].append({**highest(found), "alarm": any(found.detected.values())})
    last = made["before"].request_id.drop_duplicates().tail(told.window_requests)
    earlier = made["before"][made["before"].request_id.isin(last)].assign(chosen=False)  # labels of the champion's choices begin with it
    for scenario in drifts:
        result["delay"][scenario] = (None, "")
        for requests, found in verdicts(made[scenario], reference, told, 50, earlier):
            kinds = [kind for kind, over in found.detected.items() if over]
            if kinds and requests <= WITHIN:
                result["delay"][scenario] = (requests, ", ".join(kinds))
                break
    return result


def show(name: str, results: list[dict]) -> dict:
    "The two tables of a size, and its figures."
    windows = pd.DataFrame([row for result in results for row in result["normal"]])
    figures = {"windows": len(windows), "false_alarms": int(windows.alarm.sum()) if len(windows) else 0}
    if len(windows):
        nearest = ", ".join(f"{kind} {windows[kind].max():.2f}" for kind in windows.columns.drop("alarm"))
        seeds = sum(bool(result["normal"]) for result in results)
        print(f"| {name}, normal traffic | windows | alarms | nearest miss (1 is the alarm) |\n| --- | ---: | ---: | --- |")
        print(f"| {seeds} seeds | {len(windows):,} | {figures['false_alarms']} | {nearest} |\n")
    print(f"| {name}, drift | seeds | alarm within {WITHIN:,} requests | median requests | most | first seen in |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for scenario in DRIFTS:
        found = [result["delay"][scenario] for result in results if scenario in result["delay"]]
        delays = [delay for delay, _ in found if delay is not None]
        kinds = ", ".join(sorted({kind for _, kind in found if kind}))
        figures[scenario] = len(delays) / len(found)
        print(
            f"| {scenario} | {len(found)} | {figures[scenario]:.0%} | {np.median(delays or [np.nan]):,.0f} | {max(delays, default=0):,} | {kinds} |"
        )
    print()
    return figures


def main(small: bool = False, seeds: int = 20, first: int = 11) -> dict:
    "Measure, print Markdown tables, and return the figures. Seeds 101 to 103 were used for tuning."
    if small:
        return {"small": show("100 drivers", [one_seed(SMALL, first, True)])}
    numbers = range(first, first + seeds)
    dev = [one_seed(DEV, seed, live=place < 5) for place, seed in enumerate(numbers)]
    test = [one_seed(TEST, seed, live=place < 5) for place, seed in enumerate(numbers)]
    return {"400 drivers": show("400 drivers, 1,200 bookings a day", dev), "150 drivers": show("150 drivers, 500 bookings a day", test)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small company and one seed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=11)
    given = parser.parse_args()
    main(given.small, given.seeds, given.first)
