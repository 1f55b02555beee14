"""The preview of the dashboards in a real browser, on a real Prometheus that is stopped and comes back meanwhile."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM, MISSING, free_port, page
from online import wait_for
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from mlops_course import project, prometheus, services, supervision

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=MISSING),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not here: apt-get install prometheus"),
    pytest.mark.patient,
]
PLATFORM = project.root() / "platform"
COMMAND = str(Path(sys.executable).with_name("mlops-course"))
ENVIRONMENT = "name: preview\nout: out\nproject: projects/ride_hailing.yaml\n"


def numbers() -> CollectorRegistry:
    "Some of what the online service exports."
    registry = CollectorRegistry()
    took = Histogram("serving_request_seconds", "took", ["path"], buckets=[0.01, 0.1, 1], registry=registry)
    took.labels("/inference").observe(0.05)
    Counter("serving_requests", "requests", ["path", "status"], registry=registry).labels("/inference", "200").inc()
    Gauge("serving_requests_in_progress", "now", registry=registry).set(3)
    Gauge("serving_newest_feature_age_seconds", "age", registry=registry).set(90_000)
    Gauge("serving_store_up", "store", registry=registry).set(1)
    Gauge("serving_model_info", "model", ["name", "version"], registry=registry).labels("<b>rides</b>", "7").set(1)
    return registry


class Preview:
    def __init__(self, folder: Path):
        self.folder, self.prometheus_port, self.port = folder, free_port(), free_port()
        exporter = free_port()
        self.exporter, _ = start_http_server(exporter, addr="127.0.0.1", registry=numbers())
        command = prometheus.prepare(folder, PLATFORM, {"serving": f"127.0.0.1:{exporter}"}, self.prometheus_port, every="1s")
        self.service = services.SERVICES["prometheus"].model_copy(update={"command": command, "port": self.prometheus_port})
        self.server = None

    def start(self) -> None:
        where = ["--port", str(self.port), "--prometheus", f"http://127.0.0.1:{self.prometheus_port}"]
        (self.folder / "env.yaml").write_text(ENVIRONMENT.replace("out: out", f"out: {self.folder}/out"))
        command = [COMMAND, "dashboards", "--env", str(self.folder / "env.yaml"), *where]
        self.server = subprocess.Popen(command, cwd=project.root(), stdout=subprocess.PIPE, text=True)
        assert f"on http://127.0.0.1:{self.port} " in self.server.stdout.readline()

    def end(self) -> None:
        supervision.stop(self.folder)
        self.exporter.shutdown()
        if self.server:
            self.server.terminate()
            assert self.server.wait(20) == 0 and "the preview has ended" in self.server.stdout.read()


@pytest.fixture(scope="module")
def preview(tmp_path_factory):
    made = Preview(tmp_path_factory.mktemp("preview"))
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def opened(preview, tmp_path_factory):
    "The page, as it is before there is a Prometheus. What the browser complains about is kept."
    with page(tmp_path_factory.mktemp("browser")) as tab:
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.goto(f"http://127.0.0.1:{preview.port}/")
        yield tab


def test_without_prometheus_the_page_says_what_is_missing(opened):
    opened.get_by_role("status").get_by_text("platform/run.sh prometheus up").wait_for()

    assert opened.url.endswith("/serving") and opened.locator("main section").count() == 10


def test_the_panels_are_drawn_as_soon_as_there_are_numbers(preview, opened):
    supervision.start(preview.folder, preview.service)
    opened.locator("body:not(.old)").wait_for(timeout=30_000)
    chart = opened.get_by_role("img", name="Saturation")
    wait_for(lambda: opened.reload() and "requests in progress: 3" in (chart.get_attribute("aria-label") or ""), 60)

    assert opened.get_by_role("status").inner_text() == ""
    age = opened.get_by_role("img", name="Age of the newest features").get_attribute("aria-label")
    assert "in memory: 90,000 s" in age and "Limit: 86,400 s" in age
    for section in opened.locator("section:has(.chart):not(.empty)").all():
        assert section.locator(".main-svg").count() and section.locator(".chart").get_attribute("aria-label")
    assert chart.locator(".scatterlayer .trace").count() == 1
    assert "serving_explored_total" in opened.locator("section.empty .none").last.inner_text(), "what is missing"
    assert opened.locator("dd", has_text="yes").count() >= 2, "what the service stands on"
    assert opened.get_by_text("<b>rides</b> version 7").count() == 1, "a label is a text, and no HTML"


def test_who_sees_no_picture_reads_the_numbers_by_keyboard_alone(opened):
    opened.keyboard.press("Tab")
    order = []
    while len(order) < 20 and (name := opened.evaluate("document.activeElement.textContent.trim().slice(0, 20)")) not in order:
        order.append(name)
        opened.keyboard.press("Tab")
    panel = opened.locator("section", has=opened.get_by_role("heading", name="Saturation"))
    panel.locator("summary").focus()
    opened.keyboard.press("Enter")

    assert order[0] == "Model monitoring" and "Pause" in order and "As numbers" in order
    assert panel.get_by_role("row", name="requests in progress 3 3 3").is_visible()


def test_a_page_that_is_paused_does_not_change(opened):
    asked = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.get_by_role("button", name="Pause").press("Enter")
    opened.wait_for_timeout(500)
    before = len(asked)
    opened.wait_for_timeout(11_000)
    assert len(asked) == before

    opened.get_by_role("button", name="Pause").press("Enter")
    wait_for(lambda: opened.wait_for_timeout(100) or len(asked) > before, 5)


def test_each_dashboard_is_drawn(preview, opened):
    for uid in ("pipelines", "monitoring", "releases", "serving"):
        opened.get_by_role("navigation").locator(f"a[href='/{uid}']").click()
        opened.locator("#moment", has_text="UTC").wait_for()
        dashboard = json.loads((PLATFORM / f"grafana/dashboards/{uid}.json").read_text(encoding="utf-8"))
        assert opened.locator("main h2").all_inner_texts() == [panel["title"] for panel in dashboard["panels"]]
        assert opened.locator("[aria-current]").inner_text() == dashboard["title"]


def test_the_page_goes_on_where_prometheus_comes_back(preview, opened):
    supervision.stop(preview.folder)
    opened.locator("body.old").wait_for(timeout=30_000)
    assert "does not answer" in opened.get_by_role("status").inner_text()
    assert opened.get_by_role("img", name="Saturation: requests").locator(".main-svg").count(), "the last picture stays"

    supervision.start(preview.folder, preview.service)
    opened.locator("body:not(.old)").wait_for(timeout=30_000)


def test_nothing_was_asked_of_another_host_and_the_browser_had_no_complaint(opened):
    assert opened.outside == []
    assert [text for text in opened.complaints if "favicon" not in text] == []
