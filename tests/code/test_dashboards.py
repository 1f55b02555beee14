"""The preview draws what the files of Grafana ask for, for every eye, and says where there is nothing."""

import asyncio
import json

import httpx
import plotly.graph_objects as go
import pytest

from mlops_course import dashboards, project, web
from mlops_course.dashboards import Series, Span

PLATFORM = project.root() / "platform"
THERE = dashboards.read_dashboards(PLATFORM)
PANELS = {f"{uid}: {panel['title']}": panel for uid, each in THERE.items() for panel in each["panels"]}
THREE = Span(0, 20, 10)


def get(path: str, host: str = "127.0.0.1", prometheus: str = "http://127.0.0.1:9") -> httpx.Response:
    "What the preview answers, without a server."

    async def asked():
        there = httpx.ASGITransport(dashboards.application(PLATFORM, prometheus))
        async with httpx.AsyncClient(transport=there, base_url=f"http://{host}") as client:
            return await client.get(path)

    return asyncio.run(asked())


def answering(monkeypatch, status: int, body: object) -> None:
    "Let Prometheus answer every question in this way."

    async def answer(session, path):
        return status, json.dumps(body).encode() if not isinstance(body, bytes) else body

    monkeypatch.setattr(web, "answer", answer)


# panels


@pytest.mark.parametrize("name", PANELS)
def test_the_preview_knows_all_that_a_panel_of_ours_asks_for(name):
    panel = PANELS[name]
    known = set(dashboards._UNITS) | {"short", "percentunit", "bool_yes_no"}
    lines = [Series(f"line {n}", [0.0, None, 1.0]) for n in range(9)]

    seen = dashboards.shown(panel, lines, THREE)

    assert panel["type"] in {"timeseries", "stat", "table"} and panel["fieldConfig"]["defaults"]["unit"] in known
    assert not panel["fieldConfig"]["overrides"], "the preview knows none"
    assert len(go.Figure(seen["figure"]).data) == 9, "plotly takes it"
    assert all(one.name in seen["words"] for one in lines) and len(seen["numbers"]) == 9


def test_lines_differ_by_colour_or_dash_and_the_first_six_by_both():
    data = dashboards.figure(PANELS["serving: Latency"], [Series(str(n), [1.0] * 3) for n in range(24)], THREE)["data"]
    styles = [(one["line"]["color"], one["line"]["dash"]) for one in data]

    assert len(set(styles)) == 24
    assert len({colour for colour, _ in styles[:6]}) == len({dash for _, dash in styles[:6]}) == 6


def test_where_nothing_was_measured_the_line_has_a_gap():
    values = [[0, "1"], [20, "+Inf"], [30, "NaN"], [40, "2.5"]]

    (line,) = dashboards.series_of([{"metric": {}, "values": values}], "", Span(0, 50, 10))

    assert line == Series("value", [1.0, None, None, None, 2.5, None])


@pytest.mark.parametrize(
    ("pattern", "expected"), [("version {{version}}", "version 7"), ("{{ a }}/{{nothing}}", "x/"), ("", "a=x, version=7"), ("all", "all")]
)
def test_a_line_is_called_as_its_pattern_says(pattern, expected):
    assert dashboards.named(pattern, {"__name__": "up", "a": "x", "version": "7"}) == expected


@pytest.mark.parametrize("seconds", [*dashboards.SPANS, 1, 7])
def test_a_span_is_of_whole_steps_and_prometheus_gives_it(seconds):
    span = dashboards.span_of(seconds, now=1_773_500_007.3)

    assert span.end % span.step == 0 and span.end <= 1_773_500_007.3 < span.end + span.step
    assert len(span.moments) == span.count <= 301 and span.moments[-1] == span.end


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0123, "s", "0.0123 s"),
        (93_600, "s", "93,600 s"),
        (1234.5, "short", "1,234"),
        (-3, "short", "-3"),
        (2.0, "reqps", "2 requests a second"),
        (0.6532, "percentunit", "65.3%"),
        (0, "bool_yes_no", "no"),
        (1, "bool_yes_no", "yes"),
    ],
)
def test_a_number_is_said_in_its_unit(value, unit, expected):
    assert dashboards.spoken(value, unit) == expected


# Prometheus


def test_a_query_that_prometheus_refuses_is_said(monkeypatch):
    answering(monkeypatch, 400, {"status": "error", "error": "parse error"})

    trouble = get("/serving.json").json()["trouble"]

    assert "refuses" in trouble and "parse error" in trouble


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"data": {}}, b"null", {"data": None}])
def test_somebody_else_on_its_port_is_no_prometheus(monkeypatch, body):
    answering(monkeypatch, 200, body)

    assert "somebody else answers there" in get("/pipelines.json").json()["trouble"]


def test_nobody_on_its_port_is_said_with_what_starts_it():
    answer = get("/monitoring.json").json()

    assert "Connection refused" in answer["trouble"] and "platform/run.sh prometheus up" in answer["trouble"] and answer["panels"] == {}


def test_a_dashboard_without_values_says_what_it_asks_for(monkeypatch):
    answering(monkeypatch, 200, {"data": {"result": []}})

    panels = get("/pipelines.json").json()["panels"]

    assert all(panel["words"].startswith("Nothing yet: Prometheus has no value of ") for panel in panels.values())
    assert "pipeline_stage_rows" in "".join(panel["words"] for panel in panels.values())


@pytest.mark.parametrize("seconds", ["300", "1e9", "-1", "99999999999999999999", "²", ""])
def test_a_span_that_is_not_offered_is_an_hour(monkeypatch, seconds):
    spans = []

    async def looked(prometheus, dashboard, span):
        spans.append(span.end - span.start)
        return {}

    monkeypatch.setattr(dashboards, "looked", looked)

    assert get(f"/serving.json?seconds={seconds}").status_code == 200
    assert spans == [300 if seconds == "300" else 3600]


# the page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_a_host_name_of_a_stranger_is_refused(host):
    assert get("/serving.json", host).status_code == 400


def test_the_page_loads_from_its_own_server_alone():
    answer = get("/serving")

    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text
    assert get("/plotly.min.js").text[:200].count("plotly.js v") == 1
    assert get("/../settings.ini").status_code == get("/secret").status_code == 404


def test_what_a_file_says_is_text_on_the_page(tmp_path):
    panel = {"id": 1, "title": "<script>", "description": "a & b", "type": "stat"}
    planted = {"title": "<i>", "description": '"', "panels": [panel]}

    text = dashboards.page("one", {"one": planted}, 10)

    assert "&lt;script&gt;" in text and "<i>" not in text and "a &amp; b" in text


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:9090", "http:///", "file:///etc/passwd"])
def test_what_is_no_address_is_refused_before_anything_is_served(tmp_path, address):
    with pytest.raises(project.UserError, match="is no address, such as http://127.0.0.1:9090"):
        dashboards.serve(tmp_path, address, 0)

    assert list(tmp_path.iterdir()) == []
