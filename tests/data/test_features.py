"""One definition of each feature: what training, the batch and the live service are handed is the same."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from feast import FeatureStore
from rides import CONTRACT
from shop import CONTRACT as SHOP

from conftest import run_stages
from mlops_course import features, lookup, project, stores
from mlops_course.problem import KNOWN, Contract

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


def without_created() -> Contract:
    "The contract of a company that does not say when a row was written."
    tables = {name: table.model_dump() for name, table in CONTRACT.tables.items()}
    tables["statistics"]["columns"] = [c for c in tables["statistics"]["columns"] if c["name"] != "created"]
    return Contract.model_validate({**CONTRACT.model_dump(), "tables": tables})


PLAIN = without_created()


def made(folder: Path, frame: pd.DataFrame, settings=WEEK, until: datetime = UNTIL, contract: Contract = CONTRACT):
    "A store in `folder` over `frame`."
    (folder / "data").mkdir(exist_ok=True)
    frame.to_parquet(folder / "data/statistics.parquet", index=False)
    return features.build(folder / "features", {"statistics": folder / "data/statistics.parquet"}, "test", settings, until, contract)


def moments(ids, moment) -> pd.DataFrame:
    return pd.DataFrame({"driver_id": ids, "event_timestamp": pd.to_datetime(moment, utc=True)})


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return statistics()


@pytest.fixture(scope="module")
def store(tmp_path_factory, frame):
    return made(tmp_path_factory.mktemp("store"), frame)


def test_the_definitions_say_what_the_contract_says():
    entity, source, view = features.definitions({"statistics": "file.parquet"}, {"statistics": timedelta(days=7)}, CONTRACT)

    assert (entity.join_key, source.timestamp_field, view.ttl) == (CONTRACT.entity, KNOWN, timedelta(days=7))
    kinds = {c.name: c.kind for c in CONTRACT.tables["statistics"].columns}
    names = {"number": "Float64", "integer": "Int64"}
    assert {f.name: str(f.dtype) for f in view.schema if f.name != CONTRACT.entity} == {f: names[kinds[f]] for f in FEATURES}


def test_the_module_comes_without_feast():
    code = "import sys, mlops_course.features; assert 'feast' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_historical_keeps_rows_order_index_and_other_columns(store, frame):
    rows = frame.sample(40, random_state=1)[["driver_id", "known_at"]].rename(columns={"known_at": "event_timestamp"})
    rows["trip_completed"], rows["request_id"] = 1, [f"r{i}" for i in range(40)]

    joined = features.historical(store, rows, CONTRACT)

    pd.testing.assert_frame_equal(joined[list(rows)], rows)
    assert list(joined)[-3:] == FEATURES
    np.testing.assert_array_equal(joined[FEATURES], frame.loc[rows.index, FEATURES])


def test_what_nobody_knew_is_unknown(store, frame):
    first = frame.known_at.min()
    rows = features.historical(store, moments([9, 1001, 1001], [UNTIL, first - timedelta(days=1), UNTIL + timedelta(days=8)]), CONTRACT)

    assert rows[FEATURES].isna().all(axis=None)
    assert set(rows[FEATURES].dtypes.astype(str)) == {"float64"}


def test_no_rows_are_an_answer_too(store):
    none = moments([], []).astype({"driver_id": "int64"})

    assert list(features.historical(store, none, CONTRACT)) == ["driver_id", "event_timestamp", *FEATURES]
    assert list(features.online(store, [], CONTRACT, moment=UNTIL)) == ["driver_id", *FEATURES, KNOWN]


def test_online_answers_in_the_order_of_the_question_with_the_time_of_each_row(store, frame):
    ids = [1003, 9, 1001, 1003]
    rows = features.online(store, np.array(ids), CONTRACT, moment=UNTIL)

    newest = frame.sort_values("known_at").groupby("driver_id").tail(1).set_index("driver_id")
    assert rows.driver_id.tolist() == ids
    np.testing.assert_array_equal(rows[FEATURES], newest.reindex(ids)[FEATURES])
    assert rows.known_at.tolist()[0] == newest.known_at[1003].floor("s") and pd.isna(rows.known_at[1])


def test_online_forgets_what_is_older_than_the_time_to_live_but_says_how_old_it_is(store):
    rows = features.online(store, [1001], CONTRACT, moment=UNTIL + timedelta(days=8))

    assert rows[FEATURES].isna().all(axis=None) and rows.known_at.notna().all()


def test_the_live_service_gets_what_training_would_have_got(store):
    ids = [*range(1001, 1006), 9]
    past = features.historical(store, moments(ids, [UNTIL] * 6), CONTRACT)

    pd.testing.assert_frame_equal(features.online(store, ids, CONTRACT, moment=UNTIL)[FEATURES], past[FEATURES])


def test_what_becomes_known_later_does_not_go_online(tmp_path, frame):
    until = UNTIL - timedelta(days=3)
    store = made(tmp_path, frame, until=until)

    rows = features.online(store, [1001, 1002], CONTRACT, moment=until)

    assert (rows.known_at <= until).all() and rows[FEATURES].notna().all(axis=None)


def test_rows_that_do_not_say_when_they_were_written_go_online_too(tmp_path, frame):
    gaps = frame.assign(created=frame.created.where(frame.index % 2 == 0))  # the newest rows are odd

    answers = [features.online(made(tmp_path, f), [1001, 1002, 1003], CONTRACT, moment=UNTIL) for f in (frame, gaps)]

    pd.testing.assert_frame_equal(*answers)


def test_a_table_whose_contract_does_not_say_when_a_row_was_written_makes_a_store_too(tmp_path, frame):
    store = made(tmp_path, frame.drop(columns="created"), contract=PLAIN)
    rows = features.online(store, [1001, 1002], PLAIN, moment=UNTIL)

    (tmp_path / "with").mkdir()
    pd.testing.assert_frame_equal(rows, features.online(made(tmp_path / "with", frame), [1001, 1002], CONTRACT, moment=UNTIL))


def test_each_table_has_its_own_time_to_live_and_one_that_is_not_named_is_a_fault():
    by_table = features.lives(features.FeatureSettings(ttl_hours={"habits": 6}), SHOP)

    assert by_table == {"habits": timedelta(hours=6)} and features.lives(WEEK, SHOP) == {"habits": timedelta(days=7)}
    with pytest.raises(project.UserError, match="names statistics; the tables of features are habits"):
        features.lives(features.FeatureSettings(ttl_hours={"statistics": 6}), SHOP)


def test_definitions_know_entities_of_text_and_features_of_all_kinds():
    entity, source, view = features.definitions({"habits": "file.parquet"}, {"habits": timedelta(days=7)}, SHOP)

    assert (entity.join_key, entity.value_type.name, source.created_timestamp_column) == ("customer", "STRING", "created")
    kinds = {"orders": "Float64", "member": "Bool", "city": "String", "constant": "Float64"}
    assert {f.name: str(f.dtype) for f in view.schema if f.name != entity.name} == kinds


def test_a_table_without_rows_makes_a_store_that_knows_nothing(tmp_path, frame):
    store = made(tmp_path, frame.head(0))

    assert features.online(store, [1001], CONTRACT, moment=UNTIL)[FEATURES].isna().all(axis=None)
    assert features.historical(store, moments([1001], [UNTIL]), CONTRACT)[FEATURES].isna().all(axis=None)


def test_a_second_run_gives_equal_answers_and_a_killed_one_is_made_good(tmp_path, frame):
    first = features.online(made(tmp_path, frame), range(1001, 1006), CONTRACT, moment=UNTIL)
    folder, part, old = (tmp_path / name for name in ("features", ".features.part", ".features.old"))

    shutil.copytree(folder, part)  # as if killed while it was filled
    (part / "online.db").write_bytes(b"half")
    pd.testing.assert_frame_equal(features.online(made(tmp_path, frame), range(1001, 1006), CONTRACT, moment=UNTIL), first)
    os.replace(folder, old)  # as if killed between the two renames
    pd.testing.assert_frame_equal(features.online(made(tmp_path, frame), range(1001, 1006), CONTRACT, moment=UNTIL), first)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "features"]


def test_a_build_that_fails_leaves_the_old_store_in_its_place(tmp_path, frame):
    made(tmp_path, frame)
    with pytest.raises(Exception, match="sqllite"):
        made(tmp_path, frame, features.FeatureSettings(online_store={"type": "sqllite"}))

    rows = features.online(features.open_store(tmp_path / "features"), [1001], CONTRACT, moment=UNTIL)
    assert rows[FEATURES].notna().all(axis=None) and not (tmp_path / ".features.part").exists()


def test_a_store_may_be_moved_and_opened_from_anywhere(tmp_path, frame, monkeypatch):
    (tmp_path / "x").mkdir()
    made(tmp_path / "x", frame)
    os.replace(tmp_path / "x", tmp_path / "y")
    monkeypatch.chdir("/")

    store = features.open_store(tmp_path / "y/features")

    assert features.historical(store, moments([1001], [UNTIL]), CONTRACT)[FEATURES].notna().all(axis=None)
    assert features.online(store, [1001], CONTRACT, moment=UNTIL)[FEATURES].notna().all(axis=None)


ZONES = ["UTC", "Asia/Ho_Chi_Minh", "America/New_York", "Asia/Kathmandu"]
MOMENTS = [
    "2026-03-08T02:30:00",  # an hour that New York's clocks leave out
    "2026-11-01T01:30:00",  # and one that they show twice, as local times
    "2026-11-01T05:30:00",  # the same, as instants
    "2026-11-01T06:30:00",
    "2026-03-14T12:00:00.123457",
    "1969-07-20T20:17:40.000001",
    "1879-06-15T00:00:00.999999",  # Kathmandu was 5:41:16 before London
]

IN_ZONES = """
import json, os, sys, time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
import pandas as pd
from feast import FeatureStore  # before the processes part, so that each of them begins at once
from feast.infra import passthrough_provider
from feast.infra.compute_engines.local import compute
from mlops_course import features, lookup, online
from mlops_course.contracts import read_project

