"""README and docs/USING.md walked from the first command to the last, in a fresh copy with a home of its own: what they promise is
printed. Each command is a test, and stands on those before it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pandas as pd
import pytest
from online import wait_for
from own_data import ENVIRONMENT, NAME, README, write_files
from workshop import Workshop

from mlops_course import project

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("prometheus-alertmanager") is None,
        reason="not here: apt-get install prometheus prometheus-alertmanager",
    ),
    pytest.mark.patient,  # it alone takes the ports that README and env*.yaml name
]

KEPT = re.compile(r"(PIP|UV)_.*|.*_(PROXY|proxy|CERT_FILE|CA_BUNDLE)|LANG|LC_.*|PYENV_ROOT")  # where this machine gets its packages


def commands() -> list[str]:
    "The commands of the code blocks, in order, without what they say of themselves; README sends its reader to USING half-way."
    before, own_data = README.split("## Your own project")
    using = (project.root() / "docs/USING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", before + using + own_data, re.S)
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if "--runtime docker" not in line]  # those need Docker: test_containers


COMMANDS = commands()
PLATFORM = {  # what is printed, by how the command ends
    "course up": r"^  serving +[\d.]+ s  http",
    "up": r"^  redis +[\d.]+ s  REDISCLI_AUTH",
    "restart": r"^  redis +[\d.]+ s  REDISCLI_AUTH",
    "status": r"^redis +healthy",
    "logs": r"^== mlflow: ",
    "down": r"^stopped: .*\bredis\b",
    "--volumes": r"^taken away:",
}


class Walk:
    "A person with a fresh checkout, an empty home and two terminals."

    def __init__(self, folder: Path):
        self.home = folder / "home"
        self.home.mkdir()
        (folder / "origin").mkdir()
        Workshop(folder / "origin")
        self.course = folder / "course"
        elsewhere = [part for part in os.environ["PATH"].split(":") if not part.startswith(sys.prefix)]
        cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv")  # so that nothing is fetched twice
        self.variables = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        self.variables |= {"HOME": str(self.home), "PATH": ":".join(elsewhere), "UV_CACHE_DIR": cache}
        self.terminals: list[subprocess.Popen] = []
        self.walked: list[str] = []  # the commands that kept their promise
        origin = f"git -C {folder}/origin -c user.name=teacher -c user.email=teacher@example.org"
        subprocess.run(f"{origin} init -q && {origin} add -A && {origin} commit -qm 'The course'", shell=True, check=True)
        subprocess.run(["git", "clone", "-q", folder / "origin", self.course], check=True)

    def run(self, command: str, seconds: float = 900) -> str:
        "What a command prints that must end well."
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.course, env=self.variables, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def begin(self, command: str, line: str) -> tuple[subprocess.Popen, str]:
        "Start what goes on until it is ended, in a terminal of its own; what of its output matches `line`."
        output = self.home.parent / f"terminal {len(self.terminals)}.txt"
        with open(output, "wb") as out:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.course,
                env=self.variables,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.terminals.append(process)

        def matched():
            printed = output.read_text(encoding="utf-8", errors="replace")
            assert process.poll() is None, f"{command} has ended:\n{printed}"
            return re.search(line, printed)

        return process, wait_for(matched, 120)[1]

    def ctrl_c(self, process: subprocess.Popen) -> None:
        "As a terminal does it: to all that runs in it."
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)

    def stop_all(self) -> None:
        "End what still runs, however the walk ended."
        for terminal in self.terminals:
            if terminal.poll() is None:
                os.killpg(terminal.pid, signal.SIGKILL)
                terminal.wait()
        stop = self.course / ".venv/bin/mlops-course"
        if stop.exists():
            subprocess.run([stop, "stop"], cwd=self.course, env=self.variables, check=False, capture_output=True)

    # --- what the pages promise, by command --------------------------------------------------------

    def make_doctor(self) -> None:
        assert "The course can run here" in self.run("make doctor")

    def make_run(self) -> None:
        printed = self.run("make run")
        assert re.search(r"^Champion .* version 1", printed, re.M)
        scored = re.search(r"^Scores +(\d+) drivers in (\S+)", printed, re.M)
        assert len(pd.read_parquet(self.course / scored[2])) == int(scored[1])

    def make_lab(self) -> None:
        jupyter, address = self.begin("make lab", r"(http://(?:localhost|127\.0\.0\.1):\d+/lab\S*)")
        assert "notebooks/00_start_here.ipynb" in address
        assert httpx.get(address, follow_redirects=True, trust_env=False).status_code == 200
        os.killpg(jupyter.pid, signal.SIGTERM)  # Ctrl-C asks whether it is meant
        jupyter.wait(30)

    def activate(self) -> None:
        self.variables["PATH"] = f"{self.course}/.venv/bin:{self.variables['PATH']}"
        assert Path(self.run(". .venv/bin/activate; command -v ploomber").strip()) == self.course / ".venv/bin/ploomber"
        self.run("ploomber build")

    def progress(self) -> None:
        printed = self.run("mlops-course progress")
        lessons = re.findall(r"^\| \[([0-8]\d) ", README, re.M)  # from 90 on: the appendix
        assert not [lesson for lesson in lessons if not re.search(rf"\b{lesson}[ _]", printed)]

    def make_ui(self) -> None:
        ui, address = self.begin("make ui", r"(http://\S+)")
        assert httpx.get(address, trust_env=False).status_code == 200
        self.ctrl_c(ui)

    def make_(self) -> None:
        assert {f"make {name}" for name in ("run", "test", "lab", "serve", "live", "ui", "stop")} <= set(
            re.findall(r"^ +(make \S+)", self.run("make"), re.M)
        )

    def make_serve(self) -> None:
        self.serving, address = self.begin("make serve", r"serving on (http://\S+)")
        assert address.endswith(":8172") and httpx.get(f"{address}/docs", trust_env=False).status_code == 200

    def ask(self, command: str) -> None:
        self.answer = json.loads(self.run(command))
        assert self.answer["request_id"] == "r-1" and self.answer["error"] is None
        assert self.answer["prediction"] in {1001, 1002, 1003}

    def score(self, command: str) -> None:
        [row] = json.loads(self.run(command))["rows"]
        assert (row["request_id"], row["driver_id"]) == ("r-2", 1001) and 0 < row["score"] < 1

    def trace(self) -> None:
        wait_for(lambda: any(self.course.glob("out/dev/serving/predictions/*.jsonl")))  # written after the answer
        traced = dict(re.findall(r"^(\w+) +(\S+)$", self.run("mlops-course trace r-1"), re.M))
        assert (traced["prediction"], traced["version"]) == (str(self.answer["prediction"]), "1")
        assert (self.course / f"out/dev/snapshots/{traced['snapshot']}.parquet").exists() and traced["run_id"]

    def make_stop(self) -> None:
        assert self.run("make stop").strip() == "stopped: serving"
        self.serving.wait(30)

    def make_live(self) -> None:
        printed = self.run("make live")
        assert re.search(r"^ *\d+\.\d s  new champion answers$", printed, re.M) and re.search(r"^new champion +[\d,]+ ", printed, re.M)

    def status(self, command: str) -> None:
        assert "The last loop" in self.run(command)

    def logs(self, command: str) -> None:
        written = {path.stem for path in self.course.glob("out/live/logs/*.jsonl")}
        assert {"serving", "monitoring", "retraining", "live"} <= written
        assert re.search(r"^\d[\d,]* lines found, 50 shown", self.run(command), re.M)

    def platform_run(self) -> None:
        assert re.search(r"^Champion .* version 1", self.run("make run ENV=env.platform.yaml"), re.M)

    def platform(self, command: str) -> None:
        printed, promised = self.run(command), next(line for words, line in PLATFORM.items() if command.endswith(words))
        assert re.search(promised, printed, re.M), printed

    def answers_aside(self) -> None:
        lesson = next(self.course.glob("notebooks/10_*.ipynb"))
        before = lesson.read_bytes()
        lesson.write_bytes(before.replace(b"# The problem", b"# My problem", 1))
        self.written = lesson.read_bytes()
        assert self.written != before
        self.run("mlops-course answers aside")
        assert lesson.read_bytes() == before

    def answers_back(self) -> None:
        self.run("mlops-course answers back")
        assert next(self.course.glob("notebooks/10_*.ipynb")).read_bytes() == self.written

    def own_data(self, command: str) -> None:
        data = self.home / "data"
        data.mkdir()
        write_files(self.course / "out/dev/raw", data)
        (self.course / NAME).write_text(ENVIRONMENT, encoding="utf-8")

        assert re.search(r"^Champion .* version 1", self.run(command), re.M)


def steps(walk: Walk) -> dict[str, Callable]:
    "What is done at each command; one that the pages have and nobody walks is an error."
    return {
        "make doctor": walk.make_doctor,
        "make run": walk.make_run,
        "make test": lambda: walk.run("make -n test"),  # all system tests come after it: see the Makefile
        "make lab": walk.make_lab,
        ". .venv/bin/activate": walk.activate,
        "mlops-course progress": walk.progress,
        "make ui": walk.make_ui,
        "make": walk.make_,
        "make serve": walk.make_serve,
        "curl -s localhost:8172/inference": walk.ask,
        "curl -s localhost:8172/score": walk.score,
        "mlops-course trace r-1": walk.trace,
        "make stop": walk.make_stop,
        "make live": walk.make_live,
        "mlops-course status": walk.status,
        "mlops-course logs": walk.logs,
        "sh platform/get.sh": lambda: walk.run("sh platform/get.sh redis-server postgres"),  # all of them: test_get
        "make platform-": walk.platform,
        "bash platform/run.sh": walk.platform,
        "make run ENV=env.platform.yaml": walk.platform_run,
        "mlops-course answers aside": walk.answers_aside,
        "git pull": lambda: walk.run("git pull"),
        "mlops-course answers back": walk.answers_back,
        "cp": walk.run,
        "MY_DATA=": walk.own_data,
    }


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    made = Walk(tmp_path_factory.mktemp("readme"))
    yield made
    made.stop_all()


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS)
def test_a_command_does_what_its_page_promises(walk, number):
    if walk.walked != COMMANDS[:number]:
        pytest.fail(f"not tried: `{COMMANDS[len(walk.walked)]}` comes before it, and has failed or was not asked for", pytrace=False)
    known, command = steps(walk), COMMANDS[number]
    if command in known:
        known[command]()
    else:
        known[next(name for name in known if name != "make" and command.startswith(name))](command)
    walk.walked.append(command)
