"""Files that go on after a clock: each row happens once and at its moment, and nothing is asked with what was not known yet."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import orjson
import pandas as pd
import pytest
import shop_files
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import CONTRACT, SHOP

from mlops_course import cases, data, project, replay, web
from mlops_course.problem import KNOWN
from mlops_course.readers import Source

BEGAN = shop_files.END - pd.Timedelta(days=3)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "The shop, three days before the end of its files."
    folder = tmp_path_factory.mktemp("shop")
    made = shop_files.write(folder)
    made["data"]["ahead"] = "leave_out"
    return project.Environment(**{**made, "clock": BEGAN.isoformat()})


@pytest.fixture(scope="module")
def tables(environment) -> dict[str, pd.DataFrame]:
    return replay.tables_ahead(environment, CONTRACT)


def test_what_is_left_out_today_comes_when_the_clock_has_come_to_it(environment, tables):
    source, table = Source(**environment.data["sources"]["labels"]), CONTRACT.tables["labels"]
    counts = []
    for moment in (BEGAN, BEGAN + timedelta(days=1), shop_files.END):
        one = data.read(source, table, CONTRACT, moment, ahead="leave_out")
        known = tables["labels"][tables["labels"][KNOWN] <= moment]
        assert set(one.kept.order) == set(known.order)
        counts.append(one.provenance["left_out"].get(data.AHEAD, 0))
    assert counts[0] > counts[1] > counts[2] == 0
    refused = data.read(source, table, CONTRACT, BEGAN)
    assert (refused.refused.reason == "future time").sum() == counts[0], "without the setting it is a fault"


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 72 * 60), min_size=1, max_size=8).map(sorted))
def test_each_row_happens_once_whenever_somebody_looks(tables, minutes):
    ahead, taken = replay.Ahead(tables, CONTRACT, BEGAN), []
    for minute in [*minutes, 90 * 60]:
        taken.append(ahead.until(BEGAN + timedelta(minutes=minute)))
        assert taken[-1].requests[CONTRACT.time].max() is pd.NaT or taken[-1].requests[CONTRACT.time].max() <= ahead.reached
    later = tables["labels"]
    for part, time in (("requests", CONTRACT.time), ("labels", KNOWN)):
        names = pd.concat([getattr(each, part) for each in taken])[CONTRACT.booking]
        assert sorted(names) == sorted(later[later[time] > BEGAN][CONTRACT.booking])
    habits = tables["habits"]
    assert sum(len(each.features["habits"]) for each in taken) == (habits[KNOWN] > BEGAN).sum() > 0


class Services:
    "Serving and monitoring: what came, in its order; serving may be away."

    def __init__(self, monkeypatch):
        self.taken, self.away = [], False
        monkeypatch.setattr(web, "answer", self.answer)

    async def answer(self, session, path, body):
        if self.away:
            raise ConnectionError("nobody is there")
        rows = orjson.loads(body)
        self.taken += [(path, row) for row in (rows["rows"] if path == "/score" else rows)]
        return 200, b"{}"

    def push(self, view, rows):
        self.taken += [("features", moment) for moment in rows[KNOWN]]


def replayed(tables, services, hours: int = 72, step: int = 4) -> replay.Replay:
    made = replay.Replay(replay.Ahead(tables, CONTRACT, BEGAN), services, services, services.push)
    for hour in range(step, hours + 1, step):
        asyncio.run(made.happen(BEGAN + timedelta(hours=hour)))
    return made


def test_a_request_is_sent_with_what_it_brings_and_before_the_features_that_were_known_later(tables, monkeypatch):
    services = Services(monkeypatch)
    made = replayed(tables, services)

    orders = tables["labels"].set_index(CONTRACT.booking)
    newest = BEGAN
    for what, thing in services.taken:
        if what == "features":
            newest = max(newest, thing)
        elif what == "/score":
            order = orders.loc[thing["request_id"]]
            assert newest <= order[CONTRACT.time] and thing["basket"] == order.basket
            assert thing["device"] == (None if pd.isna(order.device) else order.device)
    labels = [row for what, row in services.taken if what == "/labels"]
    assert {row["returned"] for row in labels} == {0, 1} and made.labels.taken == len(labels) > 100
    assert made.answered == sum(what == "/score" for what, _ in services.taken) and not made.unanswered


def test_without_an_answer_a_request_is_counted_and_labels_wait(tables, monkeypatch):
    services = Services(monkeypatch)
    services.away = True
    made = replayed(tables, services, hours=24)
    assert made.answered == 0 and sum(made.unanswered.values()) > 100 and set(made.unanswered) == {"nobody is there"}
    waiting = len(made.labels.waiting)
    services.away = False
    asyncio.run(made.labels.send())
    assert made.labels.taken == waiting > 50 and not made.labels.waiting


def test_the_clock_is_not_led_on_while_it_has_to_wait(tables, monkeypatch):
    services, order, waits = Services(monkeypatch), [], iter([True, True, False] * 3)
    made = replay.Replay(replay.Ahead(tables, CONTRACT, BEGAN), services, services, services.push)

    def stands() -> bool:
        order.append("waits" if (wait := next(waits)) else "goes")
        return wait

    until = BEGAN + timedelta(hours=3)
    asyncio.run(replay.replayed(made, until, timedelta(hours=1, seconds=1), 0, lambda moment: order.append("led"), stands))

    assert order == ["waits", "waits", "goes", "led"] * 3


@pytest.mark.parametrize(
    ("state", "alarm", "waits"),
    [
        (None, False, False),
        (None, True, True),
        ("closed", False, False),
        ("closed", True, True),
        ("waiting", True, False),
        ("training", False, True),
        ("promoted", False, True),
    ],
)
def test_the_clock_waits_until_an_alarm_is_a_case_and_while_a_model_is_trained(tmp_path, monkeypatch, state, alarm, waits):
    story = replay.Story(None, None, tmp_path)
    made = [cases.Case(number=1, version="1", state=state, due=BEGAN)] if state else []
    monkeypatch.setattr(cases, "read_cases", lambda folder: made)
    monkeypatch.setattr(web, "answer", Metrics(alarm).answer)
    asyncio.run(story.look())

    assert story.stands() is waits

    monkeypatch.setattr(web, "answer", Metrics(False).answer)
    asyncio.run(story.look())
    assert story.stands() is (waits and state in ("training", "promoted")), "an alarm that is over opens no case"

    monkeypatch.setattr(web, "answer", Metrics(alarm).answer)
    asyncio.run(story.look())
    monkeypatch.setattr(replay, "ANSWER", 0)
    assert story.stands() is (waits and state in ("training", "promoted")), "an alarm that opens no case is not waited for for ever"


class Metrics:
    "Serving and monitoring, as they are asked for the version and the alarms."

    def __init__(self, alarm: bool):
        self.alarm = alarm

    async def answer(self, session, path, body=None):
        line = f'monitoring_drift_detected{{kind="features",version="1"}} {int(self.alarm)}.0'
        return 200, b'{"version": "1"}' if path == "/model" else line.encode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"clock": None}, "has nothing ahead of it"), ({"data": {"sources": {}}}, "data.ahead: leave_out")],
)
def test_an_environment_with_nothing_ahead_says_what_to_set(environment, changes, why):
    with pytest.raises(project.UserError, match=why):
        replay.tables_ahead(environment.model_copy(update=changes), CONTRACT)


def test_choices_among_candidates_cannot_be_replayed(environment):
    with pytest.raises(project.UserError, match="lives on in a simulation"):
        replay.tables_ahead(environment, CONTRACT.model_copy(update={"candidates": "labels"}))


def test_a_week_says_who_answered_and_what_the_first_version_would_have_lost():
    time = pd.date_range(BEGAN, periods=20, freq="D")
    rows = pd.DataFrame({CONTRACT.time: time, CONTRACT.label: [0, 1] * 10, "version": ["1"] * 10 + ["2"] * 10, "first": 0.5})
    rows["score"] = rows["first"].where(rows.version == "1", rows[CONTRACT.label] * 0.8 + 0.1)

    weeks = replay.by_week(rows, CONTRACT)

    assert weeks.version.tolist() == ["1", "1, 2", "2"] and weeks.labels.sum() == 20
    assert weeks["log loss"].iloc[0] == weeks["of the first"].iloc[0] > weeks["log loss"].iloc[2]


def test_news_are_told_once_with_their_moment(tmp_path, monkeypatch):
    step = {"what": "alerted", "time": "2026-02-12T07:00:00+00:00", "alert": "DriftDetected (features)"}
    case = SimpleNamespace(number=1, steps=[step])
    monkeypatch.setattr(replay.cases, "read_cases", lambda folder: [case])

    async def answer(session, path, body=None):
        return 200, b'{"version": "1"}' if path == "/model" else b'monitoring_drift_detected{kind="features",version="1"} 1\n'

    monkeypatch.setattr(web, "answer", answer)
    news = replay.Story(None, None, tmp_path)
    first, again = asyncio.run(news.look()), asyncio.run(news.look())

    assert again == [] and "2026-02-12 07:00  case 1: alerted: DriftDetected (features)" in first
    assert any(line.endswith("alarm: features of version 1") for line in first)
    assert SHOP.contract is CONTRACT
