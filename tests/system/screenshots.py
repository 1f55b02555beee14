"""The pictures of README and lessons, made from the running thing (`make screenshots`): the stages, JupyterLab in a
browser, the services of `make live` while a drift is found and answered, and the pages of the platform."""

import itertools
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import checkouts
import httpx
import matplotlib.pyplot as plt
import pytest
import yaml
from browser import CHROMIUM, MISSING, cursor_in, jupyterlab, open_lesson, page, run_all
from online import COMMAND, wait_for
from workshop import BIN, Workshop

from mlops_course import airflow as client
from mlops_course import cases, contracts, live, passwords, project, services, stack, stages, supervision, web

IMAGES = project.root() / "images"
KINDS = {"raw": "raw files", "statistics": "tables", "store": "feature store", "decision": "champion", "scores": "scores"}


def pipeline() -> None:
    "Draw the stages of pipeline.yaml, with the lesson of each and what it makes."
    fig, ax = plt.subplots(figsize=(11, 1.6))
    for place, (name, task) in enumerate(stages.tasks().items()):
        ax.text(
            place, 0.62, name, ha="center", va="center", fontsize=12, bbox={"boxstyle": "round,pad=0.5", "fc": "#dbe9f6", "ec": "#3b6ea5"}
        )
        ax.text(place, 0.12, Path(task["source"]).stem.replace("_", " "), ha="center", fontsize=9, color="#555555")
        made = next(text for key, text in KINDS.items() if key in task["product"])
        ax.annotate("", (place + 0.68, 0.62), (place + 0.34, 0.62), arrowprops={"arrowstyle": "->", "color": "#3b6ea5"})
        ax.text(place + 0.5, 0.84, made, ha="center", fontsize=9)
    ax.set(xlim=(-0.4, len(stages.tasks()) - 0.2), ylim=(0, 1))
    ax.axis("off")
    fig.savefig(IMAGES / "pipeline.png", dpi=110, bbox_inches="tight")


def lessons(folder: Path) -> None:
    "A lesson with its table of contents, and an exercise that has just been solved."
    copy = Workshop(folder)
    with jupyterlab(copy.folder, BIN, copy.variables) as address, page(copy.folder) as opened:
        open_lesson(opened, address, "20_world")
        opened.get_by_role("tab", name="Table of Contents").click()
        opened.locator(".jp-OutputArea-output img").first.scroll_into_view_if_needed()
        opened.wait_for_timeout(1000)
        opened.screenshot(path=IMAGES / "lesson.png")
        open_lesson(opened, address, "00_start_here")
        run_all(opened, 120)
        cell = opened.locator(".jp-CodeCell", has_text="def small():")
        cursor_in(opened, cell.locator(".cm-content"))
        opened.keyboard.press("Control+A")
        opened.keyboard.type("def small():\nfrom mlops_course.project import environment\n\n")
        opened.keyboard.type('return environment("env.yaml", world={"drivers": 60})')
        cursor_in(opened, cell.locator(".cm-content"))
        opened.keyboard.press("Shift+Enter")
        opened.keyboard.press("Shift+Enter")
        solved = opened.locator(".jp-CodeCell", has_text='check("00.1", small)').get_by_text("pass", exact=True)
        solved.wait_for(timeout=60_000)
        opened.wait_for_timeout(1000)
        opened.screenshot(path=IMAGES / "exercise.png")


