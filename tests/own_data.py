"""README's section "Your own project": its text, and files of the shape that its example describes."""

import re
from pathlib import Path

import pandas as pd

from mlops_course import project

README = (project.root() / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"## Your own project\n(.*?)\n## ", README, re.S)[1]
NAME, ENVIRONMENT = re.search(r"```yaml\n# (env\.\w+\.yaml)\n(.*?)```", SECTION, re.S).groups()
ZONE = re.search(r"zone: (\S+/\S+)", ENVIRONMENT)[1]


def write_files(
    raw: Path,  # a simulated company's files
    folder: Path,  # gets drivers.csv, trips.csv and to_score.csv
) -> None:
    "Statistics, labels and drivers to score, named, separated and timed as README's example says."
    stats = pd.read_parquet(raw / "driver_stats.parquet").drop_duplicates(["driver_id", "datetime"])
    local = {"hour": stats.datetime.dt.tz_convert(ZONE).dt.strftime("%d.%m.%Y %H:%M"), "driver": stats.driver_id}
    rates = {"conversion": stats.conv_rate, "acceptance": stats.acc_rate, "trips": stats.avg_daily_trips}
    pd.DataFrame({**local, **rates}).to_csv(folder / "drivers.csv", sep=";", index=False)
    trips = pd.read_parquet(raw / "labels.parquet").drop_duplicates(["driver_id", "event_timestamp"])
    trips = trips.assign(event_timestamp=trips.event_timestamp.dt.tz_convert(ZONE).dt.tz_localize(None))
    trips[["driver_id", "event_timestamp", "trip_completed"]].to_csv(folder / "trips.csv", index=False)
    pd.read_parquet(raw / "batch_request.parquet").to_csv(folder / "to_score.csv", index=False)
