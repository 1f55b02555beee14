"""Rolling features: history and a live stream count alike, row by row, and as one counts by hand."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_course import stream
from mlops_course.contracts import read_project
from mlops_course.features import SLACK
from mlops_course.rolling import Rolling

CONTRACT = read_project("projects/ride_hailing_stream.yaml").contract
NOON = datetime(2026, 3, 16, 12, tzinfo=UTC)
TYPES = ["offered", "accepted", "completed", "cancelled"]
ROLLING = {
    "of": "events",
    "type": "event_type",
    "tile": timedelta(minutes=5),
    "lateness": timedelta(minutes=10),
    "features": {
        "offers_1h": {"count": "offered", "window": timedelta(minutes=20)},
        "trips_1h": {"count": "accepted", "window": timedelta(minutes=15)},
        "trips_24h": {"count": "accepted", "window": timedelta(hours=2)},
        "acc_rate_24h": {"count": "accepted", "over": "offered", "window": timedelta(hours=2)},
        "conv_rate_24h": {"count": "completed", "over": "accepted", "window": timedelta(minutes=15)},
    },
}
TABLE = CONTRACT.tables["activity"].model_copy(update={"rolling": Rolling(**ROLLING)})


def frame(rows: list[tuple]) -> pd.DataFrame:
    "Events as the data stage keeps them: driver, seconds after noon, type, seconds until they were sent."
    columns = ["event_id", "event_timestamp", "driver_id", "event_type", "created"]
    moments = [NOON + timedelta(seconds=second) for _, second, _, _ in rows]
    sent = [moment + timedelta(seconds=row[3]) for moment, row in zip(moments, rows, strict=True)]
    values = [(f"e-{n:04d}", moments[n], row[0], row[2], sent[n]) for n, row in enumerate(rows)]
    made = pd.DataFrame(values, columns=columns)
    return made.astype({"driver_id": "int64", "event_timestamp": "datetime64[us, UTC]", "created": "datetime64[us, UTC]"})


def arrival(events: pd.DataFrame) -> list:
    return list(events.sort_values(["created", "event_id"]).itertuples(index=False))


def streamed(events: pd.DataFrame) -> dict[tuple, dict]:
    "The features after each event, as a live stream has them: of events of one moment, after the last."
    tiles, rows = {}, {}
    for event in arrival(events):
        mine = tiles.setdefault(event.driver_id, stream.Tiles(TABLE.rolling))
        if mine.add(event.event_timestamp.to_pydatetime(), event.event_type):
            stream.forget(mine)
            rows[event.driver_id, event.created] = {"datetime": mine.newest, **stream.features_of(mine)}
    return rows


def counted(events: pd.DataFrame) -> dict[tuple, dict]:
    "The same by looking back over all events, one after another: nothing is kept between two."
    rows, taken = {}, []
    for event in arrival(events):
        mine = [other for other in taken if other.driver_id == event.driver_id]
        newest = max([other.event_timestamp for other in mine], default=None)
        if newest is not None and event.event_timestamp < newest - TABLE.rolling.lateness:
            continue
        taken.append(event)
        mine.append(event)
        newest = max(other.event_timestamp for other in mine)

        def count(what, window, mine=mine, newest=newest):
            end = newest.floor("5min") + pd.Timedelta("5min")
            return sum(other.event_type == what and other.event_timestamp >= end - window for other in mine)

        values = {}
        for name, feature in TABLE.rolling.features.items():
            number = count(feature.count, feature.window)
            of = count(feature.over, feature.window) if feature.over else None
            values[name] = number if of is None else number / of if of else None
        rows[event.driver_id, event.created] = {"datetime": newest, **values}
    return rows


def history(events: pd.DataFrame) -> dict[tuple, dict]:
    names = ["datetime", *TABLE.rolling.features]
    made = stream.history(events, TABLE, CONTRACT)
    values = made[names].astype(object).where(made[names].notna(), None).to_dict("records")
    return dict(zip(zip(made.driver_id, made.created, strict=True), values, strict=True))


SECONDS = st.integers(0, 3 * 3600) | st.sampled_from([0, 299, 300, 301, 600, 899, 900])
EVENT = st.tuples(st.sampled_from([1001, 1002]), SECONDS, st.sampled_from(TYPES), st.sampled_from([0, 1, 60, 599, 600, 601, 2000]))


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=25))
def test_history_and_stream_agree_row_by_row_and_with_counting_by_hand(rows):
    events = frame(rows)

    assert history(events) == streamed(events) == counted(events)


def test_the_order_of_the_rows_in_a_file_does_not_count():
    rows = [(1001, second, what, 3) for second, what in zip(range(0, 7200, 97), TYPES * 19, strict=False)]
    events = frame(rows)

    assert history(events.sample(frac=1, random_state=1)) == history(events)


def test_an_event_is_late_by_the_newest_of_its_own_entity_only():
    rows = [(1001, 3600, "offered", 0), (1002, 0, "offered", 3601), (1001, 2999, "offered", 602), (1001, 3000, "offered", 602)]

    made = history(frame(rows))

    assert [values["offers_1h"] for values in made.values()] == [1, 2, 1]  # 1001, 1001 with 10 minutes, 1002


def test_what_was_sent_before_it_happened_counts_in_history_as_little_as_in_the_stream():
    rows = [(1001, 0, "offered", 1), (1001, 600, "offered", -301), (1001, 700, "offered", -300)]

    made = history(frame(rows))

    assert timedelta(minutes=5) == SLACK and [values["offers_1h"] for values in made.values()] == [1, 2]


def test_a_day_of_events_before_1970_is_cut_at_the_same_places():
    rows = [(1001, second, "offered", 1) for second in (0, 299, 300, 1199, 1200, 1500)]
    events = frame(rows)
    shift = NOON - datetime(1969, 12, 31, 12, tzinfo=UTC)
    old = events.assign(event_timestamp=events.event_timestamp - shift, created=events.created - shift)

    assert [v["offers_1h"] for v in history(old).values()] == [v["offers_1h"] for v in history(events).values()]


def test_without_an_event_there_is_no_row_but_all_columns():
    made = stream.history(frame([]), TABLE, CONTRACT)

    assert len(made) == 0 and list(made) == TABLE.names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tile": timedelta(minutes=7)}, "tiles of"),
        ({"tile": timedelta(0)}, "tiles of"),
        ({"lateness": timedelta(minutes=11)}, "lateness"),
        ({"lateness": timedelta(seconds=-1)}, "lateness"),
        ({"features": {}}, "one or more"),
    ],
)
def test_a_definition_that_cannot_be_counted_by_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Rolling(**{**ROLLING, **changes})
