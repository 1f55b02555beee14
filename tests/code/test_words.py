"""A thing has its field's name: no retired word is a name in code, a setting, a metric or an option, and none stands in prose."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from imports import ROOT

# names, in code, settings and options
NAMES = {
    "settings, config, payload, response, output: what it is": "told said found came at",
    "ASGI middleware": "Gate Door",
    "idempotency cache": "Repeats repeat_seconds",
    "request coalescer, feature cache": "Batches Lookup last_known_seconds",
    "epsilon": "explore",
    "subprocess job": "Apart",
    "log loss a row, doubly robust, importance weights": "surprise robust",
    "z threshold, windows, null distances": "spreads stretches own_distances",
    "min, retention": "fewest_labels fewest_requests keep_days",
    "cooldown, phases, superseded, challenger": "pause_hours leg legs overtaken successor",
    "HTTP client, event queue, feature pusher, store": "Line Calendar News Kept",
    "no target leakage, no overlap": "no_giveaway apart_by_row apart_by_entity apart_by_time",
    "atomic_write, UserError": "writing CourseError",
}
RETIRED = {name: instead for instead, names in NAMES.items() for name in names.split()}
# phrases, in prose, outputs, metrics and messages
PHRASES = re.compile(
    r"the door of (a|the) service|\block (that )?falls|promised / came true|monitoring_up_to_date_seconds|retraining_leg_seconds"
    r"|\b(repeat_seconds|last_known_seconds|own_distances|fewest_labels|fewest_requests|keep_days|pause_hours|no_giveaway|CourseError)\b"
)
# what knows an old name, to say the new one
KNOWS = {"CHANGELOG.md", "notebooks/921_settings.ipynb", "mlops_course/settings.py", "tests/code/test_cli.py", "tests/code/test_words.py"}
TEXTS = ("*.md", "Makefile", "*.yaml", "docs/*.md", "notebooks/*.ipynb", "platform/**/*.*", "tests/**/*.py", "mlops_course/*.py")


def bound(source: str) -> Iterator[str]:
    "The names that a source gives: variables, parameters, attributes, functions, classes, and those that it imports under."
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name
            case ast.alias(name=name, asname=asname):
                yield asname or name.rpartition(".")[2]


def retired(names: Iterator[str]) -> set[str]:
    "Those that are retired, as they stand; a constant is a name in capitals."
    return {name for name in names if (name.lower() if name.isupper() else name).strip("_") in RETIRED}


def code(path: Path) -> str:
    "The code of a file; of a notebook, without IPython's own lines."
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)


def keys(values: object) -> Iterator[str]:
    "The names of all settings in an environment."
    for name, value in values.items() if isinstance(values, dict) else ():
        yield name
        yield from keys(value)


CODE = sorted(path for pattern in ("notebooks/*.ipynb", "tests/**/*.py", "*.py") for path in ROOT.glob(pattern))


@pytest.mark.parametrize(
    "source",
    [
        "told = environment()",
        "def f(*, at): ...",
        "def said(): ...",
        "class Gate: ...",
        "self.found = 1",
        "for TOLD in lines: ...",
        "import settings as told",
        "class A:\n    keep_days: int = 3",
        "while not (_found := look()): ...",
        "def serve(explore: float = typer.Option(0.1)): ...",
    ],
)
def test_a_retired_name_is_seen_wherever_it_is_given(source):
    assert len(retired(bound(source))) == 1


def test_a_word_that_only_stands_in_a_name_or_is_only_read_is_none():
    assert retired(bound("def test_what_is_told(known_at): ...\nprint(found)\nlabel_at = log['told']")) == set()


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_name_is_a_retired_word(path):
    assert retired(bound(code(path))) == set()


def test_no_setting_is_a_retired_word():
    environments = sorted(ROOT.glob("env*.yaml"))

    assert environments and all(retired(keys(yaml.safe_load(path.read_text(encoding="utf-8")))) == set() for path in environments)


def test_no_text_has_a_retired_phrase():
    paths = {path for pattern in TEXTS for path in ROOT.glob(pattern) if path.is_file() and "run_env" not in path.parts}
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8", errors="ignore") for path in paths}

    assert {name: words[0] for name, text in texts.items() if name not in KNOWS and (words := PHRASES.search(text))} == {}
