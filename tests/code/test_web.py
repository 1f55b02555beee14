"""What the services share: work behind the requests that no error ends, refusals of one form, and the middleware around them all."""

import asyncio
import sys
import threading
from typing import Annotated

import pytest
from fastapi import Body
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from rides import CONTRACT

from mlops_course import web
from mlops_course.predictions import entity_type
from mlops_course.web import Background, Shared

# Work behind the requests

DRIVER = entity_type(CONTRACT.column("request", "driver_id"))


FATAL = [
    asyncio.CancelledError(),
    GeneratorExit(),
    KeyboardInterrupt(),
    MemoryError(),
    RecursionError("deep"),
    StopIteration(),
    SystemExit(3),
]


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize("error", [*FATAL, Unspeakable(), OSError("disk")], ids=lambda error: type(error).__name__)
def test_no_error_ends_a_repeated_work(error):
    tries, background = [], Background(pause=None)

    def work():
        tries.append(1)
        if len(tries) <= 3:
            raise error

    async def lives():
        task = asyncio.create_task(background.repeat("look", work, 0.001))
        while len(tries) < 3:
            await asyncio.sleep(0.001)
        assert type(error).__name__ in background.trouble.get("look", type(error).__name__)
        while len(tries) < 6 or background.trouble:
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()

    asyncio.run(asyncio.wait_for(lives(), 10))
    assert background.failures["look"] == 3


def test_trouble_says_why_in_the_words_that_the_service_has_for_others():
    plain, discreet = Background(pause=None), Background(say=lambda error: f"has failed ({type(error).__name__})")

    async def lives():
        works = [("look", lambda: 1 / 0, 0.001)]
        async with plain.repeating(works), discreet.repeating(works):
            await asyncio.sleep(0.1)

    asyncio.run(lives())
    assert plain.trouble == {"look": "ZeroDivisionError: division by zero"} and plain.failures["look"] > 1
    assert discreet.trouble == {"look": "has failed (ZeroDivisionError)"} and discreet.failures == {"look": 1}, "a second's pause"


def test_a_task_that_ends_is_begun_again_counted_and_said():
    tries, background = [], Background(pause=None)

    async def lives():
        async with background.repeating([("look", lambda: tries.append(1), 0.01)]):
            for n in (1, 2):
                await asyncio.sleep(0.05)
                (task,) = asyncio.all_tasks() - {asyncio.current_task()}
                task.cancel()
                await asyncio.sleep(0.05)
                assert "begun again" in background.trouble["look"] and background.failures["look"] == n
                before = len(tries)
                await asyncio.sleep(1.2)
                assert len(tries) > before and "look" not in background.trouble
        count = len(tries)
        await asyncio.sleep(1.2)
        assert len(tries) == count, "the block has ended, and so have its tasks"

    asyncio.run(lives())


def test_a_ctrl_c_on_the_loop_ends_what_is_repeated_there():
    async def work():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(Background(pause=0).repeat("look", work, 0))


@pytest.fixture
def hurry():
    "Threads that change as often as they can."
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_who_walks_through_a_shared_dictionary_keeps_what_was_there():
    shared = Shared()
    shared.update(a=1, b=2)
    walk = iter(shared.items())
    first = next(walk)
    shared["c"] = 3
    shared.pop("b")
    assert [first, *walk] == [("a", 1), ("b", 2)] and dict(shared.items()) == {"a": 1, "c": 3}


def test_a_shared_dictionary_loses_no_change_of_several_threads(hurry):
    shared = Shared()

    def writes(seed: int):
        for n in range(300):
            shared[f"{seed}-{n}"] = n

    threads = [threading.Thread(target=writes, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shared) == 1_200 and shared["3-299"] == 299
    kept = shared.items()
    del shared["3-299"]
    assert ("3-299", 299) in kept and "3-299" not in shared


# Requests and refusals


class Form(BaseModel):
    answer: None = None
    error: str
    request_id: str | None = None


def served(form: type[BaseModel] = web.Refused, key: str | None = None, counted: bool = True) -> TestClient:
    registry = CollectorRegistry()
    metrics = web.RequestMetrics("lesson", {"/double"}, registry) if counted else None
    app = web.service("Doubles", None, 50, key, form, metrics)
    web.tell_state(app, lambda: {"ready": False, "trouble": ["it wants a rest"]}, registry)

    @app.post("/double")
    def double(request_id: Annotated[str, Body()], number: Annotated[DRIVER, Body()]) -> int:
        if number == 13:
            raise web.Refusal(409, "not this one")
        return 2 * int(number) // (number != 7)

    return TestClient(app, raise_server_exceptions=False)


REFUSED = [
    ({"request_id": "r-1", "number": 13}, 409, "not this one", None),
    ({"request_id": "r-1", "number": 0}, 422, "number: Input should be greater than or equal to 1", "r-1"),
    ({"request_id": "r-1", "number": "01"}, 422, "number: String should match pattern '^[1-9][0-9]{0,18}$'", "r-1"),
    ({"request_id": 1, "number": 1}, 422, "request_id: Input should be a valid string", None),
    ({"request_id": "r-1", "number": 7}, 500, "something went wrong here; the service's log says what", None),
    ({"request_id": "r" * 60, "number": 1}, 413, "a request may have 50 bytes", None),
]


@pytest.mark.parametrize(("body", "status", "error", "request_id"), REFUSED)
def test_every_kind_of_refusal_has_the_form_of_its_service(body, status, error, request_id):
    plain, own = served().post("/double", json=body), served(Form).post("/double", json=body)

    assert plain.status_code == own.status_code == status
    assert plain.json() == {"error": error}
    assert own.json() == {"answer": None, "error": error, "request_id": request_id}


def test_another_method_is_refused_with_those_that_are_allowed():
    answer = served().get("/double")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("size", ["-1", "1e3", "9" * 13, "9" * 5_000, "\u0664"])
def test_a_length_that_is_no_number_or_no_end_is_too_long(size):
    assert served().post("/double", content=b"{}", headers={"content-length": size.encode()}).status_code == 413


def test_a_service_without_request_metrics_answers_too():
    client = served(counted=False)

    assert client.post("/double", json={"request_id": "r-1", "number": 2}).json() == 4
    assert client.get("/metrics").text.strip() == ""


@pytest.mark.parametrize("counted", [True, False])
def test_with_a_key_only_the_state_is_told_to_strangers(counted):
    client = served(key="a key", counted=counted)

    assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
    assert client.get("/metrics").status_code == client.post("/double").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer a key"}).status_code == 200
