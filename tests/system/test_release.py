"""A release with real processes: serving answers, monitoring joins, the retraining service decides, a person gives orders."""

import json
import os
import random
import subprocess
import threading
import time
from contextlib import contextmanager

import company
import httpx
import pytest
import yaml
from browser import free_port
from company import KNOWN
from online import COMMAND, Online, wait_for

from mlops_course import project, registry

PLAN = {
    "shadow_requests": 60,
    "label_hours": 0.0003,  # about a second: the clock of these services is the real one
    "steps": [{"share": 0.1, "least_trips": 100, "most_hours": 1}, {"share": 0.5, "most_trips": 20_000, "most_hours": 1}],
    "guardrails": {"latency_ms": 2_000},
}


class Services:
    "Serving, monitoring and retraining of a company, and riders who ask and tell how it ended."

    def __init__(self, folder, rates: dict[str, float]):
        self.folder, self.rates = folder, rates
        self.ports = {name: free_port() for name in ("monitor", "retrain-on-alert")}
        environment = yaml.safe_load((folder / "env.yaml").read_text(encoding="utf-8"))
        environment["retraining"] = {"release": PLAN}
        (folder / "env.yaml").write_text(yaml.safe_dump(environment), encoding="utf-8")
        self.online, self.processes = Online(folder), {}
        for name in self.ports:
            self.begin(name)
        self.answers, self.failed = [], []

    def begin(self, name: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            words = [COMMAND, name, "--env", str(self.folder / "env.yaml"), "--port", str(self.ports[name])]
            self.processes[name] = subprocess.Popen(words, cwd=project.root(), stdout=out, stderr=out, start_new_session=True)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(30)

    def end(self) -> None:
        for name in self.processes:
            self.kill(name)
        self.online.kill()

    def healthy(self, name: str) -> bool:
        assert self.processes[name].poll() is None, (self.folder / f"{name}.out").read_text(encoding="utf-8")[-2_000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def ready(self) -> bool:
        return self.online.ready() and all(map(self.healthy, self.processes))

    def order(self, *words: str) -> str:
        done = subprocess.run(
            [COMMAND, "release", *words, "--env", str(self.folder / "env.yaml")],
            cwd=project.root(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def release(self) -> dict:
        [file] = sorted((self.folder / "release").glob("[0-9]*/release.json"))[-1:]
        return json.loads(file.read_text(encoding="utf-8"))

    def champion(self) -> str:
        return registry.champion(self.folder / "mlflow", "driver-completion").version

    @contextmanager
    def riders(self, threads: int = 3):
        "They ask until the block ends, each a little over fifty times a second; labels go to monitoring."
        over = threading.Event()

        def ride(seed: int):
            draw, ends = random.Random(seed), []
            with httpx.Client(trust_env=False, timeout=30) as client:
                while not over.is_set():
                    request = f"{os.getpid()}-{seed}-{draw.random()}"
                    body = {"request_id": request, "driver_ids": KNOWN[:5]}
                    answer = client.post(f"http://127.0.0.1:{self.online.port}/inference", json=body)
                    if answer.status_code != 200:
                        self.failed.append(answer.text)
                        continue
                    value = answer.json()
                    self.answers.append(value)
                    label = int(draw.random() < self.rates[value["version"]])
                    ends.append({"request_id": request, "driver_id": value["prediction"], "trip_completed": label})
                    if len(ends) >= 20:
                        client.post(f"http://127.0.0.1:{self.ports['monitor']}/labels", json=ends).raise_for_status()
                        ends = []
                    time.sleep(0.01)

        riders = [threading.Thread(target=ride, args=[seed]) for seed in range(threads)]
        for rider in riders:
            rider.start()
        try:
            yield
        finally:
            over.set()
            for rider in riders:
                rider.join(60)


@pytest.fixture
def services(template, tmp_path):
    running = []

    def start(one: float, two: float) -> Services:
        running.append(Services(company.copy(template, tmp_path / "company"), {"1": one, "2": two}))
        wait_for(running[-1].ready, 120)
        return running[-1]

    yield start
    for each in running:
        each.end()


def whats(release: dict) -> list[str]:
    return [step["what"] for step in release["steps"]]


def test_a_better_challenger_becomes_champion_step_by_step_through_kills_and_no_request_fails(services):
    made = services(0.5, 0.8)
    with made.riders():
        assert "shadow" in made.order("start")
        for state in ("canary", "promoted"):
            wait_for(lambda state=state: made.release()["state"] == state, 120)
            if state == "canary":
                made.kill("retrain-on-alert")  # in the middle of a step
                made.begin("retrain-on-alert")
        wait_for(lambda: made.online.model()["version"] == "2")
        wait_for(lambda: made.online.model()["routes"]["others"] == [])

    assert made.failed == [] and made.champion() == "2"
    assert whats(made.release()) == ["begun", "canary", "canary", "promoted"]
    roles = {(answer["role"], answer["version"]) for answer in made.answers}
    assert roles == {("champion", "1"), ("challenger", "2"), ("champion", "2")}
    assert "promoted" in made.order("status")


def test_a_bad_twin_that_has_passed_the_gate_is_caught_by_outcomes_and_taken_back(services):
    made = services(0.7, 0.4)
    with made.riders():
        made.order("start")
        wait_for(lambda: made.release()["state"] == "rolled back", 180)
        wait_for(lambda: made.online.model()["routes"]["others"] == [])
        seen = len(made.answers)
        wait_for(lambda: len(made.answers) > seen + 100)

    assert made.failed == [] and made.champion() == "1"
    assert made.release()["steps"][-1]["cause"] == "outcomes"
    assert {answer["version"] for answer in made.answers[seen + 50 :]} == {"1"}


def test_one_command_takes_a_release_back_under_load_and_no_request_fails(services):
    made = services(0.5, 0.5)
    with made.riders():
        made.order("start")
        wait_for(lambda: any(answer["role"] == "challenger" for answer in made.answers), 60)
        made.order("pause", "--reason", "a strange hour")
        assert "paused" in made.order("status")
        made.order("abort", "--reason", "the riders complain")
        wait_for(lambda: made.online.model()["routes"]["others"] == [], 10)
        seen = len(made.answers)
        wait_for(lambda: len(made.answers) > seen + 100)

    assert made.failed == [] and made.champion() == "1"
    assert {answer["role"] for answer in made.answers[seen + 50 :]} == {"champion"}
    assert made.release()["steps"][-1]["reasons"] == ["the riders complain"]
