"""What the tests share: stages run on the small environment, in a folder of their own."""

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from filelock import FileLock

from mlops_course import clocks, stages, telemetry

UPSTREAM = {
    "world": [],
    "capstone": [],
    "data": ["world", "capstone"],
    "features": ["data"],
    "training": ["data", "features"],
    "batch": ["features", "training"],
}
"""The stages and what each needs, as the notebooks' parameter cells say; test_pipeline.py compares the two."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    "Under REQUIRE_ALL=1 a skipped test is a failed one, but for those of files that are not part of the project."
    report = (yield).get_result()
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and "seed_data" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE_ALL=1: {report.longrepr}"


@pytest.fixture(scope="session", autouse=True)
def small_environment(tmp_path_factory):
    "Every test runs in the environment of env.test.yaml, and in a lab of its own, unless it says otherwise."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLOOMBER_ENV_FILENAME", "env.test.yaml")
        patch.setenv("MLOPS_COURSE_LAB", str(tmp_path_factory.mktemp("lab")))
        patch.delenv("MLOPS_COURSE_API_KEY", raising=False)
        yield


def run_stages(out: Path, *names: str, **changes) -> Path:
    "Run stages one after another into `out`, as their working cells do; `changes` replace parts of the environment."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_COURSE_LAB", str(out))
        for name in names:
            with stages.stage(name, upstream=stages.upstream(name), environment={**changes, "out": str(out / "no-build")}) as stage:
                import_module(f"mlops_course.{name}").run(stage)
    return out


def made_once(
    tmp_path_factory,
    name: str,
    make: Callable[[Path], object],  # fills a folder
) -> Path:
    "A folder that all workers of a run share: the first that needs it makes it, the others wait. Read it, never write to it."
    around = tmp_path_factory.getbasetemp()
    around = around.parent if "PYTEST_XDIST_WORKER" in os.environ else around
    folder, whole = around / name, around / f"{name} is whole"
    with FileLock(around / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    "The folder of a whole build of the small environment. Read it, never write to it."
    return made_once(tmp_path_factory, "built", lambda folder: run_stages(folder, *UPSTREAM))


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    "The small company that can be asked online. `company.copy` makes one that a test may change."
    import company  # and with it MLflow and Feast, which few tests need

    return made_once(tmp_path_factory, "company", company.make)


@pytest.fixture(scope="module", autouse=True)
def as_it_was():
    "A module that lets the clock of its process run, or names a run, leaves the next one as it was."
    yield
    clocks.leave()
    os.environ.pop(telemetry.RUN, None)
