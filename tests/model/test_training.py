"""The gate lets a good model through and names what is wrong with any other; the estimates are right; a run can be repeated."""

import html
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
import shop
import skops.io
from rides import CONTRACT, RIDES
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from conftest import run_stages
from mlops_course import checks, examples, gate, models, project, registry, stages, telemetry, training, trials, verdicts
from mlops_course.gate import Incumbent
from mlops_course.problem import KNOWN
from mlops_course.toy import company
from mlops_course.training import TrainingSettings

BOOKING, ENTITY, FEATURES, LABEL, PROPENSITY, TIME = (
    CONTRACT.booking,
    CONTRACT.entity,
    list(CONTRACT.features),
    CONTRACT.label,
    CONTRACT.propensity,
    CONTRACT.time,
)

SETTINGS = TrainingSettings(test_days=14, validation_days=7, seed=7)


@cache
def table(**changes) -> pd.DataFrame:
    "Candidates of bookings as `extract` gives them."
    return company(CONTRACT, days=35, **changes)[0]


def windows_of(frame: pd.DataFrame, settings=SETTINGS) -> models.Windows:
    return models.windows_of(frame, settings.test_days, settings.validation_days, CONTRACT, settings.train_days)


def history(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"statistics": frame[[ENTITY, *FEATURES]].assign(**{KNOWN: frame[TIME]})}


def judge(frame: pd.DataFrame, settings=SETTINGS, champion=None) -> verdicts.Judged:
    return training.judge(frame, history(frame), settings, RIDES, champion)


def refused(judged: verdicts.Judged) -> set[str]:
    return {result.name for result in judged.results if not result.passed}


@pytest.fixture(scope="module")
def good() -> verdicts.Judged:
    return judge(table())


# the gate


def test_a_model_that_sees_a_signal_passes(good):
    assert good.passed and refused(good) == set()
    assert good.uplift.doubly_robust.low > RIDES.acceptance.uplift
    assert good.metrics["log_loss"] < good.metrics["base_log_loss"]


def test_a_company_without_a_signal_is_refused_for_being_no_better_than_the_base_rate():
    reasons = refused(judge(table(signal=0.0, near=0.0)))

    assert {"better than the base rate: log loss", "better than the base rate: RMSE", "uplift"} <= reasons


def test_too_few_labels_are_said_before_anything_else_although_rmse_looks_good():
    times = pd.date_range("2026-01-05T20:00Z", periods=10, freq="8h").as_unit("us")
    ten = pd.DataFrame({BOOKING: pd.array([pd.NA] * 10, "string"), TIME: times, ENTITY: [1001, 1002, 1003] * 3 + [1001]})
    ten[FEATURES] = ten[[ENTITY]].to_numpy() * [0.0005, 0.0003, 0.01] % 1
    ten = ten.assign(**{PROPENSITY: np.nan, LABEL: [1.0, 0, 0] * 3 + [1.0], KNOWN: times})

    judged = judge(ten, TrainingSettings(test_days=1, validation_days=1))

    assert judged.metrics["rmse"] < RIDES.acceptance.rmse
    first = gate.reasons(judged.results)[0]
    assert first.startswith("too little evidence: 3 labels of 2,000 (RMSE 0.")
    assert "looks good, and means nothing yet" in first


def test_labels_of_one_class_give_no_model_and_the_reason():
    frame = table()

    judged = judge(frame.assign(**{LABEL: frame[LABEL].where(frame[LABEL].isna(), 1.0)}))

    assert judged.model is None and not judged.passed
    assert "no model: the training labels are of one class only" in gate.reasons(judged.results)


def test_a_test_of_one_class_cannot_be_measured_and_is_refused():
    frame = table()
    end = windows_of(frame).test

    judged = judge(frame.assign(**{LABEL: frame[LABEL].mask((frame[TIME] >= end) & frame[LABEL].notna(), 1.0)}))

    assert judged.metrics["auc"] is None
    assert "better than the base rate" in refused(judged)


