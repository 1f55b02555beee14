"""The benchmarks run, and print the tables that the README shows."""

import shutil
import subprocess
import sys

import pytest

from mlops_course import project


@pytest.mark.parametrize(
    ("script", "words"), [("bench_retrieval", ["--quick"]), ("bench_world", []), ("bench_monitoring", ["--small", "--only", "alarms"])]
)
def test_a_benchmark_prints_its_table(script, words):
    path = project.root() / f"tests/benchmarks/{script}.py"

    ran = subprocess.run([sys.executable, str(path), *words], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "| --- |" in ran.stdout


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is missing: sudo apt install wrk")
def test_the_benchmark_of_serving_finds_the_answers_right_and_prints_its_tables(built):
    path = project.root() / "tests/benchmarks/bench_serving.py"

    ran = subprocess.run([sys.executable, str(path), "--small", "--ground", str(built)], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "| ours |" in ran.stdout and "| bare FastAPI endpoint |" in ran.stdout
    assert "compared with the registered scikit-learn pipeline on the same features: equal" in ran.stdout
