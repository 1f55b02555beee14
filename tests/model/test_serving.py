"""What the online service answers, refuses, remembers and writes down; its process and its failures are in tests/system."""

import asyncio
import itertools
import json
import random
import re
import shutil
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta

import company
import pytest
from company import CLOCK, EMPTY, KNOWN, NAMES, PARTIAL, STALE, TWINS, UNKNOWN
from pydantic import ValidationError
from rides import CONTRACT, RIDES
from served import ask, entries, logged, metrics, new, refused, served, wait_for
from traffic import ages, days_of
from typer.testing import CliRunner

from mlops_course import api, batch, cli, clocks, features, predictions, project, registry, resilience, schemas, serving, stores
from mlops_course.telemetry import logging_to

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers another client's library
    from fastapi.testclient import TestClient

KEY = "a key with ünïcode"


@pytest.fixture(scope="module", autouse=True)
def clock():
    "A service lets the clock of its process run; the next module gets it back as it was."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        yield
    clocks.leave()


@pytest.fixture(scope="module")
def ground(template, tmp_path_factory):
    "A company that no test changes, but for its prediction log."
    return company.copy(template, tmp_path_factory.mktemp("ground") / "company")


@pytest.fixture
def own(ground, tmp_path):
    "A company of the test's own."
    return company.copy(ground, tmp_path / "own")


@pytest.fixture(scope="module")
def client(ground):
    with served(ground) as opened:
        yield opened


@pytest.fixture(scope="module")
def pipeline(ground):
    return registry.load(registry.connect(ground / "mlflow", RIDES.name))


# --- who wins --------------------------------------------------------------------------------------


def test_a_client_of_the_seed_course_reads_what_it_did_before(client):
    answer = client.post("/inference", json={"request_id": new(), "driver_ids": KNOWN[:3]}).json()

    assert answer["prediction"] in KNOWN[:3]
    assert answer["error"] is None


def test_scores_and_winner_are_those_of_the_registered_pipeline_on_the_same_features(client, pipeline):
    drivers = random.Random(3).sample([*KNOWN, PARTIAL], 20)
    rows = features.online(features.open_store(client.folder / "features"), drivers, CONTRACT, moment=CLOCK)
    expected = pipeline.probability(rows)

    answer = ask(client, drivers)

    assert [c["driver_id"] for c in answer["candidates"]] == drivers
    assert [c["score"] for c in answer["candidates"]] == pytest.approx(expected, abs=1e-9, rel=0)
    assert answer["prediction"] == drivers[expected.argmax()]
    assert answer["score"] == pytest.approx(expected.max(), abs=1e-9, rel=0)
    assert (answer["model"], answer["version"]) == (pipeline.name, pipeline.version)


def test_batch_and_online_give_the_same_rows_the_same_scores(client, pipeline):
    drivers = [*KNOWN, *TWINS, PARTIAL, EMPTY, UNKNOWN]
    rows = features.pd.DataFrame({CONTRACT.entity: drivers, CONTRACT.time: [features.pd.Timestamp(CLOCK)] * len(drivers)})
    scored = batch.score(pipeline, features.historical(features.open_store(client.folder / "features"), rows, CONTRACT), CONTRACT)

    online = {c["driver_id"]: c["score"] for c in ask(client, drivers)["candidates"]}

    for row in scored.to_dict("records"):
        one, other = row["score"], online[row[CONTRACT.entity]]
        assert (row["status"] == "no features") == (other is None)
        assert other is None or abs(one - other) < 1e-9


def test_of_equal_drivers_the_lowest_number_wins_whatever_their_order_and_whenever_they_were_scored(ground):
    with served(ground) as client:
        ask(client, TWINS[1:])  # these two get their score in one call of the model, the third in another
        answers = [ask(client, list(order)) for order in itertools.permutations(TWINS)]

    assert {answer["prediction"] for answer in answers} == {min(TWINS)}
    assert len({c["score"] for answer in answers for c in answer["candidates"]}) == 1


def test_what_is_known_of_a_candidate_is_told_and_who_is_not_known_has_no_score(client):
    by_driver = {c["driver_id"]: c for c in ask(client, [KNOWN[0], PARTIAL, EMPTY, STALE, UNKNOWN])["candidates"]}

    states = {KNOWN[0]: "fresh", PARTIAL: "partial", EMPTY: "missing", STALE: "stale", UNKNOWN: "missing"}
    assert {driver: c["features"] for driver, c in by_driver.items()} == states
    assert {driver for driver, c in by_driver.items() if c["score"] is None} == {EMPTY, STALE, UNKNOWN}


@pytest.mark.parametrize("epsilon", [0, 1])
def test_a_driver_who_is_not_known_never_wins(ground, epsilon):
    "STALE has the best features of all, but they are too old."
    with served(ground, epsilon=epsilon) as client:
        worst = min(KNOWN, key={c["driver_id"]: c["score"] for c in ask(client, KNOWN)["candidates"]}.get)
        winners = {ask(client, [UNKNOWN, STALE, worst, EMPTY, 1])["prediction"] for _ in range(40)}

    assert winners == {worst}


def test_features_become_stale_while_the_service_runs(client, own):
    company.put(features.open_store(own / "features"), [UNKNOWN], [0.5, 0.5, 5], CLOCK - timedelta(hours=168) + timedelta(seconds=2))

    with served(own, cache_seconds=0) as client:

        def state():
            return ask(client, [UNKNOWN])["candidates"][0]["features"]

        before = state()
        late = project.now() >= CLOCK + timedelta(seconds=2)
        wait_for(lambda: state() == "stale")

    assert before == "fresh" or late


def test_where_nobody_is_known_there_is_no_driver_but_an_answer(client):
    answer = ask(client, [UNKNOWN, EMPTY, STALE], name := new())

    assert answer["error"] == "nothing is known of any candidate"
    assert [answer[name] for name in ("prediction", "score", "worth_promising", "propensity")] == [None] * 4
    assert logged(client, name)["prediction"] is None


def test_a_promise_is_worth_it_above_the_break_even_and_the_ranking_does_not_mind(client):
    answers = [ask(client, [driver]) for driver in KNOWN]

    assert {answer["worth_promising"] for answer in answers} == {True, False}
    assert all(answer["worth_promising"] == (answer["score"] > RIDES.costs.break_even) for answer in answers)
    assert [answer["prediction"] for answer in answers] == KNOWN


def test_whether_a_promise_is_worth_it_is_said_of_the_best_candidate_also_when_another_is_drawn(ground):
    with served(ground, epsilon=1) as client:
        scores = {c["driver_id"]: c["score"] for c in ask(client, KNOWN)["candidates"]}
        best, worst = max(scores, key=scores.get), min(scores, key=scores.get)
        answers = [ask(client, [best, worst]) for _ in range(40)]

    assert scores[worst] < RIDES.costs.break_even < scores[best]
    assert {answer["prediction"] for answer in answers} == {best, worst}
    assert {answer["worth_promising"] for answer in answers} == {True}


def test_a_candidate_who_is_named_twice_counts_once(client):
    answer = ask(client, [KNOWN[1], KNOWN[0], KNOWN[1]])

    assert [c["driver_id"] for c in answer["candidates"]] == [KNOWN[1], KNOWN[0]]


# --- exploration ------------------------------------------------------------------------------------


