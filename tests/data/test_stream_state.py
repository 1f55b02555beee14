"""What is counted of a partition is what history says, and a kill between any two steps changes nothing."""

import random
from datetime import timedelta
from functools import partial

import pandas as pd
import pytest
import streams
from company import CLOCK
from streams import ACTIVITY, CONTRACT, EVENTS

from mlops_course import consumer, project, stream
from mlops_course import stream_state as states
from mlops_course.problem import KNOWN

FIELDS = states.fields_of(ACTIVITY, CONTRACT)
NAME = "drivers-0"


def event(name: str, minutes: float, what: str = "offered", driver: int = 1001, delay: float = 1) -> dict:
    time = CLOCK + timedelta(minutes=minutes)
    sent = {"event_timestamp": time, "created": time + timedelta(seconds=delay)}
    return {"event_id": name, "driver_id": driver, "event_type": what, **sent}


@pytest.fixture
def place(tmp_path):
    "Opens the state of a folder, as the consumer does; what was open before is closed, as by a kill."
    opened = []

    def open_state(**more) -> states.PartitionState:
        while opened:
            opened.pop().close()
        parts = states.parts_of(tmp_path, NAME)
        past = partial(states.past_events, files=parts, fields=FIELDS, rolling=ACTIVITY.rolling)
        opened.append(states.PartitionState(tmp_path / "state.db", ACTIVITY, CONTRACT, past, states.end_of(parts)))
        return opened[-1]

    yield open_state
    open_state().close()


def take(state, events: list[dict], first: int | None = None) -> list[str]:
    first = state.next if first is None else first
    judged = states.judge(state, list(enumerate(events, first)))
    states.keep(state, judged, first + len(events))
    return judged.outcomes


def rows(state) -> pd.DataFrame:
    return states.pending(state).sort_values("driver_id", ignore_index=True)


def newest(events: list[dict]) -> pd.DataFrame:
    "The last row of each driver in history."
    made = stream.history(streams.frame(events), ACTIVITY, CONTRACT).groupby("driver_id").tail(1)
    known = made[["datetime", "created"]].max(axis=1)
    return made.assign(**{KNOWN: known}).sort_values("driver_id", ignore_index=True)


def assert_as_history(state, events: list[dict]) -> None:
    pd.testing.assert_frame_equal(rows(state), newest(events), check_dtype=False)


def test_an_event_counts_once_however_often_it_comes(place):
    state = place()

    assert take(state, [event("a", 0), event("a", 0), event("b", 1)]) == ["taken", "duplicate", "taken"]
    assert take(state, [event("b", 1)]) == ["duplicate"]
    assert_as_history(state, [event("a", 0), event("b", 1)])


def test_a_late_event_is_counted_and_does_not_turn_the_time_back(place):
    state = place()

    assert take(state, [event("new", 10), event("late", 0, delay=601)]) == ["taken", "taken"]

    ((when, count),) = rows(state)[["datetime", "offers_1h"]].itertuples(index=False)
    assert (when, count) == (CLOCK + timedelta(minutes=10), 2)


def test_an_event_that_is_too_late_counts_nowhere(place):
    state = place()

    assert take(state, [event("new", 10), event("old", -1)]) == ["taken", "late"]

    assert rows(state).offers_1h.tolist() == [1] and states.waiting(state) == 1


def test_an_event_of_another_type_is_a_sign_of_life_and_counts_as_none(place):
    state = place()

    assert take(state, [event("a", 0), event("b", 9, "on_a_break")]) == ["taken", "taken"]

    assert rows(state)[["event_id", "offers_1h", "trips_1h"]].values.tolist() == [["b", 1, 0]]


def test_a_row_never_gets_older_where_events_are_not_in_the_order_of_sending(place):
    state = place()

    take(state, [event("a", 5, delay=60), event("b", 4, delay=1)])

    assert_as_history(state, [event("b", 4, delay=1), event("a", 5, delay=60)])
    assert rows(state).event_id.tolist() == ["a"]


