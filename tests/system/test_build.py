"""Real builds: they end, they resume after a kill, they rerun what has changed and nothing else."""

import pytest
from data import files

from conftest import UPSTREAM

pytestmark = pytest.mark.patient

STAGES = list(UPSTREAM)


def last_lines(told: str) -> list[str]:
    "From the champion on: what every `run` prints."
    lines = told.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("Champion")) :]


def test_a_build_ends_with_champion_metrics_uplift_and_where_things_are(finished):
    lines = "\n".join(last_lines(finished.told))

    for word in ["Champion", "RMSE", "Uplift", "the best that anyone could reach", "scores.parquet", "sqlite:///", "make lab"]:
        assert word in lines
    assert finished.started() == STAGES


def test_a_second_run_prints_the_same_lines_and_starts_no_stage(finished):
    before = finished.events()

    code, told = finished.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0 and last_lines(told) == last_lines(finished.told)
    assert "Building" not in told
    assert finished.events() == before


def test_ploombers_own_command_finds_nothing_to_do_after_run(finished):
    before = finished.events()

    code, told = finished.call("ploomber", "build")

    assert code == 0, told
    assert finished.events() == before


@pytest.mark.parametrize(
    ("product", "fault"),
    [
        ("data/labels.parquet", "deleted"),
        ("data/labels.parquet", "altered"),
        ("batch/scores.parquet", "altered"),
        ("raw/bookings.parquet", "deleted"),
    ],
)
def test_a_product_that_was_lost_is_noticed_and_made_again(finished, product, fault):
    expected = finished.result()
    path = finished.out / product
    path.unlink() if fault == "deleted" else path.write_bytes(path.read_bytes()[:-10])

    code, told = finished.call("mlops-course", "run", "--env", "env.test.yaml")

    assert code == 0 and product in told, told
    assert finished.result() == expected


@pytest.mark.parametrize(
    ("module", "stages"),
    [("batch", ["batch"]), ("features", ["features", "training", "batch"]), ("data", ["data", "features", "training", "batch"])],
)
def test_a_change_in_a_module_reruns_the_stages_that_use_it(finished, module, stages):
    before = len(finished.started())
    path = finished.folder / f"mlops_course/{module}.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n_A_CHANGE = True\n", encoding="utf-8")

    code, told = finished.call("ploomber", "build")

    assert code == 0, told
    assert finished.started()[before:] == stages


def test_a_typo_mended_in_prose_registers_nothing(finished):
    expected = finished.result()
    notebook = finished.folder / "notebooks/40_training_pipeline.ipynb"
    notebook.write_text(
        notebook.read_text(encoding="utf-8").replace("In this lesson you will", "In this lesson, you will"), encoding="utf-8"
    )
    before = len(finished.started())

    code, told = finished.call("ploomber", "build")

    assert code == 0, told
    assert "training" in finished.started()[before:]
    assert finished.result() == expected


def test_the_seeds_environment_ends_with_the_reasons_of_its_gate(workshop, tmp_path):
    files.seed_twin(tmp_path)
    workshop.variables["SEED_DATA"] = str(tmp_path)

    code, told = workshop.call("mlops-course", "run", "--env", "env.seed.yaml")

    assert code == 1
    assert "stage batch stopped: there is no champion" in told and "too little evidence: 3 labels of 2,000" in told
    code, told = workshop.call("mlops-course", "status", "--env", "env.seed.yaml")
    assert code == 0 and "Uplift     not measurable" in told and "AUC" in told
