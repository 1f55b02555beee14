"""The law of the point-in-time join, and our Feast offline store beside Feast's own."""

import contextlib
import os
import sqlite3
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, types
from feast.data_source import PushMode, PushSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlops_course import asof, joins, sql
from mlops_course.online import UtcSqliteOnlineStoreConfig, microseconds_of, time_of

START = pd.Timestamp("2026-03-01", tz="UTC")
OURS = "mlops_course.offline.AsofOfflineStore"


def moments(minutes) -> pd.Series:
    return pd.Series(START + pd.to_timedelta(list(minutes), unit="min"), dtype="datetime64[us, UTC]")


# The law

minute = st.integers(0, 6)
who = st.integers(1, 3)
row = st.tuples(who, minute, st.none() | st.integers(0, 3))
label = st.tuples(st.none() | who, st.none() | minute)


def oracle(labels, rows, ttl):
    "The newest row known at the time of each label, by looking at every row."
    answer = []
    for entity, when in labels:
        known = [] if when is None else [r for r in rows if r[0] == entity and r[1] <= when and (ttl is None or r[1] >= when - ttl)]
        best = max(known, key=lambda r: (r[1], -1 if r[2] is None else r[2]), default=None)
        answer.append(np.nan if best is None else best[3])
    return answer


@settings(max_examples=120, deadline=None)
@given(
    labels=st.lists(label, max_size=12),
    rows=st.lists(row, max_size=20, unique_by=lambda r: (r[0], r[1], -1 if r[2] is None else r[2])),
    ttl=st.none() | st.integers(1, 4),
    values=st.sampled_from([joins.VALUES, 40, 5]),  # one part, a few, one for each row
)
def test_each_label_gets_the_newest_row_known_at_its_time_and_nothing_else_changes(labels, rows, ttl, values):
    rows = [(*r, float(i)) for i, r in enumerate(rows)]
    right = pd.DataFrame(
        {
            "entity": pd.Series([r[0] for r in rows], dtype="int64"),
            "time": moments(r[1] for r in rows),
            "created": moments(np.nan if r[2] is None else r[2] for r in rows),
            "value": pd.Series([r[3] for r in rows], dtype=float),
        }
    )
    left = pd.DataFrame(
        {
            "entity": pd.Series([e for e, _ in labels], dtype="Int64"),
            "when": moments(np.nan if t is None else t for _, t in labels),
            "n": range(len(labels)),
        }
    ).set_axis(range(len(labels), 0, -1))
    limit = None if ttl is None else timedelta(minutes=ttl)

    with mock.patch.object(joins, "VALUES", values):
        joined = asof.as_of(
            left, right, entity="entity", label_time="when", feature_time="time", columns=["value"], ttl=limit, created="created"
        )

    pd.testing.assert_frame_equal(joined[list(left)], left)
    np.testing.assert_array_equal(joined["value"], oracle(labels, rows, ttl))


def test_a_row_counts_from_its_own_microsecond_and_until_its_last():
    rows = pd.DataFrame({"e": [1], "t": moments([0]), "v": [5.0]})
    tick, ttl = pd.Timedelta(1, "us"), pd.Timedelta(10, "min")
    labels = pd.DataFrame({"e": 1, "at": [START - tick, START, START + ttl, START + ttl + tick]})

    joined = asof.as_of(labels, rows, entity="e", label_time="at", feature_time="t", columns=["v"], ttl=ttl.to_pytimedelta())

    assert joined.v.fillna(-1).tolist() == [-1, 5, 5, -1]


def test_of_rows_with_one_time_the_last_written_counts_and_one_that_does_not_say_when_counts_least():
    rows = pd.DataFrame({"e": 1, "t": START, "w": moments([5, 9, np.nan]), "v": [1.0, 2.0, 3.0]})
    label = pd.DataFrame({"e": [1], "at": [START]})
    how = {"entity": "e", "label_time": "at", "feature_time": "t", "columns": ["v"], "created": "w"}

    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert asof.as_of(label, rows.iloc[order], **how).v.tolist() == [2.0]


