"""The benchmarks run, and print the tables that docs/BENCHMARKS.md shows."""

import re
import shutil
import subprocess
import sys

import pytest

from mlops_course import project

pytestmark = pytest.mark.patient


def figures(printed: str) -> dict[str, list[float]]:
    "The numbers of each row of the printed tables, by the row's first cell; a ratio 1/9 counts as 9."
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in printed.splitlines() if line.startswith("| ")]
    return {
        name: [float(n) for cell in cells for n in re.findall(r"(?:1/)?(\d+(?:\.\d+)?)", cell.replace(",", ""))]
        for name, *cells in rows
        if not set(name) <= set(" -:")
    }


@pytest.mark.parametrize(
    ("script", "words", "rows"),
    [
        ("bench_retrieval", ["--quick"], ["bare ASOF join", "Feast with AsofOfflineStore", "2,000 x 20,000"]),
        ("bench_year", ["--quick"], ["Sep", "Oct", "Nov", "Dec"]),
        ("bench_world", [], ["made and written, [0-9,]+ rows", "bare generator, same .*", "bare generator, uniform numbers"]),
        ("bench_files", [], ["clean 250,000 rows.*", "find one request .*", "find warnings .*"]),
        ("bench_experiments", ["--runs", "20"], ["doubly robust", "self normalized", "0.07 worse"]),
        ("bench_release", ["--runs", "30"], ["0.07", "ratio of rates on 100", "z test, peeked"]),
        ("bench_monitoring", ["--small", "--only", "alarms"], ["covariate_drift", "concept_drift", "feed_missing", "feed_stale"]),
    ],
)
def test_a_benchmark_prints_its_figures(script, words, rows):
    path = project.root() / f"tests/benchmarks/{script}.py"

    ran = subprocess.run([sys.executable, str(path), *words], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    printed = figures(ran.stdout)
    for row in rows:
        (measured,) = (numbers for name, numbers in printed.items() if re.fullmatch(row, name))
        assert measured and all(number > 0 for number in measured), f"{row}: {measured}"


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is missing: sudo apt install wrk")
def test_the_benchmark_of_serving_finds_the_answers_right_and_prints_its_tables(built):
    path = project.root() / "tests/benchmarks/bench_serving.py"

    ran = subprocess.run([sys.executable, str(path), "--small", "--ground", str(built)], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "| ours |" in ran.stdout and "| bare FastAPI endpoint |" in ran.stdout
    assert "compared with the registered scikit-learn pipeline on the same features: equal" in ran.stdout
