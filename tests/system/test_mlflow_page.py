"""MLflow's own page: the links that a lesson and a command print open the runs, and nothing else is said."""

import re
import signal
import socket

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, MISSING, free_port, page
from rides import RIDES

from mlops_course import poc, registry

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason=MISSING), pytest.mark.patient]


@pytest.fixture
def runs(tmp_path) -> list[str]:
    "Two runs in an MLflow folder of their own."
    client = registry.connect(tmp_path / "mlflow", RIDES.name)
    rows = pd.DataFrame({"a": np.arange(3.0), "label": [0, 1, 1]})
    return [poc.track(client, name, rows, ["a"], {"depth": depth}, {"rmse": 0.4}) for depth, name in enumerate(["shallow", "deep"])]


def started(workshop, folder, port: int):
    "MLflow as a person starts it, and what was printed until it could be used."
    server = workshop.start("mlops-course", "ui", "--folder", str(folder), "--port", str(port))
    return server, [server.stdout.readline(), server.stdout.readline()]


def test_the_link_of_the_lesson_compares_its_runs(workshop, tmp_path, runs):
    port = free_port()
    server, _ = started(workshop, tmp_path / "mlflow", port)
    try:
        with page(tmp_path) as opened:
            opened.goto(poc.link(registry.connect(tmp_path / "mlflow", RIDES.name), runs, port))
            opened.get_by_text("shallow").first.wait_for(timeout=60_000)
            shown = opened.locator("body").inner_text()
    finally:
        workshop.stop(server)

    assert "Comparing 2 Runs" in shown
    assert all(word in shown for word in ["shallow", "deep", "rmse"])


def test_the_printed_link_opens_the_runs_and_ctrl_c_ends_with_one_line(workshop, tmp_path, runs):
    port = free_port()
    server, lines = started(workshop, tmp_path / "mlflow", port)
    try:
        link = re.search(r"MLflow on (\S+) ", lines[1])[1]
        with page(tmp_path) as opened:
            opened.goto(link)
            opened.get_by_text("shallow").first.wait_for(timeout=60_000)
            shown = opened.locator("body").inner_text()
            assert opened.outside == []
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=30)[0]
    finally:
        workshop.stop(server) if server.poll() is None else None

    assert "2 matching runs" in shown and "UI telemetry" not in shown and "AI Gateway" not in shown
    assert (server.returncode, rest) == (0, "MLflow has ended\n")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_server_that_cannot_start_says_why(workshop, tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/mlflow.db").write_text("no database")

    code, output = workshop.call("mlops-course", "ui", "--folder", str(tmp_path / "mlflow"), "--port", str(free_port()))

    assert code == 1 and "could not start. Its last lines:\n" in output and "Traceback" not in output.splitlines()[0]