def test_a_time_without_zone_is_utc_wherever_the_machine_stands(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        rows = pd.DataFrame({"e": [1, 1], "t": pd.to_datetime(["2026-03-01T00:00", "2026-03-01T03:00"]), "v": [1.0, 2.0]})
        labels = pd.DataFrame({"e": [1, 1], "at": pd.to_datetime(["2026-03-01T02:59", "2026-03-01T03:00"])})
        aware = labels.assign(at=labels["at"].dt.tz_localize("UTC").dt.tz_convert("America/New_York"))
        for asked in (labels, aware):
            joined = asof.as_of(asked, rows, entity="e", label_time="at", feature_time="t", columns=["v"])
            assert joined.v.tolist() == [1.0, 2.0]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_file_gives_the_same_answer_as_the_table(tmp_path):
    rows = pd.DataFrame({"e": [1, 1, 2], "t": moments([0, 5, 3]), "v": [1.0, 2.0, 3.0]})
    rows.to_parquet(tmp_path / "it's.parquet")
    labels = pd.DataFrame({"e": [2, 1, 1], "at": moments([4, 4, 6])})
    how = {"entity": "e", "label_time": "at", "feature_time": "t", "columns": ["v"]}

    pd.testing.assert_frame_equal(asof.as_of(labels, tmp_path / "it's.parquet", **how), asof.as_of(labels, rows, **how))


# Through Feast


def repository(folder: Path, offline: str = OURS) -> FeatureStore:
    "A feature store with two views, on relative and absolute files of `folder`."
    config = RepoConfig(
        project="test",
        provider="local",
        registry=str(folder / f"{offline.split('.')[-1]}.db"),
        online_store={"type": "sqlite", "path": str(folder / f"{offline.split('.')[-1]}-online.db")},
        offline_store={"type": offline},
        entity_key_serialization_version=3,
    )
    config.repo_path = folder
    store = FeatureStore(config=config)
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=types.Int64.to_value_type())
    zone = Entity(name="zone", join_keys=["zone_id"], value_type=types.String.to_value_type())
    path = "stats.parquet" if offline == OURS else str(folder / "stats.parquet")
    stats = FileSource(name="stats_file", path=path, timestamp_field="known_at", created_timestamp_column="created")
    demand = FileSource(
        name="demand_file", path=str(folder / "demand.parquet"), timestamp_field="ts", field_mapping={"d": "demand", "z": "zone_id"}
    )
    schema = [Field(name="rate", dtype=types.Float64), Field(name="trips", dtype=types.Int64)]
    push = PushSource(name="stats_push", batch_source=stats)
    views = [
        FeatureView(name="stats", entities=[driver], ttl=timedelta(hours=6), schema=schema, source=push),
        FeatureView(name="zones", entities=[zone], ttl=timedelta(0), schema=[Field(name="demand", dtype=types.Float64)], source=demand),
    ]
    store.apply([driver, zone, stats, demand, push, *views])
    return store


@pytest.fixture
def files(tmp_path) -> Path:
    "Random statistics (with ties that `created` breaks), and demand of zones in columns of other names."
    draw = np.random.default_rng(5)
    n = 3_000
    stats = pd.DataFrame({"driver_id": draw.integers(1, 40, n), "known_at": moments(draw.integers(0, 2_000, n))})
    stats = stats.assign(rate=draw.random(n), trips=draw.integers(0, 30, n), created=moments(draw.permutation(n)))
    ties = stats.sample(400, random_state=1).assign(rate=lambda d: d.rate + 1, created=lambda d: d.created + pd.Timedelta("10D"))
    pd.concat([stats, ties]).sample(frac=1, random_state=2).to_parquet(tmp_path / "stats.parquet", index=False)
    zones = pd.DataFrame({"z": draw.choice(list("abc"), 200), "ts": moments(draw.permutation(2_000)[:200]), "d": draw.random(200)})
    zones.to_parquet(tmp_path / "demand.parquet", index=False)
    return tmp_path