def loop(scratch: Path) -> None:
    "The alert while it rings, the report that was written about it, and the distances before and after the new champion."
    environment = project.environment("env.live.yaml")
    folder, settings = project.root() / environment.out, live.LiveSettings(**environment.live)
    began = time.time()
    company = subprocess.Popen([COMMAND, "live", "--env", "env.live.yaml"], cwd=project.root())

    def reached(what: str) -> bool:
        if company.poll() is not None:
            raise SystemExit("the live company has ended too soon")
        steps = [step for case in cases.read_cases(folder) if (step := case.last(what))]
        return any(step["real"] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began)) for step in steps)

    prometheus, monitoring = f"http://127.0.0.1:{settings.prometheus_port}", services.services_of(environment)["monitoring"].address
    try:
        with page(scratch) as opened:
            wait_for(lambda: reached("waiting for fresh data"), 600)
            opened.goto(f"{prometheus}/classic/alerts")
            rule = opened.get_by_role("cell", name="PerformanceDropped (1 active)")
            rule.click()
            opened.wait_for_timeout(1000)
            rule.evaluate("rule => rule.scrollIntoView()")
            opened.screenshot(path=IMAGES / "alert.png", clip={"x": 0, "y": 0, "width": 1360, "height": 700})  # below it stand paths
            opened.goto(monitoring + web.ask(monitoring, "/report")[1]["link"])
            opened.wait_for_timeout(5000)
            opened.screenshot(path=IMAGES / "report.png")
            wait_for(lambda: reached("resolved"), 300)
            opened.wait_for_timeout(10_000)
            shown = {"g0.expr": "max by (version) (monitoring_drift_score)", "g0.range_input": "2m", "g0.tab": "0"}
            opened.goto(f"{prometheus}/classic/graph?{urlencode(shown)}")
            opened.wait_for_timeout(3000)
            opened.screenshot(path=IMAGES / "recovery.png")
    finally:
        company.send_signal(signal.SIGINT)
        company.wait(60)


def platform(scratch: Path, file: str = "env.platform.yaml") -> None:
    "The pages of the platform's services, after a build on them. What was not running before is ended again."
    running = stack.Local(file)
    began = {state.name for state in supervision.states(running.folder) if state.pid}
    wanted = ("mlflow", "feast_ui", "prometheus", "node_exporter", *stack.GROUPS["course"])
    address = {name: running.listed[name].address for name in wanted}
    try:
        _up(running, ("mlflow", "feast_ui", "redis"))  # a build needs these
        subprocess.run([COMMAND, "run", "--env", file], cwd=project.root(), check=True)
        _up(running, wanted)
        with page(scratch) as opened, _bookings(address["serving"]):
            model = contracts.read_project(running.environment.project).name
            _pages(opened, address, model)
            with subprocess.Popen([COMMAND, "dashboards", "--env", file, "--port", "0"], stdout=subprocess.PIPE, text=True) as preview:
                opened.wait_for_timeout(120_000)  # of traffic
                opened.goto(f"{re.search(r'http://[0-9.:]+', preview.stdout.readline())[0]}/serving")
                opened.locator("select").first.select_option("300")
                opened.wait_for_timeout(12_000)
                opened.screenshot(path=IMAGES / "dashboards.png")
                preview.terminate()
    finally:
        stack.down(running, tuple(name for name in stack.GROUPS["all"] if name not in began))


def _pages(opened, address: dict[str, str], model: str) -> None:
    "MLflow's page of a model, Feast's of a feature view, serving's of its questions, and Prometheus' of its targets."
    top = {"x": 0, "y": 0, "width": 1360, "height": 620}
    opened.goto(f"{address['mlflow']}/#/models/{model}")
    opened.get_by_text("@ champion").first.wait_for(timeout=60_000)
    opened.get_by_text("MLflow Assistant").locator("xpath=ancestor::*[.//button][1]").get_by_role("button").last.click()
    opened.wait_for_timeout(1000)
    opened.screenshot(path=IMAGES / "mlflow.png", clip=top)
    opened.goto(address["feast_ui"])
    opened.get_by_text(re.compile(" (Blue|Green)$")).last.click()  # the project that answers
    opened.get_by_text("Feature Views").first.click()
    opened.get_by_text("statistics", exact=True).click()
    opened.get_by_text("conv_rate").first.wait_for(timeout=60_000)
    opened.wait_for_timeout(1000)
    opened.screenshot(path=IMAGES / "feast.png", clip=top)
    opened.goto(f"{address['serving']}/docs")
    opened.get_by_text("/inference").first.wait_for(timeout=60_000)
    opened.wait_for_timeout(1000)
    opened.screenshot(path=IMAGES / "docs.png", clip=top)
    opened.wait_for_timeout(6000)  # Prometheus asks every five seconds
    opened.goto(f"{address['prometheus']}/classic/targets")
    opened.wait_for_timeout(1000)
    opened.screenshot(path=IMAGES / "targets.png", full_page=True)


