"""The simulated company: what its files promise, what its truth is, and what a scenario changes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rides import CONTRACT, RIDES

from conftest import run_stages
from mlops_course import problem, project, stages, tables, world
from mlops_course.files import file_digest
from mlops_course.world import SCENARIOS, WorldSettings

SMALL = WorldSettings(drivers=150, days=14, bookings_per_day=1000, seed=7)
TINY = WorldSettings(drivers=60, days=3, bookings_per_day=40, seed=7)
CONTRACTED = {
    "driver_stats": "statistics",
    "bookings": "bookings",
    "candidates": "candidates",
    "labels": "labels",
    "batch_request": "request",
}


def made(folder: Path, settings: WorldSettings, **changes) -> dict[str, pd.DataFrame]:
    "A world's files, read back."
    world.write(settings.model_copy(update=changes), folder)
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in world.SCHEMAS}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def normal(tmp_path_factory) -> dict[str, pd.DataFrame]:
    return made(tmp_path_factory.mktemp("normal"), SMALL)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory) -> dict[str, dict[str, pd.DataFrame]]:
    "Every scenario, from day 7 of the small company."
    folder = tmp_path_factory.mktemp("drifted")
    return {name: made(folder / name, SMALL, scenario=name, drift_day=7) for name in SCENARIOS}


@pytest.fixture(scope="module")
def log(normal) -> pd.DataFrame:
    "The labelled bookings, with the propensity of each choice."
    return normal["bookings"].merge(normal["labels"], validate="one_to_one")


def day_of(frame: pd.DataFrame, column: str) -> pd.Series:
    return (frame[column] - pd.Timestamp(SMALL.start, tz="UTC")).dt.days


# The same settings, the same world


def test_the_same_settings_give_the_same_bytes(tmp_path):
    for name in ["one", "two"]:
        world.write(TINY, tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_seed_gives_another_world(tmp_path):
    world.write(TINY, tmp_path / "one")
    world.write(TINY.model_copy(update={"seed": 8}), tmp_path / "two")
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert all(one[name] != two[name] for name in one)


def test_a_longer_world_begins_with_the_shorter_one(tmp_path):
    short, long = made(tmp_path / "short", TINY), made(tmp_path / "long", TINY, days=5)
    n = len(short["truth"])
    pd.testing.assert_frame_equal(short["truth"], long["truth"][:n])
    then = long["driver_stats"].query("created <= @TINY.end").reset_index(drop=True)
    pd.testing.assert_frame_equal(short["driver_stats"], then)


def test_the_size_of_the_blocks_bounds_memory_and_loses_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(world.simulation, "BLOCK", 59)  # the last block has one row
    monkeypatch.setattr(tables, "ROWS", 100)
    files = made(tmp_path, TINY, bookings_per_day=60)
    assert files["driver_stats"].driver_id.nunique() == TINY.drivers
    assert files["bookings"].request_id.is_unique and len(files["bookings"]) == 3 * 60
    assert not files["driver_stats"].duplicated(["driver_id", "datetime"]).any()


# What the files promise


@pytest.mark.parametrize("name", CONTRACTED)
def test_every_file_keeps_the_contract(normal, name):
    table = CONTRACT.tables[CONTRACTED[name]]
    absent = [c.name for c in table.columns if c.personal == "pseudonymize"]
    problem.schema(table).remove_columns(absent).validate(normal[name], lazy=True)
    assert not normal[name].duplicated(list(table.key)).any()
    assert not normal[name].isna().any().any()


def test_no_personal_column_is_written():
    personal = {c.name for table in CONTRACT.tables.values() for c in table.columns if c.personal != "no"}
    assert personal and not personal & {name for schema in world.SCHEMAS.values() for name in schema.names}


def test_nothing_is_later_than_the_end(normal):
    for name, frame in normal.items():
        for column in frame.select_dtypes("datetimetz"):
            assert frame[column].max() <= pd.Timestamp(SMALL.end), (name, column)


def test_statistics_are_written_after_their_hour_and_few_of_them_hours_late(normal):
    stats = normal["driver_stats"]
    late = stats.created - stats.datetime - pd.Timedelta(hours=1)
    assert late.min() >= pd.Timedelta(0)
    assert 0.01 < (late > pd.Timedelta(hours=1)).mean() < 0.03
    assert late.median() < pd.Timedelta(minutes=10)


def test_labels_come_after_their_trip_and_one_in_fifty_never(normal):
    labels, bookings = normal["labels"], normal["bookings"]
    early = bookings[bookings.event_timestamp < pd.Timestamp(SMALL.end) - pd.Timedelta(days=1)]
    assert (labels.created > labels.event_timestamp).all()
    assert 0.01 < 1 - early.request_id.isin(labels.request_id).mean() < 0.03


def test_a_booking_has_five_to_eight_different_candidates_who_are_on_shift(normal):
    candidates = normal["candidates"].merge(normal["bookings"][["request_id", "event_timestamp"]])
    count = candidates.groupby("request_id").driver_id.agg(["size", "nunique"])
    assert (count["size"] == count["nunique"]).all() and set(count["size"]) == {5, 6, 7, 8}
    company = world.Company(SMALL)
    shift = np.stack([company.on_shift(day) >= 0 for day in range(SMALL.days)])
    assert shift[day_of(candidates, "event_timestamp"), candidates.driver_id - 1001, candidates.event_timestamp.dt.hour].all()


def test_the_chosen_driver_is_a_candidate_with_the_propensity_that_was_logged(normal):
    chosen = normal["bookings"].merge(normal["truth"], on=["request_id", "driver_id"], suffixes=("", "_true"))
    assert len(chosen) == len(normal["bookings"])
    assert (chosen.propensity == chosen.propensity_true).all()


def test_propensities_sum_to_one_and_leave_everybody_a_chance(normal):
    each = normal["truth"].groupby("request_id").propensity.agg(["sum", "min", "size"])
    assert np.allclose(each["sum"], 1)
    assert (each["min"] >= world.EXPLORATION / each["size"]).all() and world.EXPLORATION >= 0.1


def test_choices_are_made_as_often_as_their_propensity_says(normal):
    truth = normal["truth"].merge(normal["bookings"][["request_id", "driver_id"]], how="left", indicator="chosen")
    bins = truth.assign(chosen=truth.chosen == "both").groupby(pd.qcut(truth.propensity, 10), observed=True)
    assert (abs(bins.chosen.mean() - bins.propensity.mean()) < 4 * np.sqrt(0.25 / bins.size())).all()


def test_the_batch_request_asks_for_the_quiet_drivers_at_the_last_midnight(normal):
    request = normal["batch_request"]
    trips = normal["driver_stats"].groupby("driver_id").avg_daily_trips.last()
    assert 0.2 < len(request) / SMALL.drivers < 0.3
    assert (request.event_timestamp == pd.Timestamp(SMALL.end)).all()
    assert trips[request.driver_id].max() <= trips.median()


# What is true in it


def test_outcomes_are_as_frequent_as_their_probability(normal):
    truth = normal["truth"]
    bins = truth.groupby(pd.qcut(truth.probability, 20), observed=True)
    expected, observed, n = bins.probability.mean(), bins.trip_completed.mean(), bins.size()
    assert (abs(observed - expected) < 4 * np.sqrt(expected * (1 - expected) / n)).all()


def test_the_label_is_the_outcome_of_the_chosen_driver(normal):
    both = normal["labels"].merge(normal["truth"], on=["request_id", "driver_id"], suffixes=("", "_true"))
    assert len(both) == len(normal["labels"]) and (both.trip_completed == both.trip_completed_true).all()


def test_conv_rate_follows_the_probability_of_completing(normal):
    conv_rate = normal["driver_stats"].groupby("driver_id").conv_rate.mean()
    likely = normal["truth"].groupby("driver_id").probability.mean()
    assert conv_rate.corr(likely) > 0.9


def test_earlier_assignments_change_neither_outcomes_nor_statistics(tmp_path, monkeypatch):
    made(tmp_path / "logged", TINY)
    monkeypatch.setattr(world, "EXPLORATION", 1.0)
    made(tmp_path / "by_lot", TINY)
    outcome = ["request_id", "driver_id", "probability", "trip_completed"]
    one, two = (pd.read_parquet(tmp_path / name / "truth.parquet") for name in ["logged", "by_lot"])
    pd.testing.assert_frame_equal(one[outcome], two[outcome])
    one, two = digests(tmp_path / "logged"), digests(tmp_path / "by_lot")
    assert one["driver_stats.parquet"] == two["driver_stats.parquet"]
    assert one["bookings.parquet"] != two["bookings.parquet"]


@pytest.mark.parametrize("settings", [SMALL, WorldSettings(drivers=60, days=7, bookings_per_day=600)])
def test_the_oracle_gains_20_to_40_percent(tmp_path, settings):
    truth = made(tmp_path, settings)["truth"]
    assert 0.2 <= world.uplift(truth, world.oracle(truth)) <= 0.4
    assert 0.55 < world.value(truth) < 0.65


def newest_rate(files) -> pd.DataFrame:
    "For each booking the candidate with the highest conv_rate that was known: a model of one column."
    stats = files["driver_stats"].rename(columns={"created": "known"}).sort_values("known")
    each = files["candidates"].merge(files["bookings"][["request_id", "event_timestamp"]]).sort_values("event_timestamp")
    each = pd.merge_asof(each, stats[["driver_id", "known", "conv_rate"]], left_on="event_timestamp", right_on="known", by="driver_id")
    return each.loc[each.conv_rate.fillna(0).groupby(each.request_id).idxmax(), ["request_id", "driver_id"]]


@pytest.mark.parametrize("policy", ["oracle", "conv_rate"])
def test_replay_and_propensity_agree_on_a_policy(normal, log, policy):
    choice = world.oracle(normal["truth"]) if policy == "oracle" else newest_rate(normal)
    replay = choice.merge(normal["truth"]).trip_completed.mean()
    agreed = log.merge(choice)
    weight = 1 / agreed.propensity
    estimate = np.average(agreed.trip_completed, weights=weight)
    error = np.sqrt(np.sum((weight * (agreed.trip_completed - estimate)) ** 2)) / weight.sum()
    assert abs(estimate - replay) < 3 * error < 0.06
    assert abs(replay - world.value(normal["truth"], choice)) < 0.02


def test_without_the_weights_a_policy_looks_better_than_it_is(normal, log):
    choice = newest_rate(normal)
    assert log.merge(choice).trip_completed.mean() > world.value(normal["truth"], choice) + 0.015


def test_the_best_known_conv_rate_gains_more_than_the_company_asks_for(normal):
    gained = world.uplift(normal["truth"], newest_rate(normal))
    assert RIDES.acceptance.uplift + 0.05 < gained < world.uplift(normal["truth"], world.oracle(normal["truth"]))


def test_a_choice_outside_of_the_candidates_is_refused(normal):
    choice = world.oracle(normal["truth"]).assign(driver_id=42)
    with pytest.raises(project.UserError, match="no candidate; the first is driver 42 for booking r-000000-00000"):
        world.value(normal["truth"], choice)


# Scenarios


@pytest.mark.parametrize("scenario", [name for name, s in SCENARIOS.items() if not s.from_start])
def test_until_the_drift_a_scenario_is_the_normal_world(drifted, scenario):
    for name, column in [("driver_stats", "datetime"), ("bookings", "event_timestamp"), ("labels", "event_timestamp")]:
        before = [f[name][day_of(f[name], column) < 7].reset_index(drop=True) for f in (drifted["normal"], drifted[scenario])]
        pd.testing.assert_frame_equal(*before, check_dtype=False)


def late_half(files) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Statistics of the last two days, when all of the seven before have drifted, and truth from the drift on."
    stats, truth = files["driver_stats"], files["truth"]
    return stats[day_of(stats, "datetime") >= 12], truth[truth.request_id.str[2:8].astype(int) >= 7]


def test_covariate_drift_moves_the_features_and_not_the_outcomes(drifted):
    (before, truth), (after, drifted_truth) = late_half(drifted["normal"]), late_half(drifted["covariate_drift"])
    assert after.acc_rate.mean() > before.acc_rate.mean() + 0.1
    assert after.avg_daily_trips.mean() < 0.7 * before.avg_daily_trips.mean()
    pd.testing.assert_frame_equal(truth, drifted_truth)


def test_concept_drift_moves_the_outcomes_and_not_the_features(drifted):
    (before, truth), (after, drifted_truth) = late_half(drifted["normal"]), late_half(drifted["concept_drift"])
    pd.testing.assert_frame_equal(before, after)
    rate = before.groupby("driver_id")[["conv_rate", "acc_rate"]].mean()
    usual, now = (t.groupby("driver_id").probability.mean() for t in (truth, drifted_truth))
    assert rate.conv_rate.corr(usual) > 0.8 > 0.3 > rate.conv_rate.corr(now)
    assert rate.acc_rate.corr(now) < -0.7
    assert now.mean() < usual.mean() - 0.05


def test_concept_drift_makes_the_old_favourites_worse_than_the_logged_policy(drifted):
    files = drifted["concept_drift"]
    _, truth = late_half(files)
    choice = newest_rate(files)
    assert world.uplift(truth, choice[choice.request_id.isin(truth.request_id)]) < 0.02


def test_a_missing_feed_loses_or_empties_a_third(drifted):
    (whole, _), (rest, _) = late_half(drifted["normal"]), late_half(drifted["feed_missing"])
    assert 0.6 < len(rest.dropna()) / len(whole) < 0.73
    assert 0.1 < 1 - len(rest) / len(whole) < 0.23
    assert rest[["conv_rate", "acc_rate", "avg_daily_trips"]].isna().any().all()
    assert rest.drop(columns=["conv_rate", "acc_rate", "avg_daily_trips"]).notna().all().all()


def test_a_stale_feed_ends_on_the_day_of_the_drift(drifted):
    assert day_of(drifted["feed_stale"]["driver_stats"], "datetime").max() == 6


def test_without_signal_nobody_can_gain_anything(drifted):
    truth = drifted["no_signal"]["truth"]
    assert truth.probability.nunique() == 1
    assert abs(world.uplift(truth, world.oracle(truth))) < 1e-9


def test_a_tired_company_completes_as_many_trips_as_the_normal_one_and_has_the_same_statistics(drifted):
    assert abs(world.value(drifted["tired"]["truth"]) - world.value(drifted["normal"]["truth"])) < 0.03
    pd.testing.assert_frame_equal(drifted["tired"]["driver_stats"], drifted["normal"]["driver_stats"])


def test_who_knows_the_last_hour_of_tired_drivers_chooses_better(drifted):
    files, company = drifted["tired"], world.Company(SMALL.model_copy(update={"scenario": "tired"}))
    each = files["truth"].merge(files["bookings"][["request_id", "event_timestamp"]])
    midnight = each.event_timestamp.dt.normalize()
    second = (each.event_timestamp - midnight).dt.total_seconds().astype(int)
    for day, rows in each.groupby((midnight - pd.Timestamp(SMALL.start, tz="UTC")).dt.days):
        each.loc[rows.index, "trips"] = world.recent_trips(company, day, rows.driver_id - 1001, second[rows.index])
    rate = files["driver_stats"].groupby("driver_id").conv_rate.mean()
    each["usual"] = each.driver_id.map(np.log(rate / (1 - rate)))
    each["now"] = each.usual + SCENARIOS["tired"].workload * each.trips

    by = {score: each.loc[each.groupby("request_id")[score].idxmax(), ["request_id", "driver_id"]] for score in ("usual", "now")}

    assert world.uplift(files["truth"], by["now"]) > world.uplift(files["truth"], by["usual"]) + 0.05


# Bad settings, full disks, kills


def test_an_unknown_scenario_is_named_beside_the_known():
    with pytest.raises(project.UserError, match="no scenario 'holiday', but normal, covariate_drift, .*no_signal"):
        project.validated(WorldSettings, {"scenario": "holiday"}, "the section `world`")


@pytest.mark.parametrize("wrong", [{"drivers": 0}, {"days": 0}, {"bookings_per_day": -1}, {"start": "soon"}, {"drift_dya": 3}])
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(project.UserError, match=f"the section `world`:\n  {next(iter(wrong))}: "):
        project.validated(WorldSettings, wrong, "the section `world`")


def test_too_few_drivers_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(project.UserError, match="9 drivers are too few.*up to 8 candidates.*Raise `drivers`"):
        world.write(WorldSettings(drivers=9), tmp_path)
    assert list(tmp_path.iterdir()) == []


def child(code: str, folder: Path) -> subprocess.Popen:
    "A process of its own that writes a world to `folder`."
    begin = "import resource, sys\nfrom pathlib import Path\nfrom mlops_course.world import WorldSettings, write\n"
    command = [sys.executable, "-c", begin + code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_no_file_and_a_clear_message(tmp_path):
    code = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\nwrite(WorldSettings(days=7), Path(sys.argv[1]))"
    process = child(code, tmp_path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "UserError: could not write" in error and "File too large" in error
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_no_file_that_could_be_taken_for_whole(tmp_path):
    process = child("write(WorldSettings(drivers=3000, days=300), Path(sys.argv[1]))", tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size > 100_000 for p in tmp_path.glob(".*.part")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert list(tmp_path.glob(".*.part")) and not list(tmp_path.glob("*.parquet"))


@pytest.mark.slow
def test_ten_million_driver_hours_fit_into_1_gb(tmp_path):
    code = (
        "rows = write(WorldSettings(drivers=20_000, days=70, bookings_per_day=5_000), Path(sys.argv[1]))\n"
        "status = Path('/proc/self/status')\n"  # a new process inherits the peak of its parent elsewhere, and ours is large
        "peak = status.read_text().split('VmHWM:')[1].split()[0] if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(rows['driver_stats'], peak)"
    )
    process = child(code, tmp_path)
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    rows, peak_kb = map(int, out.split())
    assert rows >= 10_000_000 and peak_kb < 2**20


# The stage


def test_the_stage_lists_what_it_made(tmp_path, capsys):
    small = {"drivers": 60, "days": 2, "bookings_per_day": 50}
    out, environment = run_stages(tmp_path, "world", world=small), project.environment(out=str(tmp_path), world=small)
    listed = json.loads((out / "made/world.json").read_text())["files"]
    assert {f"raw/{name}.parquet" for name in world.SCHEMAS} <= set(listed)
    assert "completed trips" in capsys.readouterr().out
    assert stages.changed(environment, "world") == []
    (out / "raw/labels.parquet").unlink()
    assert stages.changed(environment, "world") == ["raw/labels.parquet"]


def test_the_stage_makes_no_files_where_nothing_is_simulated(tmp_path):
    small = {"drivers": 60, "days": 2, "bookings_per_day": 50}
    run_stages(tmp_path, "world", world=small)
    run_stages(tmp_path, "world", world={**small, "simulate": False})
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["README.md"]


def test_a_world_that_ends_after_the_clock_is_refused(tmp_path):
    with pytest.raises(project.UserError, match="ends at 2026-03-17, after the clock"):
        run_stages(tmp_path, "world", world={"drivers": 60, "days": 71})
