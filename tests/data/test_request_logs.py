"""A log of another company, by configuration alone: words for labels, two forms of times, NA for the driver, packed, in several files."""

import gzip
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from data import files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rides import CONTRACT

from mlops_course import batch, data, project, readers, words
from mlops_course.problem import Column, Table

NOW = datetime(2026, 7, 8, tzinfo=UTC)
LABELS, CANDIDATES, REQUEST = (CONTRACT.tables[name] for name in ["labels", "candidates", "request"])
HEADER = "Request no,From,Driver no,Outcome,Requested at,Dropped at"
LOG = f"""{HEADER}
619,Airport,1,Arrived,1/7/2026 11:51,1/7/2026 13:00
867,Airport,1,Arrived,1/7/2026 17:57,1/7/2026 18:47
1807,City,1,Cancelled by rider,02-07-2026 09:17:26,NA
2532,Airport,NA,Nobody free,02-07-2026 21:08:03,NA
3112,City,2,Arrived,03-07-2026 08:33:16,03-07-2026 09:57:28
3113,City,NA,Nobody free,4/7/2026 08:33,NA
3879,Harbour,3,Arrived,5/7/2026 21:57,NA
"""
CONFIGURATION = """
owner: dispatch
columns: {Request no: request_id, Requested at: event_timestamp, Driver no: driver_id, Outcome: trip_completed, Dropped at: created}
zone: Asia/Kolkata
time_format: ["%d/%m/%Y %H:%M", "%d-%m-%Y %H:%M:%S"]
values:
  Outcome: {Arrived: 1, Cancelled by rider: 0, Nobody free: null}
where:
  From: {not: Harbour}
"""


def configured(path: str | Path | list[str], **more) -> readers.Source:
    "As an environment's file says it."
    path = path if isinstance(path, list) else str(path)
    return project.validated(readers.Source, {"path": path, **yaml.safe_load(CONFIGURATION), **more}, "the environment")


