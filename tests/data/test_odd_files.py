"""Files as they really come: packed, of another program, half-written, all wrong. Each row is kept or refused, or the message says what it is."""

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import tarfile
import tempfile
import unicodedata
import zipfile
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from data import files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rides import CONTRACT

from mlops_course import data, profiles, project, readers, tables

TABLES = CONTRACT.tables
STATISTICS, LABELS = TABLES["statistics"], TABLES["labels"]
NOW = datetime(2026, 1, 8, tzinfo=UTC)
ROWS = [f"2026-01-05T{hour:02d}:00Z,1001,0.5,0.5,3,2026-01-05T{hour + 1:02d}:05Z" for hour in range(4)]
HEADER = "datetime,driver_id,conv_rate,acc_rate,avg_daily_trips,created"
TEXT = "\n".join([HEADER, *ROWS]) + "\n"
FRAME = files.statistics(drivers=1, hours=4)


def placed(folder: Path, content: bytes | str, name: str = "stats.csv", **more) -> readers.Source:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return readers.Source(path=str(folder / name), owner="driver operations", **more)


def refused(source: readers.Source, table=STATISTICS) -> str:
    with pytest.raises(readers.BadFile) as stopped:
        data.read(source, table, CONTRACT, NOW)
    return str(stopped.value)


def reasons(read: data.Read) -> dict[int, str]:
    return dict(zip(read.refused.row, read.refused.reason, strict=True))


# What a file is, by its first bytes.


def written(write) -> bytes:
    "What `write` leaves in the file whose name it gets."
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def archive(*names: str) -> bytes:
    def write(path):
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, TEXT)

    return written(write)


def sqlite(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table stats (driver_id)")
    connection.close()


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as folder:
        folder.addfile(tarfile.TarInfo("stats.csv"), io.BytesIO())
    return packed.getvalue()


ARROW = pa.Table.from_pandas(FRAME, preserve_index=False)
KINDS = {
    "packed spreadsheet": (gzip.compress(archive("[Content_Types].xml")), "packed with gzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "packed with bzip2: unpack it with `bunzip2`"),
    "xz": (lzma.compress(TEXT.encode()), "packed with xz: unpack it with `unxz`"),
    "zip": (archive("stats.csv"), "a zip archive: unpack it with `unzip`"),
    "tar": (tar(), "an archive of files: unpack it"),
    "Excel": (archive("[Content_Types].xml", "xl/workbook.xml"), "a spreadsheet, as Excel writes it: save its sheet as CSV in UTF-8"),
    "openpyxl": (archive("docProps/app.xml", "xl/workbook.xml", "[Content_Types].xml"), "a spreadsheet, as Excel writes it"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "a spreadsheet, as Excel wrote it before 2007"),
    "ORC": (written(lambda path: pa.orc.write_table(ARROW, path)), "ORC: write it as Parquet"),
    "Avro": (b"Obj\x01\x04\x14avro.codec\x08null\x16avro.schema" + bytes(20), "Avro: write it as Parquet"),
    "Feather": (written(lambda path: pa.feather.write_feather(FRAME, path)), "Arrow or Feather: write it as Parquet"),
    "SQLite": (written(sqlite), "a database of SQLite"),
    "JSON": (FRAME.to_json(orient="records").encode(), "JSON or lines of JSON: write it as CSV or Parquet"),
    "JSON lines": (FRAME.to_json(orient="records", lines=True).encode(), "JSON or lines of JSON"),
    "JSON, indented": (b'\xef\xbb\xbf[\n  {\n    "driver_id": 1001', "JSON or lines of JSON"),
    "a web page": (
        b"\n <!DOCTYPE html><html><body>Please log in</body></html>",
        "a page of HTML or XML, such as one to log in: get the file",
    ),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "a pointer of Git LFS: get the file itself"),
    "UTF-16": (TEXT.encode("utf-16"), "text in UTF-16: save it as UTF-8"),
    "UTF-16, no mark": (TEXT.encode("utf-16-le"), "text in UTF-16"),
    "UTF-16, other end first": (TEXT.encode("utf-16-be"), "text in UTF-16"),
    "UTF-32": (TEXT.encode("utf-32"), "text in UTF-32"),
}


@pytest.mark.parametrize("name", ["stats.csv", "stats.parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_and_the_message_says_what_to_do(tmp_path, kind, name):
    content, says = KINDS[kind]

    message = refused(placed(tmp_path, content, name))

    assert says in message and name in message and "+84" not in message
    assert "save it as UTF-8" not in message or "UTF-" in kind


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TEXT.replace("datetime", "Zeit\xe9").encode("latin-1"), "line 1 is in another encoding, such as Windows-1252 (Latin-1)"),
        (TEXT.replace("T03:00Z", "T03:00Z\xe9").encode("latin-1"), "line 5 is in another encoding"),
        (TEXT.encode() + b"\xe9,+84 90 1234567\n", "line 6 is in another encoding"),  # a row that is also too short
        (bytes(4000), "bytes that no text has"),
        (b"\n" + TEXT.encode(), "the first line is empty. Write the names of the columns there"),
        (b"\xef\xbb\xbf", "the first line is empty"),
        (b"  \n \n", "the first line is empty"),
        (HEADER.encode(), "a header and no rows"),
        (HEADER.encode() + b"\r\n\r\n", "a header and no rows"),
        (b"sep=,\n" + HEADER.encode(), "a header and no rows"),
        (TEXT.encode() + b"x" * 3_000_000, "is a quotation mark never closed?"),  # longer than a block of the reader
    ],
)
def test_text_that_is_no_table_says_where_it_is_none(tmp_path, content, says, capfd):
    assert says in refused(placed(tmp_path, content))
    assert capfd.readouterr().err == ""


