"""A real build on the platform is the build in files; then all services are up together, and each of them is asked."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import checkouts
import httpx
import pandas as pd
import psutil
import pytest
import yaml
from company import CLOCK, UNKNOWN
from online import wait_for
from rides import CONTRACT, RIDES
from test_registry_server import story
from workshop import Workshop

from mlops_course import features, passwords, programs, remote, stack, supervision, web

PROGRAMS = ("redis-server", "postgres", "prometheus", "prometheus-alertmanager", "prometheus-node-exporter", "kafka", "airflow")
pytestmark = [
    pytest.mark.skipif(not all(map(programs.locate, PROGRAMS)), reason="programs of the platform are not here: platform/get.sh"),
    pytest.mark.patient,
]
FILE = "env.there.yaml"


class There(NamedTuple):
    "A copy of the project with a build on the platform."

    workshop: Workshop
    platform: stack.Local

    def call(self, *words: str) -> tuple[int, str]:
        return self.workshop.call("mlops-course", *words, "--env", FILE)

    @property
    def out(self) -> Path:
        return self.platform.folder

    @property
    def drivers(self) -> list[int]:
        return sorted(pd.read_parquet(self.out / "data/statistics.parquet")[CONTRACT.entity].unique().tolist())

    def client(self, name: str, **more) -> httpx.Client:
        "For a service."
        return httpx.Client(base_url=self.platform.listed[name].address, trust_env=False, timeout=30, **more)


@pytest.fixture(scope="module")
def there(workshop) -> Iterator[There]:
    folder = workshop.folder
    small = yaml.safe_load((folder / "env.test.yaml").read_text(encoding="utf-8"))
    small.pop("features")  # of the platform they are on servers
    checkouts.platform_on_free_ports(folder, FILE, **{**small, "out": "out/there"})
    checkouts.with_programs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(folder))
        made = There(workshop, stack.Local(FILE))
        try:
            assert [each for each in stack.up(made.platform, ("redis", "mlflow")) if not each.look] == []
            code, output = made.call("run")
            assert code == 0, output
            yield made
        finally:
            stack.down(made.platform, stack.names_of("all"))
    assert checkouts.marked(folder) == []
    assert {name for name, service in made.platform.listed.items() if service.port and supervision.taken(service.port)} == set()


# --- the same build ------------------------------------------------------------------------------------


def test_a_build_on_the_platform_has_the_champion_the_scores_and_the_online_answers_of_one_in_files(there, built):
    decisions = [json.loads((out / "training/decision.json").read_text(encoding="utf-8")) for out in (built, there.out)]
    for each in decisions:
        each.pop("found")
    assert len({each["model"].pop("run_id") for each in decisions}) == 2
    assert decisions[0] == decisions[1]
    scores = [pd.read_parquet(out / "batch/scores.parquet").drop(columns="run_id") for out in (built, there.out)]
    pd.testing.assert_frame_equal(*scores, check_exact=True)
    stores = [features.open_store(out / "features") for out in (built, there.out)]
    newest = [features.newest(store, [*there.drivers, UNKNOWN], CONTRACT, CLOCK) for store in stores]
    assert newest[0] == newest[1]
    assert [path.name for path in (there.out / "features").iterdir()] == ["feature_store.yaml"]
    assert not (there.out / "mlflow/mlflow.db").exists() and not (there.out / "mlflow/artifacts").exists()
    # other passwords are other servers, and these are empty
    read = json.loads((there.out / "made/features.json").read_text(encoding="utf-8"))["read"]
    assert {"platform/redis/run_env/password", "platform/postgres/run_env/pgpass"} <= set(read)


def test_the_commands_ask_the_server(there):
    run = json.loads((there.out / "training/decision.json").read_text(encoding="utf-8"))["model"]["run_id"]

    printed = {words: there.call(*words.split()) for words in ["run", "status", "trace champion", f"reproduce {run}", "ui", "rollback"]}

    assert [code for code, _ in printed.values()] == [0, 0, 0, 0, 0, 1]
    assert "stage" not in printed["run"][1] and f"{RIDES.name} version 1" in printed["status"][1]
    assert run in printed["trace champion"][1] and "the same model" in printed[f"reproduce {run}"][1]
    assert f"MLflow on {there.platform.listed['mlflow'].address}/#/experiments/" in printed["ui"][1]
    assert printed["rollback"][1].endswith("version 1 was the first champion: there is nothing to go back to\n")


def test_on_postgresql_it_is_the_same_registry(there, tmp_path):
    on_server = remote.point(tmp_path / "server/mlflow", there.platform.listed["mlflow"].address)

    assert story(on_server, "page") == story(tmp_path / "files/mlflow", "page")


def test_without_its_server_an_environment_can_be_looked_at(there):
    stack.down(there.platform, ("mlflow",))  # `all_up` starts it again
    code, printed = there.call("status")
    traced = there.call("trace", "champion")

    assert code == 0 and f"Champion   not known: MLflow on {there.platform.listed['mlflow'].address} does not answer" in printed
    assert traced[0] == 1 and "does not answer" in traced[1] and "Traceback" not in traced[1]


# --- all of it together --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_up(there) -> There:
    outcomes = {each.name: each for each in stack.up(there.platform, stack.names_of("all"))}
    assert {name: each.fault or each.left_out for name, each in outcomes.items() if not each.look} == {}
    return there


def test_serving_answers_from_redis_and_monitoring_has_read_each_answer_and_counts_its_label(all_up):
    drivers = all_up.drivers[:20]
    with all_up.client("serving") as serving, all_up.client("monitoring") as monitoring:
        answers = [serving.post("/inference", json={"request_id": f"ride {n}", "driver_ids": drivers}).json() for n in range(20)]
        labels = [
            {"request_id": each["request_id"], CONTRACT.entity: each["prediction"], CONTRACT.label: n % 2} for n, each in enumerate(answers)
        ]
        answer = monitoring.post("/labels", json=labels)

        def counted(name: str) -> int:
            return int(float(dict(re.findall(r"^(\S+) (\S+)$", monitoring.get("/metrics").text, re.M)).get(name, 0)))

        assert answer.status_code == 200 and sum(answer.json().values()) == 20
        wait_for(lambda: counted('monitoring_predictions_total{version="1"}') == 20, 120)
        wait_for(lambda: counted('monitoring_labels_total{outcome="joined"}') == 20, 120)

    assert {(each["version"], each["degraded"], each["error"]) for each in answers} == {("1", False, None)}
    assert {one["features"] for each in answers for one in each["candidates"]} <= {"fresh", "partial"}


def test_retraining_shows_its_cases_to_who_has_the_key_of_this_platform(all_up):
    key = web.keep_key(all_up.out, lasting=True).read_text(encoding="utf-8")
    with all_up.client("retraining") as retraining:
        assert retraining.get("/cases").status_code == 401
        assert retraining.get("/cases", headers={"X-API-Key": key}).json() == []


def test_prometheus_reads_all_that_have_numbers_and_knows_its_alertmanager(all_up):
    with all_up.client("prometheus") as prometheus:

        def up() -> dict[str, str]:
            targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
            return {each["labels"]["job"]: each["health"] for each in targets}

        wait_for(lambda: up() == dict.fromkeys(("serving", "monitoring", "retraining", "node_exporter"), "up"), 120)
        managers = prometheus.get("/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]

    assert [each["url"] for each in managers] == [f"{all_up.platform.listed['alertmanager'].address}/api/v2/alerts"]


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("mlflow", "/", 200),
        ("feast_ui", "/", 200),
        ("alertmanager", "/api/v2/status", 200),
        ("jupyterlab", "/api", 200),
        ("jupyterlab", "/api/contents", 403),  # nobody runs code without the password
    ],
)
def test_a_page_for_people_answers(all_up, name, path, status):
    with all_up.client(name) as client:
        assert client.get(path, follow_redirects=True).status_code == status


def test_status_says_of_each_service_that_it_is_healthy(all_up):
    code, printed = all_up.call("platform", "all", "status")

    assert code == 0 and len(re.findall(r"^\w+ +healthy +\S", printed, re.M)) == len(stack.names_of("all"))


def test_each_listens_on_loopback_alone_and_says_no_password(all_up):
    own = [psutil.Process(state.pid) for state in supervision.states(all_up.out)]
    family = [process for first in own for process in (first, *first.children(recursive=True))]
    connections = [each for process in family for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in connections} == {"127.0.0.1"}

    texts = {path.name: path.read_text(errors="replace") for path in (all_up.out / "services").glob("*.log")}
    secrets = {passwords.password(passwords.run_env(name)) for name in ("postgres", "redis", "jupyterlab")}
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if any(secret in command for secret in secrets)]


def test_a_second_up_of_all_changes_nothing(all_up):
    before = {state.name: state.pid for state in supervision.states(all_up.out)}

    assert all(each.look for each in stack.up(all_up.platform, stack.names_of("all")))

    assert {state.name: state.pid for state in supervision.states(all_up.out)} == before