def placed(folder: Path, text: str | bytes = LOG, name: str = "log.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def reasons(read: data.Read) -> dict[int, str]:
    return dict(zip(read.refused.row, read.refused.reason, strict=True))


def stopped(source: readers.Source, table: Table = LABELS) -> str:
    with pytest.raises(project.UserError) as error:
        data.read(source, table, CONTRACT, NOW)
    assert "\n" not in str(error.value)
    return str(error.value)


def wrong(**more) -> str:
    "What a person reads of a setting that cannot be."
    with pytest.raises(project.UserError) as error:
        project.validated(readers.Source, {"path": "log.csv", "owner": "x", **more}, "the environment")
    assert len(str(error.value).splitlines()) == 2
    return str(error.value).splitlines()[1]


def test_a_log_with_words_two_forms_of_times_and_na_is_read_by_configuration_alone(tmp_path):
    read = data.read(configured(placed(tmp_path)), LABELS, CONTRACT, NOW)

    assert read.kept.request_id.tolist() == ["619", "867", "1807", "3112"] and read.refused.empty
    assert read.kept.trip_completed.tolist() == [1, 1, 0, 1] and read.kept.driver_id.tolist() == [1, 1, 1, 2]
    assert read.kept.event_timestamp[2] == pd.Timestamp("2026-07-02T03:47:26Z") and read.kept.created.isna().tolist() == [0, 0, 1, 0]
    assert read.provenance["left_out"] == {"where From": 1, "without a label": 2} and read.provenance["rows"] == 7
    assert "From" in read.provenance["ignored"] and "From" not in read.kept


def test_the_example_of_the_manual_is_read_as_it_stands_there(tmp_path, monkeypatch):
    section = (project.root() / "docs/USING.md").read_text(encoding="utf-8").partition("## Files of others")[2]
    [log] = re.findall(r"```text\n(.*?)```", section, re.S)[:1]
    [written] = re.findall(r"```yaml\n(.*?)```", section, re.S)[:1]
    source = project.validated(data.Data, yaml.safe_load(written)["data"], "the manual").sources["labels"]
    monkeypatch.setenv("LOGS", str(tmp_path))
    placed(tmp_path, gzip.compress(log.encode()), "requests_2026_07.csv.gz")

    read = data.read(source, LABELS, CONTRACT, NOW)

    assert read.kept.trip_completed.tolist() == [1, 0] and read.refused.empty
    assert read.provenance["left_out"] == {"where From": 1, "without a label": 1}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_same_of_both_kinds_of_file(tmp_path, suffix):
    frame = pd.read_csv(placed(tmp_path), keep_default_na=False, dtype=str)
    files.write(frame.astype({"Request no": int}), tmp_path / f"again.{suffix}")

    one, other = (data.read(configured(tmp_path / name), LABELS, CONTRACT, NOW) for name in ["log.csv", f"again.{suffix}"])

    assert one.kept.equals(other.kept) and one.provenance["left_out"] == other.provenance["left_out"]


def test_the_stage_counts_what_is_left_out_and_does_not_take_it_for_refused(tmp_path, capsys):
    sources = files.company(tmp_path / "in")
    del sources["statistics"], sources["bookings"], sources["candidates"]
    sources["labels"] = yaml.safe_load(CONFIGURATION) | {"path": str(placed(tmp_path))}

    files.run_data(tmp_path / "out", sources, limit=0, clock=NOW.isoformat())

    line = json.loads((tmp_path / "out/data/catalogue.json").read_text())["tables"]["labels"]
    assert line["left_out"] == {"where From": 1, "without a label": 2} and line["refused"] == {}
    assert line["rows_in"] == line["rows_out"] + sum(line["left_out"].values()) == 7
    assert "1 files, 7 rows: 4 kept, 0 in quarantine, 3 left out" in capsys.readouterr().out
    assert "rows left out" in (tmp_path / "out/reports/profile.html").read_text()


def test_of_the_rows_that_count_a_share_is_refused_and_of_none_it_is_said(tmp_path):
    some = data.read(configured(placed(tmp_path, LOG.replace("Cancelled by rider", "in progress"))), LABELS, CONTRACT, NOW)
    none = data.read(configured(tmp_path / "log.csv", where={"From": "Station"}), LABELS, CONTRACT, NOW)

    assert "labels: 1 of 4 rows are refused (25.0%" in data.over_limit("labels", some, 0.05, CONTRACT)
    assert data.over_limit("labels", some, 0.25, CONTRACT) is None
    assert data.over_limit("labels", none, 0.05, CONTRACT).splitlines() == [
        f"labels: no row is left of those from {tmp_path}/log.csv (owner: dispatch)",
        "  7 rows: where From",
    ]


# Words for numbers.


def test_a_word_that_the_map_does_not_have_is_refused_for_that_and_counted(tmp_path):
    text = LOG.replace("Arrived", "arrived", 2).replace("Cancelled by rider", "+84 90 1234567")
    read = data.read(configured(placed(tmp_path, text)), LABELS, CONTRACT, NOW)

    assert reasons(read) == dict.fromkeys([0, 1, 2], "unknown word") and set(read.refused.column) == {"trip_completed"}
    message = data.over_limit("labels", read, 0.05, CONTRACT)
    assert "3 rows: unknown word in trip_completed" in message and "2 words that the setting `values` does not have" in message
    assert "+84" not in message and "arrived" not in message and "arrived" in read.refused.value[0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("sent", "mapping", "wanted"),
    [
        (["yes", "no", "YES", "True", "off"], "{yes: 1, no: 0}", [1, 0, 1, 1, 0]),
        (["Yes", "No", "n/a", "", "Yes "], "{'Yes': 1, 'No': 0, n/a: 0}", [1, 0, 0, None, 1]),
        (["1", "2", "1.0", "02", "2"], "{1: 1, 2: 0}", [1, 0, 1, "unknown word", 0]),
        (["a", "null", "", "None", "~"], "{a: 1, null: null}", [1, "left", "left", None, "left"]),
        (["ê", "e\u0302", "e", "0", "1"], "{ê: 1, e: 0}", [1, 1, 0, "unknown word", "unknown word"]),
    ],
)
def test_a_word_is_what_people_wrote_also_where_yaml_reads_another_thing(tmp_path, suffix, sent, mapping, wanted):
    frame = files.labels(files.bookings(count=5)).assign(trip_completed=sent)
    source = files.source(frame, tmp_path / f"l.{suffix}", values={"trip_completed": yaml.safe_load(mapping)})

    read = data.read(source, LABELS, CONTRACT, NOW)

    fate = [None] * 5
    for row, reason in reasons(read).items():
        fate[row] = None if reason == "missing" else reason
    for name, value in zip(read.kept.request_id, read.kept.trip_completed, strict=True):
        fate[int(name[1:])] = value
    lost = set(range(5)) - set(read.refused.row) - {int(name[1:]) for name in read.kept.request_id}
    assert ["left" if n in lost else value for n, value in enumerate(fate)] == wanted


def test_numbers_and_truths_of_parquet_are_words_too(tmp_path):
    booked = files.bookings(count=3)
    for sent, mapping in [([1.0, 2.0, None], {1: 1, 2: 0}), ([True, False, None], {True: 0, False: 1})]:
        frame = files.labels(booked).assign(trip_completed=pd.array(sent, dtype="Float64" if mapping.get(2) == 0 else "boolean"))
        read = data.read(files.source(frame, tmp_path / "l.parquet", values={"trip_completed": mapping}), LABELS, CONTRACT, NOW)
        assert read.kept.trip_completed.tolist() == ([1, 0] if 2 in mapping else [0, 1]) and reasons(read) == {2: "missing"}


@pytest.mark.parametrize("name", ["Outcome", "trip_completed", " Outcome "])
def test_a_column_is_named_as_the_file_or_as_the_contract_does(tmp_path, name):
    mapping = yaml.safe_load(CONFIGURATION)["values"]["Outcome"]

    assert len(data.read(configured(placed(tmp_path), values={name: mapping}), LABELS, CONTRACT, NOW).kept) == 4


def test_a_name_that_is_two_columns_is_refused(tmp_path):
    swapped = {"columns": {"trip_completed": "created", "done": "trip_completed"}, "values": {"trip_completed": {"a": 1}}}
    frame = files.labels(files.bookings(count=2)).drop(columns="created").assign(done="a")
    source = files.source(frame, tmp_path / "l.csv", **swapped)

    assert "`values` names trip_completed, which is a column of the file, and the contract's name of another, done" in stopped(source)
    assert "trip_completed twice" in stopped(
        source.model_copy(update={"columns": {}, "values": {"trip_completed": {}, " trip_completed": {}}})
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"values": {"Result": {"a": 1}}},
            "`values` names Result, and neither the file nor the contract has it; there are Request no, From",
        ),
        ({"values": {"From": {"a": 1}}}, "`values` names From, which is no column of numbers in the contract of labels"),
        ({"values": {"Request no": {"a": 1}}}, "`values` names Request no, which is no column of numbers"),
        ({"values": {"created": {"a": 1}}}, "`values` names created, which is no column of numbers"),
        ({"where": {"Station": "a"}}, "`where` names Station, and neither the file nor the contract has it"),
    ],
)
def test_a_setting_about_a_column_that_is_none_says_so(tmp_path, more, says):
    assert says in stopped(configured(placed(tmp_path), **more))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"values": {"a": {}}}, "values.a: give each word a number or null, such as {Completed: 1, Cancelled: 0}"),
        ({"values": {"a": ["x"]}}, "give each word a number or null"),
        ({"values": {"a": {"x": "one"}}}, "`x` has no number and not null, but `one`"),
        ({"values": {"a": {"x": float("nan")}}}, "`x` has no number"),
        ({"values": {"a": {1: 1, "1.0": 0}}}, "`1` has two numbers, 1 and 0"),
        ({"values": {"a": {True: 1, "Yes": 0}}}, "`Yes` has two numbers"),
        ({"where": {"a": None}}, "write the word that a row must hold, a list of such words, {not: a word or a list}"),
        ({"where": {"a": []}}, "write the word that a row must hold"),
        ({"where": {"a": {"is": "x"}}}, "write the word that a row must hold"),
        ({"where": {"a": {"empty": "x"}}}, "write the word that a row must hold"),
        ({"where": {"a": {"empty": True, "not": "x"}}}, "write the word that a row must hold"),
        ({"where": {"a": ["x", ["y"]]}}, "one word is wanted here"),
        ({"missing": [["x"]]}, "missing: one word is wanted here"),
        ({"time_format": []}, "time_format: a format as strptime has it is wanted here, or a list of such"),
        ({"time_format": ["%d/%m/%Y", "yesterday"]}, "yesterday does not say day and time as strptime does"),
        ({"path": []}, "path: a file is wanted here, or a list of such"),
        ({"path": 5}, "path: a file is wanted here, or a list of such"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(more, says):
    assert says in wrong(**more)


# Conditions.


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("{From: City}", [2, 4, 5]),
        ("{From: [City, Airport]}", [0, 1, 2, 3, 4, 5]),
        ("{From: {not: [City, Airport]}}", [6]),
        ("{Driver no: 1}", [0, 1, 2]),
        ("{driver_id: {empty: true}}", [3, 5]),
        ("{Driver no: {empty: false}, From: City}", [2, 4]),
        ("{Driver no: {not: NA}}", [0, 1, 2, 4, 6]),
        ("{From: {empty: true}}", []),
        ("{From: empty}", []),
        ("{Outcome: {not: Nobody free}}", [0, 1, 2, 4, 6]),
        ("{Requested at: 1/7/2026 11:51}", [0]),
    ],
)
def test_a_condition_takes_rows_by_what_they_hold(tmp_path, suffix, where, rows):
    frame = pd.read_csv(placed(tmp_path), keep_default_na=False, dtype=str)
    path = files.write(frame, tmp_path / f"again.{suffix}")["path"]

    read = data.ingest(configured(path, values={}, where=yaml.safe_load(where)), LABELS, CONTRACT)

    assert sorted(set(range(7)) - set(read.left_out.index)) == rows
    assert set(read.refused.row) | set(read.frame.index) == set(rows)