@pytest.mark.parametrize("seed", range(8))
def test_a_sequence_with_kills_between_its_steps_is_what_history_says(place, tmp_path, seed):
    "Late and too late events, cut into polls; at each step the process may die, and lose its state after a part was written."
    draw = random.Random(seed)
    minutes = sorted(draw.randint(0, 200) for _ in range(40))
    late = [draw.choice([0, 0, 3, 9, 12]) for _ in minutes]
    who, what = draw.choices([1001, 1002], k=40), draw.choices(["offered", "accepted", "completed"], k=40)
    events = [event(f"e{i:02}", minutes[i] - late[i], what[i], who[i], late[i] * 60 + 1 + i / 100) for i in range(40)]
    state, kills = place(), 0

    while state.next < len(events):
        some = events[state.next : state.next + draw.randint(1, 6)]
        judged = states.judge(state, list(enumerate(some, state.next)))
        died, lost = draw.random(), draw.random() < 0.3
        if died > 0.2:  # else what was judged is not kept
            states.keep(state, judged, state.next + len(some))
        if died < 0.4:
            state, kills = place(), kills + 1
            if lost:
                states.write_part(state, tmp_path, NAME, EVENTS)
                (tmp_path / "state.db").unlink()
                state = place()

    states.write_part(state, tmp_path, NAME, EVENTS)
    counted = pd.concat(map(pd.read_parquet, states.parts_of(tmp_path, NAME)))
    assert kills and sorted(counted.event_id) == sorted(stream.history(streams.frame(events), ACTIVITY, CONTRACT).event_id)
    states.renew(state, "")
    alive = rows(state)
    known = newest(events)
    pd.testing.assert_frame_equal(alive, known[known.driver_id.isin(alive.driver_id)].reset_index(drop=True), check_dtype=False)


def test_a_part_that_is_written_again_replaces_itself_by_the_same_rows(place, tmp_path):
    state = place()
    take(state, [event("a", 0), event("b", 1), event("b", 1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states.PartitionState, "transaction", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            states.write_part(state, tmp_path, NAME, EVENTS)
    ((path, before),) = [(path, path.read_bytes()) for path in states.parts_of(tmp_path, NAME)]

    assert states.write_part(place(), tmp_path, NAME, EVENTS) == 2

    assert [(each, each.read_bytes()) for each in states.parts_of(tmp_path, NAME)] == [(path, before)]
    assert states.end_of([path]) == 3


def test_an_empty_outbox_makes_no_file(place, tmp_path):
    state = place()
    take(state, [event("a", 0)])
    states.write_part(state, tmp_path, NAME, EVENTS)

    assert states.write_part(state, tmp_path, NAME, EVENTS) == 0
    assert len(states.parts_of(tmp_path, NAME)) == 1


def test_parts_of_another_partition_are_not_its_own(tmp_path):
    for name in ["drivers-0-000000000000-000000000004", "drivers-1-000000000000-000000000009", "drivers-0-notes", "drivers-0"]:
        (tmp_path / f"{name}.parquet").touch()

    assert states.end_of(states.parts_of(tmp_path, "drivers-0")) == 5


def test_a_row_is_pending_until_it_is_confirmed_and_again_for_another_store(place):
    state = place()
    take(state, [event("a", 0), event("b", 0, driver=1002)])
    states.confirm(state, rows(state)[:1])
    assert rows(place()).driver_id.tolist() == [1002]

    states.renew(state := place(), "another")

    assert rows(state).driver_id.tolist() == [1001, 1002]
    assert place().store == "another"


def test_a_second_process_is_refused(place, tmp_path):
    place()

    with pytest.raises(project.UserError, match="the count of state runs already"):
        states.PartitionState(tmp_path / "state.db", ACTIVITY, CONTRACT)


def test_what_a_build_knows_is_where_the_count_of_an_entity_begins(tmp_path):
    before = [event(f"h{i}", -i, driver=1001) for i in range(70)] + [event("x", -3_000), event("y", -2, driver=1002)]
    streams.frame(before).assign(**{KNOWN: CLOCK}).to_parquet(tmp_path / "events.parquet", index=False)
    past = partial(states.past_events, files=[tmp_path / "events.parquet"], fields=FIELDS, rolling=ACTIVITY.rolling)
    state = states.PartitionState(tmp_path / "state.db", ACTIVITY, CONTRACT, past)

    assert take(state, [event("h1", -1), event("new", 1)]) == ["duplicate", "taken"]

    assert_as_history(state, [e for e in before if e["driver_id"] == 1001] + [event("new", 1)])
    assert states.waiting(state) == 1
    state.close()


def test_a_state_that_is_older_than_the_offline_store_is_made_anew(tmp_path):
    def opened():
        return consumer.Partition(tmp_path, NAME, ACTIVITY, CONTRACT)

    first, file = opened(), tmp_path / f"streamed/state/{NAME}.db"
    take(first.state, [event("a", 0)])
    first.state.close()
    old = file.read_bytes()
    second = opened()
    take(second.state, [event("b", 1)])
    states.write_part(second.state, tmp_path / "streamed/events", NAME, EVENTS)
    second.state.close()
    file.write_bytes(old)

    third = opened()

    assert third.state.next == 2 and states.waiting(third.state) == 0
    assert take(third.state, [event("b", 1), event("c", 2)]) == ["duplicate", "taken"]
    assert_as_history(third.state, [event("a", 0), event("b", 1), event("c", 2)])
    third.state.close()
