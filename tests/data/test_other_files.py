"""A file set of another company: other names, zone, time format, separators and decimal mark; by configuration alone."""

import pandas as pd
import pytest
from data import files

ZONE = "Asia/Ho_Chi_Minh"
NAMES = {
    "statistics": {
        "thoi_gian": "datetime",
        "tai_xe": "driver_id",
        "ty_le_hoan_thanh": "conv_rate",
        "ty_le_nhan": "acc_rate",
        "chuyen_moi_ngay": "avg_daily_trips",
        "ghi_luc": "created",
        "so_dien_thoai": "driver_phone",
    },
    "bookings": {"ma": "request_id", "luc": "event_timestamp", "tai_xe": "driver_id", "xac_suat": "propensity", "khach": "rider_id"},
    "candidates": {"ma": "request_id", "tai_xe": "driver_id"},
    "labels": {"ma": "request_id", "luc": "event_timestamp", "tai_xe": "driver_id", "xong": "trip_completed", "ghi_luc": "created"},
}


def as_they_write(frame: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    "The same rows under their names, with times on their clocks."
    theirs = frame.rename(columns={ours: name for name, ours in names.items()})[list(names)]
    for column in theirs.select_dtypes("datetimetz"):
        theirs[column] = theirs[column].dt.tz_convert(ZONE).dt.tz_localize(None)
    return theirs


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "The stage's folders: of files in the contract's shape, and of the same rows as the other company writes them."
    folder = tmp_path_factory.mktemp("files")
    booked = files.bookings()
    tables = {"statistics": files.statistics(), "bookings": booked, "candidates": files.candidates(booked), "labels": files.labels(booked)}
    ours = {name: files.write(frame, folder / f"{name}.parquet") for name, frame in tables.items()}
    theirs = {name: as_they_write(frame, NAMES[name]) for name, frame in tables.items()}
    stamp = "%d.%m.%Y %H:%M"
    sources = {
        "statistics": files.write(theirs["statistics"], folder / "thong_ke.csv", sep=";", decimal=",", date_format=stamp)
        | {"zone": ZONE, "time_format": stamp, "decimal": ","},
        "bookings": files.write(theirs["bookings"], folder / "chuyen.parquet") | {"zone": ZONE},
        "candidates": files.write(theirs["candidates"], folder / "ung_vien.txt", sep="\t"),
        "labels": files.write(theirs["labels"], folder / "nhan.tsv", sep="\t") | {"zone": ZONE},
    }
    sources = {name: {**source, "columns": NAMES[name]} for name, source in sources.items()}
    return files.run_data(folder / "out/ours", ours), files.run_data(folder / "out/theirs", sources)


@pytest.mark.parametrize("name", NAMES)
def test_other_files_become_the_same_table(both, name):
    ours, theirs = (pd.read_parquet(out / f"data/{name}.parquet") for out in both)

    assert len(ours) and theirs.equals(ours)


def test_nothing_of_them_is_refused(both):
    assert pd.read_parquet(both[1] / "data/quarantine.parquet").empty


def test_their_files_say_nine_o_clock_where_the_table_says_two(both):
    text = (both[1].parent.parent / "thong_ke.csv").read_text().splitlines()

    assert text[3].startswith("05.01.2026 09:00;1001;0,")
    assert pd.read_parquet(both[1] / "data/statistics.parquet").datetime[2] == pd.Timestamp("2026-01-05T02:00Z")