def labels(n: int = 800, seed: int = 9) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    who = pd.DataFrame({"driver_id": draw.integers(1, 45, n), "zone_id": draw.choice(list("abcd"), n), "name": range(n)})
    return who.assign(event_timestamp=moments(draw.integers(0, 2_500, n)))


pytestmark = pytest.mark.filterwarnings("ignore:.*experimental feature:RuntimeWarning")
ALL = ["stats:rate", "stats:trips", "zones:demand"]


def test_feasts_duckdb_store_gives_equal_answers_for_two_views(files):
    asked = pd.concat([labels(), labels(20)], ignore_index=True).assign(name=lambda d: range(len(d)))  # 20 labels twice

    ours = repository(files).get_historical_features(asked, ALL).to_df()
    theirs = repository(files, "duckdb").get_historical_features(asked, ALL).to_df()

    theirs = theirs.sort_values("name", ignore_index=True)
    pd.testing.assert_frame_equal(ours[list(theirs)], theirs, check_dtype=False)
    pd.testing.assert_frame_equal(ours[list(asked)], asked, check_dtype=False)
    assert 0.3 < ours.rate.notna().mean() < 1 and 0.3 < ours.demand.notna().mean() < 1


def test_where_feasts_dask_store_loses_a_label_ours_keeps_it(files):
    twice = pd.concat([labels(5), labels(5).head(1)], ignore_index=True).drop(columns="name")

    theirs = repository(files, "dask").get_historical_features(twice, ["stats:rate"]).to_df()
    ours = repository(files).get_historical_features(twice, ["stats:rate"]).to_df()

    assert len(theirs) == 5  # if this fails, Feast has mended it: say so in the lesson
    pd.testing.assert_frame_equal(ours[list(twice)], twice, check_dtype=False)


def test_full_names_aliases_of_keys_and_of_views_are_honoured(files):
    store = repository(files)
    asked = labels(50).rename(columns={"driver_id": "candidate"})
    view = store.get_feature_view("stats").with_name("rival").with_join_key_map({"driver_id": "candidate"})
    service = FeatureService(name="pair", features=[view[["rate"]], store.get_feature_view("zones")])
    store.apply([service])

    rows = store.get_historical_features(asked, service, full_feature_names=True).to_df()
    plain = store.get_historical_features(asked.rename(columns={"candidate": "driver_id"}), ["stats:rate"]).to_df()

    assert list(rows)[-2:] == ["rival__rate", "zones__demand"]
    np.testing.assert_array_equal(rows["rival__rate"], plain["rate"])


def test_labels_may_come_as_a_query_of_duckdb(files):
    labels(60).to_parquet(files / "labels.parquet", index=False)
    store = repository(files)

    asked = f"SELECT driver_id, event_timestamp, name FROM '{files}/labels.parquet' ORDER BY name"
    rows = store.get_historical_features(asked, ["stats:rate"]).to_df()

    np.testing.assert_array_equal(rows.rate, store.get_historical_features(labels(60), ["stats:rate"]).to_df().rate)
    assert rows.name.tolist() == list(range(60))


def test_labels_in_other_zones_and_as_text_get_the_same_answer(files):
    store, asked = repository(files), labels(60)
    expected = store.get_historical_features(asked, ["stats:rate"]).to_df().rate
    others = {
        "Hanoi": asked.event_timestamp.dt.tz_convert("Asia/Ho_Chi_Minh"),
        "naive": asked.event_timestamp.dt.tz_localize(None),
        "nanoseconds": asked.event_timestamp.dt.as_unit("ns"),
        "text": asked.event_timestamp.map(lambda t: t.isoformat()),
    }
    for times in others.values():
        rows = store.get_historical_features(asked.assign(event_timestamp=times), ["stats:rate"]).to_df()
        np.testing.assert_array_equal(rows.rate, expected)


def test_no_labels_give_no_rows_and_all_columns(files):
    rows = repository(files).get_historical_features(labels(0), ALL).to_df()

    assert len(rows) == 0 and list(rows)[-3:] == ["rate", "trips", "demand"]


