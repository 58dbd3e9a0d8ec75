"""Dashboards of one making: CloudWatch's in ``template.yaml``, and Grafana's beside this file.

    python -m infra.monitoring.dashboards [--check]

Panels name metrics by the constants of `millrace.observability` and of the server's ``/metrics``; a
test holds every panel to a metric that something emits.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from millrace.observability import METRICS, NAMESPACE

ROOT: Final = Path(__file__).resolve().parents[2]
TEMPLATE: Final = ROOT / "template.yaml"
HERE: Final = Path(__file__).resolve().parent
_MARKED: Final = re.compile(
    r"(?<=  # BEGIN dashboards: python -m infra.monitoring.dashboards\n)"
    r".*?(?=  # END dashboards\n)",
    re.DOTALL,
)
_STACK: Final = "${AWS::StackName}"
_REGION: Final = "${AWS::Region}"
_PERIOD: Final = 300

_FUNCTION: Final = re.compile(
    r"^  (\w+)Function:\n    Type: AWS::Serverless::Function\n(?!    Condition:)", re.MULTILINE
)
_ALARM: Final = re.compile(
    r"^  (\w+):\n    Type: AWS::CloudWatch::Alarm\n    Condition: (\w+)\n", re.MULTILINE
)


def functions() -> tuple[str, ...]:
    """Functions of the template, by their logical ids without ``Function``, in its order."""
    return tuple(_FUNCTION.findall(TEMPLATE.read_text(encoding="utf-8")))


def alarms() -> dict[str, str]:
    """Alarms of the template, by their logical ids, in its order, with the condition of each."""
    return dict(_ALARM.findall(TEMPLATE.read_text(encoding="utf-8")))


PREDICT_GROUP: Final = "PredictLogGroup"

# ── CloudWatch ──────────────────────────────────────────────────────────────────────────────────

type Metric = list[Any]


def ours(name: str, *, model: bool = False, label: str = "", **options: Any) -> Metric:
    """One of Millrace's metrics, of the stack or of one model."""
    dimensions = ["service", _STACK, *(["model", "-"] if model else [])]
    return [NAMESPACE, name, *dimensions, {"label": label or name, **options}]


def widget(
    title: str,
    metrics: Sequence[Metric],
    *,
    stat: str = "Sum",
    width: int = 8,
    height: int = 6,
    **properties: Any,
) -> dict[str, Any]:
    """A graph of metrics."""
    return {
        "type": "metric",
        "width": width,
        "height": height,
        "properties": {
            "title": title,
            "region": _REGION,
            "view": "timeSeries",
            "stat": stat,
            "period": _PERIOD,
            "metrics": list(metrics),
            **properties,
        },
    }


def text(markdown: str, *, height: int = 2) -> dict[str, Any]:
    """Words."""
    return {"type": "text", "width": 24, "height": height, "properties": {"markdown": markdown}}


def lines(title: str, query: str, groups: Sequence[str], *, width: int = 24) -> dict[str, Any]:
    """What a query finds on the logs."""
    source = " | ".join(f"SOURCE '${{{group}}}'" for group in groups)
    return {
        "type": "log",
        "width": width,
        "height": 6,
        "properties": {
            "title": title,
            "region": _REGION,
            "view": "table",
            "query": f"{source} | {query}",
        },
    }


def _latencies(*, model: bool) -> list[Metric]:
    name = METRICS.PREDICTION_LATENCY
    return [ours(name, model=model, label=stat, stat=stat) for stat in ("p50", "p95", "p99")]


def _functions(metric: str) -> list[Metric]:
    return [
        ["AWS/Lambda", metric, "FunctionName", f"${{{name}Function}}", {"label": name.lower()}]
        for name in functions()
    ]


def _machines() -> list[Metric]:
    shown = (
        ("TrainingStateMachine", "training"),
        ("BatchStateMachine", "batch"),
        ("RolloutStateMachine", "rollout"),
    )
    return [
        ["AWS/States", metric, "StateMachineArn", f"${{{machine}}}", {"label": f"{label} {words}"}]
        for machine, label in shown
        for metric, words in (("ExecutionsSucceeded", "ended"), ("ExecutionsFailed", "failed"))
    ]


