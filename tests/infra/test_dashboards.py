"""Dashboards, saved queries and Grafana: current, and of metrics and fields that something emits."""

import json
import re
from typing import Any

import pytest

from infra.build.expansion import source
from infra.monitoring import dashboards
from millrace.monitoring.causes import MEANING, runbook
from millrace.observability import METRICS, NAMESPACE
from millrace.server.metrics import Meters
from tests.unit.serving.test_journal import line_of, predicted

NAMES = {v for k, v in vars(METRICS).items() if k.isupper()}

AWS = {
    "AWS/ApiGateway": {"Count", "4XXError", "5XXError"},
    "AWS/Lambda": {"Errors", "Throttles", "ConcurrentExecutions"},
    "AWS/States": {"ExecutionsSucceeded", "ExecutionsFailed"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible"},
    "AWS/DynamoDB": {"ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits"},
}
"""Metrics of AWS's services, as their documentation names them."""

MODEL_ONLY = {METRICS.PREDICTIONS, METRICS.PREDICTION_LATENCY}
REST: set[str] = set()


def substituted(name: str, alarms: str = "") -> dict[str, Any]:
    """A dashboard's body as CloudFormation would fill it in."""
    body = source()["Resources"][name]["Properties"]["DashboardBody"]["Fn::Sub"]
    text = body if isinstance(body, str) else body[0]
    text = text.replace("${AlarmWidget}", alarms)
    document: dict[str, Any] = json.loads(re.sub(r"\$\{[^}]+\}", "x", text))
    return document


DASHBOARDS = ("EnvironmentDashboard", "ModelDashboard")


def test_what_is_made_is_current() -> None:
    stale = [
        path.name
        for path, text in dashboards.made().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]

    assert stale == [], "run `python -m infra.monitoring.dashboards`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_graph_is_of_a_metric_that_something_emits(name: str) -> None:
    graphs = [w for w in substituted(name)["widgets"] if w["type"] == "metric"]

    assert len(graphs) > 8
    for graph in graphs:
        assert graph["properties"]["metrics"], graph["properties"]["title"]
        for namespace, metric, *dimensions in graph["properties"]["metrics"]:
            assert metric in (NAMES if namespace == NAMESPACE else AWS[namespace])
            assert len(dimensions) % 2 == 1, "pairs, and the options"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_everything_that_a_dashboard_names_is_in_the_template(name: str) -> None:
    template = source()
    known = {
        *template["Resources"],
        *template["Parameters"],
        *template["Conditions"],
        "AlarmWidget",
    }
    body = json.dumps(template["Resources"][name]["Properties"])

    named = {part.split(".")[0] for part in re.findall(r"\$\{([^}]+)\}", body)}

    assert {n for n in named if not n.startswith("AWS::")} <= known


@pytest.mark.parametrize("name", DASHBOARDS)
def test_widgets_fit_the_grid(name: str) -> None:
    for widget in substituted(name)["widgets"]:
        assert 0 < widget["width"] <= 24
        assert widget["type"] in {"metric", "text", "log", "alarm"}


def test_the_environments_dashboard_shows_every_alarm_and_function() -> None:
    resources = source()["Resources"]
    alarms = {n for n, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    functions = {
        n
        for n, r in resources.items()
        if r["Type"] == "AWS::Serverless::Function" and "Condition" not in r
    }

    assert set(dashboards.alarms()) == alarms
    assert {f"{f}Function" for f in dashboards.functions()} == functions
    shown = substituted("EnvironmentDashboard", json.dumps(dashboards.ringing()) + ",")
    (widget,) = [w for w in shown["widgets"] if w["type"] == "alarm"]
    assert len(widget["properties"]["alarms"]) == len(alarms)


def test_one_dashboard_is_of_every_model() -> None:
    (variable,) = substituted("ModelDashboard")["variables"]

    assert (variable["property"], variable["populateFrom"]) == ("model", "model")
    ours = [
        m
        for w in substituted("ModelDashboard")["widgets"]
        if w["type"] == "metric"
        for m in w["properties"]["metrics"]
    ]
    assert all("model" in m for m in ours)


def test_dashboards_are_made_when_they_are_asked_for_and_queries_always() -> None:
    template = source()
    resources = template["Resources"]

    assert template["Parameters"]["Dashboards"]["Default"] == "off"
    assert {resources[name]["Condition"] for name in DASHBOARDS} == {"ShowDashboards"}
    queries = [r for r in resources.values() if r["Type"] == "AWS::Logs::QueryDefinition"]
    assert len(queries) == len(dashboards.QUERIES) > 5
    assert not any("Condition" in query for query in queries)


WORDS = {
    *[
        "fields",
        "filter",
        "sort",
        "stats",
        "limit",
        "desc",
        "asc",
        "by",
        "as",
        "and",
        "or",
        "count",
        "sum",
        "max",
        "min",
        "pct",
        "bin",
    ],
    *["ispresent", "level", "message", "run_id", "error", "correlation_id", "model"],
    *["requests", "rows", "p50_ms", "p95_ms", "missing"],
}
"""The language of Logs Insights, fields of every logger, and names that queries give."""


@pytest.mark.parametrize("name", dashboards.QUERIES)
def test_saved_queries_ask_for_fields_that_are_on_the_lines(name: str) -> None:
    query = dashboards.QUERIES[name]
    line = line_of(predicted(1))
    on_the_line = {*line, *(f"capture.{k}" for k in line["capture"])}

    text = re.sub(r'"[^"]*"', "", query.text)
    asked = set(re.findall(r"(?<![@\w.])[A-Za-z_][\w.]*", text))

    assert asked - WORDS - on_the_line <= {"warnings", "role", "1h"}
    if "role" in asked or "warnings" in asked:
        assert name in {"predictions-by-version", "values-outside-the-contract"}
    assert set(query.groups) <= set(source()["Resources"])


def panels(file: str) -> list[dict[str, Any]]:
    """The panels of a Grafana dashboard."""
    found: list[dict[str, Any]] = json.loads((dashboards.HERE / file).read_text())["panels"]
    return found


def test_every_panel_on_premises_is_of_a_series_that_serve_exposes() -> None:
    exposed: dict[str, set[str]] = {}
    meters = Meters()
    meters.responded("predict", 200, 0.01)
    meters.answered(predicted(1), 0.01)
    meters.refused("churn", "InvalidRequestError")
    meters.loaded("churn")
    meters.load_failed("churn")
    meters.describe(list)
    body, _ = meters.exposition("text/plain")
    for family in re.findall(r"^# TYPE (\w+) (\w+)$", body.decode(), re.MULTILINE):
        exposed[family[0]] = set()
    series = {re.sub(r"\{.*| .*", "", row) for row in body.decode().splitlines()}
    series |= {*exposed, *(f"{n}_bucket" for n in exposed)}
    series |= {"process_resident_memory_bytes"}

    for panel in panels("grafana-on-premises.json"):
        for target in panel["targets"]:
            named = set(re.findall(r"\b(?:millrace|process)_\w+", target["expr"]))
            assert named, panel["title"]
            assert named <= series, (panel["title"], named - series)


def test_every_panel_on_aws_is_of_a_metric_that_something_emits() -> None:
    for panel in panels("grafana.json"):
        for target in panel["targets"]:
            assert target["namespace"] == NAMESPACE
            assert target["metricName"] in NAMES
            assert set(target["dimensions"]) == {"service", "model"}


@pytest.mark.parametrize("file", ["grafana.json", "grafana-on-premises.json"])
def test_a_grafana_dashboard_asks_for_its_data_source(file: str) -> None:
    document = json.loads((dashboards.HERE / file).read_text())

    first = document["templating"]["list"][0]
    assert first["type"] == "datasource"
    assert {p["datasource"]["uid"] for p in document["panels"]} == {"${datasource}"}
    assert len({p["id"] for p in document["panels"]}) == len(document["panels"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in document["panels"]]
    assert len(set(places)) == len(places)


def test_every_kind_of_alarm_has_its_place_in_the_runbook() -> None:
    page = (dashboards.ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}

    for kind in MEANING:
        assert runbook(kind).removeprefix("docs/monitoring.md#") in headings
