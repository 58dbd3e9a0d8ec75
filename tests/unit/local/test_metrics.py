"""Embedded metrics are found in logs, and nothing else is."""

import json
from typing import Any

import pytest

from infra.local.metrics import MetricValue, embedded_metrics


def _document(**changes: Any) -> dict[str, Any]:
    directive = {
        "Namespace": "Millrace",
        "Dimensions": [["service"]],
        "Metrics": [{"Name": "Rows", "Unit": "Count"}],
    }
    metadata = {"Timestamp": 1, "CloudWatchMetrics": [directive]}
    return {"_aws": metadata, "service": "ingest", "Rows": [7.0]} | changes


def _found(document: object) -> list[MetricValue]:
    return list(embedded_metrics(f"START\n{json.dumps(document)}\nEND"))


def test_every_value_of_a_metric_is_found() -> None:
    assert _found(_document(Rows=[7.0, 8])) == [
        MetricValue("Millrace", "Rows", value, "Count", (("service", "ingest"),))
        for value in (7.0, 8.0)
    ]


def test_each_dimension_set_is_a_metric_of_its_own() -> None:
    document = _document(model="churn")
    document["_aws"]["CloudWatchMetrics"][0]["Dimensions"] = [["service"], ["service", "model"], []]

    assert [found.dimensions for found in _found(document)] == [
        (("service", "ingest"),),
        (("model", "churn"), ("service", "ingest")),
        (),
    ]


@pytest.mark.parametrize(
    "document",
    [
        _document(Rows="seven"),
        _document(Rows=True),
        _document(Rows=None),
        _document(service=3),
        _document(_aws="no metadata"),
        _document(_aws={"CloudWatchMetrics": "none"}),
        _document(_aws={"CloudWatchMetrics": [{"Metrics": []}]}),
        ["_aws"],
        "_aws",
    ],
    ids=repr,
)
def test_what_is_not_in_the_format_is_log(document: object) -> None:
    assert _found(document) == []


def test_a_broken_line_is_log() -> None:
    assert list(embedded_metrics('{"_aws": {"CloudWatchMetrics"')) == []