CONTRACT = read_project("projects/ride_hailing.yaml").contract
folder, zones = Path(sys.argv[1]), sys.argv[2:]
rows = pd.read_parquet(folder / "rows.parquet")
ids = rows.driver_id.tolist()

def write(zone):
    store = features.build(folder / zone.replace("/", " "), {"statistics": folder / "rows.parquet"}, "test", features.FeatureSettings(ttl_hours=3_000_000), UNTIL, CONTRACT)
    features.push(store, "statistics", rows[rows.driver_id % 2 == 0], CONTRACT, UNTIL)

def read(zone, writer):
    store = features.open_store(folder / writer.replace("/", " "))
    asked = [{"driver_id": i} for i in ids]
    keys = [lookup.key_of("driver_id", i) for i in ids]
    view = store.get_feature_view("statistics")
    theirs = store.get_online_features(features.references(CONTRACT), asked).proto.results[1].event_timestamps
    moments = {
        "newest": [online.microseconds_of(row.known) for row in features.newest(store, ids, CONTRACT)],
        "online": [online.microseconds_of(t) for t in features.online(store, ids, CONTRACT, moment=UNTIL).known_at],
        "online_read": [online.microseconds_of(t) for t, _ in store.provider.online_read(store.config, view, keys)],
        "get_online_features": [t.ToMicroseconds() for t in theirs],
    }
    for way, found in moments.items():
        print(json.dumps([writer, zone, way, found]), flush=True)

