"""The arms of an experiment as monitoring has them: the split first, then ripe trips, then what may be said, through the command."""

from contextlib import closing
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import yaml
from rides import CONTRACT
from traffic import entry
from typer.testing import CliRunner

from mlops_course import arms, cli, clocks, plans, project
from mlops_course.joined import Label, LabelStore
from mlops_course.policies import Experiment, arm_of
from mlops_course.project import Paths, UserError

MARCH = Experiment(name="march", arms={"control": {"share": 0.6}, "new": {"share": 0.3}, "third": {"share": 0.1}})
NOW = project.environment().clock
WORSE = {"control": 0.7, "new": 0.5, "third": 0.7}


def store_of(folder) -> closing:
    return closing(LabelStore(Paths(folder).monitoring / "state.db", CONTRACT))


def lived(folder, rates: dict, trips: int = 4_000, labelled: float = 1.0, lost: str = "", begin=NOW - timedelta(days=4)) -> None:
    "A request a minute, whose label comes after half an hour; of the arm `lost` each second request is in no log."
    rng, lines, labels = np.random.default_rng(3), [], []
    for n in range(trips):
        time, arm = begin + timedelta(minutes=n), arm_of(f"r-{n}", MARCH)
        if arm == lost and n % 2:
            continue
        about = {"time": time.isoformat(), "experiment": "march", "arm": arm, "role": "champion", "propensity": 0.5}
        lines.append(entry(f"r-{n}") | about)
        if rng.random() < labelled:
            labels.append(Label(f"r-{n}", 1001, int(rng.random() < rates[arm]), time.timestamp()))
    with store_of(folder) as store:
        store.add(lines)
        store.label(labels)
        store.ask("UPDATE labels SET arrived = time + 1800")


def report(folder, experiment: Experiment = MARCH, hours: float = 6) -> list[str]:
    return arms.report(folder, experiment, CONTRACT, hours)


def compared(folder, hours: float = 6) -> dict[str, arms.Compared]:
    with store_of(folder) as store:
        return {each.arm: each for each in arms.compared(arms.requests_of(store, "march"), MARCH, hours)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "now", lambda: NOW)
    return tmp_path


def test_a_worse_arm_is_said_to_be_worse_and_of_an_equal_one_nobody_knows_yet(folder):
    lived(folder, WORSE)

    first, hours, *lines, last = report(folder)

    assert first.startswith("experiment march: 4,000 requests; the split holds (p = ") and hours.endswith("6 hours after their booking")
    assert [line.split(":")[0].strip() for line in lines] == ["control", "new", "third"]
    assert last == "new completes less than control; of third and control nobody knows yet which one completes more"


def test_the_numbers_are_those_of_the_log_and_the_interval_is_that_of_the_pair(folder):
    lived(folder, WORSE)
    made, minutes = compared(folder), range(4_000)
    by_hand = {arm: [n for n in minutes if arm_of(f"r-{n}", MARCH) == arm] for arm in MARCH.arms}

    assert {arm: each.requests for arm, each in made.items()} == {arm: len(each) for arm, each in by_hand.items()}
    assert sum(each.trips for each in made.values()) == sum(each.labels for each in made.values()) == 4_000
    assert made["control"].difference is None
    assert 0.63 < made["control"].completed < 0.77 and 0.43 < made["new"].completed < 0.57

    with store_of(folder) as store:
        ends = dict(store.ask("SELECT request_id, label FROM predictions"))
    both = [n for n in minutes if arm_of(f"r-{n}", MARCH) != "third"]
    treated = np.array([arm_of(f"r-{n}", MARCH) == "new" for n in both], float)
    trips = plans.Trips(0.3 / 0.9, treated, np.array([ends[f"r-{n}"] for n in both], float))
    assert made["new"].difference == pytest.approx(plans.evidence([trips], 0.05 / 4)), "two comparisons share the 5 %"


def test_trips_that_are_not_old_enough_and_labels_that_came_too_late_do_not_count(folder):
    lived(folder, WORSE, trips=600, begin=NOW - timedelta(minutes=600))

    made = compared(folder, hours=6)
    assert sum(each.trips for each in made.values()) == 600 - 6 * 60 + 1
    assert sum(each.requests for each in made.values()) == 600
    assert not any(each.labels for each in compared(folder, hours=0.25).values()), "they came after half an hour"
    assert report(folder, hours=0.25)[-1].startswith("nothing may be said: 100.0% of the trips have no label")
    assert report(folder, hours=20)[-1] == "nothing may be said: no trip is old enough yet"
    assert report(folder)[-1].endswith("third and control have too few trips to be compared")


def test_where_labels_are_missing_nothing_is_said_though_an_interval_would(folder):
    lived(folder, WORSE, labelled=0.9)

    assert report(folder)[-1].startswith("nothing may be said: 9.6% of the trips have no label")


def test_a_broken_split_is_said_before_any_outcome(folder):
    lived(folder, WORSE, lost="new")

    with pytest.raises(UserError, match="the split is broken: do not read on.*Begin again, under another name"):
        report(folder)


