"""Real builds: they end, they resume after a kill, they rerun what has changed and nothing else."""

import json
import re
import shutil
import time
from pathlib import Path

import psutil
import pytest
from data import files
from disks import disk, fill
from workshop import Workshop

from conftest import UPSTREAM
from mlops_course import telemetry

pytestmark = pytest.mark.patient

STAGES = list(UPSTREAM)
SLOW_TO_LOAD = {"duckdb", "evidently", "fastapi", "feast", "matplotlib", "mlflow", "papermill", "ploomber", "scipy", "sklearn", "skops"}
LEARNER = {
    "ipython/profile_default/startup/00.py": "{note}; import warnings; warnings.simplefilter('error')",
    "ipython/profile_default/ipython_config.py": "{note}; c.InteractiveShellApp.exec_lines = ['raise SystemExit']",
    "ipython/profile_default/ipython_kernel_config.py": "{note}",
    "startup.py": "{note}",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    "A copy of the project with nothing built, of a person with settings of her own for Python and Jupyter; `ran` notes those that run."
    shop, home = Workshop(tmp_path_factory.mktemp("workshop")), tmp_path_factory.mktemp("home")
    shop.ran = home / "ran"
    for name, text in LEARNER.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text.replace("{note}", f"open({str(shop.ran)!r}, 'a').write({name!r})"), encoding="utf-8")
    kernel = {"argv": ["/bin/sh", "-c", f"echo kernel >> '{shop.ran}'; exit 1"], "display_name": "Python 3", "language": "python"}
    (home / "jupyter/kernels/python3").mkdir(parents=True)
    (home / "jupyter/kernels/python3/kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
    shop.variables |= {
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PATH": str(home / "jupyter"),
        "PYTHONSTARTUP": str(home / "startup.py"),
    }
    return shop


@pytest.fixture(scope="module")
def small(finished, tmp_path_factory) -> Workshop:
    "The same build, on a disk of its own."
    shop = Workshop(tmp_path_factory.mktemp("small"))
    with disk(shop.out, "size=60m"):
        shutil.copytree(finished.out, shop.out, dirs_exist_ok=True)
        yield shop


def wait_until(reached, work) -> None:
    until = time.monotonic() + 300
    while not reached() and work.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def last_lines(output: str) -> list[str]:
    "From the champion on: what every `run` prints."
    lines = output.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("Champion")) :]


def test_a_build_ends_with_champion_metrics_uplift_and_where_things_are(finished):
    lines = "\n".join(last_lines(finished.output))

    for word in [
        "Champion",
        "RMSE",
        "Uplift",
        "the best that anyone could reach",
        "scores.parquet",
        "make ui ENV=env.test.yaml",
        "make lab",
    ]:
        assert word in lines
    assert finished.started() == STAGES


def test_a_second_run_prints_the_same_lines_and_starts_no_stage(finished):
    before = finished.events()

    code, output = finished.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0 and last_lines(output) == last_lines(finished.output)
    assert "Building" not in output
    assert finished.events() == before


def test_a_stage_that_is_asked_for_and_is_current_runs_nothing_and_is_not_late(finished):
    events, before = finished.events(), telemetry.stage_notes(finished.out)
    code, output = finished.call("mlops-course", "stage", "features", "--env", "env.test.yaml")
    after = telemetry.stage_notes(finished.out)

    assert code == 0 and output.splitlines()[-1] == "features is current: out/test/made/features.json"
    assert finished.events() == events
    newer = {name for name in before if after[name]["success"] > before[name]["success"]}
    assert newer == {"world", "data", "features"}
    assert finished.call("mlops-course", "run", "--env", "env.test.yaml")[1].count("Building") == 0


def test_a_second_run_loads_nothing_that_trains_tracks_or_serves(finished):
    finished.variables["PYTHONPROFILEIMPORTTIME"] = "1"
    try:
        code, output = finished.call("mlops-course", "run", "--env", "env.test.yaml")
    finally:
        del finished.variables["PYTHONPROFILEIMPORTTIME"]

    loaded = set(re.findall(r"^import time:.*\| +(\w+)$", output, re.MULTILINE))
    assert code == 0 and {"pandas", "mlops_course"} <= loaded
    assert not loaded & SLOW_TO_LOAD  # how long the run takes is measured by tests/benchmarks/bench_run.py


def test_nothing_of_a_persons_own_jupyter_runs_in_a_build(finished):
    assert not finished.ran.exists(), finished.ran.read_text()


def test_a_build_killed_in_each_stage_resumes_to_the_same_result(finished, tmp_path):
    killed = Workshop(tmp_path)
    for stage in STAGES:
        killed.kill_in(stage)
        assert killed.started().count(stage) == 1 and ("stage finished", stage) not in killed.events()

    code, output = killed.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0, output
    assert killed.result() == finished.result()


def test_ploombers_own_command_finds_nothing_to_do_after_run(finished):
    before = finished.events()

    code, output = finished.call("ploomber", "build")

    assert code == 0, output
    assert finished.events() == before


@pytest.mark.parametrize(
    ("product", "fault"),
    [
        ("batch/scores.parquet", "altered"),
        ("raw/bookings.parquet", "deleted"),
    ],
)
def test_a_product_that_was_lost_is_noticed_and_made_again(finished, product, fault):
    expected = finished.result()
    path = finished.out / product
    finished.variables["PYTHONWARNINGS"] = "error"  # hers, and no matter of a build
    path.unlink() if fault == "deleted" else path.write_bytes(path.read_bytes()[:-10])

    code, output = finished.call("mlops-course", "run", "--env", "env.test.yaml")

    finished.variables.pop("PYTHONWARNINGS")
    assert code == 0 and product in output, output
    assert finished.result() == expected


