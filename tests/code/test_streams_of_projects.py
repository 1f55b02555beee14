"""A project that extends another, and tables that are made of events: what does not fit together is said."""

import shutil

import pytest
import yaml

from mlops_course import stages
from mlops_course.contracts import read_project
from mlops_course.problem import Project
from mlops_course.project import UserError, environment, root

ROOT = root()
MINE = "projects/mine.yaml"


@pytest.fixture
def written(tmp_path, monkeypatch):
    "Write a project that extends the course's project with a stream, and read it."

    def write(values: dict, file: str = MINE) -> Project:
        shutil.copytree(ROOT / "projects", tmp_path / "projects", dirs_exist_ok=True)
        shutil.copy(ROOT / "pipeline.yaml", tmp_path)
        (tmp_path / "settings.ini").touch()
        (tmp_path / file).write_text(yaml.safe_dump(values), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return read_project(file)

    return write


def with_stream(**tables) -> dict:
    "Changes of tables, by name, on top of the course's project with a stream."
    return {"extends": "projects/ride_hailing_stream.yaml", "contract": {"tables": tables}}


TWICE = (
    read_project("projects/ride_hailing_stream.yaml")
    .contract.tables["activity"]
    .model_dump(mode="json", exclude={"name"}, exclude_none=True)
)


def column(name: str, kind: str, **more) -> dict:
    return {"name": name, "kind": kind, "about": "something", **more}


def test_what_a_project_does_not_say_stands_in_the_one_that_it_extends():
    rides, fresh = read_project("projects/ride_hailing.yaml"), read_project("projects/ride_hailing_stream.yaml")

    assert fresh.name == "driver-completion-stream" and fresh.acceptance == rides.acceptance
    assert list(fresh.contract.features)[:3] == list(rides.contract.features)
    assert fresh.contract.views["activity"] == ["offers_1h", "trips_1h", "trips_24h", "acc_rate_24h", "conv_rate_24h"]


def test_a_chain_of_three_is_read_and_the_last_word_wins(written):
    project = written({"extends": "projects/ride_hailing_stream.yaml", "acceptance": {"labels": 7}})

    assert project.acceptance.labels == 7 and project.acceptance.days == 14
    assert "activity" in project.contract.tables


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        (MINE, "mine.yaml: `extends` names another project's file"),
        ("projects/nobody.yaml", "no project projects/nobody.yaml; in projects/ there are"),
        (["projects/ride_hailing.yaml"], "`extends` names another project's file"),
        (7, "`extends` names another project's file"),
    ],
)
def test_a_project_that_extends_nothing_or_itself_is_refused(written, extends, words):
    with pytest.raises(UserError, match=words):
        written({"extends": extends})


def test_two_projects_that_extend_each_other_are_refused(written):
    with pytest.raises(UserError, match="no project projects/other.yaml"):
        written({"extends": "projects/other.yaml"})

    with pytest.raises(UserError, match=r"mine\.yaml: `extends` names another project's file, not projects/other\.yaml"):
        written({"extends": MINE}, "projects/other.yaml")


def test_a_stage_is_made_again_when_the_project_that_its_own_extends_has_changed(written):
    written({"extends": "projects/ride_hailing_stream.yaml"})
    before = stages.runs("data", environment(str(ROOT / "env.test.yaml"), project="projects/ride_hailing_stream.yaml"))

    (root() / "projects/ride_hailing.yaml").write_text("changed: true", encoding="utf-8")
    after = stages.runs("data", environment(str(ROOT / "env.test.yaml"), project="projects/ride_hailing_stream.yaml"))

    assert {name for name in before if before[name] != after[name]} == {"projects/ride_hailing.yaml"}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"activity": {"rolling": {"of": "nobody"}}}, "activity.rolling.of: nobody is no table of events"),
        ({"activity": {"rolling": {"of": "statistics"}}}, "rolling.of: statistics is no table of events"),
        ({"activity": {"rolling": {"of": "activity"}}}, "rolling.of: activity is no table of events"),
        ({"activity": {"rolling": {"type": "event_id2"}}}, "events has no column event_id2 of kind text"),
        ({"activity": {"rolling": {"type": "created"}}}, "events has no column created of kind text"),
        ({"events": {"key": ["event_id", "driver_id"]}}, "as its `key` one text"),
        ({"events": {"key": ["driver_id"]}}, "as its `key` one text"),
        ({"activity": {"known": "event"}}, "has a `time`, and `known: created`"),
        ({"activity": {"rolling": {"features": {"more": {"count": "offered", "window": "PT1H"}}}}}, "nothing makes them: more"),
        ({"activity": {"rolling": {"tile": "PT7M"}}}, "rolling: each window is to be one or more tiles"),
        ({"activity": {"rolling": {"lateness": "PT2H"}}}, "rolling: lateness: from 0 to a tile less"),
        ({"activity": {"entity": None}}, r"activity\.entity: whom do the counts"),
        (
            {"activity": {"rolling": {"features": {"driver_id": {"count": "offered", "window": "PT1H"}}}}},
            "features.driver_id: the table has",
        ),
        ({"activity": {"rolling": {"features": {"created": {"count": "offered", "window": "PT1H"}}}}}, "features.created: the table has"),
        ({"activity": {"rolling": {"features": {"offers_1h": {"count": ""}}}}}, "features.offers_1h.count"),
        ({"activity": {"rolling": {"features": {"acc_rate_24h": {"over": "accepted"}}}}}, "acc_rate_24h: over: accepted over itself"),
        ({"activity": {"rolling": {"tile": "PT0.5S"}}}, "tile: 0:00:00.500000 is less than a second"),
        ({"activity": {"rolling": {"features": {"offers_1h": {"window": "P400D"}}}}}, "a window of 400 days is longer than 366"),
        ({"other": TWICE}, "one table that is made of events, and other is too"),
        ({"activity": {"rolling": {"lateness": "soon"}}}, "rolling.lateness: a duration is wanted here"),
    ],
)
def test_a_table_of_events_that_does_not_fit_is_said(written, tables, words):
    with pytest.raises(UserError, match=words):
        written(with_stream(**tables))


def test_a_rate_that_may_not_be_empty_is_refused_because_a_rate_of_nothing_is_unknown(written):
    columns = read_project("projects/ride_hailing_stream.yaml").contract.tables["activity"].columns
    values = [c.model_dump(exclude_none=True) | ({"empty": False} if c.name == "acc_rate_24h" else {}) for c in columns]

    with pytest.raises(UserError, match=r"columns\.acc_rate_24h: a rate is of `kind: number` and `empty: true`"):
        written(with_stream(activity={"columns": values}))


def test_a_source_for_a_table_that_is_made_here_is_refused():
    from mlops_course import data

    with pytest.raises(UserError, match=r"data\.sources names activity; the tables are statistics, .*events"):
        data.check_names(["activity"], read_project("projects/ride_hailing_stream.yaml").contract)