def environment() -> list[dict[str, Any]]:
    """What a deployment does: its API, functions, trainings, captures and dead letters."""
    api = ("AWS/ApiGateway", "ApiName", f"{_STACK}")
    m = METRICS
    return [
        text(
            f"# {_STACK}\nOne model: dashboard **{_STACK}-model**. What each alarm means and what to "
            "do: docs/operations.md, docs/monitoring.md. `millrace monitor MODEL` has the report."
        ),
        widget(
            "Requests of the API",
            [[api[0], name, api[1], api[2], {"label": name}] for name in ("Count", "4XXError")]
            + [[api[0], "5XXError", api[1], api[2], {"label": "5XXError", "color": "#d62728"}]],
        ),
        widget(
            "Predicted rows and refused requests",
            [ours(m.PREDICTIONS, label="rows"), ours(m.PREDICTIONS_REFUSED, yAxis="right")],
        ),
        widget("Latency of a prediction, milliseconds", _latencies(model=False), stat="p95"),
        widget("Failed invocations", _functions("Errors")),
        widget("Throttled invocations", _functions("Throttles")),
        widget("Concurrent invocations", _functions("ConcurrentExecutions"), stat="Maximum"),
        widget("Executions of the state machines", _machines()),
        widget(
            "Trainings",
            [ours(n) for n in (m.GATES_PASSED, m.GATES_FAILED, m.RUNS_FAILED, m.UPLOADS_REFUSED)],
        ),
        widget(
            "Champions",
            [
                ours(n)
                for n in (
                    m.PROMOTIONS,
                    m.ROLLBACKS,
                    m.ROLLOUTS_STARTED,
                    m.ROLLOUTS_PROMOTED,
                    m.ROLLOUTS_ROLLED_BACK,
                )
            ],
        ),
        widget(
            "Captured predictions: on the log, and arrived",
            [ours(n) for n in (m.CAPTURED_REQUESTS, m.CAPTURED_RECORDS, m.CAPTURE_REJECTED)],
        ),
        widget(
            "Labels",
            [ours(n) for n in (m.LABELS_ACCEPTED, m.LABELS_CORRECTED, m.LABELS_REJECTED)],
        ),
        widget(
            "Alarms on models",
            [ours(n) for n in (m.ALARMS_OPENED, m.ALARMS_CLOSED, m.NOTIFICATIONS_FAILED)],
        ),
        widget(
            "Windows judged, and what was found in them",
            [ours(n) for n in (m.WINDOWS_JUDGED, m.WINDOW_ALARMS, m.DRIFT_RETRAININGS)],
        ),
        widget(
            "Heartbeat: whether all was well, and the slowest answer in milliseconds",
            [ours(m.HEARTBEAT_SUCCESS), ours(m.HEARTBEAT_LATENCY, yAxis="right", stat="Maximum")],
            stat="Minimum",
        ),
        widget(
            "Dead letters",
            [
                [
                    "AWS/SQS",
                    "ApproximateNumberOfMessagesVisible",
                    "QueueName",
                    "${DeadLetterQueue.QueueName}",
                    {"label": "waiting"},
                ]
            ],
            stat="Maximum",
        ),
        widget(
            "The registry's table: capacity units",
            [
                ["AWS/DynamoDB", name, "TableName", "${RegistryTable}", {"label": name}]
                for name in ("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits")
            ],
        ),
        widget(
            "Models that could not be loaded",
            [ours(m.MODEL_LOAD_FAILURES), ours(m.MODEL_LOADS), ours(m.CHALLENGER_FAILURES)],
        ),
        lines("Errors", QUERIES["errors"].text, _groups()),
    ]


def of_model() -> list[dict[str, Any]]:
    """What one model does; the variable at the top chooses it."""
    m = METRICS

    def of(*names: str) -> list[Metric]:
        return [ours(n, model=True) for n in names]

    return [
        text(
            "# One model\nChosen above. Drift, performance and segments are in its report: "
            "`millrace monitor MODEL`."
        ),
        widget("Predicted rows", of(m.PREDICTIONS)),
        widget("Latency of a prediction, milliseconds", _latencies(model=True), stat="p95"),
        widget("Refused requests", of(m.PREDICTIONS_REFUSED)),
        widget("Alarms", of(m.ALARMS_OPENED, m.ALARMS_CLOSED)),
        widget("Drifted features", of(m.DRIFTED_FEATURES, m.WINDOW_ALARMS), stat="Maximum"),
        widget("Rows of a judged window", of(m.WINDOW_ROWS), stat="Maximum"),
        widget(
            "Captured predictions", of(m.CAPTURED_REQUESTS, m.CAPTURED_RECORDS, m.CAPTURES_LOST)
        ),
        widget("Labels", of(m.LABELS_ACCEPTED, m.LABELS_CORRECTED, m.LABELS_REJECTED)),
        widget("Unknown categories", of(m.UNKNOWN_CATEGORIES)),
        widget("Champions", of(m.PROMOTIONS, m.ROLLBACKS)),
        widget("Challengers", of(m.CHALLENGER_FAILURES, m.CHALLENGER_LACKING)),
        lines("By version", QUERIES["predictions-by-version"].text, [PREDICT_GROUP]),
    ]


