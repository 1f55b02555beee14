"""What each stage takes of `make run`, and how long a run takes that has nothing to do: a fresh build in a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlops_course import project

LIMIT_FIRST, LIMIT_AGAIN = 180, 2  # seconds, as the project promises for 2 cores


def timed(command: list[str], folder: Path) -> float:
    "Seconds that a command takes in a folder, with the package of that folder."
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(folder)})
    return time.perf_counter() - start


def main() -> dict:
    "Print a Markdown table; gives the seconds of each stage, of the first run and of the second."
    run = [str(Path(sys.executable).with_name("mlops-course")), "run", "--env", "env.yaml"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        shutil.copytree(project.root(), folder, ignore=shutil.ignore_patterns("out", ".venv", ".git"))
        first, again = timed(run, folder), timed(run, folder)
        lines = [json.loads(line) for line in (folder / "out/dev/logs/pipeline.jsonl").read_text(encoding="utf-8").splitlines()]
    stages = {line["stage"]: line["seconds"] for line in lines if line["event"] == "stage finished"}
    parts = {f"the work of `{stage}`": seconds for stage, seconds in stages.items()}
    parts["lessons around the work, kernels, Ploomber"] = first - sum(stages.values())
    print("| part of `make run` | seconds | share |\n| --- | ---: | ---: |")
    for part, seconds in parts.items():
        print(f"| {part} | {seconds:.1f} | {seconds / first:.0%} |")
    print(f"| all of it | {first:.0f} | 100% |\n")
    for what, seconds, limit in [("a first run", first, LIMIT_FIRST), ("again, when nothing has changed", again, LIMIT_AGAIN)]:
        print(f"- {what}: {seconds:.1f} s, at most {limit}: {'reached' if seconds <= limit else 'missed'}")
    return {"first": first, "again": again, "stages": stages}


if __name__ == "__main__":
    main()
