"""One definition of each feature: what training, the batch and the live service are handed is the same."""

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from conftest import run_stages
from mlops_course import features, project
from mlops_course.problem import CONTRACT

UNTIL = datetime(2026, 3, 15, tzinfo=UTC)
FEATURES = list(CONTRACT.features)
WEEK = features.FeatureSettings()


def statistics(drivers: int = 5, days: int = 10, end: datetime = UNTIL) -> pd.DataFrame:
    "A row an hour for each driver, the last one known just before `end`, in the shape of the data stage."
    draw, hours = np.random.default_rng(3), pd.date_range(end=end - timedelta(hours=2), periods=days * 24, freq="h", unit="us")
    n = drivers * len(hours)
    frame = pd.DataFrame({"datetime": np.tile(hours, drivers), "driver_id": np.repeat(np.arange(1001, 1001 + drivers), len(hours))})
    frame["conv_rate"], frame["acc_rate"], frame["avg_daily_trips"] = draw.random(n), draw.random(n), draw.integers(0, 30, n)
    frame["created"] = frame.datetime + pd.to_timedelta(3600 + draw.integers(1, 3000, n), unit="s").as_unit("us")
    return frame.assign(known_at=frame.created)


def made(folder: Path, frame: pd.DataFrame, settings=WEEK, until: datetime = UNTIL):
    "A store in `folder` over `frame`."
    (folder / "data").mkdir(exist_ok=True)
    frame.to_parquet(folder / "data/statistics.parquet", index=False)
    return features.build(folder / "features", folder / "data/statistics.parquet", "test", settings, until)


def moments(ids, at) -> pd.DataFrame:
    return pd.DataFrame({"driver_id": ids, "event_timestamp": pd.to_datetime(at, utc=True)})


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return statistics()


@pytest.fixture(scope="module")
def store(tmp_path_factory, frame):
    return made(tmp_path_factory.mktemp("store"), frame)


def test_the_definitions_say_what_the_contract_says():
    entity, source, view = features.definitions("file.parquet", timedelta(days=7))

    assert (entity.join_key, source.timestamp_field, view.ttl) == (CONTRACT.entity, CONTRACT.known, timedelta(days=7))
    kinds = {c.name: c.kind for c in CONTRACT.tables["statistics"].columns}
    names = {"number": "Float64", "integer": "Int64"}
    assert {f.name: str(f.dtype) for f in view.schema if f.name != CONTRACT.entity} == {f: names[kinds[f]] for f in FEATURES}


def test_the_module_comes_without_feast():
    code = "import sys, mlops_course.features; assert 'feast' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_historical_keeps_rows_order_index_and_other_columns(store, frame):
    rows = frame.sample(40, random_state=1)[["driver_id", "known_at"]].rename(columns={"known_at": "event_timestamp"})
    rows["trip_completed"], rows["request_id"] = 1, [f"r{i}" for i in range(40)]

    found = features.historical(store, rows)

    pd.testing.assert_frame_equal(found[list(rows)], rows)
    assert list(found)[-3:] == FEATURES
    np.testing.assert_array_equal(found[FEATURES], frame.loc[rows.index, FEATURES])


def test_what_nobody_knew_is_unknown(store, frame):
    first = frame.known_at.min()
    found = features.historical(store, moments([9, 1001, 1001], [UNTIL, first - timedelta(days=1), UNTIL + timedelta(days=8)]))

    assert found[FEATURES].isna().all(axis=None)
    assert set(found[FEATURES].dtypes.astype(str)) == {"float64"}


def test_no_rows_are_an_answer_too(store):
    none = moments([], []).astype({"driver_id": "int64"})

    assert list(features.historical(store, none)) == ["driver_id", "event_timestamp", *FEATURES]
    assert list(features.online(store, [], at=UNTIL)) == ["driver_id", *FEATURES, CONTRACT.known]


def test_online_answers_in_the_order_of_the_question_with_the_time_of_each_row(store, frame):
    ids = [1003, 9, 1001, 1003]
    found = features.online(store, np.array(ids), at=UNTIL)

    newest = frame.sort_values("known_at").groupby("driver_id").tail(1).set_index("driver_id")
    assert found.driver_id.tolist() == ids
    np.testing.assert_array_equal(found[FEATURES], newest.reindex(ids)[FEATURES])
    assert found.known_at.tolist()[0] == newest.known_at[1003].floor("s") and pd.isna(found.known_at[1])


