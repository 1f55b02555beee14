"""Whom a request may ask for, and what it gets: a project whose requests bring features, and one whose requests name two entities."""

import itertools
import json
import time
import warnings
from contextlib import contextmanager
from datetime import datetime, timedelta

import feast
import numpy as np
import pandas as pd
import pytest
import shop
import skops.io
import yaml
from feast import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError, create_model
from rides import RIDES
from shop import SHOP

from mlops_course import api, batch, clocks, features, lookup, models, predictions, project, registry, schemas, serving
from mlops_course.lookup import Newest
from mlops_course.problem import KNOWN, Column, Project

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers another client's library
    from fastapi.testclient import TestClient

NAMES, KINDS = list(shop.CONTRACT.features), shop.CONTRACT.kinds
HABITS = {  # orders, member, city, constant
    "Ann": (3.0, 1.0, "Hue", 1.0),
    "Ben": (0.0, 0.0, "Hanoi", 1.0),
    "Cem": (7.0, None, None, 1.0),
    "Dua": (None, None, None, None),
    "7": (2.0, 1.0, "a city that nobody has seen", 1.0),
    "Fay": (2.0, 0.0, "Sa Pa", 1.0),  # a rare one
}
OLD = {"Eva": (5.0, 1.0, "Hue", 1.0)}  # too old to count
numbers = itertools.count()


def new() -> str:
    return f"order {next(numbers)}"


def frame(rows: list[tuple]) -> pd.DataFrame:
    "Rows of all features."
    return pd.DataFrame(rows, columns=NAMES, dtype=object)


@pytest.fixture(scope="module")
def model() -> registry.Loaded:
    "As training makes it, of past orders; saved and opened again."
    fitted = models.fit("logistic regression", shop.examples(), 1, shop.CONTRACT)
    opened = registry.loads(registry.canonical(skops.io.dumps(fitted)))
    return registry.Loaded(opened, SHOP.name, "1", "a run", KINDS, "a digest")


def plain(of: Project, probability) -> registry.Loaded:
    "A model that a test can see through."
    loaded = registry.Loaded(None, of.name, "1", "another run", of.contract.kinds, "a digest")
    object.__setattr__(loaded, "probability", probability)
    return loaded


class Store:
    "An online store in memory."

    def __init__(self, rows: dict):
        self.rows, self.asked, self.works = rows, [], True

    def newest(self, keys: list) -> tuple[list[Newest], timedelta]:
        assert self.works
        self.asked.append(sorted(keys))
        moment = project.now()
        old, n = {key: Newest(row, moment - timedelta(days=30)) for key, row in OLD.items()}, len(next(iter(self.rows.values())))
        known = {key: Newest(row, moment - timedelta(hours=1)) for key, row in self.rows.items()}
        return [(known | old).get(key, Newest((None,) * n, None)) for key in keys], timedelta(days=7)


