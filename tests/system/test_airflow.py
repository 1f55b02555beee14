"""The stages on a real Airflow: API server, scheduler and dag processor of the platform, asked as a person or a service asks them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import checkouts
import httpx
import online
import pandas as pd
import psutil
import pytest
import yaml
from test_platform_build import There

from mlops_course import airflow, cases, executors, passwords, programs, project, stack, stages, supervision, trainer
from mlops_course.project import UserError

PROGRAMS = ("redis-server", "postgres", "prometheus-alertmanager", "airflow")
pytestmark = [
    pytest.mark.skipif(not all(map(programs.locate, PROGRAMS)), reason="programs of the platform are not here: platform/get.sh"),
    pytest.mark.patient,
]
FILE = "env.there.yaml"
DAYS = [datetime(2026, 3, day, tzinfo=UTC) for day in (13, 14, 15)]


class OnAirflow(There):
    "A copy of the project whose stages are run by Airflow."

    @property
    def api(self) -> airflow.Airflow:
        return airflow.of_environment(self.platform.environment)

    def command(self, *words: str) -> str:
        code, output = self.workshop.call("mlops-course", "airflow", *words)
        assert code == 0, output
        return output

    def begin(self, dag: str, run: str, order: dict | None = None) -> airflow.Run:
        begun = airflow.Run(self.api, dag, run)
        begun.begin(order or {})
        return begun

    def tasks(self, run: airflow.Run) -> dict[str, tuple[str, int]]:
        "State and number of tries of each task of a run."
        tasks = self.api.ask("GET", f"{run.path}/taskInstances")["task_instances"]
        return {task["task_id"]: (task["state"], task["try_number"]) for task in tasks}

    def log(self, run: airflow.Run, task: str, attempt: int = 1) -> str:
        return json.dumps(self.api.ask("GET", f"{run.path}/taskInstances/{task}/logs/{attempt}")["content"])

    def scores(self, moment: datetime) -> pd.DataFrame:
        return pd.read_parquet(self.out / f"batch/{moment:%Y-%m-%dT%H%M%SZ}/scores.parquet")


wait_for = partial(online.wait_for, pause=0.3)  # Airflow, which is asked, needs the processor for other things


def ended(run: airflow.Run, seconds: float = 180) -> str:
    wait_for(lambda: run.poll() is not None, seconds)
    return run.state()


@pytest.fixture(scope="module")
def there(workshop) -> Iterator[OnAirflow]:
    folder = workshop.folder
    small = yaml.safe_load((folder / "env.test.yaml").read_text(encoding="utf-8"))
    small.pop("features")  # of the platform they are on servers
    settings = {"scoring": "@daily", "retry_seconds": 2, "late_seconds": 15, "features": None, "training": None}
    orders = {"airflow": True, "fresh_days": 0, "training": {"test_days": 7, "validation_days": 1, "train_days": 5}}
    checkouts.platform_on_free_ports(folder, FILE, **{**small, "out": "out/there", "orchestration": settings, "retraining": orders})
    checkouts.with_programs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("PLOOMBER_ENV_FILENAME", FILE)
        made = OnAirflow(workshop, stack.Local(FILE))
        try:
            names = (*stack.GROUPS["airflow"], "alertmanager", "mlflow")  # Redis comes later: a stage fails without it
            assert [each for each in stack.up(made.platform, names) if not each.look] == []
            yield made
        finally:
            stack.down(made.platform, stack.names_of("all"))
    assert checkouts.marked(folder) == []


def test_it_listens_on_loopback_alone_and_answers_who_knows_the_password(there):
    address = there.platform.listed["airflow"].address
    family = [each for each in psutil.process_iter() if supervision.MARK in _variables(each) and "airflow" in " ".join(each.cmdline())]
    places = {c.laddr.ip for each in family for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN}

    assert places == {"127.0.0.1"}
    assert httpx.get(f"{address}/api/v2/dags", trust_env=False).status_code == 401
    with pytest.raises(UserError, match="does not take the platform's password"):
        airflow.Airflow(address, "guess").ask("GET", "dags")
    assert {each["dag_id"] for each in there.api.ask("GET", "dags")["dags"]} == {"features", "scoring", "training"}
    keeps = passwords.run_env("airflow")
    assert {oct(file.stat().st_mode)[-3:] for file in keeps.glob("*.json")} == {oct((keeps / "airflow.cfg").stat().st_mode)[-3:]} == {"600"}


def _variables(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_the_file_of_dags_passes_airflows_own_checks_and_imports_nothing_of_the_course(there):
    assert "No data found" in there.command("dags", "list-import-errors")
    details = there.api.ask("GET", "dags/training/details")
    assert details["last_parse_duration"] < 1
    assert details["catchup"] is False and details["is_paused"]
    with pytest.raises(UserError, match="the DAG training is paused, so nothing would run: `mlops-course airflow dags unpause training`"):
        there.begin("training", "nobody runs this")


def test_a_training_that_is_asked_for_comes_to_one_champion_though_a_stage_fails_and_the_scheduler_is_killed(there):
    there.command("dags", "unpause", "training")
    run = there.begin("training", "asked-for")
    wait_for(lambda: there.tasks(run)["features"][0] == "up_for_retry", 120)
    assert "Redis does not answer" in there.log(run, "features")
    assert [each for each in stack.up(there.platform, ("redis",)) if not each.look] == []

    wait_for(lambda: "stage started" in _events(there, "training"), 120)
    scheduler = next(state.pid for state in supervision.states(there.out) if state.name == "airflow_scheduler")
    os.killpg(os.getpgid(scheduler), signal.SIGKILL)
    killed = time.monotonic()

    wait_for(lambda: there.tasks(run)["training"] in [("running", 2), ("success", 2)], 60)
    assert time.monotonic() - killed < 60
    assert ended(run) == "success"
    assert _events(there, "training").count("model registered") == _events(there, "training").count("model promoted") == 1
    lines = (there.out / "logs/pipeline.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["run"] for line in lines} == {"asked-for"}
    assert stages.changed(there.platform.environment, "training") == []


def _events(there, stage: str) -> list[str]:
    log = there.out / "logs/pipeline.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    return [line["event"] for line in lines if line.get("stage") == stage]


def test_a_run_that_has_not_ended_in_time_rings_where_all_alerts_ring(there):
    address = there.platform.listed["alertmanager"].address
    rings = httpx.get(f"{address}/api/v2/alerts", trust_env=False).json()

    assert [(each["labels"]["alertname"], each["labels"]["dag"]) for each in rings] == [("DagLate", "training")]
    assert "asked-for" in rings[0]["annotations"]["summary"]


def test_days_that_are_made_up_for_are_scored_as_of_their_end_kept_apart_and_the_same_a_second_time(there):
    there.command("dags", "unpause", "scoring")
    asked = ("backfill", "create", "--dag-id", "scoring", "--from-date", "2026-03-12", "--to-date", "2026-03-14")
    seen = []
    for again in ((), ("--reprocess-behavior", "completed")):
        there.command(*asked, *again)
        runs = [airflow.Run(there.api, "scoring", f"backfill__{day:%Y-%m-%dT%H:%M:%S+00:00}") for day in DAYS]
        wait_for(lambda runs=runs: {run.state() for run in runs} == {"success"}, 120)
        wait_for(lambda: all(each["completed_at"] for each in there.api.ask("GET", "backfills?dag_id=scoring")["backfills"]), 60)
        seen.append({day: there.scores(day) for day in DAYS})
        written = [(there.out / f"batch/{day:%Y-%m-%dT%H%M%SZ}/scores.parquet").stat().st_mtime_ns for day in DAYS]
        seen.append(written)

    first, early, second, late = seen
    assert all(a < b for a, b in zip(early, late, strict=True))  # it was done again
    for day in DAYS:
        assert set(first[day].event_timestamp) == {pd.Timestamp(day)}
        pd.testing.assert_frame_equal(first[day], second[day])
    assert not first[DAYS[0]].score.equals(first[DAYS[1]].score)


def test_a_task_that_meets_a_build_waits_for_its_end(there):
    there.command("dags", "unpause", "features")
    with stages.building(there.out, "a build by hand"):
        run = there.begin("features", "behind-a-build")
        wait_for(lambda: there.tasks(run)["world"][0] == "running", 60)
        time.sleep(5)
        assert there.tasks(run)["world"] == ("running", 1)

    assert ended(run) == "success"
    assert {tries for _, tries in there.tasks(run).values()} == {1}


def test_the_retraining_service_orders_its_trainings_of_airflow_and_finds_them_again_after_a_kill(there):
    project.Paths(there.out).build.write_text("{}")  # the services of the course want a whole build
    assert [each for each in stack.up(there.platform, ("retraining",)) if not each.look] == []
    code, output = there.call("retrain", "to see who does it")
    assert code == 0, output
    [order] = wait_for(lambda: [run for run in there.api.ask("GET", "dags/training/dagRuns")["dag_runs"] if run["conf"]])
    service = next(state.pid for state in supervision.states(there.out) if state.name == "retraining")
    os.kill(service, signal.SIGKILL)

    story = wait_for(lambda: [case for case in cases.read_cases(there.out) if case.state == "closed"], 120)[0].steps

    assert order["conf"] == {"case": "0001-1", "training": {"test_days": 7, "validation_days": 1, "train_days": 5}}
    assert [step.get("run") for step in story if step["what"] == "training"] == [order["dag_run_id"]]
    assert [step["what"] for step in story].count("decided") == 1
    assert trainer.read_outcome(there.out / "retraining/trainings/0001-1.json")["decision"] in ("refused", "promoted")
    code, output = there.call("stage", "training", "--order", json.dumps(order["conf"]))
    assert code == 0 and "case 0001-1: " in output  # once


@pytest.mark.parametrize("order", ["{", "[]", '{"case": "../1"}', '{"case": "0001-1", "days": 3}'])
def test_an_order_that_cannot_be_meant_is_refused(there, order):
    code, output = there.call("stage", "training", "--order", order)

    assert code == 1 and "the order of a training" in output and "Traceback" not in output


def test_airflows_command_is_the_platforms(there):
    done = subprocess.run(
        [programs.locate("airflow"), "version"], env={**os.environ, **airflow.variables()}, capture_output=True, text=True
    )

    assert done.stdout.strip() == programs.version_of("airflow")
    assert "training" in there.command("pools", "list")


READS = """
import json, sys
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
settings, pod = json.loads(sys.argv[1]), PodGenerator.deserialize_model_file(sys.argv[2])
known = {section: about["options"] for section, about in conf.configuration_description.items()}
executor, _ = ExecutorLoader.import_default_executor_cls()
print(json.dumps({
    "executor": executor.__name__,
    "unknown": [name for section, names in settings.items() for name in names if name not in known[section]],
    "read": {section: {name: conf.get(section, name) for name in names} for section, names in settings.items()},
    "pod": [container.name for container in pod.spec.containers],
}))
"""


@pytest.mark.parametrize("executor", executors.EXECUTORS)
def test_airflow_itself_reads_what_differs_for_another_executor(executor, tmp_path):
    places = {"queue": "redis://queue:6378/1", "database": "postgresql://database/airflow", "namespace": "mlops", "claim": "out"}
    places |= {"repository": "images/course", "tag": "7", "folder": str(tmp_path)}
    pod = tmp_path / "pod.yaml"
    pod.write_text(executors.pod(places), encoding="utf-8")
    settings = executors.settings_of(executor, places)

    python = project.root() / "out/programs/airflow/bin/python"
    variables = {**os.environ, "AIRFLOW_HOME": str(tmp_path), **executors.variables_of(settings)}
    done = subprocess.run([python, "-c", READS, json.dumps(settings), pod], env=variables, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == {"executor": f"{executor.capitalize()}Executor", "unknown": [], "read": settings, "pod": ["base"]}
