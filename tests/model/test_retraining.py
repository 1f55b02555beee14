"""An alert becomes one case, a case becomes a champion or a reason, and neither a kill nor a rollback makes a loop of it."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace

import company
import psutil
import pytest
import yaml
from fastapi.testclient import TestClient
from filelock import FileLock
from prometheus_client import CollectorRegistry, generate_latest
from rides import RIDES

from mlops_course import cases, project, receiver, registry, releases, retraining, rollout, services, telemetry, trainer
from mlops_course.files import write_json
from mlops_course.plans import Plan
from mlops_course.receiver import Retraining
from mlops_course.retraining import Alert, RetrainingSettings
from mlops_course.rollout import Rollout

START = datetime(2026, 3, 21, 4, tzinfo=UTC)
SETTINGS = RetrainingSettings(fresh_days=7, retry_days=3, attempts=3, cooldown_hours=24)
moments = count()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A registry with the champion 1 and the challenger 2. Copy it, do not write to it."
    folder = tmp_path_factory.mktemp("models")
    company.make_registry(folder)
    return folder


@pytest.fixture
def clock(monkeypatch):
    "The course's time, which stands until it is set."
    shown = SimpleNamespace(time=START)
    monkeypatch.setattr(project, "now", lambda: shown.time)
    return shown


class Played:
    "A training that does what the test says, beside `Training`."

    def __init__(self, folder, name, training):
        self.name, self.changes, self.run = name, training, "a run"
        self.outcome = trainer.trainings(folder) / f"{name}.json"
        self.process, self.pid = SimpleNamespace(returncode=None), 1

    def tells(self, decision, version=None, reasons=(), more=False):
        write_json(self.outcome, {"decision": decision, "version": version, "reasons": list(reasons), "more_days_may_help": more})

    def poll(self):
        return self.process.returncode

    def end(self):
        self.process.returncode = -9


class Service(Retraining):
    "The service with trainings that are played, and a serving that follows the champion if it is told to."

    def __init__(self, folder, settings=SETTINGS):
        self.played, self.follows = [], True
        super().__init__(folder, settings, RIDES.name, self.plays, lambda: self.champion() if self.follows else None)

    def plays(self, *given):
        self.played.append(Played(*given))
        return self.played[-1]

    def alert(self, status="firing", start=None, **labels) -> str:
        (answer,) = self.take([alert(status, start, **labels)])
        return answer

    def promote(self, version):
        registry.promote(registry.connect(self.folder / "mlflow", RIDES.name), version)

    def rollback(self):
        registry.rollback(registry.connect(self.folder / "mlflow", RIDES.name))

    def ends(self, decision, version=None, reasons=(), more=False):
        "The training that runs comes to this decision."
        if decision == "promoted":
            self.promote(version)
        self.played[-1].tells(decision, version, reasons, more)
        self.look()


def alert(status="firing", start=None, **labels) -> Alert:
    labels = {"alertname": "PerformanceDropped", "kind": "performance", "action": "retrain", "version": "1", **labels}
    start = start or START + timedelta(minutes=next(moments))
    return Alert(status=status, labels=labels, startsAt=start, fingerprint=project.digest_of(labels)[:16])


@pytest.fixture
def service(models, tmp_path, clock):
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    return Service(tmp_path)


@pytest.fixture
def training(service, clock):
    "A service whose first training runs."
    service.alert()
    clock.time = START + timedelta(days=8)
    service.look()
    return service


def whats(case) -> list[str]:
    return [step["what"] for step in case.steps]


def meters(service) -> str:
    metrics = CollectorRegistry()
    metrics.register(cases.CaseMetrics(service, service.counts))
    return generate_latest(metrics).decode()


# from an alert to a champion


def test_an_alert_leads_to_a_new_champion_that_serving_answers_with(service, clock):
    assert service.alert() == "opened"
    service.look()
    assert service.open.state == "waiting" and not service.played, "fresh days must come first"

    clock.time = START + timedelta(days=8)
    service.look()
    assert service.open.state == "training" and len(service.played) == 1
    service.ends("promoted", "2")
    service.look()

    assert service.cases[-1].result == "promoted"
    assert whats(service.cases[-1]) == ["alerted", "waiting for fresh data", "training", "decided", "taken over", "closed"]


# step by step, where a plan is set


@pytest.fixture
def released(service, clock):
    "A service that releases, whose training has come to a challenger."
    settings = SETTINGS.model_copy(update={"release": Plan(shadow_requests=1)})
    made = Service(service.folder, settings)
    made.rollout = Rollout(service.folder, RIDES)
    made.alert()
    clock.time = START + timedelta(days=8)
    made.look()
    assert made.played[0].changes["release"] is True
    made.ends("challenger", "2")
    return made


def test_a_challenger_is_released_and_the_case_ends_when_serving_answers_with_it(released):
    released.look()
    assert released.open.state == "releasing" and releases.read(released.folder)[-1].version == "2"
    assert released.champion() == "1"

    rollout.order(released.folder, "promote", RIDES, "enough")
    released.look()
    assert released.open.state == "promoted"
    released.look()

    assert released.cases[-1].result == "promoted"
    steps = ["alerted", "waiting for fresh data", "training", "decided", "release begun", "released", "taken over", "closed"]
    assert whats(released.cases[-1]) == steps
    assert "release" in meters(released) and "takeover" in meters(released)


def test_a_release_that_goes_back_closes_its_case_with_the_reasons(released):
    released.look()
    rollout.order(released.folder, "abort", RIDES, "the riders complain")
    released.look()

    closed = released.cases[-1]
    assert closed.result == "rolled back" and "the riders complain" in closed.steps[-1]["reasons"]
    assert registry.aliases(registry.connect(released.folder / "mlflow", RIDES.name)) == {"champion": "1"}


def test_a_release_that_a_kill_cuts_off_is_gone_on_with(released, clock):
    released.look()
    again = Service(released.folder, released.settings)
    again.rollout = Rollout(released.folder, RIDES)
    again.look()

    assert again.open.state == "releasing" and len(releases.read(released.folder)) == 1


def test_a_kill_between_the_release_and_its_case_begins_no_second_one(released):
    released.look()
    case = released.open
    case.steps = [step for step in case.steps if step["what"] != "release begun"]
    cases.save(released.folder, case)
    again = Service(released.folder, released.settings)
    again.rollout = Rollout(released.folder, RIDES)
    again.look()

    assert len(releases.read(released.folder)) == 1 and again.open.last("release begun")


def test_a_release_waits_for_another_one_to_end(released):
    client = registry.connect(released.folder / "mlflow", RIDES.name)
    run = client.create_run(registry.experiment(client)).info.run_id
    registry.log_model(client, run, company.model(0.3), RIDES.contract.kinds)
    client.set_terminated(run)
    third = registry.register(client, run, "key of another")
    released.rollout.start(Plan(), third)
    released.look()
    assert released.open.state == "releasing" and [each.version for each in releases.read(released.folder)] == [third]

    rollout.order(released.folder, "abort", RIDES, "enough")
    released.look()

    assert [each.version for each in releases.read(released.folder)] == [third, "2"]


def test_the_training_waits_for_fresh_days_and_for_the_noon_of_the_last_one(service, clock):
    service.alert()

    assert service.open.due == datetime(2026, 3, 28, 12, tzinfo=UTC)


def test_the_training_learns_from_the_newest_days_that_the_settings_name(training):
    assert training.played[0].changes == {"test_days": 8, "validation_days": 1, "train_days": 4}


def test_that_an_alert_is_over_is_noted_once_even_after_the_end(training):
    began = next(iter(training.open.alerts.values()))
    training.ends("promoted", "2")
    training.look()

    assert training.alert("resolved", began) == "resolved"
    training.alert("resolved", began)

    assert whats(training.cases[-1])[-2:] == ["closed", "resolved"]


# one case


def test_the_same_alert_is_seen_once_however_often_it_comes_and_whoever_is_asked(service):
    first = alert()

    assert service.take([first, first]) == ["opened", "known"]
    assert Service(service.folder).take([first]) == ["known"]
    assert len(service.cases) == 1


def test_an_alert_that_comes_again_after_its_case_was_closed_starts_nothing(training):
    began = next(iter(training.open.alerts.values()))
    training.ends("refused", reasons=["worse"])

    assert training.alert(start=began) == "known" and training.open is None


def test_an_alert_while_a_case_is_open_joins_it(training):
    assert training.alert(kind="features", alertname="DriftDetected") == "joined"

    assert len(training.cases) == len(training.played) == 1
    assert len(training.open.alerts) == 2


@pytest.mark.parametrize(
    ("labels", "answer"), [({"action": "page"}, "not for us"), ({"version": "2"}, "other version"), ({"version": "0"}, "other version")]
)
def test_an_alert_that_is_not_about_the_champion_starts_nothing(service, labels, answer):
    assert service.alert(**labels) == answer
    assert service.cases == []


def test_between_two_cases_there_is_a_cooldown(training, clock):
    training.ends("promoted", "2")
    training.look()
    settings = SETTINGS.model_copy(update={"fresh_days": 0})
    again = Service(training.folder, settings)
    clock.time += timedelta(hours=1)

    again.alert(version="2")
    again.look()
    assert again.open.state == "waiting"
    clock.time += timedelta(hours=23)
    again.look()

    assert again.open.state == "training"


# what does not end well


def test_a_refusal_keeps_the_champion_and_is_said_everywhere(training):
    training.ends("refused", reasons=["no worse in completed trips than the champion: -0.03"])

    assert training.cases[-1].result == "refused" and training.champion() == "1"
    assert "no worse in completed trips" in "\n".join(cases.story(training.folder))
    assert 'retraining_last_result{result="refused",version="1"} 1.0' in meters(training)
    assert 'retraining_cases_total{result="refused"} 1.0' in meters(training)


@pytest.mark.parametrize(
    ("check", "helps"),
    [
        ({"name": "no worse in RMSE", "passed": None}, True),  # not measurable
        ({"name": "evidence: labels", "passed": False}, True),
        ({"name": "no worse in RMSE", "passed": False}, False),
    ],
)
def test_more_days_may_help_where_something_could_not_be_measured(check, helps):
    decision = {"decision": "refused", "model": {"version": None}, "reasons": ["why"], "checks": [check, {"name": "RMSE", "passed": True}]}

    assert retraining.outcome_of(decision)["more_days_may_help"] is helps


def test_with_too_little_evidence_it_tries_again_later_with_a_longer_test_but_not_for_ever(training, clock):
    for attempt in range(3):
        assert len(training.played) == attempt + 1
        assert training.played[-1].changes["test_days"] == 8 + 3 * attempt
        training.ends("refused", reasons=["too little evidence: 1,900 labels of 2,000"], more=True)
        training.look()
        assert len(training.played) == attempt + 1, "the days have not come yet"
        clock.time += timedelta(days=3)
        training.look()

    assert training.cases[-1].result == "refused" and len(training.played) == 3


def test_an_error_is_not_tried_again(training, clock):
    training.ends("failed", reasons=["the quarantine has 40 % of the rows"])
    clock.time += timedelta(days=30)
    training.look()

    assert training.cases[-1].result == "failed" and len(training.played) == 1
    assert 'retraining_last_result{result="failed",version="1"} 1.0' in meters(training)


def test_a_training_that_was_killed_is_started_again_but_not_for_ever(training):
    for _ in range(3):
        training.played[-1].process.returncode = -9
        training.look()

    assert len(training.played) == 3
    assert training.cases[-1].result == "failed" and "3 trainings have not come to an end" in training.cases[-1].steps[-1]["reasons"][0]


def test_a_training_that_takes_too_long_is_ended(training):
    training.settings = SETTINGS.model_copy(update={"training_seconds": 0})
    training.look()

    assert training.played[0].process.returncode == -9
    assert training.cases[-1].result == "failed"


def test_a_champion_that_serving_does_not_take_over_is_said(training):
    training.follows, training.settings = False, SETTINGS.model_copy(update={"takeover_seconds": 0})
    training.ends("promoted", "2")
    training.look()

    assert training.cases[-1].result == "not taken over"


# a service that was killed


def test_a_killed_service_finds_the_open_case_and_goes_on_waiting(service, clock):
    service.alert()
    again = Service(service.folder)
    again.look()
    assert again.open.state == "waiting"

    clock.time = START + timedelta(days=8)
    again.look()

    assert again.open.state == "training" and len(again.cases) == 1


def test_a_training_that_ended_with_its_service_is_started_again(training):
    again = Service(training.folder)
    again.look()

    assert len(again.played) == 1 and again.open.count("training") == 2


def test_what_a_training_has_told_is_not_lost_when_nobody_was_there_to_hear_it(training):
    training.promote("2")
    training.played[-1].tells("promoted", "2")
    again = Service(training.folder)
    again.look()
    again.look()

    assert again.cases[-1].result == "promoted" and not again.played


# people


def test_after_a_rollback_alerts_on_the_old_champion_start_nothing(service):
    service.promote("2")
    service.rollback()

    assert service.alert() == "held"
    assert service.cases == [] and service.counts["held"] == 1


def test_after_a_rollback_a_person_can_start_one_and_its_champion_is_watched_again(service):
    service.promote("2")
    service.rollback()

    assert service.order("the sensor is repaired") == 1
    service.look()
    assert service.open.state == "training", "a person does not wait"
    assert cases.rolled_back(service.folder / "mlflow", "1", RIDES.name) == "2"
    assert cases.rolled_back(service.folder / "mlflow", "3", RIDES.name) is None


def test_an_order_while_a_case_waits_lets_it_begin(service):
    service.alert()
    assert service.order("I will not wait") == 1
    service.look()

    assert service.open.state == "training" and service.open.number == 1


def test_a_rollback_while_a_case_waits_ends_the_case(service, clock):
    service.promote("2")
    service.alert(version="2")
    service.rollback()
    clock.time += timedelta(days=9)
    service.look()

    assert service.cases[-1].result == "superseded" and not service.played


def test_the_story_says_what_happened_when(training):
    training.ends("promoted", "2")
    training.look()
    lines = cases.story(training.folder)

    assert lines[0] == "case 1, about version 1: promoted"
    assert [line.split("  ")[-1].partition(":")[0] for line in lines[1:]] == whats(training.cases[-1])
    assert cases.story(training.folder / "elsewhere") == []


# files that were spoiled


SPOILED = {
    "empty": "",
    "half": '{"number": 1, "version": "1", "state": "wait',
    "no JSON": "<html>",
    "no text": b"\xff\xfe\x00",
    "a list": "[]",
    "another version": {"state": "examined"},
    "without a state": {"state": None},
    "without steps": {"steps": []},
    "a step without a time": {"steps": [{"what": "alerted"}]},
    "a step whose time is none": {"steps": [{"what": "alerted", "time": 3, "real": None}]},
    "a step without a zone": {"steps": [{"what": "alerted", "time": "2026-03-21T04:00:00", "real": "2026-03-21T04:00:00"}]},
    "a step that is none": {"steps": ["alerted"]},
    "closed without an end": {"state": "closed"},
    "training without a beginning": {"state": "training"},
    "promoted without a champion": {"state": "promoted"},
    "due without a zone": {"due": "2026-03-28T12:00:00"},
    "of another number": {"number": 7},
}


def spoil(service, how) -> None:
    "Replace the file of the newest case."
    (*_, file) = sorted(cases.place(service.folder).glob("*.json"))
    written = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(how, dict):
        how = json.dumps({name: value for name, value in {**written, **how}.items() if value is not None})
    file.write_bytes(how if isinstance(how, bytes) else how.encode())


@pytest.mark.parametrize("name", SPOILED)
def test_a_case_that_cannot_be_read_is_put_aside_in_one_line_and_the_loop_goes_on(service, capsys, name):
    service.alert()
    spoil(service, SPOILED[name])
    assert cases.read_cases(service.folder) == [] and cases.story(service.folder) == []
    capsys.readouterr()
    again = Service(service.folder)

    (line,) = capsys.readouterr().out.splitlines()
    assert "0001.json cannot be read and was put aside: " in line and len(line) < 400
    again.look()
    assert meters(again) and again.alert() == "opened"
    assert [case.number for case in again.cases] == [2], "a number is not given again"
    assert (cases.place(service.folder) / "0001.unreadable").is_file()
    assert [case.number for case in Service(service.folder).cases] == [2] and capsys.readouterr().out == ""


def test_a_spoiled_case_does_not_hide_the_others(training):
    training.ends("refused", reasons=["worse"])
    training.alert()
    spoil(training, "")

    assert [case.number for case in cases.read_cases(training.folder)] == [1]
    assert cases.story(training.folder)[0].startswith("case 1")


def test_a_case_that_was_written_under_old_names_is_told_under_the_new_ones(service):
    service.alert()
    service.open.close("superseded", ["the champion is version 2 by now"])
    cases.save(service.folder, service.cases[-1])
    file = cases.place(service.folder) / "0001.json"
    file.write_text(file.read_text(encoding="utf-8").replace("superseded", "overtaken"), encoding="utf-8")

    (case,) = Service(service.folder).cases
    story = "\n".join(cases.story(service.folder))
    assert case.result == "superseded" and story.count("superseded") == 2 and "overtaken" not in story
    assert 'retraining_cases_total{result="superseded"} 1.0' in meters(Service(service.folder))


def test_there_may_be_more_than_ten_thousand_cases(service):
    service.alert()
    written = json.loads((cases.place(service.folder) / "0001.json").read_text())
    for number in (9_999, 10_000):
        write_json(cases.place(service.folder) / f"{number}.json", {**written, "number": number})

    assert [case.number for case in Service(service.folder).cases] == [1, 9_999, 10_000]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"decision": "promoted"}', b"\xff"])
def test_a_training_whose_outcome_cannot_be_read_has_failed(training, text):
    training.played[-1].outcome.write_bytes(text if isinstance(text, bytes) else text.encode())
    training.look()

    assert training.cases[-1].result == "failed" and "cannot be read" in training.cases[-1].steps[-1]["reasons"][0]


def test_a_step_that_could_not_be_written_down_is_written_with_the_next_look(service, clock, monkeypatch):
    service.alert()
    clock.time = START + timedelta(days=8)
    with monkeypatch.context() as patch:
        patch.setattr(cases, "save", lambda *given: 1 / 0)  # as a full disk does
        with pytest.raises(ZeroDivisionError):
            service.look()
    assert cases.read_cases(service.folder)[0].state == "waiting"

    service.look()
    assert cases.read_cases(service.folder)[0].state == "training" and len(service.played) == 1


# times that come in


@pytest.mark.parametrize("ahead", [timedelta(days=2), timedelta(days=365 * 73)])
def test_an_alert_that_begins_later_than_now_is_refused_and_counted(service, clock, ahead):
    now = max(datetime.now(UTC), clock.time)

    assert service.alert(start=now + ahead) == "future" and service.cases == []
    assert 'retraining_alerts_total{answer="future"} 1.0' in meters(service)
    assert service.alert(start=now + timedelta(minutes=30)) == "opened", "clocks differ by minutes"
    assert service.alert("resolved", now + ahead) == "future"


def test_the_last_moment_of_all_does_not_end_the_service(service):
    moments = [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]

    assert [service.alert(start=moment) for moment in moments] == ["future", "opened"]
    assert Service(service.folder).open.number == 1


def test_a_case_that_is_due_by_another_clock_is_planned_anew(service, clock):
    service.alert()
    service.open.due = START + timedelta(days=365 * 29)
    service.look()

    assert service.open.due < START + timedelta(days=9)
    assert whats(service.open)[-1] == "waiting for fresh data"


def test_a_case_that_ended_by_another_clock_does_not_make_the_next_one_wait_for_it():
    assert retraining.due_at(START, START + timedelta(days=365 * 29), SETTINGS) < START + timedelta(days=9)


@pytest.mark.parametrize("wrong", [{"fresh_days": 10**9}, {"retry_days": 10**9}, {"cooldown_hours": 1e12}, {"attempts": 10**9}])
def test_waits_that_no_calendar_can_hold_are_refused(wrong):
    with pytest.raises(project.UserError, match=next(iter(wrong))):
        project.validated(RetrainingSettings, wrong, "the section `retraining`")


# a storm


def storm(n: int, **labels) -> list[dict]:
    odd = ["", "ä€ 漢", "\n\x1b[31mred", "x" * 400, "{}", "a=b", "0", '"', "\u202e"]
    alerts = [{**sent()["alerts"][0], "fingerprint": f"f{i}"} for i in range(n)]
    for i, one in enumerate(alerts):
        one["labels"] = {**one["labels"], "alertname": odd[i % len(odd)], "kind": odd[i % 7], odd[i % 5]: odd[i % 3], **labels}
    return alerts


def test_a_storm_of_alerts_is_one_case_that_stays_small_and_is_taken_within_seconds(web, service):
    key = {"Authorization": "Bearer a key"}
    began = time.monotonic()
    for n in range(3):
        alerts = storm(1_000)
        for one in alerts:
            one["fingerprint"] += f" {n}"
        answer = web.post("/alerts", json={"alerts": alerts}, headers=key)
        assert answer.status_code in (202, 413), answer.text
        answer = web.post("/alerts", json={"alerts": alerts[:500]}, headers=key) if answer.status_code == 413 else answer
        assert answer.status_code == 202
    assert time.monotonic() - began < 20

    (case,) = service.cases
    assert len(case.alerts) <= 1_000 and len(case.steps) <= 210
    assert (cases.place(service.folder) / "0001.json").stat().st_size < 300_000
    assert web.get("/ready").status_code == 200 and web.get("/cases", headers=key).status_code == 200
    for line in cases.story(service.folder):
        assert line.isprintable() and len(line) < 400
    assert Service(service.folder).cases[0].alerts == case.alerts


def test_a_storm_that_is_over_is_noted_and_counts_no_longer(service):
    alerts = [Alert(**one) for one in storm(300)]
    service.take(alerts)
    over = [one.model_copy(update={"status": "resolved"}) for one in alerts]

    assert set(service.take(over)) == {"resolved"} and set(service.take(alerts)) == {"known"}
    assert service.open.count("resolved") == 100


def test_alerts_cases_and_metrics_can_be_read_while_they_change(web, service):
    key, over, wrong = {"X-API-Key": "a key"}, threading.Event(), []

    def reads(path):
        while not over.is_set():
            answer = web.get(path, headers=key)
            if answer.status_code not in (200, 503):
                wrong.append(answer.text)

    def changes():
        for n in range(2_000):
            service.trouble[f"work {n % 50}"] = "broken"
            service.trouble.pop(f"work {(n * 7) % 50}", None)

    readers = [threading.Thread(target=reads, args=[path]) for path in ("/ready", "/metrics", "/cases")]
    changer = threading.Thread(target=changes)
    for thread in [*readers, changer]:
        thread.start()
    for n in range(20):
        service.take([Alert(**{**one, "fingerprint": f"{n} {one['fingerprint']}"}) for one in storm(50)])
    over.set()
    for thread in [*readers, changer]:
        thread.join()
    assert wrong == []


def test_alerts_are_taken_while_serving_does_not_answer(training):
    asked, go_on = threading.Event(), threading.Event()

    def slow():
        asked.set()
        go_on.wait(20)

    training.ends("promoted", "2")
    training.answering = slow
    looks = threading.Thread(target=training.look)
    looks.start()
    asked.wait(10)
    began = time.monotonic()
    assert training.alert(version="2") == "joined"
    assert time.monotonic() - began < 5 and looks.is_alive()
    go_on.set()
    looks.join()


# the door


@pytest.fixture
def web(service):
    with TestClient(receiver.application(service, "a key"), raise_server_exceptions=False) as client:
        yield client


def sent(**changes) -> dict:
    return {"alerts": [{**alert().model_dump(mode="json"), **changes}], "receiver": "retraining", "version": "4"}


def test_alertmanager_shows_its_token(web):
    assert web.post("/alerts", json=sent()).status_code == 401
    assert web.post("/alerts", json=sent(), headers={"Authorization": "Bearer another"}).status_code == 401
    assert web.post("/retrain", json={"reason": "why not"}).status_code == 401
    good = web.post("/alerts", json=sent(), headers={"Authorization": "Bearer a key"})
    assert good.status_code == 202 and good.json() == {"answers": ["opened"]}


def test_what_is_no_notification_is_refused_in_words(web):
    key = {"Authorization": "Bearer a key"}

    assert "startsAt" in web.post("/alerts", json=sent(startsAt="yesterday"), headers=key).json()["error"]
    assert web.post("/alerts", content=b"{", headers=key).status_code == 422
    assert web.post("/alerts", content=b" " * 2_000_000, headers=key).status_code == 413


def test_anybody_may_ask_how_it_is_and_only_callers_with_the_key_the_rest(web):
    assert web.get("/health").json() == {"alive": True}
    assert web.get("/ready").status_code == 200
    assert "swagger" in web.get("/docs").text
    assert web.get("/metrics").status_code == web.get("/cases").status_code == 401
    assert "retraining_open 0.0" in web.get("/metrics", headers={"X-API-Key": "a key"}).text


def test_an_alert_that_cannot_be_judged_is_not_accepted(web, service):
    shutil.move(service.folder / "mlflow", service.folder / "gone")

    assert web.post("/alerts", json=sent(), headers={"Authorization": "Bearer a key"}).status_code == 503
    assert web.get("/ready").status_code == 503


def test_an_alert_that_cannot_be_written_down_is_not_accepted_and_counts_when_it_comes_again(web, service, monkeypatch):
    key, twice = {"Authorization": "Bearer a key"}, sent()
    with monkeypatch.context() as patch:
        patch.setattr(cases, "save", lambda *given: 1 / 0)  # as a full disk does
        assert web.post("/alerts", json=twice, headers=key).status_code == 500

    assert service.cases == []
    assert web.post("/alerts", json=twice, headers=key).json() == {"answers": ["opened"]}


def test_without_a_key_it_listens_on_loopback_alone(service, monkeypatch):
    monkeypatch.delenv("MLOPS_COURSE_API_KEY", raising=False)

    with pytest.raises(project.UserError, match="MLOPS_COURSE_API_KEY"):
        receiver.serve(service.folder, SETTINGS.model_copy(update={"host": "0.0.0.0"}), RIDES)


def test_an_order_without_a_service_says_how_to_start_it():
    with pytest.raises(project.UserError, match="retrain-on-alert"):
        receiver.ask(f"http://127.0.0.1:{services.free_port()}", "nobody is there")


# real processes


PARENT = """
import sys, time
from pathlib import Path
from mlops_course import trainer
folder = Path(sys.argv[1])
print(trainer.Training(folder, "0001-1", {}).process.pid, flush=True)
time.sleep(600)
"""


def test_an_outcome_of_an_earlier_training_of_that_name_is_not_taken_for_its_own(tmp_path):
    write_json(trainer.trainings(tmp_path) / "0001-1.json", {"decision": "promoted"})
    work = trainer.Training(tmp_path, "0001-1", {})
    try:
        assert not work.outcome.exists()
    finally:
        work.end()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at as on Linux")
def test_a_training_ends_with_the_service_that_has_started_it(tmp_path):
    with FileLock(trainer.trainings(tmp_path) / "lock"):  # so that it waits, as one does while another training runs
        parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=project.root())
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()

        child.wait(30)

    assert not list(trainer.trainings(tmp_path).glob("*.json"))


def test_a_training_on_normal_days_is_refused_for_it_learned_from_few(built, tmp_path, monkeypatch):
    folder = tmp_path / "company"
    shutil.copytree(built, folder)
    settings = yaml.safe_load((project.root() / "env.test.yaml").read_text(encoding="utf-8"))
    (tmp_path / "env.yaml").write_text(yaml.safe_dump({**settings, "out": str(folder)}), encoding="utf-8")
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", str(tmp_path / "env.yaml"))
    monkeypatch.delenv(telemetry.RUN, raising=False)

    work = trainer.Training(folder, "0001-1", {"test_days": 7, "validation_days": 1, "train_days": 5})
    work.process.wait(300)

    outcome = json.loads(work.outcome.read_text(encoding="utf-8"))
    assert outcome["decision"] == "refused" and outcome["more_days_may_help"] is False
    assert "no worse in completed trips than the champion" in outcome["reasons"][0]
    assert registry.champion(folder / "mlflow", RIDES.name).version == "1"
    lines = [json.loads(line) for line in (folder / "logs/pipeline.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["stage"] for line in lines if line.get("run") == work.run} == {"data", "training"}
