"""What is said of Python's versions is one thing everywhere, and the lock keeps models the same on each."""

import re
from configparser import ConfigParser

import yaml

from mlops_course import project, registry

ROOT = project.root()


def pythons() -> list[str]:
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["pythons"].split()


def test_the_pythons_that_are_promised_are_those_that_ci_tries():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    promise = re.search(r"You need Python ([\d., or]+?) \(", (ROOT / "README.md").read_text(encoding="utf-8"))[1]

    assert re.split(r", | or ", promise) == workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons()


def test_the_lock_has_one_version_of_each_library_that_decides_what_a_model_is():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    for name in registry.libraries():
        [line] = re.findall(rf"^{name}==.*$", lock, flags=re.M)
        assert ";" not in line, f"{name} differs by Python: `make lock` has been changed"
