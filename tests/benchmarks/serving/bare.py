"""The floor under every service on this stack: a body validated, an answer of the given size written, and nothing between."""

import os
from pathlib import Path

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel

app = FastAPI()
answer = orjson.loads(Path(os.environ["BENCH_ANSWER"]).read_bytes())  # one of those that the course's service gives


class Request(BaseModel):
    request_id: str
    driver_ids: list[int]


@app.post("/inference")
async def inference(request: Request) -> Response:
    payload = {**answer, "request_id": request.request_id, "prediction": request.driver_ids[0]}
    return Response(orjson.dumps(payload), media_type="application/json")
