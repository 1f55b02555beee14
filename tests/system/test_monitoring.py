"""The monitoring service as a process beside the online one: nothing is lost, nothing counts twice, and nobody waits for it."""

import json
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import company
import httpx
import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, free_port, page
from company import KNOWN
from online import COMMAND, Online, wait_for
from rides import CONTRACT, RIDES

from mlops_course import drift, project, references
from mlops_course.monitoring import MonitoringSettings

SETTINGS = {"window_requests": 100, "min_labels": 10, "refresh_seconds": 0.1}
SEED = {
    "driver_id": {"3": 1004},
    "conv_rate": {"3": 0.2},
    "acc_rate": {"3": 0.9},
    "avg_daily_trips": {"3": 120},
    "prediction": {"3": 0.7},
    "request_id": {"3": "uuid-1"},
    "best_driver_id": {"3": 1004},
}


class Watch:
    "A monitoring service that runs, or that has just been killed."

    def __init__(self, folder: Path, key: str | None = None, **settings):
        self.folder, self.port, self.settings = folder, free_port(), {**SETTINGS, **settings}
        self.pushed = 0  # predictions that stand in no log of serving
        self.variables = {**os.environ, **({"MLOPS_COURSE_API_KEY": key} if key else {})}
        self.client = httpx.Client(
            trust_env=False, base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": key} if key else {}, timeout=10
        )
        self.start()

    def start(self) -> None:
        settings = [f"--set={name}={value}" for name, value in self.settings.items()]
        words = [COMMAND, "monitor", "--env", str(self.folder / "env.yaml"), "--port", str(self.port), *settings]
        with open(self.folder / "monitoring.log", "ab") as out:
            self.process = subprocess.Popen(words, cwd=project.root(), env=self.variables, stdout=out, stderr=out, start_new_session=True)

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "monitoring.log").read_text(encoding="utf-8")[-3000:]
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def meter(self, name: str) -> float:
        "A line of /metrics; 0 if it is not there (yet), or nobody answers."
        try:
            match = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.M)
        except httpx.TransportError:
            return 0.0
        return float(match[1]) if match else 0.0

    def predictions(self, version: str = "1") -> int:
        return int(self.meter(f'monitoring_predictions_total{{version="{version}"}}'))

    def labels(self, outcome: str) -> int:
        return int(self.meter(f'monitoring_labels_total{{outcome="{outcome}"}}'))

    def tell(self, *labels: tuple[str, int, int]) -> dict[str, int]:
        "Send labels. What came of each."
        body = [{"request_id": request, "driver_id": driver, "trip_completed": ended} for request, driver, ended in labels]
        answer = self.client.post("/labels", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


def usual() -> pd.DataFrame:
    "Sixteen days of candidates with the features that the company's store has."
    rng, begin = np.random.default_rng(3), company.CLOCK - pd.Timedelta(days=16)
    hours = pd.date_range(begin, company.CLOCK, freq="30min", inclusive="left", unit="us")
    rows = pd.DataFrame({CONTRACT.booking: np.repeat([f"u{n}" for n in range(len(hours))], 5), CONTRACT.time: hours.repeat(5)})
    rows[CONTRACT.entity] = np.concatenate([rng.choice(KNOWN, 5, replace=False) for _ in hours])
    rows = rows.merge(company.statistics()[[CONTRACT.entity, *CONTRACT.features]], on=CONTRACT.entity)
    score = rows[company.NAMES[0]].clip(0.05, 0.95)
    return rows.assign(score=score, **{CONTRACT.propensity: np.nan, CONTRACT.label: np.nan}).sort_values([CONTRACT.time, CONTRACT.booking])


@pytest.fixture(scope="module")
def both(template, tmp_path_factory):
    "A serving and a monitoring service on one company, whose champion has a reference for drift."
    folder = company.copy(template, tmp_path_factory.mktemp("both") / "company")
    settings = MonitoringSettings(**SETTINGS)
    made = drift.reference_of(usual(), settings, pd.Timestamp(company.CLOCK), CONTRACT)
    references.keep_reference(folder, "1", made, settings, RIDES)
    online, watch = Online(folder), Watch(folder)
    try:
        wait_for(online.ready, 120)
        wait_for(watch.ready, 120)
        yield online, watch
    finally:
        for each in (online, watch):
            each.kill()


def answered(online: Online, name: str) -> tuple[str, int, int]:
    "A request that was answered, and a label of the driver who was chosen."
    return name, online.ask(KNOWN[:5], name)["prediction"], len(name) % 2


def test_labels_find_their_predictions_late_doubled_early_or_never(both):
    online, watch = both
    answers = [answered(online, f"trip {n}") for n in range(20)]
    early = ("early", *answered(online, "as early")[1:])  # the same candidates, so the same driver

    assert watch.tell(early) == {"early": 1}
    answered(online, "early")
    wait_for(lambda: watch.predictions() == 22)
    assert watch.labels("joined") == 1, "the one that had waited"
    assert watch.tell(*answers[:10][::-1]) == {"joined": 10}
    assert watch.tell(answers[3], (*answers[3][:2], 1 - answers[3][2]), answers[11]) == {"duplicate": 1, "conflict": 1, "joined": 1}
    assert watch.tell((answers[12][0], 9999, 1)) == {"unknown": 1}

    wait_for(lambda: watch.meter('monitoring_window_labels{arm="",role="champion",version="1"}') == 12)
    assert watch.meter('monitoring_unlabelled_share{arm="",role="champion",version="1"}') == pytest.approx(10 / 22)
    assert [watch.labels(outcome) for outcome in ("joined", "early", "duplicate", "conflict", "unknown")] == [12, 1, 1, 1, 1]


def test_the_seed_courses_message_gets_its_ok(both):
    _, watch = both
    before = watch.predictions()
    answers = [watch.client.post("/iterate", json=SEED) for _ in range(2)]

    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "ok")] * 2
    wait_for(lambda: watch.predictions() == before + 1)
    watch.pushed += 1


