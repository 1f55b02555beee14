"""A project is a file; whatever does not fit together in it is said, a line for each."""

import json

import pytest
import yaml

from mlops_course.contracts import SCHEMA, read_project
from mlops_course.problem import Project
from mlops_course.project import UserError, root

ROOT = root()


@pytest.fixture
def written(tmp_path, monkeypatch):
    "Write the course's project, changed by a function, in a root of its own, and read it."

    def write(change) -> Project:
        values = yaml.safe_load((ROOT / "projects/ride_hailing.yaml").read_text(encoding="utf-8"))
        change(values)
        (tmp_path / "projects").mkdir()
        for name in ("pipeline.yaml", "settings.ini"):
            (tmp_path / name).touch()
        (tmp_path / "projects/mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return read_project("projects/mine.yaml")

    return write


def test_the_course_project_is_read_and_its_request_names_the_driver():
    rides = read_project("projects/ride_hailing.yaml")

    assert rides.contract.keys == ["driver_id"]
    assert rides.contract.kinds == dict.fromkeys(["conv_rate", "acc_rate", "avg_daily_trips"], "number")
    assert rides.contract.learned == "candidates" and rides.contract.own == []


def _without_column(table: str, name: str):
    def change(project: dict) -> None:
        columns = project["contract"]["tables"][table]["columns"]
        columns[:] = [column for column in columns if column["name"] != name]

    return change


def _setting(path: str, value):
    def change(project: dict) -> None:
        *where, last = path.split(".")
        for name in where:
            project = project[name]
        project[last] = value

    return change


def _scored(project: dict) -> None:
    "A feature whose name is that of a model's own column."
    project["contract"]["tables"]["statistics"]["columns"].append({"name": "score", "kind": "number", "about": "stars"})
    project["contract"]["features"]["score"] = {"table": "statistics"}


FAULTS = {
    "contract.labels: there is no table ends": _setting("contract.labels", "ends"),
    "contract.tables.labels: the column trip_completed is missing": _without_column("labels", "trip_completed"),
    "contract.tables.request: the column driver_id is missing": _without_column("request", "driver_id"),
    "contract.tables.statistics: driver_id is no column that is kept": _without_column("statistics", "driver_id"),
    "contract.tables.statistics.time: acc_rate is no column of kind time": _setting("contract.tables.statistics.time", "acc_rate"),
    "contract.tables.statistics: a table of features needs a `time`": _setting("contract.tables.statistics.time", None),
    "contract.tables.labels.known: created, but there is no column created": _without_column("labels", "created"),
    "contract.tables.bookings: propensity is missing": _without_column("bookings", "propensity"),
    "contract.propensity: without `candidates` nothing was chosen": _setting("contract.candidates", None),
    "contract.candidates: candidates of which bookings": _setting("contract.bookings", None),
    "contract.features: a model needs one or more": _setting("contract.features", {}),
    "contract.features.age: statistics has no column age": _setting("contract.features.age", {"table": "statistics"}),
    "contract.features.age.table: there is no table people": _setting("contract.features.age", {"table": "people"}),
    "contract.features.request_id: bookings does not say whom it is about": _setting("contract.features.request_id", {"table": "bookings"}),
    "contract.features.score: monitoring has a column of this name": _scored,
    "contract.features.acc_rate.score: acc_rate is a category": _setting(
        "contract.features.acc_rate", {"table": "statistics", "kind": "category", "score": "falls"}
    ),
    "name: String should match pattern": _setting("name", "My model"),
    "contract.tables.labels.columns.0.kind: Input should be": _setting(
        "contract.tables.labels.columns", [{"name": "a", "kind": "b", "about": ""}]
    ),
    "driver_id names an entity: one kind everywhere": _setting(
        "contract.tables.request.columns",
        [{"name": "driver_id", "kind": "text", "about": "who"}, {"name": "event_timestamp", "kind": "time", "about": "when"}],
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_does_not_fit_together_is_said_with_its_place(written, message):
    with pytest.raises(UserError) as refused:
        written(FAULTS[message])

    assert f"\n  {message}" in str(refused.value) and "projects/mine.yaml" in str(refused.value)


def test_several_faults_are_said_at_once(written):
    def change(project):
        _without_column("labels", "trip_completed")(project)
        _setting("contract.features.age", {"table": "people"})(project)

    with pytest.raises(UserError) as refused:
        written(change)

    assert len(str(refused.value).splitlines()) == 3


def test_a_project_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match=r"no project projects/other.yaml; in projects/ there are .*ride_hailing.yaml"):
        read_project("projects/other.yaml")


def test_the_schema_beside_the_projects_is_that_of_the_code():
    there = json.loads((ROOT / SCHEMA).read_text(encoding="utf-8"))

    assert there | Project.model_json_schema() == there, "run `make export`"
