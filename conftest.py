"""How nbval sees our notebooks: nbdev_clean takes the cells' numbers away, and a learner's solutions are no fault. And what a run cost."""

import itertools
import os
import re
from collections import defaultdict

import costs
import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager
from xdist.scheduler import LoadScopeScheduling

from mlops_course.kernels import SocketFiles

# A kernel python3 that another Python has put somewhere is not the one that verifies these notebooks.
os.environ.pop("JUPYTER_PATH", None)
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"


class Kernel(SocketFiles, KernelManager):
    "A kernel of nbval, beside servers and connections that take ports."


nbval.kernel.KernelManager = Kernel


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    cells = [item for item in items if hasattr(item, "cell")]
    for number, item in enumerate(cells, start=1):
        # nbval compares stored outputs only of cells that have a number
        if item.cell.cell_type == "code" and item.cell.execution_count is None:
            item.cell.execution_count = number
        # of a picture its words are compared; its pixels are those of a machine's fonts
        item.parent.sanitize_patterns[r"(?<=base64,)[\w+/=]+"] = "a picture"
        # a command that is printed names the environment of these tests; a learner's is make's own
        item.parent.sanitize_patterns[r" ENV=env\.test\.yaml"] = ""
    for item, after in itertools.pairwise(cells):
        # the check of a solved exercise says PASS now, whatever was stored before it was solved
        if "exercise" in item.cell.metadata.get("tags", []) and "raise NotImplementedError" not in item.cell.source:
            after.options["check"] = False


class ByNotebook(LoadScopeScheduling):
    "A notebook stays in one process; so do the stages, in their order, because each reads what the last has made."

    def __init__(self, config, log):
        super().__init__(config, log)
        self.stages = re.findall(r"source: (\S+)", (config.rootpath / "pipeline.yaml").read_text(encoding="utf-8"))

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "the pipeline" if file in self.stages else file


def pytest_xdist_make_scheduler(config, log):
    return ByNotebook(config, log) if config.option.nbval else None


def pytest_terminal_summary(terminalreporter):
    "Say what each notebook and each group of tests has cost, beside its budget."
    seconds: dict[str, float] = defaultdict(float)
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    if sum(seconds.values()) > 30:  # a run of some size
        terminalreporter.section("what it cost", sep="-")
        terminalreporter.write_line("\n".join(costs.spent(seconds, costs.budgets(costs.DEVELOPERS.read_text(encoding="utf-8")))))