def test_a_drawn_answer_says_so_and_its_propensity_is_logged(ground):
    with served(ground, epsilon=1) as client:
        drawn = ask(client, KNOWN[:4], name := new())
        entry = logged(client, name)
    with served(ground, epsilon=0) as client:
        best = ask(client, KNOWN[:4])

    assert (drawn["explored"], drawn["propensity"]) == (entry["explored"], entry["propensity"]) == (True, 0.25)
    assert (best["explored"], best["propensity"]) == (False, 1)


# --- the same request again ---------------------------------------------------------------------------


def test_a_request_that_comes_again_gets_the_same_answer_and_is_logged_once(client):
    name = new()
    body = {"request_id": name, "driver_ids": KNOWN[:3]}

    first, again, reordered = (client.post("/inference", json={**body, "driver_ids": ids}) for ids in (KNOWN[:3], KNOWN[:3], KNOWN[2::-1]))
    ask(client, KNOWN[:3], other := new())
    logged(client, other)

    assert first.content == again.content == reordered.content
    assert len(entries(client.folder, name)) == 1


def test_a_request_id_with_other_candidates_is_refused(client):
    ask(client, KNOWN[:3], name := new())

    for drivers in (KNOWN[:2], KNOWN[:4], KNOWN[1:4]):
        answer = client.post("/inference", json={"request_id": name, "driver_ids": drivers})
        assert "other candidates" in refused(answer, 409)
        assert answer.json()["request_id"] == name


def test_the_same_request_twice_at_the_same_time_is_answered_once(ground, monkeypatch):
    arrived, go = threading.Event(), threading.Event()
    with served(ground, cache_seconds=0, store_seconds=60) as client, ThreadPoolExecutor(3) as pool:
        newest = resilience.Store.newest

        def slow(*asked):
            arrived.set()
            go.wait(30)
            return newest(*asked)

        monkeypatch.setattr(resilience.Store, "newest", slow)
        first = pool.submit(ask, client, KNOWN[:3], name := new())
        assert arrived.wait(30)
        second = pool.submit(ask, client, KNOWN[:3], name)
        wait_for(lambda: metrics(client)["serving_requests_in_progress"] == 3)  # with the one for the meters
        other = client.post("/inference", json={"request_id": name, "driver_ids": KNOWN[:2]})
        go.set()
        answers = [first.result(30), second.result(30)]
        logged(client, name)

    assert answers[0] == answers[1]
    refused(other, 409)


def test_after_its_time_a_request_id_is_a_new_request(ground):
    with served(ground, idempotency_ttl_seconds=0.2) as client:
        ask(client, KNOWN[:3], name := new())
        body = {"request_id": name, "driver_ids": KNOWN[:2]}
        wait_for(lambda: client.post("/inference", json=body).status_code == 200)
        wait_for(lambda: len(entries(ground, name)) == 2)

    assert predictions.find(ground / "serving/predictions", name)["candidates"][-1]["driver_id"] == KNOWN[1]


def test_a_request_that_failed_can_be_sent_again(ground, monkeypatch):
    with served(ground, cache_seconds=0) as client:
        name = new()
        with monkeypatch.context() as patch:
            patch.setattr(resilience.Store, "newest", lambda *_: 1 / 0)
            refused(client.post("/inference", json={"request_id": name, "driver_ids": [KNOWN[0]]}), 503)

        assert ask(client, [KNOWN[1]], name)["prediction"] == KNOWN[1]


def test_a_restart_remembers_what_was_answered(ground):
    body = {"request_id": new(), "driver_ids": [*KNOWN[:3], PARTIAL, UNKNOWN]}
    with served(ground, epsilon=1) as client:
        first = client.post("/inference", json=body)
    with served(ground) as client:
        again = client.post("/inference", json=body)
        other = client.post("/inference", json={**body, "driver_ids": KNOWN})

    assert again.json() == first.json()
    refused(other, 409)
    assert len(entries(ground, body["request_id"])) == 1


def test_a_restart_just_after_midnight_remembers_what_was_answered_before(own):
    body, log = {"request_id": new(), "driver_ids": KNOWN[:3]}, own / "serving/predictions"
    with served(own) as client:
        first = client.post("/inference", json=body)
        ask(client, KNOWN[:2], other := new())
    [file] = log.glob("*.jsonl")
    before, after = file.read_text(encoding="utf-8").splitlines(keepends=True)
    moved = {**json.loads(before), "time": (CLOCK - timedelta(seconds=1)).isoformat()}
    (log / "2026-03-15.jsonl").write_text(json.dumps(moved) + "\n", encoding="utf-8")
    file.write_text(after, encoding="utf-8")

    with served(own) as client:
        again = client.post("/inference", json=body)

    assert again.json() == first.json()
    assert len(entries(own, body["request_id"])) == len(entries(own, other)) == 1


def test_the_clock_does_not_go_back_at_a_restart(own):
    with served(own) as client:
        ask(client, KNOWN[:2], one := new())
    with served(own) as client:
        ask(client, KNOWN[:2], other := new())

    assert entries(own, one)[0]["time"] < entries(own, other)[0]["time"]


# --- great ids, and ids as text ------------------------------------------------------------------------

BEYOND = [2**53 - 1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1]  # a float keeps the first two


@pytest.fixture(scope="module")
def giants(ground, tmp_path_factory):
    "A service that knows drivers with great ids."
    folder = company.copy(ground, tmp_path_factory.mktemp("giants") / "company")
    for place, driver in enumerate(BEYOND):
        company.put(features.open_store(folder / "features"), [driver], [0.5 + place / 10, 0.5, 5.0], CLOCK - timedelta(hours=1))
    with served(folder) as opened:
        yield opened


@pytest.mark.parametrize("form", [int, str])
def test_an_id_of_64_bits_is_found_answered_and_logged_exactly(giants, form):
    answer = ask(giants, [form(driver) for driver in BEYOND], name := new())
    entry = logged(giants, name)

    assert [c["driver_id"] for c in answer["candidates"]] == [form(driver) for driver in BEYOND]
    assert {c["features"] for c in answer["candidates"]} == {"fresh"} and len({c["score"] for c in answer["candidates"]}) == 5
    assert answer["prediction"] == form(max(BEYOND))
    assert [c["driver_id"] for c in entry["candidates"]] == BEYOND  # the log has numbers, whatever came
    assert entry["prediction"] == max(BEYOND)
    result = CliRunner().invoke(cli.app, ["trace", name, "--env", str(giants.folder / "env.yaml")])
    assert all(f" {driver} " in result.output for driver in BEYOND)


def test_each_driver_comes_back_as_she_was_sent(client):
    drivers = [KNOWN[0], str(KNOWN[1]), UNKNOWN, str(UNKNOWN + 1), str(PARTIAL)]
    first = ask(client, drivers)

    assert [c["driver_id"] for c in first["candidates"]] == drivers
    for drivers in ([KNOWN[0]], [str(KNOWN[0])]):
        assert ask(client, drivers)["prediction"] == drivers[0]


def test_a_number_and_its_text_are_the_same_driver(client):
    answer = ask(client, [KNOWN[0], str(KNOWN[1]), str(KNOWN[0]), KNOWN[1]])

    assert [c["driver_id"] for c in answer["candidates"]] == [str(KNOWN[0]), str(KNOWN[1])]  # text, where it stands there so at all


