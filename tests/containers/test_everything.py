"""All services in containers: what watches them, a model that is worse than it was, an alert, a retraining. `make test-docker` runs it."""

import json
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import daemons
import httpx
import pytest
from online import wait_for
from rides import CONTRACT
from workshop import Workshop

from mlops_course import containers, passwords, stack, supervision, web

FILE = "env.there.yaml"
# what the alert waits for is shortened; what it stands on is not
SOON = {"monitoring": {"window_requests": 300, "min_labels": 100}, "retraining": {"fresh_days": 0, "cooldown_hours": 0}}


class There(NamedTuple):
    "The copy, its platform as this machine sees it, and how long each service took."

    workshop: Workshop
    platform: containers.Containers
    docker: daemons.Docker
    seconds: dict[str, float]

    def script(self, *words: str) -> str:
        code, output = self.workshop.call("/bin/bash", "platform/run.sh", *words, "--env", FILE, "--runtime", "docker")
        assert code == 0, output
        return output

    def client(self, name: str) -> httpx.Client:
        key = web.keep_key(self.platform.folder, lasting=True).read_text(encoding="utf-8")
        return httpx.Client(base_url=self.platform.listed[name].address, headers={"X-API-Key": key}, timeout=30, trust_env=False)

    def inside(self, service: str, *words: str) -> str:
        "What a command prints in the container of a service."
        return self.platform.compose("exec", "-T", service, *words)


@pytest.fixture(scope="module")
def there(workshop) -> Iterator[There]:
    with daemons.daemon() as docker, pytest.MonkeyPatch.context() as patch:
        daemons.in_containers(workshop, docker, FILE, **SOON)
        for name in ("DOCKER_HOST", "BASE"):
            if name in workshop.variables:
                patch.setenv(name, workshop.variables[name])
        patch.chdir(workshop.folder)
        made = There(workshop, containers.Containers(FILE), docker, {})
        try:
            made.script("build", "up")
            printed = made.script("all", "up")
            made.seconds.update({name: float(seconds) for name, seconds in re.findall(r"^  (\w+) +([\d.]+) s", printed, re.M)})
            assert "left out" not in printed, printed
            yield made
        finally:
            made.script("all", "down", "--volumes")
            ports = [service.port for service in made.platform.listed.values() if service.port]
            assert not any(map(supervision.taken, ports))


def test_all_services_are_healthy_for_this_machine_and_for_docker(there):
    printed = there.script("all", "status")

    assert len(re.findall(r"^\w+ +healthy +\S", printed, re.M)) == len(stack.GROUPS["all"])

    def healths() -> dict[str, str]:
        shown = there.docker("ps", "--format", "{{.Names}} {{.Status}}").splitlines()
        ours = [line for line in shown if line.startswith(containers.project_name())]
        return {line.split()[0]: re.search(r"\((?:health: )?(\w+)\)", line)[1] for line in ours}

    wait_for(lambda: set(healths().values()) == {"healthy"} and len(healths()) == len(stack.GROUPS["all"]), 180)


def test_a_second_up_changes_no_container(there):
    before = {state.name: state.pid for state in there.platform.states()}
    there.script("all", "up")

    assert {state.name: state.pid for state in there.platform.states()} == before


def test_prometheus_reads_all_that_have_numbers_and_each_dashboard_has_data(there):
    with there.client("prometheus") as prometheus:

        def up() -> dict[str, str]:
            targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
            return {each["labels"]["job"]: each["health"] for each in targets}

        wait_for(lambda: up() == dict.fromkeys(("serving", "monitoring", "retraining", "node_exporter"), "up"), 60)
        managers = prometheus.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]

    port = there.platform.listed["alertmanager"].port
    assert [each["url"] for each in managers] == [f"http://alertmanager:{port}/api/v2/alerts"]


def test_airflow_runs_the_stages_in_its_container(there):
    there.inside("airflow", "airflow", "dags", "unpause", "features")
    there.inside("airflow", "airflow", "dags", "trigger", "features", "--run-id", "by-hand")

    def state() -> str:
        runs = there.inside("airflow", "airflow", "dags", "list-runs", "features", "--output", "json")  # it warns before
        return json.loads(re.search(r"^\[\{.*", runs, re.M)[0])[0]["state"]

    wait_for(lambda: state() in ("success", "failed"), 300)
    assert state() == "success"


def test_a_model_that_is_worse_than_it_was_rings_and_is_retrained(there):
    code = f"import pandas; print(*pandas.read_parquet('out/there/data/statistics.parquet').{CONTRACT.entity}.unique())"
    drivers = [int(number) for number in there.inside("serving", "python", "-c", code).split()]
    with there.client("serving") as serving, there.client("monitoring") as monitoring, there.client("retraining") as retraining:
        assert retraining.get("/cases").json() == []
        began = time.monotonic()
        answers = []
        for number in range(900):
            some = [drivers[(number * 7 + each) % len(drivers)] for each in range(10)]
            answers.append(serving.post("/inference", json={"request_id": f"ride {number}", "driver_ids": some}).json())
        labels = [{"request_id": each["request_id"], CONTRACT.entity: each["prediction"], CONTRACT.label: 0} for each in answers]
        assert monitoring.post("/labels", json=labels).status_code == 200

        [case] = wait_for(lambda: retraining.get("/cases").json(), 120)
        rang = time.monotonic() - began
        wait_for(lambda: retraining.get("/cases").json()[0]["state"] == "closed", 400)
        [case] = retraining.get("/cases").json()

    print(f"\nthe alert rang after {rang:.0f} s, the case was closed after {time.monotonic() - began:.0f} s: {case}")
    print(f"seconds until each was healthy: {there.seconds}")
    assert [step["what"] for step in case["steps"]].count("training") == 1
    assert case["result"] in ("promoted", "refused")  # not that it failed, or that serving has not taken it over


def test_no_password_is_in_what_docker_shows_or_services_say(there):
    names = ("postgres", "redis", "jupyterlab", "airflow")
    secrets = {passwords.password(passwords.run_env(name)) for name in names}
    shown = there.docker("inspect", *there.docker("ps", "--quiet").split())
    printed = "".join((there.platform.log(name) or ("", ""))[1] for name in stack.GROUPS["all"])

    assert not any(secret in text for secret in secrets for text in (shown, printed))