def test_a_feature_with_the_label_in_it_is_refused():
    frame = table()
    leaked = frame.assign(**{FEATURES[1]: frame[LABEL].fillna(frame[FEATURES[1]])})

    assert "leak of the label" in refused(judge(leaked))


def test_a_feature_that_was_known_later_is_refused():
    frame = table()
    ahead = {"statistics": history(frame)["statistics"].assign(**{KNOWN: frame[TIME] + pd.Timedelta(minutes=1)})}

    assert "features known in time" in refused(training.judge(frame, ahead, SETTINGS, RIDES))


def test_a_table_against_its_contract_is_refused():
    frame = table()

    assert "contract: training table" in refused(judge(frame.assign(**{FEATURES[0]: frame[FEATURES[0]] * 2})))


def test_splits_that_overlap_are_refused(monkeypatch):
    honest = models.split
    monkeypatch.setattr(
        models, "split", lambda *given: {**honest(*given), "train": pd.concat([honest(*given)["train"], honest(*given)["test"]])}
    )

    assert {"splits: rows", "splits: entities", "splits: time"} <= refused(judge(table()))


def test_an_uplift_that_cannot_be_measured_is_refused_with_the_reason():
    frame = table()

    judged = judge(frame[frame[LABEL].notna()].assign(**{BOOKING: pd.NA}).astype({BOOKING: "string"}))

    assert judged.metrics["rmse"] < RIDES.acceptance.rmse
    assert judged.uplift.doubly_robust is None and judged.uplift.effective_sample is None
    assert refused(judged) == {"evidence: effective sample", "uplift"}
    assert any("not measurable" in reason for reason in gate.reasons(judged.results))


def labels_alone(frame: pd.DataFrame) -> pd.DataFrame:
    "The labels of a company that logs neither candidates nor propensities."
    return frame[frame[LABEL].notna()].assign(**{BOOKING: pd.NA, PROPENSITY: np.nan}).astype({BOOKING: "string"})


@pytest.mark.parametrize("logged", [labels_alone, lambda frame: frame.assign(**{PROPENSITY: np.nan})], ids=["labels", "candidates"])
def test_where_no_propensity_was_ever_logged_labels_decide_and_the_verdict_says_what_they_cannot(logged):
    judged = judge(logged(table()))
    verdict = verdicts.verdict(judged)

    assert verdict["passed"] and verdict["uplift"]["estimate"] is None
    assert [check["name"] for check in verdict["unmeasured"]] == ["evidence: effective sample", "uplift"]
    assert all("no source tells who the candidates" in check["message"] for check in verdict["unmeasured"])


def test_labels_alone_refuse_a_model_that_knows_nothing_and_one_with_too_few_labels():
    assert "better than the base rate: log loss" in refused(judge(labels_alone(table(signal=0.0, near=0.0))))
    assert "evidence: labels" in refused(judge(labels_alone(table(bookings=60))))


def test_labels_alone_compare_a_challenger_with_its_champion(good):
    frame = labels_alone(table())
    turned = frame.assign(**{LABEL: (1 - frame[LABEL]).where(frame[TIME] < good.windows.test, frame[LABEL])})

    assert judge(frame, champion=scores(good.model)).passed
    assert "no worse in RMSE" in refused(judge(turned, champion=scores(good.model)))


def test_every_rule_of_the_gate_can_refuse_by_itself(good):
    for place in range(len(good.results)):
        for verdict in (False, None):
            planted = [*good.results]
            planted[place] = planted[place]._replace(passed=verdict)
            assert not good._replace(results=planted).passed


# champion and challenger


def scores(model) -> Incumbent:
    return Incumbent(lambda rows: models.probability(model, rows, CONTRACT), windows_of(table()).test)


def test_an_equal_challenger_is_accepted(good):
    assert judge(table(), champion=scores(good.model)).passed


def test_a_challenger_need_not_reach_what_is_asked_of_a_first_champion(good):
    names = {result.name for result in judge(table(), champion=scores(good.model)).results}

    assert not {"uplift", "RMSE"} & names and {"no worse in completed trips", "no worse in RMSE"} <= names