def in_process(work, zone, *more):
    if (child := os.fork()) == 0:
        os.environ["TZ"] = zone
        time.tzset()
        work(zone, *more)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

UNTIL = pd.Timestamp("2027-01-01", tz="UTC").to_pydatetime()
for zone in zones:
    in_process(write, zone)
for writer in zones:
    for zone in zones:
        in_process(read, zone, writer)
"""


def test_a_time_is_the_same_moment_in_processes_of_all_zones(tmp_path):
    known = pd.to_datetime(MOMENTS, utc=True, format="ISO8601").as_unit("us")
    rows = pd.DataFrame({"driver_id": range(len(known)), "known_at": known, "conv_rate": 0.5, "acc_rate": 0.5, "avg_daily_trips": 1})
    rows["created"] = rows.known_at.where(rows.driver_id % 3 != 0)
    rows.to_parquet(tmp_path / "rows.parquet", index=False)

    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IN_ZONES, tmp_path, *ZONES], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    instants = [int(t.value) // 1_000 for t in known.as_unit("ns")]
    assert len(entries) == 4 * len(ZONES) ** 2
    assert [row[:3] for row in entries if row[3] != instants] == []


def test_no_store_says_which_notebook_makes_one(tmp_path):
    with pytest.raises(project.UserError, match="32_feature_store"):
        features.open_store(tmp_path)


def test_another_online_store_and_another_registry_are_a_matter_of_settings():
    redis, registry = (
        {"type": "redis", "connection_string": "localhost:6378"},
        {"registry_type": "sql", "path": "postgresql+psycopg://a@b/c"},
    )

    written = features.store_settings("p", redis, registry)

    assert written["online_store"] == {**redis, "type": lookup.REDIS}
    assert written["registry"] == registry


def test_a_redis_of_many_servers_is_left_to_feast():
    cluster = {"type": "redis", "redis_type": "redis_cluster", "connection_string": "localhost:6378"}

    assert features.store_settings("p", cluster)["online_store"] == cluster


@pytest.mark.parametrize("name", [{"type": name} for name in (*stores.FEASTS_SQLITE, stores.SQLITE)] + [{}], ids=str)
def test_whoever_says_sqlite_gets_the_store_with_times_of_no_zone(name):
    assert features.store_settings("p", name)["online_store"] == {"type": stores.SQLITE, "path": "online.db"}
    assert features.store_settings("p", {**name, "path": "x.db"})["online_store"] == {"type": stores.SQLITE, "path": "x.db"}


def feasts_own(folder: Path, frame: pd.DataFrame):
    "A store as the course built it before: on Feast's own SQLite."
    (folder / "features").mkdir()
    frame.to_parquet(folder / "statistics.parquet", index=False)
    written = features.store_settings("test", {}) | {"online_store": {"type": "sqlite", "path": "online.db"}}
    (folder / "features/feature_store.yaml").write_text(yaml.safe_dump(written))
    store = FeatureStore(repo_path=str(folder / "features"))
    store.apply(features.definitions({"statistics": "../statistics.parquet"}, {"statistics": timedelta(days=7)}, CONTRACT))
    features.push(store, "statistics", frame, CONTRACT, UNTIL)
    return folder / "features"


def test_a_store_that_was_built_before_times_had_no_zone_is_refused(tmp_path, frame):
    folder = feasts_own(tmp_path, frame)

    with pytest.raises(project.UserError, match="depend on the zone.*`make run.*`"):
        features.open_store(folder)


@pytest.mark.parametrize("name", stores.MOVED)
def test_a_store_that_names_its_classes_where_they_were_says_what_to_do(tmp_path, name):
    part = "offline_store" if "Offline" in name else "online_store"
    written = features.store_settings("test", {}) | {part: {"type": name}}
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(written))

    with pytest.raises(project.UserError, match="built by an older release of this course: `make run.*` builds it anew"):
        features.open_store(tmp_path)


def test_settings_that_name_our_store_where_it_was_mean_it_where_it_is():
    assert features.store_settings("p", {"type": "mlops_course.asof.UtcSqliteOnlineStore"}) == features.store_settings("p", {})


def test_nor_is_its_file_read_or_written_under_newer_settings(tmp_path, frame):
    folder = feasts_own(tmp_path, frame)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(features.store_settings("test", {})))
    before, store = (folder / "online.db").read_bytes(), features.open_store(folder)
    definitions = features.definitions({"statistics": "../statistics.parquet"}, {"statistics": timedelta(days=7)}, CONTRACT)

    doors = {
        "read": lambda: features.newest(store, [1001], CONTRACT),
        "read by Feast": lambda: store.get_online_features(features.references(CONTRACT), [{CONTRACT.entity: 1001}]),
        "pushed": lambda: features.push(store, "statistics", frame, CONTRACT, UNTIL),
        "materialized": lambda: store.materialize(UNTIL - timedelta(days=7), UNTIL),
        "applied": lambda: store.apply(definitions),
    }
    for door in doors.values():
        with pytest.raises(project.UserError, match="online.db .*zone of a process: remove it"):
            door()
    assert (folder / "online.db").read_bytes() == before

    (folder / "online.db").unlink()
    store.apply(definitions)
    features.push(store, "statistics", frame, CONTRACT, UNTIL)
    assert features.online(store, [1001], CONTRACT, moment=UNTIL)[FEATURES].notna().all(axis=None)


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

    output = capsys.readouterr().out
    assert "3 features of 5 entities" in output and "online: 4; unknown, because nothing newer than 168 h is there: 1" in output
    assert "materializ" not in output.lower()


def test_the_time_to_live_is_that_of_the_environment(tmp_path):
    now = project.environment("env.test.yaml").clock
    stage_run(tmp_path, statistics(2, end=now - timedelta(hours=10)), features={"ttl_hours": 6})

    rows = features.online(features.open_store(tmp_path / "features"), [1001], CONTRACT, moment=now)
    assert rows[FEATURES].isna().all(axis=None)


def test_a_misspelt_setting_is_refused_by_name(tmp_path):
    with pytest.raises(project.UserError, match="ttl_hour"):
        stage_run(tmp_path, statistics(1), features={"ttl_hour": 6})


def test_in_a_whole_build_online_and_historical_agree_for_every_driver(built):
    store, now = features.open_store(built / "features"), project.environment("env.test.yaml").clock
    ids = sorted(pd.read_parquet(built / "data/statistics.parquet", columns=["driver_id"]).driver_id.unique())

    live = features.online(store, ids, CONTRACT, moment=now)

    pd.testing.assert_frame_equal(live[FEATURES], features.historical(store, moments(ids, [now] * len(ids)), CONTRACT)[FEATURES])
    assert live[FEATURES].notna().all(axis=1).mean() > 0.9


def test_the_folder_for_feasts_command_line_holds_definitions_alone_and_the_same_settings():
    folder = project.root() / "platform/feast"
    written = yaml.safe_load((folder / "feature_store.yaml").read_text())
    ours = features.store_settings(written["project"], {"type": "sqlite"})

    assert [path.name for path in folder.glob("*.py")] == ["definitions.py"]
    assert written == ours | {"registry": written["registry"], "online_store": ours["online_store"] | {"path": "../../out/feast/online.db"}}


def test_feasts_own_command_line_applies_and_materializes(tmp_path):
    for name in ("pipeline.yaml", "settings.ini", "env.test.yaml"):
        shutil.copy(project.root() / name, tmp_path)
    shutil.copytree(project.root() / "platform/feast", tmp_path / "platform/feast")
    shutil.copytree(project.root() / "projects", tmp_path / "projects")
    (tmp_path / "out/test/data").mkdir(parents=True)
    statistics().to_parquet(tmp_path / "out/test/data/statistics.parquet", index=False)
    feast = [str(Path(sys.executable).with_name("feast")), "-c", "platform/feast"]

    for command in (["apply"], ["materialize", "2026-03-09T00:00:00", "2026-03-15T00:00:00"]):
        done = subprocess.run([*feast, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    store = features.open_store(tmp_path / "platform/feast")
    assert features.online(store, [1001], CONTRACT, moment=UNTIL)[FEATURES].notna().all(axis=None)


def test_the_quick_way_to_read_sqlite_finds_what_feast_finds(built):
    store = features.open_store(built / "features")
    ids = [1001, 9999, 1003, 1001]

    newest_rows = features.newest(store, ids, CONTRACT)

    theirs = store.get_online_features(features.references(CONTRACT), [{CONTRACT.entity: i} for i in ids]).to_dict()
    assert [list(row.values) for row in newest_rows] == [[theirs[name][i] for name in CONTRACT.features] for i in range(len(ids))]
    assert newest_rows[1].known is None and newest_rows[0] == newest_rows[3]


def row(ids, known, value: float = 1.0) -> pd.DataFrame:
    "Statistics to be pushed, one value for all features."
    known = pd.to_datetime(pd.Series(known), utc=True).dt.as_unit("us")
    return pd.DataFrame({CONTRACT.entity: ids, **dict.fromkeys(FEATURES, value), KNOWN: known, "created": known})


@pytest.fixture
def own(tmp_path, store):
    "A store like `store` for a test that writes to it."
    shutil.copytree(store.repo_path, tmp_path / "features")
    return features.open_store(tmp_path / "features")


def test_what_is_pushed_is_online_and_the_newest_row_of_an_entity_wins(built, tmp_path):
    shutil.copytree(built / "features", tmp_path / "features")
    store = features.open_store(tmp_path / "features")
    moment = pd.Timestamp("2026-03-16T00:00Z").as_unit("us")
    times = [moment, moment - pd.Timedelta(hours=1)]
    values = dict.fromkeys(CONTRACT.features, (1, 0))
    rows = pd.DataFrame({CONTRACT.entity: 1001, **values, KNOWN: times, "created": times})

    features.push(store, "statistics", rows, CONTRACT)

    assert features.newest(store, [1001], CONTRACT) == [lookup.Newest((1.0, 1.0, 1.0), datetime(2026, 3, 16, tzinfo=UTC))]


@pytest.mark.parametrize(
    "times",
    [
        pd.Series(["2026-03-14T20:00:00.000001"]),
        pd.to_datetime(pd.Series(["2026-03-14T20:00:00.000001"])),
        pd.to_datetime(pd.Series(["2026-03-15T03:00:00.000001"])).dt.tz_localize("Asia/Ho_Chi_Minh"),
        pd.to_datetime(pd.Series(["2026-03-14T20:00:00.000001"])).dt.as_unit("us").dt.tz_localize("UTC"),
        pd.Series([datetime.fromisoformat("2026-03-14T15:00:00.000001-05:00")], dtype=object),
    ],
    ids=["text", "naive", "of a zone", "UTC", "objects"],
)
def test_however_the_time_of_a_pushed_row_is_written_it_is_the_same_moment(own, times):
    rows = row([1009], ["2026-03-14"]).assign(**{KNOWN: times})

    features.push(own, "statistics", rows, CONTRACT, UNTIL)

    assert features.newest(own, [1009], CONTRACT)[0] == lookup.Newest((1.0,) * 3, datetime(2026, 3, 14, 20, 0, 0, 1, tzinfo=UTC))


@pytest.mark.parametrize("contract", [CONTRACT, PLAIN], ids=["the contract has the column", "the contract has it not"])
@pytest.mark.parametrize(
    "change",
    [lambda rows: rows, lambda rows: rows.drop(columns="created"), lambda rows: rows.assign(created=pd.NaT)],
    ids=["", "no column", "no time"],
)
def test_a_pushed_row_need_not_say_when_it_was_written(tmp_path, frame, contract, change):
    store = made(tmp_path, frame[["known_at", *contract.tables["statistics"].names]], contract=contract)

    features.push(store, "statistics", change(row([1001], [UNTIL])), contract, UNTIL)

    assert features.newest(store, [1001], contract)[0] == lookup.Newest((1.0,) * 3, UNTIL)


FUTURE = ["2099-01-01", UNTIL + features.SLACK + timedelta(microseconds=1), datetime(9999, 12, 31, tzinfo=UTC), None, "no time"]


@pytest.mark.parametrize("known", FUTURE, ids=str)
def test_a_row_that_nobody_can_know_yet_stays_out_is_named_and_keeps_no_other_row_out(own, known):
    before = features.newest(own, [1001], CONTRACT)
    rows = row([1001, 1002], [UNTIL] * 2, 2.0).astype({KNOWN: object})
    rows.loc[0, KNOWN] = known

    with pytest.raises(project.UserError, match="^1 of 2 rows are not online.*driver_id 1001: "):
        features.push(own, "statistics", rows, CONTRACT, UNTIL)

    assert features.newest(own, [1001], CONTRACT) == before
    assert features.newest(own, [1002], CONTRACT)[0] == lookup.Newest((2.0,) * 3, UNTIL)


def test_a_column_of_times_beyond_what_nanoseconds_can_say_is_refused_too(own):
    rows = row([1001], [UNTIL]).assign(**{KNOWN: pd.Series([datetime(9999, 1, 1)]).astype("datetime64[us]")})

    with pytest.raises(project.UserError, match="1 of 1 rows .*9999-01-01"):
        features.push(own, "statistics", rows, CONTRACT, UNTIL)


def test_a_row_of_now_wins_over_one_of_the_same_driver_from_the_future(own):
    with pytest.raises(project.UserError, match="1 of 2"):
        features.push(own, "statistics", row([1001, 1001], [UNTIL, UNTIL + timedelta(days=1)]), CONTRACT, UNTIL)

    assert features.newest(own, [1001], CONTRACT)[0].known == UNTIL


def test_many_rows_from_the_future_are_counted_and_the_message_stays_short(own):
    with pytest.raises(project.UserError, match="^100 of 100 rows") as refused:
        features.push(own, "statistics", row(range(100), ["2099-01-01"] * 100), CONTRACT, UNTIL)

    assert "and 97 more" in str(refused.value) and len(str(refused.value)) < 400


def test_now_is_that_of_the_environment(own):
    now = project.environment("env.test.yaml").clock
    features.push(own, "statistics", row([1001], [now]), CONTRACT)

    with pytest.raises(project.UserError, match="later than now"):
        features.push(own, "statistics", row([1001], [now + timedelta(hours=1)]), CONTRACT)
    assert features.newest(own, [1001], CONTRACT)[0].known == now


def test_clocks_may_differ_a_little(own):
    features.push(own, "statistics", row([1001], [UNTIL + features.SLACK]), CONTRACT, UNTIL)

    assert features.online(own, [1001], CONTRACT, moment=UNTIL)[FEATURES].notna().all(axis=None)


def test_a_row_from_the_future_that_is_in_the_store_is_not_there_until_its_time_comes(own):
    known = UNTIL + timedelta(days=1)
    own.write_to_online_store("statistics", row([1001], [known], 9.0))  # Feast asks no clock

    early, later = (features.online(own, [1001, 1002], CONTRACT, moment=moment) for moment in (UNTIL, known))

    assert early.loc[0, FEATURES].isna().all() and pd.isna(early.known_at[0]) and early.loc[1, FEATURES].notna().all()
    assert later.loc[0, FEATURES].eq(9.0).all() and later.known_at[0] == known
    assert features.newest(own, [1001], CONTRACT)[0].known == known
    assert features.newest(own, [1001], CONTRACT, UNTIL - features.SLACK) == [lookup.Newest((None,) * 3, None)]


def test_online_counts_the_time_to_live_to_the_microsecond_as_training_does(own):
    known = datetime(2026, 3, 14, 12, 0, 0, 999_999, tzinfo=UTC)
    features.push(own, "statistics", row([1009], [known]), CONTRACT, UNTIL)
    ttl = features.time_to_live(own, CONTRACT)

    for moment, there in [(known + ttl, True), (known + ttl + timedelta(microseconds=1), False)]:
        assert features.online(own, [1009], CONTRACT, moment=moment)[FEATURES].notna().all(axis=None) == there


@pytest.fixture
def few_variables(monkeypatch):
    "A SQLite of before 2020: a question may have 999 variables. Today's builds take 32,766 or more."
    connect = sqlite3.connect

    def limited(*args, **more):
        database = connect(*args, **more)
        database.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        return database

    monkeypatch.setattr(sqlite3, "connect", limited)


@pytest.mark.parametrize("n", [1_000, 40_000, 100_000])
def test_any_number_of_drivers_is_one_question(few_variables, own, n):
    ids = np.arange(1006 - n, 1006)

    newest_rows = features.newest(own, ids, CONTRACT)

    assert [row.known is not None for row in newest_rows] == [False] * (n - 5) + [True] * 5
    assert len(features.online(own, ids, CONTRACT, moment=UNTIL)) == n


def test_any_number_of_drivers_is_one_question_to_feast_too(few_variables, own):
    ids = list(range(1006 - 40_000, 1006))

    rows = own.get_online_features(features.references(CONTRACT), [{CONTRACT.entity: i} for i in ids]).to_dict()

    assert [value is not None for value in rows[FEATURES[0]]] == [False] * (len(ids) - 5) + [True] * 5


EDGES = [2**63 - 1, -(2**63), 2**53 + 1, 2**53, 0, -1]


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda ids: [np.int64(i) for i in ids]])
def test_every_number_of_64_bits_is_an_entity(own, kind):
    features.push(own, "statistics", row(EDGES, [UNTIL] * len(EDGES)).assign(**{FEATURES[0]: range(len(EDGES))}), CONTRACT, UNTIL)

    asked = [*EDGES, *reversed(EDGES), 2**53 - 1]
    newest_rows = features.newest(own, kind(asked), CONTRACT)

    assert [row.values[0] for row in newest_rows] == [*range(6), *reversed(range(6)), None]
    assert features.online(own, kind(asked), CONTRACT, moment=UNTIL)[CONTRACT.entity].tolist() == asked


@pytest.mark.parametrize("none", [[], (), np.array([], "int64"), pd.Series([], dtype="int64"), range(0)], ids=repr)
def test_of_nobody_nothing_is_asked(own, none):
    assert features.newest(own, none, CONTRACT) == [] and len(features.online(own, none, CONTRACT, moment=UNTIL)) == 0


def test_a_store_is_read_by_many_threads_while_it_is_written(own):
    def reads(_):
        return {row.values[0] for _ in range(200) for row in features.newest(own, [1001, 1002], CONTRACT)}

    features.push(own, "statistics", row([1001, 1002], [UNTIL] * 2, 0.0), CONTRACT, UNTIL)
    with ThreadPoolExecutor(4) as pool:
        readers = pool.map(reads, range(4))
        for value in range(1, 20):
            features.push(own, "statistics", row([1001, 1002], [UNTIL] * 2, value), CONTRACT, UNTIL)
        seen = set().union(*readers)

    assert seen <= set(map(float, range(20)))
    assert features.newest(own, [1001], CONTRACT)[0].values[0] == 19


def test_a_store_that_was_torn_down_has_nothing(own):
    features.newest(own, [1001], CONTRACT)
    own.teardown()

    with pytest.raises(sqlite3.OperationalError):
        own.provider.online_store.rows(own.config, lookup.view_of(own, "statistics"), [])


def test_feast_is_imported_without_its_checks_of_types_which_take_seconds():
    code = "import typeguard._decorators as of; of.instrument = None; from mlops_course import lookup; import feast"

    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=project.root())