def test_a_request_that_comes_again_in_the_other_form_gets_the_same_driver_in_that_form(ground):
    def sent(drivers: list) -> bytes:
        answer = client.post("/inference", json={"request_id": name, "driver_ids": drivers})
        assert answer.status_code == 200
        return answer.content

    with served(ground, epsilon=1) as client:
        name = new()
        numbers, texts = sent(KNOWN[:5]), sent([*map(str, KNOWN[:5])])
        assert (sent(KNOWN[:5]), sent([*map(str, KNOWN[4::-1])])) == (numbers, texts)
        other = client.post("/inference", json={"request_id": name, "driver_ids": [*map(str, KNOWN[:4])]})
    with served(ground) as client:
        assert (sent(KNOWN[:5]), sent([*map(str, KNOWN[:5])])) == (numbers, texts)  # also after a restart

    expected = json.loads(numbers)
    for candidate in expected["candidates"]:
        candidate["driver_id"] = str(candidate["driver_id"])
    assert json.loads(texts) == {**expected, "prediction": str(expected["prediction"])}
    refused(other, 409)
    assert len(entries(ground, name)) == 1


def test_an_answer_without_a_driver_has_none_in_text_either(client):
    answer = ask(client, [str(UNKNOWN), str(EMPTY)])

    assert answer["prediction"] is None


def test_a_text_client_and_a_number_client_are_answered_in_the_same_bytes_but_for_the_ids(client):
    drivers = [*KNOWN, *TWINS, PARTIAL, EMPTY, STALE, UNKNOWN]

    numbers, texts = (
        client.post("/inference", json={"request_id": new().ljust(20), "driver_ids": [*map(form, drivers)]}).content for form in (int, str)
    )

    for driver in drivers:
        texts = texts.replace(f'"driver_id":"{driver}"'.encode(), f'"driver_id":{driver}'.encode())
        texts = texts.replace(f'"prediction":"{driver}"'.encode(), f'"prediction":{driver}'.encode())
    hidden = re.compile(rb'"request_id":"[^"]+"')
    assert hidden.sub(b"", texts) == hidden.sub(b"", numbers)


def test_the_description_says_what_a_client_in_javascript_must_do(client):
    described = client.get("/openapi.json").json()["components"]["schemas"]["Inference"]["properties"]["driver_ids"]

    kinds = {kind["type"]: kind for kind in described["items"]["anyOf"]}
    assert (kinds["integer"]["minimum"], kinds["integer"]["exclusiveMaximum"]) == (1, 2**63)  # a float has it exactly, and not 2**63 - 1
    assert kinds["string"]["pattern"] == "^[1-9][0-9]{0,18}$"
    assert "JavaScript" in described["description"]


# --- what is refused -----------------------------------------------------------------------------------

NASTY = {
    "nothing": b"",
    "no JSON": b"driver 7, please",
    "half of it": b'{"request_id": "a", "driver_ids": [1',
    "a number": b"7",
    "null": b"null",
    "a list": b'[{"request_id": "a", "driver_ids": [1]}]',
    "a string": b'"request"',
    "no id": b'{"driver_ids": [1]}',
    "no drivers": b'{"request_id": "a"}',
    "null drivers": b'{"request_id": "a", "driver_ids": null}',
    "empty id": b'{"request_id": "", "driver_ids": [1]}',
    "number as id": b'{"request_id": 7, "driver_ids": [1]}',
    "bool as id": b'{"request_id": true, "driver_ids": [1]}',
    "object as id": b'{"request_id": {"a": 1}, "driver_ids": [1]}',
    "long id": json.dumps({"request_id": "x" * 129, "driver_ids": [1]}).encode(),
    "very long id": json.dumps({"request_id": "x" * 60_000, "driver_ids": [1]}).encode(),
    "lone surrogate": b'{"request_id": "\\ud800", "driver_ids": [1]}',
    "invalid UTF-8": b'{"request_id": "\xff\xfe", "driver_ids": [1]}',
    "UTF-16": '{"request_id": "a", "driver_ids": [true]}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"request_id": "a", "driver_ids": [0]}',
    "empty list": b'{"request_id": "a", "driver_ids": []}',
    "101 drivers": json.dumps({"request_id": "a", "driver_ids": list(range(1, 102))}).encode(),
    "the same 101 times": json.dumps({"request_id": "a", "driver_ids": [1] * 101}).encode(),
    "negative": b'{"request_id": "a", "driver_ids": [-1]}',
    "zero": b'{"request_id": "a", "driver_ids": [0]}',
    "bool": b'{"request_id": "a", "driver_ids": [true]}',
    "float": b'{"request_id": "a", "driver_ids": [1.5]}',
    "whole float": b'{"request_id": "a", "driver_ids": [1.0]}',
    "exponent": b'{"request_id": "a", "driver_ids": [1e3]}',
    "NaN": b'{"request_id": "a", "driver_ids": [NaN]}',
    "infinity": b'{"request_id": "a", "driver_ids": [Infinity, -Infinity]}',
    "NaN as id": b'{"request_id": NaN, "driver_ids": [1]}',
    "64 bits and one": b'{"request_id": "a", "driver_ids": [9223372036854775808]}',
    "huge": b'{"request_id": "a", "driver_ids": [1' + b"0" * 400 + b"]}",
    "too long to be read": b'{"request_id": "a", "driver_ids": [' + b"9" * 5_000 + b"]}",
    "text with a sign": b'{"request_id": "a", "driver_ids": ["+1001"]}',
    "text with a minus": b'{"request_id": "a", "driver_ids": ["-1001"]}',
    "text with a space": b'{"request_id": "a", "driver_ids": [" 1001"]}',
    "text with a line's end": b'{"request_id": "a", "driver_ids": ["1001\\n"]}',
    "text with leading zeros": b'{"request_id": "a", "driver_ids": ["001001"]}',
    "text with a point": b'{"request_id": "a", "driver_ids": ["1001.0"]}',
    "text with an exponent": b'{"request_id": "a", "driver_ids": ["1e3"]}',
    "text with an underscore": b'{"request_id": "a", "driver_ids": ["1_001"]}',
    "text in hex": b'{"request_id": "a", "driver_ids": ["0x3e9"]}',
    "text with commas": b'{"request_id": "a", "driver_ids": ["1,001"]}',
    "text in wide digits": '{"request_id": "a", "driver_ids": ["\uff11\uff10\uff10\uff11"]}'.encode(),
    "text in Arabic digits": '{"request_id": "a", "driver_ids": ["\u0661\u0660\u0660\u0661"]}'.encode(),
    "text in superscript": '{"request_id": "a", "driver_ids": ["\u00b2"]}'.encode(),
    "text of 64 bits and one": b'{"request_id": "a", "driver_ids": ["9223372036854775808"]}',
    "text of twenty digits": b'{"request_id": "a", "driver_ids": ["18446744073709551616"]}',
    "text too long to be read": b'{"request_id": "a", "driver_ids": ["' + b"9" * 5_000 + b'"]}',
    "zero as text": b'{"request_id": "a", "driver_ids": ["0"]}',
    "minus zero": b'{"request_id": "a", "driver_ids": [-0]}',
    "empty text": b'{"request_id": "a", "driver_ids": [""]}',
    "true as text": b'{"request_id": "a", "driver_ids": ["true"]}',
    "one good, one bad": b'{"request_id": "a", "driver_ids": ["1001", "1002x"]}',
    "great float": b'{"request_id": "a", "driver_ids": [1e15]}',
    "float of 64 bits": b'{"request_id": "a", "driver_ids": [9.0e18]}',
    "text for a list": b'{"request_id": "a", "driver_ids": "1001"}',
    "object for a list": b'{"request_id": "a", "driver_ids": {"0": 1}}',
    "null in the list": b'{"request_id": "a", "driver_ids": [1, null]}',
    "list in the list": b'{"request_id": "a", "driver_ids": [[1]]}',
    "deep list": b'{"request_id": "a", "driver_ids": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep and not closed": b"[" * 60_000,
    "duplicated key, the last one wrong": b'{"request_id": "a", "driver_ids": [1], "driver_ids": []}',
    "a path": b'{"request_id": "a", "driver_ids": ["../../etc/passwd"]}',
    "SQL": b'{"request_id": "a", "driver_ids": ["1; DROP TABLE drivers"]}',
}