def test_online_forgets_what_is_older_than_the_time_to_live_but_says_how_old_it_is(store):
    found = features.online(store, [1001], at=UNTIL + timedelta(days=8))

    assert found[FEATURES].isna().all(axis=None) and found.known_at.notna().all()


def test_the_live_service_gets_what_training_would_have_got(store):
    ids = [*range(1001, 1006), 9]
    past = features.historical(store, moments(ids, [UNTIL] * 6))

    pd.testing.assert_frame_equal(features.online(store, ids, at=UNTIL)[FEATURES], past[FEATURES])


def test_what_becomes_known_later_does_not_go_online(tmp_path, frame):
    until = UNTIL - timedelta(days=3)
    store = made(tmp_path, frame, until=until)

    found = features.online(store, [1001, 1002], at=until)

    assert (found.known_at <= until).all() and found[FEATURES].notna().all(axis=None)


def test_rows_that_do_not_say_when_they_were_written_go_online_too(tmp_path, frame):
    gaps = frame.assign(created=frame.created.where(frame.index % 2 == 0))  # the newest rows are odd
    without = frame.drop(columns="created")

    answers = [features.online(made(tmp_path, f), [1001, 1002, 1003], at=UNTIL) for f in (frame, gaps, without)]

    pd.testing.assert_frame_equal(answers[0], answers[1])
    pd.testing.assert_frame_equal(answers[0], answers[2])


def test_a_table_without_rows_makes_a_store_that_knows_nothing(tmp_path, frame):
    store = made(tmp_path, frame.head(0))

    assert features.online(store, [1001], at=UNTIL)[FEATURES].isna().all(axis=None)
    assert features.historical(store, moments([1001], [UNTIL]))[FEATURES].isna().all(axis=None)


def test_a_second_run_gives_equal_answers_and_a_killed_one_is_made_good(tmp_path, frame):
    first = features.online(made(tmp_path, frame), range(1001, 1006), at=UNTIL)
    folder, part, old = (tmp_path / name for name in ("features", ".features.part", ".features.old"))

    shutil.copytree(folder, part)  # as if killed while it was filled
    (part / "online.db").write_bytes(b"half")
    pd.testing.assert_frame_equal(features.online(made(tmp_path, frame), range(1001, 1006), at=UNTIL), first)
    os.replace(folder, old)  # as if killed between the two renames
    pd.testing.assert_frame_equal(features.online(made(tmp_path, frame), range(1001, 1006), at=UNTIL), first)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "features"]


def test_a_build_that_fails_leaves_the_old_store_in_its_place(tmp_path, frame):
    made(tmp_path, frame)
    with pytest.raises(Exception, match="sqllite"):
        made(tmp_path, frame, features.FeatureSettings(online_store={"type": "sqllite"}))

    found = features.online(features.open_store(tmp_path / "features"), [1001], at=UNTIL)
    assert found[FEATURES].notna().all(axis=None) and not (tmp_path / ".features.part").exists()


def test_a_store_may_be_moved_and_opened_from_anywhere(tmp_path, frame, monkeypatch):
    (tmp_path / "x").mkdir()
    made(tmp_path / "x", frame)
    os.replace(tmp_path / "x", tmp_path / "y")
    monkeypatch.chdir("/")

    store = features.open_store(tmp_path / "y/features")

    assert features.historical(store, moments([1001], [UNTIL]))[FEATURES].notna().all(axis=None)
    assert features.online(store, [1001], at=UNTIL)[FEATURES].notna().all(axis=None)


def test_the_time_of_a_row_does_not_depend_on_where_the_machine_stands(tmp_path, frame, monkeypatch):
    here = features.online(made(tmp_path, frame), [1001, 1002], at=UNTIL)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        there = features.online(made(tmp_path, frame), [1001, 1002], at=UNTIL)
    finally:
        monkeypatch.undo()
        time.tzset()
    pd.testing.assert_frame_equal(here, there)


def test_no_store_says_which_notebook_makes_one(tmp_path):
    with pytest.raises(project.CourseError, match="31_feature_store"):
        features.open_store(tmp_path)


def test_another_online_store_is_a_matter_of_settings():
    redis = {"type": "redis", "connection_string": "localhost:6378"}

    assert features.store_settings("p", redis)["online_store"] == redis


