"""World rows per second beside the bare random generator, and with --full the peak memory of ten million driver-hours.

Run: python tests/benchmarks/bench_world.py [--full]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mlops_course.world import WorldSettings, write

SIZE = WorldSettings(drivers=4_000, days=28, bookings_per_day=2_000)
FULL = SIZE.model_copy(update={"drivers": 20_000, "days": 70, "bookings_per_day": 5_000})
PER_HOUR = {"poisson": 1, "binomial": 2, "standard_normal": 3, "random": 2, "integers": 1}  # draws for one row of statistics
PER_BOOKING = {"standard_gamma": 9, "random": 12, "integers": 11, "standard_normal": 1}  # and for one booking
ARGUMENTS = {"poisson": (3,), "binomial": (2, 0.6), "standard_gamma": (2,), "integers": (20,)}


def written(settings: WorldSettings) -> tuple[dict[str, int], float]:
    "Rows of each file, and the seconds that it took to make and write them."
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        return write(settings, Path(folder)), time.perf_counter() - began


def bare(rows: dict[str, int], same: bool) -> float:
    "Seconds to draw as many numbers and forget them: `same` distributions as the world's, or all of them uniform."
    rng, seconds = np.random.default_rng(7), 0.0
    for per, n in [(PER_HOUR, rows["driver_stats"]), (PER_BOOKING, rows["bookings"])]:
        for name, times in per.items():
            draw = getattr(rng, name) if same else rng.random
            began = time.perf_counter()
            for _ in range(times):
                draw(*(ARGUMENTS.get(name, ()) if same else ()), size=n)
            seconds += time.perf_counter() - began
    return seconds


def peak() -> dict:
    "Rows and memory of a world of ten million driver-hours, in a process of its own."
    command = [sys.executable, __file__, "--measure"]
    rows, seconds, kilobytes = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {"driver_hours": int(rows), "full_seconds": float(seconds), "peak_gb": int(kilobytes) / 2**20}


def main(full: bool = False) -> dict:
    "Measure, print a small Markdown table, and return the figures."
    written(SIZE.model_copy(update={"days": 1}))
    rows, seconds = min((written(SIZE) for _ in range(3)), key=lambda measured: measured[1])
    figures = {"rows_per_second": sum(rows.values()) / seconds}
    print("| world | rows/s | times the world's time |\n| --- | ---: | ---: |")
    print(f"| made and written, {sum(rows.values()):,} rows | {figures['rows_per_second']:,.0f} | 1 |")
    for name, same in [("bare generator, same distributions", True), ("bare generator, uniform numbers", False)]:
        alone = min(bare(rows, same) for _ in range(3))
        figures["ratio_same" if same else "ratio_uniform"] = seconds / alone
        print(f"| {name} | {sum(rows.values()) / alone:,.0f} | 1/{seconds / alone:.1f} |")
    if full:
        figures |= peak()
        print(f"\n{figures['driver_hours']:,} driver-hours: {figures['full_seconds']:.0f} s, peak memory {figures['peak_gb']:.2f} GB")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="also ten million driver-hours")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        made, took = written(FULL)
        print(made["driver_stats"], took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        main(arguments.full)
