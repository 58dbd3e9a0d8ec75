"""What is counted reaches CloudWatch under the dimensions that alarms and people ask for."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from millrace import observability
from millrace.observability import METRICS, SERVICE, MetricUnit, count, publish


def emitted(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_value_counts_for_the_service_and_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    count(METRICS.PREDICTIONS, 3, model="churn")
    count(METRICS.PREDICTION_LATENCY, 1.5, model="churn", unit=MetricUnit.Milliseconds)
    publish()

    (line,) = emitted(capsys)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"], ["service", "model"]]
    assert (line["service"], line["model"]) == (SERVICE, "churn")
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == {
        "Predictions": "Count",
        "PredictionLatency": "Milliseconds",
    }


def test_nothing_of_one_invocation_is_left_for_the_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    count(METRICS.RUNS_FAILED, model="churn")
    publish()
    count(METRICS.UPLOADS_UNROUTABLE)
    publish()
    publish()

    _, line = emitted(capsys)
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    assert "model" not in line


def test_service_is_the_deployment_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "millrace-prod")
    spec = importlib.util.spec_from_file_location("elsewhere", Path(observability.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    spec.loader.exec_module(module)

    assert module.SERVICE == module.logger.service == "millrace-prod"
    assert module.metrics.provider.service == "millrace-prod"
