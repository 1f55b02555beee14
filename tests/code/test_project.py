"""The map, the root, the settings of an environment, the clock."""

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest
from imports import sources

from mlops_course import project, settings, topics
from mlops_course.project import UserError


def test_every_topic_of_the_map_is_alive():
    for topic in topics.TOPICS:
        notebook = project.root() / f"notebooks/{topic.notebook}.ipynb"
        if topic.test:
            assert notebook.is_file(), f"{topic.name} names a notebook that is not there"
            assert (project.root() / f"mlops_course/{topic.module}.py").is_file(), topic
            assert (project.root() / "tests" / topic.test).is_file(), topic
        else:
            assert not notebook.is_file(), f"{topic.name} is planned, but {topic.notebook} is there"


def test_a_next_step_leads_to_a_lesson_under_its_name_or_to_a_number_that_is_free():
    lessons = {path.stem[:2]: path.stem for path in (project.root() / "notebooks").glob("[0-8]*.ipynb")}

    assert len(topics.NEXT_STEPS) == 8
    assert all(lessons.get(step.notebook[:2], step.notebook) == step.notebook for step in topics.NEXT_STEPS)


def test_outside_of_a_project_the_root_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="run this from the folder that has pipeline.yaml"):
        project.root(tmp_path)


@pytest.mark.parametrize("name", ["a{b", "a}", "a:b", "a\\b", "a\nb", "a\tb", "a\udcffb"])
def test_a_folder_that_a_tool_reads_otherwise_is_refused_in_a_line(tmp_path, name):
    folder = tmp_path / name / "course"
    folder.mkdir(parents=True)
    for file in ("pipeline.yaml", "settings.ini"):
        (folder / file).touch()

    with pytest.raises(UserError, match="because of its .*Move or rename it") as refused:
        project.root(folder)

    assert len(str(refused.value).splitlines()) == 1 and str(refused.value).isprintable()


def test_an_environment_writes_to_no_folder_with_braces_but_may_to_one_with_a_colon():
    assert str(project.environment("env.yaml", out="out/2026-03-16T00:00").out) == "out/2026-03-16T00:00"
    with pytest.raises(UserError, match="because of its '{'"):
        project.environment("env.yaml", out="out/{x}")


@pytest.mark.parametrize("file", ["env.yaml", "env.test.yaml"])
def test_an_environment_has_its_placeholders_filled_at_any_depth(file):
    settings = project.environment(file)

    assert settings.data["sources"]["labels"]["path"] == f"{settings.out}/raw/labels.parquet"
    assert "{{" not in settings.model_dump_json()


def test_a_change_replaces_one_value_of_a_section_and_keeps_the_rest():
    settings = project.environment("env.yaml", world={"drivers": 3})

    assert settings.world == {**project.environment("env.yaml").world, "drivers": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"clokc": None}, "clokc"), ({"clock": "2026-01-01T00:00:00"}, "timezone"), ({"out": None}, "out"), ({"world": 3}, "world")],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        project.environment("env.yaml", **changes)


def test_a_setting_under_its_old_name_is_refused_with_the_new_one(monkeypatch):
    monkeypatch.setattr(settings, "RENAMED", {"serving.explore": "serving.epsilon", "clokc": "clock", "data.sources.x": "data.tables.x"})

    with pytest.raises(UserError, match="in env.yaml:\n  serving.explore is now serving.epsilon\n  clokc is now clock$"):
        project.environment("env.yaml", serving={"explore": 0.1}, clokc=None)


def test_every_setting_that_was_renamed_has_its_line_in_the_changelog():
    changelog = (project.root() / "CHANGELOG.md").read_text(encoding="utf-8")

    for old, new in settings.RENAMED.items():
        assert f"| `{old}` | `{new}` |" in changelog


def test_a_missing_environment_lists_those_that_are_there():
    with pytest.raises(UserError, match=r"no environment env.moon.yaml .*env.yaml"):
        project.environment("env.moon.yaml")


def test_the_clock_is_fixed_by_the_environment():
    assert project.now() == datetime(2026, 3, 16, tzinfo=UTC)


def joined(source: str) -> set[str]:
    "The texts that a source joins to a path, but not to that of a platform: `folder / text`."
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    ends = [ast.unparse(node.right).strip("f'\"") for node in nodes if ast.unparse(node.left) not in ("platform", "written")]
    return {end.split("{")[0].rstrip("/") for end in ends}


PLACES = {place.as_posix() for place in vars(project.Paths(Path())).values()}


def names_a_place(text: str) -> bool:
    return any(text == place or text.startswith(f"{place}/") for place in PLACES)


@pytest.mark.parametrize("module", sorted(sources().keys() - {"project"}))
def test_where_an_environment_keeps_what_is_said_in_one_place(module):
    assert {text for text in joined(sources()[module]) if names_a_place(text)} == set()


@pytest.mark.parametrize("line", ['out / "mlflow"', 'x = stage.out / f"made/{name}.json"', "registry.connect(folder / 'mlflow/mlflow.db')"])
def test_a_planted_path_is_seen(line):
    assert any(names_a_place(text) for text in joined(line))