def test_a_second_build_is_refused_and_says_who_builds_and_the_first_one_comes_to_its_end(finished):
    expected, before = finished.result(), len(finished.started())
    (finished.out / "batch/scores.parquet").unlink()
    first = finished.start("mlops-course", "run", "--env", "env.test.yaml")
    wait_until(lambda: len(finished.started()) > before, first)

    code, output = finished.call("mlops-course", "run", "--env", "env.test.yaml")
    assert code == 1 and "a build of out/test runs already: process " in output and "(ploomber build), since " in output, output
    code, output = finished.call("ploomber", "status")
    assert code == 0 and "batch" in output, output
    code, output = finished.call("ploomber", "build")
    if first.poll() is None:
        assert code == 1 and "a build of out/test runs already: process " in output, output

    output, _ = first.communicate(timeout=600)
    assert first.returncode == 0 and finished.result() == expected, output
    assert len(finished.started()) == before + 1


def test_a_disk_that_is_full_or_gets_full_is_told_and_nothing_passes_for_made(small):
    (small.out / "batch/scores.parquet").unlink()
    for leave in [0, 8_000]:
        filler = fill(small.out, leave)
        code, output = small.call("mlops-course", "run", "--env", "env.test.yaml")
        assert code == 1 and "the disk is full (" in output and "are free in " in output and "free some space" in output, output
        assert "Traceback" not in output and len(output.splitlines()) < 6, output
        filler.unlink()

    code, output = small.call("mlops-course", "status", "--env", "env.test.yaml")

    assert code == 0 and "Changed" in output, output


def test_a_kernel_that_is_killed_is_told_and_the_next_build_goes_on_from_there(finished, small):
    before = len(small.started())
    (small.out / "batch/quarantine.parquet").unlink()
    work = small.start("mlops-course", "run", "--env", "env.test.yaml")
    wait_until(lambda: len(small.started()) > before, work)
    for process in psutil.Process(work.pid).children(recursive=True):
        if any("ipykernel" in word for word in process.cmdline()):
            process.kill()
    output, _ = work.communicate(timeout=600)
    assert work.returncode == 1 and "stage batch stopped: it was killed" in output and "memory" in output, output

    code, output = small.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0 and small.result() == finished.result(), output
    assert small.started()[before:] == ["batch", "batch"]


def test_a_change_in_a_module_reruns_the_stages_that_use_it(finished):
    before = len(finished.started())
    path = finished.folder / "mlops_course/features.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n_A_CHANGE = True\n", encoding="utf-8")

    code, output = finished.call("ploomber", "build")

    assert code == 0, output
    assert finished.started()[before:] == ["features", "training", "batch"]


def test_a_typo_mended_in_prose_runs_nothing_and_another_working_cell_registers_nothing(finished):
    expected, before = finished.result(), len(finished.started())
    notebook = finished.folder / "notebooks/45_training_pipeline.ipynb"
    text = notebook.read_text(encoding="utf-8")

    notebook.write_text(text.replace("In this lesson you will", "In this lesson, you will"), encoding="utf-8")
    code, output = finished.call("ploomber", "build")
    assert code == 0 and finished.started()[before:] == [], output

    notebook.write_text(text.replace('"    training.run(stage)', '"    training.run(stage)  # as before'), encoding="utf-8")
    code, output = finished.call("ploomber", "build")
    assert code == 0 and finished.started()[before:] == ["training", "batch"], output
    assert finished.result() == expected


@pytest.fixture(scope="module")
def seed(workshop, tmp_path_factory):
    "The environment of the seed's files, built as far as it goes; the folder of its files, which are no part of the build."
    workshop.variables["SEED_DATA"] = str(files.seed_twin(tmp_path_factory.mktemp("seed")))
    workshop.output = workshop.call("mlops-course", "run", "--env", "env.seed.yaml")
    return Path(workshop.variables["SEED_DATA"])


def test_the_seeds_environment_ends_with_the_reasons_of_its_gate(workshop, seed):
    code, output = workshop.output

    assert code == 1
    assert "stage batch stopped: there is no champion" in output and "too little evidence: 3 labels of 2,000" in output
    code, output = workshop.call("mlops-course", "status", "--env", "env.seed.yaml")
    assert code == 0 and "Uplift     not measurable" in output and "AUC" in output
    assert "Changed    data" not in output


@pytest.mark.parametrize(
    ("fault", "command", "message"),
    [
        ("deleted", ["ploomber", "build"], "no such file. Put it there"),
        (
            "unset",
            ["mlops-course", "run", "--env", "env.seed.yaml"],
            "driver_orders.csv: the environment variable SEED_DATA is not set. Set it",
        ),
    ],
)
def test_an_input_that_is_gone_is_said_by_status_and_stops_the_next_build(workshop, seed, monkeypatch, fault, command, message):
    if fault == "unset":
        monkeypatch.delitem(workshop.variables, "SEED_DATA")
    else:
        monkeypatch.setitem(workshop.variables, "PLOOMBER_ENV_FILENAME", "env.seed.yaml")
        (seed / "driver_orders.csv").rename(seed / "elsewhere.csv")

    assert "Changed    data: " in workshop.call("mlops-course", "status", "--env", "env.seed.yaml")[1]
    code, output = workshop.call(*command)

    assert code == 1 and message in output, output
