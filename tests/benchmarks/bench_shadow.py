"""What do a shadow and a canary cost those who wait for an answer? One service, the same requests, by turns with and without.

Run: python tests/benchmarks/bench_shadow.py [--pairs 10] [--seconds 5]; a target that is missed is exit code 3.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from serving import load
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "system")]

import company
from online import Online, wait_for

from mlops_course.project import Paths
from mlops_course.routes import Routes, write_routes

RATE, LIMIT = 500, 1.25  # requests/s; p99 with a shadow over p99 without, at the median
ROUTES = {
    "the champion alone": Routes(),
    "a shadow": Routes(name="shadow", others=[{"role": "shadow", "version": "2"}]),
    "a canary of 50 %": Routes(name="canary", others=[{"role": "challenger", "version": "2", "share": 0.5}]),
}


def requests(n: int) -> list[str]:
    "Bodies of twenty drivers each."
    draw = np.random.default_rng(7)
    some = (", ".join(map(str, draw.choice(company.KNOWN, 20, replace=False))) for _ in range(n))
    return [f'{{"request_id": "{load.ID}", "driver_ids": [{drivers}]}}' for drivers in some]


def put(online: Online, routes: Routes) -> None:
    "Let the service know, and wait until it does."
    write_routes(Paths(online.folder).routes, routes)
    wait_for(lambda: online.model()["routes"]["name"] == routes.name)


def measured(online: Online, pairs: int, seconds: float) -> dict[str, list[np.ndarray]]:
    "Milliseconds of the answers, by who is beside the champion; by turns."
    bodies, took = requests(500), {name: [] for name in ROUTES}
    load.paced(online.port, "/inference", bodies, "warm", RATE, 3)
    for pair in tqdm(range(pairs), "pairs", file=sys.stderr):
        for name, routes in ROUTES.items():
            put(online, routes)
            took[name].append(load.paced(online.port, "/inference", bodies, f"{name} {pair} ", RATE, seconds))
    return took


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        online = Online(company.make(Path(scratch) / "company"), epsilon=0.05)
        try:
            wait_for(online.ready, 120)
            took = measured(online, options.pairs, options.seconds)
            meters = online.client.get("/metrics").text
        finally:
            online.kill()
    [alone, *_] = p99 = {name: np.array([np.quantile(each, 0.99) for each in runs]) for name, runs in took.items()}
    print(f"{RATE} requests/s of 20 drivers, {options.pairs} turns of {options.seconds:g} s each; medians of the turns:\n")
    print("| beside the champion | p50, ms | p99, ms | p99 over that of the champion alone |")
    print("| --- | ---: | ---: | ---: |")
    ratios = {name: float(np.median(values / p99[alone])) for name, values in p99.items()}
    for name, runs in took.items():
        p50 = np.median([np.quantile(each, 0.5) for each in runs])
        print(f"| {name} | {p50:.2f} | {np.median(p99[name]):.2f} | {ratios[name]:.2f} |")
    dropped = [line for line in meters.splitlines() if line.startswith("serving_shadow_dropped_total")]
    print(f"\nScored by the shadow: {'; '.join(dropped)}.\n")
    good = ratios["a shadow"] <= LIMIT
    print(f"{'Reached' if good else 'MISSED'}: p99 with a shadow is {ratios['a shadow']:.2f} times that without, at most {LIMIT:g}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
