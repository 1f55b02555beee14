"""A copy of the project in which builds can be killed and modules changed, and what a build comes to."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

from mlops_course import project
from mlops_course.files import file_digest

BIN = Path(sys.executable).parent


class Workshop:
    "A copy of the project; `out/test` in it is the only place where its builds write."

    def __init__(self, folder: Path):
        self.folder = folder
        self.out = folder / "out/test"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=project.root(), check=True, capture_output=True, text=True
        )
        for name in listed.stdout.splitlines():
            if (project.root() / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project.root() / name, folder / name)
        ours = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
        self.variables = {**ours, "PLOOMBER_ENV_FILENAME": "env.test.yaml", "PYTHONPATH": str(folder)}

    def with_run_sh(self) -> None:
        "Give it the command that `platform/run.sh` calls."
        (self.folder / ".venv/bin").mkdir(parents=True)
        (self.folder / ".venv/bin/mlops-course").symlink_to(BIN / "mlops-course")

    def start(self, *command: str) -> subprocess.Popen:
        "Start a command of the environment in this copy, in a process group of its own."
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str) -> tuple[int, str]:
        "Run a command to its end: exit code and all that it printed."
        work = self.start(*command)
        output, _ = work.communicate(timeout=900)
        return work.returncode, output

    def kill_in(self, stage: str) -> None:
        "Start a build and kill it, with all its children, as soon as `stage` has started."
        work = self.start("ploomber", "build")
        until = time.monotonic() + 600
        while ("stage started", stage) not in self.events() and work.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        build = psutil.Process(work.pid)
        for process in [*build.children(recursive=True), build]:  # a kernel has a process group of its own
            process.kill()
        work.communicate()

    def stop(self, work: subprocess.Popen) -> None:
        "End a command that was started here, with all its children."
        os.killpg(work.pid, signal.SIGTERM)
        try:
            work.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(work.pid, signal.SIGKILL)
            work.communicate()

    def events(self) -> list[tuple[str, str]]:
        "What the pipeline's log says happened: (event, stage), in order."
        log = self.out / "logs/pipeline.jsonl"
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # the last may still be written
        return [(line["event"], line["stage"]) for line in lines if line["event"].startswith("stage ")]

    def started(self) -> list[str]:
        "The stages that have started, in order."
        return [stage for event, stage in self.events() if event == "stage started"]

    def result(self) -> dict[str, str]:
        "Digests of all that a build comes to; the names that MLflow draws at random do not count."
        made = {
            path.relative_to(self.out).as_posix(): file_digest(path)
            for folder in ["raw", "data"]
            for path in sorted((self.out / folder).iterdir())
            if not path.name.startswith(".")
        }
        decision = json.loads((self.out / "training/decision.json").read_text(encoding="utf-8"))
        decision["model"].pop("run_id")
        decision.pop("found")
        scores = pd.read_parquet(self.out / "batch/scores.parquet").drop(columns="run_id")
        return made | {"decision": project.digest_of(decision), "scores": project.digest_of(scores.to_dict("list"))}
