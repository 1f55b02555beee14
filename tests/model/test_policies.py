"""Arms by a hash, bandits behind one `choose`, and the propensity of the whole choice."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_course import policies, policy, project
from mlops_course.contracts import read_project
from mlops_course.policies import Arm, Candidate, Experiment, arm_of, routed

CONTRACT = read_project("projects/ride_hailing.yaml").contract
BANDITS = ["thompson", "ucb", "contextual"]
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20).filter(lambda name: name[0] != "-")
SCORES = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20)


def experiment(name: str = "march", **shares: float) -> Experiment:
    return Experiment(name=name, arms={arm: Arm(share=share) for arm, share in shares.items()})


def people(scores: list[float]) -> list[Candidate]:
    values = dict.fromkeys(CONTRACT.features, 0.5)
    return [Candidate(1001 + place, score, values) for place, score in enumerate(scores)]


@given(NAMES, st.integers(1, 10**12), st.floats(0.01, 0.99))
def test_a_unit_meets_the_same_arm_at_each_try(name, unit, share):
    asked = experiment(name, control=1 - share, treatment=share)

    assert arm_of(str(unit), asked) == arm_of(str(unit), asked)


@given(NAMES, st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_each_arm_has_its_share(name, share):
    asked = experiment(name, control=1 - share, treatment=share)

    treated = sum(arm_of(f"r-{i}", asked) == "treatment" for i in range(2_000))

    assert abs(treated / 2_000 - share) < 5 * np.sqrt(share * (1 - share) / 2_000) + 1e-9


@given(st.tuples(NAMES, NAMES).filter(lambda names: names[0] != names[1]))
def test_two_experiments_divide_independently(names):
    one, two = (experiment(name, control=0.5, treatment=0.5) for name in names)

    both = sum(arm_of(f"r-{i}", one) == arm_of(f"r-{i}", two) for i in range(2_000))

    assert abs(both / 2_000 - 0.5) < 5 * 0.5 / np.sqrt(2_000)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"name": "march", "arms": {"a": {"share": 0.5}, "b": {"share": 0.4}}}, "add up to 0.9"),
        ({"name": "March 1", "arms": {"a": {"share": 1}}}, "name"),
        ({"name": "march", "arms": {}}, "arms"),
        ({"name": "march", "arms": {"a b": {"share": 1}}}, "arms"),
        ({"name": "march", "arms": {"a": {"share": 0}, "b": {"share": 1}}}, "share"),
        ({"name": "march", "arms": {"a": {"share": 1, "policy": "best"}}}, "policy"),
        ({"name": "march", "arms": {"a": {"share": 1, "epsilon": 1.5}}}, "epsilon"),
        ({"name": "march", "arms": {"a": {"share": 1, "salt": "x"}}}, "salt"),
    ],
)
def test_an_experiment_that_cannot_be_run_is_refused_with_its_fault(settings, fault):
    with pytest.raises(project.UserError, match=fault):
        project.validated(Experiment, settings, "the section serving")


@given(SCORES, st.floats(0, 1))
def test_propensities_add_up_to_one_over_those_who_are_known(scores, epsilon):
    chances = policy.propensities(range(len(scores)), scores, epsilon)

    assert set(chances) == {place for place, score in enumerate(scores) if score is not None}
    assert not chances or sum(chances.values()) == pytest.approx(1)


@given(SCORES, st.floats(0, 1), st.randoms(use_true_random=False))
def test_what_is_chosen_has_the_propensity_that_is_said(scores, epsilon, random):
    preferred = np.array([random.random() if score is not None else 0 for score in scores])
    preferred = (preferred / preferred.sum()).tolist() if preferred.sum() else None

    choice = policy.choose("r-1", range(len(scores)), scores, epsilon, preferred)

    chances = policy.propensities(range(len(scores)), scores, epsilon, preferred)
    assert choice.propensity == (chances[choice.place] if chances else None)


@pytest.mark.parametrize("kind", BANDITS)
def test_a_bandit_prefers_with_probabilities(kind):
    preferred = policies.bandit(kind, CONTRACT).preferred(people([0.0, 0.3, 1.0, 0.3]))

    assert len(preferred) == 4 and min(preferred) >= 0 and sum(preferred) == pytest.approx(1)


@pytest.mark.parametrize("kind", BANDITS)
def test_a_bandit_learns_who_is_good_and_knows_it_after_a_restart(kind, tmp_path):
    bandit = policies.bandit(kind, CONTRACT)
    some = [c._replace(values={**c.values, "conv_rate": rate}) for c, rate in zip(people([0.5] * 3), (0.1, 0.5, 0.9), strict=True)]
    before = bandit.preferred(some)[2]
    for i in range(300):
        place = i % 3
        bandit.learn(some, place, float(place == 2), 1 / 3)

    bandit.save(tmp_path / "state")
    again = policies.bandit(kind, CONTRACT, tmp_path / "state")

    assert bandit.preferred(some)[2] > max(before, 0.8)
    assert again.preferred(some) == bandit.preferred(some)


@pytest.mark.parametrize("kind", ["thompson", "ucb"])
def test_what_was_learned_fades(kind):
    bandit = policies.bandit(kind, CONTRACT)
    for _ in range(10_000):
        bandit.learn(people([0.5]), 0, 1.0, 1.0)

    assert sum(bandit.counts[1001]) == pytest.approx(bandit.memory, rel=1e-6)


@pytest.mark.parametrize("text", ["zone: a|b\nc", "", "täg", "1:2"])
def test_any_category_is_one_word_for_the_contextual_bandit(text):
    shop = read_project("projects/flights.yaml").contract
    bandit = policies.bandit("contextual", shop)
    category = next(name for name, kind in shop.kinds.items() if kind == "category")
    some = [Candidate(1, 0.5, {category: text}), Candidate(2, 0.5, {category: None})]

    bandit.learn(some, 0, 1.0, 0.5)

    assert sum(bandit.preferred(some)) == pytest.approx(1)


def test_the_whole_choices_propensity_is_that_of_all_arms():
    arms = {"one": Arm(share=0.25, epsilon=0.1), "two": Arm(share=0.75, policy="thompson", epsilon=0.2)}
    asked, scores, preferred = Experiment(name="march", arms=arms), [0.9, 0.1, None, 0.5], [0.2, 0.5, 0.0, 0.3]

    made = [routed(f"r-{i}", [1, 2, 3, 4], scores, asked, {"two": preferred}) for i in range(6_000)]

    expected = {
        0: 0.25 * (0.1 / 3 + 0.9) + 0.75 * (0.2 / 3 + 0.8 * 0.2),
        1: 0.25 * 0.1 / 3 + 0.75 * (0.2 / 3 + 0.8 * 0.5),
        3: 0.25 * 0.1 / 3 + 0.75 * (0.2 / 3 + 0.8 * 0.3),
    }
    for place, chance in expected.items():
        of_place = [m for m in made if m.choice.place == place]
        assert {round(m.choice.propensity, 9) for m in of_place} == {round(chance, 9)}
        assert len(of_place) / 6_000 == pytest.approx(chance, abs=0.03)
    assert sum(m.arm == "two" for m in made) / 6_000 == pytest.approx(0.75, abs=0.03)


def test_nobody_known_is_nobody_chosen_in_any_arm():
    made = routed("r-1", [1, 2], [None, None], experiment(control=0.5, treatment=0.5), {})

    assert made.choice == policy.Choice(None, False, None) and made.arm in ("control", "treatment")


def test_a_state_is_whole_or_not_there(tmp_path, monkeypatch):
    bandit = policies.bandit("thompson", CONTRACT)
    bandit.learn(people([0.5]), 0, 1.0, 1.0)
    bandit.save(tmp_path / "state")
    before = (tmp_path / "state").read_text()
    monkeypatch.setattr(json, "dumps", lambda *_: (_ for _ in ()).throw(OSError("full")))

    with pytest.raises(project.UserError):
        bandit.save(tmp_path / "state")

    assert (tmp_path / "state").read_text() == before
