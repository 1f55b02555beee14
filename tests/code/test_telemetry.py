"""Logs that many can write and that tell no secrets, metrics of stages, and what Prometheus and Grafana are told."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rides import CONTRACT

from mlops_course import cli, exposition, logfiles, project, prometheus, stages, telemetry
from mlops_course.files import write_json
from mlops_course.loglines import masked
from mlops_course.telemetry import log, logging_to

PLATFORM = project.root() / "platform"
START = datetime(2026, 3, 16, 8, tzinfo=UTC)


def lines(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# --- writing -----------------------------------------------------------------------------------------


def test_every_line_says_when_how_bad_what_who_and_where(tmp_path):
    with logging_to(tmp_path / "serving.jsonl", environment="dev"):
        log.warning("request refused", request_id="a", status=503)

    (line,) = lines(tmp_path / "serving.jsonl")
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    expected = {"event": "request refused", "service": "serving", "environment": "dev", "request_id": "a", "status": 503}
    assert line == {**expected, "level": "warning"}


def test_a_line_of_a_thread_belongs_to_the_open_block(tmp_path):
    with logging_to(tmp_path / "serving.jsonl", environment="dev"):
        thread = threading.Thread(target=log.info, args=["prediction log is written again"])
        thread.start()
        thread.join()

    (line,) = lines(tmp_path / "serving.jsonl")
    assert (line["service"], line["environment"]) == ("serving", "dev")


def test_after_the_block_nothing_is_written_and_nothing_of_it_remains(tmp_path):
    with logging_to(tmp_path / "one.jsonl", run="one"):
        pass
    log.info("nobody listens")
    with logging_to(tmp_path / "two.jsonl"):
        log.info("somebody listens")

    assert not (tmp_path / "one.jsonl").exists()
    assert "run" not in lines(tmp_path / "two.jsonl")[0]


def test_a_log_is_rotated_and_old_files_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(logfiles, "MOST_BYTES", 2_000)
    monkeypatch.setattr(logfiles, "MOST_FILES", 2)
    with logging_to(tmp_path / "serving.jsonl"):
        for number in range(100):
            log.info("event", number=number)

    files = sorted(tmp_path.glob("*"))
    assert [file.name for file in files if file.name[0] != "."] == ["serving.jsonl", "serving.jsonl.1", "serving.jsonl.2"]
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert lines(tmp_path / "serving.jsonl")[-1]["number"] == 99


def test_writers_in_several_processes_lose_no_line_when_the_log_is_rotated(tmp_path):
    code = """
import sys
from pathlib import Path
from mlops_course import logfiles, telemetry
logfiles.MOST_BYTES, logfiles.MOST_FILES = 20_000, 1_000
with telemetry.logging_to(Path(sys.argv[1]), run=sys.argv[2]):
    for number in range(500):
        telemetry.log.info("event", number=number)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "pipeline.jsonl", name], stderr=subprocess.PIPE) for name in "ab"]
    complaints = [writer.communicate()[1] for writer in writers]

    assert complaints == [b"", b""]
    written = [(line["run"], line["number"]) for file in tmp_path.glob("pipeline.jsonl*") for line in lines(file)]
    assert sorted(written) == [(name, number) for name in "ab" for number in range(500)]
    assert len(list(tmp_path.glob("pipeline.jsonl.*"))) > 3


def test_a_log_that_somebody_took_away_is_begun_again(tmp_path):
    file = tmp_path / "serving.jsonl"
    with logging_to(file):
        log.info("before")
        file.unlink()
        log.info("after")

    assert [line["event"] for line in lines(file)] == ["after"]


def test_half_a_line_of_a_killed_writer_spoils_no_other(tmp_path):
    (tmp_path / "serving.jsonl").write_text('{"event": "ha')
    with logging_to(tmp_path / "serving.jsonl"):
        log.info("whole")

    assert (tmp_path / "serving.jsonl").read_text().splitlines()[0] == '{"event": "ha'
    assert json.loads((tmp_path / "serving.jsonl").read_text().splitlines()[1])["event"] == "whole"


# --- what is not said --------------------------------------------------------------------------------

PERSONAL = sorted({column.name for table in CONTRACT.tables.values() for column in table.columns if column.personal != "no"})
NAMES = ["api_key", "apiKey", "X-API-Key", "token", "access_token", "refreshToken", "password", "passwd", "client_secret", "Authorization"]
NAMES += ["cookie", "credentials", "phone", "phone_2", "email", "pseudonym_key", *PERSONAL]


def test_the_contract_has_personal_columns():
    assert PERSONAL == ["driver_phone", "rider_id", "rider_phone"]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_under_a_name_that_sounds_secret_reaches_no_log(tmp_path, name):
    with logging_to(tmp_path / "serving.jsonl"):
        log.info("event", **{name: "s3cr3t"})
        log.info("event", rows=[{"deep": {name: ["s3cr3t"]}}])

    assert "s3cr3t" not in (tmp_path / "serving.jsonl").read_text() and len(lines(tmp_path / "serving.jsonl")) == 2


