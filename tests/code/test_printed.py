"""What programs of others print is found beside the logs of the course: at its moment, as bad as it is, and without passwords."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_course import cli, printed, search

FATAL = "2026-11-27 10:51:44.782 UTC [2553] FATAL:  the database system is starting up"


@pytest.fixture
def tokyo(monkeypatch):
    "A machine nine hours before UTC."
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def out(tmp_path) -> Path:
    "An environment whose services have logged and printed."
    put(tmp_path / "logs/serving.jsonl", json.dumps({"time": "2026-11-27T10:52:00Z", "level": "info", "service": "serving", "event": "on"}))
    put(tmp_path / "services/postgres.log", FATAL, "a line that goes on", "half of it", end="")
    put(tmp_path / "services/postgres.log.1", "2026-11-27 09:00:00.000 UTC [1] LOG:  it was rotated")
    put(tmp_path / "services/redis.log", "1:M 27 Nov 2026 10:53:00.104 * Server initialized")
    put(tmp_path / "services/redis.service", '{"program": "redis-server"}')
    return tmp_path


def put(file: Path, *lines: str, end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + end)


def events(matches: search.Matches) -> list[str]:
    return [line["event"] for line in matches.lines]


@pytest.mark.parametrize(
    ("line", "moment", "level", "event"),
    [
        (FATAL, "10:51:44", "critical", "the database system is starting up"),
        ("2026-11-27 10:51:44.782 UTC [25] DETAIL:  more", "10:51:44", None, "more"),
        ("17:M 27 Nov 2026 10:51:25.104 # Server", "01:51:25", "warning", "Server"),
        ("17:C 27 Nov 2026 10:51:25.104 - verbose", "01:51:25", "debug", "verbose"),
        ("ts=2026-11-27T11:03:04.324Z caller=main.go:823 level=warn msg=x", "11:03:04", "warning", "msg=x"),
        ("[E 2026-11-27 11:03:03.576 LabApp] 500 GET /", "02:03:03", "error", "500 GET /"),
        ("[2026-11-27 11:02:51,204] WARN it is slow", "02:02:51", "warning", "it is slow"),
        ("2026/11/27 11:02:48 INFO:     Started server process", "02:02:48", "info", "Started server process"),
        ("2026/11/27 11:02:48 ERROR mlflow.server: it ended", "02:02:48", "error", "mlflow.server: it ended"),
        ('INFO:     127.0.0.1:60690 - "GET /" 200 OK', None, "info", '127.0.0.1:60690 - "GET /" 200 OK'),
        ("99:M 99 Foo 2026 99:99:99.104 # no time", None, "warning", "no time"),
        ("Traceback (most recent call last):", None, None, "Traceback (most recent call last):"),
        ("", None, None, ""),
    ],
)
def test_a_line_in_each_form_is_read_and_a_time_without_a_zone_is_the_machines(tokyo, line, moment, level, event):
    read = printed.parsed(line)

    assert (read.time and f"{read.time:%H:%M:%S}", read.level, read.event) == (moment, level, event)
    assert read.time is None or read.time.utcoffset() == timedelta(0)


def test_a_line_that_goes_on_is_of_the_moment_and_the_level_before():
    lines = ["first of all", FATAL, "Traceback", "", '{"event": "JSON"}', "2026-11-27 10:52:00.000 UTC [1] LOG:  on"]

    seen = [json.loads(line) for line in printed.in_json(lines, "postgres", datetime(2026, 1, 1, tzinfo=UTC))]

    assert [(each.get("time", "")[11:19], each.get("level")) for each in seen] == [
        ("00:00:00", "info"), ("10:51:44", "critical"), ("10:51:44", "critical"), ("", None), ("10:52:00", "info")
    ]  # fmt: skip


def test_lines_of_one_moment_keep_their_order(out):
    put(out / "services/redis.log", *(f"1:M 27 Nov 2026 10:53:00.104 * step {n}" for n in range(50)), *(f"and {n}" for n in range(50)))

    matches = search.search(out, search.Query(service="redis"), most=101)

    assert events(matches) == ["Server initialized", *(f"step {n}" for n in range(50)), *(f"and {n}" for n in range(50))]


@pytest.mark.parametrize("level", [*search.LEVELS])
def test_a_level_does_not_run_into_the_service(level):
    assert f"{level} " in search.readable({"level": level, "service": "redis", "event": "e"}).plain


@pytest.mark.parametrize(
    "line", ["connecting with password=hunter2 now", "postgresql://mlops:hunter2@127.0.0.1/mlflow", "Authorization: Bearer hunter2"]
)
def test_no_password_comes_out_of_it(line):
    assert "hunter2" not in "".join(printed.in_json([line], "mlflow", datetime.now(UTC)))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (search.Query(), ["it was rotated", "the database system is starting up", "a line that goes on", "on", "Server initialized"]),
        (search.Query(service="postgres"), ["it was rotated", "the database system is starting up", "a line that goes on"]),
        (search.Query(service="redis"), ["Server initialized"]),
        (search.Query(level="error"), ["the database system is starting up", "a line that goes on"]),
        (search.Query(text="rotated"), ["it was rotated"]),
        (search.Query(since=datetime(2026, 11, 27, 10, 51, 50, tzinfo=UTC)), ["on", "Server initialized"]),
        (search.Query(run="one"), []),
        (search.Query(request="one"), []),
    ],
)
def test_what_was_printed_is_found_beside_what_was_logged(monkeypatch, out, query, expected):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    matches = search.search(out, query)

    assert sorted(events(matches)) == sorted(expected) and matches.broken == 0


def test_a_folder_with_printed_lines_alone_can_be_searched(out):
    (out / "logs/serving.jsonl").unlink()

    assert search.search(out, search.Query()).count == 4


def test_the_programs_of_the_platform_are_found_from_another_environment(out, tmp_path):
    own = tmp_path / "own"
    put(own / "logs/pipeline.jsonl", json.dumps({"time": "2026-11-27T10:00:00Z", "event": "built", "service": "pipeline"}))

    assert events(search.search(own, search.Query())) == ["built"]
    assert len(events(search.search(own, search.Query(), platform=out))) == 5
    assert search.search(out, search.Query(), platform=out).count == 5, "each file once"


def test_following_gives_what_a_program_prints(out):
    looks = search.follow(out, search.Query(service="redis"), seconds=0)
    assert next(looks).count == 0

    put(out / "services/redis.log", "1:M 27 Nov 2026 10:54:00.104 # it is full")
    put(out / "services/postgres.log", " and the rest")
    os.replace(out / "services/redis.log", out / "services/redis.log.1")
    put(out / "services/redis.log", "1:M 27 Nov 2026 10:55:00.104 * it goes on")

    assert sorted(events(next(looks))) == ["it goes on", "it is full"]


def test_the_command_shows_them(out):
    answer = CliRunner().invoke(cli.app, ["logs", "--folder", str(out), "--service", "postgres", "--level", "error"])

    assert answer.exit_code == 0 and "the database system is starting up" in answer.output and "2 lines found" in answer.output
