"""README's section "Your own data", followed to the letter with files of its shape: they lead to a champion."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from conftest import run_stages
from mlops_course import cli, project

README = (project.root() / "README.md").read_text(encoding="utf-8")
ZONE = "Asia/Ho_Chi_Minh"


def section() -> str:
    return re.search(r"## Your own data\n(.*?)\n## ", README, re.S)[1]


@pytest.fixture(scope="module")
def mine(built, tmp_path_factory) -> Path:
    "The build of somebody who has statistics and labels alone, in files as README describes them."
    folder = tmp_path_factory.mktemp("mine")
    tables = {name: pd.read_parquet(built / f"raw/{name}.parquet") for name in ("driver_stats", "labels", "batch_request")}

    stats = tables["driver_stats"].drop_duplicates(["driver_id", "datetime"])
    local = {"hour": stats.datetime.dt.tz_convert(ZONE).dt.strftime("%d.%m.%Y %H:%M"), "driver": stats.driver_id}
    rates = {"conversion": stats.conv_rate, "acceptance": stats.acc_rate, "trips": stats.avg_daily_trips}
    pd.DataFrame({**local, **rates}).to_csv(folder / "drivers.csv", sep=";", index=False)
    trips = tables["labels"].drop_duplicates(["driver_id", "event_timestamp"])
    trips = trips.assign(event_timestamp=trips.event_timestamp.dt.tz_convert(ZONE).dt.tz_localize(None))
    trips[["driver_id", "event_timestamp", "trip_completed"]].to_csv(folder / "trips.csv", index=False)
    tables["batch_request"].to_csv(folder / "to_score.csv", index=False)

    described = re.search(r"```yaml\n(# env.mine.yaml\n.*?)```", section(), re.S)[1]
    (folder / "env.mine.yaml").write_text(described, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_DATA", str(folder))
        patch.setenv("PLOOMBER_ENV_FILENAME", str(folder / "env.mine.yaml"))
        yield run_stages(folder / "out", "world", "data", "features", "training", "batch")


def test_statistics_and_labels_alone_lead_to_a_champion_and_scores(mine):
    decision = json.loads((mine / "training/decision.json").read_text())

    assert decision["decision"] == "promoted", decision["reasons"]
    assert pd.read_parquet(mine / "batch/scores.parquet").score.notna().mean() > 0.5


def test_the_last_lines_say_what_labels_alone_could_not_measure(mine, monkeypatch):
    environment = cli.project.environment(str(mine.parent / "env.mine.yaml")).model_copy(update={"out": mine})
    monkeypatch.setattr(cli.project, "environment", lambda file: environment)

    shown = cli.summary("env.mine.yaml")

    assert "Champion   driver-completion version 1" in shown and "Uplift     not measurable" in shown
    assert "judged by labels alone: uplift cannot be measured" in shown


def test_readme_names_the_columns_that_the_contract_needs():
    from mlops_course.problem import CONTRACT

    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section(), re.M))
    assert set(rows) == set(CONTRACT.tables)
    for name, table in CONTRACT.tables.items():
        needed = {column.name for column in table.columns if not column.empty}
        assert needed <= set(re.findall(r"`(\w+)`", rows[name])) <= set(table.names), name
