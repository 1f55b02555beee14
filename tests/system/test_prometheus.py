"""A real Prometheus reads the real online service and the notes of real stages; every query of rules and dashboards has an answer."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import company
import httpx
import pytest
import yaml
from browser import free_port
from company import KNOWN, UNKNOWN
from online import Online, wait_for
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from conftest import run_stages
from mlops_course import consumer, exposition, fallback, project, prometheus, releases, services, stages, supervision
from mlops_course.plans import Counts, Plan
from mlops_course.routes import Route, Routes, write_routes

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not here: apt-get install prometheus"),
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
]
PLATFORM = project.root() / "platform"
KEY = "a key of the test"
A_DAY_AGO = {"pipeline.yml StageRowsDropped"}  # compares with yesterday, of which this Prometheus knows nothing


def rules() -> list[tuple[str, str]]:
    "Where it stands, and what it computes: of an alert without the limit that it is compared with."
    rules_there = []
    for path in sorted((PLATFORM / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                rules_there.append((f"{path.name} {rule.get('alert') or rule['record']}", re.sub(r" (>|<|==) [\d.]+$", "", rule["expr"])))
    return rules_there


def panels() -> list[tuple[str, str]]:
    "Where it stands, and the query, of each panel of each dashboard."
    dashboards = {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((PLATFORM / "grafana/dashboards").glob("*.json"))
    }
    return [
        (f"{name} {p['title']}", target["expr"])
        for name, dashboard in dashboards.items()
        for p in dashboard["panels"]
        for target in p["targets"]
    ]


class Prometheus:
    def __init__(self, address: str):
        self.client = httpx.Client(trust_env=False, base_url=address, timeout=30)

    def ask(self, query: str) -> dict[tuple, float]:
        "The series that a query gives: labels (but for where they were read) and value; without those that are no number."
        answer = self.client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        series = {}
        for one in answer["data"]["result"]:
            labels = tuple(sorted((k, v) for k, v in one["metric"].items() if k not in ("__name__", "job", "instance")))
            value = float(one["value"][1])
            if value == value:
                series[labels] = value
        return series

    def value(self, query: str) -> float:
        (value,) = self.ask(query).values()
        return value


EXPERIMENT = {"name": "march", "arms": {"control": {"share": 0.8}, "bandit": {"share": 0.2, "policy": "thompson"}}}

VALUES = {
    "kind": ["features", "predictions", "performance", "quality"],
    "role": ["champion", "challenger"],
    "result": ["failed", "refused", "not taken over"],
}


def promised(folder: Path):
    "What monitoring and retraining promise to export, each metric once, as their pages say it; and the pipeline's metrics beside it."
    registry = exposition.pipeline_metrics(folder)
    for lesson in ("920_health", "977_receiver"):
        notebook = (project.root() / f"notebooks/{lesson}.ipynb").read_text(encoding="utf-8")
        for names, labels in re.findall(r"\| (`(?:monitoring|retraining)_[^|]*)\|([^|]*)\|", notebook):
            kinds = [label.strip() for label in labels.split(",") if label.strip()]
            for name in re.findall(r"(?:monitoring|retraining)_\w+", names):
                made = (Counter if name.endswith("_total") else Gauge)(name, "as promised", kinds, registry=registry)
                for values in itertools.product(*(VALUES.get(kind, ["1"]) for kind in kinds)):
                    (made.labels(*values) if kinds else made).inc(0.5)
    registry.register(Streaming(registry))
    registry.register(releases.ReleaseMetrics(released(folder)))
    registry.register(fallback.FallbackMetrics(fallen_back(folder)))
    return registry


def released(folder: Path) -> Path:
    "Version 2 is a canary in its third step, some of whose labels are known, and serving has it as a shadow, too."
    with releases.alone(folder):
        release = releases.begin(folder, "2", "1", Plan())
        release.state, release.step = "canary", 2
        release.seen = {"challenger": Counts(100, 1, 2, 3), "champion": Counts(300, 0, 1, 2)}
        release.verdict = {"estimate": 0.01, "low": -0.02, "high": 0.04}
        releases.save(folder, release)
    others = [Route(role="challenger", version="2", share=0.25), Route(role="shadow", version="2")]
    write_routes(project.Paths(folder).routes, Routes(name="r1", salt="r1", others=others))
    return folder


def fallen_back(folder: Path) -> Path:
    "The logged policy answers for version 1."
    record = fallback.Fallback(number=1, case=1, champion="1", settings=fallback.FallbackSettings(), state="fallen back")
    record.verdict = {"estimate": -0.05, "low": -0.08, "high": -0.02}
    record.note("trial", champion="1")
    fallback.save(folder, record)
    return folder


class Streaming:
    "A consumer of events as Prometheus sees it: each time that it looks, one more has come."

    def __init__(self, registry):
        self.metrics = consumer.StreamMetrics(registry)
        self.metrics.lag[0] = 3

    def collect(self):
        self.metrics.freshness.observe(0.2)
        return []


@pytest.fixture(scope="module")
def world(template, tmp_path_factory):
    "The service with a key, a stage that ended well and one that failed, and Prometheus, which reads each second."
    folder = company.copy(template, tmp_path_factory.mktemp("world") / "company")
    run_stages(folder, "world", world={"drivers": 20, "days": 30, "bookings_per_day": 20})
    config = yaml.safe_load((folder / "env.yaml").read_text(encoding="utf-8"))
    (folder / "env.yaml").write_text(yaml.safe_dump({**config, "serving": {"experiment": EXPERIMENT}}), encoding="utf-8")
    port = free_port()
    server, _ = start_http_server(port, addr="127.0.0.1", registry=promised(folder))
    online = Online(folder, key=KEY, cache_seconds=0)
    key = folder / "key"
    key.write_text(KEY)
    targets = {"serving": f"127.0.0.1:{online.port}", "monitoring": f"127.0.0.1:{port}"}
    listening = free_port()
    command = prometheus.prepare(folder / "services", PLATFORM, targets, listening, every="1s", key_file=key)
    service = services.SERVICES["prometheus"].model_copy(update={"command": command, "port": listening})
    try:
        wait_for(online.ready, 120)
        yield folder, online, Prometheus(supervision.start(folder, service))
    finally:
        supervision.stop(folder)
        online.kill()
        server.shutdown()


@pytest.fixture(scope="module")
def asked(world):
    "Prometheus after some seconds of requests, good ones and others, and while they go on."
    _, online, prometheus = world
    with online.load([*KNOWN[:5], UNKNOWN], threads=1):
        online.client.post("/inference", json={"request_id": "nonsense"})
        twice_read = ("serving:slow:share5m", "serving:degraded:share5m", "increase(monitoring_refused_total[5m])")
        twice_read += ("serving:dropped:share5m", "rate(serving_arm_total[5m])")
        wait_for(lambda: all(map(prometheus.ask, twice_read)), 60)
        yield prometheus


def test_prometheus_reads_all_that_it_is_told_to_read(asked):
    assert set(asked.ask("up").values()) == {1}
    assert asked.value("count(up)") == 2


@pytest.mark.parametrize(("where", "query"), rules() + panels())
def test_a_query_has_an_answer(asked, where, query):
    if where in A_DAY_AGO:
        query = query.replace(" offset 1d", "")

    assert asked.ask(query), f"{where}: nothing for {query}"


def test_no_alert_rings_but_for_what_is_wrong(asked):
    ringing = {
        dict(labels)["alertname"]
        for labels in asked.ask('ALERTS{alertname!~"Drift.*|FallenBack|Performance.*|Quality.*|Reference.*|Retraining.*"}')
    }

    assert not ringing, "nothing is wrong with the service or the stages"


def test_the_numbers_are_those_of_the_service(world, asked):
    _, online, prometheus = world

    answered = wait_for(lambda: prometheus.ask('serving_requests_total{path="/inference",status="200"}'))
    assert 0 < max(answered.values()) <= online.meter('serving_requests_total{path="/inference",status="200"}')
    assert prometheus.value('serving_requests_total{path="/inference",status="422"}') == 1
    assert 0.1 < prometheus.value("serving:unknown:share5m") < 0.25, "one of six candidates is unknown"
    assert prometheus.value("serving:errors:share5m") == 0


def test_what_a_stage_has_made_and_a_stage_that_fails_are_seen(world, asked, monkeypatch):
    folder, _, prometheus = world
    rows = prometheus.ask('pipeline_stage_rows{stage="world",table="bookings"}')
    assert list(rows.values()) == [600]
    assert prometheus.value('time() - pipeline_stage_last_success_timestamp_seconds{stage="world"}') < 600

    monkeypatch.setenv("MLOPS_COURSE_LAB", str(folder))
    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    wait_for(lambda: prometheus.ask('ALERTS{alertname="StageFailed",alertstate="firing",stage="world"}'), 20)


def test_a_service_that_dies_is_down_within_seconds(world, asked):
    _, online, prometheus = world
    online.process.kill()

    wait_for(lambda: prometheus.value('up{job="serving"}') == 0, 10)
    wait_for(lambda: prometheus.ask('ALERTS{alertname="ServiceDown",alertstate="pending"}'), 10)


def test_promtool_accepts_configuration_and_rules():
    for words in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint-fatal", *map(str, (PLATFORM / "prometheus/rules").glob("*.yml"))],
    ):
        completed = subprocess.run(["promtool", *words], cwd=PLATFORM / "prometheus", capture_output=True, text=True)
        assert completed.returncode == 0, completed.stdout + completed.stderr


def test_each_alert_rings_when_it_must_and_not_before():
    tests = sorted(map(str, (PLATFORM / "prometheus/tests").glob("*.yml")))
    completed = subprocess.run(["promtool", "test", "rules", *tests], capture_output=True, text=True)

    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_a_registry_of_the_pipeline_can_stand_beside_metrics_of_a_service(tmp_path):
    both = CollectorRegistry()
    Gauge("serving_something", "of a service", registry=both)
    both.register(exposition.pipeline_metrics(tmp_path))

    assert {family.name for family in both.collect()} >= {"serving_something", "pipeline_stage_rows"}
