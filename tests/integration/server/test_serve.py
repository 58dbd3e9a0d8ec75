"""`millrace serve` over real HTTP, with two workers: what the whole process does."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.bundles import bundled
from tests.fakes.server import Running, serving
from tests.integration.server.conftest import ROW
from tests.until import until

pytestmark = pytest.mark.timeout(180)


def test_it_answers_with_model_version_and_prediction_id(server: Running) -> None:
    answer = server.predict([ROW, ROW | {"plan": None, "tenure": None}])

    assert answer.status_code == 200
    document = answer.json()
    assert (document["model"], document["version"]) == ("churn", 1)
    assert answer.headers["x-millrace-prediction-id"] == document["prediction_id"]
    assert [p["label"] for p in document["predictions"]] == [1, 1]


def test_metrics_add_up_over_the_workers(server: Running) -> None:
    server.expect_counted()
    before = server.metric("millrace_predictions_total", model="churn")
    rows_before = server.metric("millrace_prediction_rows_total")
    refused_before = server.metric("millrace_prediction_errors_total")

    for _ in range(20):
        assert server.predict([ROW, ROW, ROW]).status_code == 200
    assert server.predict([ROW | {"age": "old"}]).status_code == 422

    server.expect_counted()
    # An answer is sent before it is counted.
    until(lambda: server.metric("millrace_predictions_total", model="churn") == before + 20)
    # Whichever worker is asked, the sum is the same.
    for _ in range(6):
        with httpx.Client(base_url=server.http.base_url) as http:
            server.http, kept = http, server.http
            try:
                assert server.metric("millrace_predictions_total", model="churn") == before + 20
                assert server.metric("millrace_prediction_rows_total") == rows_before + 60
                assert server.metric("millrace_prediction_errors_total") == refused_before + 1
            finally:
                server.http = kept
    assert server.metric("millrace_model_info", model="churn", champion="true") == 1
    took = "millrace_http_request_duration_seconds_count"
    assert server.metric(took, route="predict") == server.asked


def test_distributions_add_up_over_the_workers(server: Running) -> None:
    scores = "millrace_prediction_score_count"
    server.expect_counted()
    before = server.metric(scores, model="churn", version="1")

    for _ in range(20):
        assert server.predict([ROW, ROW]).status_code == 200

    until(lambda: server.metric(scores, model="churn", version="1") == before + 40)
    for _ in range(6):
        with httpx.Client(base_url=server.http.base_url) as http:
            server.http, kept = http, server.http
            try:
                now = server.metric(scores, model="churn", version="1")
                assert now == before + 40
                assert server.metric("millrace_prediction_score_bucket", le="+Inf") == now
            finally:
                server.http = kept
    assert server.metric("millrace_feature_values_total", feature="plan", bin="0") > 0
    assert server.metric("millrace_baseline_feature_values", feature="plan", bin="0") == 60


def test_every_request_leaves_one_line_on_standard_output(server: Running) -> None:
    answer = server.predict([ROW]).json()

    def line() -> list[dict[str, Any]]:
        identifier = answer["prediction_id"]
        return [x for x in server.lines if x.get("prediction_id") == identifier]

    (found,) = until(line)
    assert found["message"] == "predicted"
    assert found["capture"]["inputs"]["age"] == [41.0]
    assert "city" not in found["capture"]["inputs"], "a private column is not captured"


def test_a_replaced_bundle_is_taken_up_without_a_restart(server: Running, shelf: Path) -> None:
    bundled(shelf / "churn.bundle", version=2, bias=5.0)

    until(lambda: server.predict([ROW]).json()["version"] == 2)
    # Both workers have it: no answer comes from the old one any more.
    until(lambda: {server.predict([ROW]).json()["version"] for _ in range(12)} == {2})
    assert server.metric("millrace_model_info", version="1") == 0
    assert server.process.poll() is None


def test_a_damaged_replacement_leaves_the_last_good_one_answering(
    server: Running, shelf: Path
) -> None:
    bundle = shelf / "churn.bundle"
    before = server.predict([ROW]).json()["version"]
    whole = bundle.read_bytes()

    bundle.write_bytes(whole[: len(whole) // 2])
    try:
        until(lambda: server.predict([ROW]) and server.metric("millrace_model_load_failures_total"))
        assert {server.predict([ROW]).json()["version"] for _ in range(8)} == {before}
    finally:
        bundle.write_bytes(whole)


def test_long_lines_of_several_workers_on_one_pipe_stay_whole(server: Running) -> None:
    rows = [ROW | {"age": 20 + i % 80} for i in range(1_500)]
    count = len([x for x in server.lines if x.get("row_count") == 1_500])

    def ask() -> None:
        for _ in range(5):
            assert server.predict(rows).status_code == 200

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # `lines` reads each as JSON: a torn one would not be.
    until(lambda: len([x for x in server.lines if x.get("row_count") == 1_500]) == count + 20)


def test_a_stop_lets_running_requests_end(tmp_path: Path, shelf: Path) -> None:
    log = tmp_path / "requests.jsonl"
    with serving(tmp_path, str(shelf), "--capture", str(log), "--workers", "2") as running:
        host, port = running.http.base_url.host, running.http.base_url.port
        body = json.dumps({"rows": [ROW]}).encode()
        head = (
            f"POST /v1/models/churn/predict HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        with socket.create_connection((host, port), timeout=20) as connection:
            connection.sendall(head + body[:10])
            until(lambda: "Application startup complete" in running.log)
            running.process.terminate()
            until(lambda: "Shutting down" in running.log)
            connection.sendall(body[10:])
            reply = connection.recv(4096)
        code = running.process.wait(30)

    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert code == 0
    assert json.loads(log.read_text().splitlines()[-1])["message"] == "predicted"
    assert (log.stat().st_mode & 0o777) == 0o640
