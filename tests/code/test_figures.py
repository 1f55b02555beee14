"""The last page of the course: what runs have left, what they have not, and what is damaged."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from mlops_course import cases, figures, project
from mlops_course.figures import FIGURES

DECISION = {
    "decision": "promoted",
    "model": {"kind": "elastic net", "version": "3"},
    "metrics": {"rmse": 0.4757, "base_rmse": 0.4941},
    "uplift": {"estimate": 0.209, "low": 0.159, "high": 0.258},
}


def write(out: Path, name: str, value) -> None:
    file = out / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))


def promoted(out: Path) -> cases.Case:
    "A case that was closed by a promotion, a minute after its alert."
    began = datetime(2026, 3, 16, tzinfo=UTC)
    case = cases.Case(number=1, version="3", state="closed", due=began, result="promoted", promoted="4")
    for seconds, what in enumerate(["alerted", "training", "decided", "taken over", "closed"]):
        real = (began + timedelta(seconds=20 * min(seconds, 3))).isoformat()
        case.steps.append({"what": what, "time": began.isoformat(), "real": real})
    cases.save(out, case)
    return case


def test_where_nothing_has_run_all_figures_are_empty(tmp_path):
    assert figures.figures(tmp_path) == {figure.name: "" for figure in FIGURES}


def test_each_figure_names_a_lesson_that_is_there():
    lessons = {path.name[:2] for path in (project.root() / "notebooks").glob("[0-8]*.ipynb")}

    assert {figure.lesson for figure in FIGURES} <= lessons


def test_a_training_is_shown_with_the_lower_bound_of_its_uplift(tmp_path):
    write(tmp_path, "training/decision.json", DECISION)

    shown = figures.figures(tmp_path)

    assert shown["training"] == "promoted: elastic net, version 3"
    assert shown["error (RMSE)"] == "0.476, without a model 0.494"
    assert shown["more completed trips"] == "+20.9%, at least +15.9%"


def test_the_truth_stands_beside_it_where_somebody_knows_it(tmp_path):
    write(tmp_path, "training/decision.json", DECISION)
    write(tmp_path, "training/truth.json", {"model_uplift": 0.2211})

    assert figures.uplift(tmp_path).endswith("in truth +22.1%")


def test_a_refused_training_has_no_version(tmp_path):
    write(tmp_path, "training/decision.json", DECISION | {"decision": "refused", "model": {"kind": None, "version": None}})

    assert figures.champion(tmp_path) == "refused"


@pytest.mark.parametrize("damaged", ['{"tables": {"labels": {"rows_in": 34', "[]", '{"tables": {"labels": {}}}', ""])
def test_a_damaged_file_says_so_and_takes_no_other_figure_with_it(tmp_path, damaged):
    write(tmp_path, "training/decision.json", DECISION)
    write(tmp_path, "data/catalogue.json", damaged)

    shown = figures.figures(tmp_path)

    assert shown["rows"] == "cannot be read"
    assert shown["training"]


def test_an_uplift_that_is_not_measurable_says_so(tmp_path):
    write(tmp_path, "training/decision.json", DECISION | {"uplift": dict.fromkeys(DECISION["uplift"])})

    assert figures.uplift(tmp_path) == "not measurable"


def test_rows_scores_and_answers_are_counted(tmp_path):
    tables = {"labels": {"rows_in": 1_000, "rows_out": 990}, "bookings": {"rows_in": 500, "rows_out": 500}}
    write(tmp_path, "data/catalogue.json", {"tables": tables})
    (tmp_path / "batch").mkdir()
    pd.DataFrame({"score": [0.5] * 40}).to_parquet(tmp_path / "batch/scores.parquet")
    for day in (15, 16):
        write(tmp_path, f"serving/predictions/2026-03-{day}.jsonl", "{}\n" * 3)

    shown = figures.figures(tmp_path)

    assert shown["rows"] == "1,500, of which 10 refused"
    assert (shown["drivers scored"], shown["bookings answered"]) == ("40", "6")


def test_a_cure_is_as_long_as_its_phases(tmp_path):
    case = promoted(tmp_path)

    assert cases.read_cases(tmp_path) == [case]
    assert figures.recovered(tmp_path) == "60 s, to version 4"
