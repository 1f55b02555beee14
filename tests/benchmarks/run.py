"""The benchmarks, one after another; their tables replace those of the README, each between its marks.

`make bench` runs all, `make bench ONLY=serving` one of them. A target that was missed stands in the table and is exit code 3.
"""

import re
import subprocess
import sys
from pathlib import Path

from mlops_course import project

HERE = Path(__file__).parent
ARGUMENTS = {"bench_retrieval": ["--plot", str(project.root() / "images/retrieval.png")], "bench_world": ["--full"]}
MISSED = 3


def keep(name: str, tables: str) -> None:
    "Put a benchmark's tables between its marks in the README."
    readme = project.root() / "README.md"
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    text, found = marks.subn(lambda m: f"{m[1]}\n{tables}\n\n{m[2]}", readme.read_text(encoding="utf-8"))
    if not found:
        sys.exit(f"README.md has no marks <!-- {name} --> and <!-- /{name} -->: add them where the tables shall stand")
    readme.write_text(text, encoding="utf-8")


def main(names: list[str]) -> int:
    "Run each bench_*.py, or those of `names`, in a process of its own, show its tables, keep them in the README."
    missed = []
    for script in sorted(HERE.glob("bench_*.py")):
        if names and script.stem.removeprefix("bench_") not in names:
            continue
        print(f"\n== {script.stem} ==", flush=True)
        ran = subprocess.run([sys.executable, str(script), *ARGUMENTS.get(script.stem, [])], stdout=subprocess.PIPE, text=True, check=False)
        print(ran.stdout)
        if ran.returncode not in (0, MISSED):
            sys.exit(f"{script.name} failed")
        missed += [script.name] if ran.returncode else []
        keep(script.stem, ran.stdout.strip())
    print("The tables stand in README.md." + (f" A target was missed in {', '.join(missed)}." if missed else ""))
    return MISSED if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
