"""The online service as a process, started as its user would, and asked by a client that remembers what it was told."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from browser import free_port

from mlops_course import project

COMMAND = str(Path(sys.executable).with_name("mlops-course"))
numbers = itertools.count()


def wait_for(condition, seconds: float = 60, pause: float = 0.02):
    "What `condition` gives, as soon as that is true; `pause`: seconds from one look to the next."
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(pause)
    return value


def command(folder: Path, *words: str, **settings) -> list[str]:
    "The command line of a service on the company in `folder`."
    config = [f"--set={name}={value}" for name, value in settings.items()]
    return [COMMAND, "serve", "--env", str(folder / "env.yaml"), *words, *config]


def refused(answer: httpx.Response, status: int) -> str:
    "The message of a refusal in the form that is promised."
    assert answer.status_code == status, answer.text
    payload = answer.json()
    assert set(payload) == {"prediction", "error", "request_id"} and payload["prediction"] is None
    assert not re.search(r"/tmp|\.py|Traceback|Error\b", payload["error"])
    return payload["error"]


class Online:
    "A service that runs: its address, its process, its client."

    def __init__(self, folder: Path, key: str | None = None, **settings):
        self.folder, self.port = folder, free_port()
        self.out = folder / "service.log"
        variables = {**os.environ, **({"MLOPS_COURSE_API_KEY": key} if key else {})}
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(
                command(folder, "--port", str(self.port), **{"epsilon": 0, "refresh_seconds": 0.1, **settings}),
                cwd=project.root(),
                env=variables,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.client = httpx.Client(
            trust_env=False, base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": key} if key else {}, timeout=30
        )

    def alive(self) -> bool:
        assert self.process.poll() is None, self.out.read_text(encoding="utf-8")[-3000:]
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def ready(self) -> bool:
        return self.alive() and self.client.get("/ready").status_code == 200

    def trouble(self) -> str:
        "What the service says is wrong."
        return "; ".join(self.client.get("/ready").json()["trouble"])

    def send(self, drivers: list[int], request_id: str | None = None, client: httpx.Client | None = None) -> httpx.Response:
        body = {"request_id": request_id or f"request {next(numbers)}", "driver_ids": drivers}
        return (client or self.client).post("/inference", json=body)

    def ask(self, drivers: list[int], request_id: str | None = None) -> dict:
        answer = self.send(drivers, request_id)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def meter(self, name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.M)[1])

    def model(self) -> dict:
        return self.client.get("/model").json()

    def lines(self) -> list[bytes]:
        "The lines of the prediction log, each with its end."
        files = sorted((self.folder / "serving/predictions").glob("*.jsonl"))
        return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]

    def logged(self) -> list[str]:
        "The request ids in the prediction log, in order; a last line that is being written does not count yet."
        return [json.loads(line)["request_id"] for line in self.lines() if line.endswith(b"\n")]

    def torn(self) -> bool:
        "Is a line of the prediction log not whole?"
        return not all(line.endswith(b"\n") for line in self.lines())

    def terminate(self) -> float:
        "End it as an operator does. How many seconds it took."
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                process.kill()
        self.process.wait(30)
        self.client.close()

    @contextmanager
    def load(self, drivers: list[int], threads: int = 4):
        "Clients that ask as fast as they are answered, until the block ends: a list of (request id, answer or None, when)."
        answers, over = [], threading.Event()

        def asks():
            with httpx.Client(trust_env=False, base_url=self.client.base_url, headers=self.client.headers, timeout=30) as client:
                while not over.is_set():
                    name = f"request {next(numbers)}"
                    try:
                        answer = self.send(drivers, name, client)
                    except httpx.TransportError:
                        answer = None
                    answers.append((name, answer, time.monotonic()))
                    if answer is None and self.process.poll() is not None:
                        return

        workers = [threading.Thread(target=asks) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield answers
        finally:
            over.set()
            for worker in workers:
                worker.join(60)