@contextmanager
def served(folder, model, of: Project = SHOP, rows: dict | None = None, store: bool = True, **changes):
    "A client of a service of a project, on a store in memory."
    described = schemas.ServingSettings(**{"epsilon": 0, "store_seconds": 5, "refresh_seconds": 0.05, **changes})
    service = api.Serving(folder, described, of)
    if store:
        service.entities.store = Store(HABITS if rows is None else rows)
    seen = service.entities.champion
    seen.look = lambda: None if seen.model else (model, "registry")
    with TestClient(api.application(service)) as client:
        client.service, client.folder, until = service, folder, time.monotonic() + 30
        while client.get("/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.01)
        yield client
    clocks.leave()


@pytest.fixture(scope="module")
def client(model, tmp_path_factory):
    with served(tmp_path_factory.mktemp("shop"), model) as opened:
        yield opened


def rank(client, *asked: dict, name: str | None = None) -> dict:
    answer = client.post("/rank", json={"request_id": name or new(), "candidates": asked})
    assert answer.status_code == 200, answer.text
    return api.answer_type(SHOP).model_validate_json(answer.text, strict=True).model_dump()


def score(client, *rows: dict) -> list[dict]:
    answer = client.post("/score", json={"rows": [{"request_id": new(), **row} for row in rows]})
    assert answer.status_code == 200, answer.text
    return api.scores_type(SHOP).model_validate_json(answer.text, strict=True).model_dump()["rows"]


def lines(client, name: str) -> list[dict]:
    "The entries of a request in the prediction log, as soon as there are any."
    until = time.monotonic() + 30
    while not (result := predictions.find(client.folder / "serving/predictions", name)):
        assert time.monotonic() < until
        time.sleep(0.01)
    return [result]


ORDER = {"customer": "Ann", "basket": 40.0, "device": "phone"}

# --- the same row, the same score -------------------------------------------------------------------

WHO = st.sampled_from([*HABITS, *OLD, "nobody"])
BASKETS = st.floats(0, 1e6, allow_nan=False) | st.integers(0, 100)
DEVICES = (
    st.sampled_from(["phone", "laptop", "fridge", "7", "é"])
    | st.none()
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(str.strip)
)


@given(st.lists(st.tuples(WHO, BASKETS, DEVICES), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_row_has_the_same_score_alone_among_others_ranked_in_a_batch_and_of_the_registered_model(client, model, drawn):
    rows = frame([(*HABITS.get(who, (None,) * 4), basket, device) for who, basket, device in drawn])
    named = rows.assign(customer=[who for who, *_ in drawn], event_timestamp=pd.Timestamp(project.now()))
    expected = batch.score(model, named, shop.CONTRACT).score.tolist()
    assert expected == [model.probability(rows.iloc[[i]])[0] for i in range(len(rows))]
    expected = np.round(expected, 12).tolist()
    asked = [dict(zip(ORDER, row, strict=True)) for row in drawn]

    together, alone = score(client, *asked), [score(client, row)[0] for row in asked]
    ranked = [rank(client, row)["candidates"][0] for row in asked]

    for result in (together, alone, ranked):
        assert [row["score"] for row in result] == expected


def test_what_is_known_of_a_row_is_told_and_what_is_too_old_in_the_store_does_not_count(client):
    whose = ["Ann", "Cem", "Dua", "Eva", "nobody"]
    result = rank(client, *({**ORDER, "customer": who} for who in whose))["candidates"]

    assert [row["features"] for row in result] == ["fresh", "partial", *["unknown"] * 3]
    assert len({row["score"] for row in result[2:]}) == 1
    described = client.get("/openapi.json").json()["components"]["schemas"]["Candidate"]["properties"]["features"]
    assert "unknown: nothing stored is known of the customer" in described["description"]


def test_the_log_has_the_same_word_for_one_of_whom_nothing_stored_is_known(client):
    rank(client, {**ORDER, "customer": "nobody"}, name=(name := new()))

    assert [seen["features"] for entry in lines(client, name) for seen in entry["candidates"]] == ["unknown"]
    assert 'serving_candidates_total{features="unknown"}' in client.get("/metrics").text


def test_blanks_around_a_text_do_not_count_as_in_files(client):
    plain, padded = score(client, ORDER, {**ORDER, "customer": " Ann\t", "device": "phone\u00a0"})

    assert (padded["customer"], padded["features"], padded["score"]) == ("Ann", "fresh", plain["score"])


def test_the_store_is_asked_by_entity_and_not_by_what_a_request_brings(client):
    client.service.entities.store.asked.clear()
    answers = [rank(client, {**ORDER, "basket": float(basket)}) for basket in range(20)]

    assert len({answer["score"] for answer in answers}) == 20
    assert len(client.service.entities.store.asked) <= 1


def test_without_the_store_the_last_known_features_do_and_the_answer_says_so(tmp_path, model):
    with served(tmp_path, model, cache_seconds=0, store_seconds=0.2) as client:
        before = score(client, ORDER)[0]
        client.service.entities.store.works = False
        after = score(client, ORDER)[0]

    assert (before["degraded"], after["degraded"]) == (False, True)
    assert before["score"] == after["score"]


# --- what is answered, and written down ----------------------------------------------------------------


def test_the_best_candidate_wins_and_equal_ones_go_by_name(client):
    best = rank(client, {**ORDER, "customer": "Ben"}, {**ORDER, "customer": "Ann", "basket": 1.0})
    equal = rank(client, *({**ORDER, "customer": who} for who in ("nobody", "Eva", "Dua")))

    assert best["prediction"] == max(best["candidates"], key=lambda c: c["score"])["customer"]
    assert equal["prediction"] == "Dua"


def test_a_row_is_worth_it_above_the_projects_own_break_even(client):
    result = score(client, *({**ORDER, "customer": "Ben", "basket": float(basket)} for basket in range(0, 90, 3)))

    assert {row["worth_promising"] for row in result} == {True, False}
    assert all(row["worth_promising"] == (row["score"] > SHOP.costs.break_even) for row in result)


def test_an_entry_of_the_log_has_the_entity_and_all_features_and_is_a_prediction_to_its_readers(client, model):
    rank(client, {**ORDER, "customer": "Cem", "device": None}, name=(name := new()))
    [entry] = lines(client, name)
    [seen] = entry["candidates"]

    assert (seen["customer"], seen["features"]) == ("Cem", "partial")
    assert seen["values"] == dict(zip(NAMES, (7.0, None, None, 1.0, 40.0, None), strict=True))
    assert datetime.fromisoformat(seen[KNOWN]) < datetime.fromisoformat(entry["time"])
    read = predictions.prediction_type(shop.CONTRACT).model_validate(entry).model_dump()
    assert read["candidates"][0]["values"] == seen["values"] and read["prediction"] == "Cem"
    assert model.probability(frame([tuple(seen["values"].values())])).round(12)[0] == seen["score"]


def test_each_row_to_score_is_a_request_of_its_own(client):
    rows = [{"request_id": new(), **ORDER}, {"request_id": new(), **ORDER, "customer": "Ben"}]
    answer = client.post("/score", json={"rows": rows})

    for row, described in zip(rows, answer.json()["rows"], strict=True):
        [entry] = lines(client, row["request_id"])
        assert (entry["prediction"], entry["score"], entry["propensity"]) == (row["customer"], described["score"], 1.0)
    assert client.post("/score", json={"rows": rows}).content == answer.content


def test_two_rows_of_one_request_id_are_refused_by_its_name_and_no_row_is_answered(client):
    rows = [{"request_id": (name := new()), **ORDER}, {"request_id": new(), **ORDER}, {"request_id": name, **ORDER, "basket": 1}]
    answer = client.post("/score", json={"rows": rows})

    assert (answer.status_code, answer.json()["request_id"]) == (422, name)
    reason = "rows.2: its request id stands in rows.0 too, with other content; each row needs a request id of its own"
    assert answer.json()["error"] == reason
    assert client.post("/score", json={"rows": rows[1:]}).status_code == 200  # no id is used up
    score(client, {**ORDER, "request_id": (last := new())})
    lines(client, last)
    assert len(lines(client, name)) == 1 and lines(client, name)[0]["candidates"][0]["values"]["basket"] == 1


def test_a_row_whose_request_id_is_used_is_refused_with_that_id_and_no_row_is_answered(client):
    score(client, {**ORDER, "request_id": (used := new())})
    rows = [{"request_id": new(), **ORDER}, {"request_id": used, **ORDER, "basket": 1}]
    answer = client.post("/score", json={"rows": rows})

    assert (answer.status_code, answer.json()["request_id"]) == (409, used)
    assert answer.json()["error"].startswith("rows.1: this request id was used")
    assert client.post("/score", json={"rows": [{**rows[0], "basket": 2}]}).status_code == 200


@pytest.mark.parametrize("change", [{"basket": 41.0}, {"device": "laptop"}, {"device": None}, {"customer": "Ben"}])
def test_a_request_id_that_comes_again_with_anything_else_is_refused_also_after_a_restart(tmp_path, model, change):
    body = {"request_id": "one", "candidates": [ORDER, {**ORDER, "customer": "Cem"}]}
    other = {"request_id": "one", "candidates": [{**ORDER, **change}, {**ORDER, "customer": "Cem"}]}
    with served(tmp_path, model) as client:
        first = client.post("/rank", json=body)
        again, refused = client.post("/rank", json={**body, "candidates": body["candidates"][::-1]}), client.post("/rank", json=other)
        assert (again.content, refused.status_code) == (first.content, 409)
    with served(tmp_path, model) as client:
        again, refused = client.post("/rank", json=body), client.post("/rank", json=other)

    assert (again.json(), refused.status_code) == (first.json(), 409)
    assert refused.json()["request_id"] == "one"


def test_a_candidate_who_is_named_twice_counts_once_and_is_refused_with_other_features(client):
    twice = rank(client, ORDER, {**ORDER, "customer": "Ben"}, ORDER)
    body = {"request_id": (name := new()), "candidates": [ORDER, {**ORDER, "basket": 3}]}
    answer = client.post("/rank", json=body)

    assert [c["customer"] for c in twice["candidates"]] == ["Ann", "Ben"]
    assert (answer.status_code, answer.json()["request_id"]) == (422, name)
    assert answer.json()["error"] == "customer Ann stands there twice, with different keys or features"


# --- what may come in ------------------------------------------------------------------------------------

WRONG = {
    "no entity": {"customer": None},
    "empty entity": {"customer": ""},
    "long entity": {"customer": "x" * 129},
    "number for an entity": {"customer": 7},
    "below the contract's limit": {"basket": -0.01},
    "text for a number": {"basket": "3.5"},
    "boolean for a number": {"basket": True},
    "no number where the contract wants one": {"basket": None},
    "empty category": {"device": ""},
    "number for a category": {"device": 7},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_contract_does_not_allow_is_refused_by_its_own_name(client, name):
    [column] = WRONG[name]
    answer = client.post("/rank", json={"request_id": new(), "candidates": [ORDER | WRONG[name]]})

    assert answer.status_code == 422
    assert f"candidates.0.{column}: " in answer.json()["error"]


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "1e400"])
def test_what_is_no_number_of_mathematics_is_refused(client, bad):
    body = json.dumps({"rows": [{"request_id": "a", **ORDER, "basket": "BAD"}]}).replace('"BAD"', bad)
    answer = client.post("/score", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("path", ["/rank", "/score"])
def test_a_key_that_nobody_knows_is_refused_by_its_name(client, path):
    row = {**ORDER, "baskets": 3}
    asked = {"request_id": "a", "candidates": [row]} if path == "/rank" else {"rows": [{"request_id": "a", **row}]}
    answer = client.post(path, json=asked)

    assert answer.status_code == 422
    assert answer.json()["error"].endswith(".0.baskets: Extra inputs are not permitted")


def test_the_path_of_another_kind_of_project_names_those_of_this_one(client):
    answer = client.post("/inference", json={"request_id": "a", "driver_ids": [1]})

    assert answer.status_code == 404
    assert "/rank" in answer.json()["error"] and "/score" in answer.json()["error"]


UNREAD = {
    "letters of another encoding": (b'{"rows": "\xe9"}', "invalid unicode code point at line 1 column 11"),
    "a number of 5,000 digits": (b'{"rows": ' + b"1" * 5_000 + b"}", "number out of range at line 1 column 43"),
    "a comma too much": (b'{"rows": [],}', "trailing comma at line 1 column 13"),
    "too deep": (b"[" * 30_000, "recursion limit exceeded"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason_and_the_place(client, name):
    body, reason = UNREAD[name]
    answer = client.post("/score", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)
    assert answer.json()["error"].startswith("the body cannot be read as JSON in UTF-8: ") and reason in answer.json()["error"]


def test_a_good_body_of_another_type_is_refused_with_the_header_that_it_wants(client):
    body = json.dumps({"rows": [{"request_id": new(), **ORDER}]})
    answer = client.post("/score", content=body, headers={"content-type": "text/plain"})

    assert answer.status_code == 422 and "send Content-Type: application/json" in answer.json()["error"]


def test_what_may_be_empty_may_be_left_out(client):
    left_out, null = score(client, {"customer": "Ann", "basket": 40}, {**ORDER, "device": None})

    assert left_out["score"] == null["score"] and left_out["features"] == "partial"


def test_the_description_shows_the_projects_own_names_and_what_its_columns_are(client):
    described = client.get("/openapi.json").json()
    row = described["components"]["schemas"]["AskedRow"]

    assert described["info"]["title"] == "Order return"
    assert {path for path in described["paths"] if "post" in described["paths"][path]} == {"/rank", "/score"}
    assert described["paths"]["/rank"]["post"]["description"] == "Will this order come back?"
    assert list(row["properties"]) == ["request_id", "customer", "basket", "device"]
    assert [row["properties"][name]["description"] for name in ORDER] == ["the customer's name", "euros", "on which it is placed"]
    assert row["required"] == ["request_id", "customer", "basket"]
    assert "driver" not in json.dumps(described)


def test_a_process_serves_two_projects_one_after_the_other(tmp_path, model):
    rides = plain(RIDES, lambda rows: rows.conv_rate.to_numpy())
    with served(tmp_path / "shop", model) as client:
        order = score(client, ORDER)[0]
    with served(tmp_path / "rides", rides, RIDES, {1: (0.4, 0.5, 6.0), 2: (0.9, 0.5, 6.0)}) as client:
        short = client.post("/inference", json={"request_id": new(), "driver_ids": [1, "2"]}).json()
        asked = [{"driver_id": 1}, {"driver_id": "2"}]
        ranked = client.post("/rank", json={"request_id": new(), "candidates": asked}).json()
        scored = client.post("/score", json={"rows": [{"request_id": new(), **each} for each in asked]}).json()
    with served(tmp_path / "again", model) as client:
        assert score(client, ORDER)[0]["score"] == order["score"]

    assert short["prediction"] == ranked["prediction"] == "2"
    assert short["candidates"] == ranked["candidates"]
    assert [(row["driver_id"], row["score"]) for row in scored["rows"]] == [(1, 0.4), ("2", 0.9)]


# --- entities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "given", "fine"),
    [
        (1, 1, True), (1, "1", True), (1, 0, False), (1, "0", False), (1, "-3", False),
        (0, 0, True), (0, "0", True), (0, -1, False), (0, "-1", False), (0, "-0", False),
        (None, -(2**63), True), (None, str(-(2**63)), True), (None, -(2**63) - 1, False), (None, str(2**63), False), (None, True, False),
    ],
)  # fmt: skip
def test_a_number_comes_within_the_contracts_limit_and_64_bits(low, given, fine):
    column = Column(name="who", kind="integer", about="who", low=low)
    form = create_model("Form", who=(predictions.stored_type(column), ...))

    if fine:
        assert form(who=given).who == int(given)
    else:
        with pytest.raises(ValidationError):
            form(who=given)


# --- several entities in a request ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branches() -> Project:
    "A shop whose requests also name a branch, of which something is known; they bring nothing of their own."
    message = yaml.safe_load(shop.TEXT)
    contract, tables = message["contract"], message["contract"]["tables"]
    branch = {"name": "branch", "kind": "integer", "about": "the branch's number"}
    columns = [
        {"name": "day", "kind": "time", "about": "the beginning of the day"},
        branch,
        {"name": "queue", "kind": "number", "about": "minutes"},
    ]
    tables["queues"] = {"about": "how busy a branch is", "key": ["branch", "day"], "entity": "branch", "time": "day", "columns": columns}
    for table in ("labels", "request"):
        tables[table]["columns"].append(branch)
    features = {name: {"table": "habits"} for name in ("orders", "member")}
    contract["features"] = {
        "orders": features["orders"],
        "queue": {"table": "queues"},
        "member": features["member"],
        "city": {"table": "habits"},
    }
    return Project.model_validate(message)


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    "An online store with a view of each entity, filled as a materialization would."
    folder, now = tmp_path_factory.mktemp("views"), pd.Timestamp(project.now()).as_unit("us")
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(features.store_settings("shop", {"type": "sqlite"})), encoding="utf-8")
    store, ago = features.open_store(folder), lambda days: now - pd.Timedelta(days=days)
    habits = pd.DataFrame(
        {
            "customer": ["Ann", "7", "Eva", "Cem"],
            "orders": [3.0, 2.0, 5.0, np.nan],
            "member": [True, False, True, None],
            "city": ["Hue", "Vinh", "Hue", None],
            KNOWN: [ago(0.1), ago(0.2), ago(30), ago(0.1)],
        }
    )
    queues = pd.DataFrame({"branch": [7, -1, 2**63 - 1], "queue": [4.0, 9.0, 1.0], KNOWN: [ago(0.3), ago(30), ago(0.1)]})
    kinds = {"customer": types.String, "city": types.String, "branch": types.Int64, "member": types.Bool}
    for view, rows, entity in [("habits", habits, "customer"), ("queues", queues, "branch")]:
        rows.to_parquet(folder / f"{view}.parquet", index=False)
        who = feast.Entity(name=entity, join_keys=[entity], value_type=kinds[entity].to_value_type())
        source = feast.FileSource(name=f"{view}_file", path=str(folder / f"{view}.parquet"), timestamp_field=KNOWN)
        columns = [feast.Field(name=name, dtype=kinds.get(name, types.Float64)) for name in rows if name != KNOWN]
        store.apply([who, source, feast.FeatureView(name=view, entities=[who], ttl=timedelta(days=7), schema=columns, source=source)])
        store.write_to_online_store(view, rows)
    return features.open_store(folder)


@pytest.mark.parametrize("ask", ["sqlite", "feast"])
def test_each_view_is_asked_for_its_own_entity_and_what_is_too_old_in_one_is_not_known(two_views, branches, monkeypatch, ask):
    monkeypatch.setattr(lookup, "_from_sqlite", lookup._from_feast if ask == "feast" else lookup._from_sqlite)
    keys = [("Ann", 7), ("7", -1), ("Eva", 7), ("Cem", 2**63 - 1), ("nobody", 0), ("Ann", 7)]

    result = features.newest(two_views, keys, branches.contract)

    assert branches.contract.keys == ["customer", "branch"]
    known = [tuple(value if serving.is_known(value) else None for value in row.values) for row in result]
    assert known == [
        (3.0, 4.0, 1.0, "Hue"),
        (2.0, None, 0.0, "Vinh"),
        (None, 4.0, None, None),
        (None, 1.0, None, None),
        (None, None, None, None),
        (3.0, 4.0, 1.0, "Hue"),
    ]
    assert result[0].known > result[2].known and result[4].known is None


def test_a_row_of_several_entities_is_kept_with_its_score_and_logged_with_its_keys(branches, tmp_path):
    asked = []

    def probability(rows):
        asked.append(len(rows))
        return rows.queue.to_numpy(float) / 10

    model = plain(branches, probability)
    rows = {("Ann", 7): (3.0, 4.0, 1.0, "Hue"), ("Ann", 8): (3.0, 6.0, 1.0, "Hue"), ("Ben", 7): (None, 4.0, None, None)}
    with served(tmp_path, model, branches, rows, cache_seconds=3_600) as client:
        body = {"candidates": [{"customer": "Ann", "branch": "8"}, {"customer": "Ben", "branch": 7}]}
        first, again = (client.post("/rank", json={"request_id": new(), **body}).json() for _ in range(2))
        other = client.post("/score", json={"rows": [{"request_id": (name := new()), "customer": "Ann", "branch": 7}]}).json()
        [entry] = lines(client, name)

    assert first["candidates"] == again["candidates"] and [c["score"] for c in first["candidates"]] == [0.6, 0.4]
    assert other["rows"][0]["score"] == 0.4 and sum(asked) == 3
    assert {name: entry["candidates"][0][name] for name in ("customer", "branch")} == {"customer": "Ann", "branch": 7}


def test_where_a_request_brings_all_no_store_is_asked(tmp_path):
    message = yaml.safe_load(shop.TEXT)
    message["contract"]["features"] = {name: {"table": "request"} for name in ("basket", "device")}
    brings = Project.model_validate(message)
    model = plain(brings, lambda rows: rows.basket.to_numpy(float) / 100)
    with served(tmp_path, model, brings, store=False) as client:
        [result] = score(client, ORDER)

    assert (result["score"], result["features"], result["degraded"]) == (0.4, "fresh", False)
