"""Online serving beside its peers: one worker each, on this machine, one after another, the same 16 connections.

`python tests/benchmarks/bench_serving.py [--seconds 10] [--small]` prints Markdown tables and a line for each target;
a missed target is exit code 3. The load is wrk's (a package of Debian). What counts are ratios within one run.
"""

import argparse
import json
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
from serving import load, parts, services
from serving.services import BARE, BENTO, CONTRACT, MLFLOW, ON_REDIS, OURS, RIDES, UNCACHED, Ground, Service, by_features, by_number

from mlops_course import project

TIMES = {OURS: 5, UNCACHED: 3}  # BentoML's requests/s, at least
OF_SQLITE = {OURS: 0.95, UNCACHED: 1 / 1.5}  # of the same service's requests/s on SQLite, on Redis at least; two runs differ by 5 %
P99_MS = 25
RATE = 10 * RIDES.acceptance.requests_per_second
BODIES = 4_000
OTHERS = 0.05  # of the machine: more work of other programs disturbs a measurement


class Measured(NamedTuple):
    "A service under as much load as it can take."

    rate: float  # requests/s
    p50: float  # milliseconds
    p99: float
    cpu: float  # milliseconds of all its processes, for one request
    others: float  # share of the machine that went to neither the service nor wrk


def measured(
    service: Service,
    ground: Ground,
    seconds: int,
    scratch: Path,
    before: Callable[[int], None] = lambda port: None,
    after: Callable[[int], None] = lambda port: None,
    store: psutil.Process | None = None,
) -> Measured:
    "A service started, checked, warmed, measured with its store, and checked again; `before` and `after` the load get its port."
    asked, file = ground.requests(1, BODIES), scratch / "bodies.txt"
    file.write_text("\n".join(map(service.body, asked)) + "\n", encoding="utf-8")
    with services.running(service, scratch, service.body(asked[0])) as (port, process):
        check(service, port, asked[:50], "before")
        before(port)
        load.closed(port, service.path, file, "warm", service.good, min(seconds, 2))

        def used() -> tuple[float, float, float]:
            return sum(map(services.cpu_seconds, filter(None, (process, store)))), *_cpu()

        then = used()
        figures = load.closed(port, service.path, file, "load", service.good, seconds)
        cpu, wrk, busy = np.subtract(used(), then).tolist()
        check(service, port, asked[:50], "after")
        after(port)
    others = max(0, busy - cpu - wrk) / figures.seconds / psutil.cpu_count()
    return Measured(figures.requests / figures.seconds, figures.p50, figures.p99, cpu / figures.requests * 1e3, others)


def _cpu() -> tuple[float, float]:
    "Seconds of CPU used by ended children, as wrk, and by all of the machine."
    ended, machine = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
    return ended.ru_utime + ended.ru_stime, sum(machine) - machine.idle - getattr(machine, "iowait", 0)


def check(service: Service, port: int, asked: list[pd.DataFrame], run: str) -> None:
    "Raise RuntimeError unless each answer names one of its candidates (MLflow's: has a probability for each)."
    for i, rows in enumerate(asked):
        answer = json.loads(load.ask(port, service.path, service.body(rows), f"{run}{i}"))
        if service.body is by_features:
            good = len(answer["predictions"]) == len(rows)
        else:
            good = answer["error"] is None and answer["prediction"] in set(rows[CONTRACT.entity])
        if not good:
            raise RuntimeError(f"{service.name} gave a wrong answer: {answer}")


def compared(port: int, ground: Ground, n: int) -> dict:
    "The last of `n` answers of ours. Raises RuntimeError unless scores and driver are those of the registered pipeline."
    for i, rows in enumerate(ground.requests(2, n)):
        answer = json.loads(load.ask(port, "/inference", by_number(rows), f"same{i}"))
        answered = pd.DataFrame(answer["candidates"]).set_index(CONTRACT.entity).score.reindex(rows[CONTRACT.entity]).to_numpy()
        scores = ground.champion.probability(rows)
        best = rows[CONTRACT.entity].to_numpy()[scores >= scores.max() - 1e-9]
        if not (np.abs(answered - scores).max() <= 1e-9 and (answer["explored"] or answer["prediction"] in best)):
            raise RuntimeError(f"request {i}: the registered pipeline says {scores}, the service {answer}")
    return answer


def counted(port: int) -> int:
    "Good answers, as ours counts them for Prometheus."
    return int(float(re.search(rb'serving_requests_total\{path="/inference",status="200"\} (\S+)', load.ask(port, "/metrics", None))[1]))


def logged(folder: Path) -> int:
    "Entries in the prediction log of ours."
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("serving/predictions/*.jsonl"))


class Figures(NamedTuple):
    "What a run has found."

    services: dict[str, Measured]
    paced: float  # milliseconds at the 99th percentile of the load of the problem
    same: int  # answers compared with the registered pipeline
    parts: dict[str, dict[str, float]]


