"""Scores belong to their rows, their features, their moment and their model; the file is whole or not there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shop
from rides import CONTRACT, RIDES
from sklearn.linear_model import LogisticRegression

from conftest import run_stages
from mlops_course import batch, models, project, readers, registry, tables
from mlops_course.files import write_json
from mlops_course.problem import KNOWN

WORLD = {"world": {"drivers": 30, "days": 14, "bookings_per_day": 60}, "clock": "2026-01-19T00:00:00+00:00"}
NAMES = list(CONTRACT.features)


class Sum:
    "A model in which the order of the columns decides: the score is first + second / 10 + third / 100."

    def predict_proba(self, rows):
        one = rows.to_numpy() @ [1, 0.1, 0.01]
        return np.column_stack([1 - one, one])


MODEL = registry.Loaded(Sum(), "name", "3", "run", CONTRACT.kinds, "digest")


def asked(*values: list) -> pd.DataFrame:
    "A request with its features: one row for each list of values."
    rows = pd.DataFrame(values, columns=NAMES, dtype=float)
    moments = pd.to_datetime(["2026-01-05T09:00Z"] * len(rows)).as_unit("us")
    return rows.assign(**{CONTRACT.entity: range(1, len(rows) + 1), CONTRACT.time: moments})


# --- scoring ------------------------------------------------------------------------------------


def test_the_order_of_the_columns_that_come_does_not_matter():
    rows = asked([0.9, 0.2, 0.1], [0.1, 0.8, 0.3])

    scores = [batch.score(MODEL, rows[list(order)], CONTRACT) for order in [rows.columns, rows.columns[::-1], sorted(rows.columns)]]

    assert scores[0].score.round(9).tolist() == [0.921, 0.183]
    for other in scores[1:]:
        pd.testing.assert_frame_equal(other, scores[0])


def test_the_order_of_the_signature_is_the_one_that_counts():
    other = registry.Loaded(Sum(), "name", "3", "run", dict.fromkeys(NAMES[::-1], "number"), "digest")

    assert batch.score(other, asked([0.9, 0.2, 0.1]), CONTRACT).score.round(9).tolist() == [0.129]


def test_a_row_without_any_feature_has_no_score_and_says_why():
    scores = batch.score(MODEL, asked([0.9, 0.2, 0.1], [np.nan] * 3), CONTRACT)

    assert scores.status.tolist() == ["scored", "no features"]
    assert scores.score.notna().tolist() == [True, False]


def test_a_row_with_one_feature_is_the_models_matter():
    scores = batch.score(MODEL, asked([0.9, 0.2, np.nan]), CONTRACT)

    assert scores.status.tolist() == ["scored"]


def test_nothing_but_unknown_drivers_does_not_ask_the_model():
    scores = batch.score(registry.Loaded(None, "name", "3", "run", CONTRACT.kinds, "digest"), asked([np.nan] * 3), CONTRACT)

    assert scores.score.isna().all()


def test_each_row_names_its_model():
    scores = batch.score(MODEL, asked([0.9, 0.2, 0.1], [np.nan] * 3), CONTRACT)

    assert scores[["model_name", "model_version", "run_id", "model_digest"]].drop_duplicates().values.tolist() == [
        ["name", "3", "run", "digest"]
    ]


def test_rows_keep_their_order_and_are_not_changed():
    rows = asked([0.9, 0.2, 0.1], [0.1, 0.8, 0.3]).iloc[::-1]
    before = rows.copy()

    scores = batch.score(MODEL, rows, CONTRACT)

    assert scores[CONTRACT.entity].tolist() == [2, 1]
    pd.testing.assert_frame_equal(rows, before)


# --- the request -----------------------------------------------------------------------------------


def request(folder: Path, *lines: str) -> readers.Source:
    file = folder / "request.csv"
    file.write_text("\n".join([f"{CONTRACT.entity},{CONTRACT.time}", *lines]) + "\n")
    return readers.Source(path=str(file), owner="dispatch")


def test_rows_that_break_the_contract_go_to_the_quarantine_with_their_reason(tmp_path):
    source = request(
        tmp_path, "1001,2026-01-05T09:00:00Z", "1002,2026-01-05T09:00:00", "x,2026-01-05T09:00:00Z", "1001,2026-04-01T09:00:00Z"
    )

    rows, refused = batch.asked(source, tmp_path / "quarantine.parquet", CONTRACT)

    quarantine = pd.read_parquet(tmp_path / "quarantine.parquet")
    assert (rows[CONTRACT.entity].tolist(), refused) == ([1001], 3)
    assert quarantine.row.tolist() == [1, 2, 3]
    assert quarantine.reason.tolist() == ["time without zone", "unreadable", "future time"]


def test_a_request_of_which_no_row_can_be_used_stops_and_names_reason_quarantine_and_owner(tmp_path):
    source = request(tmp_path, "x,2026-01-05T09:00Z", "1002,2026-04-01T09:00Z")

    with pytest.raises(project.UserError, match=r"no row can be used: .*unreadable \(1\).*quarantine.parquet; ask dispatch"):
        batch.asked(source, tmp_path / "quarantine.parquet", CONTRACT)

    assert len(pd.read_parquet(tmp_path / "quarantine.parquet")) == 2


def test_a_request_in_which_no_time_has_a_zone_is_not_read_at_all(tmp_path):
    source = request(tmp_path, "1001,2026-01-05 09:00", "1002,2026-01-05 09:00")

    with pytest.raises(project.UserError, match="time without zone in every row"):
        batch.asked(source, tmp_path / "quarantine.parquet", CONTRACT)


def test_a_request_that_is_not_there_is_named(tmp_path):
    with pytest.raises(project.UserError, match="request.csv"):
        batch.asked(readers.Source(path=str(tmp_path / "request.csv"), owner="dispatch"), tmp_path / "quarantine.parquet", CONTRACT)


# --- the stage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> Path:
    "A small world with its feature store and a champion, and one batch of scores."
    out = run_stages(tmp_path_factory.mktemp("company"), "world", "data", "features", **WORLD)
    statistics = pd.read_parquet(out / "data/statistics.parquet")
    client = registry.connect(out / "mlflow", RIDES.name)
    run = client.create_run(registry.experiment(client)).info.run_id
    model = LogisticRegression().fit(statistics[NAMES].astype(float), statistics[NAMES[0]] > statistics[NAMES[0]].median())
    registry.log_model(client, run, model, CONTRACT.kinds)
    client.set_terminated(run)
    registry.promote(client, registry.register(client, run, "key"))
    write_json(out / "training/decision.json", {"decision": "promoted", "reasons": []})
    (out / "reports/training.html").write_text("<html></html>")
    return run_stages(out, "batch", **WORLD)


@pytest.fixture
def copied(company, tmp_path) -> Path:
    shutil.copytree(company, tmp_path / "company")
    return tmp_path / "company"


def scores_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "batch/scores.parquet")


def test_every_row_of_the_request_comes_back_with_the_champions_score(company):
    asked_for = pd.read_parquet(company / "raw/batch_request.parquet")
    champion = registry.load(registry.connect(company / "mlflow", RIDES.name))
    scores = scores_of(company)

    assert scores[CONTRACT.entity].tolist() == sorted(asked_for[CONTRACT.entity])
    assert np.array_equal(scores.score, champion.probability(scores))
    assert set(scores.run_id) == {champion.run_id} and set(scores.model_digest) == {champion.digest}


def test_the_file_has_the_columns_that_its_readers_were_promised(company):
    written = pq.read_schema(company / "batch/scores.parquet")

    assert written.names == [
        CONTRACT.entity,
        CONTRACT.time,
        *NAMES,
        "score",
        "status",
        "model_name",
        "model_version",
        "run_id",
        "model_digest",
    ]
    assert written.equals(batch.schema(CONTRACT.kinds, CONTRACT))


def test_a_driver_nobody_knows_has_a_row_and_no_score(copied):
    known = pd.read_parquet(copied / "raw/batch_request.parquet")
    stranger = known.head(1).assign(**{CONTRACT.entity: 99_999})
    pd.concat([known, stranger]).to_parquet(copied / "raw/batch_request.parquet", index=False)

    run_stages(copied, "batch", **WORLD)

    scores = scores_of(copied).set_index(CONTRACT.entity)
    assert (scores.status[99_999], scores.score.isna().sum()) == ("no features", 1)


def test_features_are_those_known_at_the_rows_time_and_no_later_ones(copied):
    statistics = pd.read_parquet(copied / "data/statistics.parquet")
    one = statistics[statistics[CONTRACT.entity] == statistics[CONTRACT.entity].iloc[0]].sort_values(KNOWN)
    second, third = one.iloc[1], one.iloc[2]
    moments = [second[KNOWN], third[KNOWN] - pd.Timedelta(microseconds=1), third[KNOWN]]
    rows = pd.DataFrame({CONTRACT.entity: one[CONTRACT.entity].iloc[0], CONTRACT.time: moments})
    rows.to_parquet(copied / "raw/batch_request.parquet", index=False)

    run_stages(copied, "batch", **WORLD)

    expected = [second[NAMES].tolist(), second[NAMES].tolist(), third[NAMES].tolist()]
    assert scores_of(copied)[NAMES].values.tolist() == expected


def test_running_again_gives_the_same_bytes(copied):
    before = (copied / "batch/scores.parquet").read_bytes()

    run_stages(copied, "batch", **WORLD)

    assert (copied / "batch/scores.parquet").read_bytes() == before


def test_without_a_champion_the_stage_stops_says_why_and_writes_nothing(copied):
    shutil.rmtree(copied / "mlflow")
    shutil.rmtree(copied / "batch")
    registry.connect(copied / "mlflow", RIDES.name)
    measured = {"auc": 0.512, "log_loss": 0.7, "base_log_loss": 0.693}
    write_json(copied / "training/decision.json", {"decision": "refused", "reasons": ["10 labels are too few"], "metrics": measured})

    with pytest.raises(registry.NoChampion, match="no champion.*refused: 10 labels are too few") as stopped:
        run_stages(copied, "batch", **WORLD)

    words = str(stopped.value)
    assert "AUC 0.512, log loss 0.700 (base rate 0.693)" in words and len(words.splitlines()) == 1
    assert words.endswith(f"The report: {copied / 'reports/training.html'}") and "ipynb" not in words

    assert not (copied / "batch/scores.parquet").exists()


def test_a_champion_whose_file_was_changed_scores_nobody(copied):
    [model] = (copied / "mlflow").rglob("model.skops")
    model.write_bytes(model.read_bytes() + b" ")
    before = (copied / "batch/scores.parquet").read_bytes()

    with pytest.raises(registry.DigestMismatch, match="model.skops"):
        run_stages(copied, "batch", **WORLD)

    assert (copied / "batch/scores.parquet").read_bytes() == before


def test_a_full_disk_leaves_the_old_scores_whole(tmp_path):
    path = tmp_path / "scores.parquet"
    tables.write_table(batch.score(MODEL, asked([0.9, 0.2, 0.1]), CONTRACT), batch.schema(CONTRACT.kinds, CONTRACT), path)
    before = path.read_bytes()
    code = """