def test_a_worse_challenger_is_refused(good):
    frame = table()
    early = frame[TIME] < good.windows.test
    turned = frame.assign(**{FEATURES[0]: frame[FEATURES[0]].where(~early, draw_again(frame))})

    judged = judge(turned, champion=scores(good.model))

    assert "no worse in completed trips" in refused(judged)


def draw_again(frame: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng(0).permutation(frame[FEATURES[0]].to_numpy())


def test_a_challenger_is_better_in_trips_when_the_champion_is_blind(good):
    blind = Incumbent(lambda rows: np.full(len(rows), 0.5), good.windows.test)

    judged = judge(table(), champion=blind)

    assert judged.passed


def test_a_first_champion_needs_two_weeks_and_a_challenger_one(good):
    week = SETTINGS.model_copy(update={"test_days": 7})

    assert "evidence: days" in refused(judge(table(), week))
    assert judge(table(), week, champion=scores(good.model)).passed


def test_six_days_later_than_both_trainings_are_too_few_for_a_comparison(good):
    later = scores(good.model)._replace(until=good.windows.end - pd.Timedelta(days=6))

    assert {"no worse in completed trips", "no worse in RMSE"} <= refused(judge(table(), champion=later))


def test_a_training_on_the_newest_days_does_not_see_what_was_before(good):
    frame, newest = table(), SETTINGS.model_copy(update={"train_days": 10})
    windows = windows_of(frame, newest)
    before = frame[TIME] < windows.since
    nonsense = frame.assign(**{LABEL: frame[LABEL].mask(before & frame[LABEL].notna(), 0.0)})

    one, other = judge(frame, newest), judge(nonsense, newest)

    assert windows.test - windows.since == pd.Timedelta(days=10) and windows[1:] == good.windows[1:]
    assert (one.tested["score"] == other.tested["score"]).all() and one.kind == other.kind
    assert [trial.metrics for trial in one.trials] == [trial.metrics for trial in other.trials]
    assert not (one.tested["score"] == good.tested["score"]).all()


def test_a_kind_that_misbehaves_once_it_has_learned_from_all_gives_way_to_the_next_one(good, monkeypatch):
    honest = models.behaviour

    def strict(model, rows, contract):
        last = rows[TIME].min() >= good.windows.test and repr(model) == repr(good.model)
        return [checks.Result("never falls", False, "it falls")] if last else honest(model, rows, contract)

    monkeypatch.setattr(models, "behaviour", strict)
    judged = judge(table())

    assert judged.passed and judged.kind == models.ranked(good.trials)[1] != good.kind


def test_days_to_train_on_must_be_left_before_the_validation():
    with pytest.raises(project.UserError, match="no day is left to train on"):
        judge(table(), TrainingSettings(train_days=5, validation_days=5))


def test_without_a_window_later_than_both_trainings_the_champion_stays(good):
    later = scores(good.model)._replace(until=good.windows.end - pd.Timedelta(days=3))

    judged = judge(table(), champion=later)

    assert refused(judged) == {"no worse in completed trips", "no worse in RMSE"}
    assert all("champion stays" in reason for reason in gate.reasons(judged.results))


# what the steps promise


def test_extraction_keeps_every_candidate_and_every_label_in_order_of_time():
    time = pd.to_datetime(["2026-01-05T10:00Z", "2026-01-05T09:00Z"]).as_unit("us")
    bookings = pd.DataFrame({BOOKING: ["b2", "b1"], TIME: time, ENTITY: [1, 2], PROPENSITY: [0.5, 0.25]})
    candidates = pd.DataFrame({BOOKING: ["b2", "b2", "b1", "b1", "b9"], ENTITY: [1, 3, 2, 1, 1]})
    labels = pd.DataFrame({BOOKING: ["b2", None], TIME: [time[0], time[1]], ENTITY: [1, 7], LABEL: [1, 0], KNOWN: [time[0], time[1]]})

    tables = {"labels": labels, "bookings": bookings, "candidates": candidates}
    frame = training.extract(tables, lambda rows: rows.assign(**dict.fromkeys(FEATURES, 0.5)), CONTRACT)

    assert frame[BOOKING].fillna("-").tolist() == ["b1", "b1", "-", "b2", "b2"]
    assert frame[ENTITY].tolist() == [1, 2, 7, 1, 3]
    assert frame[LABEL].fillna(-1).tolist() == [-1, -1, 0, 1, -1]
    assert frame[PROPENSITY].fillna(-1).tolist() == [-1, 0.25, -1, 0.5, -1]
    assert checks.meets(frame, examples.training_table(CONTRACT)).passed


def test_extraction_gives_each_row_the_features_of_its_own_entity_and_time():
    frame = table().head(500)
    known = frame[[ENTITY, TIME, *FEATURES]]
    logged = frame[frame[PROPENSITY].notna()]

    tables = {
        "labels": logged.dropna()[[BOOKING, TIME, ENTITY, LABEL, KNOWN]].sample(frac=1, random_state=1),
        "bookings": logged[[BOOKING, TIME, ENTITY, PROPENSITY]].sample(frac=1, random_state=2),
        "candidates": frame[[BOOKING, ENTITY]].sample(frac=1, random_state=3),
    }
    again = training.extract(tables, lambda rows: rows.merge(known, how="left"), CONTRACT)

    pd.testing.assert_frame_equal(again, frame)


# runs


@pytest.fixture
def place(tmp_path):
    "A client of an empty MLflow, and the folder of snapshots beside it."
    return registry.connect(tmp_path / "mlflow", RIDES.name), tmp_path / "snapshots"


def train(place, frame, settings=SETTINGS):
    client, folder = place
    snapshot = training.save_snapshot(frame, folder)
    return training.train(client, training.load_snapshot(snapshot, folder), history(frame), settings, snapshot, RIDES)


def runs(client) -> int:
    return len(client.search_runs([registry.experiment(client)]))


def versions(client) -> int:
    return len(client.search_model_versions(f"name = '{RIDES.name}'"))


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    "A folder in which one model has passed the gate. Copy it, do not write to it."
    folder = tmp_path_factory.mktemp("champion")
    decision = train((registry.connect(folder / "mlflow", RIDES.name), folder / "snapshots"), table())
    return folder, decision


@pytest.fixture
def trained(champion, tmp_path):
    "A copy of that folder: client and snapshots, and the decision."
    shutil.copytree(champion[0], tmp_path, dirs_exist_ok=True)
    return (registry.connect(tmp_path / "mlflow", RIDES.name), tmp_path / "snapshots"), champion[1]


def test_what_passes_is_registered_promoted_and_can_be_loaded(trained):
    (client, _), decision = trained

    assert decision["decision"] == "promoted" and decision["found"] is False and decision["reasons"] == []
    assert registry.load(client).digest == decision["model"]["digest"]
    assert registry.aliases(client)["champion"] == decision["model"]["version"]


def test_every_trial_is_a_run_with_what_is_needed_to_repeat_it(trained):
    (client, _), decision = trained
    matches = {run.info.run_name: run for run in client.search_runs([registry.experiment(client)])}
    notes = {trial["name"]: trial["note"] for trial in decision["trials"]}

    assert set(matches) == {"base rate", "per driver", *models.recipes(7, CONTRACT), "final"}
    for name, run in matches.items():
        assert run.data.tags["stage"] == "training" and run.data.tags["snapshot"] == decision["snapshot"]
        assert {"seed", "features", "code", "test_days"} <= set(run.data.params)
        assert "log_loss" in run.data.metrics
        assert ("model_digest" in run.data.tags) == (notes.get(name, "") == "")


def test_an_unchanged_key_is_found_and_makes_nothing_new(trained, monkeypatch):
    place, decision = trained
    monkeypatch.setattr(training, "judge", None)  # nothing is trained either
    before = runs(place[0]), versions(place[0])

    again = train(place, table())

    assert again == {**decision, "found": True}
    assert (runs(place[0]), versions(place[0])) == before


def test_two_runs_from_the_same_data_and_seed_decide_the_same_but_for_the_names_of_runs(champion, place):
    one, other = (without_run(decision) for decision in (train(place, table()), champion[1]))

    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def without_run(decision: dict) -> dict:
    return {**decision, "model": {name: value for name, value in decision["model"].items() if name != "run_id"}}


def test_a_found_key_does_not_undo_a_rollback(trained):
    place, first = trained
    second = train(place, table(), SETTINGS.model_copy(update={"seed": 8}))
    assert second["decision"] == "promoted" and second["model"]["version"] != first["model"]["version"]
    registry.rollback(place[0])

    again = train(place, table(), SETTINGS.model_copy(update={"seed": 8}))

    assert again["decision"] == "kept" and again["found"]
    assert registry.aliases(place[0])["champion"] == first["model"]["version"]


def test_a_refused_model_leaves_the_champion_and_no_version(trained):
    place, first = trained
    coin = table(signal=0.0, near=0.0)

    decision = train(place, coin)

    assert decision["decision"] == "refused" and decision["reasons"]
    assert decision["model"]["version"] is None and versions(place[0]) == 1
    assert registry.aliases(place[0])["champion"] == first["model"]["version"]


def test_labels_of_one_class_end_in_a_decision_not_in_an_error(place):
    frame = table().assign(**{LABEL: table()[LABEL].where(table()[LABEL].isna(), 0.0)})

    decision = train(place, frame)

    assert decision["decision"] == "refused" and decision["model"]["digest"] is None
    assert train(place, frame)["found"]


def test_the_key_depends_on_data_parameters_code_and_libraries_but_not_on_the_truth(monkeypatch):
    def key(snapshot="a", **changes):
        return training.key_of(training.recipe_of(snapshot, SETTINGS.model_copy(update=changes), RIDES))

    assert key() == key(truth="out/truth.parquet")
    assert len({key(), key(seed=8), key(test_days=15), key(train_days=10), key("b")}) == 5
    before = key()
    monkeypatch.setattr(stages, "digest_of_code", lambda *modules: "other code")
    changed = key()
    monkeypatch.setattr(registry, "libraries", lambda: {"scipy": "1.99.0"})
    assert len({before, changed, key()}) == 3


def test_a_run_is_made_again_to_the_same_digest(trained, tmp_path):
    (client, _), decision = trained

    for run in client.search_runs([registry.experiment(client)], "tags.model_digest != ''"):
        kept, made = training.reproduce(tmp_path / "mlflow", run.info.run_id, RIDES)
        assert kept == made == run.data.tags["model_digest"]
    assert decision["model"]["digest"] in {run.data.tags.get("model_digest") for run in client.search_runs([registry.experiment(client)])}


def test_a_run_on_the_newest_days_says_since_when_it_has_learned_and_is_made_again(place, tmp_path):
    decision = train(place, table(), SETTINGS.model_copy(update={"train_days": 10}))
    windows = decision["windows"]

    tags = place[0].get_run(decision["model"]["run_id"]).data.tags
    assert (tags["since"], tags["until"]) == (windows["since"], windows["test"])
    assert pd.Timestamp(windows["test"]) - pd.Timestamp(windows["since"]) == pd.Timedelta(days=10)
    assert len(set(training.reproduce(tmp_path / "mlflow", decision["model"]["run_id"], RIDES))) == 1


def test_reproducing_says_that_the_code_has_changed_and_goes_on(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stages, "digest_of_code", lambda *modules: "other code")

    kept, made = training.reproduce(tmp_path / "mlflow", trained[1]["model"]["run_id"], RIDES)

    assert kept == made and "the code has changed" in capsys.readouterr().out


def elsewhere(client, run_id: str) -> None:
    "Let a run's model be one that another SciPy has saved, and that holds what this one does not have."
    with registry.artifacts(client, run_id, "model") as folder:
        pins, file = folder / "requirements.txt", folder / "model.skops"
        pins.write_text(re.sub(r"scipy==.*", "scipy==1.99.0", pins.read_text()))
        file.write_bytes(registry.canonical(skops.io.dumps(make_pipeline(FunctionTransformer(np.exp2), FunctionTransformer(print)))))
        digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    client.set_model_version_tag(RIDES.name, "1", "files", json.dumps(digests))


def test_a_champion_that_other_libraries_have_saved_is_logged_and_the_gate_asks_as_of_a_first_one(trained):
    client, folder = trained[0]
    elsewhere(client, trained[1]["model"]["run_id"])

    with telemetry.logging_to(folder / "log.jsonl", stage="training"):
        decision = train(trained[0], table(seed=8))

    assert decision["decision"] == "promoted" and decision["model"]["version"] == "2"
    assert {"RMSE", "uplift"} <= {check["name"] for check in decision["checks"]}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    [warned] = [line for line in lines if line["event"] == "no comparison with the champion"]
    assert "saved with scipy 1.99.0" in warned["reason"]


def test_reproducing_to_another_model_says_which_libraries_made_the_first(trained, tmp_path, capsys):
    client, run = trained[0][0], trained[1]["model"]["run_id"]
    elsewhere(client, run)
    client.set_tag(run, "model_digest", "0" * 64)

    kept, made = training.reproduce(tmp_path / "mlflow", run, RIDES)

    assert kept != made
    assert f"made with scipy 1.99.0 (here {registry.libraries()['scipy']}): that may be why it differs" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "message"), [("deleted", "no snapshot"), ("altered", "was altered")])
