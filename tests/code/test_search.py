"""What was logged is found again: by request, run and words, in files that are torn, rotated and deleted meanwhile."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from mlops_course import cli, search

START = datetime(2026, 3, 16, 8, tzinfo=UTC)


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


def events(matches) -> list[str]:
    return [line["event"] for line in matches.lines]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (search.Query(run="one"), ["stage started", "stage failed"]),
        (search.Query(run="two", stage="training"), ["stage started"]),
        (search.Query(run="three"), []),
        (search.Query(stage="data"), ["stage started", "stage failed", "stage started"]),
        (search.Query(service="pipeline", level="warning"), ["stage failed"]),
        (search.Query(level="warning"), ["stage failed", "request refused"]),
        (search.Query(level="error"), ["stage failed"]),
        (search.Query(text='"disk"'), ["stage failed"]),
        (search.Query(text="1001"), ["answer"] * 3),
        (search.Query(request="request 1"), ["answer"]),
        (search.Query(request="request"), []),
        (search.Query(request='b "ü" \\'), ["request refused"]),
        (search.Query(service="serving"), ["answer"] * 3 + ["request refused"]),
        (search.Query(service="pipeline", since=START + timedelta(minutes=60)), ["stage started"] * 2),
        (search.Query(service="pipeline", since=START + timedelta(minutes=1), until=START + timedelta(minutes=60)), ["stage failed"]),
        (search.Query(level="info", until=START + timedelta(minutes=1)), ["answer", "stage started"]),
    ],
)
def test_what_is_looked_for_is_found_and_nothing_else(out, wanted, expected):
    matches = search.search(out, wanted)

    assert sorted(events(matches)) == sorted(expected) and matches.count == len(expected) and matches.broken == 0


def test_a_value_is_no_piece_of_sql(out):
    assert search.search(out, search.Query(request="' OR true --")).count == 0
    assert search.search(out, search.Query(text="' OR true --", run="';", stage="x'")).count == 0


def test_an_answer_is_found_without_its_candidates(out):
    (line,) = search.search(out, search.Query(request="request 2")).lines

    assert line["latency_ms"] == 2.5 and line["version"] == "1" and "candidates" not in line


def test_the_newest_lines_are_given_in_their_order_and_all_are_counted(out):
    matches = search.search(out, search.Query(service="pipeline"), most=2)

    assert [(line["run"], line["stage"]) for line in matches.lines] == [("two", "data"), ("two", "training")]
    assert matches.count == 4


def test_a_span_counts_back_from_now_and_for_answers_from_the_newest(out):
    put(out / "logs/pipeline.jsonl", {**entry(0, "just now"), "time": datetime.now(UTC).isoformat()})

    assert sorted(events(search.search(out, search.Query(since=timedelta(seconds=90))))) == ["answer", "answer", "just now"]


def test_broken_lines_are_counted_and_stop_nobody(out):
    broken = [b'{"event": "ha\n', b"17\n", b'{"event": 1{"event": 2}\n', b"\x00\x00\n", b'{"event": "\xff\xfe"}\n', b'{"no end": 1']
    with open(out / "logs/serving.jsonl", "ab") as file:
        file.write(b"".join(broken[:3]) + b"\n\r\n" + b"".join(broken[3:5]))
    put(out / "logs/serving.jsonl", entry(31, "still here", service="serving", much="x" * 3_000_000))
    with open(out / "logs/serving.jsonl", "ab") as file:
        file.write(broken[5])

    matches = search.search(out, search.Query())

    assert matches.broken == len(broken)
    assert matches.count == 9 and "still here" in events(matches)


def test_an_environment_without_logs_has_nothing_to_find(tmp_path):
    assert search.search(tmp_path, search.Query()) == ([], 0, 0, [])


def test_two_hundred_thousand_lines_are_searched(tmp_path):
    lines_of = [json.dumps(entry(n / 200, "request refused", "info" if n % 10 else "warning", service="serving", request_id=f"request {n}"))
                for n in range(200_000)]  # fmt: skip
    put(tmp_path / "logs/serving.jsonl", "\n".join(lines_of) + "\n")

    assert search.search(tmp_path, search.Query(request="request 199999")).count == 1
    assert search.search(tmp_path, search.Query(level="warning")).count == 20_000
    assert search.search(tmp_path, search.Query()).count == 200_000


# --- following ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["2026-01-01", "2026-03-16"])
def test_a_file_that_is_deleted_while_it_is_searched_is_no_fault(tmp_path, monkeypatch, lost):
    "Serving deletes old files of its log, and logs are rotated."
    folder, files = tmp_path / "serving/predictions", search.log_files
    folder.mkdir(parents=True)
    for day in ("2026-01-01", "2026-03-16"):
        (folder / f"{day}.jsonl").write_text(json.dumps({"time": f"{day}T00:00:00+00:00", "request_id": day, "candidates": []}) + "\n")

    def listed(*asked):
        there = files(*asked)
        (folder / f"{lost}.jsonl").unlink(missing_ok=True)
        return there

    monkeypatch.setattr(search, "log_files", listed)

    matches = search.search(tmp_path, search.Query(since=timedelta(days=365)))

    assert [line["request_id"] for line in matches.lines] == [day for day in ("2026-01-01", "2026-03-16") if day != lost]


def test_following_gives_what_comes_once_over_half_lines_and_rotation(out):
    looks = search.follow(out, search.Query(service="pipeline"), seconds=0)
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

    matches = next(looks)
    assert sorted(events(matches)) == ["a new file", "at last", "in the new file"] and matches.broken == 1
    assert next(looks).count == 0


# --- what a person sees ------------------------------------------------------------------------------


def test_a_histogram_counts_every_line_in_bars_of_one_width(out):
    bars = search.histogram(search.search(out, search.Query(service="pipeline")))

    assert sum(bar.lines for bar in bars) == 4 and sum(bar.bad for bar in bars) == 1
    assert {after.start - before.start for before, after in pairwise(bars)} == {timedelta(minutes=5)}
    assert bars[0].start <= START and bars[-1].start <= START + timedelta(minutes=61)


@pytest.mark.parametrize("minutes", [0, 1, 23, 24, 600, 100_000, 5_000_000])
def test_a_histogram_has_few_bars_however_long_the_time(minutes):
    matches = search.Matches([], 2, 0, [(False, "info", f"{START + timedelta(minutes=m):%Y-%m-%dT%H:%M}", 1) for m in (0, minutes)])

    assert 1 <= len(search.histogram(matches)) <= 25
    assert sum(bar.lines for bar in search.histogram(matches)) == 2


def test_answers_have_a_histogram_of_their_own(out):
    matches = search.search(out, search.Query())

    assert sum(bar.lines for bar in search.histogram(matches)) == 5
    assert sum(bar.lines for bar in search.histogram(matches, answers=True)) == 3


def logs(*words) -> str:
    result = CliRunner().invoke(cli.app, ["logs", *map(str, words)])
    assert result.exit_code == 0, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_the_command_prints_lines_a_picture_and_counts(out):
    put(out / "logs/serving.jsonl", "half")
    entries = logs("--folder", out, "--service", "pipeline")

    assert "2026-03-16 08:02:00 error" in re.sub(" +", " ", entries).replace(".000", "") or "stage failed" in entries
    assert 'error={"reason": "disk"}' in entries and "run=one" in entries
    assert "█" in entries and "(1 bad)" in entries
    assert "4 lines found, 4 shown; 1 broken or not yet whole" in entries


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
    result = CliRunner().invoke(cli.app, ["logs", "--folder", str(out), *words])

    assert result.exit_code == 1 and message in result.output and len(result.output.splitlines()) == 1, result.output


@pytest.mark.parametrize("most", ["-1", "9" * 30])
def test_a_number_of_lines_that_cannot_be_is_refused_with_those_that_can(out, most):
    result = CliRunner().invoke(cli.app, ["logs", "--folder", str(out), "--most", most])

    assert result.exit_code == 2 and re.search("(greater|less) than or equal to 1?0+ ", result.output)


@pytest.mark.parametrize("words", [["--since", "36500d"], ["--until", "36500d"], ["--since", "0001-01-01"], ["--until", "9999-12-31"]])
def test_the_longest_spans_and_the_farthest_times_can_be_asked(out, words):
    assert "lines found" in logs("--folder", out, *words)


def test_what_a_line_holds_stays_in_its_line_and_moves_no_cursor(out):
    put(out / "logs/serving.jsonl", entry(90, "an\nevent", service="serving", request_id="a\nb\x1b[2Kc\u2028d"))
    entries = logs("--folder", out, "--request", "a\nb\x1b[2Kc\u2028d")

    assert r"an\nevent" in entries and r"request_id=a\nb\x1b[2Kc\u2028d" in entries


def test_only_what_stands_in_every_line_is_dim():
    line = {
        "time": "2026-03-16T08:00:00Z",
        "level": "info",
        "service": "serving",
        "event": "answer",
        "driver": 1001,
        "exception": "a stack",
    }
    shown = search.readable(line)
    dim = "".join(shown.plain[span.start : span.end] for span in shown.spans if "dim" in str(span.style))

    assert shown.style == "" and dim.split() == ["2026-03-16", "08:00:00Z", "driver="]


def test_before_the_first_log_the_command_says_what_makes_one(tmp_path):
    result = CliRunner().invoke(cli.app, ["logs", "--folder", str(tmp_path)])

    assert result.exit_code == 1 and "`make run ENV=env.test.yaml` or `make serve ENV=env.test.yaml`" in result.output
