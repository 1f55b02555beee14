"""The benchmarks run, and print the tables that the README shows."""

import subprocess
import sys

import pytest

from mlops_course import project


@pytest.mark.parametrize(("script", "words"), [("bench_retrieval", ["--quick"]), ("bench_world", [])])
def test_a_benchmark_prints_its_table(script, words):
    path = project.root() / f"tests/benchmarks/{script}.py"

    ran = subprocess.run([sys.executable, str(path), *words], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "| --- |" in ran.stdout