def test_whether_a_field_outside_the_contract_is_empty_the_source_says(tmp_path):
    path = placed(tmp_path, LOG.replace("Harbour", "-").replace("City,NA", ",NA"))

    for missing, left in [([], 1), (["-"], 2)]:
        read = data.read(configured(path, where={"From": {"empty": False}}, missing=missing), LABELS, CONTRACT, NOW)
        assert read.provenance["left_out"]["where From"] == left


def test_what_is_personal_and_dropped_is_not_even_compared(tmp_path):
    source = files.source(files.statistics(), tmp_path / "s.csv", where={"driver_phone": {"empty": False}})

    assert "`where` names driver_phone, which is personal, so it is never read" in stopped(source, CONTRACT.tables["statistics"])


def test_a_row_that_is_left_out_is_not_refused_for_what_else_is_wrong_with_it(tmp_path):
    text = LOG.replace("4/7/2026 08:33", "yesterday").replace("5/7/2026 21:57", "5/7/2099 21:57") + "1,2\n"

    read = data.read(configured(placed(tmp_path, text)), LABELS, CONTRACT, NOW)

    assert reasons(read) == {7: "unreadable"} and read.provenance["left_out"] == {"where From": 1, "without a label": 2}


def test_a_column_of_lists_is_no_column_of_words(tmp_path):
    import pyarrow.parquet as pq

    table = pa.table({"request_id": ["a"], "driver_id": [1], "tags": [["x"]]})
    pq.write_table(table, tmp_path / "c.parquet")

    message = stopped(readers.Source(path=str(tmp_path / "c.parquet"), owner="x", where={"tags": "x"}), CANDIDATES)
    assert "a column that `where` or `values` names holds no words" in message