def test_a_damaged_part_of_a_parquet_file_is_said_to_be_one(tmp_path):
    source = files.source(files.statistics(), tmp_path / "stats.parquet")
    whole = bytearray(source.file.read_bytes())
    whole[50:400] = bytes(350)
    source.file.write_bytes(whole)

    assert "not a whole Parquet file: a part is damaged. Ask a test to send it again" in refused(source)


# What stands where a file should.


@contextmanager
def without_rights():
    "Root may read everything, so it becomes somebody else for a moment."
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def a_folder(path):
    path.mkdir()
    FRAME.to_parquet(path / "part-0.parquet")


PLACES = {
    "a folder": (a_folder, "a folder. Name one file in it; if the table is all of its files, write them as one first"),
    "a partitioned dataset": (lambda path: FRAME.to_parquet(path, partition_cols=["driver_id"]), "a folder. Name one file in it"),
    "a link to nothing": (lambda path: path.symlink_to(path.parent / "nothing"), "a link to a file that is not there"),
    "a circle of links": (lambda path: path.symlink_to(path), "cannot be opened"),
    "a pipe": (os.mkfifo, "no file, but a pipe or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no file, but a pipe or a device"),
    "nothing": (lambda path: None, "no such file. Put it there, or change `path`"),
}


@pytest.mark.parametrize("name", ["stats.csv", "stats.parquet"])
@pytest.mark.parametrize("what", PLACES)
def test_what_is_no_file_is_named_at_once(tmp_path, what, name):
    make, says = PLACES[what]
    make(tmp_path / name)

    assert says in refused(readers.Source(path=str(tmp_path / name), owner="x"))


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "pipeline.yaml/stats.csv", ""])
def test_a_path_that_no_file_can_have_says_so(path):
    assert "environment" in refused(readers.Source(path=path, owner="x")) or path == ""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_may_not_be_read_says_so(what):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = placed(Path(folder), TEXT)
        os.chmod(source.file if what == "file" else folder, 0)
        try:
            with without_rights():
                assert "cannot be opened: Permission denied" in refused(source)
        finally:
            os.chmod(folder, 0o755)


@pytest.mark.parametrize("name", ["stats.csv", "stats.parquet"])
def test_a_file_to_which_somebody_writes_meanwhile_is_refused_and_not_blamed(tmp_path, monkeypatch, name):
    source, matched = files.source(files.statistics(), tmp_path / name), readers.matched

    def written_to(*given):
        with open(source.file, "ab") as file:
            file.write(b'"2026-01-05T')
        return matched(*given)

    monkeypatch.setattr(readers, "matched", written_to)

    assert "somebody writes to it while it is read. Run again when it is whole" in refused(source)


# The first line.


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("sep=;\n" + TEXT.replace(",", ";"), {}),
        ('"sep=;"\r\n' + TEXT.replace(",", ";").replace("\n", "\r\n"), {}),
        ("\ufeffsep=\t\n" + TEXT.replace(",", "\t"), {"separator": ";"}),
        ("\n".join([f",{HEADER}", *[f"{i},{row}" for i, row in enumerate(ROWS)]]), {}),  # an index, as pandas writes it
        (TEXT.replace("\n", ",,\n"), {}),
        (TEXT.replace("driver_id", " driver_id "), {}),
        (TEXT.replace("driver_id", '"driver_id"'), {}),
        ("\ufeff" + TEXT.replace("datetime", '"datetime"'), {}),
        ("\ufeff\ufeff" + TEXT, {}),
        (TEXT.replace("\n", "\r"), {}),
        (TEXT.replace("\n", "\r\n"), {}),
        (TEXT.replace("\n", "\n\n"), {}),
        (TEXT.rstrip("\n"), {}),
        (TEXT.replace("driver_id", unicodedata.normalize("NFD", "tài_xế")), {"columns": {"tài_xế": "driver_id"}}),
        (TEXT.replace("driver_id", "tài_xế"), {"columns": {unicodedata.normalize("NFD", "tài_xế"): "driver_id"}}),
    ],
)
def test_a_first_line_as_others_write_it_is_understood(tmp_path, text, more):
    read = data.read(placed(tmp_path, text, **more), STATISTICS, CONTRACT, NOW)

    assert (len(read.kept), len(read.refused)) == (4, 0)


