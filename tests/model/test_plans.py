"""A release as data: what a plan may say, what a look at a step gives, and how often that is wrong."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_course import plans, project, rehearsals
from mlops_course.plans import Counts, Evidence, Guardrails, Plan, Trips

THIRD = 2  # the step of the default plan in which outcomes are judged


def arms(trips: int, worse: float = 0.0, share: float = 0.25, seed: int = 7) -> Trips:
    rng = np.random.default_rng(seed)
    treated = rng.random(trips) < share
    return Trips(share, treated.astype(float), (rng.random(trips) < 0.55 - worse * treated).astype(float))


def look(seen: Trips, plan: Plan | None = None, hours: float = 48, number: int = THIRD) -> plans.Verdict:
    mine = int(seen.treated.sum())
    return plans.judged(plan or Plan(), number, Counts(mine), Counts(len(seen.treated) - mine), [seen], hours)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [{"share": 0.25, "most_hours": 9}, {"share": 0.25, "most_hours": 9}]}, "should rise"),
        ({"steps": [{"share": 1.5, "most_hours": 9}]}, "less than or equal to 1"),
        ({"steps": [{"share": 0, "most_hours": 9}]}, "greater than 0"),
        ({"steps": [{"share": 0.5}]}, "most_hours"),
        ({"steps": [{"share": 0.5, "least_hours": 10, "most_hours": 9}]}, "longer at least than at most"),
        ({"steps": [{"share": 0.5, "least_trips": 10, "most_trips": 9, "most_hours": 9}]}, "longer at least than at most"),
        ({"steps": [{"share": 0.05, "most_hours": 9}, {"share": 1, "most_hours": 9}]}, "no outcome would be judged"),
        ({"margin": 0}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"alpha": 0.5}, "alpha"),
        ({"guardrails": {"errors": 1}}, "errors"),
        ({"guardrails": {"error": 0.1}}, "error"),
        ({"without_verdict": "go on"}, "without_verdict"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_with_a_reason(values, words):
    with pytest.raises(project.UserError, match="settings that cannot be used, in a plan") as refused:
        project.validated(Plan, values, "a plan")

    assert words in str(refused.value)


def test_a_plan_is_written_down_and_read_again_as_it_was():
    assert Plan.model_validate_json(Plan().model_dump_json()) == Plan()


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.5))
def test_one_more_fault_never_mends_a_guardrail_and_one_more_sound_answer_never_breaks_it(errors, sound, limit):
    rails = Guardrails(errors=limit)
    if plans.broken(Counts(errors + sound, errors=errors), rails):
        assert plans.broken(Counts(errors + sound + 1, errors=errors + 1), rails)
    else:
        assert not plans.broken(Counts(errors + sound + 1, errors=errors), rails)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_a_guardrail_at_its_limit_hardly_ever_breaks_however_often_one_looks(limit):
    rng, requests, runs = np.random.default_rng(7), np.arange(1, 2_001), 300
    rails = Guardrails(errors=limit, alpha=0.05)
    evidence = np.vectorize(lambda bad, n: bad / n > limit and bool(plans.broken(Counts(int(n), errors=int(bad)), rails)))
    looks = requests[::20]

    stopped = sum(evidence((rng.random(2_000) < limit).cumsum()[looks - 1], looks).any() for _ in range(runs))

    assert stopped / runs <= 0.05


def test_few_faults_of_few_requests_are_no_evidence_and_a_broken_challenger_is_stopped_within_some_dozens():
    assert not plans.broken(Counts(10, errors=3), Guardrails(errors=0.05))
    assert not plans.broken(Counts(1, errors=1), Guardrails())
    assert set(plans.broken(Counts(40, errors=8, missing=20), Guardrails())) == {"errors", "missing"}


def test_guardrails_act_in_the_smallest_step_and_say_whether_the_champion_fails_too():
    alone = plans.judged(Plan(), 0, Counts(12, errors=4), Counts(988), [], 0.01)
    both = plans.judged(Plan(), 0, Counts(12, errors=4), Counts(988, errors=300), [], 0.01)

    assert (alone.verdict, alone.cause) == ("back", "guardrails")
    assert (both.verdict, both.cause) == ("back", "both arms")
    assert "4 of 12" in alone.reasons[0]


def test_arms_that_are_not_divided_as_planned_are_not_compared():
    made = plans.judged(Plan(), THIRD, Counts(1_000), Counts(1_000), [arms(2_000)], 48)

    assert (made.verdict, made.cause) == ("back", "split")


def test_a_small_step_does_not_judge_outcomes_and_goes_on_after_its_least_duration():
    poor = arms(2_000, worse=0.5, share=0.05)

    assert look(poor, number=1, hours=0.5).verdict == "wait"
    assert look(poor, number=1, hours=2).verdict == "go on"


@pytest.mark.parametrize(("worse", "verdict"), [(0.15, "back"), (-0.05, "go on")])
def test_outcomes_decide_with_reasons_that_json_can_say(worse, verdict):
    made = look(arms(7_000, worse))

    assert (made.verdict, made.cause) == (verdict, "outcomes")
    assert json.loads(json.dumps(made._asdict()))["low"] == made.low
    assert "trips" in made.reasons[-1]


def test_what_the_first_look_could_see_is_the_verdict_of_every_later_one():
    seen = arms(7_000, worse=0.07)
    first = next(n for n in range(100, 7_000, 100) if look(Trips(0.25, seen.treated[:n], seen.labels[:n])).verdict != "wait")

    later = {look(Trips(0.25, seen.treated[:n], seen.labels[:n]))[-3:] for n in range(first, 7_000, 500)}

    assert len(later) == 1


def test_nothing_is_promoted_without_labels():
    seen = arms(6_000, worse=-0.1)
    mute = seen._replace(labels=np.full(6_000, np.nan))

    assert look(mute)[:2] == ("wait", "labels")
    assert plans.judged(Plan(), THIRD, Counts(1_500), Counts(4_500), [], 48).verdict == "wait"
    assert look(mute, hours=1_000)[:2] == ("back", "duration")


def test_nothing_is_promoted_without_a_request_of_the_challenger():
    step = {"share": 0.001, "most_hours": 9}
    plan = Plan(steps=[step, {"share": 0.25, "most_hours": 9}])

    assert plans.judged(plan, 0, Counts(), Counts(100), [], 1).verdict == "wait"


def test_where_all_trips_are_completed_chance_promotes_nobody_at_once():
    treated = arms(900).treated

    assert look(Trips(0.25, treated, np.ones(900))).verdict == "wait"


def test_a_challenger_that_completes_nothing_is_back_within_some_hundreds_of_trips():
    assert look(arms(400, worse=0.55)).verdict == "back"


@pytest.mark.parametrize("without", ["back", "wait"])
def test_without_a_verdict_the_longest_duration_ends_as_the_plan_says(without):
    made = look(arms(500), Plan(without_verdict=without), hours=700)

    assert (made.verdict, made.cause) == (without, "duration")
    assert "without a verdict" in made.reasons[-1]


def test_guardrails_alone_promote_only_where_the_plan_says_so():
    steps = [{"share": 0.25, "most_hours": 9}]
    alone = Plan(steps=steps, by_guardrails_alone=True)

    verdicts = [plans.judged(plan, 0, Counts(250), Counts(750), [], 1).verdict for plan in (Plan(steps=steps), alone)]

    assert verdicts == ["wait", "go on"]


@settings(deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_higher_interval_never_has_a_worse_verdict(middle, below, above, shift):
    rank = ["back", "wait", "go on"]
    verdicts = [
        plans.by_outcomes(Plan(), Evidence(1_000, 0.0, middle + by, middle + by - below, middle + by + above)).verdict for by in (0, shift)
    ]

    assert rank.index(verdicts[0]) <= rank.index(verdicts[1])


def test_a_test_goes_on_when_the_share_grows():
    quarter, half = arms(2_000), arms(2_000, share=0.5, seed=8)

    together = plans.paths([quarter, half])

    assert np.allclose(together[:, :2_000], plans.paths([quarter]))
    assert together[2, -1] - together[1, -1] < np.ptp(plans.paths([half])[1:, -1])


def test_worse_days_under_a_larger_share_are_not_the_challengers_fault():
    rng, ended = np.random.default_rng(7), []
    for _ in range(100):
        parts = []
        for share, base in [(0.25, 0.65), (0.5, 0.4)]:
            treated = (rng.random(2_000) < share).astype(float)
            parts.append(Trips(share, treated, (rng.random(2_000) < base).astype(float)))
        ended.append(plans.evidence(parts, above=-0.05, below=0.0))

    pooled = [np.concatenate([part[n] for part in parts]) for n in (1, 2)]
    assert np.mean([seen.high is not None and seen.high < 0 for seen in ended]) <= 0.1
    assert abs(np.mean([seen.estimate for seen in ended])) < 0.03
    assert pooled[1][pooled[0] == 1].mean() - pooled[1][pooled[0] == 0].mean() < -0.05  # Simpson's paradox


def test_a_trip_is_judged_at_one_age_and_a_later_label_changes_nothing():
    start = pd.Timestamp("2026-03-16", tz="UTC")
    hours = pd.to_timedelta([0, 1, 2, 9], "h")
    delay = pd.to_timedelta([7, 5, 1, 1], "h")
    requests = pd.DataFrame({"request_id": list("dcba"), "booked_at": start + hours, "label": 1.0, "label_at": start + hours + delay})

    ripe = plans.matured(requests.sample(frac=1, random_state=7), start + pd.Timedelta(hours=12), hours=6)

    assert ripe.request_id.tolist() == list("dcb")
    assert ripe.label.isna().tolist() == [True, False, False]


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_both_errors_are_rare_at_each_share(share):
    equal, worse = (rehearsals.rehearsed(rehearsals.by_evidence(), share, loss, runs=200) for loss in (0.0, 0.05))

    assert equal.by("back") <= 0.08 and worse.by("promoted") <= 0.08  # 5 % and two standard errors of 200 releases


@pytest.mark.parametrize(("base", "share"), [(0.95, 0.05), (0.9, 0.25), (0.1, 0.05)])
def test_extreme_rates_in_a_small_arm_do_not_deceive(base, share):
    equal, worse = (rehearsals.rehearsed(rehearsals.by_evidence(), share, loss, base, runs=200) for loss in (0.0, 0.05))

    assert equal.by("back") <= 0.08 and worse.by("promoted") <= 0.08


def test_a_rehearsal_decides_as_the_look_at_the_step_does():
    ended = rehearsals.rehearsed(rehearsals.by_evidence(), 0.25, 0.05, trips=4_000, runs=20, seed=3)
    rng = np.random.default_rng(3)
    for promoted, back in zip(*ended, strict=True):
        treated = rng.random(4_000) < 0.25
        made = look(Trips(0.25, treated.astype(float), (rng.random(4_000) < 0.55 - 0.05 * treated).astype(float)))
        assert made.verdict == ("go on" if np.isfinite(promoted) else "back" if np.isfinite(back) else "wait")


def test_the_wrong_ways_are_wrong_far_more_often():
    peeked = rehearsals.rehearsed(rehearsals.by_peeking(), worse=0.05, runs=100)
    hundred = rehearsals.rehearsed(rehearsals.by_ratio(), worse=0.05, runs=100)
    confident, lost = rehearsals.by_confidence(0.2, runs=20)

    assert peeked.by("promoted") > 0.12 and hundred.by("promoted") > 0.2
    assert confident == 1 and lost > 0.05


def test_a_champion_as_good_as_the_fallback_hardly_rings_and_one_that_fell_behind_does():
    assert np.isfinite(rehearsals.watched(0.2, 0.0, days=30, runs=100)).mean() <= 0.08
    assert np.median(rehearsals.watched(0.2, 0.1, days=40, runs=20)) < 6_000


def test_a_month_in_which_nothing_changes_hardly_ever_rings_by_any_of_its_tests():
    months = [[arms(2_800, share=0.2, seed=100 * month + week) for week in range(5)] for month in range(100)]

    assert sum(plans.fallen_behind(month) is not None for month in months) <= 8


def test_good_months_do_not_hide_a_bad_one():
    good = [arms(2_800, worse=0.1, share=0.2, seed=n) for n in range(10)]
    bad = [arms(2_800, worse=-0.1, share=0.2, seed=n) for n in range(20, 23)]

    assert plans.fallen_behind(good) is None
    assert plans.fallen_behind(good + bad).low > 0
    assert plans.evidence(good + bad).estimate < 0
    assert plans.fallen_behind(bad + good, alive=8) is None


def test_a_step_with_many_requests_waits_for_the_first_trips_that_can_be_judged():
    plan = Plan()

    early = plans.judged(plan, 2, Counts(20_000), Counts(60_000), [], 0.05)
    late = plans.judged(plan, 2, Counts(20_000), Counts(60_000), [], plan.steps[2].most_hours + 1)

    assert early.verdict == "wait" and late.verdict == "back"


def test_a_plan_whose_labels_come_after_its_step_is_refused():
    with pytest.raises(ValueError, match="ends before its first trips are judged"):
        Plan(label_hours=700)