# Times.

FORMATS = ["%d/%m/%Y %H:%M", "%d-%m-%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%Y-%m-%dT%H:%M%z"]
TIMES = {
    "11/7/2026 11:51": "ambiguous time",
    "7/7/2026 11:51": "2026-07-07 06:21",
    "13/6/2026 11:51": "2026-06-13 06:21",
    "6/13/2026 11:51": "2026-06-13 06:21",
    "13-06-2026 08:33:16": "2026-06-13 03:03",
    "2026-06-13T08:33Z": "2026-06-13 08:33",
    "31/2/2026 08:00": "unreadable",
    "2026-06-13 08:33": "unreadable",
    "yesterday": "unreadable",
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("formats", [FORMATS, FORMATS[::-1]])
def test_each_time_is_read_by_the_format_that_fits_and_refused_if_two_differ(tmp_path, suffix, formats):
    frame = pd.DataFrame({"driver_id": range(1, len(TIMES) + 1), "event_timestamp": list(TIMES)})
    source = files.source(frame, tmp_path / f"r.{suffix}", zone="Asia/Kolkata", time_format=formats)

    read = data.read(source, REQUEST, CONTRACT, NOW)

    held = {row.driver_id - 1: f"{row.event_timestamp:%Y-%m-%d %H:%M}" for row in read.kept.itertuples()}
    assert held | reasons(read) == dict(enumerate(TIMES.values()))


def test_two_formats_that_differ_everywhere_are_guessed_at(tmp_path):
    source = configured(placed(tmp_path), time_format=["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"], where={"Requested at": {"not": "x"}})
    read = data.read(source, LABELS, CONTRACT, NOW)

    assert "ambiguous time" in set(read.refused.reason)
    assert "event_timestamp: two formats of `time_format` that read it differently" in data.over_limit("labels", read, 0.05, CONTRACT)


def test_a_list_of_one_format_is_that_format_and_real_times_need_none(tmp_path):
    for form in ["%d/%m/%Y %H:%M", ["%d/%m/%Y %H:%M"]]:
        assert set(reasons(data.read(configured(placed(tmp_path), time_format=form), LABELS, CONTRACT, NOW)).values()) == {"unreadable"}
    source = files.source(files.statistics(), tmp_path / "s.parquet", time_format=FORMATS)
    assert len(data.read(source, CONTRACT.tables["statistics"], CONTRACT, NOW).kept) == 120


# Words for nothing.

AIRPORTS = Table(
    name="airports",
    about="made up",
    columns=(
        Column(name="airport", kind="text", about="its code"),
        Column(name="region", kind="text", about="a category", empty=True),
        Column(name="delay", kind="number", about="minutes", empty=True),
        Column(name="pilot", kind="text", about="a person", empty=True, personal="pseudonymize"),
    ),
    key=("airport",),
)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("missing", "airports", "regions"),
    [
        ([], ["NA", "None", "null"], ["NA", "-", None, "n/a"]),
        (["NA", "-"], ["None", "null"], [None, "n/a"]),
        ("NA", ["None", "null"], [None, "n/a"]),
        ([None], ["NA", "None"], ["NA", "-", "n/a"]),
    ],
)
def test_na_is_a_text_like_any_other_until_the_source_says_that_it_means_nothing(tmp_path, suffix, missing, airports, regions, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_PSEUDONYM_KEY", "a key")
    frame = pd.DataFrame(
        {"airport": ["NA", "None", "null", ""], "region": ["NA", "-", "", "n/a"], "delay": ["NA", "-5", "", "n/a"], "pilot": "NA"}
    )

    read = data.read(files.source(frame, tmp_path / f"a.{suffix}", missing=missing), AIRPORTS, CONTRACT, NOW)

    assert read.kept.airport.tolist() == airports and reasons(read)[3] == "missing"
    assert read.kept.delay.dropna().tolist() == [-5] and read.kept.pilot.isna().all()  # nobody is called NA


def test_a_number_may_mean_nothing(tmp_path):
    for name, delays in [("a.csv", ["-999", "-999.0", "5"]), ("a.parquet", [-999.0, -999.0, 5.0])]:
        frame = pd.DataFrame({"airport": ["a", "b", "c"], "delay": delays})
        read = data.read(files.source(frame, tmp_path / name, missing=[-999]), AIRPORTS, CONTRACT, NOW)
        assert read.kept.delay.isna().tolist() == [True, True, False]


def test_names_of_requests_and_people_are_never_na(tmp_path):
    frame = files.bookings(count=2).assign(request_id=["NA", "b1"], rider_id="n/a")

    for name in ["b.csv", "b.parquet"]:
        read = data.read(files.source(frame, tmp_path / name), CONTRACT.tables["bookings"], CONTRACT, NOW)
        assert reasons(read) == {0: "missing"} and read.kept.rider_id.isna().all()


# Several files.


def several(folder: Path, *texts: str) -> list[Path]:
    return [placed(folder, text, f"log_{n}.csv") for n, text in enumerate(texts)]


HALVES = ["\n".join([HEADER, *part]) + "\n" for part in (LOG.splitlines()[1:4], [], LOG.splitlines()[4:])]


@pytest.mark.parametrize(
    "named", ["log_*.csv", "*", "**/*.csv", ["log_2.csv", "log_0.csv", "log_1.csv"], ["log_2.csv", "log_[01].csv", "log_*"]]
)
def test_several_files_are_one_table_and_each_row_knows_its_file(tmp_path, named):
    one = data.read(configured(placed(tmp_path, LOG.replace("3112,City,2", "3112,City,x"), "all.txt")), LABELS, CONTRACT, NOW)
    (tmp_path / "in").mkdir()
    paths = several(tmp_path / "in", *(half.replace("3112,City,2", "3112,City,x") for half in HALVES))
    placed(tmp_path / "in", HALVES[1], "log_[01].csv")
    if "log_[01].csv" not in named:
        (tmp_path / "in/log_[01].csv").unlink()
    path = [str(tmp_path / "in" / name) for name in ([named] if isinstance(named, str) else named)]

    read = data.read(configured(path[0] if isinstance(named, str) else path), LABELS, CONTRACT, NOW)

    files = read.provenance["files"]
    assert read.kept.equals(one.kept) and read.provenance["left_out"] == one.provenance["left_out"]
    assert [Path(file["path"]).name for file in files if file["rows"]] == ["log_0.csv", "log_2.csv"]
    assert sum(file["rows"] for file in files) == 7 and len({file["digest"] for file in files}) == 3
    where = readers.in_files(read.refused, files)
    assert where.source.tolist() == [str(paths[2])] and where.row.tolist() == [1] and read.refused.row.tolist() == [4]


def test_the_quarantine_names_the_file_and_its_row(tmp_path):
    several(tmp_path, *HALVES[::2])
    text = (tmp_path / "log_1.csv").read_text()
    (tmp_path / "log_1.csv").write_text(text.replace("3112,City,2", "3112,City,x"))
    sources = {"labels": yaml.safe_load(CONFIGURATION) | {"path": str(tmp_path / "log_*.csv")}}

    more = {"limit": 1, "clock": NOW.isoformat()}
    files.run_data(tmp_path / "out", sources, **more)

    [refused] = pd.read_parquet(tmp_path / "out/data/quarantine.parquet").itertuples()
    assert (refused.source, refused.row, refused.column) == (str(tmp_path / "log_1.csv"), 1, "driver_id")
    assert files.changed(tmp_path / "out", sources, **more) == []
    placed(tmp_path, HALVES[1], "log_2.csv")
    assert files.changed(tmp_path / "out", sources, **more) == [str(tmp_path / "log_*.csv")]


def test_a_request_of_several_files_is_one_request(tmp_path):
    for n, text in enumerate(["1001,2026-07-01T00:00Z", "x,2026-07-01T00:00Z"]):
        placed(tmp_path, f"driver_id,event_timestamp\n{text}\n", f"r{n}.csv")

    kept, refused = batch.asked(readers.Source(path=str(tmp_path / "r*.csv"), owner="x"), tmp_path / "q.parquet", CONTRACT, NOW)

    assert len(kept) == refused == 1
    assert pd.read_parquet(tmp_path / "q.parquet")[["source", "row"]].values.tolist() == [["r1.csv", 0]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda text: text.replace("From", "Pickup"),
            "log_1.csv: its columns are not those of {}/log_0.csv: it also has Pickup; it lacks From",
        ),
        (lambda text: text.replace("Outcome", "Result"), "log_1.csv: column Outcome is missing"),
        (lambda text: text.replace(HEADER, "From,Outcome"), "log_1.csv: column Request no"),
        (lambda text: "", "log_1.csv: the file is empty"),
        (lambda text: "<html>", "log_1.csv: not text in UTF-8 with a row a line, but a page of HTML"),
    ],
)
def test_a_file_that_is_not_like_the_others_is_named(tmp_path, change, says):
    several(tmp_path, HALVES[0], change(HALVES[2]))

    assert says.format(tmp_path) in stopped(configured(tmp_path / "log_*.csv", where={}))


