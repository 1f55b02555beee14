"""Cleaning a table and searching a log, beside what it takes to read each row or line once, in the same run.

`python tests/benchmarks/bench_files.py` prints a Markdown table. A ratio grows when somebody puts a Python loop over rows.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from mlops_course import data, readers, search
from mlops_course.contracts import read_project

CONTRACT = read_project("projects/ride_hailing.yaml").contract
ROWS, LINES, TURNS = 250_000, 200_000, 3
LIMIT_CLEANED, LIMIT_SEARCHED = 100, 3  # times what reading takes
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def seconds(work: Callable[[], object]) -> float:
    "The fastest of some turns."
    took = []
    for _ in range(TURNS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def statistics() -> pd.DataFrame:
    "Hours of 500 drivers; one row in fifty breaks the contract."
    draw, hours = np.random.default_rng(7), pd.date_range("2026-01-01", periods=ROWS // 500, freq="h", tz="UTC")
    frame = pd.DataFrame(
        {
            "driver_id": np.repeat(np.arange(1001, 1501), len(hours)),
            "datetime": np.tile(hours, 500),
            "created": np.tile(hours + pd.Timedelta(minutes=70), 500),
            "conv_rate": draw.random(ROWS),
            "acc_rate": draw.random(ROWS),
            "avg_daily_trips": draw.integers(0, 30, ROWS),
        }
    )
    frame.loc[::50, "conv_rate"] = 1.35
    return frame


def log(n: int) -> str:
    line = {"time": f"2026-03-01T{n // 10_000:02d}:00:00Z", "event": "request refused", "service": "serving"}
    return json.dumps({**line, "level": "info" if n % 10 else "warning", "request_id": f"request {n}"})


def main() -> dict:
    "Measure, print a Markdown table, and return the figures."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        statistics().to_parquet(folder / "statistics.parquet", index=False)
        source = readers.Source(path=str(folder / "statistics.parquet"), owner="a benchmark")
        cleaned = seconds(lambda: data.read(source, CONTRACT.tables["statistics"], CONTRACT, NOW)) / seconds(
            lambda: pd.read_parquet(folder / "statistics.parquet")
        )
        lines = [log(n) for n in range(LINES)]
        (folder / "logs").mkdir()
        (folder / "logs/serving.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        read = seconds(lambda: [json.loads(line) for line in lines])
        wanted = {"one request": search.Query(request=f"request {LINES - 1}"), "warnings": search.Query(level="warning")}
        searched = {what: seconds(lambda: search.search(folder, which)) / read for what, which in wanted.items()}  # noqa: B023
    print("| work | times what reading it takes | limit |\n| --- | ---: | ---: |")
    print(f"| clean {ROWS:,} rows, beside reading the Parquet file | {cleaned:.1f} | {LIMIT_CLEANED} |")
    for what, ratio in searched.items():
        print(f"| find {what} in {LINES:,} lines, beside parsing each line | {ratio:.2f} | {LIMIT_SEARCHED} |")
    return {"cleaned": cleaned, **searched}


if __name__ == "__main__":
    figures = main()
    sys.exit(3 if figures["cleaned"] > LIMIT_CLEANED or max(figures["one request"], figures["warnings"]) > LIMIT_SEARCHED else 0)
