"""What a stage read from outside of a build, and what it ran on: whoever replaces it is noticed, by us and by Ploomber."""

import os
import shutil
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from conftest import UPSTREAM
from mlops_course import project, stages
from mlops_course.files import write_json

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Ploomber's, of each parameter

AFTER = {"world": ["world", "capstone", "data", "features", "training", "batch"], "data": ["data", "features", "training", "batch"]}
AFTER |= {"training": ["training", "batch"], "batch": ["batch"]}


class Company:
    "A copy of the project whose stages read the files of a customer in `theirs`, with a build of which every stage is current."

    def __init__(self, folder: Path):
        self.root, self.theirs = folder / "project", folder / "theirs"
        for name in [
            "pipeline.yaml",
            "settings.ini",
            "requirements.lock",
            "mlops_course",
            "projects",
            *(t["source"] for t in stages.tasks().values()),
        ]:
            source, path = project.root() / name, self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, path) if source.is_dir() else shutil.copy2(source, path)
        self.theirs.mkdir()
        for name in ["labels.csv", "drivers.csv", "to_score.csv", "truth.parquet"]:
            (self.theirs / name).write_text(f"this is {name}")
        settings = yaml.safe_load((project.root() / "env.test.yaml").read_text(encoding="utf-8"))
        settings["data"]["sources"] = {name: {"path": f"${{THEIRS}}/{name}.csv", "owner": "them"} for name in ["labels", "drivers"]}
        settings["batch"]["request"]["path"] = "${TO_SCORE}"
        settings["training"]["truth"] = str(self.theirs / "truth.parquet")
        (self.root / "env.test.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def build(self) -> None:
        "Each stage writes its products, with nothing in them; Ploomber notes them."
        paths = {name: {k: Path(v.replace("{{out}}", "out/test")) for k, v in t["product"].items()} for name, t in stages.tasks().items()}
        settings = project.environment()
        for name, before in UPSTREAM.items():
            about = {"name": settings.name, "out": settings.out, "clock": settings.clock, name: getattr(settings, name)}
            product = {key: project.root() / path for key, path in paths[name].items()}
            with stages.stage(name, product, {task: {} for task in before}, about) as stage:
                for path in product.values():
                    if path.suffix == ".parquet":
                        pd.DataFrame({"made by": [name]}).to_parquet(path)
                    else:
                        path.write_text(name) if path.suffix else path.mkdir(exist_ok=True)
                if name == "data":
                    labels = stage.record(stages.table_file(product, "labels"))
                    pd.DataFrame({"made by": [name]}).to_parquet(labels)
        for name in (dag := self.dag()):
            dag[name].product.metadata.update(str(dag[name].source), dag[name].params.to_json_serializable(params_only=True))
        write_json(self.out / "made/build.json", {"fingerprint": stages.fingerprint("env.test.yaml")})

    @property
    def out(self) -> Path:
        return self.root / "out/test"

    def edit(self, file: str, old: str, new: str) -> None:
        "Put `new` in the place of the first `old`."
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def dag(self):
        "The pipeline as `ploomber build` loads it."
        from ploomber.spec import DAGSpec

        dag = DAGSpec("pipeline.yaml", env="env.test.yaml").to_dag()
        return dag.render(show_progress=False)

    def stale(self) -> list[str]:
        "The stages that `ploomber build` would make again."
        dag = self.dag()
        return [name for name in dag if dag[name].exec_status.name != "Skipped"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Company:
    company = Company(tmp_path_factory.mktemp("company"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(company.root)
        patch.setenv("THEIRS", str(company.theirs))
        patch.setenv("TO_SCORE", str(company.theirs / "to_score.csv"))
        before = dict(os.environ)
        company.build()
        yield company
        os.environ.clear()  # Ploomber's executor has set its process apart
        os.environ.update(before)


@pytest.fixture
def company(built, tmp_path, monkeypatch) -> Company:
    "The company as it was built; what a test does to it is undone."
    kept = {
        folder: shutil.copytree(folder, tmp_path / folder.relative_to(built.root.parent))
        for folder in [built.out, built.theirs, built.root / "notebooks", built.root / "mlops_course"]
    }
    settings = (built.root / "env.test.yaml").read_bytes()
    yield built
    stages.versions.cache_clear()
    (built.root / "env.test.yaml").write_bytes(settings)
    for folder, copy in kept.items():
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)


def replaced(company, patch):
    (company.theirs / "labels.csv").write_text("this is LABELS.csv")


def replaced_unseen(company, patch):
    file = company.theirs / "labels.csv"
    before = os.stat(file)
    with open(file, "r+") as opened:
        opened.write("THIS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def deleted(company, patch):
    (company.theirs / "drivers.csv").unlink()


def variable_elsewhere(company, patch):
    (company.root / "elsewhere").mkdir(exist_ok=True)
    patch.setenv("THEIRS", str(company.root / "elsewhere"))


def variable_unset(company, patch):
    patch.delenv("THEIRS")


def variable_of_a_file(company, patch):
    patch.setenv("TO_SCORE", str(company.theirs / "drivers.csv"))


def optional_file_deleted(company, patch):
    (company.theirs / "truth.parquet").unlink()


def key_of_pseudonyms(company, patch):
    patch.setenv("MLOPS_COURSE_PSEUDONYM_KEY", "another key")


def library_updated(company, patch):
    (company.root / "newer/pandas-99.0.dist-info").mkdir(parents=True, exist_ok=True)
    (company.root / "newer/pandas-99.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: pandas\nVersion: 99.0\n")
    patch.syspath_prepend(company.root / "newer")
    stages.versions.cache_clear()


def python_updated(company, patch):
    patch.setattr(stages.platform, "python_version", lambda: "3.99.0")
    stages.versions.cache_clear()


def product_altered(company, patch):
    (company.out / "training/decision.json").write_text("{}")


def product_deleted(company, patch):
    (company.out / "data/labels.parquet").unlink()


def setting_changed(company, patch):
    company.edit("env.test.yaml", "\ntraining:\n", "\ntraining:\n  report_rows: 99\n")


def module_changed(company, patch, name: str = "data"):
    company.edit(f"mlops_course/{name}.py", "", "# a line\n")


def module_of_the_last_stage_changed(company, patch):
    module_changed(company, patch, "batch")


def working_cell_changed(company, patch):
    company.edit("notebooks/30_data_pipeline.ipynb", '"    data.run(stage)', '"    data.run(stage)  # changed')


def working_cell_added(company, patch):
    path = company.root / "notebooks/45_training_pipeline.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('one more')", metadata={"tags": ["stage"]}))
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("fault", "stage", "names"),
    [
        (replaced, "data", "${THEIRS}/labels.csv"),
        (replaced_unseen, "data", "${THEIRS}/labels.csv"),
        (deleted, "data", "${THEIRS}/drivers.csv"),
        (variable_elsewhere, "data", "${THEIRS}/drivers.csv"),
        (variable_unset, "data", "${THEIRS}/drivers.csv"),
        (variable_of_a_file, "batch", "${TO_SCORE}"),
        (optional_file_deleted, "training", "truth.parquet"),
        (key_of_pseudonyms, "data", "MLOPS_COURSE_PSEUDONYM_KEY"),
        (library_updated, "world", "pandas"),
        (python_updated, "world", "Python"),
        (product_altered, "training", "training/decision.json"),
        (product_deleted, "data", "data/labels.parquet"),
        (setting_changed, "training", "settings"),
        (module_changed, "data", "mlops_course/data.py"),
        (module_of_the_last_stage_changed, "batch", "mlops_course/batch.py"),
        (working_cell_changed, "data", "cells"),
        (working_cell_added, "training", "cells"),
    ],
)
def test_what_a_stage_stands_on_is_not_changed_unnoticed(company, monkeypatch, fault, stage, names):
    assert stages.stale("env.test.yaml") == {}

    fault(company, monkeypatch)

    assert any(names in text for text in stages.stale("env.test.yaml")[stage])


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (None, None),
        (replaced, "data"),
        (variable_of_a_file, "batch"),
        (library_updated, "world"),
        (product_altered, "training"),
        (setting_changed, "training"),
        (module_changed, "data"),
        (module_of_the_last_stage_changed, "batch"),
        (working_cell_changed, "data"),
        (working_cell_added, "training"),
    ],
)
def test_ploomber_by_itself_makes_again_what_has_changed_and_what_comes_after_it(company, monkeypatch, fault, stage):
    if fault:
        fault(company, monkeypatch)

    assert company.stale() == AFTER.get(stage, [])