@pytest.mark.parametrize("name", NASTY)
def test_a_body_that_is_wrong_is_refused_in_plain_words(client, name):
    answer = client.post("/inference", content=NASTY[name], headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code)


def test_a_refusal_names_what_is_wrong_and_the_request(client):
    answer = client.post("/inference", json={"request_id": "mine", "driver_ids": [1, -5, True]})

    message = refused(answer, 422)
    assert answer.json()["request_id"] == "mine"
    assert "driver_ids.1: Input should be greater than or equal to 1" in message and "driver_ids.2: " in message


@pytest.mark.parametrize(
    ("driver", "wrong"),
    [
        (-5, "Input should be greater than or equal to 1"),
        (1.5, "Input should be a valid integer"),
        (None, "Input should be a valid integer"),
        (2**63, "Input should be less than 9223372036854775808"),
        ("007", "String should match pattern '^[1-9][0-9]{0,18}$'"),
        (str(2**63), "Input should be less than 9223372036854775808"),
    ],
)
def test_of_a_driver_that_is_neither_number_nor_text_only_the_nearer_reason_is_said(client, driver, wrong):
    answer = client.post("/inference", json={"request_id": new(), "driver_ids": [1, driver]})

    assert refused(answer, 422) == f"driver_ids.1: {wrong}"


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", "application/json;;"]
)
def test_a_body_of_another_type_is_refused_or_read_as_json(client, kind):
    body = json.dumps({"request_id": new(), "driver_ids": KNOWN[:2]}).encode()

    answer = client.post("/inference", content=body, headers={"content-type": kind} if kind else {})

    assert answer.status_code in (200, 415, 422)
    if answer.status_code != 200:
        refused(answer, answer.status_code)


ODD = ["\x00", "a\x00b", "\n", '"', "\\", "\u2028", "😀", "🇩🇪" * 60, "a" * 128, "../../x", "%s{}$(x)", "\x7f", "ﷺ", "null", " "]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_id_is_answered_logged_and_found(ground, name):
    with served(ground) as client:
        answer = ask(client, KNOWN[:2], name)
    entry = predictions.find(ground / "serving/predictions", name)

    assert answer["request_id"] == entry["request_id"] == name
    assert answer["prediction"] == entry["prediction"]


def test_the_greatest_driver_id_and_a_hundred_candidates_are_answered(client):
    answer = ask(client, [2**63 - 1, *range(2_001, 2_099), KNOWN[0]])

    assert answer["prediction"] == KNOWN[0]
    assert len(answer["candidates"]) == 100


def test_a_key_that_stands_twice_or_that_nobody_knows_does_not_disturb(client):
    body = b'{"request_id": "first", "driver_ids": [0], "extra": {"a": [1]}, "request_id": "%s", "driver_ids": [1001]}'

    answer = client.post("/inference", content=body % new().encode(), headers={"content-type": "application/json"})

    assert answer.status_code == 200 and answer.json()["prediction"] == 1001


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_may_be_as_large_as_the_setting_says_and_not_larger(ground, declared):
    with served(ground, body_bytes=1_000) as client:

        def sent(size: int):
            body = json.dumps({"request_id": new(), "driver_ids": KNOWN[:2]}).encode().ljust(size)
            pieces = body if declared else (body[i : i + 100] for i in range(0, size, 100))
            return client.post("/inference", content=pieces, headers={"content-type": "application/json"})

        assert sent(1_000).status_code == 200
        assert "1,000 bytes" in refused(sent(1_001), 413)
        refused(sent(5_000_000), 413)


@pytest.mark.parametrize("size", ["-1", "x", "1e3", "", "99999999999999999999", "9" * 5_000])
def test_a_size_that_is_none_is_refused(client, size):
    answer = client.post("/inference", content=b"{}", headers={"content-length": size, "content-type": "application/json"})

    refused(answer, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/inference", 405), ("POST", "/health", 405), ("PUT", "/model", 405), ("GET", "/x", 404), ("GET", "/", 404)],
)
def test_what_is_not_there_is_refused_in_the_same_form(client, method, path, status):
    refused(client.request(method, path), status)


def test_a_refused_request_leaves_no_entry_but_a_line_with_its_id(client, tmp_path):
    before = len(entries(client.folder))
    with logging_to(tmp_path / "log.jsonl"):
        client.post("/inference", json={"request_id": "refused", "driver_ids": []})
        ask(client, KNOWN[:2], name := new())
    logged(client, name)

    [line] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (line["event"], line["request_id"], line["status"]) == ("request refused", "refused", 422)
    assert len(entries(client.folder)) == before + 1


def test_an_error_of_ours_tells_its_reader_nothing_of_the_inside(ground, tmp_path, monkeypatch):
    with served(ground) as client, logging_to(tmp_path / "log.jsonl"):
        monkeypatch.setattr(predictions.PredictionLog, "add", lambda *_: 1 / 0)
        quiet = TestClient(client.app, raise_server_exceptions=False)
        message = refused(quiet.post("/inference", json={"request_id": new(), "driver_ids": KNOWN}), 500)

    assert message == "something went wrong here; the service's log says what"
    assert "ZeroDivisionError" in (tmp_path / "log.jsonl").read_text()


# --- the key ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(ground):
    with served(ground, key=KEY) as opened:
        yield opened


WRONG = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
    {"X-API-Key": KEY[:-1].encode()},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic YTpi"},
]


@pytest.mark.parametrize("shown", WRONG)
@pytest.mark.parametrize(("method", "path"), [("POST", "/inference"), ("GET", "/model"), ("GET", "/metrics"), ("GET", "/x")])
def test_without_the_key_nothing_is_told(locked, method, path, shown):
    assert refused(locked.request(method, path, headers=shown), 401) == "the header X-API-Key is missing or wrong"


@pytest.mark.parametrize("shown", [{"X-API-Key": KEY.encode()}, {"Authorization": b"Bearer " + KEY.encode()}])
def test_with_the_key_all_is_open(locked, shown):
    body = {"request_id": new(), "driver_ids": KNOWN[:2]}

    assert locked.post("/inference", json=body, headers=shown).status_code == 200
    assert all(locked.get(path, headers=shown).status_code == 200 for path in ("/model", "/metrics"))


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json"])
def test_some_paths_need_no_key(locked, path):
    assert locked.get(path).status_code == 200


class NeverEqual(bytes):
    "A secret that notices a comparison which ends at the first byte that differs."

    __hash__ = bytes.__hash__

    def __eq__(self, other):
        raise AssertionError("compared byte by byte: how long that takes tells how much of a guess is right")

    __ne__ = __eq__


class Secret(str):
    __hash__ = str.__hash__

    def encode(self, *_) -> bytes:
        return NeverEqual(super().encode())

    def __eq__(self, other):
        raise AssertionError("compared letter by letter")

    __ne__ = __eq__