@pytest.mark.parametrize("name", ["driver_id ", "\ufeffdriver_id", unicodedata.normalize("NFD", "tài_xế"), "a.b"])
def test_names_in_parquet_are_compared_in_the_same_way(tmp_path, name):
    columns = {"tài_xế": "driver_id", "a.b": "driver_id"}
    used = {key: value for key, value in columns.items() if key == unicodedata.normalize("NFC", name)}

    read = data.read(
        files.source(FRAME.rename(columns={"driver_id": name}), tmp_path / "s.parquet", columns=used), STATISTICS, CONTRACT, NOW
    )

    assert len(read.kept) == 4 and read.provenance["columns"]["driver_id"] == name


def test_names_of_bookings_are_the_same_however_an_accent_is_written(tmp_path):
    composed, apart = unicodedata.normalize("NFC", "chuyến 1"), unicodedata.normalize("NFD", "chuyến 2")
    booked = files.bookings(count=2).assign(request_id=[composed, apart])

    for name in ["b.csv", "b.parquet"]:
        read = data.read(files.source(booked, tmp_path / name), TABLES["bookings"], CONTRACT, NOW)
        assert read.kept.request_id.tolist() == [composed, unicodedata.normalize("NFC", apart)]


def test_a_file_is_found_however_an_accent_of_its_name_is_written(tmp_path):
    source = placed(tmp_path, TEXT, unicodedata.normalize("NFD", "tài xế.csv"))

    assert (
        len(data.read(source.model_copy(update={"path": unicodedata.normalize("NFC", source.path)}), STATISTICS, CONTRACT, NOW).kept) == 4
    )


PHONE = "+84 90 1234567"


@pytest.mark.parametrize(
    ("text", "more", "says"),
    [
        (TEXT.replace("driver_id", "Driver ID"), {}, 'Map its name in `columns`, such as `"Driver ID": driver_id`'),
        (TEXT.replace("driver_id", "TAI_XE"), {"columns": {"tai_xe": "driver_id"}}, 'such as `"TAI_XE": driver_id`'),
        (TEXT.replace("acc_rate", "conv_rate"), {}, "column conv_rate is there twice"),
        (TEXT.replace("driver_id", '"driver_id'), {}, "a quotation mark in the first line is never closed"),
        ("\n".join([f"{row},{PHONE}" for row in ROWS]), {}, "the first line holds values. Write the names of the columns there: datetime"),
        ("\n".join([f"{row};{PHONE}".replace(",", ";") for row in ROWS]), {}, 'the separator is another: set `separator: ";"`'),
        ("\n".join([f"{row};{PHONE}".replace(",", ";") for row in ROWS]), {"separator": ";"}, "the first line holds values"),
        (f'"{PHONE}\n{TEXT}', {}, "a quotation mark in the first line is never closed"),
    ],
)
def test_a_first_line_that_is_none_says_so_and_is_not_quoted(tmp_path, text, more, says):
    message = refused(placed(tmp_path, text, **more))

    assert says in message and PHONE not in message and "2026-01-05" not in message


def test_a_message_lists_no_more_names_than_a_person_reads(tmp_path):
    message = refused(placed(tmp_path, ",".join(["datetime", "", *(f"column {n}" * 20 for n in range(400))]) + "\n1\n"))

    assert "(no name)" in message and "and 382 more" in message and len(message) < 1500


# Values.


@pytest.mark.parametrize("name", ["l.csv", "l.parquet"])
def test_true_and_false_are_one_and_nought_where_the_contract_has_these_two(tmp_path, name):
    sent = files.labels(files.bookings(count=6)).assign(trip_completed=["True", "FALSE", " true", "false", "1", "yes"])

    read = data.read(files.source(sent, tmp_path / name), LABELS, CONTRACT, NOW)

    assert read.kept.trip_completed.tolist() == [1, 0, 1, 0, 1]
    assert reasons(read) == {5: "unreadable"}


def test_true_and_false_of_parquet_are_read_in_the_same_columns_only(tmp_path):
    sent = files.labels(files.bookings(count=2)).assign(trip_completed=[True, False])

    assert data.read(files.source(sent, tmp_path / "l.parquet"), LABELS, CONTRACT, NOW).kept.trip_completed.tolist() == [1, 0]
    for column in ["driver_id", "conv_rate"]:
        read = data.read(files.source(FRAME.assign(**{column: True}), tmp_path / "s.parquet"), STATISTICS, CONTRACT, NOW)
        assert set(reasons(read).values()) == {"unreadable"} and read.kept.empty


@pytest.mark.parametrize("number", [2**63 - 1, 10**18 + 1, 2**53 + 1])
@pytest.mark.parametrize("kind", [str, np.uint64, int])
def test_ids_of_nineteen_digits_are_exact(tmp_path, number, kind):
    for name in ["s.csv", "s.parquet"]:
        source = files.source(FRAME.head(1).assign(driver_id=[kind(number)]), tmp_path / name)
        assert data.read(source, STATISTICS, CONTRACT, NOW).kept.driver_id.tolist() == [number]


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 10**25, "1" * 60])
def test_ids_that_are_too_large_are_refused_and_do_not_wrap(tmp_path, number):
    source = placed(tmp_path, TEXT.replace("1001", str(number), 1))

    assert reasons(data.read(source, STATISTICS, CONTRACT, NOW)) == {0: "unreadable"}


