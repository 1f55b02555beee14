"""All benchmarks, one after another; their tables replace those of the README between its two marks (`make bench`)."""

import re
import subprocess
import sys
from pathlib import Path

from mlops_course import project

HERE = Path(__file__).parent
ARGUMENTS = {"bench_retrieval": ["--plot", str(project.root() / "images/retrieval.png")], "bench_world": ["--full"]}
MARKS = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.S)


def main() -> None:
    "Run each bench_*.py in a process of its own, show its tables, keep them in the README."
    tables = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"\n== {script.stem} ==", flush=True)
        ran = subprocess.run([sys.executable, str(script), *ARGUMENTS.get(script.stem, [])], stdout=subprocess.PIPE, text=True, check=False)
        print(ran.stdout)
        if ran.returncode:
            sys.exit(f"{script.name} failed")
        tables.append(ran.stdout.strip())
    readme = project.root() / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(MARKS.sub(lambda m: m[1] + "\n" + "\n\n".join(tables) + "\n\n" + m[2], text), encoding="utf-8")
    print("The tables stand in README.md.")


if __name__ == "__main__":
    main()
