"""What the system tests share: a copy of the project, and one with a finished build."""

import pytest
from workshop import Workshop

FIRST = ["loop", "serving", "prometheus", "papermill", "readme", "build", "flights", "hostile_environment", "jupyterlab", "platform_build", "setup"]
"The longest files begin first, or one of them would be left over at the end, with nothing beside it."


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


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