@pytest.mark.parametrize(("guess", "status"), [(KEY, 200), (KEY[:-1], 401), (KEY[:-1] + "x", 401), ("x", 401)])
def test_keys_are_compared_in_constant_time(ground, guess, status):
    service = api.Serving(ground, schemas.ServingSettings(refresh_seconds=0.05), RIDES)
    with TestClient(api.application(service, Secret(KEY))) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)

        assert client.get("/model", headers={"X-API-Key": guess.encode()}).status_code == status


def test_the_key_stands_in_no_answer_and_no_log(locked, tmp_path):
    with logging_to(tmp_path / "log.jsonl"):
        texts = [locked.get(path).text for path in ("/ready", "/openapi.json", "/model", "/docs")]

    assert not any(KEY in text for text in [*texts, (tmp_path / "log.jsonl").read_text()])


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("key", [None, ""])
def test_beyond_loopback_no_service_starts_without_a_key(own, monkeypatch, host, key):
    if key is not None:
        monkeypatch.setenv("MLOPS_COURSE_API_KEY", key)

    with pytest.raises(project.UserError, match="set a key in the variable MLOPS_COURSE_API_KEY"):
        api.serve(own, schemas.ServingSettings(host=host, port=1), RIDES)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "nonsense"])
def test_a_host_that_is_no_address_of_this_machine_starts_no_service(own, host):
    with pytest.raises(project.UserError, match="is no address of this machine"):
        api.serve(own, schemas.ServingSettings(host=host, port=1), RIDES)


# --- what it says of itself ---------------------------------------------------------------------------------


def test_every_golden_signal_has_a_meter_and_it_moves(ground):
    with served(ground, epsilon=1) as client:
        before = metrics(client)
        ask(client, [KNOWN[0], UNKNOWN])
        client.post("/inference", json={})
        client.get("/nowhere/" + "x" * 50)
        after = metrics(client)

    moved = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0) and "bucket" not in name}
    expected = {
        "serving_requests_total /inference 200": 1,
        "serving_requests_total /inference 422": 1,
        "serving_requests_total other 404": 1,
        "serving_request_seconds_count /inference": 2,
        "serving_candidates_total fresh": 1,
        "serving_candidates_total missing": 1,
        "serving_explored_total": 1,
    }
    assert {name: moved[name] for name in expected} == expected
    assert 0 < moved["serving_request_seconds_sum /inference"] < 60
    for name in ("serving_store_up", "serving_registry_up"):
        assert after[name] == 1
    assert 7_200 <= after["serving_newest_feature_age_seconds"] < 7_200 + 3_600
    assert "serving_log_waiting" in after and "serving_degraded_total" in after
    assert [name for name in after if name.startswith("serving_model_info") and name.split()[1:].count("1") == 1]


# --- an experiment ---------------------------------------------------------------------------------

MARCH = {"name": "march", "arms": {"champion": {"share": 0.5, "epsilon": 0}, "bandit": {"share": 0.5, "policy": "thompson", "epsilon": 0}}}


def end_of(answer: dict, label: int) -> dict:
    return {"request_id": answer["request_id"], CONTRACT.entity: answer["prediction"], CONTRACT.label: label}


def test_an_answer_and_its_entry_say_whose_it_is_and_the_propensity_of_the_whole_choice(ground):
    with served(ground, experiment=MARCH) as client:
        answers = [ask(client, KNOWN[:3]) for _ in range(60)]
        entry = logged(client, answers[0]["request_id"])
        before = metrics(client)

    names = ["role", "policy", "experiment", "arm", "propensity"]
    assert {name: entry[name] for name in names} == {name: answers[0][name] for name in names}
    by_arm = {answer["arm"]: answer for answer in answers}
    assert {arm: (a["role"], a["policy"], a["experiment"]) for arm, a in by_arm.items()} == {
        "champion": ("champion", "greedy", "march"),
        "bandit": ("champion", "thompson", "march"),
    }
    chance = {a["prediction"]: a["propensity"] for a in answers}
    assert {round(a["propensity"] - chance[a["prediction"]], 12) for a in answers} == {0}, "the same driver, whichever arm sends her"
    assert max(chance.values()) > 0.5 and sum(chance.values()) <= 1 + 1e-9
    counted = {arm: before[f"serving_arm_total {arm} march"] for arm in by_arm}
    assert counted == {arm: sum(a["arm"] == arm for a in answers) for arm in by_arm}


def test_without_an_experiment_an_answer_has_no_arm_and_labels_have_no_place(client):
    answer = ask(client, KNOWN[:2])

    assert [answer[name] for name in ("role", "policy", "experiment", "arm")] == ["champion", "greedy", None, None]
    assert "monitoring takes labels" in refused(client.post("/labels", json=[end_of(answer, 1)]), 404)
    assert "/labels" not in client.get("/openapi.json").json()["paths"]


def test_a_bandit_learns_over_http_once_of_each_label_and_knows_it_after_a_restart(own):
    with served(own, experiment=MARCH) as client:
        answers = [ask(client, KNOWN[:3]) for _ in range(40)]
        mine = [answer for answer in answers if answer["arm"] == "bandit"]
        ends = [end_of(answer, int(answer["prediction"] == KNOWN[1])) for answer in answers]
        outcomes = [client.post("/labels", json=ends).json() for _ in range(2)]
        wait_for(lambda: client.get("/model").json()["learned"] == {"bandit": len(mine)})
        assert metrics(client)["serving_learned_labels bandit"] == len(mine)
    with served(own, experiment=MARCH) as client:
        assert client.get("/model").json()["learned"] == {"bandit": len(mine)}
        assert client.get("/model").json()["experiment"]["name"] == "march"

    assert all(sum(outcome.values()) == 40 and outcome["other"] == 40 - len(mine) for outcome in outcomes)
    assert outcomes[1].get("conflict", 0) == 0


@pytest.mark.parametrize(
    "body", [[], "x", [{}], [{"request_id": "r"}], [{"request_id": "r", "driver_id": 1001, "trip_completed": 2}]], ids=str
)
def test_a_label_that_is_none_is_refused_and_nothing_is_learned(ground, body):
    with served(ground, experiment=MARCH) as client:
        answer = client.post("/labels", json=body)

        assert answer.status_code == (200 if body == [] else 422)
        assert client.get("/model").json()["learned"]["bandit"] == 0


def test_the_model_that_answers_is_described(client, pipeline):
    payload = client.get("/model").json()

    assert (payload["version"], payload["run_id"], payload["digest"]) == (pipeline.version, pipeline.run_id, pipeline.digest)
    assert payload["features"] == NAMES
    assert (payload["from"], payload["cache_seconds"]) == ("registry", 5)


def test_the_interactive_page_needs_no_other_host(client):
    page = client.get("/docs").text

    assert "https://" not in page and "http://" not in page


def test_an_entry_of_the_log_holds_all_that_the_answer_rested_on(client, pipeline):
    answer = ask(client, [KNOWN[0], PARTIAL, UNKNOWN], name := new())

    entry = logged(client, name)

    newest_rows = features.newest(features.open_store(client.folder / "features"), [KNOWN[0], PARTIAL], CONTRACT)
    assert {key: entry[key] for key in answer if key != "candidates"} == {key: answer[key] for key in answer if key != "candidates"}
    assert (entry["run_id"], entry["model_digest"]) == (pipeline.run_id, pipeline.digest)
    assert CLOCK <= datetime.fromisoformat(entry["time"]) <= project.now()
    assert 0 < entry["latency_ms"] < 60_000
    for candidate, newest, shown in zip(entry["candidates"], newest_rows, answer["candidates"], strict=False):
        assert {key: candidate[key] for key in shown} == shown
        values = [None if value != value else value for value in newest.values]
        assert candidate["values"] == dict(zip(NAMES, values, strict=True))
        assert datetime.fromisoformat(candidate["known_at"]) == newest.known
    assert entry["candidates"][2]["driver_id"] == UNKNOWN


