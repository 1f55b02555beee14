"""An online store keeps the newest row of an entity, on SQLite and on Redis: in whatever order rows come, in whatever batches, from two processes."""

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import company
import pandas as pd
import pytest
from company import CLOCK, CONTRACT, KNOWN, NAMES
from feast import Entity, FeatureView, FileSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from mlops_course import features, lookup, problem, programs, recipes
from mlops_course.online import EVENT_ID, UtcSqliteOnlineStore
from mlops_course.redis_store import CourseRedisOnlineStore
from mlops_course.services import free_port

REDIS = pytest.mark.skipif(programs.locate("redis-server") is None, reason="redis-server is not here: apt-get install redis-server")
VIEW = FeatureView(
    name="activity",
    entities=[Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)],
    source=FileSource(path="activity.parquet"),
)
TEN = datetime(2026, 1, 5, 10, tzinfo=UTC)
drivers = itertools.count()  # a test has drivers of its own, and shares the store


class Row(NamedTuple):
    "What is written of a driver."

    driver: int
    value: int
    known: datetime
    written: datetime | None = None
    event: str | None = None  # its id; None: the view has none

    def of_feast(self) -> tuple:
        key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=self.driver)])
        event = {} if self.event is None else {EVENT_ID: Value(string_val=self.event)}
        return key, {"value": Value(int64_val=self.value), **event}, self.known, self.written


class Online(NamedTuple):
    "A store, with the settings that Feast gives it."

    store: UtcSqliteOnlineStore | CourseRedisOnlineStore
    config: RepoConfig

    def write(self, *rows: Row) -> None:
        self.store.online_write_batch(self.config, VIEW, [row.of_feast() for row in rows], None)

    def values(self, asked: list[int]) -> list[int]:
        keys = [Row(driver, 0, TEN).of_feast()[0] for driver in asked]
        return [row["value"].int64_val for _, row in self.store.online_read(self.config, VIEW, keys, ["value"])]

    def value(self, driver: int) -> int:
        return self.values([driver])[0]


def opened(online_store: dict) -> Online:
    config = RepoConfig(
        project="test", provider="local", registry="registry.db", online_store=online_store, entity_key_serialization_version=3
    )
    store = CourseRedisOnlineStore() if online_store["type"] == lookup.REDIS else UtcSqliteOnlineStore()
    return Online(store, config)


@pytest.fixture(scope="module")
def redis():
    "The port of a Redis in memory."
    port = free_port()
    command = [programs.locate("redis-server"), *recipes.redis_in_memory(port).command[1:]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        Redis(port=port, retry=Retry(ConstantBackoff(0.02), 1_000)).ping()
        yield port
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=REDIS)])
def where(request, tmp_path_factory) -> dict:
    "What feature_store.yaml would say of a store on SQLite, and of one on Redis."
    if request.param == "sqlite":
        return {"type": lookup.SQLITE, "path": str(tmp_path_factory.mktemp("online") / "online.db")}
    return {"type": lookup.REDIS, "connection_string": f"127.0.0.1:{request.getfixturevalue('redis')}"}


@pytest.fixture(scope="module")
def online(where) -> Online:
    made = opened(where)
    made.store.update(made.config, [], [VIEW], [], [], False)
    return made


@pytest.fixture
def on_redis(redis) -> Online:
    return opened({"type": lookup.REDIS, "connection_string": f"127.0.0.1:{redis}"})


# --- the law -----------------------------------------------------------------------------------------

MOMENTS = st.sampled_from([TEN, TEN + timedelta(microseconds=1), TEN + timedelta(hours=1)])
EVENTS = st.lists(
    st.tuples(MOMENTS, st.none() | MOMENTS, st.text(min_size=1, max_size=4)), min_size=5, max_size=5, unique_by=lambda e: e[2]
)


def newest(events: list[tuple]) -> int:
    "Which of some events is the newest, by the law."
    oldest = datetime.min.replace(tzinfo=UTC)
    return max(range(len(events)), key=lambda i: (events[i][0], events[i][1] or oldest, events[i][2]))


@settings(max_examples=25, deadline=None)
@given(events=EVENTS, cuts=st.sets(st.integers(1, 4)))
def test_in_every_order_and_however_cut_into_batches_the_newest_row_stays(online, events, cuts):
    orders = {next(drivers): order for order in itertools.permutations(range(5))}

    for begin, end in itertools.pairwise([0, *sorted(cuts), 5]):
        online.write(*(Row(driver, i, *events[i]) for driver, order in orders.items() for i in order[begin:end]))

    assert set(online.values(list(orders))) == {newest(events)}