def test_times_of_the_future_are_refused_and_told_and_move_nothing(both):
    online, watch = both
    answered(online, "before the future")
    wait_for(lambda: "before the future" in online.logged())
    wait_for(lambda: watch.predictions() == len(online.logged()) + watch.pushed)
    before, late = watch.predictions(), "2099-01-01T00:00:00+00:00"
    [file, *_] = (online.folder / "serving/predictions").glob("*.jsonl")
    line = json.loads(file.read_bytes().splitlines()[0])
    future = [{**line, "request_id": f"future {n}", "time": late} for n in range(30)]
    label = {"request_id": "trip 15", "driver_id": 1001, "trip_completed": 1, "event_timestamp": late}

    assert watch.client.post("/predictions", json=future).json() == {"new": 0, "refused_future": 30}
    assert watch.client.post("/labels", json=[label]).json() == {"refused_future": 1}
    trouble = "".join(watch.client.get("/ready").json()["trouble"])
    assert "30 predictions dated after now were refused" in trouble and "1 labels" in trouble
    wait_for(lambda: watch.meter('monitoring_refused_total{of="predictions",reason="future"}') == 30)

    watch.kill()
    watch.start()
    wait_for(watch.ready)
    assert watch.predictions() == before
    assert watch.meter('monitoring_refused_total{of="predictions",reason="future"}') == 30
    assert watch.client.post("/predictions", json=future).json() == {"new": 0, "refused_future": 30}, "the clock has not moved either"
    refused = [text for text in (watch.folder / "logs/monitoring.jsonl").read_text().splitlines() if "times refused" in text]
    assert len(refused) == 2, "not a line for each"


