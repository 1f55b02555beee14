"""nbval compares stored outputs only of cells with a number; nbdev_clean takes the numbers away, this gives them back."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for number, item in enumerate(items, start=1):
        cell = getattr(item, "cell", None)
        if cell is not None and cell.cell_type == "code" and cell.execution_count is None:
            cell.execution_count = number