def test_an_entry_of_the_log_is_a_prediction_as_its_readers_know_it(client):
    ask(client, [KNOWN[0], PARTIAL, UNKNOWN], name := new())

    prediction = predictions.prediction_type(CONTRACT).model_validate(logged(client, name))

    assert (prediction.request_id, len(prediction.candidates)) == (name, 3)


def test_from_a_request_id_the_command_line_goes_back_to_model_run_and_snapshot(client, pipeline):
    ask(client, KNOWN[:2], name := new())
    logged(client, name)

    result = CliRunner().invoke(cli.app, ["trace", name, "--env", str(client.folder / "env.yaml")])

    assert result.exit_code == 0, result.output
    assert pipeline.run_id in result.output and "snapshot of 1.0" in result.output
    assert result.output.count("candidate ") == 2
    assert re.search(rf"^request_id +{name}$", result.output, re.M)
    assert not set("{}[]\"'") & set(result.output), "what is inside of a value has a line or a column of its own"
    header, one, two = [line for line in result.output.splitlines() if "driver_id" in line or line.startswith("candidate ")]
    assert header.index("score") == one.index(one.split()[2]) == two.index(two.split()[2])


def test_a_request_that_nobody_has_answered_is_said_not_to_be_there(ground):
    result = CliRunner().invoke(cli.app, ["trace", "never asked", "--env", str(ground / "env.yaml")])

    assert result.exit_code == 1
    assert "never asked" in result.output and "Traceback" not in result.output


# --- how old a feature may be --------------------------------------------------------------------------------


def newer(folder) -> None:
    company.put(features.open_store(folder / "features"), [KNOWN[0]], [0.111, 0.5, 5], CLOCK - timedelta(hours=1))


def used(client) -> float:
    "The first feature of the first driver as an answer used it."
    ask(client, [KNOWN[0]], name := new())
    return logged(client, name)["candidates"][0]["values"][NAMES[0]]


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_an_answer_is_at_most_so_much_older_than_the_store(own, seconds):
    with served(own, cache_seconds=seconds, log_seconds=0.01) as client:
        before = used(client)
        newer(own)
        written, seen = time.monotonic(), {}
        while not seen.get("new"):
            asked = time.monotonic()
            now = "new" if used(client) == 0.111 else "old"
            assert now == "new" or asked < written + seconds
            seen[now] = True

    assert before != 0.111


def test_within_its_time_a_driver_is_answered_from_memory(own, monkeypatch):
    with served(own, cache_seconds=3_600) as client:
        before = used(client)
        newer(own)
        after = used(client)
        monkeypatch.setattr(resilience.Store, "newest", lambda *_: 1 / 0)
        again = used(client)

    assert before == after == again


def test_requests_at_the_same_time_share_a_question_to_the_store(ground, monkeypatch):
    asked, arrived, go = [], threading.Event(), threading.Event()
    with served(ground, cache_seconds=0, store_seconds=60) as client, ThreadPoolExecutor(20) as pool:
        newest = resilience.Store.newest

        def slow(store, drivers):
            asked.append(drivers)
            arrived.set()
            go.wait(30)
            return newest(store, drivers)

        monkeypatch.setattr(resilience.Store, "newest", slow)
        answers = [pool.submit(ask, client, [KNOWN[0]])]
        assert arrived.wait(30)
        answers += [pool.submit(ask, client, [driver]) for driver in KNOWN[1:20]]
        wait_for(lambda: metrics(client)["serving_requests_in_progress"] == 21)
        go.set()
        winners = [answer.result(30)["prediction"] for answer in answers]

    assert winners == KNOWN[:20]
    assert len(asked) <= 3


def test_a_store_that_a_build_has_put_in_its_place_is_noticed(own):
    with served(own, cache_seconds=0) as client:
        before = used(client)
        rows = company.statistics().assign(**{NAMES[0]: 0.222})
        rows.to_parquet(own / "data/statistics.parquet", index=False)
        features.build(
            own / "features", {"statistics": own / "data/statistics.parquet"}, "company", features.FeatureSettings(), CLOCK, CONTRACT
        )
        after = used(client)

    assert (before != 0.222, after) == (True, 0.222)


def test_a_row_from_the_future_is_not_there(own):
    company.put(features.open_store(own / "features"), [KNOWN[0]], [0.9, 0.9, 9], CLOCK + timedelta(days=365))

    with served(own, cache_seconds=0) as client:
        answer = ask(client, KNOWN[:2], name := new())

    assert answer["prediction"] == KNOWN[1]
    assert [c["features"] for c in answer["candidates"]] == ["missing", "fresh"]
    assert logged(client, name)["candidates"][0]["known_at"] is None


def test_a_store_whose_times_depend_on_a_zone_is_not_read_and_the_log_says_what_to_do(own):
    settings = own / "features/feature_store.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace(stores.SQLITE, "sqlite"), encoding="utf-8")

    service = api.Serving(own, schemas.ServingSettings(refresh_seconds=0.05), RIDES)

    with logging_to(own / "log.jsonl", service="serving"), TestClient(api.application(service, None)) as client:
        ready = wait_for(lambda: (response := client.get("/ready")).json()["trouble"] and response)

    assert ready.status_code == 503 and ready.json()["trouble"][0] == "the feature store does not answer"
    [line] = [line for line in (own / "log.jsonl").read_text(encoding="utf-8").splitlines() if "feature store does not answer" in line]
    assert re.search("`make run.*` builds it anew", json.loads(line)["reason"])


# --- another champion ---------------------------------------------------------------------------------------------


def scores(client) -> list[float]:
    return [c["score"] for c in ask(client, KNOWN)["candidates"]]


def version(client) -> str:
    return client.get("/model").json()["version"]


def test_a_new_champion_is_taken_over_and_scores_also_the_drivers_in_memory(own):
    mlflow = registry.connect(own / "mlflow", RIDES.name)
    with served(own, cache_seconds=3_600) as client:
        old, answer = scores(client), ask(client, KNOWN, name := new())
        registry.promote(mlflow, "2")
        wait_for(lambda: version(client) == "2")
        new_scores, again = scores(client), ask(client, KNOWN, name)
        registry.rollback(mlflow)
        wait_for(lambda: version(client) == "1")
        back = scores(client)

    rows = features.online(features.open_store(own / "features"), KNOWN, CONTRACT, moment=CLOCK)
    assert new_scores == pytest.approx(registry.load(mlflow, "2").probability(rows), abs=1e-9, rel=0)
    assert old == back != new_scores
    assert again == answer


class Slow(dict):
    "A dictionary that takes its time when it is gone through, as one of very many drivers does."

    def __iter__(self):
        for driver in super().__iter__():
            time.sleep(0.005)
            yield driver

    def keys(self):
        return iter(self)

    def values(self):
        return (self[driver] for driver in self)

    def items(self):
        return ((driver, self[driver]) for driver in self)


def test_new_drivers_who_come_while_a_promotion_goes_through_those_in_memory_do_not_end_the_following(own):
    mlflow = registry.connect(own / "mlflow", RIDES.name)
    with served(own, cache_seconds=3_600) as client:
        ask(client, KNOWN)
        for change, expected in ((lambda: registry.promote(mlflow, "2"), "2"), (lambda: registry.rollback(mlflow), "1")):
            client.service.entities.cache.rows = Slow(client.service.entities.cache.rows)
            change()
            strangers = itertools.count(50_000)
            wait_for(lambda strangers=strangers, expected=expected: ask(client, [next(strangers)])["version"] == expected)

        assert client.get("/ready").json() == {"ready": True, "trouble": []}
        assert not [name for name, value in metrics(client).items() if name.startswith("serving_task_failures_total") and value]