VARIABLE: Final = {
    "type": "property",
    "property": "model",
    "inputType": "select",
    "id": "model",
    "label": "Model",
    "visible": True,
    "search": f'{{{NAMESPACE},service,model}} MetricName="{METRICS.PREDICTIONS}" service="{_STACK}"',
    "populateFrom": "model",
    "defaultValue": "__FIRST",
}
"""Chooses the model of the second dashboard, so that one dashboard is of every model."""


class Query:
    """A saved query of CloudWatch Logs Insights.

    Attributes:
        groups: Log groups that it asks, by logical id.
        text: The query.
    """

    def __init__(self, groups: Iterable[str], *text: str) -> None:
        self.groups = tuple(groups)
        self.text = " | ".join(text)
        self.lines = text


def _groups() -> tuple[str, ...]:
    return tuple(f"{name}LogGroup" for name in functions())


QUERIES: Final[dict[str, Query]] = {
    "errors": Query(
        _groups(),
        "fields @timestamp, @log, level, message, error, model, correlation_id",
        'filter level = "ERROR" or level = "CRITICAL"',
        "sort @timestamp desc",
        "limit 100",
    ),
    "one-upload": Query(
        _groups(),
        "fields @timestamp, @log, message, run_id, @message",
        'filter correlation_id = "PUT THE ID HERE"',
        "sort @timestamp asc",
    ),
    "predictions-by-version": Query(
        (PREDICT_GROUP,),
        "filter ispresent(prediction_id)",
        f"stats count(*) as requests, sum(row_count) as rows, pct({METRICS.PREDICTION_LATENCY}, 50) "
        f"as p50_ms, pct({METRICS.PREDICTION_LATENCY}, 95) as p95_ms by model, version, role",
        "sort requests desc",
    ),
    "slowest-predictions": Query(
        (PREDICT_GROUP,),
        f"fields @timestamp, model, version, row_count, {METRICS.PREDICTION_LATENCY}, prediction_id, "
        "correlation_id",
        "filter ispresent(prediction_id)",
        f"sort {METRICS.PREDICTION_LATENCY} desc",
        "limit 50",
    ),
    "refused-predictions": Query(
        (PREDICT_GROUP,),
        "filter ispresent(error)",
        "stats count(*) as requests by error, model, bin(1h)",
        "sort requests desc",
    ),
    "values-outside-the-contract": Query(
        (PREDICT_GROUP,),
        "fields @timestamp, model, version, warnings, prediction_id",
        "filter ispresent(warnings)",
        "sort @timestamp desc",
        "limit 100",
    ),
    "lost-captures": Query(
        (PREDICT_GROUP,),
        "filter ispresent(capture.sequence)",
        "stats max(capture.sequence) - min(capture.sequence) + 1 - count(*) as missing by "
        "capture.process, model",
        "filter missing > 0",
    ),
}
"""Saved queries, by name."""


_RINGING: Final = "AlarmWidget"


_WATCHED: Final = "WatchStack"


def ringing(condition: str = "") -> dict[str, Any]:
    """Which of the stack's alarms ring; there only with ``Alarms=on``.

    Args:
        condition: Of the alarms; without one, all alarms are there.
    """
    there = [name for name, of in alarms().items() if of == condition or not condition]
    return {
        "type": "alarm",
        "width": 24,
        "height": 3,
        "properties": {"title": "Alarms", "alarms": [f"${{{name}.Arn}}" for name in there]},
    }


