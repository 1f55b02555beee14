"""The contract and the acceptance numbers."""

import subprocess
import sys

import pandas as pd
import pytest
from pandera.errors import SchemaErrors
from rides import CONTRACT, RIDES

from mlops_course.problem import Costs, schema


def frame(table, **values) -> pd.DataFrame:
    "One good row of a table of the contract, with some values replaced."
    good = {"integer": 1, "number": 0.5, "text": "r-1", "time": pd.Timestamp("2026-01-05T09:00Z").as_unit("us")}
    row = {c.name: good[c.kind] for c in table.columns if c.personal != "drop"} | values
    kinds = {
        c.name: {"integer": "int64", "number": "float64", "text": "string", "time": "datetime64[us, UTC]"}[c.kind] for c in table.columns
    }
    return pd.DataFrame([row]).astype({name: kinds[name] for name in row})


@pytest.mark.parametrize("table", CONTRACT.tables.values(), ids=lambda t: t.name)
def test_a_good_row_keeps_the_contract(table):
    schema(table).validate(frame(table), lazy=True)


@pytest.mark.parametrize(
    ("column", "value"), [("conv_rate", 1.01), ("acc_rate", -0.01), ("avg_daily_trips", -1), ("driver_id", 0), ("conv_rate", None)]
)
def test_a_value_out_of_its_range_breaks_it(column, value):
    table = CONTRACT.tables["statistics"]

    with pytest.raises(SchemaErrors) as broken:
        schema(table).validate(frame(table, **{column: value}), lazy=True)

    assert set(broken.value.failure_cases.column) == {column}


def test_every_role_of_the_contract_is_a_column_of_its_tables():
    names = {name: set(table.names) for name, table in CONTRACT.tables.items()}

    assert {CONTRACT.entity, *CONTRACT.features} <= names["statistics"]
    assert {CONTRACT.booking, CONTRACT.time, CONTRACT.entity, CONTRACT.propensity} <= names["bookings"]
    assert {CONTRACT.booking, CONTRACT.entity} == names["candidates"]
    assert {CONTRACT.booking, CONTRACT.time, CONTRACT.entity, CONTRACT.label} <= names["labels"]
    assert {CONTRACT.entity, CONTRACT.time} == names["request"]


def test_every_column_says_what_it_is_and_every_table_has_a_key():
    for table in CONTRACT.tables.values():
        assert set(table.key) <= set(table.names)
        assert all(column.about for column in table.columns)


def test_personal_columns_to_drop_are_not_kept():
    for table in CONTRACT.tables.values():
        assert not any(name.endswith("_phone") for name in table.names)


def test_the_numbers_of_the_course_are_those_of_the_company():
    assert (RIDES.acceptance.latency_ms, RIDES.acceptance.requests_per_second, RIDES.acceptance.candidates) == (500, 50, 20)
    assert (RIDES.acceptance.rmse, RIDES.acceptance.uplift) == (0.5, 0.10)


def test_a_false_positive_costs_more_than_a_false_negative():
    assert RIDES.costs.false_positive > RIDES.costs.false_negative
    assert RIDES.costs.promise(1.0) == RIDES.costs.true_positive and RIDES.costs.none(0.0) == 0


@pytest.mark.parametrize("costs", [RIDES.costs, Costs(false_positive=8, false_negative=3), Costs(false_negative=0)])
def test_at_the_break_even_a_promise_brings_as_much_as_none_below_less_and_above_more(costs):
    assert costs.value(costs.break_even) == pytest.approx(0)
    assert costs.promise(costs.break_even) == pytest.approx(costs.none(costs.break_even))
    assert costs.value(costs.break_even - 0.01) < 0 < costs.value(costs.break_even + 0.01)


def test_no_module_binds_a_project_when_it_is_imported():
    "What is imported is the same for all projects: a contract, an acceptance, a price comes as an argument."
    code = """
import papermill, pkgutil
from importlib import import_module
import mlops_course
from mlops_course.problem import Acceptance, Contract, Costs, Feature, Project, Table

def of_a_project(thing):
    inside = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else []
    return isinstance(thing, (Acceptance, Contract, Costs, Feature, Project, Table)) or any(map(of_a_project, inside))

for module in sorted(module.name for module in pkgutil.iter_modules(mlops_course.__path__)):
    for name, thing in vars(import_module(f"mlops_course.{module}")).items():
        if of_a_project(thing):
            print(f"{module}.{name}")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == ""
