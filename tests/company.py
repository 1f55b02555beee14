"""A small company that can be asked online: a feature store and a registry with a champion, made in seconds without a build."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rides import CONTRACT, RIDES
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_course import features, problem, registry

CLOCK = datetime(2026, 3, 16, tzinfo=UTC)  # of env.test.yaml, where the service's clock begins
KNOWN = list(range(1001, 1031))  # drivers whose features are all there
TWINS = [1031, 1032, 1033]  # these have the same features
PARTIAL, EMPTY, STALE, UNKNOWN = 1041, 1042, 1043, 9999  # a feature missing; all missing; too old; never seen
NAMES = list(CONTRACT.features)


def statistics() -> pd.DataFrame:
    "A row a driver, in the shape of the data stage. `STALE` is online only: see `put`."
    draw, drivers = np.random.default_rng(5), [*KNOWN, *TWINS, PARTIAL, EMPTY]
    rows = pd.DataFrame({CONTRACT.entity: drivers, **{name: draw.random(len(drivers)) for name in NAMES}})
    rows[NAMES[-1]] = np.round(rows[NAMES[-1]] * 20)
    rows.loc[rows[CONTRACT.entity].isin(TWINS), NAMES] = [0.6, 0.5, 9.0]
    rows.loc[rows[CONTRACT.entity] == PARTIAL, NAMES[0]] = np.nan
    rows.loc[rows[CONTRACT.entity] == EMPTY, NAMES] = np.nan
    known = pd.Timestamp(CLOCK - timedelta(hours=2)).as_unit("us")
    return rows.assign(datetime=known - pd.Timedelta(hours=1), created=known, **{problem.KNOWN: known})


def put(store, drivers: list[int], values: list[float], known: datetime) -> None:
    "Newer features of drivers go online, as a later materialization would bring them."
    rows = pd.DataFrame({CONTRACT.entity: drivers, **dict(zip(NAMES, values, strict=True))})
    moment = pd.Timestamp(known).as_unit("us")
    store.write_to_online_store("statistics", rows.assign(**{problem.KNOWN: moment}, created=moment))


def make_store(folder: Path, online_store: dict | None = None, registry: dict | None = None):
    "The feature store of the company in `folder`/features; its statistics stand beside it."
    (folder / "data").mkdir(exist_ok=True)
    statistics().to_parquet(folder / "data/statistics.parquet", index=False)
    servers = {name: value for name, value in [("online_store", online_store), ("registry", registry)] if value}
    settings = features.FeatureSettings(**servers)
    store = features.build(folder / "features", {"statistics": folder / "data/statistics.parquet"}, "company", settings, CLOCK, CONTRACT)
    put(store, [STALE], [0.9, 0.9, 20.0], CLOCK - timedelta(hours=settings.ttl_hours + 1))
    return store


def model(strength: float):
    "A pipeline as training makes them; another strength is another model."
    draw = np.random.default_rng(7)
    rows = pd.DataFrame({name: draw.random(400) for name in NAMES})
    rows[NAMES[-1]] *= 20
    label = (draw.random(400) < rows[NAMES[0]]).astype(int)
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=strength)).fit(rows, label)


def make_registry(folder: Path, strengths: tuple[float, ...] = (1.0, 0.01)):
    "Models of the company in `folder`/mlflow; the first is the champion. MLflow takes seconds to make a database, so an empty one is kept."
    empty = folder / "no models"
    if not empty.exists():
        registry.connect(empty, RIDES.name)
    shutil.copytree(empty, folder / "mlflow")
    client = registry.connect(folder / "mlflow", RIDES.name)
    for strength in strengths:
        run = client.create_run(registry.experiment(client)).info.run_id
        registry.log_model(client, run, model(strength), CONTRACT.kinds)
        client.set_terminated(run)
        registry.register(client, run, f"key {strength}", {"snapshot": f"snapshot of {strength}", "code": "abc"})
    registry.promote(client, "1")
    return client


def make(folder: Path) -> Path:
    "The whole company in `folder`, with an environment's file that points there."
    folder.mkdir(parents=True, exist_ok=True)
    make_store(folder)
    make_registry(folder)
    config = {"name": "company", "out": str(folder), "clock": CLOCK.isoformat()}
    (folder / "env.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def copy(company: Path, folder: Path) -> Path:
    "A company of its own for a test that changes it, as if nobody had asked it yet."
    shutil.copytree(company, folder, ignore=shutil.ignore_patterns("serving"))
    config = yaml.safe_load((folder / "env.yaml").read_text(encoding="utf-8"))
    (folder / "env.yaml").write_text(yaml.safe_dump({**config, "out": str(folder)}), encoding="utf-8")
    return folder
