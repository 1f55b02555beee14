"""Orders of the shop and how they ended, as the tests of monitoring send them: each comes once, and nobody chose among candidates."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from shop import CONTRACT

from mlops_course.joined import Label
from mlops_course.monitoring import MonitoringSettings
from mlops_course.problem import KNOWN

BEGIN = datetime(2026, 1, 26, tzinfo=UTC)  # of normal traffic
LATER = BEGIN + timedelta(days=35)
SETTINGS = MonitoringSettings(window_requests=300, window_labels=300, min_labels=100)


def orders(seed: int, days: int = 28, begin: datetime = BEGIN, member: float = 0.4, returned: float = 1.0) -> pd.DataFrame:
    "An order every half an hour, each by another customer."
    rng, n = np.random.default_rng(seed), 48 * days
    time = pd.Timestamp(begin).as_unit("us") + pd.to_timedelta(np.arange(n) * 30, unit="min")
    score = rng.uniform(0.2, 0.6, n)
    return pd.DataFrame(
        {
            CONTRACT.booking: [f"{begin:%m%d}-{number}" for number in range(n)],
            CONTRACT.time: time,
            CONTRACT.entity: [f"{number:05}" for number in rng.permutation(100_000)[:n]],
            "orders": rng.integers(0, 20, n).astype(float),
            "member": np.where(rng.random(n) < 0.05, np.nan, rng.random(n) < member),
            "city": np.array(["Bern", "Basel", "Chur", None], object)[rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05])],
            "constant": 1.0,
            "basket": rng.lognormal(3, 1, n),
            "device": np.array(["phone", "desk"], object)[rng.integers(0, 2, n)],
            KNOWN: time - pd.Timedelta(hours=2),
            "score": score,
            CONTRACT.label: (rng.random(n) < returned * score).astype(float),
        }
    )


def logged(rows: pd.DataFrame, version: str = "1") -> tuple[list[dict], list[Label]]:
    "Orders as serving's log has them, and what became of them."
    entries, labels = [], []
    for row in rows.to_dict("records"):
        customer, score, time = row[CONTRACT.entity], row["score"], row[CONTRACT.time]
        values = {name: None if pd.isna(row[name]) else row[name] for name in CONTRACT.features}
        candidate = {CONTRACT.entity: customer, "score": score, "values": values, KNOWN: row[KNOWN].isoformat()}
        about = {"time": time.isoformat(), "request_id": row[CONTRACT.booking], "version": version}
        entries.append({**about, "prediction": customer, "score": score, "candidates": [candidate]})
        labels.append(Label(row[CONTRACT.booking], customer, int(row[CONTRACT.label]), time.timestamp()))
    return entries, labels
