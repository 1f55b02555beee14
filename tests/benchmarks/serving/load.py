"""Questions to a service: one, as many as it can take, or a given number each second."""

import asyncio
import json
import re
import shutil
import subprocess
from collections import deque
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import numpy as np

LOOPBACK, CONNECTIONS = "127.0.0.1", 16
ID = "\t"  # stands for the request id in a body


class Missing(Exception):
    "A tool is not there; the message says how to get it."


def ask(port: int, path: str, body: str | None, request_id: str = "") -> bytes:
    "The answer to one question (None: to a GET). Raises ValueError unless it comes with 200."
    connection = HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, body.replace(ID, request_id), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {text[:300]!r}")
    return text


def find_wrk() -> str:
    "The path of wrk. Raises Missing."
    program = shutil.which("wrk")
    if not program:
        raise Missing("wrk is missing. On Debian or Ubuntu: sudo apt install wrk. On macOS: brew install wrk")
    return program


class Closed(NamedTuple):
    "What wrk saw."

    requests: int
    seconds: float
    p50: float  # milliseconds
    p99: float


def closed(port: int, path: str, bodies: Path, run: str, good: str, seconds: int) -> Closed:
    "Each connection asks again as soon as it has its answer. Raises RuntimeError on any answer that is not 200 or lacks `good`."
    words = [find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(Path(__file__).with_name("load.lua"))]
    words += [f"http://{LOOPBACK}:{port}{path}", "--", str(bodies), run, good]
    ran = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + 60)
    requests, micros, p50, p99, wrong, failed, *example = ran.stdout.strip().splitlines()[-1].split(" ", 6)
    if int(wrong) or int(failed) or not int(requests):
        raise RuntimeError(f"of {requests} answers {wrong} were wrong and {failed} did not come; the last wrong one: {example}")
    return Closed(int(requests), int(micros) / 1e6, int(p50) / 1e3, int(p99) / 1e3)


def paced(port: int, path: str, bodies: list[str], run: str, rate: float, seconds: float) -> np.ndarray:
    "People who do not wait for each other, `rate` a second: milliseconds from when each request was due until its answer was there."
    requests = [_request(path, bodies[i % len(bodies)].replace(ID, f"{run}{i}")) for i in range(int(rate * seconds))]
    return np.array(asyncio.run(_paced(port, requests, rate))) * 1e3


def _request(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def _paced(port: int, requests: list[bytes], rate: float) -> list[float]:
    loop, idle, took = asyncio.get_running_loop(), deque(), []

    async def one(request: bytes, due: float) -> None:
        reader, writer = idle.popleft() if idle else await asyncio.open_connection(LOOPBACK, port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        text = await reader.readexactly(int(re.search(rb"(?i)content-length: *(\d+)", head)[1]))
        took.append(loop.time() - due)
        idle.append((reader, writer))
        if not head.startswith(b"HTTP/1.1 200") or json.loads(text)["error"] is not None:
            raise RuntimeError(f"a wrong answer: {head[:80]!r} {text[:200]!r}")

    began = loop.time() + 0.1
    async with asyncio.timeout(len(requests) / rate + 30), asyncio.TaskGroup() as group:
        for i, request in enumerate(requests):
            await asyncio.sleep(began + i / rate - loop.time())
            group.create_task(one(request, began + i / rate))
    for _, writer in idle:
        writer.close()
    return took