def test_reproducing_without_the_snapshot_says_what_is_wrong_with_it(trained, tmp_path, damage, message):
    snapshot = tmp_path / f"snapshots/{trained[1]['snapshot']}.parquet"
    snapshot.unlink() if damage == "deleted" else snapshot.write_bytes(b"x")

    with pytest.raises(project.UserError, match=message):
        training.reproduce(tmp_path / "mlflow", trained[1]["model"]["run_id"], RIDES)


def test_a_baseline_and_an_unknown_run_cannot_be_reproduced(trained, tmp_path):
    (client, _), _ = trained
    baseline = client.search_runs([registry.experiment(client)], "attributes.run_name = 'base rate'")[0].info.run_id

    with pytest.raises(project.UserError, match="has no model"):
        training.reproduce(tmp_path / "mlflow", baseline, RIDES)
    with pytest.raises(project.UserError, match="no run"):
        training.reproduce(tmp_path / "mlflow", "0" * 32, RIDES)


MOMENTS = ["log_model", "register", "promote"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_comes_back_to_the_same_end(champion, tmp_path, moment):
    killed = f"""
import os, sys
from pathlib import Path
import pandas as pd
from mlops_course import contracts, registry, training
folder, snapshot, settings = Path(sys.argv[1]), sys.argv[2], training.TrainingSettings(test_days=14, validation_days=7, seed=7)
frame = training.load_snapshot(snapshot, folder / "snapshots")
history = {{"statistics": pd.read_parquet(folder / "history.parquet")}}
rides = contracts.read_project("projects/ride_hailing.yaml")
calls, real = [], registry.{moment}
def once(*given, **named):
    calls.append(1)
    made = real(*given, **named)
    if len(calls) == {3 if moment == "log_model" else 1}:
        os.kill(os.getpid(), 9)
    return made
registry.{moment} = once
training.train(registry.connect(folder / "mlflow", rides.name), frame, history, settings, snapshot, rides)
"""
    place = (None, tmp_path / "snapshots")
    snapshot = training.save_snapshot(table(), place[1])
    history(table())["statistics"].to_parquet(tmp_path / "history.parquet")
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path), snapshot], cwd=project.root(), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]

    client = registry.connect(tmp_path / "mlflow", RIDES.name)
    decision = train((client, place[1]), table())

    assert decision["model"]["digest"] == champion[1]["model"]["digest"]
    assert decision["decision"] == "promoted" and registry.load(client).digest == decision["model"]["digest"]
    assert versions(client) == 1
    names = [run.info.run_name for run in client.search_runs([registry.experiment(client)])]
    assert sorted(names) == sorted(["base rate", "per driver", *models.recipes(7, CONTRACT), "final"])


