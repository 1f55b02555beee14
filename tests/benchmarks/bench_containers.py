"""The same services as processes and as containers: seconds until all are healthy, memory of each, and disk. Needs Docker."""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkouts
import daemons
from bench_platform import FILE, TIMES, called, up
from workshop import BIN, Workshop

from mlops_course import project, supervision
from mlops_course.containers import Containers, project_name
from mlops_course.stack import Local

ON_COURSE = ("workshop", "airflow")  # images that stand on that of the course; all stand on one base
DOCKER = ("--runtime", "docker")


def measured(copy: Workshop, platform: Local | Containers, *runtime: str) -> tuple[dict[str, float], dict[str, float]]:
    "Seconds of each service, the middle one of some ups, and megabytes, as the system counts the processes of both."
    runs = []
    for _ in range(TIMES):
        called(copy, "platform", "all", "down", *runtime)
        runs.append(up(copy, *runtime))
    held = {state.name: supervision.memory_of(state.pid) / 1e6 for state in platform.states() if state.pid}
    called(copy, "platform", "all", "down", *runtime)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}, held


def on_disk(*folders: Path) -> float:
    "Gigabytes of files; what has several names counts once."
    files = (os.lstat(Path(place, name)) for folder in folders for place, _, names in os.walk(folder) for name in names)
    return sum({(file.st_dev, file.st_ino): file.st_blocks * 512 for file in files}.values()) / 1e9


def images(size: Callable[[str], float]) -> float:
    "Gigabytes of all images; what they share counts once."
    base, course = size("base"), size("course")
    alone = ("redis", "postgres", "kafka", "prometheus", "alertmanager", "node_exporter")
    return course + sum(size(name) - course for name in ON_COURSE) + sum(size(name) - base for name in alone)


def main() -> int:
    "Print a Markdown table."
    with tempfile.TemporaryDirectory() as name, daemons.daemon() as docker:
        copy = Workshop(Path(name))
        checkouts.platform_on_free_ports(copy.folder)
        checkouts.with_programs(copy.folder)
        copy.with_run_sh()
        base = daemons.base_image(docker)
        copy.variables |= docker.variables | {"BASE": base}
        os.environ.update({name: copy.variables[name] for name in ("BASE", "DOCKER_HOST") if name in copy.variables})
        os.chdir(copy.folder)
        local, there = Local(FILE), Containers(FILE)
        try:
            called(copy, "platform", "feast", "up")
            called(copy, "platform", "mlflow", "up")
            called(copy, "run")
            processes = measured(copy, local)
            called(copy, "platform", "build", "up", *DOCKER)
            containers = measured(copy, there, *DOCKER)
        finally:
            supervision.stop(local.folder)
            called(copy, "platform", "all", "down", "--volumes", *DOCKER)
        tag = project_name().rpartition("-")[2]
        names = lambda image: base if image == "base" else f"mlops-course/{image}:{tag}"
        size = lambda image: int(docker("image", "inspect", "--format", "{{.Size}}", names(image)))
        disks = on_disk(project.root() / "out/programs", BIN.parent), images(size) / 1e9
    return show(processes, containers, disks)


def show(processes: tuple, containers: tuple, disks: tuple[float, float]) -> int:
    (seconds, held), (there, within) = processes, containers
    waited = [each.pop("all") for each in (seconds, there)]
    print("| service | seconds | MB | in a container: seconds | MB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, spent in sorted(seconds.items(), key=lambda each: each[1]):
        print(f"| {name} | {spent:.1f} | {held[name]:,.0f} | {there[name]:.1f} | {within[name]:,.0f} |")
    totals = [sum(each.values()) for each in (held, within)]
    print(f"| all of them | {waited[0]:.1f} | {totals[0]:,.0f} | {waited[1]:.1f} | {totals[1]:,.0f} |\n")
    print(f"- containers take {waited[1] / waited[0]:.2f} times the seconds and {totals[1] / totals[0]:.2f} times the memory")
    print(f"- disk: {disks[0]:.1f} GB of programs and packages, {disks[1]:.1f} GB of images (what they share counts once)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
