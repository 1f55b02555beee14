"""A gauge rises; the real Prometheus and the real Alertmanager call the real retraining service, and its end is an alert again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import company
import httpx
import psutil
import pytest
import yaml
from browser import free_port
from online import wait_for
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from mlops_course import alertmanager, project, prometheus, retraining, services, supervision

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not here: apt-get install prometheus"),
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None and shutil.which("alertmanager") is None,
        reason="alertmanager is not here: apt-get install prometheus-alertmanager",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
]
PLATFORM = project.root() / "platform"
KEY = "a key of the test"
SERVE = """
import sys
from pathlib import Path
from mlops_course import contracts, receiver, retraining
settings = retraining.RetrainingSettings(port=int(sys.argv[2]), fresh_days=0, cooldown_hours=0)
receiver.serve(Path(sys.argv[1]), settings, contracts.read_project("projects/ride_hailing.yaml"), "company")
"""


class World:
    "All that stands between a number and a retraining; the company has no data, so that a training fails within seconds."

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.gauges = CollectorRegistry()
        self.drift = Gauge("monitoring_drift_detected", "as monitoring says it", ["kind", "version", "role"], registry=self.gauges)
        self.key = folder / "key"
        self.key.write_text(KEY)
        self.client = httpx.Client(
            trust_env=False, base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        )

    def start(self) -> None:
        port = free_port()
        self.exporter, _ = start_http_server(port, addr="127.0.0.1", registry=self.gauges)
        self.retraining()
        manager = free_port()
        receiver = f"http://127.0.0.1:{self.port}/alerts"
        supervision.start(self.folder, alertmanager.prepare(self.folder / "services", PLATFORM, receiver, manager, self.key))
        targets = {"monitoring": f"127.0.0.1:{port}", "retraining": f"127.0.0.1:{self.port}"}
        listening, place = free_port(), f"127.0.0.1:{manager}"
        command = prometheus.prepare(
            self.folder / "services", PLATFORM, targets, listening, every="1s", alertmanager=place, key_file=self.key
        )
        service = services.SERVICES["prometheus"].model_copy(update={"command": command, "port": listening})
        self.prometheus = httpx.Client(trust_env=False, base_url=supervision.start(self.folder, service), timeout=30)

    def retraining(self) -> None:
        variables = {"PLOOMBER_ENV_FILENAME": str(self.folder / "env.yaml"), "MLOPS_COURSE_API_KEY": KEY}
        command = (sys.executable, "-c", SERVE, str(self.folder), str(self.port))
        service = services.Service(name="retraining", command=command, port=self.port, health="/ready", variables=variables, seconds=120)
        supervision.start(self.folder, service)

    def measure(self, version: str, kind: str, value: float) -> None:
        self.drift.labels(kind, version, "champion").set(value)

    def cases(self) -> list[dict]:
        return self.client.get("/cases").json()

    def ringing(self) -> set[str]:
        "The alerts that Prometheus fires."
        query = {"query": 'ALERTS{alertstate="firing"}'}
        return {one["metric"]["alertname"] for one in self.prometheus.get("/api/v1/query", params=query).json()["data"]["result"]}

    def stop(self) -> None:
        supervision.stop(self.folder)
        self.exporter.shutdown()


@pytest.fixture(scope="module")
def world(template, tmp_path_factory):
    made = World(company.copy(template, tmp_path_factory.mktemp("world") / "company"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def whats(case: dict) -> list[str]:
    return [step["what"] for step in case["steps"]]


def test_amtool_accepts_the_configuration_as_it_stands_and_as_it_is_filled_in(world):
    for file in (PLATFORM / "alertmanager/alertmanager.yml", world.folder / "services/alertmanager/alertmanager.yml"):
        completed = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True)
        assert completed.returncode == 0, completed.stdout + completed.stderr


def test_drift_is_a_case_and_a_training_that_fails_is_an_alert_that_starts_nothing(world):
    world.measure("1", "quality", 1)
    world.measure("2", "performance", 1)  # not the champion
    world.measure("1", "performance", 1)

    wait_for(world.cases, 20)
    wait_for(lambda: world.cases()[0]["state"] == "closed", 120)
    (case,) = world.cases()

    assert case["result"] == "failed" and whats(case)[0] == "alerted"
    assert case["steps"][-1]["reasons"][0].startswith("missing:")
    wait_for(lambda: "RetrainingFailed" in world.ringing(), 20)
    assert {"PerformanceDropped", "QualityBroken"} <= world.ringing()
    assert len(world.cases()) == 1


def test_that_the_drift_is_over_reaches_its_case(world):
    world.measure("1", "performance", 0)

    wait_for(lambda: "resolved" in whats(world.cases()[0]), 40)
    assert len(world.cases()) == 1


def test_a_killed_service_comes_back_and_goes_on_with_its_case(world):
    world.measure("1", "performance", 1)
    wait_for(lambda: len(world.cases()) == 2 and world.cases()[0]["state"] == "training", 40)
    training = psutil.Process(world.cases()[0]["steps"][-1]["process"])
    (pid,) = [state.pid for state in supervision.states(world.folder) if state.name == "retraining"]
    os.kill(pid, 9)

    training.wait(20)
    wait_for(lambda: _asked(world) and _asked(world)[0]["state"] == "closed", 180)
    (second, _) = world.cases()
    assert whats(second).count("training") == 2 and second["result"] == "failed"


def _asked(world) -> list[dict]:
    try:
        return world.cases()
    except httpx.TransportError:
        return []


def test_the_configuration_has_the_course_s_default_addresses():
    config = yaml.safe_load((PLATFORM / "alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    (hook,) = [one for receiver in config["receivers"] for one in receiver.get("webhook_configs", [])]

    assert hook["url"] == f"http://127.0.0.1:{retraining.RetrainingSettings().port}/alerts" and hook["send_resolved"]