def test_where_a_comma_is_the_decimal_mark_a_point_is_between_thousands_and_not_taken_for_one(tmp_path):
    rows = [row.replace(",", ";").replace("0.5", "0,5") for row in ROWS]
    rows[2] = rows[2].replace(";3;", ";1.000;")

    read = data.read(placed(tmp_path, "\n".join(["sep=;", HEADER.replace(",", ";"), *rows]), decimal=","), STATISTICS, CONTRACT, NOW)

    assert read.kept.conv_rate.tolist() == [0.5] * 3 and reasons(read) == {2: "unreadable"}


@pytest.mark.parametrize("decimal", [".", ","])
def test_the_decimal_mark_of_text_does_not_touch_numbers_of_parquet(tmp_path, decimal):
    exact = ARROW.set_column(2, "conv_rate", ARROW["conv_rate"].cast(pa.decimal128(5, 3)))
    pq.write_table(exact, tmp_path / "s.parquet")

    read = data.read(readers.Source(path=str(tmp_path / "s.parquet"), owner="x", decimal=decimal), STATISTICS, CONTRACT, NOW)

    assert read.kept.conv_rate.tolist() == FRAME.conv_rate.tolist()


@pytest.mark.parametrize("to", [pa.string_view(), pa.binary(), pa.large_string(), pa.binary_view()])
def test_text_of_any_arrow_type_is_text(tmp_path, to):
    pq.write_table(
        pa.table({"request_id": pa.array(["a", "b"]).cast(to), "driver_id": pa.array(["1001", "x"]).cast(to)}), tmp_path / "c.parquet"
    )

    read = data.read(readers.Source(path=str(tmp_path / "c.parquet"), owner="x"), TABLES["candidates"], CONTRACT, NOW)

    assert read.kept.values.tolist() == [["a", 1001]] and reasons(read) == {1: "unreadable"}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, None]),
        pa.array([b"\xff", b"\xfe"]),
        pa.array([b"\xff", b"a"]).cast(pa.string(), safe=False),
    ],
    ids=lambda values: str(values.type),
)
def test_a_column_of_another_kind_is_named_and_not_quoted(tmp_path, values):
    pq.write_table(pa.table({"request_id": values, "driver_id": [1, 2]}), tmp_path / "c.parquet")

    assert "column request_id holds" in refused(readers.Source(path=str(tmp_path / "c.parquet"), owner="x"), TABLES["candidates"])


# Times.


def timed(path: Path, times, table=STATISTICS, **more) -> data.Read:
    "A read of good statistics, at these times: text, or an Arrow array."
    count = len(times)
    columns = {"driver_id": pa.array(range(1001, 1001 + count)), "conv_rate": pa.array([0.5] * count), "acc_rate": pa.array([0.5] * count)}
    written = pa.table({"datetime": times, **columns, "avg_daily_trips": pa.array([3] * count)})
    if path.suffix == ".parquet":
        pq.write_table(written, path, **more.pop("parquet", {}))
    else:
        written.to_pandas().to_csv(path, index=False)
    return data.read(readers.Source(path=str(path), owner="x", **more), table, CONTRACT, more.pop("now", NOW))


CLOCK_CHANGES = ["2025-03-30 02:30", "2025-10-26 02:30", "2025-10-26 03:00", "2025-03-30 01:59:59.999999"]


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_times_that_a_clock_skipped_or_showed_twice_have_reasons_of_their_own(tmp_path, name):
    texts = pa.array(CLOCK_CHANGES)

    read = timed(
        tmp_path / name, texts if name == "s.csv" else pa.array(pd.to_datetime(texts.to_pandas(), format="ISO8601")), zone="Europe/Berlin"
    )

    assert reasons(read) == {0: "local time skipped", 1: "local time twice"}
    assert read.kept.datetime.astype(str).tolist() == ["2025-10-26 02:00:00+00:00", "2025-03-30 00:59:59.999999+00:00"]


def test_a_clock_that_is_put_forward_by_half_an_hour(tmp_path):
    read = timed(tmp_path / "s.csv", pa.array(["2025-10-05 02:15", "2025-10-05 02:30", "2025-04-06 01:45"]), zone="Australia/Lord_Howe")

    assert reasons(read) == {0: "local time skipped", 2: "local time twice"}


def test_local_times_follow_the_clock_also_after_the_tables_of_many_libraries_end(tmp_path):
    source = timed(tmp_path / "s.csv", pa.array(["2030-07-01 12:00", "2050-07-01 12:00"]), zone="Europe/Berlin")
    assert set(source.refused.reason) == {"future time"}

    read = data.read(
        readers.Source(path=str(tmp_path / "s.csv"), owner="x", zone="Europe/Berlin"),
        STATISTICS,
        CONTRACT,
        datetime(2100, 1, 1, tzinfo=UTC),
    )
    assert read.kept.datetime.dt.hour.tolist() == [10, 10]


