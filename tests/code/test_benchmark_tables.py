"""docs/BENCHMARKS.md: each table says when, on which commit and where it was measured, and README quotes what stands there."""

import importlib.util
import re

import pytest

from mlops_course import project

HERE = project.root() / "tests/benchmarks"
PAGE = (project.root() / "docs/BENCHMARKS.md").read_text(encoding="utf-8")
CAPTION = re.compile(r"^\*Measured on \d{4}-\d\d-\d\d, commit (\w{7,}( and changes)?|unknown); .*\d cores, .*\*$", re.M)
SCRIPTS = sorted(path.stem for path in HERE.glob("bench_*.py"))


def between(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.S)[1]


@pytest.fixture
def run():
    spec = importlib.util.spec_from_file_location("run", HERE / "run.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_benchmark_has_a_table_with_its_caption(name):
    caption, *tables = between(name).strip().split("\n\n")

    assert CAPTION.fullmatch(caption)
    assert any(line.startswith("| ---") for table in tables for line in table.splitlines())


def test_a_table_that_is_measured_again_replaces_the_old_one_and_its_caption(run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- bench_a -->\nold\n<!-- /bench_a -->\nAfter\n")

    for tables in ["| first |", "| second |"]:
        run.keep("bench_a", tables, page)

    assert CAPTION.sub("CAPTION", page.read_text()) == "Before\n<!-- bench_a -->\n\nCAPTION\n\n| second |\n\n<!-- /bench_a -->\nAfter\n"


def test_a_table_without_a_place_on_the_page_is_not_lost_in_silence(run, tmp_path):
    (tmp_path / "page.md").write_text("No marks.\n")

    with pytest.raises(SystemExit, match=r"page.md has no marks <!-- bench_a -->"):
        run.keep("bench_a", "| new |", tmp_path / "page.md")


def test_each_figure_in_the_readme_stands_in_a_table():
    readme = (project.root() / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"## How fast\n(.*?)\n## ", readme, re.S)[1]
    figures = re.findall(r"\d[\d,.]*\d%?|\d%", "\n".join(line for line in lines.splitlines() if line.startswith("- ")))

    assert len(figures) >= 5
    assert [figure for figure in figures if not re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d.,]*\d)", PAGE)] == []