def test_other_shares_or_another_arm_under_the_same_name_are_a_broken_split(folder):
    lived(folder, WORSE)
    halves = {"control": {"share": 0.4}, "new": {"share": 0.5}, "third": {"share": 0.1}}

    with pytest.raises(UserError, match="planned shares: control 0.4, new 0.5"):
        report(folder, Experiment(name="march", arms=halves))
    with pytest.raises(UserError, match=r"do not read on.*\['third'\]"):
        report(folder, Experiment(name="march", arms={"control": {"share": 0.6}, "new": {"share": 0.4}}))


def test_a_shadow_and_another_experiment_do_not_count(folder):
    lived(folder, WORSE, trips=500)
    about = {"time": NOW.isoformat(), "experiment": "march2", "arm": "control", "role": "champion"}
    with store_of(folder) as store:
        store.add([entry("other") | about, entry("r-1", version="9") | about | {"experiment": "march", "role": "shadow"}])

    assert report(folder)[0].startswith("experiment march: 500 requests")


def test_of_two_arms_that_are_alike_one_is_seldom_said_to_be_better_however_often_one_looks(monkeypatch):
    monkeypatch.setattr(project, "now", lambda: NOW)
    wrong, rng, pair = 0, np.random.default_rng(7), Experiment(name="aa", arms={"a": {"share": 0.5}, "b": {"share": 0.5}})
    for _ in range(100):
        booked = pd.Series(pd.date_range(NOW - timedelta(days=9), periods=3_000, freq="min").as_unit("us"))
        arm, label = rng.choice(["a", "b"], 3_000), (rng.random(3_000) < 0.6).astype(float)
        names = [f"r-{n}" for n in range(3_000)]
        table = pd.DataFrame({"request_id": names, "booked_at": booked, "arm": arm, "chosen": True, "label": label, "label_at": booked})
        looks = [arms.compared(table.iloc[:until], pair, 6)[1].difference for until in range(500, 3_001, 500)]
        wrong += any(seen.low is not None and not seen.low <= 0 <= seen.high for seen in looks)

    assert wrong <= 10, "5 % are allowed; 10 of 100 and more come by chance in 3 % of such tests"


# the command


@pytest.fixture
def typed(folder, monkeypatch):
    "The command on an environment of this folder, as a person types it."
    file = project.root() / "env.arms.yaml"
    monkeypatch.setattr(clocks, "join", lambda out: None)

    def run(*words: str, serving: dict | None = None):
        config = {"name": "arms", "out": str(folder), "project": "projects/ride_hailing.yaml", "clock": NOW.isoformat()}
        file.write_text(yaml.safe_dump({**config, "serving": serving or {}}), encoding="utf-8")
        answer = CliRunner().invoke(cli.app, ["experiment", "--env", file.name, *words])
        return answer.exit_code, " ".join(answer.output.split())

    yield run
    file.unlink(missing_ok=True)


def test_the_command_says_what_may_be_said_of_the_experiment_that_runs(typed, folder):
    lived(folder, WORSE)

    code, output = typed(serving={"experiment": MARCH.model_dump()})

    assert code == 0 and output.endswith("of third and control nobody knows yet which one completes more")
    assert "judged 2 hours after" in typed("--hours", "2", serving={"experiment": MARCH.model_dump()})[1]


def test_an_experiment_that_has_ended_is_compared_where_its_shares_are_named(typed, folder):
    lived(folder, WORSE)
    shares = ["--share", "control=0.6", "--share", "new=0.3", "--share", "third=0.1"]

    assert typed("--name", "march", *shares)[0] == 0
    code, output = typed("--name", "march")
    assert code == 1 and "its shares are not known: name them" in output
    code, output = typed("--name", "march", "--share", "control=0.6", "--share", "new=much")
    assert code == 1 and "--name and --share" in output and "arms.new.share" in output


def test_without_experiment_without_requests_and_without_monitoring_a_person_reads_what_to_do(typed, folder):
    code, output = typed()
    assert code == 1 and "no experiment runs: the section `serving` of env.arms.yaml has no `experiment`" in output

    code, output = typed(serving={"experiment": MARCH.model_dump()})
    assert code == 1 and "monitoring has not run. `mlops-course monitor`" in output
    assert not (folder / "monitoring").exists(), "a look makes nothing"

    with store_of(folder) as store:
        store.add([entry("r-1")])
    code, output = typed(serving={"experiment": MARCH.model_dump()})
    assert code == 1 and "no request of the experiment march is logged yet; logged are none" in output


def test_a_single_arm_is_compared_with_nobody(folder):
    alone = Experiment(name="march", arms={"control": {"share": 1}})
    with store_of(folder) as store:
        about = {"experiment": "march", "arm": "control", "role": "champion"}
        lines = [entry(f"r-{n}", minutes=n) | about for n in range(20)]
        store.add(lines)
        store.label(Label(f"r-{n}", 1001, 1, NOW.timestamp() - 86_400) for n in range(20))
        store.ask("UPDATE labels SET arrived = time")

    first, *_, last = report(folder, alone)

    assert "the split holds (p = 1.00)" in first and last == "nothing is compared: there is one arm"
