"""Releases from the log and the labels to the registry and the routes: step by step, through kills, and with a person's orders."""

import contextlib
import json
import random
import shutil
from datetime import timedelta

import company
import pandas as pd
import pytest
from played import Company
from rides import CONTRACT, RIDES

from mlops_course import registry, releases, rollout
from mlops_course.plans import Plan, Step
from mlops_course.project import Paths, UserError
from mlops_course.rollout import Rollout
from mlops_course.routes import Route, Routes, read_routes, write_routes

PLAN = Plan(
    shadow_requests=50,
    steps=[Step(share=0.05, least_trips=100, most_hours=200), Step(share=0.5, most_trips=8_000, most_hours=400)],
    label_hours=1,
)
HOUR = timedelta(hours=1)


@pytest.fixture
def rides(template, tmp_path, monkeypatch):
    "Makes a company whose champion is version 1 and whose challenger is version 2, with these true rates."

    def make(one: float, two: float) -> Company:
        return Company(company.copy(template, tmp_path / "company"), monkeypatch, {"1": one, "2": two})

    return make


def whats(release) -> list[str]:
    return [step["what"] for step in release.steps]


def test_a_better_challenger_is_a_shadow_then_gets_more_and_more_and_becomes_champion(rides):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)

    release = made.until(lambda release: not release.open)

    assert release.state == "promoted" and made.champion() == "2"
    assert whats(release) == ["begun", "canary", "canary", "promoted"]
    assert [step.get("share") for step in release.steps] == [None, 0.05, 0.5, None]
    assert "choice in 100% of" in release.steps[1]["reasons"][-1]
    report = pd.read_csv(releases.place(made.folder, 1) / "shadow.csv")
    assert set(report.by) == {"requests", *CONTRACT.features} and (report.same == 1).all()
    assert read_routes(Paths(made.folder).routes).others == []
    files = sorted(file.name for file in releases.place(made.folder, 1).iterdir())
    assert files == ["001-begun.json", "002-canary.json", "003-canary.json", "004-promoted.json", "release.json", "shadow.csv"]
    why = json.loads((releases.place(made.folder, 1) / "004-promoted.json").read_text())
    assert why["cause"] == "outcomes" and why["low"] > -PLAN.margin and "ruled out" in why["reasons"][-1]


def test_a_step_without_a_judgement_adds_no_trips(rides):
    made = rides(0.5, 0.6)
    last = Step(share=1.0, least_trips=200, most_hours=200)
    made.rollout.start(PLAN.model_copy(update={"steps": (*PLAN.steps, last)}))

    release = made.until(lambda release: not release.open)

    assert release.state == "promoted" and [span[0] for span in release.spans] == [0.5]
    times = [step["time"] for step in release.steps]
    assert release.spans[0][2].isoformat() <= times[3]


def test_a_worse_challenger_goes_back_and_is_never_a_challenger_again(rides):
    made = rides(0.6, 0.45)
    made.rollout.start(PLAN)

    release = made.until(lambda release: not release.open)

    assert (release.state, release.steps[-1]["cause"]) == ("rolled back", "outcomes")
    assert made.champion() == "1" and read_routes(Paths(made.folder).routes).others == []
    assert "challenger" not in registry.aliases(made.client())
    with pytest.raises(UserError, match="version 2 was taken back.*it is worse"):
        made.rollout.start(PLAN, "2")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"latency_ms": 900.0}, "slow"),
        ({"instead_of": "2", "role": "champion"}, "errors"),
        ({"prediction": None, "score": None}, "missing"),
    ],
    ids=["slow", "errors", "missing"],
)
def test_a_challenger_that_breaks_a_guardrail_goes_back_at_its_first_step(rides, fault, words):
    made = rides(0.5, 0.9)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    made.faults["2"] = fault

    release = made.until(lambda release: not release.open)

    assert (release.state, release.step, release.steps[-1]["cause"]) == ("rolled back", 0, "guardrails")
    assert words in release.steps[-1]["reasons"][0] and made.champion() == "1"


def test_a_slow_shadow_never_meets_a_rider(rides):
    made = rides(0.5, 0.9)
    made.faults["2"] = {"latency_ms": 900.0}
    made.rollout.start(PLAN)

    release = made.until(lambda release: not release.open)

    assert whats(release) == ["begun", "rolled back"] and "slow" in release.steps[-1]["reasons"][0]


def test_a_shadow_that_scores_nothing_goes_back_after_its_time(rides):
    made = rides(0.5, 0.9)
    made.rollout.start(PLAN)
    made.now += timedelta(hours=PLAN.shadow_hours + 1)
    made.rollout.look()

    release = releases.read(made.folder)[-1]

    assert (release.state, release.steps[-1]["cause"]) == ("rolled back", "duration")
    made.rollout.start(PLAN, "2")  # it was not the version's fault