def run(ground: Ground, seconds: int, small: bool) -> Figures:
    "All services one after another; small: ours, once on Redis, and the bare endpoint, and less of everything."
    same, measurements, kept = (20 if small else 200), {}, {}

    def before(port: int) -> None:
        kept["answer"] = compared(port, ground, same)

    def after(port: int) -> None:
        bodies = list(map(by_number, ground.requests(3, 1_000)))
        kept["paced"] = np.percentile(load.paced(port, "/inference", bodies, "paced", RATE, seconds), 99)
        kept["counted"] = counted(port)

    with tempfile.TemporaryDirectory() as name:
        folders = {who: Path(name) / str(i) for i, who in enumerate([OURS, UNCACHED, *ON_REDIS.values(), BARE, MLFLOW, BENTO, "parts"])}
        for folder in folders.values():
            folder.mkdir()
        measurements[OURS] = measured(services.ours(OURS, ground, folders[OURS]), ground, seconds, folders[OURS], before, after)
        if logged(folders[OURS]) != kept["counted"]:
            raise RuntimeError(f"{kept['counted']} requests were answered, and {logged(folders[OURS])} logged")
        measurements[BARE] = measured(services.bare(kept["answer"], folders[BARE]), ground, seconds, folders[BARE])
        with services.redis(ground, [folders[name] for name in ON_REDIS.values()]) as store:
            for name, config in [(ON_REDIS[UNCACHED], ["cache_seconds=0"]), (ON_REDIS[OURS], [])][: 1 if small else 2]:
                on_redis = services.ours(name, ground, folders[name], *config)
                measurements[name] = measured(on_redis, ground, seconds, folders[name], before, store=store)
        if not small:
            uncached = services.ours(UNCACHED, ground, folders[UNCACHED], "cache_seconds=0")
            measurements[UNCACHED] = measured(uncached, ground, seconds, folders[UNCACHED], before)
            measurements[MLFLOW] = measured(services.mlflow(ground), ground, seconds, folders[MLFLOW])
            measurements[BENTO] = measured(services.bento(ground, folders[BENTO]), ground, seconds, folders[BENTO])
        with ProcessPoolExecutor(1, get_context("forkserver")) as alone:
            measured_parts = alone.submit(parts.parts, ground.folder, folders["parts"], kept["answer"], 60 if small else 1_000).result()
    return Figures(
        {who: measurements[who] for who in (BARE, OURS, UNCACHED, *ON_REDIS.values(), MLFLOW, BENTO) if who in measurements},
        kept["paced"],
        same,
        measured_parts,
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def report(figures: Figures, seconds: int) -> None:
    "Print the tables."
    floor, base = figures.services[BARE], figures.services.get(BENTO)
    print(f"{RIDES.acceptance.candidates} candidates, {load.CONNECTIONS} connections, one worker each, {seconds} s of load:\n")
    rows = [
        [name, f"{m.rate:,.0f}", f"{m.p50:.1f}", f"{m.p99:.1f}", f"{m.cpu:.2f}", _times(m, base), f"{m.rate / floor.rate:.0%}"]
        for name, m in figures.services.items()
    ]
    print(table(["service", "requests/s", "p50, ms", "p99, ms", "CPU, ms a request", "times BentoML", "of the bare endpoint"], rows))
    print("\nWhere the time of one request goes, one at a time and without a network, in ms:\n")
    names = [parts.HTTP, parts.LOOKUP, parts.FRAME, parts.MODEL, parts.REST]
    lines = [[name, *(f"{part[name]:.2f}" if name in part else "-" for part in figures.parts.values())] for name in names]
    lines.append(["together", *(f"{sum(part.values()):.2f}" for part in figures.parts.values())])
    print(table(["part", *figures.parts], lines))


def disturbed(measurements: dict[str, Measured]) -> str:
    "What to say of a machine that had other work; empty if it had none."
    name, worst = max(measurements.items(), key=lambda item: item[1].others)
    text = f"{worst.others:.0%} of the machine went to other programs while `{name}` was measured: measure again when it is quiet"
    return text if worst.others > OTHERS else ""


def _times(m: Measured, base: Measured | None) -> str:
    return f"{m.rate / base.rate:.1f}" if base else "-"


def verdicts(figures: Figures) -> list[tuple[bool, str]]:
    "Was each target reached, and in words."
    measurements, lines = figures.services, []
    for name, least in TIMES.items():
        times = measurements[name].rate / measurements[BENTO].rate
        lines.append((times >= least, f"{name}: {times:.1f} times BentoML's requests/s, at least {least}"))
        lines.append(
            (measurements[name].p99 <= P99_MS, f"{name}: {measurements[name].p99:.1f} ms at the 99th percentile, at most {P99_MS}")
        )
    for name, least in OF_SQLITE.items():
        share = measurements[ON_REDIS[name]].rate / measurements[name].rate
        lines.append((share >= least, f"{ON_REDIS[name]}: {share:.2f} of the requests/s on SQLite, at least {least:.2f}"))
    limit = RIDES.acceptance.latency_ms
    text = f"{OURS}, {RATE:.0f} requests/s, ten times the expected: {figures.paced:.1f} ms at the 99th percentile, at most {limit:.0f}"
    return [*lines, (figures.paced <= limit, text)]


def main(argv: list[str] | None = None) -> int:
    "Run and print; 1 if a tool is not there, 3 if a target was missed."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of load on each service")
    parser.add_argument("--small", action="store_true", help="ours, once on Redis, and the bare endpoint, one second each: does it run?")
    parser.add_argument("--ground", type=Path, help="the folder of a build to ask about, instead of one made for this")
    asked = parser.parse_args(argv)
    seconds, folder = (1 if asked.small else asked.seconds), asked.ground or project.root() / "out/bench/serving"
    try:
        load.find_wrk()
    except load.Missing as error:
        print(error, file=sys.stderr)
        return 1
    if not asked.ground:
        services.make_ground(folder)
    figures = run(Ground.of(folder), seconds, asked.small)
    report(figures, seconds)
    print(f"\n{figures.same} answers of ours compared with the registered scikit-learn pipeline on the same features: equal.")
    print(disturbed(figures.services), file=sys.stderr)
    if asked.small:
        return 0
    lines = verdicts(figures)
    print("\n" + "\n".join(f"- {text}: {'reached' if reached else 'MISSED'}" for reached, text in lines))
    return 0 if all(reached for reached, _ in lines) else 3


if __name__ == "__main__":
    sys.exit(main())
