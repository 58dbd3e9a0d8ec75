"""What the server tells Prometheus of inputs and scores, in the bins of a version's baseline."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from millrace.server import app as server_app
from millrace.server.distributions import MAX_BINS, MAX_ROWS
from millrace.server.settings import ServerSettings
from millrace.serving import telemetry
from tests.fakes.bundles import bundled, churn_baseline
from tests.integration.server.conftest import ROW

type Samples = dict[tuple[str, ...], float]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[server_app.Server]:
    bundled(tmp_path / "churn.bundle", baseline=churn_baseline().to_bytes())
    yield server_app.build(
        ServerSettings(bundles=(tmp_path,), capture=str(tmp_path / "lines.jsonl"))
    )
    telemetry.unobserve()


def ask(server: server_app.Server, method: str, path: str, **how: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            return await http.request(method, path, **how)

    return asyncio.run(send())


def predict(server: server_app.Server, *rows: dict[str, Any]) -> None:
    answer = ask(
        server, "POST", "/v1/models/churn/predict", content=json.dumps({"rows": rows}).encode()
    )
    assert answer.status_code == 200


def samples(server: server_app.Server, name: str, *labels: str) -> Samples:
    """The values of a metric by these labels, as the reference parser reads them."""
    found: Samples = {}
    for family in text_string_to_metric_families(ask(server, "GET", "/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                assert sample.labels["model"] == "churn"
                found[tuple(sample.labels[label] for label in labels)] = sample.value
    return found


def test_values_fall_into_the_bins_of_the_baseline(server: server_app.Server) -> None:
    predict(server, ROW | {"tenure": 0.7}, ROW | {"plan": None, "tenure": None})
    predict(server, ROW | {"plan": "trial", "age": 18}, ROW | {"plan": "gold", "age": 119})

    assert samples(server, "millrace_feature_values_total", "feature", "bin") == {
        ("age", "3"): 2,
        ("age", "0"): 1,
        ("age", "9"): 1,
        ("plan", "0"): 1,
        ("plan", "missing"): 1,
        ("plan", "other"): 1,
        ("plan", "unseen"): 1,
        ("tenure", "1"): 1,
        ("tenure", "2"): 2,
        ("tenure", "missing"): 1,
    }


def test_the_baseline_stands_beside_on_the_same_bins(server: server_app.Server) -> None:
    told = samples(server, "millrace_baseline_feature_values", "feature", "bin")

    assert [told["age", str(place)] for place in range(MAX_BINS)] == [10] * MAX_BINS
    assert {key: rows for key, rows in told.items() if key[0] != "age"} == {
        ("plan", "0"): 60,
        ("plan", "1"): 25,
        ("plan", "other"): 5,
        ("plan", "missing"): 10,
        ("tenure", "0"): 30,
        ("tenure", "1"): 30,
        ("tenure", "2"): 20,
        ("tenure", "missing"): 20,
    }
    assert samples(server, "millrace_baseline_score_bucket", "le") == {
        ("0.25",): 40,
        ("0.5",): 70,
        ("0.75",): 90,
        ("+Inf",): 100,
    }


def test_scores_are_a_histogram_with_the_baselines_edges(server: server_app.Server) -> None:
    predict(server, *[ROW] * 3)

    buckets = samples(server, "millrace_prediction_score_bucket", "le")
    assert list(buckets) == [("0.25",), ("0.5",), ("0.75",), ("+Inf",)]
    assert buckets["+Inf",] == 3
    assert list(buckets.values()) == sorted(buckets.values())


def test_of_a_large_request_a_bounded_number_of_rows_is_counted(
    server: server_app.Server,
) -> None:
    ages = [20] * 500 + [70] * 500

    predict(server, *[ROW | {"age": age} for age in ages])

    assert samples(server, "millrace_prediction_score_count", "version") == {("1",): MAX_ROWS}
    counted = samples(server, "millrace_feature_values_total", "feature", "bin")
    assert (counted["age", "0"], counted["age", "8"]) == (MAX_ROWS / 2, MAX_ROWS / 2)


def test_versions_have_buckets_of_their_own_in_one_metric(
    server: server_app.Server, tmp_path: Path
) -> None:
    predict(server, ROW)
    other = churn_baseline(2)
    other = other.model_copy(
        update={"scores": other.scores.model_copy(update={"edges": (0, 0.1, 0.2, 0.3, 1)})}
    )
    bundled(tmp_path / "next.bundle", version=2, baseline=other.to_bytes())
    path = "/v1/models/churn/versions/2/predict"
    body = json.dumps({"rows": [ROW]}).encode()
    assert ask(server, "POST", path, content=body).status_code == 200

    bounds = samples(server, "millrace_prediction_score_bucket", "version", "le")

    assert [le for version, le in bounds if version == "2"] == ["0.1", "0.2", "0.3", "+Inf"]
    assert [le for version, le in bounds if version == "1"] == ["0.25", "0.5", "0.75", "+Inf"]
    accept = {"accept": "application/openmetrics-text"}
    strict = openmetrics_families(ask(server, "GET", "/metrics", headers=accept).text)
    assert "millrace_prediction_score" in {family.name for family in strict}


def test_no_value_of_a_column_is_a_label(server: server_app.Server) -> None:
    predict(server, ROW | {"plan": "canary-5e1f", "city": "canary-77aa"}, ROW)

    told = ask(server, "GET", "/metrics").text

    assert 'feature="plan"' in told
    for value in ("canary", "basic", "premium", "trial", "Graz", 'feature="city"'):
        assert value not in told


@pytest.mark.parametrize("body", [None, b"no baseline"], ids=["absent", "damaged"])
def test_without_a_baseline_answers_and_lines_are_as_ever(
    tmp_path: Path, body: bytes | None
) -> None:
    bundled(tmp_path / "churn.bundle", baseline=body)
    lines = tmp_path / "lines.jsonl"
    server = server_app.build(ServerSettings(bundles=(tmp_path,), capture=str(lines)))
    try:
        predict(server, ROW)
        predict(server, ROW)

        answer = ask(server, "GET", "/metrics")
    finally:
        telemetry.unobserve()

    assert answer.status_code == 200
    assert "millrace_feature_values_total{" not in answer.text
    assert len(lines.read_text().splitlines()) == 2