def test_columns_in_another_order_are_the_same_columns(tmp_path):
    order = ["Outcome", "From", "Dropped at", "Request no", "Requested at", "Driver no"]
    frame = pd.read_csv(placed(tmp_path, HALVES[2]), keep_default_na=False, dtype=str)[order]
    several(tmp_path, HALVES[0])
    frame.to_csv(tmp_path / "log_1.csv", index=False)

    assert len(data.read(configured(tmp_path / "log_*.csv"), LABELS, CONTRACT, NOW).kept) == 4


@pytest.mark.parametrize("name", ["log_*.csv", "nowhere/*.csv"])
def test_a_name_that_no_file_has_says_so(tmp_path, name):
    assert f"{name}: no file has such a name. Put one there" in stopped(configured(tmp_path / name))
    assert f"{name}: no file has such a name" in stopped(configured([str(placed(tmp_path)), str(tmp_path / name)]))


def test_files_that_come_later_need_not_be_there_yet_and_are_read_when_they_are(tmp_path):
    first, more = tmp_path / "first.parquet", tmp_path / "more"
    source = readers.Source(path=str(first), later=f"{more}/*.parquet", owner="somebody")

    assert [part.path for part in readers.parts(source)] == [str(first)]

    more.mkdir()
    for name in ("b", "a"):
        (more / f"{name}.parquet").touch()
    assert [part.path for part in readers.parts(source)] == [str(first), f"{more}/a.parquet", f"{more}/b.parquet"]
    assert all(part.later is None for part in readers.parts(source))


