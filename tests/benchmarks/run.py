"""The benchmarks, one after another; their tables replace those of docs/BENCHMARKS.md, each between its marks.

`make bench` runs all, `make bench ONLY=serving` one of them. A target that was missed stands in the table and is exit code 3.
"""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil

from mlops_course import project

HERE = Path(__file__).parent
PAGE = project.root() / "docs/BENCHMARKS.md"
ARGUMENTS = {
    "bench_retrieval": ["--plot", str(project.root() / "images/retrieval.png")],
    "bench_world": ["--full"],
    "bench_year": ["--plot", str(project.root() / "images/retraining_year.png")],
}
MISSED = 3


def caption() -> str:
    "When, on which commit and on what machine figures are measured."
    return f"*Measured on {datetime.now(UTC):%Y-%m-%d}, commit {commit()}; {machine()}.*"


def warn_if_busy() -> None:
    "Other work on the machine makes figures that are worth little."
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"the machine is busy (load average {load:.1f}): what is measured now will be too slow", file=sys.stderr)


def commit() -> str:
    "The commit that is checked out; `and changes` if files differ from it, those aside that a benchmark writes."
    asked = ["git rev-parse --short HEAD", "git status --porcelain -- . :!docs/BENCHMARKS.md :!images"]
    answers = [subprocess.run(each.split(), cwd=HERE.parents[1], capture_output=True, text=True, check=False) for each in asked]
    if any(answer.returncode for answer in answers):
        return "unknown"
    name, changes = (answer.stdout.strip() for answer in answers)
    return f"{name} and changes" if changes else name


def machine() -> str:
    "What a reader must know of this machine to compare: processor, cores, memory, system, Python."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = re.search(r"model name\s*: (.+)", path.read_text()) if (path := Path("/proc/cpuinfo")).exists() else None
    memory = psutil.virtual_memory().total / 2**30
    processor = model[1] if model else platform.machine()
    return f"{processor}, {cores} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"


def keep(
    name: str,  # of a benchmark: its tables stand between the marks of this name
    tables: str,
    page: Path = PAGE,
) -> None:
    "Put a benchmark's tables between its marks, below a line that says when and where they were measured."
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    text, match = marks.subn(lambda m: f"{m[1]}\n{caption()}\n\n{tables}\n\n{m[2]}", page.read_text(encoding="utf-8"))
    if not match:
        sys.exit(f"{page.name} has no marks <!-- {name} --> and <!-- /{name} -->: add them where the tables shall stand")
    page.write_text(text, encoding="utf-8")


def main(names: list[str]) -> int:
    "Run each bench_*.py, or those of `names`, in a process of its own, show its tables, keep them in docs/BENCHMARKS.md."
    missed = []
    warn_if_busy()
    for script in sorted(HERE.glob("bench_*.py")):
        if names and script.stem.removeprefix("bench_") not in names:
            continue
        print(f"\n== {script.stem} ==", flush=True)
        ran = subprocess.run([sys.executable, str(script), *ARGUMENTS.get(script.stem, [])], stdout=subprocess.PIPE, text=True, check=False)
        print(ran.stdout)
        if ran.returncode not in (0, MISSED):
            sys.exit(f"{script.name} failed")
        missed += [script.name] if ran.returncode else []
        keep(script.stem, ran.stdout.strip())
    print("The tables stand in docs/BENCHMARKS.md." + (f" A target was missed in {', '.join(missed)}." if missed else ""))
    return MISSED if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
