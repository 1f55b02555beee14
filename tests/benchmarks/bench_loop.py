"""How long the loop takes that nobody lends a hand to: from the first drifted request to a new champion, with all services."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pandas as pd

from mlops_course import loop, project

FILE, LIMIT = "env.live.yaml", 240  # seconds on 2 cores at 100 requests/s: fresh days, a training, and a release step by step
DAYS = {"after_days": 3, "days": 44}  # of the live company: four seconds each


def main() -> int:
    "Let the company live, and print Markdown tables; 3 if the limit was missed."
    command = [str(Path(sys.executable).with_name("mlops-course")), "live", "--env", FILE]
    words = [word for name, value in DAYS.items() for word in ("--set", f"{name}={value}")]
    subprocess.run([*command, *words], cwd=project.root(), check=True, stdout=sys.stderr)
    return show(project.root() / project.environment(FILE).out)


def show(folder: Path) -> int:
    "Print what came of the run in an environment's folder."
    story = json.loads((folder / "live/story.json").read_text(encoding="utf-8"))
    truth = pd.read_json(folder / "live/truth.jsonl", lines=True, dtype={"version": "string"}, convert_dates=False)
    drift = datetime.fromisoformat(story["drift"])
    passed, phase = loop.recovery_seconds(truth, drift, story["moments"]), loop.phases(truth, drift, story["moments"])
    table = loop.recovery(truth, phase).reset_index()
    rate = len(truth) / (truth.real.max() - truth.real.min())
    print(f"{len(truth):,} bookings, {rate:.0f} a second; seconds since the first drifted one:\n\n| what | seconds |\n| --- | ---: |")
    print("\n".join(f"| {what} | {seconds:.1f} |" for what, seconds in passed.items()))
    print("\nThe true share of completed trips; `sent`: of the drivers who were sent, `best`: of the best there were:\n")
    print(f"| {' | '.join(table.columns)} |\n| --- | {' | '.join('---:' for _ in table.columns[1:])} |")
    print("\n".join(f"| {' | '.join(map(str, row))} |" for row in table.itertuples(index=False)))
    if "fallback" in set(truth.role):
        print(f"\n- falling back has saved {loop.saved(truth, phase):,.0f} completed trips")
    seconds = passed.get("new champion answers", float("inf"))
    print(f"\n- the new champion answers after {seconds:.1f} s, at most {LIMIT}: {'reached' if seconds <= LIMIT else 'MISSED'}")
    return 0 if seconds <= LIMIT else 3


if __name__ == "__main__":
    sys.exit(main())
