"""A release: who gets which requests, what a verdict makes of it, and what a shadow's report says."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_course import plans, project
from mlops_course.plans import Counts, Plan, Verdict
from mlops_course.release import advance, agreement, routes_of
from mlops_course.releases import Release
from mlops_course.routes import met

ENDED = ("promoted", "rolled back", "superseded")
GO, BACK, WAIT = (Verdict(word, "guardrails", ["because"]) for word in ("go on", "back", "wait"))
VERDICTS = st.lists(st.sampled_from([GO, BACK, WAIT]), max_size=12)


def begun(state: str = "shadow", step: int = 0) -> Release:
    return Release(number=7, version="2", champion="1", state=state, step=step)


def reached(release: Release) -> tuple[str, int]:
    return release.state, release.step


@given(VERDICTS)
def test_a_release_goes_no_further_than_one_step_for_each_go_on(verdicts):
    release, go_ons, was = begun(), 0, -1
    for verdict in verdicts:
        changed = advance(release, verdict)
        go_ons += verdict is GO and changed
        place = {"shadow": -1, "canary": release.step, "promoted": len(release.plan.steps)}.get(release.state, was)
        assert place - was == (verdict is GO and changed)
        was = place

    assert (release.state == "promoted") == (go_ons == len(release.plan.steps) + 1)
    assert release.state in ("shadow", "canary", "promoted", "rolled back")


@given(VERDICTS)
def test_to_wait_changes_nothing(verdicts):
    release = begun()
    for verdict in verdicts:
        advance(release, verdict)
        before = release.model_dump_json()
        assert not advance(release, WAIT) and release.model_dump_json() == before


@given(st.sampled_from(ENDED), VERDICTS)
def test_a_release_that_has_ended_never_changes_again(state, verdicts):
    release = begun(state, step=2)
    before = release.model_dump_json()

    assert not any(advance(release, verdict) for verdict in verdicts)
    assert release.model_dump_json() == before and routes_of(release).others == []


@given(VERDICTS)
def test_each_change_is_a_note_with_its_reasons_and_what_it_does_not_change_is_none(verdicts):
    release = begun()
    changes = [verdict for verdict in verdicts if advance(release, verdict)]

    assert [note["reasons"] for note in release.steps] == [verdict.reasons for verdict in changes]
    assert [note["verdict"] for note in release.steps] == [verdict.verdict for verdict in changes]
    assert json.loads(release.model_dump_json())["steps"] == release.steps


@pytest.mark.parametrize("step", range(4))
def test_it_goes_back_from_each_step_and_the_champion_answers_all(step):
    release = begun("canary", step)

    assert advance(release, BACK)
    assert reached(release) == ("rolled back", step) and routes_of(release).others == []


def test_a_new_step_begins_without_counts_and_ends_the_span_of_the_one_before():
    release, now = begun("canary", 2), project.now()
    release.began, release.seen, release.spans = now, {"challenger": Counts(9)}, [(0.25, now, None)]

    advance(release, GO)

    assert (release.began, release.seen) == (None, {})
    share, begin, end = release.spans[0]
    assert (share, begin) == (0.25, now) and end >= now


def test_a_shadow_answers_nobody_and_each_step_its_share():
    ids = [f"r-{number}" for number in range(20_000)]
    assert [route.role for route in routes_of(begun()).others] == ["shadow"]
    assert not any(met(request_id, routes_of(begun())) for request_id in ids)
    before = set()
    for step, share in enumerate((0.01, 0.05, 0.25, 1.0)):
        routes = routes_of(begun("canary", step))
        mine = {request_id for request_id in ids if met(request_id, routes)}
        assert len(mine) == pytest.approx(share * 20_000, rel=0.15) and before <= mine
        before = mine


def test_another_release_divides_the_requests_anew():
    ids = [f"r-{number}" for number in range(20_000)]
    other = begun("canary", 2).model_copy(update={"number": 8})
    first, second = ({i for i in ids if met(i, routes_of(each))} for each in (begun("canary", 2), other))

    assert len(first & second) == pytest.approx(20_000 / 16, rel=0.15)


def test_each_state_and_step_has_a_name_of_its_own_in_the_log():
    names = [routes_of(begun()).name] + [routes_of(begun("canary", step)).name for step in range(4)]

    assert len(set(names)) == 5 and all("7" in name for name in names)


# The report of a shadow


def pairs(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["champion", "shadow", "champion_score", "shadow_score", "area"])


def test_the_report_counts_same_choices_and_differences_of_scores_by_segment():
    report = agreement(pairs((1, 1, 0.5, 0.6, "a"), (1, 2, 0.5, 0.9, "a"), (3, 3, 0.7, 0.7, "b")), by="area")

    assert report.index.tolist() == ["all", "a", "b"]
    assert report.requests.tolist() == [3, 2, 1]
    assert report.same.tolist() == pytest.approx([2 / 3, 0.5, 1])
    assert report["mean"].tolist() == pytest.approx([0.5 / 3, 0.25, 0])
    assert report["50%"].tolist() == pytest.approx([0.1, 0.25, 0])


def test_without_a_segment_it_is_one_row_and_without_requests_it_says_nothing():
    assert agreement(pairs((1, 1, 0.5, 0.6, "a"))).index.tolist() == ["all"]
    empty = agreement(pairs(), by="area")
    assert empty.requests.tolist() == [0] and np.isnan(empty.same["all"]) and np.isnan(empty["mean"]["all"])


def test_nobody_is_a_choice_too_and_a_score_that_is_missing_makes_no_difference():
    report = agreement(pairs((None, None, None, None, "a"), (1, None, 0.5, None, "a"), (1, 1, 0.5, 0.7, "a")))

    assert report.same["all"] == pytest.approx(2 / 3) and report["mean"]["all"] == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["Int64", "object", "string"])
def test_it_takes_choices_of_each_kind_that_a_store_has(kind):
    rows = pairs((1, 1, 0.5, 0.6, "a"), (None, 2, 0.5, 0.9, "a"))
    rows[["champion", "shadow"]] = rows[["champion", "shadow"]].astype("Int64").astype(kind)

    assert agreement(rows).same["all"] == 0.5


@given(st.lists(st.floats(0, 100) | st.none(), max_size=60), st.integers(1, 5))
def test_the_segments_of_a_number_are_few_and_have_each_request_once(values, bins):
    rows = pairs(*[(1, 1, 0.5, 0.5, value) for value in values]).astype({"area": float})

    report = agreement(rows, by="area", bins=bins)

    assert report.requests.iloc[1:].sum() == len(values) and len(report) <= bins + 2


def test_a_segment_that_is_missing_is_unknown_and_one_that_is_called_all_is_its_own_row():
    report = agreement(pairs((1, 1, 0.5, 0.6, None), (1, 1, 0.5, 0.6, "all")), by="area")

    assert report.index.tolist() == ["all", "all", "unknown"] and report.requests.tolist() == [2, 1, 1]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(project.UserError, match="no column shadow, zone"):
        agreement(pairs((1, 1, 0.5, 0.6, "a")).drop(columns="shadow"), by="zone")


# The notes of exercise 63.3


def notes() -> list[tuple]:
    "Step, challenger's and champion's requests, faults, low and high, as the lesson shows them."
    cells = json.loads((project.root() / "notebooks/63_release.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "notes = pd.DataFrame(" in "".join(cell["source"]))
    names: dict = {"pd": pd}
    exec(source.rpartition("\n")[0], names)
    return list(names["notes"].itertuples(index=False))


def test_the_release_of_the_exercise_goes_back_at_its_fifth_look_for_its_split():
    plan, causes = Plan(), []
    for step, _, mine, other, faults, low, high in notes():
        number = [f"{each.share:.0%}".replace("%", " %") for each in plan.steps].index(step)
        errors, slow = (int(m[1]) if (m := re.match(rf"(\d+) {word}", faults)) else 0 for word in ("error", "slow"))
        seen = plans.by_guardrails(plan, plan.steps[number], Counts(mine, errors, slow), Counts(other))
        if seen.verdict == "go on" and low is not None and not np.isnan(low):
            seen = plans.by_outcomes(plan, plans.Evidence(mine + other, 0.0, (low + high) / 2, low, high))
        causes.append((seen.verdict, seen.cause))

    assert [verdict for verdict, _ in causes[:4]] == ["go on"] * 3 + ["wait"]
    assert causes[4] == ("back", "split")