def test_what_cannot_be_answered_is_refused_with_its_reason(files):
    store = repository(files)
    with pytest.raises(ValueError, match=r"no column \['driver_id'\]"):
        store.get_historical_features(labels(3).drop(columns="driver_id"), ["stats:rate"])
    with pytest.raises(ValueError, match=r"names of features: \['rate'\]"):
        store.get_historical_features(labels(3).assign(rate=1.0), ["stats:rate"])
    with pytest.raises(NotImplementedError, match="needs entity_df"):
        store.get_historical_features(features=["stats:rate"], start_date=datetime(2026, 3, 1, tzinfo=UTC))
    with pytest.raises(NotImplementedError, match="filter_by_created_timestamp"):
        store.get_historical_features(labels(3), ["stats:rate"], filter_by_created_timestamp=True)


def test_an_on_demand_view_is_computed_from_the_joined_features(files):
    store = repository(files)
    factor = RequestSource(name="request", schema=[Field(name="factor", dtype=types.Float64)])

    @on_demand_feature_view(sources=[store.get_feature_view("stats"), factor], schema=[Field(name="scaled", dtype=types.Float64)])
    def scaling(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"scaled": inputs["rate"] * inputs["factor"]})

    store.apply([scaling])
    rows = store.get_historical_features(labels(40).assign(factor=2.0), ["stats:rate", "scaling:scaled"]).to_df()

    np.testing.assert_allclose(rows.scaled, rows.rate * 2)


def test_materialization_puts_online_what_a_label_at_that_time_gets(files):
    store, until = repository(files), START + pd.Timedelta(minutes=1_500)

    store.materialize((until - timedelta(hours=6)).to_pydatetime(), until.to_pydatetime())

    ids = list(range(1, 45))
    online = store.get_online_features(["stats:rate"], [{"driver_id": i} for i in ids]).to_df()
    offline = store.get_historical_features(pd.DataFrame({"driver_id": ids, "event_timestamp": until}), ["stats:rate"]).to_df()
    np.testing.assert_array_equal(online.rate.astype(float), offline.rate)


def test_a_pushed_row_reaches_both_stores(files):
    store = repository(files)
    moment = START + pd.Timedelta("30D")
    before = len(pd.read_parquet(files / "stats.parquet"))
    row = pd.DataFrame({"driver_id": [7], "known_at": [moment], "rate": [0.125], "trips": [3], "created": [moment]})

    store.push("stats_push", row, to=PushMode.ONLINE_AND_OFFLINE)

    assert len(pd.read_parquet(files / "stats.parquet")) == before + 1
    label = pd.DataFrame({"driver_id": [7], "event_timestamp": [moment]})
    assert store.get_historical_features(label, ["stats:rate"]).to_df().rate.tolist() == [0.125]
    assert store.get_online_features(["stats:rate"], [{"driver_id": 7}]).to_dict()["rate"] == [0.125]


def test_a_retrieval_can_be_kept_as_a_data_set_and_read_again(files):
    store = repository(files)
    job = store.get_historical_features(labels(30), ["stats:rate"])

    store.create_saved_dataset(from_=job, name="kept", storage=SavedDatasetFileStorage("kept.parquet"))

    again = store.get_saved_dataset("kept").to_df().sort_values("event_timestamp", ignore_index=True)
    expected = job.to_df().sort_values("event_timestamp", ignore_index=True)
    assert again.rate.fillna(-1).tolist() == expected.rate.fillna(-1).tolist()


@pytest.mark.parametrize("keys", ["driver_id", "driver_id::INTEGER", "driver_id::DOUBLE", "driver_id::VARCHAR"])
def test_in_parts_the_answers_are_those_of_one_join_whatever_the_keys_are(files, monkeypatch, keys):
    store = repository(files)
    asked = labels(300)
    whole = store.get_historical_features(asked, ["stats:rate"]).to_df()
    monkeypatch.setattr(joins, "VALUES", 50)
    query = asked.assign(driver_id=duckdb.sql(f"SELECT {keys} AS k FROM asked").df().k)

    rows = store.get_historical_features(query, ["stats:rate"]).to_df()

    assert rows.rate.notna().any() and rows.rate.equals(whole.rate)