# the stage, on the small build


def test_the_stage_promotes_a_champion_and_its_interval_holds_the_truth(built):
    decision, truth = (json.loads((built / f"training/{name}.json").read_text()) for name in ("decision", "truth"))

    assert decision["decision"] == "promoted" and all(check["passed"] for check in decision["checks"])
    assert decision["metrics"]["rmse"] <= decision["thresholds"]["rmse"]
    assert decision["uplift"]["low"] <= truth["model_uplift"] <= decision["uplift"]["high"]
    assert truth["model_uplift"] < truth["oracle_uplift"]
    assert "passed the gate" in (built / "reports/training.html").read_text()


def test_the_report_is_for_those_who_do_not_see_it_too(built):
    report = (built / "reports/training.html").read_text()
    gain = json.loads((built / "training/decision.json").read_text())["uplift"]

    calibration, uplift = (html.unescape(words) for words in re.findall(r'<img alt="([^"]+)"', report))
    assert report.startswith('<!doctype html><html lang="en"><meta charset="utf-8"><title>Training</title>')
    assert len(re.findall(r"predicted 0\.\d\d: observed 0\.\d\d", calibration)) == 10
    assert f"doubly robust {gain['estimate']:.2f}, from {gain['low']:.2f} to {gain['high']:.2f}" in uplift