def test_headers_and_no_rows_in_all_files_are_no_data(tmp_path):
    several(tmp_path, HALVES[1], HALVES[1])

    assert "log_*.csv: a header and no rows" in stopped(configured(tmp_path / "log_*.csv"))


def test_a_variable_stands_for_the_folder_also_before_a_star(tmp_path, monkeypatch):
    several(tmp_path, *HALVES)
    with pytest.raises(project.UserError, match="the environment variable LOGS is not set"):
        data.read(configured("${LOGS}/log_*.csv"), LABELS, CONTRACT, NOW)
    monkeypatch.setenv("LOGS", str(tmp_path))

    files = data.read(configured("${LOGS}/log_*.csv"), LABELS, CONTRACT, NOW).provenance
    assert [file["path"] for file in files["files"]] == [f"${{LOGS}}/log_{n}.csv" for n in range(3)]


# Packed.


def packed(text: str, how: str) -> bytes:
    raw = text.encode()
    if how == "gzip":
        return gzip.compress(raw)
    if how == "gzip, in members":
        return gzip.compress(raw[:100]) + gzip.compress(raw[100:])
    frame = pa.Codec("zstd").compress(raw, asbytes=True)
    return b"\x50\x2a\x4d\x18\x04\0\0\0skip" + frame if how == "zstd, as pzstd writes it" else frame


