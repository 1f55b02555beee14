"""The data stage: what it refuses and why, what it keeps, and that every row is somewhere."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from data import files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rides import CONTRACT

from mlops_course import data, project, readers, stages
from mlops_course.files import file_digest
from mlops_course.problem import KNOWN, schema

STATISTICS, BOOKINGS, LABELS, REQUEST = (CONTRACT.tables[name] for name in ["statistics", "bookings", "labels", "request"])
NOW = datetime(2026, 1, 8, tzinfo=UTC)
HEADER = "datetime,driver_id,conv_rate,acc_rate,avg_daily_trips,created\n"
GOOD = "2026-01-05T00:00Z,1001,0.5,0.5,3,2026-01-05T01:05Z\n"


def text_source(folder, text, name="driver_stats.csv", **more) -> readers.Source:
    (folder / name).write_text(text, encoding="utf-8")
    return readers.Source(path=str(folder / name), owner="driver operations", **more)


def reasons(read) -> list[tuple]:
    return list(read.refused[["row", "reason", "column"]].itertuples(index=False, name=None))


# Files that cannot be read at all: the message names the file and the cure.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty. Ask its owner (driver operations)"),
        (HEADER, "a header and no rows"),
        ((HEADER + GOOD).replace(",", ";"), 'the separator is another: set `separator: ";"`'),
        ((HEADER + GOOD).replace(",", "\t"), r'the separator is another: set `separator: "\t"`'),
        (HEADER.replace("conv_rate", "rate") + GOOD, "column conv_rate is missing; there are datetime, driver_id, rate"),
        (HEADER.replace("acc_rate", "conv_rate") + GOOD, "column conv_rate is there twice"),
        (
            HEADER + GOOD.replace("00Z", "00"),
            "time without zone in every row of datetime. Ask driver operations which it is and set `zone`",
        ),
        (HEADER + GOOD.replace("0.5", '"0.5', 1) + GOOD, "is a quotation mark never closed?"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_cure(tmp_path, text, message):
    source = text_source(tmp_path, text)

    with pytest.raises(readers.BadFile) as refused:
        data.read(source, STATISTICS, CONTRACT, NOW)

    assert message in str(refused.value) and "driver_stats.csv" in str(refused.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path, monkeypatch, kind):
    source = text_source(tmp_path, HEADER + GOOD)
    if kind == "parquet":
        pd.read_csv(tmp_path / "driver_stats.csv").to_parquet(tmp_path / "driver_stats.parquet")
        source = readers.Source(path=str(tmp_path / "driver_stats.parquet"), owner="driver operations")
    before, matched = file_digest(source.file), readers.matched

    def replaced(*arguments):
        (tmp_path / "new").write_text("nothing of what was there", encoding="utf-8")
        os.replace(tmp_path / "new", source.file)
        return matched(*arguments)

    monkeypatch.setattr(readers, "matched", replaced)
    ingested = data.ingest(source, STATISTICS, CONTRACT)

    assert len(ingested.frame) == 1 and ingested.provenance["digest"] == before != file_digest(source.file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(readers.BadFile, match=r"nowhere\.csv: no such file\. Put it there, or change `path`"):
        data.read(readers.Source(path=str(tmp_path / "nowhere.csv"), owner="x"), STATISTICS, CONTRACT, NOW)


def test_text_that_calls_itself_parquet_is_refused(tmp_path):
    with pytest.raises(readers.BadFile, match="not a whole Parquet file. If it is text, set `format: csv`"):
        data.read(text_source(tmp_path, HEADER + GOOD, "driver_stats.parquet"), STATISTICS, CONTRACT, NOW)


def test_a_parquet_file_that_was_cut_off_is_refused(tmp_path):
    source = files.source(files.statistics(), tmp_path / "driver_stats.parquet")
    source.file.write_bytes(source.file.read_bytes()[:2000])

    with pytest.raises(readers.BadFile, match="not a whole Parquet file"):
        data.read(source, STATISTICS, CONTRACT, NOW)


def test_parquet_that_calls_itself_text_is_refused(tmp_path):
    source = files.source(files.statistics(), tmp_path / "driver_stats.parquet").model_copy(update={"format": "csv"})

    with pytest.raises(readers.BadFile, match="set `format: parquet`"):
        data.read(source, STATISTICS, CONTRACT, NOW)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "bookings.csv").write_bytes(
        "request_id,event_timestamp,driver_id,propensity\nchuyến,2026-01-05T00:00Z,1,1\n".encode("utf-16")
    )

    with pytest.raises(readers.BadFile, match="not text in UTF-8"):
        data.read(readers.Source(path=str(tmp_path / "bookings.csv"), owner="x"), BOOKINGS, CONTRACT, NOW)


def test_two_columns_mapped_to_one_are_refused(tmp_path):
    source = text_source(tmp_path, HEADER.replace("created", "rate") + GOOD, columns={"rate": "conv_rate"})

    with pytest.raises(readers.BadFile, match="column conv_rate is there twice"):
        data.read(source, STATISTICS, CONTRACT, NOW)


def test_a_mapping_to_a_column_that_the_contract_lacks_is_refused(tmp_path):
    source = text_source(tmp_path, HEADER + GOOD, columns={"created": "written"})

    with pytest.raises(project.UserError, match="maps to written, which the contract of statistics does not have"):
        data.read(source, STATISTICS, CONTRACT, NOW)


def test_a_path_with_a_variable_that_is_not_set_says_so(monkeypatch):
    monkeypatch.delenv("SEED_DATA", raising=False)

    with pytest.raises(project.UserError, match="the environment variable SEED_DATA is not set"):
        data.read(readers.Source(path="${SEED_DATA}/driver_stats.parquet", owner="x"), STATISTICS, CONTRACT, NOW)


def test_a_zone_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no time zone Mars/Olympus"):
        readers.Source(path="x.csv", owner="x", zone="Mars/Olympus")


# Values that cannot be right: the row is refused and the rest is kept.


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("conv_rate", "eighty", "unreadable"),
        ("avg_daily_trips", "2.5", "unreadable"),
        ("driver_id", "12x", "unreadable"),
        ("datetime", "yesterday", "unreadable"),
        ("datetime", "2026-01-05T03:00", "time without zone"),
        ("conv_rate", "", "missing"),
        ("conv_rate", "1.35", "out of range"),
        ("avg_daily_trips", "-4", "out of range"),
        ("acc_rate", "inf", "unreadable"),
        ("datetime", "2027-01-05T00:00Z", "future time"),
        ("created", "2027-01-05T00:00Z", "future time"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_wrong_value_costs_its_row_and_no_other(tmp_path, column, value, reason, suffix):
    frame = files.statistics(drivers=1, hours=20).astype(str)
    frame.loc[7, column] = value

    read = data.read(files.source(frame, tmp_path / f"driver_stats.{suffix}"), STATISTICS, CONTRACT, NOW)

    assert reasons(read) == [(7, reason, column)]
    assert len(read.kept) == 19
    assert json.loads(read.refused.value[0])["driver_id"] in (1001, "1001", "12x")


def test_a_parquet_column_of_floats_with_half_a_trip_refuses_only_that(tmp_path):
    frame = files.statistics(drivers=1, hours=20).astype({"avg_daily_trips": float})
    frame.loc[3, "avg_daily_trips"] = 2.5

    read = data.read(files.source(frame, tmp_path / "driver_stats.parquet"), STATISTICS, CONTRACT, NOW)

    assert reasons(read) == [(3, "unreadable", "avg_daily_trips")]


def test_a_row_with_too_many_values_is_refused_by_its_number(tmp_path):
    lines = [GOOD.replace("T00", f"T{hour:02d}").replace("T01:05", f"T{hour + 1:02d}:05") for hour in range(6)]
    lines[2] = lines[2].replace("0.5", "0.5,+84 90 1234567", 1)

    read = data.read(text_source(tmp_path, HEADER + "".join(lines)), STATISTICS, CONTRACT, NOW)

    assert reasons(read) == [(2, "unreadable", "")]
    assert read.kept.datetime.dt.hour.tolist() == [0, 1, 3, 4, 5]
    assert "+84" not in read.refused.value[0]


def test_unknown_drivers_are_refused(tmp_path):
    booked = files.bookings(drivers=5).assign(driver_id=lambda rows: rows.driver_id.where(rows.index != 4, 77))

    read = data.read(files.source(booked, tmp_path / "b.parquet"), BOOKINGS, CONTRACT, NOW, entities={"driver_id": range(1001, 1006)})

    assert reasons(read) == [(4, "unknown entity", "driver_id")]


def test_one_key_with_two_stories_refuses_both_and_a_copy_only_the_copy(tmp_path):
    frame = files.statistics(drivers=1, hours=6).drop(columns="driver_phone")
    frame = pd.concat([frame, frame.loc[[1]], frame.loc[[4]].assign(conv_rate=0.123456)], ignore_index=True)

    read = data.read(files.source(frame, tmp_path / "s.parquet"), STATISTICS, CONTRACT, NOW)

    key = "driver_id,datetime,created"
    assert reasons(read) == [(4, "conflict", key), (6, "duplicate", key), (7, "conflict", key)]


def test_a_label_that_comes_again_later_is_a_duplicate_and_the_first_one_is_kept(tmp_path):
    sent = files.labels(files.bookings(count=3))
    again = sent.head(1).assign(created=sent.created[0] + pd.Timedelta(hours=5))
    contradicts = sent.tail(1).assign(created=sent.created[2] + pd.Timedelta(hours=5), trip_completed=1 - sent.trip_completed[2])

    read = data.read(
        files.source(pd.concat([again, sent, contradicts]), tmp_path / "labels.parquet"), CONTRACT.tables["labels"], CONTRACT, NOW
    )

    assert dict(zip(read.refused.row, read.refused.reason, strict=True)) == {0: "duplicate", 3: "conflict", 4: "conflict"}
    assert read.kept.created.tolist() == sent.created.head(2).tolist()


def test_whole_numbers_keep_all_their_digits(tmp_path):
    large = 2**53 + 1
    frame = files.statistics(drivers=1, hours=3).assign(driver_id=pd.array([large, large, None], "Int64"))

    for name in ["s.parquet", "s.csv"]:
        assert set(data.read(files.source(frame, tmp_path / name), STATISTICS, CONTRACT, NOW).kept.driver_id) == {large}


def test_times_of_a_clock_change_that_never_were_are_refused(tmp_path):
    frame = files.statistics(drivers=1, hours=2).drop(columns=["created", "driver_phone"]).astype(str)
    frame["datetime"] = ["2025-03-30 02:30", "2025-03-30 03:30"]

    read = data.read(files.source(frame, tmp_path / "s.csv", zone="Europe/Berlin"), STATISTICS, CONTRACT, NOW)

    assert reasons(read) == [(0, "local time skipped", "datetime")]
    assert read.kept.datetime[0] == pd.Timestamp("2025-03-30T01:30Z")


# What is kept.


def test_kept_tables_satisfy_the_contract(tmp_path):
    out = files.run_data(tmp_path / "out", files.company(tmp_path / "in"))

    for name in ["statistics", "bookings", "candidates", "labels"]:
        kept = pd.read_parquet(out / f"data/{name}.parquet")
        table = CONTRACT.tables[name]
        assert list(kept) == table.names + ([KNOWN] if table.time else [])
        schema(table).validate(kept.drop(columns=KNOWN, errors="ignore"))


def test_statistics_are_sorted_by_driver_and_the_time_at_which_they_were_known(tmp_path):
    frame = files.statistics().sample(frac=1, random_state=1)

    kept = data.read(files.source(frame, tmp_path / "s.csv"), STATISTICS, CONTRACT, NOW).kept

    assert kept.equals(kept.sort_values(["driver_id", "known_at"], ignore_index=True))
    assert kept.groupby("driver_id").datetime.is_monotonic_increasing.all()


def test_a_table_without_a_source_is_empty_and_has_its_types(tmp_path):
    sources = files.company(tmp_path / "in")

    out = files.run_data(tmp_path / "out", {"statistics": sources["statistics"]})

    empty = pd.read_parquet(out / "data/bookings.parquet")
    assert empty.empty
    schema(BOOKINGS).validate(empty.drop(columns=KNOWN))


def test_a_row_is_known_at_the_end_of_its_hour_or_when_it_was_written_if_later(tmp_path):
    frame = files.statistics(drivers=1, hours=3)
    frame["created"] = [frame.datetime[0] + timedelta(minutes=10), frame.datetime[1] + timedelta(minutes=95), None]

    kept = data.read(files.source(frame, tmp_path / "s.parquet"), STATISTICS, CONTRACT, NOW).kept

    assert (kept.known_at - kept.datetime).tolist() == [timedelta(minutes=m) for m in (60, 95, 60)]


def test_where_created_is_not_trusted_the_event_time_counts(tmp_path):
    frame = files.statistics(drivers=1, hours=3)

    kept = data.read(files.source(frame, tmp_path / "s.parquet", known="event"), STATISTICS, CONTRACT, NOW).kept

    assert kept.known_at.equals(kept.datetime.rename("known_at"))


def test_labels_without_created_count_from_their_booking(tmp_path):
    frame = files.labels(files.bookings()).drop(columns=["created", "request_id"])

    kept = data.read(files.source(frame, tmp_path / "l.csv"), LABELS, CONTRACT, NOW).kept

    assert kept.known_at.equals(kept.event_timestamp.rename("known_at")) and kept.request_id.isna().all()


moments = st.integers(0, 8).map(lambda h: datetime(2026, 1, 5, h, tzinfo=UTC))
delays = st.none() | st.integers(0, 7 * 12).map(lambda n: timedelta(minutes=5 * n))
rows = st.tuples(st.sampled_from([1, 2]), moments, delays, st.integers(0, 100).map(lambda n: n / 100))


@settings(max_examples=120, deadline=None)
@given(st.lists(rows, min_size=1, max_size=25, unique_by=lambda r: r[:3]))
def test_the_newest_known_row_is_the_newest_hour_known_at_every_moment(raw):
    raw = [(driver, hour, hour + delay if delay is not None else None, rate) for driver, hour, delay, rate in raw]
    frame = pd.DataFrame(raw, columns=["driver_id", "datetime", "created", "conv_rate"]).assign(acc_rate=0.5, avg_daily_trips=3)
    frame = frame.astype(dict.fromkeys(["datetime", "created"], "datetime64[us, UTC]"))[[*STATISTICS.names]]

    kept = data.clean(frame, STATISTICS, NOW, CONTRACT).kept

    def known(row):
        return max(row[1] + timedelta(hours=1), row[2] or datetime.min.replace(tzinfo=UTC))

    for driver in {row[0] for row in raw}:
        own = [row for row in raw if row[0] == driver]
        for moment in {known(row) for row in own}:
            seen = [row for row in own if known(row) <= moment]
            ours = kept[(kept.driver_id == driver) & (kept.known_at <= moment)]
            newest = max(seen, key=lambda row: (row[1], row[2] or datetime.min.replace(tzinfo=UTC)))
            last = ours.loc[ours.known_at.idxmax()]
            assert (last.datetime, last.conv_rate) == (newest[1], newest[3])


words = {
    "datetime": ["2026-01-05T00:00Z", "2026-01-05T01:00Z", "2026-01-05 01:00:00+00:00", "2026-01-05T02:00", "2027-01-01T00:00Z", "x", ""],
    "driver_id": ["1001", "1002", "0", "x", "", "1001.0"],
    "conv_rate": ["0.5", "0.25", "1.35", "eighty", "nan", "-inf"],
    "acc_rate": ["0.5", "1e-3", ""],
    "avg_daily_trips": ["3", "3.0", "3.5", "-1"],
    "created": ["", "2026-01-05T01:05Z", "2026-01-05T09:00Z", "soon"],
}
nasty = st.lists(st.tuples(*(st.sampled_from(v) for v in words.values())) | st.just(("too", "few")), min_size=1, max_size=25)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nasty)
def test_every_row_is_kept_or_refused_exactly_once(tmp_path, raw):
    # one time with a zone, else the file as a whole is refused
    raw = [("2026-01-05T03:00Z", "1003", "0.1", "0.1", "1", "2026-01-05T04:00Z"), *raw]
    source = text_source(tmp_path, HEADER + "\n".join(",".join(row) for row in raw) + "\n")

    read = data.read(source, STATISTICS, CONTRACT, NOW)

    assert read.provenance["rows"] == len(raw) == len(read.kept) + len(read.refused)
    assert read.refused.row.is_unique and (read.refused.reason != "").all()
    schema(STATISTICS).validate(read.kept.drop(columns=KNOWN))
    for value in read.refused.value:
        json.loads(value)


# Personal data.


PERSONAL = r"\+84|RIDER-|driver_phone\":|rider_phone\":"


@pytest.mark.parametrize("key", [None, "a key of the test"])
def test_no_personal_value_is_anywhere_in_the_output(tmp_path, monkeypatch, key):
    monkeypatch.setenv("MLOPS_COURSE_PSEUDONYM_KEY", key) if key else monkeypatch.delenv("MLOPS_COURSE_PSEUDONYM_KEY", raising=False)
    stats, booked = files.statistics(), files.bookings()
    stats.loc[3, "conv_rate"], booked.loc[5, "propensity"] = 1.35, 7.0
    sources = files.company(tmp_path / "in")
    sources["statistics"] = files.write(stats, tmp_path / "in/driver_stats.csv")
    sources["bookings"] = files.write(booked, tmp_path / "in/bookings.csv", sep=";")
    with open(tmp_path / "in/driver_stats.csv", "a") as file:
        file.write("broken,+84 90 7654321\n")

    out = files.run_data(tmp_path / "out", sources)

    personal = {*stats.driver_phone, *booked.rider_id, *booked.rider_phone, "7654321", "RIDER-"}
    assert len(list(files.everything_in(out))) > 15
    for path, text in files.everything_in(out):
        assert not [value for value in personal if value in text], path
    riders = pd.read_parquet(out / "data/bookings.parquet").rider_id
    entry = json.loads((out / "data/catalogue.json").read_text())["tables"]["bookings"]["source"]
    if key:
        assert riders.nunique() == booked.drop(5).rider_id.nunique() and riders.str.len().eq(64).all()
        assert (entry["pseudonymized"], entry["dropped"]) == (["rider_id"], ["rider_phone"])
    else:
        assert riders.isna().all() and entry["dropped"] == ["rider_id", "rider_phone"]


# The stage.


def test_the_catalogue_says_where_each_table_came_from_and_what_became_of_it(tmp_path):
    frame = files.statistics()
    frame.loc[3, "conv_rate"] = 1.35
    sources = files.company(tmp_path / "in") | {"statistics": files.write(frame.assign(note="x"), tmp_path / "in/s.csv", sep="\t")}

    out = files.run_data(tmp_path / "out", sources)

    entry = json.loads((out / "data/catalogue.json").read_text())["tables"]["statistics"]
    assert entry["source"]["digest"] == file_digest(tmp_path / "in/s.csv")
    assert (entry["source"]["owner"], entry["source"]["rows"], entry["source"]["ignored"]) == ("a test", 120, ["note"])
    assert (entry["rows_in"], entry["rows_out"], entry["refused"]) == (120, 119, {"out of range": 1})
    assert entry["time_range"] == ["2026-01-05T00:00:00+00:00", "2026-01-05T23:00:00+00:00"]
    assert entry["readers"] == ["data science", "dispatch"]
    assert entry["snapshot"] == file_digest(out / "data/statistics.parquet") == file_digest(out / f"snapshots/{entry['snapshot']}.parquet")


def test_refused_rows_are_in_the_quarantine_with_file_row_and_reason(tmp_path):
    sources = files.company(tmp_path / "in")
    sources["labels"] = files.write(files.labels(files.bookings()).assign(trip_completed=[2] + [1] * 39), tmp_path / "in/labels.csv")

    out = files.run_data(tmp_path / "out", sources)

    refused = pd.read_parquet(out / "data/quarantine.parquet").iloc[0]
    assert (refused.table, refused.row, refused.reason, refused.column) == ("labels", 0, "out of range", "trip_completed")
    assert refused.source == sources["labels"]["path"] and json.loads(refused.value)["trip_completed"] == 2


def test_too_many_refused_rows_stop_the_stage_and_name_the_worst(tmp_path):
    frame = files.statistics()
    frame.loc[24:35, "conv_rate"] = 1.35
    sources = files.company(tmp_path / "in") | {"statistics": files.write(frame, tmp_path / "in/s.parquet")}

    with pytest.raises(data.TooManyRefused) as stopped:
        files.run_data(tmp_path / "out", sources)

    assert "statistics: 12 of 120 rows are refused (10.0%; the limit is 5.0%)" in str(stopped.value)
    assert "12 rows: out of range in conv_rate" in str(stopped.value) and "12 rows: driver_id 1002" in str(stopped.value)
    assert len(pd.read_parquet(tmp_path / "out/data/quarantine.parquet")) == 12
    assert not (tmp_path / "out/data/statistics.parquet").exists()


def test_a_file_of_which_all_is_refused_stops_the_stage_at_any_limit(tmp_path):
    sources = files.company(tmp_path / "in") | {
        "labels": files.write(files.labels(files.bookings()).assign(driver_id=77), tmp_path / "l.csv")
    }

    with pytest.raises(data.TooManyRefused, match=r"labels: 40 of 40 rows are refused \(100.0%; the limit is 100.0%\)"):
        files.run_data(tmp_path / "out", sources, limit=1.0)


def test_copies_and_superseded_rows_are_not_held_against_the_sender(tmp_path):
    frame = pd.concat([files.statistics()] * 3)
    sources = files.company(tmp_path / "in") | {"statistics": files.write(frame.drop(columns="driver_phone"), tmp_path / "in/s.parquet")}

    out = files.run_data(tmp_path / "out", sources, limit=0.0)

    assert pd.read_parquet(out / "data/quarantine.parquet").reason.value_counts().to_dict() == {"duplicate": 240}


def test_old_files_are_called_stale_and_used(tmp_path, capsys):
    out = files.run_data(tmp_path / "out", files.company(tmp_path / "in"), clock="2026-02-01T00:00:00+00:00")

    tables = json.loads((out / "data/catalogue.json").read_text())["tables"]
    assert tables["statistics"]["stale"] and not tables["candidates"]["stale"]
    assert "statistics is stale: its newest row is of 2026-01-05T23:00" in capsys.readouterr().out
    warnings = [json.loads(line) for line in (out / "logs/pipeline.jsonl").read_text().splitlines()]
    assert {line["table"] for line in warnings if line["level"] == "warning"} == {"statistics", "bookings", "labels"}


def test_the_profile_needs_no_network_and_shows_a_column_of_one_value(tmp_path):
    labels = files.labels(files.bookings()).assign(trip_completed=1)
    sources = files.company(tmp_path / "in") | {"labels": files.write(labels, tmp_path / "in/l.parquet")}

    page = files.run_data(tmp_path / "out", sources).joinpath("reports/profile.html").read_text()

    assert "one value only" in page.split("<h2>labels</h2>")[1]
    assert not [word for word in ("http:", "https:", "<script", "<link", "@import", "url(") if word in page]


def test_the_same_files_give_the_same_products(tmp_path):
    sources = files.company(tmp_path / "in")

    one, two = (files.run_data(tmp_path / name, sources) for name in ["one", "two"])

    made = [json.loads((out / "made/data.json").read_text()) for out in (one, two)]
    assert made[0] == made[1]
    assert files.changed(one, sources) == []


def test_a_source_of_an_unknown_table_is_refused(tmp_path):
    with pytest.raises(project.UserError, match=r"data.sources names parcels; the tables are statistics"):
        files.run_data(tmp_path / "out", {"parcels": {"path": "x.csv", "owner": "x"}})


def test_a_stage_run_before_the_world_names_the_notebook_to_run(tmp_path):
    with (
        pytest.raises(project.UserError, match=r"missing: .*raw\. Run notebooks/20_world.ipynb first"),
        stages.stage("data", upstream=["world"], environment={"out": str(tmp_path / "b")}),
    ):
        pass


# Faults of the machine, in a process of its own: real limits and real signals.

IN_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from data import files
from mlops_course import project
signal.signal(signal.SIGXFSZ, signal.{signal})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    files.run_data(Path({out!r}), {sources!r})
except project.UserError as error:
    print(error)
    sys.exit(3)
"""