def test_without_the_truth_the_model_and_the_decision_are_the_same(built, tmp_path):
    shutil.copytree(built, tmp_path / "blind", ignore=shutil.ignore_patterns("truth.*", "mlflow", "training"))
    assert not list((tmp_path / "blind").rglob("truth*"))

    run_stages(tmp_path / "blind", "training")

    blind, seeing = (json.loads((folder / "training/decision.json").read_text()) for folder in (tmp_path / "blind", built))
    assert without_run(blind) == without_run(seeing)
    assert not (tmp_path / "blind/training/truth.json").exists()


def test_the_decision_names_nothing_that_only_the_truth_knows(built):
    text = (built / "training/decision.json").read_text()
    truth = json.loads((built / "training/truth.json").read_text())

    assert "oracle" not in text
    assert not any(str(round(value, 4)) in text for value in (truth["oracle_uplift"], truth["model_uplift"]))


def test_products_that_were_lost_are_written_again_from_what_is_kept(built, tmp_path):
    shutil.copytree(built, tmp_path / "again")
    for lost in ("training/decision.json", "training/truth.json", "reports/training.html"):
        (tmp_path / "again" / lost).unlink()

    run_stages(tmp_path / "again", "training")

    for name in ("training/truth.json", "reports/training.html"):
        assert (tmp_path / "again" / name).read_bytes() == (built / name).read_bytes()
    decision, before = (json.loads((folder / "training/decision.json").read_text()) for folder in (tmp_path / "again", built))
    assert decision == {**before, "found": True}