HOW = ["gzip", "gzip, in members", "zstd", "zstd, as pzstd writes it"]
CHECKED = "28b52ffd0458d90000726571756573745f69642c6472697665725f69640a722d312c310a9c232ac4"  # by zstd, with a checksum


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.csv.zst", "log"])
@pytest.mark.parametrize("how", HOW)
def test_what_is_packed_is_read_whatever_it_is_called(tmp_path, how, name):
    plain = data.read(configured(placed(tmp_path, LOG + "1,2\n", "plain.csv")), LABELS, CONTRACT, NOW)
    read = data.read(configured(placed(tmp_path, packed(LOG + "1,2\n", how), name)), LABELS, CONTRACT, NOW)

    assert read.kept.equals(plain.kept) and read.refused.equals(plain.refused)
    assert read.provenance["digest"] != plain.provenance["digest"]


@pytest.mark.parametrize("how", HOW)
def test_a_long_packed_file_is_read_to_its_end_and_beside_one_that_is_not(tmp_path, how):
    rows = "".join(f"r-{n},{n % 997 + 1}\n" for n in range(200_000))
    text = f"request_id,driver_id\n{rows}"
    placed(tmp_path, packed(text, how), "a.csv")
    placed(tmp_path, "request_id,driver_id\nr,1\n", "b.csv")

    assert len(data.read(readers.Source(path=str(tmp_path / "*.csv"), owner="x"), CANDIDATES, CONTRACT, NOW).kept) == 200_001


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("fault", ["cut", "short", "more"])
def test_an_archive_that_is_not_whole_says_so(tmp_path, how, fault):
    rows = "".join(f"r-{n},{n * 7919 % 99991 + 1}\n" for n in range(50_000))
    whole = packed(f"request_id,driver_id\n{rows}", how)
    content = {
        "cut": whole[: len(whole) // 2],
        "short": whole[:-5],
        "more": whole + b"and more",
    }[fault]

    message = stopped(readers.Source(path=str(placed(tmp_path, content, "c.csv")), owner="bookings"), CANDIDATES)
    assert f"c.csv: packed with {how[:4]}, and cut off or damaged. Ask bookings to send it again" in message


@pytest.mark.parametrize("whole", [gzip.compress(LOG.encode(), compresslevel=0), bytes.fromhex(CHECKED)])
def test_an_archive_of_which_a_byte_has_changed_says_so(tmp_path, whole):
    altered = bytes([*whole[:25], whole[25] ^ 1, *whole[26:]])

    message = stopped(readers.Source(path=str(placed(tmp_path, altered, "c.csv")), owner="bookings"), CANDIDATES)
    assert "and cut off or damaged" in message


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize(
    ("inside", "says"),
    [
        (b"PAR1" + bytes(100) + b"PAR1", "and in it Parquet: unpack it, then set `format: parquet`"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "and in it a spreadsheet"),
        (bytes(257) + b"ustar" + bytes(100), "and in it an archive of files: unpack it"),
        (LOG.encode("utf-16"), "and in it text in UTF-16"),
        (LOG.replace("City", "Citt\xe0").encode("latin-1"), "line 4 is in another encoding"),
        (b"", "the first line is empty"),
        (gzip.compress(LOG.encode()), "and in it packed with gzip"),
    ],
)
def test_what_else_is_packed_says_what_it_is(tmp_path, how, inside, says):
    content = gzip.compress(inside) if how == "gzip" else pa.Codec("zstd").compress(inside, asbytes=True)

    message = stopped(configured(placed(tmp_path, content)))
    assert says in message and ("and in it" not in says or f"packed with {how}, {says[:9]}" in message)


@pytest.mark.parametrize("name", ["log.parquet", "log.parquet.gz", "log.pq.zst"])
@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_packed_file_that_is_called_parquet_is_to_be_unpacked(tmp_path, how, name):
    message = stopped(configured(placed(tmp_path, packed(LOG, how), name)))

    assert f"not a whole Parquet file, but packed with {'gzip' if how == 'gzip' else 'Zstandard'}: unpack it with" in message


# Each row is kept, refused or left out, exactly once.

CELLS = {
    "Request no": st.sampled_from(["1", "2", "3", "NA", ""]),
    "From": st.sampled_from(["Airport", "City", "Harbour", "", "NA"]),
    "Driver no": st.sampled_from(["1", "2", "NA", "", "x", "1.0"]),
    "Outcome": st.sampled_from(["Arrived", "Cancelled by rider", "Nobody free", "arrived", "", "1"]),
    "Requested at": st.sampled_from(["1/7/2026 11:51", "03-07-2026 08:33:16", "NA", "", "13/13/2026 11:51", "1/7/2099 11:51"]),
    "Dropped at": st.sampled_from(["NA", "", "03-07-2026 09:57:28", "never"]),
}
lines = st.lists(st.tuples(*CELLS.values()).map(",".join) | st.sampled_from(["1,2", "1,2,3,4,5,6,7"]), max_size=12)


def fate(line: str) -> str | None:
    "What becomes of a row whatever the others are: left out, or refused; None: that depends on them."
    cells = line.split(",")
    if len(cells) != 6:
        return "refused"
    row = dict(zip(CELLS, cells, strict=True))
    if row["From"] == "Harbour" or row["Outcome"] == "Nobody free":
        return "left out"
    good = row["Outcome"] in ("Arrived", "Cancelled by rider") and row["Driver no"] in ("1", "2", "1.0")
    good = good and row["Requested at"] in ("1/7/2026 11:51", "03-07-2026 08:33:16") and row["Dropped at"] != "never"
    return None if good else "refused"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(lines, min_size=1, max_size=3), st.sampled_from([None, *HOW]), st.booleans())