def alarm_widget() -> str:
    """The widget of the alarms as YAML; those with a condition of their own are put in by it."""
    further: dict[str, list[str]] = {}
    for name, condition in alarms().items():
        if condition != _WATCHED:
            further.setdefault(condition, []).append(name)
    widget = json.dumps(ringing(_WATCHED), separators=(",", ":"))
    more = "".join(f"${{{condition}}}" for condition in further)
    lines = [
        f"        - {_RINGING}: !If",
        f"            - {_WATCHED}",
        "            - !Sub",
        f"              - '{widget.replace(']}}', f'{more}]}}}}')},'",
    ]
    lead = "-"
    for condition, names in further.items():
        arns = "".join(f',"${{{name}.Arn}}"' for name in names)
        lines.append(f"              {lead} {condition}: !If [{condition}, !Sub '{arns}', \"\"]")
        lead = " "
    return "\n".join([*lines, '            - ""', ""])


def body(widgets: Sequence[dict[str, Any]], *, variable: bool = False, before: bool = False) -> str:
    """A dashboard's body: one widget a line; what `Fn::Sub` fills in is in ``${}``."""
    rows = ",\n".join("  " + json.dumps(one, separators=(",", ":")) for one in widgets)
    if before:
        rows = f"  ${{{_RINGING}}}\n{rows}"
    known = f'"variables": [{json.dumps(VARIABLE)}],\n' if variable else ""
    return f'{{"periodOverride": "inherit",\n{known}"widgets": [\n{rows}\n]}}'


def resources() -> str:
    """The resources of the template, as YAML."""
    parts = []
    for name, suffix, content in (
        ("EnvironmentDashboard", "", body(environment(), before=True)),
        ("ModelDashboard", "-model", body(of_model(), variable=True)),
    ):
        text = "\n".join(f"          {line}" for line in content.splitlines())
        head = (
            f"  {name}:\n"
            "    Type: AWS::CloudWatch::Dashboard\n"
            "    Condition: ShowDashboards\n"
            "    Properties:\n"
            f'      DashboardName: !Sub "${{AWS::StackName}}{suffix}"\n'
        )
        if suffix:
            parts.append(f"{head}      DashboardBody: !Sub |-\n{text}\n")
            continue
        parts.append(f"{head}      DashboardBody: !Sub\n        - |-\n{text}\n{alarm_widget()}")
    for title, query in QUERIES.items():
        logical = "".join(word.capitalize() for word in title.split("-")) + "Query"
        groups = ", ".join(f"!Ref {group}" for group in query.groups)
        text = "\n".join(f"        {'| ' if i else ''}{line}" for i, line in enumerate(query.lines))
        parts.append(
            f"  {logical}:\n"
            "    Type: AWS::Logs::QueryDefinition\n"
            "    Properties:\n"
            f'      Name: !Sub "${{AWS::StackName}}/{title}"\n'
            f"      LogGroupNames: [{groups}]\n"
            f"      QueryString: |-\n{text}\n"
        )
    return "\n" + "\n".join(parts) + "\n"


# ── Grafana ─────────────────────────────────────────────────────────────────────────────────────


def _panel(
    number: int, title: str, targets: list[dict[str, Any]], source: str, unit: str, *, wide: bool
) -> dict[str, Any]:
    width = 24 if wide else 12
    return {
        "id": number,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": source, "uid": "${datasource}"},
        "gridPos": {"h": 8, "w": width, "x": (number - 1) % 2 * 12, "y": (number - 1) // 2 * 8},
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi"},
        },
        "targets": [{"refId": chr(65 + i), **one} for i, one in enumerate(targets)],
    }