@pytest.mark.parametrize("event", [None, "e-1"], ids=["of no event", "of the same event"])
def test_of_rows_that_are_equal_in_all_the_last_counts_because_it_may_be_repaired(online, event):
    driver = next(drivers)

    for value in (2, 1, 1):
        online.write(Row(driver, value, TEN, TEN, event))

    assert online.value(driver) == 1


def test_a_row_that_does_not_say_its_event_is_older_than_one_of_the_same_times_that_does(online):
    driver = next(drivers)

    online.write(Row(driver, 1, TEN, TEN, "e-1"), Row(driver, 2, TEN, TEN))

    assert online.value(driver) == 1


def test_feast_hears_how_many_rows_were_written(online):
    counts, rows = [], [Row(next(drivers), 0, TEN).of_feast() for _ in range(2_500)]

    online.store.online_write_batch(online.config, VIEW, rows, counts.append)

    assert counts == [2_500] and len(online.values([row[0].entity_values[0].int64_val for row in rows])) == 2_500


# --- what a person does ------------------------------------------------------------------------------


@pytest.fixture
def store(where, tmp_path):
    "The company's store: its statistics were known and written two hours ago."
    return company.make_store(tmp_path, None if where["type"] == lookup.SQLITE else {**where, "type": "redis"})


def pushed(store, value: float, hours: float, **more) -> lookup.Newest:
    "A row of some hours ago goes online, and what is there then."
    known = pd.Timestamp(CLOCK - timedelta(hours=hours)).as_unit("us")
    rows = pd.DataFrame({CONTRACT.entity: KNOWN[:1], **dict.fromkeys(NAMES, value), problem.KNOWN: known, **more})
    features.push(store, "statistics", rows, CONTRACT, CLOCK)
    return features.newest(store, KNOWN[:1], CONTRACT)[0].values[0]


def test_a_row_that_is_pushed_late_loses_and_a_correction_wins(store):
    before = features.newest(store, KNOWN[:1], CONTRACT)[0].values[0]

    assert pushed(store, 1.0, hours=3) == before, "a late hour"
    assert pushed(store, 2.0, hours=2) == 2.0, "a correction that does not say when it was written"
    assert pushed(store, 3.0, hours=2, created=pd.NaT) == 3.0, "one more"
    assert pushed(store, 4.0, hours=2, created=CLOCK - timedelta(hours=1)) == 3.0, "written before these"
    assert pushed(store, 5.0, hours=1) == 5.0, "the next hour"


def test_of_rows_of_an_hour_that_are_pushed_together_the_last_correction_counts(store):
    times = [pd.Timestamp(CLOCK - timedelta(minutes=minutes)).as_unit("us") for minutes in (20, 10, 30)]
    rows = pd.DataFrame({CONTRACT.entity: KNOWN[0], **{name: [1.0, 2.0, 3.0] for name in NAMES}, problem.KNOWN: CLOCK, "created": times})

    features.push(store, "statistics", rows, CONTRACT, CLOCK)

    assert features.newest(store, KNOWN[:1], CONTRACT)[0].values[0] == 2.0


def test_materializing_again_brings_nothing_older_back(store):
    assert pushed(store, 1.0, hours=1) == 1.0

    store.materialize(CLOCK - timedelta(days=7), CLOCK, feature_views=["statistics"])

    assert features.newest(store, KNOWN[:1], CONTRACT)[0].values[0] == 1.0


def test_a_build_takes_a_row_of_a_wrong_time_away(store, tmp_path, where):
    company.put(store, KNOWN[:1], [9.0] * 3, CLOCK + timedelta(days=365))
    assert pushed(store, 1.0, hours=1) == 9.0

    built = company.make_store(tmp_path, None if where["type"] == lookup.SQLITE else {**where, "type": "redis"})

    assert pushed(built, 1.0, hours=1) == 1.0


# --- two processes -----------------------------------------------------------------------------------

TWO = """
import json, multiprocessing, sys
from test_online_guard import BATCHES, opened, rows_of
fork = multiprocessing.get_context("fork")
gate = fork.Barrier(2, timeout=60)  # both write each batch at the same moment

def write(writer, where):
    online = opened(where)
    for n in range(BATCHES):
        rows = rows_of(writer, n)
        gate.wait()
        online.write(*rows)

two = [fork.Process(target=write, args=(writer, json.loads(sys.argv[1]))) for writer in (0, 1)]
for each in two:
    each.start()
for each in two:
    each.join()
sys.exit(any(each.exitcode for each in two))
"""
BATCHES, SHARED = 25, range(1_000_000, 1_000_400)


