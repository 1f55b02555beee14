"""A serving service in the test's own process, asked as its clients would."""

import itertools
import json
import time
import warnings
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families
from rides import RIDES

from mlops_course import api, schemas

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers another client's library
    from fastapi.testclient import TestClient

ANSWER = api.answer_type(RIDES)
numbers = itertools.count()


def new() -> str:
    "A request id that nobody has used."
    return f"request {next(numbers)}"


def wait_for(condition, seconds: float = 30):
    "What `condition` gives, as soon as that is true."
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)
    return value


@contextmanager
def served(folder, key: str | None = None, **changes):
    "A client of a service on `folder` that is ready; it ends with the block."
    service = api.Serving(folder, schemas.ServingSettings(**{"epsilon": 0, "store_seconds": 5, "refresh_seconds": 0.05, **changes}), RIDES)
    with TestClient(api.application(service, key)) as client:
        client.folder, client.service = folder, service
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


def ask(client, drivers, request_id: str | None = None) -> dict:
    "The answer to a booking."
    answer = client.post("/inference", json={"request_id": request_id or new(), "driver_ids": drivers})
    assert answer.status_code == 200, answer.text
    return ANSWER.model_validate_json(answer.text, strict=True).model_dump()


def entries(folder, request_id: str | None = None) -> list[dict]:
    "What stands in the prediction log, of a request or of all."
    files = sorted((folder / "serving/predictions").glob("*.jsonl"))
    written = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    return [entry for entry in written if request_id in (None, entry["request_id"])]


def logged(client, request_id: str) -> dict:
    "The entry of a request, which comes to the file a moment after the answer."
    [entry] = wait_for(lambda: entries(client.folder, request_id))
    return entry


def metrics(client) -> dict[str, float]:
    "The meters by name and labels."
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {" ".join([s.name, *map(str, s.labels.values())]): s.value for family in families for s in family.samples}


def refused(answer, status: int) -> str:
    "The message of a refusal that is as the description says, and tells nothing of what is inside."
    assert answer.status_code == status, answer.text
    payload = answer.json()
    assert set(payload) == {"prediction", "error", "request_id"}
    assert api.Refused.model_validate(payload).error
    inside = ["/", "mlops_course", "pydantic", "fastapi", "Traceback", "Error", "Exception", ".py", "site-packages", "object at 0x"]
    message = payload["error"].replace("/ready", "").replace("application/json", "")
    assert not [word for word in inside if word in message]
    return payload["error"]
