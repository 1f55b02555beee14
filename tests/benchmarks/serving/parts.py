"""Where the time of one request goes: in this process, without a network, one request at a time. Milliseconds, medians."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import pandas as pd
import prometheus_client  # noqa: F401  before Feast, which would have it keep each counter in a file
from serving.load import ID
from serving.services import HERE, OURS, UNCACHED, Ground, by_number, link

from mlops_course import features, registry, schemas
from mlops_course.contracts import read_project

HTTP, LOOKUP, FRAME, MODEL, REST = "the bare endpoint", "feature look-up", "data frame", "model", "all the rest"
PLAIN = "the plain way"
RIDES = read_project("projects/ride_hailing.yaml")
CONTRACT = RIDES.contract


def parts(folder: Path, scratch: Path, answer: dict, n: int) -> dict[str, dict[str, float]]:
    "The parts of a request in the plain way and in ours, from `n` requests each; to be called in a process of its own."
    ground = Ground.of(folder)
    asked = ground.requests(4, n)
    bodies = [by_number(rows).replace(ID, f"part{i}").encode() for i, rows in enumerate(asked)]
    everyone = [by_number(ground.known.iloc[i : i + 50]) for i in range(0, len(ground.known), 50)]
    met = [body.replace(ID, f"met{i}").encode() for i, body in enumerate(everyone)]
    endpoint = asyncio.run(_bare(scratch, answer, bodies))
    seconds = {PLAIN: {HTTP: endpoint, **_plain(ground, asked)}}
    for name, settings in [(UNCACHED, {"cache_seconds": 0}), (OURS, {})]:
        folder = scratch / str(len(seconds))
        folder.mkdir()
        measured = asyncio.run(_ours(link(ground, folder), settings, met, bodies))
        seconds[name] = {
            HTTP: endpoint,
            LOOKUP: measured[LOOKUP],
            MODEL: measured[MODEL],
            REST: measured[REST] - endpoint - measured[LOOKUP] - measured[MODEL],
        }
    return seconds


async def _bare(scratch: Path, answer: dict, bodies: list[bytes]) -> float:
    (scratch / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    with mock.patch.dict(os.environ, BENCH_ANSWER=str(scratch / "answer.json")), mock.patch.object(sys, "path", [str(HERE), *sys.path]):
        app = import_module("bare").app
    return median([await _through(app, body) for body in bodies])


def _plain(ground: Ground, asked: list[pd.DataFrame]) -> dict[str, float]:
    "Feast's own question, a data frame, the pipeline."
    store, took = features.open_store(ground.folder / "features"), []
    for rows in asked:
        drivers = [{CONTRACT.entity: driver} for driver in rows[CONTRACT.entity].tolist()]
        times = [time.perf_counter()]
        response = store.get_online_features(features.references(CONTRACT), drivers).to_dict()
        times.append(time.perf_counter())
        frame = pd.DataFrame(response)[list(CONTRACT.features)]
        times.append(time.perf_counter())
        ground.champion.model.predict_proba(frame)
        times.append(time.perf_counter())
        took.append(np.diff(times) * 1e3)
    return dict(zip((LOOKUP, FRAME, MODEL), np.median(took, axis=0).tolist(), strict=True))


async def _ours(folder: Path, settings: dict, met: list[bytes], bodies: list[bytes]) -> dict[str, float]:
    "What the store and the model take in ours, and the whole of it, once it has met each driver."
    from mlops_course import api, resilience

    spent = {}
    clocks = [(resilience.Store, "newest", LOOKUP), (registry.Loaded, "probability", MODEL)]
    patches = [mock.patch.object(owner, name, _timed(spent, part, getattr(owner, name))) for owner, name, part in clocks]
    app, took = api.application(api.Serving(folder, schemas.ServingSettings(**settings), RIDES)), []
    with patches[0], patches[1]:
        async with app.router.lifespan_context(app):
            await _ready(app, met[0])
            for body in met:
                await _through(app, body)
            for body in bodies:
                spent.clear()
                whole = await _through(app, body)
                took.append([spent.get(LOOKUP, 0), spent.get(MODEL, 0), whole])
    return dict(zip((LOOKUP, MODEL, REST), np.median(took, axis=0).tolist(), strict=True))


def _timed(spent: dict[str, float], part: str, function: Callable) -> Callable:
    def wrapped(*args, **more):
        began = time.perf_counter()
        try:
            return function(*args, **more)
        finally:
            spent[part] = spent.get(part, 0) + (time.perf_counter() - began) * 1e3

    return wrapped


async def _ready(app, body: bytes) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await _through(app, body)
            except ValueError:
                await asyncio.sleep(0.1)


async def _through(app, body: bytes) -> float:
    "Milliseconds of one request through an ASGI application. Raises ValueError unless the answer is 200."
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": ""}
    scope |= {"path": "/inference", "raw_path": b"/inference", "query_string": b"", "headers": headers, "client": None, "server": None}
    sent = []

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    began = time.perf_counter()
    await app(scope, receive, send)
    took = (time.perf_counter() - began) * 1e3
    if sent[0]["status"] != 200:
        raise ValueError(f"not answered: {sent}")
    return took