def _grafana(
    title: str, uid: str, source: str, panels: list[dict[str, Any]], variables: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "title": title,
        "uid": uid,
        "tags": ["millrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": source,
                },
                *variables,
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def stability_index(by: str, bins: str, live: str, baseline: str) -> str:
    """PromQL of the population stability index of counts and those of a baseline on the same bins.

    Half a row is added to each bin, so that an empty one is not infinitely far.

    Args:
        by: Labels of a distribution.
        bins: The label of its bins.
        live: Counts.
        baseline: Constant counts, the same on every server.
    """
    of = f"max by ({by}, {bins}) ({baseline})"
    counted = f"(sum by ({by}, {bins}) ({live}) or {of} * 0) + 0.5"
    whole = f"on ({by}) group_left ()"
    here = f"(({counted}) / {whole} sum by ({by}) ({counted}))"
    there = f"(({of} + 0.5) / {whole} sum by ({by}) ({of} + 0.5))"
    return f"sum by ({by}) (({here} - {there}) * ln({here} / {there}))"


def prometheus() -> dict[str, Any]:
    """Of `millrace serve`, on premises."""
    source = "prometheus"
    rate = "[$__rate_interval]"
    of = '{model=~"$model"}'

    def expression(query: str, legend: str) -> dict[str, Any]:
        return {"expr": query, "legendFormat": legend, "editorMode": "code", "range": True}

    def quantiles(series: str, by: str, where: str) -> list[dict[str, Any]]:
        return [
            expression(
                f"histogram_quantile({q}, sum by (le, {by}) (rate({series}_bucket{where}{rate})))",
                f"p{q * 100:g} {{{{{by}}}}}",
            )
            for q in (0.5, 0.95, 0.99)
        ]

    shown: tuple[tuple[str, str, list[dict[str, Any]]], ...] = (
        (
            "Drift of features from training over six hours (PSI)",
            "none",
            [
                expression(
                    stability_index(
                        "model, version, feature",
                        "bin",
                        f"increase(millrace_feature_values_total{of}[6h])",
                        f"millrace_baseline_feature_values{of}",
                    ),
                    "{{model}}@{{version}} {{feature}}",
                )
            ],
        ),
        (
            "Median score over an hour, and of the test rows",
            "none",
            [
                expression(
                    "histogram_quantile(0.5, sum by (model, version, le) "
                    f"(rate(millrace_prediction_score_bucket{of}[1h])))",
                    "{{model}}@{{version}}",
                ),
                expression(
                    "histogram_quantile(0.5, max by (model, version, le) "
                    f"(millrace_baseline_score_bucket{of}))",
                    "{{model}}@{{version}} in training",
                ),
            ],
        ),
        (
            "Predictions a second",
            "reqps",
            [
                expression(
                    f"sum by (model, version) (rate(millrace_predictions_total{of}{rate}))",
                    "{{model}}@{{version}}",
                )
            ],
        ),
        (
            "Rows a second",
            "rowsps",
            [
                expression(
                    f"sum by (model, version) (rate(millrace_prediction_rows_total{of}{rate}))",
                    "{{model}}@{{version}}",
                )
            ],
        ),
        (
            "Latency of a prediction",
            "s",
            quantiles("millrace_prediction_duration_seconds", "model", of),
        ),
        (
            "Refused or failed predictions a second",
            "reqps",
            [
                expression(
                    f"sum by (model, error) (rate(millrace_prediction_errors_total{of}{rate}))",
                    "{{model}} {{error}}",
                )
            ],
        ),
        (
            "Share of predictions that were refused or failed",
            "percentunit",
            [
                expression(
                    f"sum(rate(millrace_prediction_errors_total{of}{rate})) / "
                    f"(sum(rate(millrace_prediction_errors_total{of}{rate})) + "
                    f"sum(rate(millrace_predictions_total{of}{rate})))",
                    "share",
                )
            ],
        ),
        (
            "Values outside what the model was trained on, a second",
            "cps",
            [
                expression(
                    f"sum by (model, feature) (rate(millrace_rows_outside_contract_total{of}{rate}))",
                    "{{model}} {{feature}}",
                )
            ],
        ),
        (
            "Unknown categories a second",
            "cps",
            [
                expression(
                    f"sum by (model) (rate(millrace_unknown_categories_total{of}{rate}))",
                    "{{model}}",
                )
            ],
        ),
        (
            "HTTP answers a second",
            "reqps",
            [
                expression(
                    f"sum by (route, status) (rate(millrace_http_requests_total{rate}))",
                    "{{route}} {{status}}",
                )
            ],
        ),
        ("Latency of HTTP", "s", quantiles("millrace_http_request_duration_seconds", "route", "")),
        (
            "Versions served",
            "none",
            [
                expression(
                    f"max by (model, version, champion) (millrace_model_info{of})",
                    "{{model}}@{{version}} {{champion}}",
                )
            ],
        ),
        (
            "Age of the served versions",
            "s",
            [
                expression(
                    f"time() - max by (model, version) (millrace_model_trained_timestamp_seconds{of})",
                    "{{model}}@{{version}}",
                )
            ],
        ),
        (
            "Loads, and failed loads",
            "short",
            [
                expression(
                    f"sum by (model) (increase(millrace_model_loads_total{of}{rate}))", "{{model}}"
                ),
                expression(
                    f"sum by (model) (increase(millrace_model_load_failures_total{of}{rate}))",
                    "{{model}} failed",
                ),
            ],
        ),
        (
            "Memory of the processes",
            "bytes",
            [expression("sum by (instance) (process_resident_memory_bytes)", "{{instance}}")],
        ),
    )
    panels = [
        _panel(i, title, targets, source, unit, wide=False)
        for i, (title, unit, targets) in enumerate(shown, 1)
    ]
    model = {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": {"type": source, "uid": "${datasource}"},
        "query": {"query": "label_values(millrace_model_info, model)", "refId": "models"},
        "definition": "label_values(millrace_model_info, model)",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "refresh": 2,
    }
    return _grafana("Millrace on premises", "millrace-serve", source, panels, [model])


def cloudwatch() -> dict[str, Any]:
    """Of a deployment on AWS, through Grafana's CloudWatch data source."""
    source, m = "cloudwatch", METRICS

    def metric(name: str, stat: str = "Sum") -> dict[str, Any]:
        return {
            "namespace": NAMESPACE,
            "metricName": name,
            "statistic": stat,
            "dimensions": {"service": "$stack", "model": "$model"},
            "region": "default",
            "matchExact": True,
            "queryMode": "Metrics",
            "metricQueryType": 0,
            "metricEditorMode": 0,
            "label": f"{name} {stat}" if stat != "Sum" else name,
            "period": "300",
        }

    latency = [metric(m.PREDICTION_LATENCY, s) for s in ("p50", "p95", "p99")]
    shown: tuple[tuple[str, str, list[dict[str, Any]]], ...] = (
        ("Predicted rows", "short", [metric(m.PREDICTIONS)]),
        ("Latency of a prediction", "ms", latency),
        ("Refused requests", "short", [metric(m.PREDICTIONS_REFUSED)]),
        ("Alarms", "short", [metric(n) for n in (m.ALARMS_OPENED, m.ALARMS_CLOSED)]),
        (
            "Captured predictions: on the log, and arrived",
            "short",
            [metric(n) for n in (m.CAPTURED_REQUESTS, m.CAPTURED_RECORDS)],
        ),
        (
            "Labels",
            "short",
            [metric(n) for n in (m.LABELS_ACCEPTED, m.LABELS_CORRECTED, m.LABELS_REJECTED)],
        ),
        (
            "Drifted features",
            "short",
            [metric(n, "Maximum") for n in (m.DRIFTED_FEATURES, m.WINDOW_ALARMS)],
        ),
        ("Rows of a judged window", "short", [metric(m.WINDOW_ROWS, "Maximum")]),
        ("Unknown categories", "short", [metric(m.UNKNOWN_CATEGORIES)]),
        ("Champions", "short", [metric(n) for n in (m.PROMOTIONS, m.ROLLBACKS)]),
    )
    panels = [
        _panel(i, title, targets, source, unit, wide=False)
        for i, (title, unit, targets) in enumerate(shown, 1)
    ]
    keyed = {"type": source, "uid": "${datasource}"}

    def values(name: str, label: str, key: str, filters: dict[str, str]) -> dict[str, Any]:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": keyed,
            "query": {
                "queryType": "dimensionValues",
                "region": "default",
                "namespace": NAMESPACE,
                "metricName": m.PREDICTIONS,
                "dimensionKey": key,
                "dimensionFilters": filters,
                "refId": name,
            },
            "refresh": 2,
        }

    variables = [
        values("stack", "Stack", "service", {}),
        values("model", "Model", "model", {"service": "$stack"}),
    ]
    return _grafana("Millrace on AWS", "millrace-aws", source, panels, variables)


def made() -> dict[Path, str]:
    """Every file that is made here, and its text."""
    template = TEMPLATE.read_text(encoding="utf-8")
    return {
        TEMPLATE: _MARKED.sub(lambda _: resources(), template, count=1),
        HERE / "grafana.json": json.dumps(cloudwatch(), indent=1) + "\n",
        HERE / "grafana-on-premises.json": json.dumps(prometheus(), indent=1) + "\n",
    }


def main() -> int:
    """Writes or checks; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the dashboards and saved queries.")
    parser.add_argument("--check", action="store_true", help="fail when one is stale")
    checks = parser.parse_args().check
    files = made()
    if not checks:
        for path, content in files.items():
            path.write_text(content, encoding="utf-8")
        return 0
    stale = [p.name for p, content in files.items() if not p.exists() or p.read_text() != content]
    if stale:
        sys.stderr.write(f"{', '.join(stale)} stale: python -m infra.monitoring.dashboards\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
