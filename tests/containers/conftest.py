"""A copy of the project whose whole platform runs in containers; a test of system takes the same daemon and base."""

import pytest
from workshop import Workshop


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    "A copy of the project with nothing built."
    return Workshop(tmp_path_factory.mktemp("workshop"))