def rows_of(writer: int, n: int) -> list[Row]:
    "A batch of one of two writers: each driver's time is drawn, and the row's value says it."
    draw = random.Random(f"{writer} {n}")
    times = [draw.randrange(10**9) for _ in SHARED]
    return [Row(driver, time, TEN + timedelta(seconds=time)) for driver, time in zip(SHARED, times, strict=True)]


def test_two_processes_that_write_at_once_leave_the_newest_row_of_both(online, where):
    words = [sys.executable, "-W", "ignore", "-c", TWO, json.dumps(where)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])

    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    batches = [rows_of(writer, n) for writer in (0, 1) for n in range(BATCHES)]
    assert online.values(list(SHARED)) == [max(rows).value for rows in zip(*batches, strict=True)]


# --- on Redis ----------------------------------------------------------------------------------------

ANY = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


def unguarded(online: Online, *rows: Row) -> None:
    "Write as Feast's own store does, and as this one did once: without the place of a row."
    other = opened({**online.config.online_store.model_dump(mode="json", exclude_none=True), "skip_dedup": True})
    other.write(*rows)


@REDIS
@settings(max_examples=200, deadline=None)
@given(first=ANY, second=ANY)
def test_a_row_that_an_older_release_wrote_is_one_of_its_time_that_was_written_first(redis, first, second):
    online, driver = opened({"type": lookup.REDIS, "connection_string": f"127.0.0.1:{redis}"}), next(drivers)
    unguarded(online, Row(driver, 1, first))

    online.write(Row(driver, 2, second))

    assert online.value(driver) == (2 if second >= first else 1)
    online.write(Row(driver, 3, first, TEN))
    assert online.value(driver) == (2 if second > first else 3)


@REDIS
@pytest.mark.parametrize(("theirs", "ours", "stays"), [(2, 1, 2), (-2, -1, 3), (2, 2, 3)], ids=["newer", "older", "of its time"])
def test_a_row_that_another_writer_has_put_in_the_place_of_ours_is_not_taken_for_it(on_redis, theirs, ours, stays):
    driver = next(drivers)
    on_redis.write(Row(driver, 1, TEN, TEN + timedelta(days=9)))
    unguarded(on_redis, Row(driver, 2, TEN + timedelta(hours=theirs)))

    on_redis.write(Row(driver, 3, TEN + timedelta(hours=ours), TEN))

    assert on_redis.value(driver) == stays


@REDIS
def test_a_redis_that_has_lost_the_script_gets_it_anew(on_redis, redis):
    driver = next(drivers)
    on_redis.write(Row(driver, 1, TEN))
    Redis(port=redis).script_flush()

    on_redis.write(Row(driver, 2, TEN + timedelta(hours=1)), Row(driver, 3, TEN))

    assert on_redis.value(driver) == 2


@REDIS
def test_a_row_lives_as_long_as_the_settings_say_and_one_that_loses_does_not_prolong_it(redis):
    online = opened({"type": lookup.REDIS, "connection_string": f"127.0.0.1:{redis}", "key_ttl_seconds": 100})
    driver, client = next(drivers), Redis(port=redis)
    online.write(Row(driver, 1, TEN))
    (key,) = [key for key in client.scan_iter() if client.ttl(key) > 0]
    client.expire(key, 50)

    online.write(Row(driver, 2, TEN - timedelta(hours=1)))
    assert 0 < client.ttl(key) <= 50
    online.write(Row(driver, 3, TEN + timedelta(hours=1)))
    assert 50 < client.ttl(key) <= 100


@REDIS
def test_feasts_way_without_waiting_obeys_the_same_law(on_redis):
    driver = next(drivers)
    rows = [Row(driver, value, TEN - timedelta(hours=hours)).of_feast() for value, hours in [(1, 0), (2, 1), (3, 0), (4, 1)]]

    asyncio.run(on_redis.store.online_write_batch_async(on_redis.config, VIEW, rows, None))

    assert on_redis.value(driver) == 3


@REDIS
def test_feasts_setting_skip_dedup_means_what_it_means_in_feast(on_redis):
    driver = next(drivers)

    unguarded(on_redis, Row(driver, 1, TEN), Row(driver, 2, TEN - timedelta(hours=1)))

    assert on_redis.value(driver) == 2