def test_a_company_in_which_a_coin_decides_gets_no_champion(tmp_path, capsys):
    run_stages(tmp_path, "world", "data", "features", "training", world={"scenario": "no_signal"})

    decision = json.loads((tmp_path / "training/decision.json").read_text())
    assert decision["decision"] == "refused" and decision["model"]["version"] is None
    assert any("uplift" in reason for reason in decision["reasons"])
    assert "refused, no new champion" in capsys.readouterr().out


def test_features_of_the_contract_are_what_the_model_sees(trained):
    assert registry.load(trained[0][0]).features == tuple(CONTRACT.features)


# another project: text names its entities, and nobody has logged choices

ORDERS = shop.examples()
WEEK = TrainingSettings(test_days=10, validation_days=7)


def habits(orders: pd.DataFrame) -> dict[str, pd.DataFrame]:
    names = shop.CONTRACT.views["habits"]
    return {"habits": orders[["customer", *names]].assign(**{KNOWN: orders.event_timestamp})}


def test_a_shop_gets_a_champion_by_log_loss_and_worth_and_hears_what_was_not_measured():
    judged = training.judge(ORDERS, habits(ORDERS), WEEK, shop.SHOP)
    verdict, page = verdicts.verdict(judged), verdicts.report(judged)

    assert judged.passed and judged.metrics["worth"] > judged.metrics["base_worth"]
    assert [check["name"] for check in verdict["unmeasured"]] == ["uplift"] and verdict["uplift"]["estimate"] is None
    assert {"per customer"} < {trial.name for trial in judged.trials} and "uplift in completed trips" not in page.lower()

    champion = Incumbent(lambda rows: models.probability(judged.model, rows, shop.CONTRACT), judged.windows.test)
    names = {r.name for r in training.judge(ORDERS, habits(ORDERS), WEEK, shop.SHOP, champion).results if r.passed}
    assert {"no worse in log loss", "no worse in worth"} <= names


