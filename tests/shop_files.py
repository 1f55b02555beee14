"""Files of the shop, as its departments send them, and the environment that reads them: `shop.yaml` alone says what they mean."""

from pathlib import Path

import numpy as np
import pandas as pd
import shop
import yaml

DAYS, END = 40, pd.Timestamp("2026-02-14", tz="UTC")  # of orders, and the last midnight
CITIES = ["Hanoi", "Hue", "Vinh", "Sa Pa", ""]
WORDS = {"came back": 1, "kept": 0, "lost on the way": None}  # what became of a parcel; null: nobody can say


def habits(draw: np.random.Generator, customers: int = 300) -> pd.DataFrame:
    "A row a customer and day, two weeks longer than there are orders."
    days = pd.date_range(END - pd.Timedelta(days=DAYS + 14), END - pd.Timedelta(days=1), freq="D")
    names = [f"c{number:03}" for number in range(customers)]
    rows = pd.MultiIndex.from_product([days, names], names=["day", "customer"]).to_frame(index=False)
    n, one = len(rows), np.tile(draw.choice(CITIES, customers, p=[0.5, 0.3, 0.147, 0.003, 0.05]), len(days))
    member = np.tile(draw.choice(["yes", "no", ""], customers, p=[0.4, 0.5, 0.1]), len(days))
    return rows.assign(orders=draw.poisson(3, n), member=member, city=one, constant=1, created=rows.day + pd.Timedelta(hours=25))


def orders(draw: np.random.Generator, known: pd.DataFrame, begin: pd.Timestamp, days: int, count: int = 150) -> pd.DataFrame:
    "Orders of these days and what became of them: a large basket, a telephone and Hue bring more of them back."
    n = days * count
    rows = pd.DataFrame({"customer": draw.choice(known.customer.unique(), n), "basket": draw.gamma(3, 20, n).round(2)})
    rows["event_timestamp"] = (begin + pd.to_timedelta(np.sort(draw.random(n)) * days, unit="D")).floor("s")
    rows["order"] = [f"{begin:%m%d}-{number:05}" for number in range(n)]
    rows["device"] = draw.choice(["phone", "laptop", "NA"], n, p=[0.5, 0.4, 0.1])
    city = rows.customer.map(known.drop_duplicates("customer").set_index("customer").city)
    logit = 0.03 * (rows.basket - 60) + 1.5 * (rows.device == "phone") - 2 + 1.2 * (city == "Hue")
    word = np.where(draw.random(n) < 1 / (1 + np.exp(-logit)), "came back", "kept")
    rows["fate"] = np.where(draw.random(n) < 0.02, "lost on the way", word)
    return rows.assign(created=rows.event_timestamp + pd.Timedelta(hours=5))


def write(folder: Path) -> dict:
    "All files in `folder`, with the project beside them; the environment that names them."
    draw = np.random.default_rng(11)
    known = habits(draw)
    rows = orders(draw, known, END - pd.Timedelta(days=DAYS), DAYS)
    known.to_csv(folder / "habits.csv", index=False)
    rows[rows.created < END].to_csv(folder / "orders.csv", index=False)
    rows.tail(40)[["customer", "basket", "device"]].assign(event_timestamp=END).to_csv(folder / "asked.csv", index=False)
    (folder / "shop.yaml").write_text(shop.TEXT, encoding="utf-8")
    named = {"owner": "the shop"}
    sources = {
        "habits": {"path": str(folder / "habits.csv"), "values": {"member": {"yes": 1, "no": 0}}, **named},
        "labels": {
            "path": str(folder / "orders.csv"),
            "columns": {"fate": "returned"},
            "values": {"returned": WORDS},
            "missing": ["NA"],
            **named,
        },
    }
    made = {
        "name": "shop",
        "out": str(folder / "out"),
        "clock": END.isoformat(),
        "project": str(folder / "shop.yaml"),
        "world": {"simulate": False},
        "data": {"quarantine_limit": 0.05, "sources": sources},
        "features": {"ttl_hours": {"habits": 72}},
        "training": {"test_days": 14, "validation_days": 6, "seed": 7, "truth": None},
        "batch": {"request": {"path": str(folder / "asked.csv"), "missing": ["NA"], **named}},
    }
    (folder / "env.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    return made
