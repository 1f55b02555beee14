"""November and December of 2013 as they came, at one airport: monitoring sees a storm, retraining answers, the gate decides."""

import json
import re
import shutil
import sys

import pandas as pd
import pytest
import yaml
from browser import free_port

from mlops_course import capstone, cases, project, replay
from mlops_course.contracts import read_project
from mlops_course.tables import schema_of, write_table

MISSING = [name for name in ("prometheus", "prometheus-alertmanager") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.patient,  # the clock waits for all that happens
    pytest.mark.skipif(bool(MISSING), reason=f"not here: apt-get install {' '.join(MISSING)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
]
AIRPORT, CLOCK = "JFK", pd.Timestamp("2013-11-01", tz="UTC")  # a third of the flights
UNTIL = pd.Timestamp("2013-12-14", tz="UTC")
FILE = "env.one_airport.yaml"


def write_files(folder) -> None:
    "The year of one airport, to its end."
    raw = capstone.read("flights.csv.zip")
    frame = capstone.flights(raw[raw.origin == AIRPORT].reset_index(drop=True), capstone.read("airports.csv"))
    hours = capstone.weather(capstone.read("weather.csv"))
    made = capstone.tables(frame, hours[hours.origin == AIRPORT], pd.Timestamp("2014-01-03", tz="UTC"))
    made["request"] = capstone.last_day(made["schedule"], CLOCK)
    folder.mkdir()
    for name, table in read_project("projects/flights.yaml").contract.tables.items():
        kinds = {column.name: column.kind for column in table.columns}
        write_table(made[name], schema_of(kinds), folder / f"{name}.parquet")


def write_environment(root) -> None:
    "The project and the environment of lesson 80, for a third of the flights: fewer labels are enough."
    text = (root / "projects/flights.yaml").read_text(encoding="utf-8")
    made = yaml.safe_load(text.replace("raw: capstone", "raw: null"))
    made["acceptance"] |= {"labels": 5_000, "entities": 8}
    (root / "projects/one_airport.yaml").write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    text = (root / "env.flights.yaml").read_text(encoding="utf-8").replace("{{out}}/flights", str(root / "files"))
    made = yaml.safe_load(text)
    ports = {name: {"port": free_port()} for name in ("serving", "monitoring", "retraining")}
    ports["replay"] = {"prometheus_port": free_port(), "alertmanager_port": free_port(), "speed": 86_400}
    ports["replay"]["until"] = UNTIL.isoformat()
    ports["monitoring"] |= {"window_requests": 300, "window_labels": 2_000}
    for section, values in ports.items():
        made[section] = {**made.get(section, {}), **values}
    made |= {"name": "one_airport", "out": "out/one_airport", "project": "projects/one_airport.yaml"}
    (root / FILE).write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def printed(workshop) -> str:
    "What `mlops-course replay` has printed: it builds, starts the services, and lets the rest of the year come."
    write_files(workshop.folder / "files")
    write_environment(workshop.folder)
    work = workshop.start("mlops-course", "replay", "--env", FILE)
    try:
        output, _ = work.communicate(timeout=900)
    finally:
        if work.poll() is None:
            workshop.stop(work)
    assert work.returncode == 0, output[-3_000:]
    return output


@pytest.fixture(scope="module")
def out(workshop, printed):
    return workshop.folder / "out/one_airport"


@pytest.fixture(scope="module")
def handled(out) -> list[cases.Case]:
    return cases.read_cases(out)


def alarms(printed: str) -> dict[str, pd.Timestamp]:
    "When each alarm rang first, by the clock of the replay."
    rung = re.findall(r"^(\S+ \S+)  alarm: (.+)$", printed, re.M)
    return {what: pd.Timestamp(moment, tz="UTC") for moment, what in rung}


def moment(case: cases.Case, what: str) -> pd.Timestamp:
    "When a step was taken for the first time."
    return pd.Timestamp(next(step["time"] for step in case.steps if step["what"] == what))


def test_each_flight_was_asked_about_once_and_its_label_came(workshop, out, printed):
    flights = pd.read_parquet(workshop.folder / "files/schedule.parquet")
    asked = flights[(flights.asked_at > CLOCK) & (flights.asked_at <= UNTIL)].flight_id
    lines = [line for file in sorted((out / "serving/predictions").glob("*.jsonl")) for line in file.read_text().splitlines()]
    answered = [json.loads(line)["request_id"] for line in lines]

    assert sorted(answered) == sorted(asked) and len(asked) > 12_000
    assert f"{len(asked):,} requests answered" in printed and "without an answer" not in printed


def test_monitoring_sees_the_storm_before_thanksgiving_and_nothing_when_clocks_changed(printed, handled):
    first = alarms(printed)["features of version 1"]

    assert pd.Timestamp("2013-11-27", tz="UTC") < first < pd.Timestamp("2013-12-01", tz="UTC"), alarms(printed)
    assert handled[0].version == "1" and abs(moment(handled[0], "alerted") - first) < pd.Timedelta(days=2)
    assert first == min(alarms(printed).values()), "nothing rang before"


def test_the_loop_trains_a_week_later_and_the_gate_says_why(out, handled):
    case = handled[0]

    assert moment(case, "training") - moment(case, "alerted") > pd.Timedelta(days=6)
    assert case.result == "promoted" and case.promoted == "2", case.steps
    decision = json.loads((out / "training/decision.json").read_text())
    compared = {check["name"]: check for check in decision["checks"] if check["name"].startswith("no worse in")}
    assert set(compared) == {"no worse in log loss", "no worse in worth"} and all(check["passed"] for check in compared.values())
    assert "than the champion" in compared["no worse in log loss"]["message"]


def test_monitoring_sees_that_a_week_of_december_is_worse_than_any_before(printed):
    first = alarms(printed)["performance of version 2"]

    assert pd.Timestamp("2013-12-08", tz="UTC") < first < pd.Timestamp("2013-12-13", tz="UTC"), alarms(printed)


def test_december_is_worse_with_and_without_a_new_champion(workshop, out, printed):
    "A retraining is no cure for weather: the features that know the present are what carries both."
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        flights = read_project("projects/one_airport.yaml")
        labels = pd.read_parquet("files/arrivals.parquet")
        weeks = replay.by_week(replay.compared(project.root() / "out/one_airport", labels, flights), flights.contract)
    calm, bad = weeks.loc["2013-11-08"], weeks.loc["2013-12-06"]

    assert "2" in bad.version and bad["late"] > 2 * calm["late"]
    assert bad["log loss"] > calm["log loss"] + 0.1
    assert abs(bad["log loss"] - bad["of the first"]) < flights.acceptance.no_worse, weeks
    assert "2013-12-06" in printed
