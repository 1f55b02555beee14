"""README's section "Your own project", followed to the letter with files of its shape: they lead to a champion."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from own_data import ENVIRONMENT, NAME, SECTION, write_files
from rides import CONTRACT

from conftest import run_stages
from mlops_course import cli


@pytest.fixture(scope="module")
def mine(built, tmp_path_factory) -> Path:
    "The build of somebody who has statistics and labels alone, in files as README describes them."
    folder = tmp_path_factory.mktemp("mine")
    write_files(built / "raw", folder)
    (folder / NAME).write_text(ENVIRONMENT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_DATA", str(folder))
        patch.setenv("PLOOMBER_ENV_FILENAME", str(folder / NAME))
        yield run_stages(folder / "out", "world", "data", "features", "training", "batch")


def test_statistics_and_labels_alone_lead_to_a_champion_and_scores(mine):
    decision = json.loads((mine / "training/decision.json").read_text())

    assert decision["decision"] == "promoted", decision["reasons"]
    assert pd.read_parquet(mine / "batch/scores.parquet").score.notna().mean() > 0.5


def test_the_last_lines_say_what_labels_alone_could_not_measure(mine, monkeypatch):
    environment = cli.project.environment(str(mine.parent / NAME)).model_copy(update={"out": mine})
    monkeypatch.setattr(cli.project, "environment", lambda file: environment)

    shown = cli.summary("env.mine.yaml")

    assert "Champion   driver-completion version 1" in shown and "Uplift     not measurable" in shown
    assert "judged by labels alone: uplift cannot be measured" in shown


def test_readme_names_the_columns_that_the_contract_needs():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SECTION, re.M))
    assert set(rows) == set(CONTRACT.tables)
    for name, table in CONTRACT.tables.items():
        needed = {column.name for column in table.columns if not column.empty}
        assert needed <= set(re.findall(r"`(\w+)`", rows[name])) <= set(table.names), name