def stage_run(out: Path, frame: pd.DataFrame, **changes) -> None:
    "The stage over `frame`, with the other tables of the data stage as empty files."
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "reports").mkdir(exist_ok=True)
    for name in ("bookings", "candidates", "labels", "quarantine"):
        (out / f"data/{name}.parquet").touch()
    (out / "data/catalogue.json").touch()
    (out / "reports/profile.html").touch()
    frame.to_parquet(out / "data/statistics.parquet", index=False)
    run_stages(out, "features", **changes)


def test_the_stage_says_what_it_made_and_what_is_unknown(tmp_path, capsys):
    now = project.environment("env.test.yaml").clock
    old = statistics(1, end=now - timedelta(days=30)).assign(driver_id=7)

    stage_run(tmp_path, pd.concat([statistics(4, end=now), old]))

    said = capsys.readouterr().out
    assert "3 features of 5 entities" in said and "online: 4; unknown, because nothing newer than 168 h is there: 1" in said
    assert "materializ" not in said.lower()


def test_the_time_to_live_is_that_of_the_environment(tmp_path):
    now = project.environment("env.test.yaml").clock
    stage_run(tmp_path, statistics(2, end=now - timedelta(hours=10)), features={"ttl_hours": 6})

    found = features.online(features.open_store(tmp_path / "features"), [1001], at=now)
    assert found[FEATURES].isna().all(axis=None)


def test_a_misspelt_setting_is_refused_by_name(tmp_path):
    with pytest.raises(project.CourseError, match="ttl_hour"):
        stage_run(tmp_path, statistics(1), features={"ttl_hour": 6})


def test_in_a_whole_build_online_and_historical_agree_for_every_driver(built):
    store, now = features.open_store(built / "features"), project.environment("env.test.yaml").clock
    ids = sorted(pd.read_parquet(built / "data/statistics.parquet", columns=["driver_id"]).driver_id.unique())

    live = features.online(store, ids, at=now)

    pd.testing.assert_frame_equal(live[FEATURES], features.historical(store, moments(ids, [now] * len(ids)))[FEATURES])
    assert live[FEATURES].notna().all(axis=1).mean() > 0.9


def test_the_folder_for_feasts_command_line_holds_definitions_alone_and_the_same_settings():
    folder = project.root() / "platform/feast"
    written = yaml.safe_load((folder / "feature_store.yaml").read_text())
    ours = features.store_settings(written["project"], {"type": "sqlite"})

    assert [path.name for path in folder.glob("*.py")] == ["definitions.py"]
    assert written == ours | {"registry": written["registry"], "online_store": written["online_store"]}


def test_feasts_own_command_line_applies_and_materializes(tmp_path):
    for name in ("pipeline.yaml", "settings.ini", "env.test.yaml"):
        shutil.copy(project.root() / name, tmp_path)
    shutil.copytree(project.root() / "platform/feast", tmp_path / "platform/feast")
    (tmp_path / "out/test/data").mkdir(parents=True)
    statistics().to_parquet(tmp_path / "out/test/data/statistics.parquet", index=False)
    feast = [str(Path(sys.executable).with_name("feast")), "-c", "platform/feast"]

    for command in (["apply"], ["materialize", "2026-03-09T00:00:00", "2026-03-15T00:00:00"]):
        done = subprocess.run([*feast, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    store = features.open_store(tmp_path / "platform/feast")
    assert features.online(store, [1001], at=UNTIL)[FEATURES].notna().all(axis=None)


def test_the_quick_way_to_read_sqlite_finds_what_feast_finds(built):
    store = features.open_store(built / "features")
    ids = [1001, 9999, 1003, 1001]

    found = features.newest(store, ids)

    theirs = store.get_online_features(features.REFERENCES, [{CONTRACT.entity: i} for i in ids]).to_dict()
    assert [list(row.values) for row in found] == [[theirs[name][i] for name in CONTRACT.features] for i in range(len(ids))]
    assert found[1].known is None and found[0] == found[3]


def test_what_is_pushed_is_online_and_the_newest_row_of_an_entity_wins(built, tmp_path):
    shutil.copytree(built / "features", tmp_path / "features")
    store = features.open_store(tmp_path / "features")
    moment = pd.Timestamp("2026-03-16T00:00Z").as_unit("us")
    times = [moment, moment - pd.Timedelta(hours=1)]
    values = dict.fromkeys(CONTRACT.features, (1, 0))
    rows = pd.DataFrame({CONTRACT.entity: 1001, **values, CONTRACT.known: times, "created": times})

    features.push(store, rows)

    assert features.newest(store, [1001]) == [features.Newest((1.0, 1.0, 1.0), datetime(2026, 3, 16, tzinfo=UTC))]