import resource, sys; from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_batch import *
many = batch.score(MODEL, asked(*np.random.default_rng(7).random((5_000, 3)).tolist()), CONTRACT)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    tables.write_table(many, batch.schema(CONTRACT.kinds, CONTRACT), Path(sys.argv[1]))
except project.UserError as error:
    print(error)
"""
    here = Path(__file__).parent

    ran = subprocess.run([sys.executable, "-c", code, path, here, here.parent], capture_output=True, text=True, check=False)

    assert "could not write" in ran.stdout and "free some space" in ran.stdout, ran.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_hundred_thousand_rows_are_one_call_to_the_model():
    calls = []

    class Counted(Sum):
        def predict_proba(self, rows):
            calls.append(len(rows))
            return super().predict_proba(rows)

    many = pd.concat([asked([0.9, 0.2, 0.1], [np.nan] * 3)] * 50_000, ignore_index=True)

    batch.score(registry.Loaded(Counted(), "name", "3", "run", CONTRACT.kinds, "digest"), many, CONTRACT)

    assert calls == [50_000]


def test_what_the_stage_made_is_on_its_list(company):
    made = json.loads((company / "made/batch.json").read_text())

    assert sorted(made["files"]) == ["batch/quarantine.parquet", "batch/scores.parquet"]


def test_a_row_of_the_shop_has_one_score_alone_and_among_others_and_its_file_has_its_kinds(tmp_path):
    orders = shop.examples(days=20)
    model = registry.Loaded(
        models.fit("gradient boosting", orders, 7, shop.CONTRACT), "order-return", "1", "run", shop.CONTRACT.kinds, "digest"
    )
    odd = orders.head(9).assign(city=["Sa Pa", "Atlantis", None] * 3, member=[True, False, None] * 3)

    scores = batch.score(model, odd, shop.CONTRACT)

    alone = [batch.score(model, odd.iloc[[row]], shop.CONTRACT).score.iloc[0] for row in range(9)]
    assert scores.score.tolist() == alone == models.probability(model.model, odd, shop.CONTRACT).tolist()
    tables.write_table(scores, batch.schema(model.kinds, shop.CONTRACT), tmp_path / "scores.parquet")
    kept = pd.read_parquet(tmp_path / "scores.parquet")
    assert kept.city.tolist() == ["Sa Pa", "Atlantis", None] * 3 and kept.member.tolist()[:2] == [1.0, 0.0]
    assert kept.customer.tolist() == odd.customer.tolist()
