"""The package is a house: each module loads only from its own floor or below, and nobody goes in a circle."""

import importlib
import re

import papermill  # noqa: F401  before our engine, which it loads by its entry point
import pytest
from imports import ROOT, graph, loads, reached, sources

FLOORS = {
    1: "settings topics project logfiles telemetry exposition prometheus files services questions sql programs loglines cron",
    2: "alertmanager problem rolling contracts web remote stages kernels engine supervision jobs answers passwords wipe printed",
    3: "stream broker world capstone readers profiles data asof offline online lookup redis_store slots tracking checks policy policies routes drift predictions clocks search toy tables promises joined health kinds examples words doctor driver_events stream_state backfill joins stores distances quality messages simulation intake",
    4: "features registry models gate worth poc verdicts cases events references reports dashboards model_files judging trials plans rehearsals releases",
    5: "consumer emitter training batch serving candidates resilience clients api monitoring experiments memory spare schemas routing team shadow",
    6: "release fallback rollout orchestration airflow executors arms",
    7: "retraining trainer receiver delivery",
    8: "live rhythm loop replay exercises figures recipes containers stack cli",
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules.split()}
PAGES = {module for module in sources() if module.startswith("solutions_")}
FLOOR |= dict.fromkeys(PAGES, 8)  # the exercises of each part
SERVING = {"schemas", "routing", "team", "shadow", "serving", "candidates", "memory", "spare", "resilience", "api"}
APART = [{module, "monitoring"} for module in SERVING]  # they talk over HTTP, and through what is written down


def too_high(links: dict[str, set[str]]) -> set[tuple[str, str]]:
    "Who loads whom of a floor above, or of those that stay apart."
    pairs = {(module, other) for module, others in links.items() for other in others}
    return {pair for pair in pairs if FLOOR[pair[0]] < FLOOR[pair[1]] or set(pair) in APART}


def in_circles(links: dict[str, set[str]]) -> set[str]:
    return {module for module in links if module in reached(links, links[module])}


@pytest.fixture(scope="module")
def links() -> dict[str, set[str]]:
    return graph(sources())


@pytest.mark.parametrize(
    "source",
    [
        "from .data import read",
        "from . import data",
        "from . import data as files",
        "from mlops_course import data",
        "from mlops_course.data import read",
        "import mlops_course.data as files",
        "import mlops_course\nmlops_course.data.read()",
        "def f():\n    from .data import read",
        "def f():\n    import mlops_course.data",
        "from importlib import import_module\nimport_module('mlops_course.data')",
        "import importlib\nimportlib.import_module('.data', __package__)",
        "for name in ['mlops_course.data', 'feast']:\n    import_module(name)",
        "store = {'type': 'mlops_course.data.OfflineStore'}",
        "command = [sys.executable, '-m', 'mlops_course.data']",
        "command = [sys.executable, '-c', 'from mlops_course import data; data.run()']",
    ],
)
def test_a_module_is_seen_however_it_is_loaded(source):
    assert loads(source, set(FLOOR)) == {"data"}


@pytest.mark.parametrize("name", ["f'mlops_course.{stage}'", "'mlops_course.' + stage", "stage", "f'.{stage}', __package__"])
def test_a_name_that_is_made_up_while_a_program_runs_may_be_any_stage(name):
    assert loads(f"import_module({name})", set(FLOOR)) == {"world", "capstone", "data", "features", "training", "batch"}


def test_what_loads_nothing_is_not_seen():
    source = '"Beside `mlops_course.data`."\nimport data\nfrom os import path\nfor name in ("feast", "mlflow"):\n    import_module(name)'

    assert loads(source, set(FLOOR)) == set()


def test_each_module_has_a_floor(links):
    assert sorted(set(links) - set(FLOOR)) == []


def test_each_module_loads_only_from_its_floor_or_below(links):
    assert too_high(links) == set()


def test_no_module_loads_itself_by_way_of_others(links):
    assert in_circles(links) == set()


@pytest.mark.parametrize(
    ("module", "line", "pair"),
    [
        ("project", "def f():\n    from .problem import CONTRACT", ("project", "problem")),
        ("features", "KIND = 'mlops_course.training.ClippedRegression'", ("features", "training")),
        ("telemetry", "import_module(f'mlops_course.{stage}')", ("telemetry", "batch")),
        ("serving", "from mlops_course.monitoring import Monitor", ("serving", "monitoring")),
        ("monitoring", "from mlops_course.api import Answer", ("monitoring", "api")),
    ],
)
def test_a_planted_stair_is_seen(module, line, pair):
    texts = sources()
    texts[module] += f"\n{line}\n"

    assert pair in too_high(graph(texts))


def test_a_planted_circle_is_seen():
    texts = sources()
    texts["asof"] += "\nfrom . import data\n"
    texts["data"] += "\ndef f():\n    from . import asof\n"

    assert {"asof", "data"} <= in_circles(graph(texts))


def written_names() -> set[str]:
    "The dotted names of the package in the files around it: entry points, hooks of Ploomber, classes in a configuration."
    around = ["*.yaml", "settings.ini", "setup.py", "README.md", "DEVELOPERS.md", "docs/*.md", "platform/*/*"]
    text = "\n".join(path.read_text(encoding="utf-8") for pattern in around for path in ROOT.glob(pattern) if path.is_file())
    return set(re.findall(r"\bmlops_course[.:](?:\w+[.:])*\w+", text.replace("{settings['lib_path']}", "mlops_course")))


@pytest.mark.parametrize("name", sorted(written_names()))
def test_a_name_in_a_file_around_the_package_is_there(name):
    _, module, *parts = re.split("[.:]", name)

    named = importlib.import_module(f"mlops_course.{module}")

    for part in parts:
        named = getattr(named, part)