@pytest.mark.parametrize("where", ["write_json", "promote", "put_routes"])
def test_a_kill_at_any_moment_loses_nothing(rides, monkeypatch, where):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    target = {"write_json": releases, "promote": registry, "put_routes": rollout}[where]
    right, calls, draw = getattr(target, where), [], random.Random(3)

    def killed(*words):
        calls.append(words)
        if len(calls) == 1 or draw.random() < 0.5:
            raise KeyboardInterrupt
        return right(*words)

    for _ in range(80):
        made.live(400)
        monkeypatch.setattr(target, where, killed)
        try:
            made.rollout.look()
        except KeyboardInterrupt:
            made.rollout = Rollout(made.folder, RIDES)  # another process goes on
        monkeypatch.setattr(target, where, right)
        if not releases.read(made.folder)[-1].open:
            break
    made.rollout.look()

    release = releases.read(made.folder)[-1]
    assert calls and release.state == "promoted" and made.champion() == "2"
    assert [step.get("share") for step in release.steps if step["what"] == "canary"] == [0.05, 0.5]
    assert read_routes(Paths(made.folder).routes).others == []


def test_a_paused_release_stays_until_it_is_resumed(rides):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    before = read_routes(Paths(made.folder).routes)
    rollout.order(made.folder, "pause", RIDES, "a strange hour")
    for _ in range(10):
        made.live(400)
        made.rollout.look()

    release = releases.read(made.folder)[-1]
    assert (release.state, release.step, release.paused) == ("canary", 0, True)
    assert read_routes(Paths(made.folder).routes) == before
    rollout.order(made.folder, "resume", RIDES, "it is over")
    assert made.until(lambda release: not release.open).state == "promoted"


@pytest.mark.parametrize(("what", "state", "champion"), [("promote", "promoted", "2"), ("abort", "rolled back", "1")])
@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_a_person_ends_a_release_at_any_stage(rides, what, state, champion, stage):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    if stage == "canary":
        made.until(lambda release: release.state == stage)

    release = rollout.order(made.folder, what, RIDES, "because I say so")

    assert (release.state, made.champion()) == (state, champion)
    assert releases.read(made.folder)[-1] == release
    assert "because I say so" in json.dumps(release.steps[-1]) and read_routes(Paths(made.folder).routes).others == []
    with pytest.raises(UserError, match="no release is open"):
        rollout.order(made.folder, what, RIDES, "again")


def test_a_second_release_waits_or_supersedes(rides):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    with pytest.raises(UserError, match="release 1 of version 2 is open"):
        made.rollout.start(PLAN, "2")

    second = made.rollout.start(PLAN, "2", supersede=True)

    assert [release.state for release in releases.read(made.folder)] == ["superseded", "shadow"]
    assert read_routes(Paths(made.folder).routes).name == f"release-{second.number}/shadow"


def test_a_champion_that_somebody_else_changes_ends_the_release(rides):
    made = rides(0.5, 0.6)
    third = made.register(0.3)
    made.rollout.start(PLAN, "2")
    registry.promote(made.client(), third)

    made.rollout.look()

    assert releases.read(made.folder)[-1].state == "superseded" and read_routes(Paths(made.folder).routes).others == []


def test_the_champion_itself_is_no_challenger(rides):
    with pytest.raises(UserError, match="version 1 is the champion already"):
        rides(0.5, 0.6).rollout.start(PLAN, "1")


@pytest.mark.parametrize("text", ["", "{", '{"others": 3}', "[]"])
def test_routes_that_cannot_be_read_are_written_anew(rides, text):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    Paths(made.folder).routes.write_text(text)

    made.rollout.look()

    assert read_routes(Paths(made.folder).routes).name == "release-1/shadow"


def test_a_record_that_cannot_be_read_is_said_and_nothing_is_changed(rides):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    (releases.place(made.folder, 1) / "release.json").write_text("{")

    with pytest.raises(UserError, match=r"release\.json cannot be read.*the champion answers all"):
        made.rollout.look()

    assert made.champion() == "1"


def test_guardrails_act_while_the_store_of_monitoring_cannot_be_read(rides):
    made = rides(0.5, 0.5)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary" and release.step == 1)
    made.live(50)
    made.rollout.look()
    made.faults["2"] = {"latency_ms": 900.0}
    made.live(400)
    (Paths(made.folder).monitoring / "state.db").write_bytes(b"x" * 9_000)
    made.rollout.look()

    release = releases.read(made.folder)[-1]
    assert (release.state, release.steps[-1]["cause"]) == ("rolled back", "guardrails")