@pytest.mark.parametrize("name", ["key", "run_id", "request_id", "driver_id", "model_digest", "keys", "tokens_left", "host"])
def test_a_value_under_another_name_stays(name):
    assert masked({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "text",
    [
        "401 for api_key=s3cr3t",
        "header Authorization: Bearer s3cr3t was wrong",
        "{'password': 's3cr3t'}",
        '{"token": "s3cr3t", "x": 1}',
        "cannot reach redis://feast:s3cr3t@store:6379/0",
        "row 7: driver_phone=s3cr3t",
    ],
)
def test_a_secret_inside_of_a_text_is_masked(tmp_path, text):
    with logging_to(tmp_path / "serving.jsonl"):
        log.error("failed", error=text)
        try:
            raise ValueError(text)
        except ValueError:
            log.error("failed", exc_info=True)

    output = (tmp_path / "serving.jsonl").read_text()
    assert "s3cr3t" not in output and output.count("***") >= 2 and "ValueError" in output


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.dictionaries(st.text(max_size=5), st.integers()), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
    )
)
def test_a_secret_is_found_at_any_depth(around):
    def planted(value):
        if isinstance(value, dict):
            return {**{name: planted(inner) for name, inner in value.items()}, "api_key": "s3cr3t"}
        return [planted(inner) for inner in value] if isinstance(value, list) else value

    assert "s3cr3t" not in json.dumps(masked({"api_key": "s3cr3t", "around": planted(around)}))


def test_a_table_is_told_by_its_shape():
    assert masked(pd.DataFrame({"driver_phone": ["0912"]})) == "DataFrame of 1 x 1"


# --- the name of a run -------------------------------------------------------------------------------


@pytest.fixture
def no_run(monkeypatch):
    monkeypatch.delenv(telemetry.RUN, raising=False)


def ended(stage: stages.Stage, rows: int = 3) -> None:
    "What the stage `world` would leave."
    stage.product["raw"].mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"n": range(rows)}).to_parquet(stage.record(stage.product["raw"] / "labels.parquet"))
    stage.count("drivers", 7)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path))
    return tmp_path


def test_a_stage_run_by_hand_is_a_run_of_its_own(lab, no_run):
    for _ in range(2):
        with stages.stage("world") as stage:
            ended(stage)

    entries = lines(lab / "logs/pipeline.jsonl")
    assert {(line["service"], line["environment"], line["stage"]) for line in entries} == {("pipeline", "test", "world")}
    assert entries[0]["run"] == entries[1]["run"] != entries[2]["run"] == entries[3]["run"]


def test_the_stages_of_a_run_share_its_name(lab, monkeypatch):
    monkeypatch.setenv(telemetry.RUN, "tonight")
    with stages.stage("world") as stage:
        ended(stage)

    assert {line["run"] for line in lines(lab / "logs/pipeline.jsonl")} == {"tonight"}


def test_a_run_is_named_for_all_that_its_process_starts(no_run):
    telemetry.begin_run()

    completed = subprocess.run([sys.executable, "-c", f"import os; print(os.environ['{telemetry.RUN}'])"], capture_output=True, text=True)
    assert completed.stdout.strip() == telemetry.run_name() != ""


def test_the_command_shows_the_events_of_its_own_run_also_when_the_log_is_rotated(tmp_path):
    file = tmp_path / "pipeline.jsonl"
    (tmp_path / "pipeline.jsonl.1").write_text('{"event": "stage started", "run": "ours"}\n{"event": "stage started", "run": "theirs"}\n')
    file.write_text('{"event": "stage finished", "run": "ours"}\n{"run": "ours", "half\n{"event": "of ours", "run": "x"}\n{"run": "ours", ')

    assert [event["event"] for event in cli._events(file, "ours")] == ["stage started", "stage finished"]


# --- metrics of stages -------------------------------------------------------------------------------


def samples(text: str) -> dict[tuple, float]:
    return {
        (s.name.removeprefix("pipeline_stage_"), *s.labels.values()): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
    }


def test_a_stage_leaves_its_last_success_its_duration_and_its_rows(lab):
    before = time.time()
    with stages.stage("world") as stage:
        ended(stage, rows=5)

    values = samples((lab / "metrics/pipeline.prom").read_text())
    assert before <= values["last_success_timestamp_seconds", "world"] <= time.time()
    assert values["last_failure_timestamp_seconds", "world"] == 0
    assert 0 < values["duration_seconds", "world"] < 60
    assert (values["rows", "world", "labels"], values["rows", "world", "drivers"]) == (5, 7)


def test_a_failure_is_told_beside_the_last_success(lab):
    with stages.stage("world") as stage:
        ended(stage)
    before = samples((lab / "metrics/pipeline.prom").read_text())
    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    values = samples((lab / "metrics/pipeline.prom").read_text())
    failure = values.pop(("last_failure_timestamp_seconds", "world"))
    assert failure > before.pop(("last_failure_timestamp_seconds", "world")) == 0
    assert values == before