ODD_TIMES = {
    "9999-12-31T23:00Z": "future time",
    "2262-04-12T00:00Z": "future time",
    "0001-01-01T00:00Z": "out of range",
    "1677-09-21T00:00Z": "out of range",
    "9999-12-31T23:00-07:00": "out of range",
    "10000-01-01T00:00Z": "unreadable",
    "2026-02-30T00:00Z": "unreadable",
    "2026-01-05T24:00Z": "unreadable",
    "2026-01-05T02:00+25:00": "unreadable",
    "2026-01-05 02:00": "time without zone",
    "2026-01-05": "time without zone",
    "1965-01-01T00:00Z": None,
    "2026-01-05T02Z": None,
    "2026-01-05T02:00:00.123456789Z": None,
    "2026-01-05 02:00 +07:00": None,
    "2026-01-05T02:00+0700": None,
}


@pytest.mark.parametrize("text", ODD_TIMES)
@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_what_becomes_of_a_time_does_not_depend_on_its_neighbours(tmp_path, text, name):
    alone, beside = (timed(tmp_path / name, pa.array([text, "2026-01-05T03:00Z", *more])) for more in ([], ["2026-02-30T00:00Z"]))

    assert reasons(alone).get(0) == reasons(beside).get(0) == ODD_TIMES[text]
    assert 1 not in reasons(alone)


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Ho_Chi_Minh"])
@pytest.mark.parametrize(
    ("unit", "count", "reason"),
    [
        ("ms", 9_400_000_000_000_000, "out of range"),  # the year 299844: as microseconds it wraps around to -284710
        ("ms", 9_223_372_036_855_000, "out of range"),
        ("ms", -9_400_000_000_000_000, "out of range"),
        ("us", 2**63 - 1, "out of range"),
        ("us", -(2**63) + 1, "out of range"),
        ("us", 253_402_300_800_000_000, "out of range"),  # the year 10000
        ("ms", 253_402_214_400_000, "future time"),  # the last day of 9999
        ("ns", 2**63 - 1, "future time"),
        ("ns", -(2**63) + 1, "out of range"),
        ("us", -62_135_596_800_000_000, "out of range"),  # the year 1
        ("ns", -157_766_400_000_000_000, None),  # 1965
    ],
)
def test_no_time_of_parquet_wraps_around(tmp_path, unit, count, reason, zone):
    good = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit] * 1_767_571_200
    times = pa.array([count, good], pa.int64()).cast(pa.timestamp(unit, zone))

    read = timed(tmp_path / "s.parquet", times, zone="Asia/Ho_Chi_Minh")

    assert reasons(read) == ({0: reason} if reason else {})
    assert read.kept.datetime.max() == pd.Timestamp("2026-01-05T00:00Z") - (pd.Timedelta(0) if zone else pd.Timedelta(hours=7))
    assert all(json.loads(value)["datetime"] for value in read.refused.value)


def test_times_in_96_bits_as_old_spark_writes_them_do_not_wrap(tmp_path):
    times = pa.array([datetime(9999, 1, 1), datetime(1, 1, 1), datetime(2026, 1, 5)], pa.timestamp("us"))

    read = timed(tmp_path / "s.parquet", times, zone="UTC", parquet={"use_deprecated_int96_timestamps": True})

    assert reasons(read) == {0: "future time", 1: "out of range"}


def test_days_far_out_do_not_wrap(tmp_path):
    times = pa.array([2**31 - 1, -(2**31), 20_458], pa.int32()).cast(pa.date32())

    assert reasons(timed(tmp_path / "s.parquet", times, zone="UTC")) == {0: "out of range", 1: "out of range"}
    assert timed(tmp_path / "s.parquet", pa.array([date(2026, 1, 5)]), zone="UTC").kept.datetime[0] == pd.Timestamp("2026-01-05T00:00Z")


@pytest.mark.parametrize(("name", "column"), [(t.name, c.name) for t in TABLES.values() for c in t.columns if c.kind == "time"])
@pytest.mark.parametrize("moment", ["2026-01-08T00:00:00.000001Z", "2099-01-01T00:00Z", "9999-12-31T23:59:59Z"])
def test_each_time_of_each_table_that_is_later_than_now_costs_its_row(tmp_path, name, column, moment):
    sent = good_rows(name).astype({column: object})
    sent.loc[1, column] = moment

    read = data.read(files.source(sent, tmp_path / f"{name}.csv"), TABLES[name], CONTRACT, NOW)

    assert list(read.refused[["row", "reason", "column"]].itertuples(index=False, name=None)) == [(1, "future time", column)]


# A file of which nothing can be used ends like any other: with reasons, a guess and its quarantine.