def test_killed_twice_in_the_middle_it_has_each_prediction_and_each_label_once(both):
    online, watch = both
    before, joined = watch.predictions(), watch.labels("joined")
    sent, over = [], threading.Event()

    def label(given: list) -> None:
        "As a booking app does: sends what has ended, and sends it again if it hears nothing."
        while not over.is_set() or len(sent) < len(given):
            batch = [(name, answer.json()["prediction"], len(name) % 2) for name, answer, _ in given[len(sent) : len(sent) + 20]]
            try:
                if batch:
                    watch.tell(*batch)
                sent.extend(batch)
            except httpx.TransportError:
                time.sleep(0.05)
            time.sleep(0.02)

    with online.load(KNOWN[:5], threads=2) as given:
        sender = threading.Thread(target=label, args=[given])
        sender.start()
        for _ in range(2):
            enough = len(sent) + 200
            wait_for(lambda enough=enough: len(sent) > enough)
            watch.kill()
            watch.start()
            wait_for(watch.ready)
    over.set()
    sender.join(60)

    answers = {name for name, answer, _ in given if answer is not None and answer.status_code == 200}
    assert len(answers) == len(given) == len(sent)
    wait_for(lambda: watch.predictions() >= before + len(answers))
    wait_for(lambda: watch.labels("joined") >= joined + len(answers))
    assert (watch.predictions(), watch.labels("joined")) == (before + len(answers), joined + len(answers))
    assert watch.predictions() == len(online.logged()) + watch.pushed


def test_a_stopped_monitoring_keeps_nobody_waiting_and_catches_up(both):
    online, watch = both
    before = watch.predictions()
    watch.process.send_signal(signal.SIGSTOP)
    try:
        seconds = [online.send(KNOWN).elapsed.total_seconds() for _ in range(50)]
    finally:
        watch.process.send_signal(signal.SIGCONT)

    assert statistics.median(seconds) < 0.1
    wait_for(lambda: watch.predictions() == before + 50)


def test_half_a_line_of_a_killed_serving_costs_no_other(both):
    online, watch = both
    online.process.kill()
    online.process.wait(30)
    wait_for(lambda: watch.predictions() == len(online.logged()) + watch.pushed)
    [file] = (online.folder / "serving/predictions").glob("*.jsonl")
    with open(file, "ab") as opened:
        opened.write(b'{"time":"2026-03-16T00:00:0')
    again = Online(online.folder)
    try:
        wait_for(again.ready, 120)
        for n in range(5):
            again.ask(KNOWN, f"after the kill {n}")
        wait_for(lambda: "after the kill 4" in again.logged())

        wait_for(lambda: watch.predictions() == len(again.logged()) + watch.pushed)
        assert watch.predictions("unreadable") == 0
    finally:
        again.kill()


def test_the_report_is_linked_and_opens_and_while_it_is_made_the_service_answers(both, tmp_path):
    _, watch = both
    seconds = []

    def linked() -> str | None:
        seconds.append(watch.client.get("/metrics").elapsed.total_seconds())
        answer = watch.client.get("/report")
        return answer.json()["link"] if answer.status_code == 200 else None

    link = wait_for(linked)
    assert statistics.median(seconds) < 0.5
    assert "<html" in watch.client.get(link).text[:2_000].lower()
    if CHROMIUM:
        with page(tmp_path) as opened:
            opened.goto(f"{watch.client.base_url}{link}")
            opened.get_by_text(re.compile("Value Drift|Column|Drift", re.I)).first.wait_for(timeout=60_000)
            assert opened.outside == []


def test_beyond_loopback_a_key_is_asked_for(both):
    folder = both[1].folder
    words = [COMMAND, "monitor", "--env", str(folder / "env.yaml"), "--host", "0.0.0.0", "--port", str(free_port())]
    variables = {name: value for name, value in os.environ.items() if name != "MLOPS_COURSE_API_KEY"}
    refused = subprocess.run(words, cwd=project.root(), env=variables, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and "MLOPS_COURSE_API_KEY" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

    both[1].kill()  # a folder has one monitoring service
    watch = Watch(folder, key="open sesame", host="0.0.0.0")
    try:
        wait_for(watch.ready, 120)
        assert watch.client.get("/metrics").status_code == 200
        for path in ("/metrics", "/report"):
            assert httpx.get(f"{watch.client.base_url}{path}", trust_env=False).status_code == 401
    finally:
        watch.kill()
        both[1].start()
        wait_for(both[1].ready, 120)
    assert "open sesame" not in (folder / "monitoring.log").read_text() + (folder / "logs/monitoring.jsonl").read_text()
