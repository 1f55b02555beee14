"""What retraining was worth on the flights of 2013, month by month: models that were trained until August, and again each month.

`python tests/benchmarks/bench_year.py [--quick] [--plot images/retraining_year.png]` prints a Markdown table. The rows are
those of lesson 80, all of them, with what was known when each flight was asked about.
"""

import argparse
from pathlib import Path

import pandas as pd

from mlops_course import capstone, models
from mlops_course.asof import as_of
from mlops_course.contracts import read_project
from mlops_course.problem import KNOWN

PROJECT = read_project("projects/flights.yaml")
CONTRACT = PROJECT.contract
BEGINS = [*pd.date_range("2013-01-01T04:00Z", "2014-01-01T04:00Z", freq="MS")]  # of months, in New York
MONTHS = {"Sep": 8, "Oct": 9, "Nov": 10, "Dec": 11}
NEVER, ALL, LAST = "trained until August", "again each month, on all", "again each month, on the last 3 months"


def asked(every: int) -> pd.DataFrame:
    "Each flight (or one in `every`) as it was asked about, with its features and, once it was known, its label."
    flights = capstone.flights(capstone.read("flights.csv.zip"), capstone.read("airports.csv"))
    known = capstone.tables(flights, capstone.weather(capstone.read("weather.csv")), BEGINS[-1])
    rows = known["schedule"].iloc[::every].reset_index(drop=True)
    for view, names in CONTRACT.views.items():
        table = CONTRACT.tables[view]
        since = CONTRACT.created if table.known == "created" else table.time
        key = {"entity": table.entity, "label_time": CONTRACT.time, "feature_time": since}
        rows = as_of(rows, known[view], **key, columns=names, ttl=pd.Timedelta(days=2))
    ended = known["arrivals"][[CONTRACT.booking, CONTRACT.label, CONTRACT.created]]
    return rows.merge(ended.rename(columns={CONTRACT.created: KNOWN}), on=CONTRACT.booking, how="left")


def log_loss(rows: pd.DataFrame, since: pd.Timestamp | None, until: pd.Timestamp, test: pd.DataFrame) -> float:
    "Of a month, by a model that has learned from the flights between two moments."
    model = models.fit("gradient boosting", models.labelled(rows, since, until, CONTRACT), 7, CONTRACT)
    return models.measure(test[CONTRACT.label], models.probability(model, test, CONTRACT))["log_loss"]


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    "Log loss a flight, by month: of a constant that knows the month's share, and of each way to train."
    lines = {}
    for name, month in MONTHS.items():
        test = models.labelled(rows, BEGINS[month], BEGINS[month + 1], CONTRACT)
        constant = models.measure(test[CONTRACT.label], models.base_rate(test, test, CONTRACT))["log_loss"]
        ways = {NEVER: (None, BEGINS[8]), ALL: (None, BEGINS[month]), LAST: (BEGINS[month - 3], BEGINS[month])}
        lines[name] = {"a constant that knows the month": constant} | {way: log_loss(rows, *span, test) for way, span in ways.items()}
    return pd.DataFrame(lines).T


def plot(losses: pd.DataFrame, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mlops_course.project import STYLE

    plt.style.use(STYLE)
    fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for way, marker in zip([NEVER, ALL, LAST], "so^", strict=True):
        ax.plot(losses.index, losses[way] - losses.iloc[:, 0], marker + "-", label=way)
    ax.set(ylabel="log loss, less the constant's")
    ax.legend(frameon=False)
    fig.savefig(file, dpi=90)


def main(argv: list[str] | None = None) -> dict:
    "Measure, print the table, and return the figures."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one flight in forty: does it run?")
    parser.add_argument("--plot", type=Path, help="draw what each way to train was better than the constant")
    given = parser.parse_args(argv)
    rows = asked(every=40 if given.quick else 1)
    losses = measured(rows)
    print(f"Log loss a flight, {len(rows):,} flights of 2013:\n")
    print("| month | " + " | ".join(losses) + " |\n| --- |" + " ---: |" * losses.shape[1])
    for month, line in losses.iterrows():
        print(f"| {month} | " + " | ".join(f"{loss:.4f}" for loss in line) + " |")
    if given.plot:
        plot(losses, given.plot)
    return losses.to_dict()


if __name__ == "__main__":
    main()
