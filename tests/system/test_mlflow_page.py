"""MLflow's own page shows the trials of the proof of concept, compared by the link that the lesson prints."""

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, MISSING, answers, free_port, page

from mlops_course import poc, registry

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


def test_the_link_of_the_lesson_compares_its_runs(workshop, tmp_path):
    client = registry.connect(tmp_path / "mlflow")
    rows = pd.DataFrame({"a": np.arange(3.0), "label": [0, 1, 1]})
    runs = [poc.track(client, name, rows, ["a"], {"depth": depth}, {"rmse": 0.4}) for depth, name in enumerate(["shallow", "deep"])]
    port = free_port()

    server = workshop.start("mlops-course", "ui", "--folder", str(tmp_path / "mlflow"), "--port", str(port))
    try:
        answers(f"http://127.0.0.1:{port}/health", server)
        with page(tmp_path) as opened:
            opened.goto(poc.link(client, runs, port))
            opened.get_by_text("shallow").first.wait_for(timeout=60_000)
            shown = opened.locator("body").inner_text()
    finally:
        workshop.stop(server)

    assert "Comparing 2 Runs" in shown
    assert all(word in shown for word in ["shallow", "deep", "rmse"])
