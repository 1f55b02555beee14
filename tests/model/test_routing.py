"""Requests that meet an arm, and bandits that learn of each label once, whatever happens meanwhile."""

from collections import Counter

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rides import CONTRACT, RIDES

from mlops_course import policies, policy, project, routes, routing
from mlops_course.joined import Label
from mlops_course.lookup import Newest
from mlops_course.predictions import append
from mlops_course.routing import Learner, Router
from mlops_course.schemas import ServingSettings, answer_of, candidates_of, row_of

DRIVERS = [1001, 1002, 1003]
NOW = project.now()
MODEL = type("Model", (), {"name": "driver-completion", "version": "1"})


def row(driver: int, score: float):
    return row_of({"driver_id": driver}, Newest((score, 0.2, 7.0), NOW), "fresh", score, "run", 0, CONTRACT)


ROWS = [row(driver, score) for driver, score in zip(DRIVERS, (0.5, 0.6, 0.4), strict=True)]


def router(policy_of_arm: str = "thompson", share: float = 1.0, name: str = "april") -> Router:
    arms = {"bandit": {"share": share, "policy": policy_of_arm}}
    if share < 1:
        arms["champion"] = {"share": 1 - share}
    return Router(ServingSettings(experiment={"name": name, "arms": arms}), CONTRACT)


def answered(made: Router, log, numbers) -> dict[str, int]:
    "Answer these requests and write them down; who was chosen."
    chosen, lines = {}, []
    for number in numbers:
        routed = made.route(f"r-{number}", DRIVERS, ROWS)
        answer = answer_of(f"r-{number}", DRIVERS, ROWS, False, MODEL, routed, RIDES.costs)
        answer["candidates"] = candidates_of(DRIVERS, ROWS, "logged", CONTRACT)
        lines.append(orjson.dumps({"time": project.now(), **answer}) + b"\n")
        chosen[f"r-{number}"] = answer["prediction"]
    log.mkdir(exist_ok=True)
    append(log / f"{project.now():%Y-%m-%d}.jsonl", b"".join(lines))
    return chosen


def ends(chosen: dict[str, int]) -> list[Label]:
    "Only driver 1003 completes."
    return [Label(request, driver, int(driver == 1003), project.now().timestamp()) for request, driver in chosen.items()]


def test_without_an_experiment_the_choice_is_that_of_lesson_42():
    made = Router(ServingSettings(epsilon=0.3), CONTRACT)

    for number in range(50):
        routed = made.route(f"r-{number}", DRIVERS, [*ROWS[:2], None])
        assert routed.choice == policy.choose(f"r-{number}", DRIVERS, [0.5, 0.6, None], 0.3)
        assert (routed.policy, routed.experiment, routed.arm) == ("greedy", None, None)


@pytest.mark.parametrize("kind", ["thompson", "ucb", "contextual"])
def test_a_candidate_of_whom_nothing_is_known_is_never_chosen_by_a_bandit(kind):
    made = router(kind)

    chosen = {made.route(f"r-{number}", DRIVERS, [ROWS[0], None, ROWS[2]]).choice.place for number in range(300)}

    assert chosen <= {0, 2}


def test_where_nobody_is_known_a_bandit_chooses_nobody():
    assert router().route("r-1", DRIVERS, [None] * 3).choice == policy.Choice(None, False, None)


@pytest.mark.parametrize("kind", ["thompson", "ucb", "contextual"])
def test_what_is_learned_changes_who_is_chosen_also_after_a_restart(kind, tmp_path):
    made, log = router(kind), tmp_path / "predictions"
    learner = Learner(made, tmp_path / "bandits.db")
    for begin in range(0, 900, 150):
        learner.label(ends(answered(made, log, range(begin, begin + 150))))
        learner.step(log)
    learner.store.close()
    again = router(kind)
    restarted = Learner(again, tmp_path / "bandits.db")

    assert restarted.learned == learner.learned == {"bandit": 900}
    later = [made.route(f"later-{number}", DRIVERS, ROWS).choice for number in range(200)]
    assert later == [again.route(f"later-{number}", DRIVERS, ROWS).choice for number in range(200)]
    assert sum(choice.place == 2 for choice in later) > 150