@pytest.mark.parametrize("lesson", [task["source"] for task in stages.tasks().values()])
def test_prose_exercises_and_teaching_cells_do_not_change_a_build(company, lesson):
    "Whatever a learner does to them: solve, break off in the middle of a line, run, delete, add."
    notebook = nbformat.read(company.root / lesson, as_version=4)
    for number, cell in enumerate(notebook.cells):
        if not stages.TAGS & set(cell.metadata.get("tags", [])):
            cell.source = f"def broken_{number}(" if cell.cell_type == "code" else "Other words."
    del notebook.cells[1]
    notebook.cells += [nbformat.v4.new_code_cell("1 +"), nbformat.v4.new_markdown_cell("A note.")]
    nbformat.write(notebook, company.root / lesson)

    assert stages.stale("env.test.yaml") == {} and company.stale() == []
    stages.check_cells()


def test_another_pipeline_is_another_build(company):
    before = (company.root / "pipeline.yaml").read_bytes()
    try:
        company.edit("pipeline.yaml", "", "# a line\n")
        assert stages.stale("env.test.yaml") == {"build": ["pipeline.yaml"]}
    finally:
        (company.root / "pipeline.yaml").write_bytes(before)


def test_the_same_file_put_back_is_no_change(company):
    file = company.theirs / "labels.csv"
    text = file.read_text()
    file.unlink()
    assert "data" in stages.stale("env.test.yaml")

    file.write_text(text)

    assert stages.stale("env.test.yaml") == {}