def test_a_category_with_the_label_in_it_is_refused():
    leaky = ORDERS.assign(device=ORDERS.returned.map({1.0: "returned", 0.0: "kept"}))

    assert "leak of the label" in refused(training.judge(leaky, habits(leaky), WEEK, shop.SHOP))


def test_labels_alone_are_examples_with_what_the_request_brought():
    names = ["order", "event_timestamp", "customer", "basket", "device", "returned", KNOWN]
    features = ["orders", "member", "city", "constant"]
    asked = []

    def historical(rows):
        asked.append(list(rows))
        return rows.merge(ORDERS[["customer", "event_timestamp", *features]], how="left")

    frame = training.extract({"labels": ORDERS[names].sample(frac=1, random_state=1)}, historical, shop.CONTRACT)

    assert asked == [["customer", "event_timestamp"]]
    ordered = ORDERS.sort_values(["event_timestamp", "order", "customer"], ignore_index=True)
    pd.testing.assert_frame_equal(frame, ordered[frame.columns])
    text = dict.fromkeys(["customer", "city", "device"], "string")
    assert checks.meets(frame.astype(text), examples.training_table(shop.CONTRACT)).passed


def test_one_process_trains_two_projects_in_turn(tmp_path):
    decisions = {}
    for project_, frame, past in [(shop.SHOP, ORDERS, habits(ORDERS)), (RIDES, table(), history(table()))] * 2:
        client = registry.connect(tmp_path / "mlflow", project_.name)
        snapshot = training.save_snapshot(frame, tmp_path / "snapshots")
        settings = WEEK if project_ is shop.SHOP else SETTINGS
        decision = training.train(client, training.load_snapshot(snapshot, tmp_path / "snapshots"), past, settings, snapshot, project_)
        decisions.setdefault(project_.name, []).append(decision)
        loaded = registry.load(client)
        assert (loaded.name, loaded.kinds) == (project_.name, project_.contract.kinds)
        assert registry.champion(tmp_path / "mlflow", project_.name).run_id == loaded.run_id
        kept, made = training.reproduce(tmp_path / "mlflow", loaded.run_id, project_)
        assert kept == made == decision["model"]["digest"]

    for first, second in decisions.values():
        assert first["decision"] == "promoted" and second == {**first, "found": True}


def test_a_champion_that_asks_for_other_features_is_not_compared(trained):
    client, folder = trained[0]
    fewer = RIDES.contract.model_copy(update={"features": {name: CONTRACT.features[name] for name in FEATURES[:2]}})

    with telemetry.logging_to(folder / "log.jsonl", stage="training"):
        assert trials.present_champion(client, fewer) is None

    assert f"features changed: {FEATURES[2]}" in (folder / "log.jsonl").read_text()