_steps = st.lists(
    st.sampled_from(["answer", "labels", "labels again", "step", "restart", "a kill while it learns"]), min_size=1, max_size=12
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_each_label_is_learned_once_whatever_happens_in_whatever_order(steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    made, log = router(), folder / "predictions"
    learner, chosen, waiting = Learner(made, folder / "bandits.db"), {}, []
    for step in [*steps, "labels", "step"]:
        if step == "answer":
            new = answered(made, log, range(len(chosen), len(chosen) + 5))
            chosen |= new
            waiting += ends(new)
        elif step.startswith("labels"):
            learner.label(waiting)
            if step == "labels":
                waiting = []
        elif step == "step":
            learner.step(log)
        else:
            if step != "restart":
                with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
                    patch.setattr(routing, "_state", lambda bandit: (_ for _ in ()).throw(RuntimeError("killed")))
                    learner.step(log)
                    raise RuntimeError("nothing was learned of")
            learner.store.close()
            made = router()
            learner = Learner(made, folder / "bandits.db")

    right = policies.Thompson()
    for driver in chosen.values():
        right.learn([policies.Candidate(driver, 0.5, {})], 0, float(driver == 1003), 1.0)
    assert learner.learned == {"bandit": len(chosen)}
    assert {entity: sum(both) for entity, both in made.bandits["bandit"].counts.items()} == pytest.approx(
        {entity: sum(both) for entity, both in right.counts.items()}
    )
    learner.store.close()


def test_a_bandit_learns_of_its_own_arm_only(tmp_path):
    made, log = router(share=0.3), tmp_path / "predictions"
    learner = Learner(made, tmp_path / "bandits.db")
    chosen = answered(made, log, range(300))
    mine = sum(policies.arm_of(request, made.experiment) == "bandit" for request in chosen)

    outcomes = learner.label(ends(chosen))
    learner.step(log)

    assert learner.learned == {"bandit": mine}
    assert outcomes == {"early": mine, "other": 300 - mine}


def test_another_experiment_begins_anew_and_the_old_one_is_kept(tmp_path):
    log = tmp_path / "predictions"
    for name, learned in [("april", 40), ("may", 0), ("april", 40)]:
        made = router(name=name)
        learner = Learner(made, tmp_path / "bandits.db")
        if name == "april" and not learner.learned["bandit"]:
            learner.label(ends(answered(made, log, range(40))))
        learner.step(log)
        assert learner.learned == {"bandit": learned}
        learner.store.close()


def test_a_request_whose_label_never_comes_is_forgotten(tmp_path, monkeypatch):
    made, log = router(), tmp_path / "predictions"
    learner = Learner(made, tmp_path / "bandits.db")
    chosen = answered(made, log, range(10))
    learner.step(log)
    later = project.now() + learner.waits * 2
    monkeypatch.setattr(project, "now", lambda: later)

    learner.step(log)

    assert learner.store.ask("SELECT count(*) FROM predictions") == [(0,)]
    assert learner.label([label._replace(time=NOW.timestamp()) for label in ends(chosen)]) == {"unknown": 10}


def test_a_state_that_cannot_be_read_is_said_and_its_arm_begins_anew(tmp_path, caplog):
    learner = Learner(router(), tmp_path / "bandits.db")
    with learner.store.transaction() as db:
        db.execute("INSERT INTO bandits VALUES ('april/bandit', 'thompson', 3, x'00')")
    learner.store.close()

    again = Learner(router(), tmp_path / "bandits.db")

    assert again.learned == {"bandit": 0} and "april/bandit" in caplog.text


@pytest.mark.parametrize("content", [b"", b"x" * 20_000, None], ids=["empty", "garbage", "cut off"])
def test_a_file_that_is_no_database_is_put_aside_and_learning_goes_on(tmp_path, content):
    file, log = tmp_path / "bandits.db", tmp_path / "predictions"
    learner = Learner(router(), file)
    learner.label(ends(answered(learner.router, log, range(50))))
    learner.step(log)
    learner.store.close()
    file.write_bytes(file.read_bytes()[:3_000] if content is None else content)

    again = Learner(router(), file)
    again.label(ends(answered(again.router, log, range(50, 60))))
    again.step(log)

    assert again.learned["bandit"] >= 10
    assert (tmp_path / "bandits.db.unreadable").is_file() == (content != b"")


def test_a_file_that_goes_while_the_service_runs_is_said(tmp_path):
    learner = Learner(router(), tmp_path / "bandits.db")
    (tmp_path / "bandits.db").unlink()

    with pytest.raises(project.UserError, match="has gone: start serving again"):
        learner.step(tmp_path / "predictions")


def test_labels_of_answered_requests_count_when_the_shares_have_changed(tmp_path):
    made, log = router(share=0.9), tmp_path / "predictions"
    learner = Learner(made, tmp_path / "bandits.db")
    chosen = answered(made, log, range(100))
    mine = sum(policies.arm_of(request, made.experiment) == "bandit" for request in chosen)
    learner.step(log)
    learner.store.close()
    again = Learner(router(share=0.05), tmp_path / "bandits.db")

    outcomes = again.label(ends(chosen))
    again.step(log)

    assert outcomes["joined"] == mine == again.learned["bandit"] > 80


def test_an_arm_whose_policy_comes_back_knows_what_it_knew(tmp_path):
    log, file = tmp_path / "predictions", tmp_path / "bandits.db"
    learned = []
    for turn, kind in enumerate(["thompson", "ucb", "thompson"]):
        learner = Learner(router(kind), file)
        learned.append(learner.learned["bandit"])
        if turn == 0:
            learner.label(ends(answered(learner.router, log, range(40))))
        learner.step(log)
        learner.store.close()

    assert learned == [0, 0, 40]


def test_a_line_that_makes_no_sense_does_not_stop_the_learning(tmp_path):
    made, log = router(), tmp_path / "predictions"
    learner = Learner(made, tmp_path / "bandits.db")
    chosen = answered(made, log, range(20))
    learner.step(log)
    with learner.store.transaction() as db:
        db.execute("UPDATE predictions SET entity = 9 WHERE request_id = 'r-3'")
    learner.label([*ends({**chosen, "r-3": 9})])
    learner.step(log)

    assert learner.learned == {"bandit": 20}
    assert sum(map(sum, made.bandits["bandit"].counts.values())) == pytest.approx(19, rel=0.1)


@pytest.mark.parametrize("name", ["explore", "none", "april", "release-1"])
def test_whom_a_request_meets_its_arm_and_whether_it_is_drawn_are_independent(name):
    arms = {"a": {"share": 0.5}, "b": {"share": 0.5}}
    march = policies.Experiment(name=name, arms=arms)
    others = [{"role": "challenger", "version": "2", "share": 0.5}]
    asked, rows = routes.Routes(salt=name, others=others), []
    for number in range(4_000):
        request = f"r-{number}"
        met = routes.met(request, asked) is None
        rows.append((met, policies.arm_of(request, march) == "a", policy.drawn(request) < 0.5))

    seen = Counter(rows)
    assert len(seen) == 8 and all(abs(n - 500) < 110 for n in seen.values())
