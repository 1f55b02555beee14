"""A company with a champion, and the services that are asked about its drivers; each is started with one worker."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import yaml
from serving.load import ID, LOOPBACK, ask

from mlops_course import features, programs, project, recipes, registry, stages
from mlops_course import services as platform_services
from mlops_course.contracts import read_project
from mlops_course.files import write_json
from mlops_course.problem import KNOWN

RIDES = read_project("projects/ride_hailing.yaml")
CONTRACT = RIDES.contract
HERE, BIN = Path(__file__).parent, Path(sys.executable).parent
BARE, BENTO, MLFLOW, UNCACHED, OURS = "bare FastAPI endpoint", "BentoML, seed's design", "`mlflow models serve`", "ours, no cache", "ours"
ON_REDIS = {OURS: "ours on Redis", UNCACHED: "ours on Redis, no cache"}  # beside the same on SQLite
STAGES = ("world", "data", "features", "training")


# --- the ground ---


def make_ground(folder: Path) -> None:
    "A thousand drivers, their features online, and a champion: made once for this code, in a process of its own."
    config = yaml.safe_load((project.root() / "env.yaml").read_text(encoding="utf-8"))
    config |= {"name": "bench", "world": config["world"] | {"drivers": 1_000}}
    made, key = folder / "ground.json", project.digest_of([config, stages.digest_of_code(*STAGES, "problem", "registry")])
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "env.yaml").write_text(yaml.safe_dump({**config, "out": str(folder)}), encoding="utf-8")
    variables = {"PLOOMBER_ENV_FILENAME": str(folder / "env.yaml"), "MLOPS_COURSE_LAB": str(folder), "PYTHONPATH": str(HERE.parent)}
    subprocess.run([sys.executable, __file__], check=True, stdout=sys.stderr, env={**os.environ, **variables})
    write_json(made, key)


def run_stages() -> None:
    "The stages up to the champion, in the environment that the variables name."
    for name in STAGES:
        with stages.stage(name, upstream=stages.upstream(name)) as stage:
            import_module(f"mlops_course.{name}").run(stage)


class Ground(NamedTuple):
    "What the services are asked about, and what they should say."

    folder: Path
    known: pd.DataFrame  # drivers with features, as `features.online` has them
    champion: registry.Loaded

    @classmethod
    def of(cls, folder: Path) -> "Ground":
        "The ground in the folder of a build."
        drivers = pd.read_parquet(folder / "data/statistics.parquet", columns=[CONTRACT.entity])[CONTRACT.entity].unique()
        rows = features.online(
            features.open_store(folder / "features"), sorted(drivers), CONTRACT, moment=project.environment("env.yaml").clock
        )
        return cls(
            folder.resolve(), rows.dropna(subset=list(CONTRACT.features)), registry.load(registry.connect(folder / "mlflow", RIDES.name))
        )

    def requests(self, seed: int, n: int) -> list[pd.DataFrame]:
        "Distinct drivers for each request, with their features."
        draw = np.random.default_rng(seed)
        return [self.known.iloc[draw.choice(len(self.known), RIDES.acceptance.candidates, replace=False)] for _ in range(n)]

    @property
    def tracking(self) -> str:
        return f"sqlite:///{self.folder}/mlflow/mlflow.db"


def by_number(rows: pd.DataFrame) -> str:
    "A body that names the drivers."
    return f'{{"request_id": "{ID}", "driver_ids": {rows[CONTRACT.entity].tolist()}}}'


def by_features(rows: pd.DataFrame) -> str:
    "A body for MLflow, which looks nothing up."
    return json.dumps({"dataframe_split": rows[list(CONTRACT.features)].to_dict(orient="split")})


# --- services ---


class Service(NamedTuple):
    "How a service is started and asked."

    name: str
    command: list  # "{port}" in it becomes a free port
    variables: dict[str, str]
    good: str  # stands in each good answer
    path: str = "/inference"
    body: Callable[[pd.DataFrame], str] = by_number


def bare(answer: dict, scratch: Path) -> Service:
    "The endpoint that reads, validates and writes, and does nothing else."
    (scratch / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    words = ["uvicorn", "bare:app", "--app-dir", HERE, "--host", LOOPBACK, "--port", "{port}", "--no-access-log"]
    return Service(BARE, [BIN / words[0], *words[1:]], {"BENCH_ANSWER": str(scratch / "answer.json")}, '"error":null')


def mlflow(ground: Ground) -> Service:
    "The champion alone."
    words = f"models serve -m models:/{RIDES.name}@champion -h {LOOPBACK} -p {{port}} --env-manager local -w 1".split()
    variables = {"MLFLOW_TRACKING_URI": ground.tracking, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return Service(MLFLOW, [BIN / "mlflow", *words], variables, '"predictions":', "/invocations", by_features)


def bento(ground: Ground, scratch: Path) -> Service:
    "The seed course's service: the champion in BentoML's store, a feature repository on the same files."
    python = bento_environment()
    config = yaml.safe_load((ground.folder / "features/feature_store.yaml").read_text(encoding="utf-8"))
    config |= {"offline_store": {"type": "file"}, "online_store": {"type": "sqlite", "path": "online.db"}}  # Feast's own, as there
    (scratch / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    fill(scratch, ground)
    variables = {
        "BENTOML_HOME": str(scratch / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(project.root()),  # the champion may have a class of the course's own
        "BENCH_MLFLOW": ground.tracking,
        "BENCH_FEATURE_REPO": str(scratch),
        "BENCH_LOG": str(scratch / "predictions.jsonl"),
    }
    subprocess.run([python, HERE / "bento_service.py"], check=True, stdout=sys.stderr, env={**os.environ, **variables})
    words = ["serve", "bento_service:DriverCompletion", "--working-dir", HERE, "--host", LOOPBACK, "--port", "{port}"]
    return Service(BENTO, [python.with_name("bentoml"), *words], variables, '"error": null')


def fill(folder: Path, ground: Ground) -> None:
    "The definitions and the newest features of the ground, in the feature repository of `folder`."
    from feast import FeatureStore

    store, ours = FeatureStore(repo_path=str(folder)), features.open_store(ground.folder / "features")
    store.apply([*ours.list_entities(), *ours.list_feature_views()])
    store.write_to_online_store("statistics", ground.known.assign(created=ground.known[KNOWN]))


def bento_environment() -> Path:
    "The Python of BentoML's own environment, made when the list of its packages changes."
    listed, folder = HERE / "bento-requirements.txt", project.root() / "out/bench/bento"
    python, made = folder / "bin/python", folder / "requirements.txt"
    if not made.is_file() or made.read_bytes() != listed.read_bytes():
        uv = BIN / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", listed], check=True)
        shutil.copyfile(listed, made)
    return python


def ours(name: str, ground: Ground, scratch: Path, *settings: str) -> Service:
    "The course's service on the ground's registry, and its features if `scratch` has none; what it writes stays in `scratch`."
    link(ground, scratch)
    words = ["serve", "--env", "env.yaml", "--folder", scratch, "--port", "{port}", *(w for s in settings for w in ("--set", s))]
    return Service(name, [BIN / "mlops-course", *words], {"PLOOMBER_ENV_FILENAME": "env.yaml"}, '"error":null')


def link(ground: Ground, folder: Path) -> Path:
    "A folder that has the ground's features and registry, and a place of its own for what is written."
    for part in ("features", "mlflow"):
        if not (folder / part).exists():
            (folder / part).symlink_to(ground.folder / part)
    return folder


@contextmanager
def redis(ground: Ground, folders: list[Path]) -> Iterator[psutil.Process]:
    "A Redis with the ground's features, which `folders` name as their store: its process."
    service = recipes.redis_in_memory(free_port())
    with subprocess.Popen([programs.locate(service.command[0]), *service.command[1:]], stdout=subprocess.DEVNULL) as work:
        try:
            while platform_services.trouble(service):
                time.sleep(0.1)
            online = {"type": "redis", "connection_string": f"{LOOPBACK}:{service.port}"}
            settings, until = features.FeatureSettings(online_store=online), project.environment("env.yaml").clock
            files = {view: ground.folder / f"data/{view}.parquet" for view in CONTRACT.views}
            features.build(folders[0] / "features", files, "bench", settings, until, CONTRACT)
            for folder in folders[1:]:
                shutil.copytree(folders[0] / "features", folder / "features")
            yield psutil.Process(work.pid)
        finally:
            work.kill()


# --- started and ended ---


@contextmanager
def running(service: Service, scratch: Path, body: str) -> Iterator[tuple[int, psutil.Process]]:
    "Port and process, from the first good answer until the block ends; then the process and its children are ended."
    port, log = free_port(), scratch / "service.log"
    words = [str(word).replace("{port}", str(port)) for word in service.command]
    where, variables = (
        (project.root() if service.name in {*ON_REDIS, *ON_REDIS.values()} else scratch),
        {**_variables(), **service.variables},
    )
    with open(log, "wb") as output:
        work = subprocess.Popen(words, cwd=where, env=variables, stdout=output, stderr=output, start_new_session=True)
        try:
            until = time.monotonic() + 120
            while not _answers(port, service.path, body):
                if work.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{service.name} did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")
                time.sleep(0.2)
            yield port, psutil.Process(work.pid)
        finally:
            end(work)


def _variables() -> dict[str, str]:
    "Ours, without a key, and without those by which Feast, imported here, would make each Prometheus counter of a child a file."
    return {name: value for name, value in os.environ.items() if not name.startswith(("PROMETHEUS_", "MLOPS_COURSE_API_KEY"))}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def _answers(port: int, path: str, body: str) -> bool:
    try:
        ask(port, path, body, "ready")
    except (OSError, HTTPException, ValueError):
        return False
    return True


def family(process: psutil.Process) -> list[psutil.Process]:
    "A process and its children."
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    "That a process and its children have used."
    return sum(sum(each.cpu_times()[:2]) for each in family(process))


def end(work: subprocess.Popen) -> None:
    "End a process and all its children: asked first, killed after ten seconds."
    try:
        left = family(psutil.Process(work.pid))
    except psutil.NoSuchProcess:
        left = []
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                act(process)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=10)
    work.wait()


if __name__ == "__main__":
    run_stages()
