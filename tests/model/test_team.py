"""Several models in one service: who answers, what fails without a rider noticing, and a shadow that nobody waits for."""

import shutil
import threading
import time
import warnings
from types import SimpleNamespace

import company
import pytest
from company import KNOWN
from rides import RIDES
from served import ask, entries, logged, metrics, new, refused, served, wait_for

from mlops_course import clocks, project, registry, team
from mlops_course.candidates import Reader
from mlops_course.project import Paths
from mlops_course.routes import Route, Routes, met, read_routes, write_routes
from mlops_course.shadow import Shadow

pytestmark = pytest.mark.usefixtures("real_clock_after")
HALF = Routes(name="r/1", salt="r", others=[Route(role="challenger", version="2", share=0.5)])
WATCH = Routes(name="r/shadow", salt="r", others=[Route(role="shadow", version="2")])


@pytest.fixture(scope="module")
def real_clock_after():
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        yield
    clocks.leave()


@pytest.fixture
def own(template, tmp_path):
    return company.copy(template, tmp_path / "own")


def let(client, routes: Routes) -> None:
    "Write the routes, and wait until the service has noticed."
    write_routes(Paths(client.folder).routes, routes)
    wait_for(lambda: client.get("/model").json()["routes"]["name"] == routes.name)


def test_a_challenger_answers_its_share_and_the_same_requests_at_each_try(own):
    with served(own) as client:
        let(client, HALF)
        answers = [ask(client, KNOWN[:5]) for _ in range(200)]
        counted = metrics(client)

    expected = ["2" if met(answer["request_id"], HALF) else "1" for answer in answers]
    assert [answer["version"] for answer in answers] == expected
    assert 60 < expected.count("2") < 140
    assert {(a["role"], a["version"]) for a in answers} == {("champion", "1"), ("challenger", "2")}
    assert counted["serving_answers_total challenger 2"] == expected.count("2")
    assert counted["serving_route_share challenger 2"] == 0.5 and counted["serving_route_loaded 2"] == 1


def test_with_a_larger_share_who_met_the_challenger_meets_it_again(own):
    more = Routes(name="r/2", salt="r", others=[Route(role="challenger", version="2", share=0.8)])
    names = [new() for _ in range(100)]

    assert {name for name in names if met(name, HALF)} < {name for name in names if met(name, more)}


def test_a_challenger_that_cannot_score_costs_nobody_an_answer(own):
    with served(own) as client:
        let(client, HALF)
        client.service.team.models["2"] = SimpleNamespace(run_id="other", version="2", probability=lambda frame: 1 / 0)
        answers = [ask(client, KNOWN[:5]) for _ in range(60)]
        failures = metrics(client)["serving_route_failures_total 2"]
        written = {answer["request_id"]: logged(client, answer["request_id"]) for answer in answers}

    assert {answer["version"] for answer in answers} == {"1"}
    meant = {name for name, entry in written.items() if entry.get("instead_of") == "2"}
    assert meant == {name for name in written if met(name, HALF)} and failures == len(answers)


def test_a_challenger_that_is_slow_keeps_nobody_waiting(own):
    few = Routes(name="r/1", salt="r", others=[Route(role="challenger", version="2", share=0.01)])
    with served(own, cache_seconds=0) as client:
        let(client, few)
        sleeping = threading.Event()
        client.service.team.scored["2"].clear()
        client.service.team.models["2"] = SimpleNamespace(run_id="slow", version="2", probability=lambda frame: sleeping.wait(20))
        began = time.monotonic()
        answers = [ask(client, KNOWN[number : number + 5]) for number in range(20)]
        busy = client.service.team.failures["2"]
        sleeping.set()

    assert {answer["version"] for answer in answers} == {"1"} and busy == 20
    assert time.monotonic() - began < 10, "only those who came first have waited, and a moment"