def test_what_comes_while_a_promotion_scores_is_neither_lost_nor_of_the_old_model(own, monkeypatch):
    "New drivers, and newer features of a driver in memory; then the store is gone, so that only memory can know."
    scores, scoring, go = serving.scores_of, threading.Event(), threading.Event()

    def slow(model, rows, contract):
        if threading.current_thread().name != "feature store" and len(rows) > 1:
            scoring.set()
            go.wait(30)
        return scores(model, rows, contract)

    mlflow = registry.connect(own / "mlflow", RIDES.name)
    with served(own, cache_seconds=0) as client:
        ask(client, KNOWN[:5])
        monkeypatch.setattr(serving, "scores_of", slow)
        registry.promote(mlflow, "2")
        assert scoring.wait(30)
        newer(own)
        assert ask(client, [*KNOWN[:10], PARTIAL])["version"] == "1"
        monkeypatch.setattr(resilience.Store, "newest", lambda *_: 1 / 0)
        go.set()
        wait_for(lambda: version(client) == "2")
        answer = ask(client, [*KNOWN[:10], PARTIAL])

    rows = features.online(features.open_store(own / "features"), [*KNOWN[:10], PARTIAL], CONTRACT, moment=CLOCK)
    assert answer["degraded"] and rows[NAMES[0]].iloc[0] == 0.111
    assert [c["score"] for c in answer["candidates"]] == pytest.approx(registry.load(mlflow, "2").probability(rows), abs=1e-9, rel=0)


def test_a_model_of_a_registry_that_was_made_anew_is_taken_over_although_its_version_is_the_same(own):
    with served(own) as client:
        run = client.get("/model").json()["run_id"]
        shutil.rmtree(own / "mlflow")
        company.make_registry(own, (0.02,))
        wait_for(lambda: client.get("/model").json()["run_id"] != run, 10)

        assert version(client) == "1"


def promote_unfit(folder) -> None:
    "A champion that loads, and then cannot answer: it was trained on columns of other names."
    client, model = registry.connect(folder / "mlflow", RIDES.name), company.model(1.0)
    rows = features.pd.DataFrame({name: [0.1, 0.2, 0.3, 0.4] for name in "abc"})
    run = client.create_run(registry.experiment(client)).info.run_id
    registry.log_model(client, run, model.fit(rows, [0, 1, 0, 1]), CONTRACT.kinds)
    client.set_terminated(run)
    registry.promote(client, registry.register(client, run, "unfit"))


def test_a_champion_that_cannot_answer_never_takes_the_place_of_one_that_can(own):
    with served(own) as client:
        before = scores(client)
        promote_unfit(own)
        wait_for(lambda: client.get("/ready").json()["trouble"])
        assert (client.get("/ready").status_code, version(client), scores(client)) == (200, "1", before)
    shutil.move(own / "mlflow", own / "gone")

    with served(own) as client:
        assert (version(client), scores(client)) == ("1", before)
        assert client.get("/model").json()["from"] == "copy"


def test_a_service_that_starts_with_a_champion_that_cannot_answer_takes_over_the_next_one(own):
    promote_unfit(own)
    service = api.Serving(own, schemas.ServingSettings(refresh_seconds=0.05), RIDES)
    with TestClient(api.application(service)) as client:
        wait_for(lambda: "not looked" not in str(client.get("/ready").json()))
        assert client.get("/ready").status_code == 503
        registry.rollback(registry.connect(own / "mlflow", RIDES.name))

        wait_for(lambda: client.get("/ready").status_code == 200, 10)


def test_without_a_champion_the_service_lives_and_says_what_is_missing(own):
    registry.connect(own / "mlflow", RIDES.name).delete_registered_model_alias(RIDES.name, "champion")
    service = api.Serving(own, schemas.ServingSettings(refresh_seconds=0.05), RIDES)
    with TestClient(api.application(service)) as client:
        wait_for(lambda: "no champion" in str(client.get("/ready").json()))
        assert client.get("/ready").status_code == 503
        assert client.get("/health").json() == {"alive": True}
        refused(client.get("/model"), 503)
        assert "no model is ready" in refused(client.post("/inference", json={"request_id": new(), "driver_ids": KNOWN}), 503)


# --- what goes on behind the requests -------------------------------------------------------------------------------


class Panic(BaseException):
    "What an extension in another language raises, and no `except Exception` sees."


FAULTS = [ValueError("x"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), SystemExit(1), asyncio.CancelledError(), Panic()]


@contextmanager
def failing(owner, name: str, fault: BaseException):
    "While the block runs, a function raises; what it does is counted in the list."
    calls = []

    def raises(*_, **__):
        calls.append(name)
        raise fault

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, raises)
        yield calls


def failures(client, task: str) -> float:
    return metrics(client)[f"serving_task_failures_total {task}"]


def trouble(client) -> str:
    return "; ".join(client.get("/ready").json()["trouble"])


@pytest.mark.parametrize("fault", FAULTS[::2], ids=lambda fault: type(fault).__name__)
def test_whatever_ends_a_look_for_the_champion_is_said_and_counted_and_the_next_look_is_made(own, fault):
    with served(own) as client:
        client.service.background.pause = 0.05
        assert failures(client, "champion") == 0
        with failing(resilience.Champion, "look", fault):
            wait_for(lambda: "champion" in trouble(client))
            assert f"the task champion has failed ({type(fault).__name__}) and is tried again" in trouble(client)
            wait_for(lambda: failures(client, "champion") >= 2)
            assert ask(client, KNOWN)["version"] == "1"
        registry.promote(registry.connect(own / "mlflow", RIDES.name), "2")

        wait_for(lambda: version(client) == "2")
        assert wait_for(lambda: not trouble(client))


def test_a_champion_that_cannot_score_the_drivers_in_memory_is_said_and_the_old_one_answers_on(own):
    with served(own) as client:
        client.service.background.pause = 0.05
        before = scores(client)
        with failing(resilience, "rescored", RuntimeError("dictionary changed size during iteration")):
            registry.promote(registry.connect(own / "mlflow", RIDES.name), "2")
            wait_for(lambda: "champion has failed (RuntimeError)" in trouble(client))
            assert (client.get("/ready").status_code, version(client), scores(client)) == (200, "1", before)

        wait_for(lambda: version(client) == "2")


