"""A checkout may lie in a folder whose name means something else in URIs, patterns, formats and shells."""

import re
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import company
import pandas as pd
import pytest
import yaml
from company import CLOCK, KNOWN, NAMES
from rides import CONTRACT, RIDES

from mlops_course import asof, data, features, problem, project, prometheus, readers, registry, search, telemetry, training

MARKS = "-a?b%41 %s%(h)s $HOME ~ &d=e;f, *g [h] 'i\" #j k é e\u0301 😀 <l>|m!(n)^`o`."
ALIKE = MARKS.replace("?", "x").replace("*", "yy").replace("[h]", "h")


@pytest.fixture
def place(tmp_path):
    "A folder; beside it one whose name a pattern of the first one's letters would match, with files of its own. Nothing else may come there."
    for name in (MARKS, ALIKE):
        (tmp_path / "all" / name).mkdir(parents=True)
    company.statistics().iloc[::-1].assign(**dict.fromkeys(NAMES, 0.125)).to_parquet(tmp_path / "all" / ALIKE / "statistics.parquet")
    telemetry_line(tmp_path / "all" / ALIKE)
    before = files(tmp_path / "all" / ALIKE)
    yield tmp_path / "all" / MARKS
    assert {path.name for path in (tmp_path / "all").iterdir()} == {MARKS, ALIKE}
    assert files(tmp_path / "all" / ALIKE) == before


def telemetry_line(folder: Path, stage: str = "world") -> None:
    with telemetry.logging_to(folder / "logs/pipeline.jsonl", stage=stage):
        telemetry.log.info("stage started")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_models_are_registered_loaded_promoted_rolled_back_and_kept(place, monkeypatch):
    for name in ("pipeline.yaml", "settings.ini", "env.test.yaml"):
        shutil.copy2(project.root() / name, place)
    monkeypatch.chdir(place)  # a checkout; a new database of MLflow's would name it
    client = company.make_registry(place)
    registry.promote(client, "2")
    registry.rollback(client)
    registry.save_copy(client, "champion", place / "kept")

    assert registry.champion(place / "mlflow", RIDES.name).version == registry.load(client).version == "1"
    assert registry.load_copy(place / "kept").digest == registry.load(client).digest
    with registry.artifacts(client, registry.champion(place / "mlflow", RIDES.name).run_id) as files:
        assert files.is_relative_to(place / "mlflow/artifacts")


def test_a_registry_moves_in_and_out(tmp_path, place):
    client = company.make_registry(place, (1.0,))
    shutil.move(place / "mlflow", tmp_path / "plain")
    assert registry.load(registry.connect(tmp_path / "plain", RIDES.name)).version == "1"
    shutil.move(tmp_path / "plain", place / "mlflow")
    assert registry.load(registry.connect(place / "mlflow", RIDES.name)).digest == registry.load(client).digest


@pytest.mark.parametrize("name", ["statistics.parquet", "folder"])
def test_a_point_in_time_join_reads_the_file_or_folder_that_it_was_given_and_no_other(place, name):
    file = place / name / "one.parquet" if name == "folder" else place / name
    file.parent.mkdir(exist_ok=True)
    company.statistics().to_parquet(file, index=False)
    labels = pd.DataFrame({CONTRACT.entity: KNOWN, "at": pd.Timestamp(CLOCK)})

    rows = asof.as_of(
        labels, place / name, entity=CONTRACT.entity, label_time="at", feature_time=problem.KNOWN, columns=NAMES, created="created"
    )

    assert rows[NAMES].equals(company.statistics().set_index(CONTRACT.entity).loc[KNOWN, NAMES].reset_index(drop=True))


def test_a_feature_store_is_built_asked_and_added_to(place):
    store = company.make_store(place)
    more = company.statistics().head(2).assign(**{NAMES[0]: 0.25, "created": CLOCK, problem.KNOWN: CLOCK})
    store.write_to_offline_store("statistics", more[pd.read_parquet(place / "data/statistics.parquet").columns])
    labels = pd.DataFrame({CONTRACT.entity: KNOWN, CONTRACT.time: pd.Timestamp(CLOCK)})

    history, now = features.historical(store, labels, CONTRACT), features.online(features.open_store(place / "features"), KNOWN, CONTRACT)

    assert history[NAMES[0]].head(2).tolist() == [0.25, 0.25]
    assert history[NAMES[0]].tolist()[2:] == now[NAMES[0]].tolist()[2:]
    assert now[NAMES[0]].tolist() == company.statistics().set_index(CONTRACT.entity).loc[KNOWN, NAMES[0]].tolist()


def test_logs_are_searched_there_and_nowhere_else(place):
    telemetry_line(place, "data")

    assert [line["stage"] for line in search.search(place, search.Query()).lines] == ["data"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_source_is_read(place, kind, monkeypatch):
    table = CONTRACT.tables["statistics"]
    rows = company.statistics().drop(columns=problem.KNOWN).dropna()
    rows.to_parquet(place / "s.parquet") if kind == "parquet" else rows.to_csv(place / "s.csv", index=False)
    monkeypatch.setenv("INBOX", str(place))

    read = data.read(readers.Source(path=f"${{INBOX}}/s.{kind}", owner="us"), table, CONTRACT, CLOCK)

    assert len(read.kept) == len(rows) and read.refused.empty


def test_a_training_table_is_kept_and_read_again(place):
    frame = pd.DataFrame({"a": [1.0]})

    assert training.load_snapshot(training.save_snapshot(frame, place / "snapshots"), place / "snapshots").equals(frame)


def test_prometheus_finds_its_rules(place):
    platform = project.root() / "platform"
    shutil.copytree(platform, place / "platform")
    prometheus.prepare(place / "services", place / "platform", {"serving": "127.0.0.1:1"}, port=9090)

    file = place / "services/prometheus/prometheus.yml"
    (pattern,) = yaml.safe_load(file.read_text(encoding="utf-8"))["rule_files"]
    rules = sorted((place / "platform/prometheus/rules").glob("*.yml"))
    assert rules and all(fnmatchcase(str(rule), pattern) for rule in rules)
    assert re.fullmatch(r"[^*]*(\*[^/]*)?", pattern)  # Prometheus takes no other
    assert not fnmatchcase(str(rules[0]).replace(MARKS, ALIKE), pattern)
    if shutil.which("promtool"):
        checked = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and f"{len(rules)} rule files found" in checked.stdout, checked.stdout + checked.stderr