def test_a_stage_that_never_ended_well_has_its_last_success_long_ago(lab):
    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    assert samples((lab / "metrics/pipeline.prom").read_text())["last_success_timestamp_seconds", "world"] == 0


def test_what_a_service_mounts_is_always_what_the_notes_say(tmp_path):
    from prometheus_client import generate_latest

    mounted = exposition.pipeline_metrics(tmp_path)
    assert samples(generate_latest(mounted).decode()) == {}
    write_json(tmp_path / "metrics/data.json", telemetry.stage_note({}, 2, {"labels": 9}))
    (tmp_path / "metrics/batch.json").write_text('{"half')

    values = samples(generate_latest(mounted).decode())
    assert values["rows", "data", "labels"] == 9 and not any("batch" in labels for labels in values)


def test_metrics_that_cannot_be_written_fail_no_stage(lab):
    (lab / "metrics").write_text("a file where a folder should be")
    with stages.stage("world") as stage:
        ended(stage)

    assert "metrics not written" in [line["event"] for line in lines(lab / "logs/pipeline.jsonl")]
    assert (lab / "made/world.json").is_file()


# --- Prometheus and Grafana --------------------------------------------------------------------------


def expressions() -> list[tuple[str, str]]:
    "Where it stands, and the expression: of each rule and of each dashboard."
    expressions_there = []
    for path in sorted((PLATFORM / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            expressions_there += [(f"{path.name} {rule.get('alert') or rule['record']}", rule["expr"]) for rule in group["rules"]]
    for path in sorted((PLATFORM / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            expressions_there += [(f"{path.name} {panel['title']}", target["expr"]) for target in panel["targets"]]
    return expressions_there


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_a_metric_that_a_rule_or_a_dashboard_names_is_one_that_somebody_exports(where, expression):
    modules = [project.root() / f"mlops_course/{name}.py" for name in ("api", "exposition", "health", "cases", "consumer")]
    shared = (project.root() / "mlops_course/web.py").read_text(encoding="utf-8").replace("{service}", "serving")
    code = shared + "".join(path.read_text(encoding="utf-8") for path in modules if path.is_file())
    for name in re.findall(r"\b(?:serving|pipeline|monitoring|retraining|stream)_[a-z_]+", expression):
        base = re.sub(r"_(total|bucket|count|sum|info)$", "", name)
        module = name.split("_")[0]
        there = f'"{base}"' in code or (module in ("monitoring", "stream") and base.removeprefix(f"{module}_") in code)
        assert there, f"{where}: nobody exports {name}"


def test_a_record_that_is_read_is_one_that_a_rule_makes():
    records = {where.split()[-1] for where, _ in expressions() if ":" in where}

    for where, expression in expressions():
        assert set(re.findall(r"\bserving:[a-z0-9:]+", expression)) <= records, where


def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do():
    for path in (PLATFORM / "prometheus/rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
                    assert rule["annotations"]["summary"] and rule["annotations"]["action"], rule["alert"]


def test_each_alert_is_seen_ringing_by_a_test_of_the_rules():
    tested = "".join(path.read_text(encoding="utf-8") for path in (PLATFORM / "prometheus/tests").glob("*.yml"))

    for where, _ in expressions():
        if ".yml" in where and ":" not in where:
            assert where.split()[-1] in tested, where


@pytest.mark.parametrize("path", sorted((PLATFORM / "grafana/dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_has_titles_units_and_the_provisioned_source(path):
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    source = yaml.safe_load((PLATFORM / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]

    assert dashboard["uid"] == path.stem and dashboard["title"] and dashboard["panels"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        assert all(target["legendFormat"] for target in panel["targets"])


def test_prometheus_is_told_the_ports_of_an_environment(tmp_path):
    command = prometheus.prepare(tmp_path, PLATFORM, {"serving": "127.0.0.1:1234"}, port=5678, every="1s", alertmanager="127.0.0.1:4321")

    written = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in written["scrape_configs"]] == ["serving"]
    assert written["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:1234"]}]
    assert written["global"]["scrape_interval"] == written["global"]["evaluation_interval"] == "1s"
    assert "127.0.0.1:4321" in json.dumps(written["alerting"])
    assert "--web.listen-address=127.0.0.1:5678" in command


def test_a_job_that_prometheus_does_not_know_is_named(tmp_path):
    with pytest.raises(ValueError, match="no job severing"):
        prometheus.prepare(tmp_path, PLATFORM, {"severing": "127.0.0.1:1"}, port=9090)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus")
def test_promtool_accepts_the_configuration_that_is_written(tmp_path):
    key = tmp_path / "key"
    key.write_text("k")
    prometheus.prepare(tmp_path, PLATFORM, {"serving": "127.0.0.1:1"}, port=9090, key_file=key, alertmanager="127.0.0.1:2")

    completed = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus/prometheus.yml"], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
