"""A project is a file; whatever does not fit together in it is said, a line for each."""

import json
import shutil

import pytest
import yaml
from jsonschema import Draft202012Validator

from mlops_course.contracts import SCHEMA, json_schema, read_project
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
        shutil.copy(ROOT / "pipeline.yaml", tmp_path)
        (tmp_path / "settings.ini").touch()
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


def _column(table: str, name: str, **changes):
    def change(project: dict) -> None:
        columns = project["contract"]["tables"][table]["columns"]
        next(column for column in columns if column["name"] == name).update(changes)

    return change


def _with_own(**labels):
    "A feature that the request brings; where a model learns it is of another kind."

    def change(project: dict) -> None:
        distance = {"name": "distance", "kind": "number", "about": "km"}
        for table in ("request", "candidates", "labels"):
            project["contract"]["tables"][table]["columns"].append(distance | (labels if table == "labels" else {}))
        project["contract"]["features"]["distance"] = {"table": "request"}

    return change


def _twice(project: dict) -> None:
    project["contract"]["tables"]["statistics"]["columns"].append({"name": "acc_rate", "kind": "number", "about": "again"})


FAULTS = {
    "raw: no stage moon makes files, but world and capstone": _setting("raw", "moon"),
    "contract.booking: no table has a column trip": _setting("contract.booking", "trip"),
    "contract.entity: no table has a column rider": _setting("contract.entity", "rider"),
    "contract.tables.labels: the column request_id is missing": _without_column("labels", "request_id"),
    "contract.tables.candidates: the column request_id is missing": _without_column("candidates", "request_id"),
    "contract.tables.statistics.columns: acc_rate stands there more than once": _twice,
    "contract.tables.statistics.columns.acc_rate: `low` 2 is above `high` 1": _column("statistics", "acc_rate", low=2),
    "contract.tables.bookings.columns.rider_id: of kind text it has no `low`": _column("bookings", "rider_id", low=2),
    "contract.tables.labels.name: ends? A table is called as it stands": _setting("contract.tables.labels.name", "ends"),
    "request_id names a booking: one kind everywhere": _column("labels", "request_id", kind="integer"),
    "contract.tables.bookings.columns.propensity: a probability is of kind number": _column(
        "bookings", "propensity", kind="text", low=None, high=None
    ),
    "contract.tables.request.columns.event_timestamp: the moment of a booking is of kind time": lambda project: [
        _setting("contract.tables.request.time", None)(project),
        _column("request", "event_timestamp", kind="text")(project),
    ],
    "contract.features.distance: number in request, number in candidates, text in labels": _with_own(kind="text"),
    "contract.features.created: a time is no feature": _setting("contract.features.created", {"table": "statistics"}),
    "contract.features.driver_phone: statistics drops it (`personal: drop`)": _setting(
        "contract.features.driver_phone", {"table": "statistics"}
    ),
    "contract.features.acc_rate.kind: number, but statistics has a text there": lambda project: [
        _setting("contract.features.acc_rate.kind", "number")(project),
        _column("statistics", "acc_rate", kind="text", low=None, high=None)(project),
    ],
    "acceptance.days: Input should be greater than or equal to 0": _setting("acceptance.days", -1),
    "acceptance.latency_ms: Input should be greater than 0": _setting("acceptance.latency_ms", 0),
    "costs.true_positive: Input should be a finite number": _setting("costs.true_positive", float("nan")),
    "costs.false_positive: Input should be a finite number": _setting("costs.false_positive", float("inf")),
    "costs.false_negative: Input should be greater than or equal to 0": _setting("costs.false_negative", -1),
    "contract.labels: there is no table ends": _setting("contract.labels", "ends"),
    "contract.tables.labels: the column trip_completed is missing": _without_column("labels", "trip_completed"),
    "contract.tables.request: the column driver_id is missing": _without_column("request", "driver_id"),
    "contract.tables.statistics: the column driver_id is missing": _without_column("statistics", "driver_id"),
    "contract.tables.statistics.time: acc_rate is no column of kind time": _setting("contract.tables.statistics.time", "acc_rate"),
    "contract.tables.statistics: a table of features needs a `time`": _setting("contract.tables.statistics.time", None),
    "contract.tables.labels.known: created, but there is no column created": _without_column("labels", "created"),
    "contract.tables.bookings: the column propensity is missing": _without_column("bookings", "propensity"),
    "contract.propensity: without `candidates` nothing was chosen": _setting("contract.candidates", None),
    "contract.candidates: candidates of which bookings": _setting("contract.bookings", None),
    "contract.features: a model needs one or more": _setting("contract.features", {}),
    "contract.features.age: statistics has no column age": _setting("contract.features.age", {"table": "statistics"}),
    "contract.features.age.table: there is no table people": _setting("contract.features.age", {"table": "people"}),
    "contract.tables.bookings: whom is it about? Features come from it (request_id)": _setting(
        "contract.features.request_id", {"table": "bookings"}
    ),
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


@pytest.mark.parametrize(
    "changes",
    [{"high": 2}, {"low": None}, {"kind": "text", "low": None, "high": None}, {"kind": "time", "low": None, "high": None}],
)
def test_a_label_is_0_or_1(written, changes):
    with pytest.raises(UserError, match=r"labels\.columns\.trip_completed: a label is an integer with"):
        written(_column("labels", "trip_completed", **changes))


@pytest.mark.parametrize("changes", [{"kind": "number"}, {"kind": "boolean", "low": None, "high": None}])
def test_a_label_may_be_a_number_or_a_boolean(written, changes):
    assert written(_column("labels", "trip_completed", **changes)).contract.label == "trip_completed"


ONCE = {
    "a missing column": _without_column("request", "driver_id"),
    "a wrong entity": _setting("contract.entity", "rider"),
    "no entity of a table of features": lambda project: project["contract"]["tables"]["statistics"].pop("entity"),
    "a dropped column that is needed": _column("bookings", "request_id", personal="drop"),
    "a dropped feature": _column("statistics", "acc_rate", personal="drop"),
    "a name that stands there twice": _twice,
}


@pytest.mark.parametrize("fault", ONCE)
def test_a_fault_is_one_line(written, fault):
    with pytest.raises(UserError) as refused:
        written(ONCE[fault])

    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(("text", "what"), [("", "is empty"), ("- name", "holds no settings with names")])
def test_a_file_without_names_says_what_a_project_has(tmp_path, monkeypatch, text, what):
    for name in ("pipeline.yaml", "settings.ini"):
        (tmp_path / name).touch()
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match=f"mine.yaml {what}. A project has a `name`"):
        read_project("mine.yaml")


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
    assert json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")) == json_schema(), "run `make export`"


PROJECTS = sorted((ROOT / "projects").glob("*.yaml"))


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.stem)
def test_the_schema_accepts_the_projects_of_the_course(path):
    Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        _setting("contract.label", 1),
        _setting("acceptance.days", -1),
        _setting("acceptance.day", 1),
        _setting("name", "My model"),
        _column("labels", "created", kind="date"),
        lambda project: project["contract"].pop("entity"),
        lambda project: project["contract"]["tables"]["labels"].pop("key"),
    ],
)
def test_the_schema_refuses_a_wrong_project(change):
    values = yaml.safe_load((ROOT / "projects/ride_hailing.yaml").read_text(encoding="utf-8"))
    change(values)

    assert not Draft202012Validator(json_schema()).is_valid(values)
