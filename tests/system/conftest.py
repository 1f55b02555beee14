"""What the system tests share: a copy of the project, and one with a finished build."""

import costs
import pytest
from workshop import Workshop


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(costs.LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    "A copy of the project with nothing built."
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def finished(workshop) -> Workshop:
    "A copy of the project in which `mlops-course run` has ended well."
    code, output = workshop.call("mlops-course", "run", "--env", "env.test.yaml")
    assert code == 0, output
    workshop.output = output
    return workshop