def airflow(scratch: Path, file: str = "env.pictures.yaml") -> None:
    "A run of Airflow's in which a stage fails until Redis is there: the log of its first try, and the grid when all has ended well."
    copy = Workshop(scratch / "airflow")
    small = yaml.safe_load((copy.folder / "env.test.yaml").read_text(encoding="utf-8"))
    small.pop("features")  # of the platform they are on servers
    checkouts.platform_on_free_ports(
        copy.folder, file, **{**small, "out": "out/pictures", "orchestration": {"training": None, "retry_seconds": 10}}
    )
    checkouts.with_programs(copy.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy.folder)
        patch.setenv("PYTHONPATH", str(copy.folder))
        running = stack.Local(file)
        try:
            _up(running, (*stack.GROUPS["airflow"], "mlflow"))
            copy.call("mlops-course", "airflow", "dags", "unpause", "training")
            run = client.Run(client.of_environment(running.environment), "training", "this-morning")
            run.begin({})
            task = f"{run.path}/taskInstances/features"
            wait_for(lambda: run.airflow.ask("GET", task)["state"] == "up_for_retry", 300)
            _up(running, ("redis",))
            wait_for(lambda: run.poll() is not None, 300)
            with page(scratch) as opened:
                _runs(opened, running.listed["airflow"].address, passwords.password(passwords.run_env("airflow")), run)
        finally:
            stack.down(running, stack.names_of("all"))


def _runs(opened, address: str, password: str, run: client.Run) -> None:
    "Airflow's pages of a run."
    top = {"x": 0, "y": 0, "width": 1360, "height": 620}
    opened.goto(address)
    opened.get_by_label("Username").fill("mlops")
    opened.get_by_label("Password").fill(password)
    opened.keyboard.press("Enter")
    opened.wait_for_timeout(3000)
    opened.goto(f"{address}/dags/{run.dag}/runs/{run.run}")
    opened.get_by_text("features").first.wait_for(timeout=60_000)
    opened.wait_for_timeout(2000)
    opened.screenshot(path=IMAGES / "airflow.png", clip=top)
    opened.goto(f"{address}/dags/{run.dag}/runs/{run.run}/tasks/features?try_number=1")
    opened.get_by_text("Redis does not answer").first.wait_for(timeout=60_000)
    opened.wait_for_timeout(2000)
    opened.screenshot(path=IMAGES / "airflow_log.png", clip=top)


@contextmanager
def _bookings(serving: str) -> Iterator[None]:
    "Twenty bookings a second, as long as the block lasts."
    over = threading.Event()

    def send() -> None:
        with httpx.Client(trust_env=False) as app:
            for number in itertools.count():
                if over.wait(0.05):
                    return
                drivers = [1001 + (number * step) % 60 for step in (1, 7, 11, 13, 17)]
                app.post(f"{serving}/inference", json={"request_id": f"picture-{number}", "driver_ids": sorted(set(drivers))})

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()


def _up(running: stack.Local, names: tuple[str, ...]) -> None:
    "Start services of the platform; the first that cannot start ends it all."
    for outcome in stack.up(running, names):
        if not outcome.look:
            raise SystemExit(f"{outcome.name}: {outcome.left_out or outcome.fault}")


if __name__ == "__main__":
    if CHROMIUM is None:
        raise SystemExit(MISSING)
    pipeline()
    with tempfile.TemporaryDirectory() as scratch:
        lessons(Path(scratch))
        loop(Path(scratch))
        platform(Path(scratch))
        airflow(Path(scratch))
    print(f"made anew: {', '.join(sorted(path.name for path in IMAGES.glob('*.png')))} in images/")