@given(bounds=st.sets(st.integers(-5, 5), min_size=1), keys=st.lists(st.none() | st.integers(-9, 9), min_size=1))
@settings(deadline=None)
def test_each_key_is_in_one_of_the_ranges(bounds, keys):
    conditions = joins._ranges("key", [f"'{bound}'" for bound in sorted(bounds)])
    rows = pa.table({"key": pa.array(keys, pa.int64())})  # noqa: F841  DuckDB reads it by its name

    met = duckdb.sql(f"SELECT {' + '.join(f'coalesce(({each})::INT, 0)' for each in conditions)} FROM rows").fetchall()

    assert met == [(1,)] * len(keys)


def test_the_key_with_the_most_values_is_cut_and_never_one_of_another_kind():
    times, side = moments([1] * 60), asof.Rows("rows", {"zone": "zone", "who": "who", "share": "share"}, "t", None, {"v": "v"}, None)
    rows = pd.DataFrame(
        {"zone": [1, 2, 3] * 20, "who": [f"w{i}" for i in range(60)], "share": np.arange(60) / 7, "t": times, "v": range(60)}
    )
    with asof.connect() as connection, mock.patch.object(joins, "VALUES", 50):
        connection.register("rows", rows)
        connection.register("labels", rows)
        assert joins._widest(connection, side) == "who"
        assert len(joins._bounds(connection, side, "who", 4)) == 3
        joined = asof.features_of(pa.Table.from_pandas(rows.drop(columns="v")), "t", [side], connection)
    assert joined["v"].to_pylist() == list(range(60))


def test_it_works_in_little_memory(files):
    store = repository(files)
    store.config.offline_store.memory = "60MB"

    rows = store.get_historical_features(labels(20_000), ["stats:rate"]).to_df()

    assert len(rows) == 20_000


# What is opened is closed


@pytest.fixture
def opened(monkeypatch) -> list[duckdb.DuckDBPyConnection]:
    "The connections that are made."
    made, connect = [], duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *args, **more: made.append(connect(*args, **more)) or made[-1])
    return made


