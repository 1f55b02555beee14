"""A web shop from its files to a champion that is served, watched and trained again: nothing of it stands in the package."""

import json
import time
from importlib import import_module

import pandas as pd
import pytest
import shop_files
import yaml
from fastapi.testclient import TestClient
from shop import CONTRACT, SHOP

from conftest import UPSTREAM
from mlops_course import api, cli, clocks, drift, features, monitoring, project, registry, schemas, stages, trainer
from mlops_course.joined import Source

ORDERS = 300  # that are asked for online


def run(*names: str) -> None:
    "Stages of the environment, as a build of it runs them."
    settings = project.environment()
    for name in names:
        with stages.stage(name, **stages.plan(name, settings)) as stage:
            import_module(f"mlops_course.{name}").run(stage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Where the shop's files are, with a whole build in `out`."
    made = tmp_path_factory.mktemp("shop")
    shop_files.write(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLOOMBER_ENV_FILENAME", str(made / "env.yaml"))
        run(*UPSTREAM)
        yield made
    clocks.leave()


@pytest.fixture(scope="module")
def out(folder):
    return folder / "out"


def table(out, name: str) -> pd.DataFrame:
    return pd.read_parquet(out / f"data/{name}.parquet")


def test_its_tables_stand_where_those_of_any_project_stand(folder, out):
    sent, labels = pd.read_csv(folder / "orders.csv"), table(out, "labels")
    catalogue = json.loads((out / "data/catalogue.json").read_text())["tables"]

    assert set(catalogue) == {"habits", "labels"} and set(table(out, "habits").member.dropna()) == {True, False}
    lost = int((sent.fate == "lost on the way").sum())
    assert catalogue["labels"]["left_out"] == {"without a label": lost} and lost > 20
    assert len(labels) == len(sent) - lost and set(labels.returned) == {0, 1} and labels.device.isna().any()
    assert stages.changed(project.environment(), "data") == []


def test_a_table_that_is_lost_is_noticed_and_the_next_stage_asks_for_it(out):
    path = out / "data/habits.parquet"
    kept = path.read_bytes()
    path.unlink()
    try:
        assert stages.changed(project.environment(), "data") == ["data/habits.parquet"]
        with pytest.raises(project.UserError, match="habits.parquet"):
            run("features")
    finally:
        path.write_bytes(kept)


def test_its_champion_is_judged_by_labels_and_says_what_it_could_not_measure(out):
    decision = json.loads((out / "training/decision.json").read_text())

    assert decision["decision"] == "promoted", decision["reasons"]
    assert decision["model"]["name"] == SHOP.name

    lines = cli.summary(str(out.parent / "env.yaml")).splitlines()

    assert any("uplift cannot be measured" in line for line in lines) and not [line for line in lines if line.startswith("Uplift")]
    [loss] = [line for line in lines if line.startswith("Log loss ")]
    [worth] = [line for line in lines if line.startswith("Worth ")]
    assert f"{decision['metrics']['log_loss']:.3f} a row" in loss and "; log loss saved " in loss, loss
    assert "beside the base rate, lower bound" in worth, worth
    assert any(line.startswith("Scores ") and f" {CONTRACT.noun}s in " in line for line in lines), lines


def test_the_past_and_the_present_answer_alike(out):
    store, names = features.open_store(out / "features"), [*table(out, "habits").customer.unique()[:50], "nobody"]
    rows = pd.DataFrame({CONTRACT.entity: names, CONTRACT.time: shop_files.END})

    past, present = features.historical(store, rows, CONTRACT), features.online(store, names, CONTRACT, shop_files.END)

    stored = [name for name in CONTRACT.features if name not in CONTRACT.own]
    pd.testing.assert_frame_equal(past[stored], present[stored], check_exact=True)
    assert past[stored].iloc[-1].isna().all() and past.city.isna().sum() > 1


@pytest.fixture(scope="module")
def asked(folder, out):
    "Orders of the next day, as they are scored online, with their answers."
    end = shop_files.END
    rows = shop_files.orders(shop_files.np.random.default_rng(5), pd.read_csv(folder / "habits.csv"), end, 1, ORDERS)
    rows = rows[[*CONTRACT.keys, *CONTRACT.own]].assign(request_id=rows.order, fate=rows.fate)
    rows["device"] = rows.device.replace("NA", None)
    sent = json.loads(rows.drop(columns="fate").to_json(orient="records"))
    with TestClient(api.application(api.Serving(out, schemas.ServingSettings(epsilon=0), SHOP))) as client:
        for _ in range(600):
            if client.get("/ready").status_code == 200:
                break
            time.sleep(0.1)
        answers = [client.post("/score", json={"rows": sent[i : i + 100]}) for i in range(0, len(sent), 100)]
    clocks.leave()
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return rows.assign(score=[row["score"] for answer in answers for row in answer.json()["rows"]])


def test_the_service_scores_as_the_champion_does(out, asked):
    model = registry.load(registry.connect(out / "mlflow", SHOP.name))
    store = features.open_store(out / "features")
    stored = features.online(store, asked.customer.tolist(), CONTRACT, shop_files.END).drop(columns=CONTRACT.entity)

    rows = pd.concat([stored.reset_index(drop=True), asked[CONTRACT.own].reset_index(drop=True)], axis=1)

    assert asked.score.to_numpy() == pytest.approx(model.probability(rows), abs=1e-9)
    assert asked.score.nunique() > 100


def test_monitoring_reads_what_was_answered_and_how_it_ended(out, asked):
    settings = monitoring.MonitoringSettings(window_requests=200, window_labels=200, min_labels=100)
    monitor = monitoring.Monitor(out, settings, SHOP)
    monitoring.refer(monitor)
    assert monitor.trouble == {} and isinstance(monitor.references["1"], drift.Reference)
    known = asked[asked.fate != "lost on the way"]
    ended = [
        {"request_id": row.request_id, "customer": row.customer, "returned": int(row.fate == "came back")} for row in known.itertuples()
    ]

    monitor.look()
    with TestClient(monitoring.application(monitor)) as client:
        answer = client.post("/labels", json=ended)
    monitor.look()

    assert answer.status_code == 200 and answer.json() == {"joined": len(known)}, answer.text
    assert monitor.trouble == {} and monitor.counts["predictions"]["1"] == ORDERS
    assert monitor.verdicts[Source("1")].detected["performance"] is False
    monitor.store.close()


def test_a_retraining_learns_from_the_days_that_have_come(folder, out):
    written = yaml.safe_load((folder / "env.yaml").read_text(encoding="utf-8"))
    days, moment = 10, shop_files.END + pd.Timedelta(days=10)
    before, known = pd.read_csv(folder / "orders.csv"), pd.read_csv(folder / "habits.csv", keep_default_na=False)
    come = shop_files.orders(shop_files.np.random.default_rng(6), known, shop_files.END, days)
    pd.concat([before, come[come.created < moment]]).to_csv(folder / "orders.csv", index=False)
    (folder / "env.yaml").write_text(yaml.safe_dump({**written, "clock": moment.isoformat()}), encoding="utf-8")

    clocks.leave()  # that of a service

    decision = trainer.retrain(out, {"test_days": 7})

    assert decision["decision"] in {"promoted", "refused"} and decision["model"]["name"] == SHOP.name
    assert table(out, "labels").event_timestamp.max() > shop_files.END + pd.Timedelta(days=9)
    compared = [check for check in decision["checks"] if check["name"].startswith("no worse in")]
    assert [check["name"] for check in compared] == ["no worse in log loss", "no worse in worth"], decision["checks"]