def test_a_record_that_cannot_be_read_gives_all_requests_to_the_champion(rides):
    made = rides(0.5, 0.5)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    (releases.place(made.folder, 1) / "release.json").write_text("{")
    for does in (made.rollout.look, lambda: rollout.order(made.folder, "abort", RIDES, "away with it")):
        write_routes(Paths(made.folder).routes, Routes(name="x", others=[Route(role="challenger", version="2", share=0.2)]))
        with pytest.raises(UserError, match="so the champion answers all"):
            does()
        assert read_routes(Paths(made.folder).routes).others == []


@pytest.mark.parametrize("gone", ["the record", "all"])
def test_a_release_whose_folder_was_moved_away_leaves_no_routes(rides, gone):
    made = rides(0.5, 0.5)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    folder = releases.place(made.folder, 1) if gone == "the record" else Paths(made.folder).release
    shutil.rmtree(folder)

    made.rollout.look()

    assert read_routes(Paths(made.folder).routes).others == []
    assert made.rollout.start(PLAN, "2").number == 1


def test_an_abort_that_a_kill_cuts_off_is_an_abort(rides, monkeypatch):
    made = rides(0.5, 0.6)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rollout, "withdraw", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        rollout.order(made.folder, "abort", RIDES, "the model is harmful")

    Rollout(made.folder, RIDES).look()

    assert releases.read(made.folder)[-1].state == "rolled back" and read_routes(Paths(made.folder).routes).others == []
    with pytest.raises(UserError, match="the model is harmful"):
        made.rollout.start(PLAN, "2")


def test_the_files_of_the_decisions_are_those_of_the_record_after_any_kill(rides, monkeypatch):
    made = rides(0.6, 0.45)
    made.rollout.start(PLAN)
    right, calls = releases.write_json, []

    def killed(file, value):
        calls.append(file)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        right(file, value)

    for _ in range(80):
        made.live(300)
        monkeypatch.setattr(releases, "write_json", killed)
        with contextlib.suppress(KeyboardInterrupt):
            made.rollout.look()
        monkeypatch.setattr(releases, "write_json", right)
        if not releases.read(made.folder)[-1].open:
            break

    release = releases.read(made.folder)[-1]
    files = sorted(releases.place(made.folder, 1).glob("[0-9]*.json"))
    assert release.state == "rolled back"
    assert [json.loads(file.read_text()) for file in files] == release.steps


def test_a_number_is_not_used_again_after_a_kill_at_the_beginning(rides, monkeypatch):
    made = rides(0.5, 0.6)
    right = releases.write_json

    def killed(file, value):
        if file.name == "release.json":
            raise KeyboardInterrupt
        right(file, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(releases, "write_json", killed)
        made.rollout.start(PLAN)

    assert made.rollout.start(PLAN).number == 2
    assert [release.number for release in releases.read(made.folder)] == [2]


def test_a_fault_of_both_arms_is_not_held_against_a_shadow(rides):
    made = rides(0.5, 0.5)
    made.faults = {"1": {"latency_ms": 900.0}, "2": {"latency_ms": 900.0}}
    made.rollout.start(PLAN)

    release = made.until(lambda release: not release.open)

    assert release.steps[-1]["cause"] == "both arms"
    made.rollout.start(PLAN, "2")


def test_a_paused_release_still_has_its_guardrails(rides):
    made = rides(0.5, 0.9)
    made.rollout.start(PLAN)
    made.until(lambda release: release.state == "canary")
    rollout.order(made.folder, "pause", RIDES, "lunch")
    made.faults["2"] = {"latency_ms": 900.0}

    release = made.until(lambda release: not release.open)

    assert (release.state, release.steps[-1]["cause"]) == ("rolled back", "guardrails")


def test_a_person_promotes_only_what_was_compared_with_the_champion(rides):
    made = rides(0.5, 0.6)
    third = made.register(0.3)
    made.rollout.start(PLAN, "2")
    registry.promote(made.client(), third)

    with pytest.raises(UserError, match="version 2 was compared with version 1, which is champion no more"):
        rollout.order(made.folder, "promote", RIDES, "because")

    assert made.champion() == third


def test_the_champions_own_model_under_another_number_is_no_challenger(rides):
    made = rides(0.5, 0.6)
    twin = made.register(1.0)

    with pytest.raises(UserError, match=f"version {twin} is the same model as the champion"):
        made.rollout.start(PLAN, twin)


def test_without_a_challenger_it_says_what_to_do(rides):
    made = rides(0.5, 0.6)
    made.client().delete_registered_model_alias(RIDES.name, "challenger")

    with pytest.raises(UserError, match="there is no challenger: train one with `training.release: true`"):
        made.rollout.start(PLAN)