def test_an_optional_file_that_comes_later_is_noticed(company):
    file = company.theirs / "truth.parquet"
    kept = file.read_bytes()
    file.unlink()
    company.build()
    assert stages.stale("env.test.yaml") == {}

    file.write_bytes(kept)

    assert list(stages.stale("env.test.yaml")) == ["training"]


def test_what_is_replaced_while_a_stage_runs_counts_as_changed(company):
    settings = project.environment()
    paths = {key: project.root() / path.replace("{{out}}", "out/test") for key, path in stages.tasks()["batch"]["product"].items()}
    with stages.stage("batch", paths, {}, {"name": settings.name, "out": settings.out, "clock": settings.clock, "batch": settings.batch}):
        (company.theirs / "to_score.csv").write_text("newer")

    assert stages.stale("env.test.yaml") == {"batch": ["${TO_SCORE}"]}


def test_ploombers_force_builds_all_also_when_something_has_changed(company, monkeypatch):
    from ploomber.constants import TaskStatus

    deleted(company, monkeypatch)

    dag = company.dag().render(force=True, show_progress=False)

    assert all(dag[name].exec_status != TaskStatus.Skipped for name in dag)


def test_a_file_that_looks_as_before_is_not_read_again(company):
    notes = company.out / "made/digests.json"
    file = str(company.theirs / "labels.csv")
    os.utime(file)  # also where the company took a while to make
    stages.stale("env.test.yaml")
    assert file not in stages._json(notes), "what was written a moment ago may be written again within one tick of the clock"

    time.sleep(2.1)
    stages.stale("env.test.yaml")
    noted = stages._json(notes)
    noted[file]["digest"] = "0" * 64  # shows who believes it
    write_json(notes, noted)

    assert stages.stale("env.test.yaml") == {"data": ["${THEIRS}/labels.csv"]}
    os.utime(file)
    assert stages.stale("env.test.yaml") == {}


def test_notes_that_are_broken_or_cannot_be_written_do_no_harm(company):
    (company.out / "made/digests.json").unlink(missing_ok=True)
    (company.out / "made/digests.json").mkdir()

    assert stages.stale("env.test.yaml") == {}
    shutil.rmtree(company.out / "made/digests.json")
    (company.out / "made/digests.json").write_text('{"half')
    assert stages.stale("env.test.yaml") == {}


def test_a_note_of_ploombers_that_is_cut_off_runs_its_stage_again(company):
    "As a full disk, or a kill in the wrong moment, leaves it."
    for name, length in [("data/.catalogue.json", 0), (".data", 40)]:
        note = company.out / f"{name}.metadata"
        note.write_bytes(note.read_bytes()[:length])

    assert company.stale() == AFTER["data"]
