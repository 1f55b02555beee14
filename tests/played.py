"A company whose serving and riders are played, for the tests of whoever reads its log and its labels and writes its routes."

from datetime import timedelta

import company
import numpy as np
import orjson
from rides import CONTRACT, RIDES
from traffic import entry

from mlops_course import project, registry, releases
from mlops_course.joined import Label, LabelStore
from mlops_course.predictions import append
from mlops_course.project import Paths
from mlops_course.rollout import Rollout
from mlops_course.routes import met, read_routes


class Company:
    "An environment whose serving is played: it follows the routes at once, and every request is answered and labelled."

    def __init__(self, folder, monkeypatch, rates: dict[str | None, float]):
        "`rates` by version: the true shares of completed trips; None: those of the logged policy."
        self.folder, self.rates, self.now = folder, rates, company.CLOCK
        monkeypatch.setattr(project, "now", lambda: self.now)
        self.rng, self.number, self.faults, self.answers = np.random.default_rng(3), 0, {}, "1"
        self.label_share = 1.0  # of the requests
        self.rollout = Rollout(folder, RIDES)

    def live(self, requests: int, hours: float = 1.0) -> None:
        routes, lines, ends = read_routes(Paths(self.folder).routes), [], []
        for _ in range(requests):
            self.number += 1
            self.now += timedelta(hours=hours) / requests
            route = met(f"r-{self.number}", routes)
            lines += self._answered(f"r-{self.number}", routes, route)
            rate = self.rates[route.version if route else self.answers]
            ends.append(Label(f"r-{self.number}", 1001, int(self.rng.random() < rate), self.now.timestamp()))
            if self.rng.random() >= self.label_share:
                ends.pop()
        log = Paths(self.folder).predictions
        log.mkdir(parents=True, exist_ok=True)
        append(log / f"{self.now:%Y-%m-%d}.jsonl", b"".join(orjson.dumps(line) + b"\n" for line in lines))
        store = LabelStore(Paths(self.folder).monitoring / "state.db", CONTRACT)
        store.add(lines)
        store.label(ends)
        store.close()

    def _answered(self, request: str, routes, route) -> list[dict]:
        roles = [("champion", self.answers)] if route is None else [(route.role, route.version)]
        roles += [(each.role, each.version) for each in routes.others if each.role == "shadow"]
        lines = []
        for role, version in roles:
            line = entry(request, version=version or self.answers) | {
                "role": role,
                "latency_ms": 2.0,
                "time": self.now.isoformat(),
                "routes": routes.name,
            }
            line |= {} if version else {"prediction": None, "score": None, "propensity": None}
            lines.append(line | self.faults.get(version, {}))
        return lines

    def until(self, ends, most: int = 60, requests: int = 400) -> releases.Release:
        for _ in range(most):
            self.live(requests)
            self.rollout.look()
            release = releases.read(self.folder)[-1]
            if ends(release):
                return release
        raise AssertionError(f"still {release.state}, step {release.step}: {release.verdict}")

    def champion(self) -> str:
        return registry.champion(Paths(self.folder).mlflow, RIDES.name).version

    def register(self, strength: float) -> str:
        "One more model in the registry; its version."
        client = self.client()
        run = client.create_run(registry.experiment(client)).info.run_id
        registry.log_model(client, run, company.model(strength), CONTRACT.kinds)
        client.set_terminated(run)
        return registry.register(client, run, f"key {run}")

    def client(self):
        return registry.connect(Paths(self.folder).mlflow, RIDES.name)