def good_rows(table: str, count: int = 4) -> pd.DataFrame:
    "Good rows of a table, times as text."
    booked = files.bookings(count=count, drivers=1)
    frames = {
        "statistics": files.statistics(drivers=1, hours=count),
        "bookings": booked,
        "candidates": files.candidates(booked, drivers=1),
        "labels": files.labels(booked),
        "request": booked[["driver_id", "event_timestamp"]],
    }
    written = frames[table].copy()
    for name in written.select_dtypes("datetimetz"):
        written[name] = written[name].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return written


def all_of(column: str, change) -> pd.DataFrame:
    good = good_rows("statistics")
    return good.assign(**{column: good[column].map(change)})


WRONG = {
    "decimal comma": (
        all_of("conv_rate", lambda n: f"{n}".replace(".", ",")),
        "unreadable",
        'a comma is the decimal mark: set `decimal: ","`',
    ),
    "percent": (all_of("conv_rate", lambda n: 100 * n), "out of range", "percent: ask for shares from 0 to 1"),
    "percent, with its sign": (all_of("acc_rate", lambda n: f"{100 * n} %"), "unreadable", "percent: ask for shares"),
    "future": (all_of("datetime", lambda t: t.replace("2026", "2027")), "future time", "a `clock` of the environment that is behind"),
    "no times": (all_of("datetime", lambda t: "yesterday"), "unreadable", None),
    "day first": (all_of("datetime", lambda t: "05/01/2026 " + t[11:16]), "unreadable", 'set `time_format`, such as "%d/%m/%Y %H:%M"'),
    "month first": (all_of("datetime", lambda t: "01.05.2026 " + t[11:16]), "unreadable", 'such as "%d.%m.%Y %H:%M"'),
    "seconds": (all_of("datetime", lambda t: 1_767_571_200), "unreadable", "seconds since 1970, or parts of them"),
    "no keys": (all_of("driver_id", lambda n: None), "missing", None),
    "no values": (all_of("conv_rate", lambda n: None), "missing", None),
    "no sense": (all_of("driver_id", lambda n: "somebody"), "unreadable", None),
    "two stories": (pd.concat([all_of("conv_rate", lambda n: 0.1), all_of("conv_rate", lambda n: 0.2)]), "conflict", None),
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("fault", WRONG)
def test_statistics_that_are_all_wrong_end_with_reason_guess_and_quarantine(tmp_path, fault, suffix):
    frame, reason, guess = WRONG[fault]
    frame = frame.drop(columns="driver_phone")
    sources = files.company(tmp_path / "in") | {
        "statistics": files.write(frame, tmp_path / f"in/s.{suffix}", **({"sep": ";"} if suffix == "csv" else {}))
    }

    with pytest.raises(data.TooManyRefused) as stopped:
        files.run_data(tmp_path / "out", sources, limit=1.0)

    message, quarantine = str(stopped.value), pd.read_parquet(tmp_path / "out/data/quarantine.parquet")
    assert f"statistics: {len(frame)} of {len(frame)} rows are refused (100.0%" in message and f"rows: {reason} in " in message
    assert quarantine[quarantine.table == "statistics"].reason.tolist() == [reason] * len(frame)
    assert (guess in message) if guess else ("perhaps" not in message.split("bookings:")[0])


def test_rows_of_another_length_than_the_first_line_are_guessed_at(tmp_path):
    read = data.read(placed(tmp_path, "\n".join([HEADER, *[row.replace("0.5", "0,5") for row in ROWS]])), STATISTICS, CONTRACT, NOW)

    assert "rows: another `separator`, or commas in numbers" in data.over_limit("statistics", read, 0.05, CONTRACT)


def test_bookings_are_not_blamed_for_statistics_that_cannot_be_read(tmp_path):
    wrong = {"statistics": files.write(files.statistics().assign(conv_rate="0,5"), tmp_path / "in/s.parquet")}

    with pytest.raises(data.TooManyRefused) as stopped:
        files.run_data(tmp_path / "out", files.company(tmp_path / "in") | wrong)

    assert "unknown entity" not in str(stopped.value) and "bookings:" not in str(stopped.value)


def test_the_message_names_drivers_by_number_and_nothing_else_that_stands_in_their_column(tmp_path):
    read = data.read(placed(tmp_path, TEXT.replace("1001", PHONE)), STATISTICS, CONTRACT, NOW)

    message = data.over_limit("statistics", read, 0.05, CONTRACT)

    assert PHONE in read.refused.value[0] and not [part for part in PHONE.split() if part in message.replace(str(tmp_path), "")]


# The rules, one by one, on frames that hold nothing, one row, nothing but gaps, or the same again and again.


def frames(table) -> dict[str, pd.DataFrame]:
    columns = tables.arrow_schema(table.model_copy(update={"time": None})).names
    good = data.read(readers.Source(path=str(_good_file(table)), owner="x"), table, CONTRACT, NOW).kept[columns]
    good = good.astype({c.name: "Int64" for c in table.columns if c.kind == "integer"})
    return {
        "empty": good.head(0),
        "one": good.head(1),
        "gaps": good.where(good.isna()),
        "same": good.iloc[[0] * 5].reset_index(drop=True),
        "good": good,
    }


_FOLDER = tempfile.TemporaryDirectory()


def _good_file(table) -> Path:
    path = Path(_FOLDER.name) / f"{table.name}.parquet"
    if not path.exists():
        good_rows(table.name).to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("shape", ["empty", "one", "gaps", "same", "good"])
@pytest.mark.parametrize("name", TABLES)
def test_each_rule_takes_a_frame_of_any_shape(name, shape):
    table, frame = TABLES[name], frames(TABLES[name])[shape]
    rules = [data.missing, data.conflict, lambda rows, t: data.future(rows, t, NOW)]
    rules += [partial(rule, contract=CONTRACT) for rule in (data.duplicate, data.superseded)]

    for rule in [*rules, lambda rows, t: data.unknown(rows, {CONTRACT.entity: []}), lambda rows, t: data.unknown(rows, {})]:
        assert rule(frame, table).index.isin(frame.index).all()
    if shape != "gaps":
        whole = frame.astype({c.name: "int64" for c in table.columns if c.kind == "integer"})
        assert data.validate(whole, table).empty
    if table.time:
        assert len(data.known_at(frame, table, CONTRACT)) == len(frame)


@pytest.mark.parametrize("shape", ["empty", "one", "gaps", "same", "good"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_any_shape_is_cleaned_summed_up_shown_and_written(tmp_path, name, shape):
    table, frame = TABLES[name], frames(TABLES[name])[shape]

    cleaned = data.clean(frame, table, NOW, CONTRACT)

    assert len(cleaned.kept) + len(cleaned.refused) == len(frame)
    read = data.Read(cleaned.kept, cleaned.refused, {"rows": len(frame), "path": "x", "owner": "x"}, None)
    assert (data.over_limit(name, read, 0.0, CONTRACT) is None) == (shape in ("one", "good", "same"))
    entry = data.entry(table, cleaned.kept, read, None, "0" * 64)
    assert "<h2>" in profiles.page({name: cleaned.kept}, {name: entry}) and len(profiles.summary(cleaned.kept)) == len(cleaned.kept.columns)
    tables.write_table(cleaned.kept, tables.arrow_schema(table), tmp_path / "t.parquet")
    assert pq.read_schema(tmp_path / "t.parquet").types == tables.arrow_schema(table).types


# Whatever comes: each row is kept or refused, or the whole file is, by a message.

WORDS = [
    "",
    "x",
    "0.5",
    "0,5",
    "50%",
    "1001",
    " 1 ",
    "True",
    "NaN",
    "null",
    "-",
    "9" * 40,
    "9223372036854775808",
    "1e400",
    "\0",
    '"a\nb"',
    '"',
]
WORDS += [
    "2026-01-05T00:00Z",
    "2025-10-26 02:30",
    "2026-02-30T00:00Z",
    "31/12/2025",
    "0001-01-01T00:00Z",
    "chuyê\u0301n",
    "😀",
    "a\u2028b",
    PHONE,
]
names_of = st.sampled_from(list(TABLES))


@st.composite
def odd_text(draw) -> tuple[str, bytes, dict]:
    "A table's name, a CSV file for it in which much is wrong, and how it is described."
    table = TABLES[draw(names_of)]
    columns = [c.name for c in table.columns if draw(st.integers(0, 19)) != 0]
    heads = [draw(st.sampled_from([name] * 12 + [name.upper(), f" {name}", f'"{name}"', ""])) for name in columns]
    good = good_rows(table.name, 1).astype(str).iloc[0]
    wrong = draw(st.sampled_from([0, 0, 1, 1, 3]))  # of three
    cell = {name: st.just(good[name]) if name in good else st.just("") for name in columns}
    row = st.tuples(*(st.sampled_from(WORDS) if draw(st.integers(0, 2)) < wrong else cell[name] for name in columns)).map(list)
    rows = draw(st.lists(row | row | row | st.lists(st.sampled_from(WORDS), max_size=9), max_size=8))
    separator, end = draw(st.sampled_from([",", ",", ";", "\t"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = draw(st.sampled_from(["", "", "\ufeff", f"sep={separator}{end}", end])) + end.join(
        separator.join(line) for line in [heads, *rows]
    )
    content = text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-16-le", "cp1252"])), "replace")
    if draw(st.integers(0, 9)) == 0:
        content = (
            content[: draw(st.integers(0, len(content)))] + draw(st.binary(max_size=4)) + content[draw(st.integers(0, len(content))) :]
        )
    return table.name, content, {"separator": draw(st.sampled_from([separator, separator, ","]))}


described = st.fixed_dictionaries(
    {
        "zone": st.sampled_from([None, "UTC", "Europe/Berlin"]),
        "decimal": st.sampled_from([".", ","]),
        "time_format": st.sampled_from([None, None, "%d/%m/%Y", ["%d/%m/%Y", "%m/%d/%Y", "%Y-%m-%d"]]),
        "missing": st.sampled_from([[], ["x", 1001]]),
        "where": st.sampled_from([{}, {}, {"driver_id": {"empty": False}}, {"driver_id": {"not": ["x", 1]}}]),
        "known": st.sampled_from([None, "event", "created"]),
    }
)


def each_row_is_somewhere(source: readers.Source, name: str) -> None:
    try:
        read = data.read(source, TABLES[name], CONTRACT, NOW)
    except project.UserError as error:
        assert PHONE not in str(error) and "The fault is ours" not in str(error)
        return
    left_out = sum(read.provenance["left_out"].values())
    assert len(read.kept) + len(read.refused) + left_out == read.provenance["rows"]
    assert read.refused.row.is_unique and read.refused.reason.all()
    assert all(json.loads(value) is not None for value in read.refused.value)
    message = data.over_limit(name, read, 0.05, CONTRACT)
    assert message or len(read.kept)
    assert PHONE not in (message or "")
    tables.write_table(read.kept, tables.arrow_schema(TABLES[name]), source.file.with_suffix(".kept"))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(odd_text(), described)
def test_of_any_text_each_row_is_kept_or_refused_or_the_file_is(tmp_path, given_file, more):
    name, content, separator = given_file
    each_row_is_somewhere(placed(tmp_path, content, **more, **separator), name)


MOMENTS = [0, 1_767_571_200_000_000, 2**63 - 1, -(2**63) + 1, 253_402_300_800_000_000, -62_135_596_800_000_000]
COLUMNS = [
    lambda n, pick: pa.array([pick(WORDS) for _ in range(n)]),
    lambda n, pick: pa.array([pick(WORDS) for _ in range(n)]).dictionary_encode(),
    lambda n, pick: pa.array([pick(WORDS).encode() for _ in range(n)]),
    lambda n, pick: pa.array([pick([b"\xff", b"x"]) for _ in range(n)]).cast(pa.string(), safe=False),
    lambda n, pick: pa.array([pick([0, 1001, -1, 2**62, None]) for _ in range(n)], pa.int64()),
    lambda n, pick: pa.array([pick([1, 2**64 - 1]) for _ in range(n)], pa.uint64()),
    lambda n, pick: pa.array([pick([0.5, 2.0**53, float("nan"), float("inf"), 50.0, None]) for _ in range(n)], pa.float64()),
    lambda n, pick: pa.array([pick([0.5, 1.0]) for _ in range(n)], pa.float16()),
    lambda n, pick: pa.array([pick([True, False, None]) for _ in range(n)], pa.bool_()),
    lambda n, pick: pa.nulls(n),
    lambda n, pick: pa.array([0.5] * n).cast(pa.decimal128(20, 5)),
    lambda n, pick: pa.array([pick([20_000, 2**31 - 1, -(2**31)]) for _ in range(n)], pa.int32()).cast(pa.date32()),
    lambda n, pick: pa.array([pick(MOMENTS) for _ in range(n)], pa.int64()).cast(pa.timestamp(pick(["us", "ns", "ms"]), pick([None, "UTC", "Mars/Olympus"]))),
    lambda n, pick: pa.array([1] * n, pa.int64()).cast(pa.duration("s")),
    lambda n, pick: pa.array([3_600] * n, pa.int32()).cast(pa.time32("s")),
    lambda n, pick: pa.array([[1]] * n),
    lambda n, pick: pa.array([{"a": 1}] * n),
    lambda n, pick: pa.array([b"1001"] * n, pa.binary(4)),
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), names_of, st.integers(1, 6), described)
def test_of_any_parquet_file_each_row_is_kept_or_refused_or_the_file_is(tmp_path, some, name, count, more):
    def pick(values):
        return some.draw(st.sampled_from(values))

    good = pa.Table.from_pandas(good_rows(name, count), preserve_index=False).slice(0, count)
    odd = {
        column: pick(COLUMNS)(count, pick) if pick([True, False, False]) else good[column]
        for column in good.column_names
        if pick([True] * 19 + [False])
    }
    pq.write_table(pa.table(odd or {"x": [1] * count}), tmp_path / "odd.parquet")

    each_row_is_somewhere(readers.Source(path=str(tmp_path / "odd.parquet"), owner="x", **more), name)


# What is said about a file may be wrong too.


@pytest.mark.parametrize("form", ["dd/MM/yyyy", "%Q", "%d", "mixed", "ISO8601", "%H:%M"])
def test_a_time_format_that_is_none_is_refused_with_an_example(form):
    with pytest.raises(ValueError, match=r"does not say day and time as strptime does; one that does is %d.%m.%Y %H:%M"):
        readers.Source(path="x.csv", owner="x", time_format=form)


@pytest.mark.parametrize("mark", ["", ",,", '"', "\n", "§"])
def test_a_separator_that_no_reader_takes_is_refused(mark):
    with pytest.raises(ValueError, match="separator"):
        readers.Source(path="x.csv", owner="x", separator=mark)


def test_known_by_a_column_that_the_contract_lacks_is_refused(tmp_path):
    source = files.source(files.bookings(), tmp_path / "b.csv", known="created")

    with pytest.raises(project.UserError, match="the contract of bookings has no column `created`. Set `known: event`"):
        data.read(source, TABLES["bookings"], CONTRACT, NOW)
