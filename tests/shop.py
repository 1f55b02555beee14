"""Another company: a web shop asks which order will come back. Its entity is text, a category and a boolean are among the features,
one of them never varies, a request brings features of its own, and nobody has logged choices."""

from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import yaml

from mlops_course.contracts import faults
from mlops_course.problem import Project

TEXT = dedent(
    """
    name: order-return
    about: will this order come back?
    contract:
      entity: customer
      time: event_timestamp
      booking: order
      label: returned
      features:
        orders: {table: habits}
        member: {table: habits}
        city: {table: habits}
        constant: {table: habits}
        basket: {table: request, score: rises}
        device: {table: request}
      tables:
        habits:
          about: what a customer has done until the end of a day
          key: [customer, day, created]
          entity: customer
          time: day
          known: created
          span: P1D
          fresh: P2D
          columns:
            - {name: day, kind: time, about: the beginning of the day}
            - {name: customer, kind: text, about: the customer's name}
            - {name: orders, kind: number, about: orders of the last 30 days, low: 0}
            - {name: member, kind: boolean, about: pays for fast delivery, empty: true}
            - {name: city, kind: text, about: where parcels go, empty: true}
            - {name: constant, kind: number, about: the same for all}
            - {name: created, kind: time, about: when the row was written, empty: true}
        labels:
          about: what became of an order
          key: [order]
          time: event_timestamp
          known: created
          columns:
            - {name: order, kind: text, about: the order's number}
            - {name: event_timestamp, kind: time, about: when it was placed}
            - {name: customer, kind: text, about: the customer's name}
            - {name: basket, kind: number, about: euros, low: 0}
            - {name: device, kind: text, about: on which it was placed, empty: true}
            - {name: returned, kind: integer, about: 1 if it came back, low: 0, high: 1}
            - {name: created, kind: time, about: when the row was written, empty: true}
        request:
          about: orders to score
          key: [customer, event_timestamp]
          time: event_timestamp
          columns:
            - {name: customer, kind: text, about: the customer's name}
            - {name: event_timestamp, kind: time, about: when it is placed}
            - {name: basket, kind: number, about: euros, low: 0}
            - {name: device, kind: text, about: on which it is placed, empty: true}
    acceptance: {labels: 200, entities: 20, days: 7, paired_days: 3}
    costs: {true_positive: 4, false_positive: 1, false_negative: 0}
    """
)
SHOP = Project.model_validate(yaml.safe_load(TEXT))
CONTRACT = SHOP.contract
assert not faults(CONTRACT)


def write(root: Path) -> str:
    "Its file in another root, as an environment names it."
    (root / "projects").mkdir(exist_ok=True)
    (root / "projects/shop.yaml").write_text(TEXT, encoding="utf-8")
    return "projects/shop.yaml"


def examples(days: int = 40, orders: int = 150, seed: int = 7) -> pd.DataFrame:
    "Past orders as `training.extract` gives them: of 300 customers, in cities large, small and unknown, on two devices."
    draw = np.random.default_rng(seed)
    n, time = days * orders, pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(np.sort(draw.random(days * orders)) * days, unit="D")
    city = draw.choice(["Hanoi", "Hue", "Vinh", "Sa Pa", ""], n, p=[0.5, 0.3, 0.147, 0.003, 0.05])
    basket, device = draw.gamma(3, 20, n).round(2), draw.choice(["phone", "laptop"], n)
    logit = 0.03 * (basket - 60) + 1.5 * (device == "phone") - 2 + 1.2 * (city == "Hue")
    frame = pd.DataFrame(
        {
            "order": pd.array([f"o{i:06}" for i in range(n)], "string"),
            "event_timestamp": time.floor("s").as_unit("us"),
            "customer": [f"c{i}" for i in draw.integers(0, 300, n)],
            "orders": draw.poisson(3, n).astype(float),
            "member": draw.choice([0.0, 1.0, np.nan], n),
            "city": city,
            "constant": 1.0,
            "basket": basket,
            "device": device,
            "returned": (draw.random(n) < 1 / (1 + np.exp(-logit))).astype(float),
        }
    )
    frame["known_at"] = (frame.event_timestamp + pd.Timedelta(hours=3)).dt.as_unit("us")
    return frame.assign(city=frame.city.where(frame.city != "", None).astype(object), device=frame.device.astype(object))