def test_each_row_of_each_file_is_kept_refused_or_left_out_exactly_once(tmp_path, contents, how, swapped):
    for old in tmp_path.glob("log_*"):
        old.unlink()
    for n, rows in enumerate(contents):
        text = "\n".join([HEADER, *rows]) + "\n"
        placed(tmp_path, packed(text, how) if how else text, f"log_{n}.csv")
    every = [line for rows in contents for line in rows]
    source = configured(tmp_path / "log_*.csv")
    if not every:
        assert "a header and no rows" in stopped(source)
        return

    ingested, read = data.ingest(source, LABELS, CONTRACT), data.read(source, LABELS, CONTRACT, NOW)

    left = set(ingested.left_out.index)
    assert left == {n for n, line in enumerate(every) if fate(line) == "left out"}
    assert set(read.refused.row) >= {n for n, line in enumerate(every) if fate(line) == "refused"}
    assert len(read.kept) + len(read.refused) + len(left) == read.provenance["rows"] == len(every)
    assert read.refused.row.is_unique and not left & set(read.refused.row)
    assert sum(read.provenance["left_out"].values()) == len(left)
    there = readers.in_files(read.refused, read.provenance["files"])
    starts = {f"log_{n}.csv": sum(map(len, contents[:n])) for n in range(len(contents))}
    assert [starts[Path(path).name] + row for path, row in zip(there.source, there.row, strict=True)] == read.refused.row.tolist()
    assert Counter(there.source.map(lambda path: Path(path).name)) <= Counter(
        {f"log_{n}.csv": len(rows) for n, rows in enumerate(contents)}
    )


def test_a_word_is_spelled_as_yaml_may_have_read_it():
    assert yaml.safe_load("[yes, On, TRUE]") == [True] * 3 and {"yes", "On", "TRUE"} < set(words.spelled(True))
    with pytest.raises(ValidationError):
        readers.Source(path="x", owner="x", where={"a": {"empty": None}})
