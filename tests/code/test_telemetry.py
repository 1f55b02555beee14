"""Logs that can be searched and tell no secrets, metrics of stages, and what Prometheus and Grafana are told."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from mlops_course import cli, project, stages, telemetry
from mlops_course.files import write_json
from mlops_course.problem import CONTRACT
from mlops_course.telemetry import Wanted, follow, histogram, log, logging_to, masked, search

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
    monkeypatch.setattr(telemetry, "MOST_BYTES", 2_000)
    monkeypatch.setattr(telemetry, "MOST_FILES", 2)
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
from mlops_course import telemetry
telemetry.MOST_BYTES, telemetry.MOST_FILES = 20_000, 1_000
with telemetry.logging_to(Path(sys.argv[1]), run=sys.argv[2]):
    for number in range(500):
        telemetry.log.info("event", number=number)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "pipeline.jsonl", name], stderr=subprocess.PIPE) for name in "ab"]
    complaints = [writer.communicate()[1] for writer in writers]

    assert complaints == [b"", b""]
    found = [(line["run"], line["number"]) for file in tmp_path.glob("pipeline.jsonl*") for line in lines(file)]
    assert sorted(found) == [(name, number) for name in "ab" for number in range(500)]
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

    said = (tmp_path / "serving.jsonl").read_text()
    assert "s3cr3t" not in said and said.count("***") >= 2 and "ValueError" in said


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

    told = lines(lab / "logs/pipeline.jsonl")
    assert {(line["service"], line["environment"], line["stage"]) for line in told} == {("pipeline", "test", "world")}
    assert told[0]["run"] == told[1]["run"] != told[2]["run"] == told[3]["run"]


def test_the_stages_of_a_run_share_its_name(lab, monkeypatch):
    monkeypatch.setenv(telemetry.RUN, "tonight")
    with stages.stage("world") as stage:
        ended(stage)

    assert {line["run"] for line in lines(lab / "logs/pipeline.jsonl")} == {"tonight"}


def test_a_run_is_named_for_all_that_its_process_starts(no_run):
    telemetry.begin_run()

    told = subprocess.run([sys.executable, "-c", f"import os; print(os.environ['{telemetry.RUN}'])"], capture_output=True, text=True)
    assert told.stdout.strip() == telemetry.run_name() != ""


def test_the_command_shows_the_events_of_its_own_run_also_when_the_log_is_rotated(tmp_path):
    file = tmp_path / "pipeline.jsonl"
    (tmp_path / "pipeline.jsonl.1").write_text('{"event": "stage started", "run": "ours"}\n{"event": "stage started", "run": "theirs"}\n')
    file.write_text('{"event": "stage finished", "run": "ours"}\n{"run": "ours", "half\n{"event": "of ours", "run": "x"}\n{"run": "ours", ')

    assert [event["event"] for event in cli._events(file, "ours")] == ["stage started", "stage finished"]


# --- searching ---------------------------------------------------------------------------------------


def put(file, *entries) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as opened:
        opened.writelines(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries)


def entry(minute: float, event: str, level: str = "info", **more) -> dict:
    return {"time": (START + timedelta(minutes=minute)).isoformat(), "event": event, "level": level, **more}


@pytest.fixture
def out(tmp_path):
    "An environment with two runs, two requests, a rotated file, and answers."
    put(tmp_path / "logs/pipeline.jsonl.1", entry(0, "stage started", service="pipeline", run="one", stage="data"))
    put(
        tmp_path / "logs/pipeline.jsonl",
        entry(2, "stage failed", "error", service="pipeline", run="one", stage="data", error={"reason": "disk"}),
        entry(60, "stage started", service="pipeline", run="two", stage="data"),
        entry(61, "stage started", service="pipeline", run="two", stage="training"),
    )
    put(tmp_path / "logs/serving.jsonl", entry(30, "request refused", "warning", service="serving", request_id='b "ü" \\', error="a text"))
    for number in range(3):
        answer = {"time": entry(number, "")["time"], "latency_ms": 2.5, "request_id": f"request {number}", "version": "1"}
        put(tmp_path / "serving/predictions/2026-03-16.jsonl", {**answer, "candidates": [{"driver_id": 1001, "score": 0.5}] * 20})
    return tmp_path


def events(found) -> list[str]:
    return [line["event"] for line in found.lines]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(run="one"), ["stage started", "stage failed"]),
        (Wanted(run="two", stage="training"), ["stage started"]),
        (Wanted(run="three"), []),
        (Wanted(stage="data"), ["stage started", "stage failed", "stage started"]),
        (Wanted(service="pipeline", level="warning"), ["stage failed"]),
        (Wanted(level="warning"), ["stage failed", "request refused"]),
        (Wanted(level="error"), ["stage failed"]),
        (Wanted(text='"disk"'), ["stage failed"]),
        (Wanted(text="1001"), ["answer"] * 3),
        (Wanted(request="request 1"), ["answer"]),
        (Wanted(request="request"), []),
        (Wanted(request='b "ü" \\'), ["request refused"]),
        (Wanted(service="serving"), ["answer"] * 3 + ["request refused"]),
        (Wanted(service="pipeline", since=START + timedelta(minutes=60)), ["stage started"] * 2),
        (Wanted(service="pipeline", since=START + timedelta(minutes=1), until=START + timedelta(minutes=60)), ["stage failed"]),
        (Wanted(level="info", until=START + timedelta(minutes=1)), ["answer", "stage started"]),
    ],
)
def test_what_is_looked_for_is_found_and_nothing_else(out, wanted, expected):
    found = search(out, wanted)

    assert sorted(events(found)) == sorted(expected) and found.count == len(expected) and found.broken == 0


def test_a_value_is_no_piece_of_sql(out):
    assert search(out, Wanted(request="' OR true --")).count == 0
    assert search(out, Wanted(text="' OR true --", run="';", stage="x'")).count == 0


def test_an_answer_is_found_without_its_candidates(out):
    (line,) = search(out, Wanted(request="request 2")).lines

    assert line["latency_ms"] == 2.5 and line["version"] == "1" and "candidates" not in line


def test_the_newest_lines_are_given_in_their_order_and_all_are_counted(out):
    found = search(out, Wanted(service="pipeline"), most=2)

    assert [(line["run"], line["stage"]) for line in found.lines] == [("two", "data"), ("two", "training")]
    assert found.count == 4


def test_a_span_counts_back_from_now_and_for_answers_from_the_newest(out):
    put(out / "logs/pipeline.jsonl", {**entry(0, "just now"), "time": datetime.now(UTC).isoformat()})

    assert sorted(events(search(out, Wanted(since=timedelta(seconds=90))))) == ["answer", "answer", "just now"]


def test_broken_lines_are_counted_and_stop_nobody(out):
    broken = [b'{"event": "ha\n', b"17\n", b'{"event": 1{"event": 2}\n', b"\x00\x00\n", b'{"event": "\xff\xfe"}\n', b'{"no end": 1']
    with open(out / "logs/serving.jsonl", "ab") as file:
        file.write(b"".join(broken[:3]) + b"\n\r\n" + b"".join(broken[3:5]))
    put(out / "logs/serving.jsonl", entry(31, "still here", service="serving", much="x" * 3_000_000))
    with open(out / "logs/serving.jsonl", "ab") as file:
        file.write(broken[5])

    found = search(out, Wanted())

    assert found.broken == len(broken)
    assert found.count == 9 and "still here" in events(found)


def test_an_environment_without_logs_has_nothing_to_find(tmp_path):
    assert search(tmp_path, Wanted()) == ([], 0, 0, [])


def test_two_hundred_thousand_lines_are_searched(tmp_path):
    lines_of = [json.dumps(entry(n / 200, "request refused", "info" if n % 10 else "warning", service="serving", request_id=f"request {n}"))
                for n in range(200_000)]  # fmt: skip
    put(tmp_path / "logs/serving.jsonl", "\n".join(lines_of) + "\n")

    assert search(tmp_path, Wanted(request="request 199999")).count == 1
    assert search(tmp_path, Wanted(level="warning")).count == 20_000
    assert search(tmp_path, Wanted()).count == 200_000


# --- following ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["2026-01-01", "2026-03-16"])
def test_a_file_that_is_deleted_while_it_is_searched_is_no_fault(tmp_path, monkeypatch, lost):
    "Serving deletes old files of its log, and logs are rotated."
    folder, files = tmp_path / "serving/predictions", telemetry.log_files
    folder.mkdir(parents=True)
    for day in ("2026-01-01", "2026-03-16"):
        (folder / f"{day}.jsonl").write_text(json.dumps({"time": f"{day}T00:00:00+00:00", "request_id": day, "candidates": []}) + "\n")

    def listed(*asked):
        there = files(*asked)
        (folder / f"{lost}.jsonl").unlink(missing_ok=True)
        return there

    monkeypatch.setattr(telemetry, "log_files", listed)

    found = search(tmp_path, Wanted(since=timedelta(days=365)))

    assert [line["request_id"] for line in found.lines] == [day for day in ("2026-01-01", "2026-03-16") if day != lost]


def test_following_gives_what_comes_once_over_half_lines_and_rotation(out):
    looks = follow(out, Wanted(service="pipeline"), seconds=0)
    assert next(looks).count == 0

    put(out / "logs/pipeline.jsonl", entry(70, "whole", service="pipeline"), '{"service": "pipeline", "event": ')
    assert events(next(looks)) == ["whole"]
    put(out / "logs/pipeline.jsonl", '"at last", "time": "2026-03-16T10:00:00Z"}\n')
    os.replace(out / "logs/pipeline.jsonl", out / "logs/pipeline.jsonl.1")
    put(
        out / "logs/pipeline.jsonl",
        entry(71, "in the new file", service="pipeline"),
        entry(71, "of another", service="serving"),
        "broken\n",
    )
    put(out / "logs/another.jsonl", entry(72, "a new file", service="pipeline"))

    found = next(looks)
    assert sorted(events(found)) == ["a new file", "at last", "in the new file"] and found.broken == 1
    assert next(looks).count == 0


# --- what a person sees ------------------------------------------------------------------------------


def test_a_histogram_counts_every_line_in_bars_of_one_width(out):
    bars = histogram(search(out, Wanted(service="pipeline")))

    assert sum(bar.lines for bar in bars) == 4 and sum(bar.bad for bar in bars) == 1
    assert {after.start - before.start for before, after in pairwise(bars)} == {timedelta(minutes=5)}
    assert bars[0].start <= START and bars[-1].start <= START + timedelta(minutes=61)


@pytest.mark.parametrize("minutes", [0, 1, 23, 24, 600, 100_000, 5_000_000])
def test_a_histogram_has_few_bars_however_long_the_time(minutes):
    found = telemetry.Found([], 2, 0, [(False, "info", f"{START + timedelta(minutes=m):%Y-%m-%dT%H:%M}", 1) for m in (0, minutes)])

    assert 1 <= len(histogram(found)) <= 25
    assert sum(bar.lines for bar in histogram(found)) == 2


def test_answers_have_a_histogram_of_their_own(out):
    found = search(out, Wanted())

    assert sum(bar.lines for bar in histogram(found)) == 5
    assert sum(bar.lines for bar in histogram(found, answers=True)) == 3


def logs(*words) -> str:
    told = CliRunner().invoke(cli.app, ["logs", *map(str, words)])
    assert told.exit_code == 0, told.output
    return re.sub(r"\x1b\[[0-9;]*m", "", told.output)


def test_the_command_prints_lines_a_picture_and_counts(out):
    put(out / "logs/serving.jsonl", "half")
    told = logs("--folder", out, "--service", "pipeline")

    assert "2026-03-16 08:02:00 error" in re.sub(" +", " ", told).replace(".000", "") or "stage failed" in told
    assert 'error={"reason": "disk"}' in told and "run=one" in told
    assert "█" in told and "(1 bad)" in told
    assert "4 lines found, 4 shown; 1 broken or not yet whole" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--request", "request 1"], 1),
        (["--run", "two"], 2),
        (["--level", "error"], 1),
        (["--text", "disk"], 1),
        (["--stage", "data", "--until", "2026-03-16T08:30"], 2),
        (["--since", "2026-03-16T09:00:00+00:00"], 2),
        (["--since", "90s"], 2),
    ],
)
def test_the_command_passes_on_what_is_looked_for(out, words, expected):
    assert f"{expected} lines found" in logs("--folder", out, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--level", "bad"], "no level bad;"),
        *[
            ([option, word], f"{word!r} is no time")
            for option in ("--since", "--until")
            for word in ("noon", "-1d", "9999-12-31T23:59-14:00")
        ],
        *[([option, "9" * many + "d"], "36500d at most") for option in ("--since", "--until") for many in (7, 11, 400)],
        *[
            ([f"--{name}", ""], f"--{name} has no value")
            for name in ("request", "run", "stage", "service", "level", "text", "since", "until")
        ],
        *[([f"--{name}", "a\udcff"], r"'a\udcff' is no text") for name in ("request", "stage", "level", "text", "since", "folder", "env")],
        (["--text", "a\0b"], r"'a\x00b' is no text"),
    ],
)
def test_the_command_says_in_one_line_what_it_does_not_understand(out, words, message):
    told = CliRunner().invoke(cli.app, ["logs", "--folder", str(out), *words])

    assert told.exit_code == 1 and message in told.output and len(told.output.splitlines()) == 1, told.output


@pytest.mark.parametrize("most", ["-1", "9" * 30])
def test_a_number_of_lines_that_cannot_be_is_refused_with_those_that_can(out, most):
    told = CliRunner().invoke(cli.app, ["logs", "--folder", str(out), "--most", most])

    assert told.exit_code == 2 and re.search("(greater|less) than or equal to 1?0+ ", told.output)


@pytest.mark.parametrize("words", [["--since", "36500d"], ["--until", "36500d"], ["--since", "0001-01-01"], ["--until", "9999-12-31"]])
def test_the_longest_spans_and_the_farthest_times_can_be_asked(out, words):
    assert "lines found" in logs("--folder", out, *words)


def test_what_a_line_holds_stays_in_its_line_and_moves_no_cursor(out):
    put(out / "logs/serving.jsonl", entry(90, "an\nevent", service="serving", request_id="a\nb\x1b[2Kc\u2028d"))
    told = logs("--folder", out, "--request", "a\nb\x1b[2Kc\u2028d")

    assert r"an\nevent" in told and r"request_id=a\nb\x1b[2Kc\u2028d" in told


def test_only_what_stands_in_every_line_is_dim():
    line = {
        "time": "2026-03-16T08:00:00Z",
        "level": "info",
        "service": "serving",
        "event": "answer",
        "driver": 1001,
        "exception": "a stack",
    }
    shown = telemetry.readable(line)
    dim = "".join(shown.plain[span.start : span.end] for span in shown.spans if "dim" in str(span.style))

    assert shown.style == "" and dim.split() == ["2026-03-16", "08:00:00Z", "driver="]


def test_before_the_first_log_the_command_says_what_makes_one(tmp_path):
    told = CliRunner().invoke(cli.app, ["logs", "--folder", str(tmp_path)])

    assert told.exit_code == 1 and "`make run ENV=env.test.yaml` or `make serve ENV=env.test.yaml`" in told.output


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

    told = samples((lab / "metrics/pipeline.prom").read_text())
    assert before <= told["last_success_timestamp_seconds", "world"] <= time.time()
    assert told["last_failure_timestamp_seconds", "world"] == 0
    assert 0 < told["duration_seconds", "world"] < 60
    assert (told["rows", "world", "labels"], told["rows", "world", "drivers"]) == (5, 7)


def test_a_failure_is_told_beside_the_last_success(lab):
    with stages.stage("world") as stage:
        ended(stage)
    before = samples((lab / "metrics/pipeline.prom").read_text())
    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    told = samples((lab / "metrics/pipeline.prom").read_text())
    failure = told.pop(("last_failure_timestamp_seconds", "world"))
    assert failure > before.pop(("last_failure_timestamp_seconds", "world")) == 0
    assert told == before


def test_a_stage_that_never_ended_well_has_its_last_success_long_ago(lab):
    with pytest.raises(ZeroDivisionError), stages.stage("world"):
        1 / 0

    assert samples((lab / "metrics/pipeline.prom").read_text())["last_success_timestamp_seconds", "world"] == 0


def test_what_a_service_mounts_is_always_what_the_notes_say(tmp_path):
    from prometheus_client import generate_latest

    mounted = telemetry.pipeline_metrics(tmp_path)
    assert samples(generate_latest(mounted).decode()) == {}
    write_json(tmp_path / "metrics/data.json", telemetry.stage_note({}, 2, {"labels": 9}))
    (tmp_path / "metrics/batch.json").write_text('{"half')

    told = samples(generate_latest(mounted).decode())
    assert told["rows", "data", "labels"] == 9 and not any("batch" in labels for labels in told)


def test_metrics_that_cannot_be_written_fail_no_stage(lab):
    (lab / "metrics").write_text("a file where a folder should be")
    with stages.stage("world") as stage:
        ended(stage)

    assert "metrics not written" in [line["event"] for line in lines(lab / "logs/pipeline.jsonl")]
    assert (lab / "made/world.json").is_file()


# --- Prometheus and Grafana --------------------------------------------------------------------------


def expressions() -> list[tuple[str, str]]:
    "Where it stands, and the expression: of each rule and of each dashboard."
    found = []
    for path in sorted((PLATFORM / "prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            found += [(f"{path.name} {rule.get('alert') or rule['record']}", rule["expr"]) for rule in group["rules"]]
    for path in sorted((PLATFORM / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            found += [(f"{path.name} {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_a_metric_that_a_rule_or_a_dashboard_names_is_one_that_somebody_exports(where, expression):
    modules = [project.root() / f"mlops_course/{name}.py" for name in ("serving", "telemetry", "monitoring", "retraining")]
    shared = (project.root() / "mlops_course/web.py").read_text(encoding="utf-8").replace("{service}", "serving")
    code = shared + "".join(path.read_text(encoding="utf-8") for path in modules if path.is_file())
    for name in re.findall(r"\b(?:serving|pipeline|monitoring|retraining)_[a-z_]+", expression):
        base = re.sub(r"_(total|bucket|count|sum|info)$", "", name)
        module = name.split("_")[0]
        there = f'"{base}"' in code or (module == "monitoring" and f"{base.removeprefix('monitoring_')}" in code)
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
    told = json.loads(path.read_text(encoding="utf-8"))
    source = yaml.safe_load((PLATFORM / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]

    assert told["uid"] == path.stem and told["title"] and told["panels"]
    assert len({panel["id"] for panel in told["panels"]}) == len(told["panels"])
    for panel in told["panels"]:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        assert all(target["legendFormat"] for target in panel["targets"])


def test_prometheus_is_told_the_ports_of_an_environment(tmp_path):
    told = telemetry.prometheus(tmp_path, PLATFORM, {"serving": "127.0.0.1:1234"}, port=5678, every="1s", alertmanager="127.0.0.1:4321")

    written = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in written["scrape_configs"]] == ["serving"]
    assert written["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:1234"]}]
    assert written["global"]["scrape_interval"] == written["global"]["evaluation_interval"] == "1s"
    assert "127.0.0.1:4321" in json.dumps(written["alerting"])
    assert told["port"] == 5678 and "--web.listen-address=127.0.0.1:5678" in told["command"]


def test_a_job_that_prometheus_does_not_know_is_named(tmp_path):
    with pytest.raises(ValueError, match="no job severing"):
        telemetry.prometheus(tmp_path, PLATFORM, {"severing": "127.0.0.1:1"})


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus")
def test_promtool_accepts_the_configuration_that_is_written(tmp_path):
    key = tmp_path / "key"
    key.write_text("k")
    telemetry.prometheus(tmp_path, PLATFORM, {"serving": "127.0.0.1:1"}, key_file=key, alertmanager="127.0.0.1:2")

    told = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus/prometheus.yml"], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