def run_in_a_small_disk(folder: Path, signal: str) -> tuple[subprocess.CompletedProcess, dict]:
    sources = {"statistics": files.write(files.statistics(drivers=400), folder / "in/s.parquet")}
    script = IN_A_SMALL_DISK.format(paths=[str(project.root() / "tests")], signal=signal, out=str(folder / "out"), sources=sources)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=project.root(), env=os.environ), sources


def test_a_full_disk_gives_a_clear_error_and_no_half_file(tmp_path):
    ended, _ = run_in_a_small_disk(tmp_path, "SIG_IGN")

    assert ended.returncode == 3, ended.stderr
    assert "could not write" in ended.stdout and "data/statistics.parquet" in ended.stdout and "File too large" in ended.stdout
    assert "free some space" in ended.stdout
    assert [path.name for path in (tmp_path / "out/data").iterdir()] == ["quarantine.parquet"]


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_looks_whole(tmp_path):
    ended, sources = run_in_a_small_disk(tmp_path, "SIG_DFL")
    left = [path.name for path in (tmp_path / "out/data").iterdir()]

    assert ended.returncode < 0
    assert any(name.startswith(".statistics.parquet.") and name.endswith(".part") for name in left)
    assert "statistics.parquet" not in left and files.changed(tmp_path / "out", sources) == ["made/data.json"]

    files.run_data(tmp_path / "out", sources)
    files.run_data(tmp_path / "undisturbed", sources)
    digests = [file_digest(tmp_path / name / "data/statistics.parquet") for name in ("out", "undisturbed")]
    assert digests[0] == digests[1] and files.changed(tmp_path / "out", sources) == []


def test_many_rows_are_cleaned(tmp_path):
    frame = files.statistics(drivers=500, hours=500).drop(columns="driver_phone")
    frame.loc[::50, "conv_rate"] = 1.35
    source = files.source(frame, tmp_path / "s.parquet")

    read = data.read(source, STATISTICS, CONTRACT, datetime(2026, 3, 1, tzinfo=UTC))

    assert len(read.kept) == 245_000  # tests/benchmarks/bench_files.py says what it takes


@pytest.mark.parametrize("path", ["~/drivers.csv", "${MY_DATA}/drivers.csv"])
def test_a_home_is_found_in_a_path_and_in_a_variable(monkeypatch, path):
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("MY_DATA", "~")

    assert readers.Source(path=path, owner="operations").file == Path("/somebody/drivers.csv")