@pytest.mark.parametrize("where", ["ask", "take"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_ends_a_question_to_the_store_is_said_and_the_next_question_is_asked(ground, where, fault):
    with served(ground, cache_seconds=0) as client:
        client.service.background.pause = 0.05
        good = ask(client, KNOWN[:3])
        with failing(client.service.entities.cache.store, where, fault):
            assert ask(client, KNOWN[:3])["degraded"]
            assert client.get("/ready").status_code == 503
            assert "the feature store does not answer" in trouble(client)
        wait_for(lambda: client.get("/ready").json() == {"ready": True, "trouble": []})

        assert ask(client, KNOWN[:3])["candidates"] == good["candidates"]
        assert (failures(client, "feature store") > 0) == (where == "ask" and not isinstance(fault, Exception))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_ends_a_write_of_the_log_is_said_and_counted_and_the_answers_are_written_later(own, fault):
    with served(own, log_seconds=0.01) as client:
        client.service.background.pause = 0.05
        with failing(predictions, "append", fault):
            names = [new() for _ in range(3)]
            for name in names:
                ask(client, KNOWN[:2], name)
            wait_for(lambda: "prediction log" in trouble(client))
            assert f"the task prediction log has failed ({type(fault).__name__})" in trouble(client)
            wait_for(lambda: failures(client, "prediction log") >= 2)
            assert metrics(client)["serving_log_waiting"] == 3
        wait_for(lambda: len(entries(own)) == 3)

        assert wait_for(lambda: not trouble(client))
    assert [entry["request_id"] for entry in entries(own)] == names


def test_what_the_disk_takes_while_a_service_ends_is_written_although_a_write_has_failed_before(own):
    with served(own, log_seconds=0.01) as client:
        client.service.background.pause = 0.05
        with failing(predictions, "append", MemoryError()) as calls:
            ask(client, KNOWN[:2], name := new())
            wait_for(lambda: calls)

    assert len(entries(own, name)) == 1


def test_a_retention_that_fails_is_said_and_counted_and_tried_again(own):
    folder = own / "serving/predictions"
    folder.mkdir(parents=True)
    for day in ("2026-03-15", "2025-12-15", "2025-12-14"):
        (folder / f"{day}.jsonl").touch()
    with failing(predictions, "expire", PermissionError(13, "Permission denied")), served(own) as client:
        client.service.background.pause = 0.05
        wait_for(lambda: "the task retention has failed (PermissionError)" in trouble(client))
        assert failures(client, "retention") >= 1
    with served(own) as client:
        wait_for(lambda: not (folder / "2025-12-14.jsonl").exists())


def test_a_log_of_the_service_that_cannot_be_written_ends_no_task(own, monkeypatch):
    with served(own) as client:
        client.service.background.pause = 0.05
        with monkeypatch.context() as patch:
            for level in ("debug", "info", "warning", "error"):
                patch.setattr(resilience.log, level, lambda *_, **__: 1 / 0, raising=False)
            with failing(resilience.Champion, "look", ValueError("x")) as calls:
                wait_for(lambda: len(calls) > 3)
        registry.promote(registry.connect(own / "mlflow", RIDES.name), "2")

        wait_for(lambda: version(client) == "2")


def test_a_question_that_is_answered_after_the_service_has_ended_disturbs_nobody(monkeypatch):
    asked, go, died, before = threading.Event(), threading.Event(), [], threading.enumerate()
    monkeypatch.setattr(threading, "excepthook", died.append)
    background = resilience.in_background()

    def slow(ids):
        asked.set()
        go.wait(30)

    async def service():
        resilience.RequestCoalescer(slow, lambda answer: True, 0.01, background).request([1])
        await asyncio.to_thread(asked.wait, 30)

    asyncio.run(service())
    [thread] = [thread for thread in threading.enumerate() if thread.name == "feature store" and thread not in before]
    go.set()
    time.sleep(0.2)

    assert thread.is_alive() and died == [] and background.trouble == {}


# --- the prediction log -----------------------------------------------------------------------------------------------


def test_where_the_log_cannot_be_written_answers_wait_and_then_are_refused_and_none_is_lost(own, monkeypatch):
    names, append = [new() for _ in range(6)], predictions.append

    def full(file, lines):
        raise OSError(28, "No space left on device")

    with served(own, log_waiting=5, log_seconds=0.01) as client:
        monkeypatch.setattr(predictions, "append", full)
        for name in names[:5]:
            ask(client, KNOWN[:2], name)
        body = {"request_id": names[5], "driver_ids": KNOWN[:2]}
        assert "log cannot be written" in refused(client.post("/inference", json=body), 503)
        why = ["the prediction log cannot be written: No space left on device"]
        ready = wait_for(lambda: (response := client.get("/ready")).json()["trouble"] == why and response)  # the writer has tried
        assert ready.status_code == 503
        assert client.get("/health").status_code == 200
        assert metrics(client)["serving_log_waiting"] == 5
        assert ask(client, KNOWN[:2], names[0])["prediction"]  # a repeat needs no entry
        monkeypatch.setattr(predictions, "append", append)
        wait_for(lambda: client.get("/ready").status_code == 200)
        ask(client, KNOWN[:2], names[5])

    assert [entry["request_id"] for entry in entries(own)] == names


def test_a_full_log_is_a_reason_before_its_writer_has_tried(own):
    with served(own, log_waiting=2, log_seconds=3_600) as client:
        assert client.get("/ready").status_code == 200
        for _ in range(2):
            ask(client, KNOWN[:2])

        ready = client.get("/ready")

        assert (ready.status_code, ready.json()["trouble"]) == (503, ["too many answers wait to be written: 2 of 2"])


def test_half_a_line_of_a_killed_service_is_taken_away_and_the_rest_is_read(own):
    with served(own) as client:
        ask(client, KNOWN[:2], one := new())
    [file] = (own / "serving/predictions").glob("*.jsonl")
    with open(file, "ab") as opened:
        opened.write(b'{"time":"2026-03-16T00:00:01+00:00","request_id":"half')

    with served(own) as client:
        ask(client, KNOWN[:2], other := new())

    assert [entry["request_id"] for entry in entries(own)] == [one, other]


def test_foreign_lines_in_the_log_do_not_keep_a_service_from_starting(own):
    folder = own / "serving/predictions"
    folder.mkdir(parents=True)
    (folder / "2026-03-16.jsonl").write_bytes(b'7\nnull\n{}\n[]\n\xff\n{"time": "x", "request_id": 1}\n' + b"\x00" * 100 + b"\n")

    with served(own) as client:
        assert ask(client, KNOWN[:2])["prediction"] in KNOWN[:2]


# --- how long the log is kept -------------------------------------------------------------------------------------------


def test_files_that_are_too_old_go_when_the_service_starts_and_when_a_day_is_over(own, monkeypatch):
    folder = own / "serving/predictions"
    days_of(folder, 0, 1, 89, 90, 91, 92, 200, 400)
    with served(own):
        wait_for(lambda: ages(folder) == [0, 1, 89, 90])
        monkeypatch.setattr(project, "now", lambda: CLOCK + timedelta(days=1, hours=1))
        wait_for(lambda: ages(folder) == [0, 1, 89])
        monkeypatch.setattr(project, "now", lambda: CLOCK + timedelta(days=2))
        wait_for(lambda: ages(folder) == [0, 1])


@pytest.mark.parametrize("days", [0, None])
def test_without_a_limit_the_log_is_kept_for_ever(own, days):
    folder = own / "serving/predictions"
    days_of(folder, *range(0, 4_000, 100))
    with served(own, retention_days=days) as client:
        wait_for(lambda: client.service.retention._day)

    assert len(ages(folder)) == 40


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70_000),
        ("port", 0),
        ("port", -1),
        ("epsilon", 1.1),
        ("epsilon", -0.1),
        ("epsilon", float("nan")),
        ("cache_seconds", -1),
        ("cache_seconds", float("nan")),
        ("store_seconds", 0),
        ("refresh_seconds", 0),
        ("log_seconds", 0),
        ("log_waiting", 0),
        ("body_bytes", 0),
        ("stale_if_error_seconds", -1),
        ("idempotency_ttl_seconds", -1),
        ("retention_days", -1),
        ("retention_days", 0.5),
        ("retention_days", float("inf")),
        ("colour", "red"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        schemas.ServingSettings(**{name: value})