@pytest.mark.parametrize("version", ["7", "2"], ids=["unknown", "damaged"])
def test_a_version_that_cannot_be_loaded_is_said_and_its_share_stays_the_champions(own, version):
    if version == "2":
        run = registry.connect(own / "mlflow", RIDES.name).get_model_version(RIDES.name, "2").run_id
        [file] = [file for file in (own / "mlflow").rglob("model.skops") if run in file.parts]
        file.write_bytes(file.read_bytes() + b" ")
    with served(own) as client:
        routes = Routes(name="r/1", salt="r", others=[Route(role="challenger", version=version, share=0.5)])
        write_routes(Paths(own).routes, routes)
        trouble = wait_for(lambda: [each for each in client.get("/ready").json()["trouble"] if f"version {version}" in each])
        answers = [ask(client, KNOWN[:5]) for _ in range(20)]
        assert client.get("/ready").status_code == 200

    assert trouble and {answer["version"] for answer in answers} == {"1"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"others": 3}', '{"others": [{"role": "challenger", "version": "champion"}]}', "[" * 9_000]
)
def test_routes_that_cannot_be_read_are_said_and_those_before_stay(own, text):
    with served(own) as client:
        let(client, HALF)
        Paths(own).routes.write_text(text)
        wait_for(lambda: any("routes" in each for each in client.get("/ready").json()["trouble"]))
        assert {ask(client, KNOWN[:5])["version"] for _ in range(40)} == {"1", "2"}
        let(client, Routes())
        assert not any("routes" in each for each in client.get("/ready").json()["trouble"])


def test_the_logged_policy_answers_with_nobody_and_says_so(own):
    with served(own) as client:
        let(client, Routes(name="f", salt="f", others=[Route(role="fallback", share=1.0)]))
        answer = ask(client, KNOWN[:5])
        entry = logged(client, answer["request_id"])

    assert (answer["prediction"], answer["score"], answer["propensity"], answer["worth_promising"]) == (None, None, None, None)
    assert answer["role"] == entry["role"] == "fallback" and answer["error"] == "the logged policy decides"


def test_a_shadow_scores_every_answer_and_changes_none(own):
    with served(own) as client:
        alone = [ask(client, KNOWN[:5]) for _ in range(5)]
        let(client, WATCH)
        answers = [ask(client, KNOWN[:5]) for _ in range(30)]
        wait_for(lambda: sum(entry["role"] == "shadow" for entry in entries(own)) == 30)
        again = ask(client, KNOWN[:5], answers[0]["request_id"])
    with served(own) as client:
        after = ask(client, KNOWN[:5], answers[1]["request_id"])

    shadows = {entry["request_id"]: entry for entry in entries(own) if entry["role"] == "shadow"}
    assert set(shadows) == {answer["request_id"] for answer in answers}
    assert {(entry["version"], entry["routes"], entry["propensity"]) for entry in shadows.values()} == {("2", "r/shadow", None)}
    assert {answer["version"] for answer in [*alone, *answers, again, after]} == {"1"}
    assert (again, after) == (answers[0], answers[1]), "what a shadow says is nobody's answer, also after a restart"


def test_a_shadow_that_does_not_come_after_drops_and_counts(monkeypatch):
    made = team.Team(project.root() / "nowhere", RIDES, Reader(RIDES.contract))
    model = SimpleNamespace(name="driver-completion", version="2", run_id="two", digest="...")
    made.routes, made.models, made.scored, written = WATCH, {"2": model}, {"2": {}}, []
    monkeypatch.setattr(made, "together", lambda version, some: [None for _ in some])
    shadow = Shadow(made, RIDES, lambda time, entry: written.append(entry), 3, 60)
    asked = made.reader.of_entities(KNOWN[:2])
    for number in range(10):
        shadow.put(project.now(), f"r-{number}", asked, [None, None], False)

    assert len(shadow.waiting) == 3 and shadow.dropped == {"full": 7, "late": 0, "failed": 0}
    shadow.seconds = -1.0
    shadow.step()
    assert not shadow.waiting and shadow.dropped == {"full": 7, "late": 3, "failed": 0}
    shadow.seconds = 60
    shadow.put(project.now(), "r-11", asked, [None, None], False)
    shadow.step()
    assert shadow.dropped == {"full": 7, "late": 3, "failed": 1}
    assert [(entry["role"], entry["instead_of"], entry["prediction"]) for entry in written] == [("shadow", "2", None)]


def test_a_promotion_while_a_challenger_answers_loses_nobody(own):
    with served(own) as client:
        let(client, HALF)
        registry.promote(registry.connect(own / "mlflow", RIDES.name), "2")
        wait_for(lambda: client.get("/model").json()["version"] == "2")
        assert {ask(client, KNOWN[:5])["version"] for _ in range(20)} == {"2"}
        let(client, Routes())
        assert {ask(client, KNOWN[:5])["role"] for _ in range(10)} == {"champion"}
    assert read_routes(Paths(own).routes) == Routes()


def test_without_the_folder_of_releases_the_champion_answers_all(own):
    shutil.rmtree(Paths(own).release, ignore_errors=True)
    with served(own) as client:
        assert ask(client, KNOWN[:3])["role"] == "champion"
        assert "no bandit" in refused(client.post("/labels", json=[]), 404)
