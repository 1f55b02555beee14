"""What drivers do, as events: they are the counts behind the statistics, they come in their order, and a tired driver is seen in them."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from conftest import run_stages
from mlops_course import driver_events, events, project, stages, world
from mlops_course.files import file_digest

SMALL = world.WorldSettings(drivers=100, days=4, bookings_per_day=300, seed=7, events=True)
FILE = "driver_events.parquet"
HOUR = pd.Timedelta(hours=1)


def digests(folder):
    return {path.name: file_digest(path) for path in folder.iterdir()}


def written(folder, **changes) -> pd.DataFrame:
    "The events that a world writes."
    world.write(SMALL.model_copy(update=changes), folder)
    return pd.read_parquet(folder / FILE)


def by_offer(made: pd.DataFrame) -> pd.DataFrame:
    "A row an offer: when it was offered, accepted and completed. An event belongs to the offer that is numbered last before it."
    made = made.sort_values("event_id").assign(day=made.event_id.str[2:8].astype(int))
    made["offer"] = (made.event_type == "offered").cumsum()
    rows = made.pivot(index=["day", "driver_id", "offer"], columns="event_type", values="event_timestamp")
    return rows[list(driver_events.TYPES)].reset_index()


def counted(company: world.Company, day: int) -> dict[tuple, list[int]]:
    "The counts of which the statistics are made, by driver and hour."
    blocks = world.worked(company, day)
    return {
        (company.drivers.number[who], hour): done.tolist()
        for _, places, hours, counts in blocks
        for who, hour, done in zip(places, hours, counts.T, strict=True)
        if done.any()
    }


@pytest.fixture(scope="module")
def company() -> world.Company:
    return world.Company(SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pd.DataFrame:
    return written(tmp_path_factory.mktemp("events"))


# What happened


@pytest.mark.parametrize("block", [2**15, 37])
@pytest.mark.parametrize("scenario", ["normal", "covariate_drift", "tired"])
def test_the_events_of_each_hour_are_the_counts_behind_its_statistics(monkeypatch, block, scenario):
    monkeypatch.setattr(world.simulation, "BLOCK", block)
    company = world.Company(SMALL.model_copy(update={"scenario": scenario, "drift_day": 1}))

    for day in range(SMALL.days - 1):  # some of the last day's events are sent after the world's end
        offers = by_offer(world.driver_events(company, day).to_pandas())
        sums = offers.groupby(["driver_id", offers.offered.dt.hour])[list(driver_events.TYPES)].count()

        assert {hour: list(row) for hour, row in zip(sums.index, sums.to_numpy(), strict=True)} == counted(company, day)


def test_an_offer_is_accepted_within_half_a_minute_and_a_trip_takes_twenty(made):
    offers = by_offer(made)

    waited = (offers.accepted - offers.offered).dropna()
    drove = (offers.completed - offers.accepted).dropna()

    assert waited.between(pd.Timedelta(seconds=5), pd.Timedelta(seconds=30)).all()
    assert 19 < drove.dt.total_seconds().mean() / 60 < 21 and drove.min() > pd.Timedelta(0)
    assert offers.offered.notna().all() and not (offers.completed.notna() & offers.accepted.isna()).any()


def test_offers_come_at_any_second_of_an_hour(made):
    minute = made[made.event_type == "offered"].event_timestamp.dt.minute

    assert set(minute) == set(range(60)) and np.histogram(minute, 6)[0].min() > 0.14 * len(minute)


def test_whether_an_offer_is_accepted_says_nothing_about_when_it_came(made):
    offers = by_offer(made)
    second = offers.offered.dt.minute * 60 + offers.offered.dt.second

    assert abs(second[offers.accepted.notna()].mean() - second[offers.accepted.isna()].mean()) < 60


# When it was sent


def test_an_event_is_sent_within_seconds_and_one_in_a_hundred_minutes_late(made):
    late = (made.created - made.event_timestamp).dt.total_seconds()

    assert late.min() >= 0 and late.max() <= 600 and late.median() < 1.5
    assert 0.007 < (late >= 60).mean() < 0.013 and late.between(10, 60, inclusive="left").sum() == 0


def test_a_driver_who_had_no_network_is_overtaken_by_events_of_hers(made):
    newest = made.groupby("driver_id").event_timestamp.cummax()

    assert 0.002 < (made.event_timestamp < newest).mean() < 0.02


def test_the_file_is_in_the_order_of_sending(made):
    assert made.equals(made.sort_values(["created", "event_id"], kind="stable")) and made.created.is_monotonic_increasing


def test_nothing_in_the_file_is_sent_after_the_worlds_end(tmp_path, made):
    longer = written(tmp_path, days=SMALL.days + 1)

    pd.testing.assert_frame_equal(made, longer[longer.created <= SMALL.end].reset_index(drop=True))
    assert (longer.event_id.str.startswith("e-000003") & (longer.created > SMALL.end)).any()


# What they are called


def test_each_event_has_a_name_of_its_own_from_day_driver_and_number(made):
    assert made.event_id.is_unique and made.event_id.str.fullmatch(r"e-\d{6}-\d{5}-\d{4}").all()
    assert (made.event_id.str[9:14].astype(int) == made.driver_id).all()
    whole = made[made.event_id.str[2:8].astype(int) < SMALL.days - 1]
    numbers = whole.event_id.str[15:].astype(int).groupby(whole.event_id.str[:14]).agg(["min", "max", "size"])
    assert (numbers["min"] == 0).all() and (numbers["max"] + 1 == numbers["size"]).all()


def test_a_day_made_again_or_alone_has_the_same_events(made, company):
    again = world.driver_events(world.Company(SMALL), day=2)

    assert again.equals(world.driver_events(company, day=2)) and again.schema == driver_events.SCHEMA
    of_day = made[made.event_id.str.startswith("e-000002")].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.to_pandas(), of_day)


def test_columns_and_types_are_those_of_the_agreed_events(tmp_path):
    written(tmp_path)

    schema = pq.read_schema(tmp_path / FILE)

    kinds = {"event_id": "string", "event_timestamp": "timestamp[us, tz=UTC]", "driver_id": "int64", "event_type": "string"}
    assert dict(zip(schema.names, map(str, schema.types), strict=True)) == kinds | {"created": "timestamp[us, tz=UTC]"}


# The other files


@pytest.mark.parametrize("block", [2**15, 37])
@pytest.mark.parametrize("scenario", world.SCENARIOS)
def test_with_events_every_other_file_is_what_it_is_without_byte_for_byte(tmp_path, monkeypatch, scenario, block):
    monkeypatch.setattr(world.simulation, "BLOCK", block)
    for name, wanted in [("with", True), ("without", False)]:
        settings = SMALL.model_copy(update={"scenario": scenario, "drift_day": 1, "events": wanted})
        rows = world.write(settings, tmp_path / name)
        assert ("driver_events" in rows) == wanted

    one, other = digests(tmp_path / "with"), digests(tmp_path / "without")

    assert one.pop(FILE) and one == other and set(other) == {f"{name}.parquet" for name in world.SCHEMAS}


def test_events_of_an_earlier_world_do_not_stay(tmp_path):
    written(tmp_path)

    world.write(SMALL.model_copy(update={"events": False}), tmp_path)

    assert not (tmp_path / FILE).exists()


def test_the_stage_lists_the_events_and_takes_them_away_when_they_are_not_wanted(tmp_path):
    small = {"drivers": 60, "days": 2, "bookings_per_day": 50}
    environment = project.environment(out=str(tmp_path), world={**small, "events": True})

    run_stages(tmp_path, "world", world={**small, "events": True})
    assert (tmp_path / "raw" / FILE).is_file() and stages.changed(environment, "world") == []
    (tmp_path / "raw" / FILE).unlink()
    assert stages.changed(environment, "world") == [f"raw/{FILE}"]

    run_stages(tmp_path, "world", world={**small, "events": True})
    run_stages(tmp_path, "world", world={**small, "simulate": False})
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["README.md"]


# A tired driver


@pytest.fixture(scope="module")
def tired() -> world.Company:
    return world.Company(SMALL.model_copy(update={"scenario": "tired", "bookings_per_day": 3000}))


def candidates_of(company: world.Company, day: int) -> pd.DataFrame:
    "The truth of a day, with the time of each booking."
    (piece,) = world.bookings(company, day)
    truth, booked = piece["truth"].to_pandas(), piece["bookings"].to_pandas()
    return truth.merge(booked[["request_id", "event_timestamp"]])


def recounted(truth: pd.DataFrame, made: pd.DataFrame) -> np.ndarray:
    "The slow way: the accepted trips in the hour before each booking."
    accepted = made[made.event_type == "accepted"].groupby("driver_id").event_timestamp.apply(list).to_dict()
    return np.array(
        [
            sum(moment - HOUR <= when < moment for when in accepted.get(driver, ()))
            for driver, moment in zip(truth.driver_id, truth.event_timestamp, strict=True)
        ]
    )


def test_each_accepted_trip_of_the_last_hour_takes_the_same_from_the_log_odds(tired, monkeypatch):
    scenario = world.SCENARIOS["tired"]
    truth = candidates_of(tired, day=1)
    rested = scenario.model_copy(update={"workload": 0.0})
    monkeypatch.setitem(world.SCENARIOS, "tired", rested)
    without = candidates_of(tired, day=1)

    took = np.log(truth.probability / (1 - truth.probability)) - np.log(without.probability / (1 - without.probability))

    trips = recounted(truth, world.driver_events(tired, day=1).to_pandas())
    assert np.allclose(took, scenario.workload * trips) and set(range(5)) <= set(trips)


def test_a_driver_with_many_accepted_trips_in_the_last_hour_completes_less(tired):
    truth = candidates_of(tired, day=1)
    trips = recounted(truth, world.driver_events(tired, day=1).to_pandas())

    few, many = truth.trip_completed[trips <= 1].mean(), truth.trip_completed[trips >= 4].mean()

    assert few > many + 0.2


def test_a_trip_counts_for_an_hour_and_not_for_the_moment_at_which_it_is_accepted():
    hour, noon = 3_600_000_000, 12 * 3_600_000_000
    accepted = noon + np.array([-hour - 1, -hour, -1, 0])

    counts = driver_events.in_last_hour(np.array([0, 0, 0, 0]), accepted, np.array([[0], [1]]), noon + np.array([[0, 1]]))

    assert counts.tolist() == [[2, 2], [0, 0]]


def test_the_last_hour_is_counted_over_all_blocks(tired, monkeypatch):
    monkeypatch.setattr(world.simulation, "BLOCK", 37)
    second = np.full((1, SMALL.drivers), 18 * 3600)

    counts = world.recent_trips(tired, 1, np.arange(SMALL.drivers), second)

    truth = pd.DataFrame({"driver_id": tired.drivers.number, "event_timestamp": pd.Timestamp("2026-01-06T18:00Z")})
    assert (counts[0] == recounted(truth, world.driver_events(tired, day=1).to_pandas())).all() and counts.any()


def test_an_offer_that_was_never_accepted_tires_nobody(tired):
    everybody = np.arange(SMALL.drivers)

    assert world.recent_trips(tired, 1, everybody, np.full(SMALL.drivers, 1)).sum() == 0


def test_the_weeks_statistics_do_not_know_who_is_tired(tmp_path):
    for scenario in ("normal", "tired"):
        world.write(SMALL.model_copy(update={"scenario": scenario}), tmp_path / scenario)

    one, other = digests(tmp_path / "normal"), digests(tmp_path / "tired")

    assert {name for name in one if one[name] != other[name]} == {"labels.parquet", "truth.parquet"}


@pytest.mark.parametrize("scenario", [name for name in world.SCENARIOS if name != "tired"])
def test_where_nobody_is_tired_no_trip_of_the_last_hour_is_looked_for(monkeypatch, scenario):
    monkeypatch.setattr(world.simulation, "recent_trips", lambda *_: pytest.fail("it was"))
    company = world.Company(SMALL.model_copy(update={"scenario": scenario, "drift_day": 0}))

    assert len(next(world.bookings(company, day=1))["bookings"]) == SMALL.bookings_per_day


def test_a_company_of_tired_drivers_lives_on_as_its_files_say(tmp_path):
    settings = SMALL.model_copy(update={"scenario": "tired"})
    world.write(settings, tmp_path)
    life = events.Life(world.Company(settings), since=2)

    trips = life.until(life.midnight(SMALL.days)).trips

    truth = pd.read_parquet(tmp_path / "truth.parquet").groupby("request_id").probability.apply(list)
    assert len(trips) == 2 * SMALL.bookings_per_day
    assert all(trip.likely == truth[trip.request_id] for trip in trips)