def is_open(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute("SELECT 1")
    except duckdb.ConnectionException:
        return False
    return True


def job(store: FeatureStore, asked=None):
    return store.get_historical_features(labels(5) if asked is None else asked, ["stats:rate"])


def answered_twice(store: FeatureStore) -> None:
    one = job(store)
    one.to_df(), one.to_arrow()


def its_source_goes(store: FeatureStore) -> None:
    one = job(store)
    (store.config.repo_path / "stats.parquet").unlink()
    one.to_df()


def by_hand(store: FeatureStore, *columns: str) -> None:
    how = {"entity": "driver_id", "label_time": "event_timestamp", "feature_time": "known_at", "columns": list(columns)}
    asof.as_of(labels(5), store.config.repo_path / "stats.parquet", **how)


QUERY = "SELECT 7 AS driver_id, TIMESTAMPTZ '2026-03-02' AS event_timestamp"
WAYS = {  # of work, and whether it comes to a good end
    "answered": (lambda store: job(store).to_df(), True),
    "answered twice": (answered_twice, True),
    "a query as labels": (lambda store: job(store, QUERY).to_df(), True),
    "never read": (job, True),
    "materialized": (lambda store: store.materialize(START.to_pydatetime(), (START + timedelta(hours=6)).to_pydatetime()), True),
    "by hand": (lambda store: by_hand(store, "rate"), True),
    "refused": (lambda store: job(store, labels(5).drop(columns="driver_id")), False),
    "a wrong query": (lambda store: job(store, "SELECT"), False),
    "its source goes": (its_source_goes, False),
    "by hand, a wrong column": (lambda store: by_hand(store, "no"), False),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_connection_ends_with_its_work_and_leaves_no_folder(files, opened, tmp_path_factory, monkeypatch, way):
    spills = tmp_path_factory.mktemp("spills")
    monkeypatch.setattr(tempfile, "tempdir", str(spills))
    store = repository(files)

    work, good = WAYS[way]
    with contextlib.nullcontext() if good else pytest.raises((ValueError, duckdb.Error)):
        work(store)

    assert not any(map(is_open, opened))
    assert list(spills.iterdir()) == []


def test_two_processes_with_one_number_share_no_folder(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers
    with sql.connect() as one, sql.connect() as other:
        folders = [c.execute("SELECT current_setting('temp_directory')").fetchone()[0] for c in (one, other)]
        assert len(set(folders)) == 2 and all(Path(folder).is_dir() for folder in folders)

    assert not any(Path(folder).exists() for folder in folders)


def test_what_does_not_fit_goes_to_disk_and_the_disk_is_empty_afterwards():
    with sql.connect("20MB") as connection:
        folder = Path(connection.execute("SELECT current_setting('temp_directory')").fetchone()[0])
        connection.execute("CREATE TABLE t AS SELECT hash(range) AS h, md5(range::VARCHAR) AS m FROM range(600_000)")
        assert list(folder.iterdir())

    assert not folder.exists()


# The online store


@pytest.fixture
def online(files) -> FeatureStore:
    "A repository on our online store, with the newest statistics and the demand of zones, whose keys are words."
    config = RepoConfig(
        project="test",
        provider="local",
        registry=repository(files).config.registry.path,
        online_store={"type": "mlops_course.online.UtcSqliteOnlineStore", "path": str(files / "ours.db")},
        offline_store={"type": OURS},
        entity_key_serialization_version=3,
    )
    config.repo_path = files
    store = FeatureStore(config=config)
    store.apply(store.list_feature_views())
    store.materialize(START.to_pydatetime(), (START + timedelta(minutes=2_000)).to_pydatetime())
    return store


def test_our_online_store_gives_what_feasts_gives_for_two_views_and_keys_of_words(files, online):
    feasts = repository(files)
    feasts.materialize(START.to_pydatetime(), (START + timedelta(minutes=2_000)).to_pydatetime())
    asked = [{"driver_id": i % 50, "zone_id": "abcdé'\"\n"[i % 8]} for i in range(60)]

    answers = [store.get_online_features(ALL, asked).to_dict() for store in (online, feasts)]

    assert answers[0] == answers[1]
    assert 0 < sum(value is None for value in answers[0]["demand"]) < 60


def test_a_view_that_is_gone_takes_its_table_along(online):
    online.apply([], objects_to_delete=[online.get_feature_view("zones")], partial=False)

    with contextlib.closing(sqlite3.connect(online.config.online_store.path)) as database:
        assert [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")] == ["test_stats"]


@pytest.mark.parametrize(
    "time",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 8, 2, 30, tzinfo=ZoneInfo("America/New_York")),
        datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        pd.Timestamp("2026-03-01T12:00:00.000001", tz="Asia/Kathmandu"),
    ],
    ids=str,
)
def test_a_time_as_a_number_and_back_is_the_same_moment(time):
    again = time_of(microseconds_of(time))

    assert again == time.astimezone(UTC) and again.tzinfo is UTC


def test_a_time_without_zone_is_utc_and_a_missing_one_is_none():
    assert time_of(microseconds_of(datetime(2026, 3, 8, 2, 30, 0, 1))) == datetime(2026, 3, 8, 2, 30, 0, 1, tzinfo=UTC)
    assert [microseconds_of(time) for time in (None, pd.NaT)] == [None, None]


def test_a_row_without_a_time_is_refused_and_the_rows_beside_it_with_it(online):
    view, store = online.get_feature_view("stats"), online.provider.online_store
    key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=999)])
    data = [(key, {"rate": Value(double_val=1.0)}, time, None) for time in (START.to_pydatetime(), pd.NaT)]

    with pytest.raises(sqlite3.IntegrityError):
        store.online_write_batch(online.config, view, data, None)

    assert store.online_read(online.config, view, [key]) == [(None, None)]


def test_settings_of_feasts_store_that_ours_has_not_are_refused():
    with pytest.raises(ValidationError, match="vector_enabled"):
        UtcSqliteOnlineStoreConfig(vector_enabled=True)
