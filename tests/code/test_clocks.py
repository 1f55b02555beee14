"""The clock of an environment's folder: whose it is, when it ends, and where the next one begins."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_course import clocks, project
from mlops_course.files import write_json
from mlops_course.project import UserError

FIXED = datetime(2026, 3, 16, tzinfo=UTC)  # of env.test.yaml
END = FIXED + timedelta(days=60)
JOIN = """
import sys
from pathlib import Path
from mlops_course import clocks, project
clocks.join(Path(sys.argv[1]))
print(project.now().isoformat(), flush=True)
"""


@pytest.fixture(autouse=True)
def left():
    "No test leaves a clock to the next one."
    yield
    clocks.leave()


def joined(folder) -> datetime:
    "What the clock of a process shows that this one has started."
    done = subprocess.run([sys.executable, "-c", JOIN, folder], capture_output=True, text=True, cwd=project.root(), check=True)
    return datetime.fromisoformat(done.stdout.strip())


def answered(folder, *lines: str) -> None:
    (folder / "serving/predictions").mkdir(parents=True, exist_ok=True)
    (folder / "serving/predictions/2026-04-20.jsonl").write_text("".join(lines), encoding="utf-8")


def entry(moment: datetime) -> str:
    return json.dumps({"time": moment.isoformat(), "request_id": "r"}) + "\n"


def test_a_service_that_starts_a_day_after_the_live_company_lives_where_the_last_answer_was_given(tmp_path):
    last = FIXED + timedelta(days=35)
    clocks.begin(tmp_path, FIXED, 21_600, END)
    clocks.leave()
    clock = json.loads((tmp_path / "clock.json").read_text())
    write_json(tmp_path / "clock.json", {**clock, "real": str(datetime.now(UTC) - timedelta(days=1)), "until": None})
    answered(tmp_path, entry(last - timedelta(days=1)), entry(last))

    clocks.join(tmp_path)

    assert timedelta(0) <= project.now() - last < timedelta(minutes=1)


@pytest.mark.parametrize("torn", ["", '{"time": "2026-04-2', "{}\n", '{"time": 3}\n', "\x00\x00\n", '{"time": "soon"}\n'])
def test_a_torn_end_of_the_log_does_not_hide_the_last_answer(tmp_path, torn):
    last = FIXED + timedelta(days=35)
    answered(tmp_path, entry(last), torn)

    clocks.join(tmp_path)

    assert project.now() - last < timedelta(minutes=1)


def test_whoever_starts_first_no_service_lives_before_what_another_has_written(tmp_path):
    last = FIXED + timedelta(days=35)
    answered(tmp_path, entry(last))

    assert joined(tmp_path) >= last, "monitoring has seen nothing yet, and starts first"
    clocks.join(tmp_path, newest=last + timedelta(days=1))
    assert project.now() >= last + timedelta(days=1)


def test_a_clock_that_was_set_goes_to_all_that_this_process_starts_even_if_nobody_lives_by_it(tmp_path):
    clocks.begin(tmp_path, FIXED, 21_600, END)
    shown = project.now()
    clocks._members.close()  # as if this process had been killed, and with it all others

    assert shown <= joined(tmp_path) <= END
    assert joined(tmp_path / "another folder") < FIXED + timedelta(minutes=1)


def test_a_clock_that_is_led_waits_for_whoever_leads_it(tmp_path):
    clocks.begin(tmp_path, FIXED, 1_000_000, END, led=True)
    time.sleep(0.1)
    assert project.now() == FIXED and joined(tmp_path) == FIXED

    clocks.lead(tmp_path, FIXED + timedelta(hours=1))

    assert project.now() == FIXED + timedelta(hours=1) and joined(tmp_path) == project.now()


def test_a_clock_that_was_left_goes_to_nobody(tmp_path):
    clocks.begin(tmp_path, FIXED, 1_000_000, END)
    clocks.leave()

    assert joined(tmp_path) < FIXED + timedelta(minutes=1)


@pytest.mark.parametrize("value", ["", "{}", "[]", "3", "no clock", '{"folder": "FOLDER"}', '{"folder": "FOLDER", "began": "soon"}'])
def test_a_variable_that_is_no_clock_changes_nothing(tmp_path, monkeypatch, value):
    monkeypatch.setenv(clocks.CLOCK, value.replace("FOLDER", str(tmp_path)))

    clocks.join(tmp_path)

    assert project.now() < FIXED + timedelta(minutes=1)


def test_time_does_not_go_back_with_the_machine_s():
    clock = project.Clock(FIXED, datetime.now(UTC) + timedelta(hours=1), 21_600, END)

    assert clock.time() == FIXED


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"began": "soon", "real": "now", "speed": 1, "until": null}'])
def test_a_clock_that_cannot_be_read_is_a_message(tmp_path, text):
    other = subprocess.Popen(
        [sys.executable, "-c", f"{JOIN}\nsys.stdin.read()", tmp_path], stdin=-1, stdout=-1, text=True, cwd=project.root()
    )
    with other:
        other.stdout.readline()
        (tmp_path / "clock.json").write_text(text)
        with pytest.raises(UserError, match="the clock of .* cannot be used .*make stop"):
            clocks.join(tmp_path)
        other.kill()
    assert project.now() == FIXED


def test_a_folder_that_cannot_be_written_to_is_a_message(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="the clock of .* cannot be used"):
        clocks.join(tmp_path / "file/out")


STAYS = """
import os, sys
from pathlib import Path
from mlops_course import clocks, project
os.environ["PLOOMBER_ENV_FILENAME"] = "env.test.yaml"
clocks.join(Path(sys.argv[1]))
print(project.now().isoformat(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def joins(tmp_path):
    "Start another process that lives by the clock of `tmp_path`; what its clock shows."
    started = []

    def start() -> datetime:
        process = subprocess.Popen(
            [sys.executable, "-c", STAYS, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project.root()
        )
        started.append(process)
        return datetime.fromisoformat(process.stdout.readline().strip())

    start.processes = started
    yield start
    clocks.leave()
    for process in started:
        process.kill()
        process.communicate()


def test_whoever_starts_while_another_lives_joins_its_clock(tmp_path, joins):
    clocks.begin(tmp_path, FIXED, 86_400, FIXED + timedelta(days=1_000))
    time.sleep(0.2)
    output = joins()
    assert FIXED + timedelta(hours=4) < output <= project.now()


def test_a_clock_of_a_dead_run_counts_no_longer(tmp_path, joins):
    clocks.begin(tmp_path, FIXED, 86_400 * 365, FIXED + timedelta(days=100_000))
    clocks.leave()
    assert joins() < FIXED + timedelta(minutes=1)


def test_a_clock_of_a_killed_process_counts_no_longer(tmp_path, joins):
    joins()
    joins.processes[0].kill()
    joins.processes[0].wait()
    clocks.begin(tmp_path, FIXED + timedelta(days=9), 1, FIXED + timedelta(days=10))
    assert project.now() >= FIXED + timedelta(days=9)


def test_a_clock_is_not_changed_under_those_who_live_by_it(tmp_path, joins):
    joins()
    with pytest.raises(UserError, match="make stop"):
        clocks.begin(tmp_path, FIXED, 2, FIXED + timedelta(days=1))
    assert project.now() == FIXED


@given(speed=st.floats(0.001, 1e9), years=st.integers(0, 5_000))
def test_a_clock_stops_at_its_end_and_never_overflows(speed, years):
    until = FIXED + timedelta(days=40)
    clock = project.Clock(FIXED, datetime.now(UTC) - timedelta(days=min(365 * years, 700_000)), speed, until)
    assert FIXED <= clock.time() <= until
