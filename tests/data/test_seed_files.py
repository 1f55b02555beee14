"""The seed course's own files, and generated files of the same shape, through the stages unchanged."""

import json
import os

import pandas as pd
import pytest
from data import files
from rides import CONTRACT

from conftest import run_stages
from mlops_course import data, project, readers


@pytest.fixture(scope="module", params=files.SEEDS)
def seed(request, tmp_path_factory):
    "The folder of a run of env.seed.yaml up to the data stage."
    with files.seed_environment(request.param, tmp_path_factory.mktemp("files")):
        yield run_stages(tmp_path_factory.mktemp("seed"), "world", "data")


def test_the_two_doubled_rows_are_the_only_ones_refused(seed):
    tables = json.loads((seed / "data/catalogue.json").read_text())["tables"]

    assert (tables["statistics"]["rows_in"], tables["statistics"]["rows_out"]) == (1807, 1805)
    assert tables["statistics"]["refused"] == {"duplicate": 2}
    assert (tables["labels"]["rows_in"], tables["labels"]["rows_out"], tables["labels"]["refused"]) == (10, 10, {})
    assert (tables["bookings"]["rows_in"], tables["candidates"]["rows_in"]) == (0, 0)


def test_the_doubled_rows_are_of_driver_1003(seed):
    refused = pd.read_parquet(seed / "data/quarantine.parquet")

    values = refused.value.map(json.loads)
    assert {(value["driver_id"], value["datetime"]) for value in values} == {(1003, "2021-07-20T23:00:00.000000Z")}
    assert refused.row.tolist() == [1805, 1806]


def test_rows_count_from_their_event_because_created_says_nothing(seed):
    statistics = pd.read_parquet(seed / "data/statistics.parquet")

    assert statistics.created.nunique() == 1
    assert statistics.known_at.equals(statistics.datetime.rename("known_at"))
    assert statistics.groupby("driver_id").size().to_dict() == dict.fromkeys(range(1001, 1006), 361)


def test_every_label_is_after_the_lone_april_row_of_its_driver(seed):
    statistics, labels = (pd.read_parquet(seed / f"data/{name}.parquet") for name in ("statistics", "labels"))

    april = statistics[statistics.datetime < "2021-05-01"].set_index("driver_id").datetime
    assert len(april) == 5
    assert (labels.event_timestamp - labels.driver_id.map(april)).between("4D", "10D").all()


def test_no_folder_of_the_machine_is_in_the_catalogue(seed):
    tables = json.loads((seed / "data/catalogue.json").read_text())["tables"]

    assert tables["statistics"]["source"]["path"] == "${SEED_DATA}/driver_stats.parquet"
    assert tables["labels"]["source"]["path"] == "${SEED_DATA}/driver_orders.csv"


def test_the_request_for_scores_is_read_by_the_same_rules(seed, tmp_path):
    folder = os.environ.get("SEED_DATA") or str(files.seed_twin(tmp_path))
    request = project.environment("env.seed.yaml").batch["request"]
    source = readers.Source(**{**request, "path": request["path"].replace("${SEED_DATA}", folder)})

    read = data.read(source, CONTRACT.tables["request"], CONTRACT, project.environment("env.seed.yaml").clock)

    assert len(read.kept) == 10 and read.refused.empty


def test_without_the_variable_the_message_names_it(tmp_path, monkeypatch):
    monkeypatch.delenv("SEED_DATA", raising=False)
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", "env.seed.yaml")

    with pytest.raises(project.UserError, match="the environment variable SEED_DATA is not set. Set it to the folder"):
        run_stages(tmp_path, "world", "data")
