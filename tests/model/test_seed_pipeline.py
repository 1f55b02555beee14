"""The seed course's files through stages 30 to 50: good numbers on ten labels are no evidence, and nobody is champion."""

import json

import pytest
from data import files

from conftest import run_stages
from mlops_course import cli
from mlops_course.registry import NoChampion


@pytest.fixture(scope="module", params=files.SEEDS)
def trained(request, tmp_path_factory):
    "The folder of a run of env.seed.yaml up to the training stage."
    with files.seed_environment(request.param, tmp_path_factory.mktemp("files")):
        yield run_stages(tmp_path_factory.mktemp("seed"), "world", "data", "features", "training")


def test_the_gate_refuses_for_too_little_evidence_before_anything_else(trained):
    decision = json.loads((trained / "training/decision.json").read_text())

    assert decision["decision"] == "refused"
    assert decision["reasons"][0].startswith("too little evidence")
    assert decision["model"]["version"] is None


def test_what_the_files_lack_is_not_measurable_and_not_zero(trained):
    uplift = json.loads((trained / "training/decision.json").read_text())["uplift"]

    assert uplift["estimate"] is None and uplift["low"] is None


def test_batch_serving_says_that_there_is_no_champion_and_why(trained):
    with pytest.raises(NoChampion, match=r"there is no champion.*refused.*too little evidence"):
        run_stages(trained, "batch")

    assert not (trained / "batch/scores.parquet").exists()


def test_the_last_lines_of_such_a_build_say_so_too(trained, monkeypatch):
    environment = cli.project.environment("env.seed.yaml").model_copy(update={"out": trained})
    monkeypatch.setattr(cli.project, "environment", lambda file: environment)

    lines = cli.summary("env.seed.yaml")

    assert "no champion" in lines and "too little evidence" in lines and "not measurable" in lines
