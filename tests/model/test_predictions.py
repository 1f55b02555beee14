"""The prediction log: whole lines whatever happens to its writers, entries found again, a follower, and how long files stay."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from company import CLOCK
from traffic import ages, days_of, entry, write

from mlops_course import predictions, project
from mlops_course.project import UserError
from mlops_course.web import Background


def started(folder, seconds: float, most: int) -> predictions.PredictionLog:
    "A log whose thread writes."
    log = predictions.PredictionLog(folder, seconds, most)
    Background().thread("prediction log", log.step)
    return log


# --- whole lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), MemoryError("No space")], ids=lambda fault: type(fault).__name__)
def test_a_write_that_breaks_off_leaves_whole_lines_only(tmp_path, monkeypatch, fault):
    class Narrow:
        "A disk with room for ten more bytes."

        def __init__(self, opened):
            self.opened, self.room = opened, 10

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.opened.close()

        def __getattr__(self, name):
            return getattr(self.opened, name)

        def write(self, data):
            if not self.room:
                raise fault
            took, self.room = self.opened.write(data[: self.room]), 0
            return took

    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"a": 1}\n')
    monkeypatch.setattr(predictions, "open", lambda *a, **k: Narrow(open(*a, **k)), raising=False)  # noqa: SIM115

    with pytest.raises(type(fault), match="No space"):
        predictions.append(file, b'{"b": 2}\n{"c": 3}\n')

    assert file.read_bytes() == b'{"a": 1}\n'


def test_another_opener_of_the_log_waits_for_a_line_that_is_being_written_and_cuts_nothing(tmp_path, monkeypatch):
    half, go, line = threading.Event(), threading.Event(), b'{"a": 1}\n'

    class Pausing:
        "A file that is in the middle of a line when the other one comes."

        def __init__(self, opened):
            self.opened = opened

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.opened.close()

        def __getattr__(self, name):
            return getattr(self.opened, name)

        def write(self, data):
            if half.is_set():
                return self.opened.write(data)
            took = self.opened.write(data[:4])
            half.set()
            assert go.wait(30)
            return took

    with ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(predictions, "open", lambda *a, **k: Pausing(open(*a, **k)), raising=False)  # noqa: SIM115
            one = pool.submit(predictions.append, tmp_path / "2026-03-16.jsonl", line)
            assert half.wait(30)
        other = pool.submit(started, tmp_path, 0.01, 10)
        time.sleep(0.1)
        assert not other.done()
        go.set()
        one.result(30)
        log = other.result(30)
    log.add("2026-03-16", b'{"b": 2}\n')

    assert log.close() == 0
    assert (tmp_path / "2026-03-16.jsonl").read_bytes() == line + b'{"b": 2}\n'


def test_what_two_openers_of_one_log_write_at_the_same_time_is_all_there(tmp_path):
    logs = [started(tmp_path, 0.001, 10_000) for _ in range(2)]
    written = set()
    for i in range(2_000):
        logs[i % 2].add("2026-03-16", line := json.dumps({"number": i, "more": "x" * (i % 500)}).encode() + b"\n")
        written.add(line)
        if i % 400 == 0:
            started(tmp_path, 0.001, 10).close()  # a third one comes and goes

    assert [log.close() for log in logs] == [0, 0]
    lines = (tmp_path / "2026-03-16.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2_000 and set(lines) == written


@pytest.mark.parametrize("end", [b'{"half', b"\x00" * 5_000, b"x" * 2_000_000], ids=["half a line", "zeros", "more than a line may have"])
def test_half_a_line_is_taken_away_before_the_next_is_written_also_where_nobody_has_started_anew(tmp_path, end):
    file, whole = tmp_path / "2026-03-16.jsonl", b'{"a": 1}\n'
    log = started(tmp_path, 0.001, 10)
    file.write_bytes(whole + end)
    for _ in range(3):
        predictions.append(file, b"")
    log.add("2026-03-16", b'{"b": 2}\n')

    assert log.close() == 0
    assert file.read_bytes() == whole + b'{"b": 2}\n'


def test_each_day_has_its_file_and_the_newest_entry_of_a_request_is_found(tmp_path):
    log, noted = (
        started(tmp_path, 0.01, 10),
        [("2026-03-15", "a"), ("2026-03-16", "a"), ("2026-03-16", "a"), ("2026-03-16", "b")],
    )
    for score, (day, name) in enumerate(noted):
        entry = {"time": f"{day}T12:00:00+00:00", "request_id": name, "score": score, "candidates": [], "beside": "a"}
        log.add(day, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    assert log.close() == 0
    assert {file.name: file.read_bytes().count(b"\n") for file in tmp_path.glob("*.jsonl")} == {
        "2026-03-15.jsonl": 1,
        "2026-03-16.jsonl": 3,
    }
    assert predictions.find(tmp_path, "a")["score"] == 2
    assert predictions.find(tmp_path, "c") is None


def test_a_log_belongs_to_one_service(tmp_path):
    with (
        predictions.only_writer(tmp_path),
        pytest.raises(UserError, match="a service that writes .* runs already"),
        predictions.only_writer(tmp_path),
    ):
        pass


# --- reading it -------------------------------------------------------------------------------------------------------


def read_on(folder, read: dict[str, int]) -> list[str | None]:
    "The request ids of what is new; `read` is brought up to date."
    results = []
    for piece in predictions.unread(folder, read):
        read[piece.file] = piece.read
        results += [each.get("request_id") for each in piece.entries]
    return results


def test_a_follower_reads_each_whole_line_once(tmp_path):
    folder, read = project.Paths(tmp_path).predictions, {}
    write(tmp_path, [entry("a")], day="2026-03-01")
    write(tmp_path, [entry("b"), entry("c")], end=b"")

    assert read_on(folder, read) == ["a", "b"]
    write(tmp_path, [], end=b"\nno JSON\n")
    assert read_on(folder, read) == ["c", None]
    assert read_on(folder, read) == []


def test_a_follower_begins_a_file_again_that_is_shorter_than_it_was(tmp_path):
    folder, read = project.Paths(tmp_path).predictions, {}
    write(tmp_path, [entry("a"), entry("b")])
    assert read_on(folder, read) == ["a", "b"]
    (folder / "2026-03-02.jsonl").unlink()
    write(tmp_path, [entry("c")])

    assert read_on(folder, read) == ["c"]


def test_the_last_time_is_that_of_the_newest_file_with_one_that_can_be_believed(tmp_path):
    folder = project.Paths(tmp_path).predictions
    assert predictions.last_time(folder) is None
    write(tmp_path, [entry("a", minutes=1), entry("b", minutes=2)])
    write(tmp_path, [{"time": "2099-01-01T00:00:00Z"}, {}], day="2026-03-03")

    assert predictions.last_time(folder).year == 2099
    assert predictions.last_time(folder, CLOCK).isoformat() == entry("b", minutes=2)["time"]


def test_the_last_time_is_the_newest_also_where_another_service_wrote_an_older_answer_after_it(tmp_path):
    write(tmp_path, [entry("a", minutes=1), entry("c", minutes=3), entry("b", minutes=2)])

    assert predictions.last_time(project.Paths(tmp_path).predictions).isoformat() == entry("c", minutes=3)["time"]


# --- how long it is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 7, 35, 90])
def test_of_a_long_log_so_many_days_stay_beside_the_present_one(tmp_path, days):
    days_of(tmp_path, *range(300))

    gone = predictions.expire(tmp_path, CLOCK.date(), days)

    assert ages(tmp_path) == list(range(days + 1))
    assert len(gone) == 299 - days and gone == sorted(gone)
    assert predictions.expire(tmp_path, CLOCK.date(), days) == []


@pytest.mark.parametrize("ahead", [91, 92, 365, 30 * 365])
def test_a_clock_that_has_jumped_deletes_nothing_until_the_log_has_grown_on_for_as_long(tmp_path, ahead):
    "In an ordinary life a file goes a day; a clock in the future would take all of them at once."
    days_of(tmp_path, *range(91))
    future = CLOCK + timedelta(days=ahead)

    assert predictions.expire(tmp_path, future.date(), 90) == []
    for passed in range(91):
        days_of(tmp_path, -passed, since=future)
        assert predictions.expire(tmp_path, (future + timedelta(days=passed)).date(), 90) == []
    assert len(ages(tmp_path)) == 2 * 91
    days_of(tmp_path, -91, since=future)
    predictions.expire(tmp_path, (future + timedelta(days=91)).date(), 90)
    assert ages(tmp_path, since=future + timedelta(days=91)) == list(range(91))


def test_a_clock_that_has_gone_back_deletes_nothing(tmp_path):
    days_of(tmp_path, *range(91))

    for back in (1, 90, 400, 20_000):
        assert predictions.expire(tmp_path, (CLOCK - timedelta(days=back)).date(), 90) == []


def test_the_newest_file_stays_however_old_it_is(tmp_path):
    days_of(tmp_path, 500, 501, 502)

    assert predictions.expire(tmp_path, CLOCK.date(), 90) == []


def test_what_is_no_file_of_a_day_is_left_alone(tmp_path):
    days_of(tmp_path, *range(100))
    others = [
        "2020-01-01.jsonl.bak",
        "2020-13-01.jsonl",
        "20200101.jsonl",
        "2020-W01-1.jsonl",
        "notes.jsonl",
        ".2020-01-01.jsonl",
        "2020-01-01.json",
    ]
    for name in others:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / "2020-01-02.jsonl").mkdir()
    (tmp_path / "2020-01-03.jsonl").symlink_to(tmp_path / "nowhere")

    predictions.expire(tmp_path, CLOCK.date(), 10)

    assert {path.name for path in tmp_path.iterdir()} >= {*others, "2020-01-02.jsonl", "2020-01-03.jsonl"}
    assert len(predictions.day_files(tmp_path)) == 11


def test_a_file_that_somebody_else_has_deleted_meanwhile_is_no_fault(tmp_path, monkeypatch):
    days_of(tmp_path, *range(100))
    there = predictions.day_files(tmp_path)
    for file in list(there.values())[:5]:
        file.unlink()
    monkeypatch.setattr(predictions, "day_files", lambda folder: there)

    assert len(predictions.expire(tmp_path, CLOCK.date(), 10)) == 89
    assert predictions.find(tmp_path, "nobody") is None  # looks into files that are gone
