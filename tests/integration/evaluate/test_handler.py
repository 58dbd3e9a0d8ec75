"""The evaluate function's handler on moto, with a really trained model."""

import io
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from moto import mock_aws

from millrace.aws.clients import client, forget_clients
from millrace.aws.s3 import S3ObjectStore
from millrace.errors import ConfigurationError, DigestMismatchError
from millrace.messages import EvaluationResult, RecordEvaluationTask
from millrace.observability import logger
from tests.fakes.cloud import LambdaContext
from tests.integration.evaluate.scenario import ARTIFACTS, DATA, Scenario, spec_document


@pytest.fixture
def store() -> Iterator[S3ObjectStore]:
    with mock_aws():
        forget_clients()
        s3 = client("s3")
        for bucket in (DATA, ARTIFACTS):
            s3.create_bucket(Bucket=bucket)
        yield S3ObjectStore(s3)
    forget_clients()


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    from functions.evaluate import handler

    monkeypatch.setenv("MILLRACE_DATA_BUCKET", DATA)
    monkeypatch.setenv("MILLRACE_ARTIFACT_BUCKET", ARTIFACTS)
    handler.collaborators.cache_clear()
    yield handler
    handler.collaborators.cache_clear()


def event(scenario: Scenario, **extra: Any) -> dict[str, Any]:
    """The machine's whole payload, with what the task does not read."""
    task = scenario.candidate("churn-run-1")
    return {**task.model_dump(mode="json", exclude={"attempt"}), "dataset": {}, "plan": {}, **extra}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", stream)
    return stream


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_candidate_is_evaluated_and_the_report_stored(
    store: S3ObjectStore, function: ModuleType
) -> None:
    scenario = Scenario(store, spec_document())
    payload = event(scenario)

    answer = function.handler(payload, LambdaContext())

    result = EvaluationResult.model_validate(answer)
    assert result.verdict == "passed"
    assert json.loads(store.read(ARTIFACTS, result.evaluation_key))["verdict"] == "passed"
    assert store.read(ARTIFACTS, result.report_key).startswith(b"<!doctype html>")
    recorded = {"action": "record_evaluation", **payload, "evaluation": answer}
    assert RecordEvaluationTask.model_validate(recorded).evaluation == result


def test_payload_stays_small(store: S3ObjectStore, function: ModuleType) -> None:
    scenario = Scenario(store, spec_document())

    answer = function.handler(event(scenario), LambdaContext())

    assert len(json.dumps(answer)) < 4_000


@pytest.mark.parametrize(("minimum", "failed"), [(0.5, []), (0.9999, ["metrics[0]"])])
def test_verdict_is_logged_with_the_ids(
    store: S3ObjectStore,
    function: ModuleType,
    log: io.StringIO,
    minimum: float,
    failed: list[str],
) -> None:
    gates = {"metrics": [{"metric": "roc_auc", "min": minimum}]}
    scenario = Scenario(store, spec_document(evaluate=gates))

    function.handler(event(scenario), LambdaContext())

    begun, ended = lines(log.getvalue())
    assert (begun["message"], ended["message"]) == ("evaluation begins", "evaluation ends")
    for line in (begun, ended):
        assert line["correlation_id"] == "correlation-1"
        assert (line["run_id"], line["model"]) == ("churn-run-1", "churn")
        assert line["function_name"] == "function"
    assert ended["failed_gates"] == failed


def test_no_value_of_a_sensitive_column_is_logged(
    store: S3ObjectStore,
    function: ModuleType,
    capsys: pytest.CaptureFixture[str],
    log: io.StringIO,
) -> None:
    gates = {"slices": [{"column": "sex", "metric": "accuracy", "min": 0.999}]}
    scenario = Scenario(store, spec_document(evaluate=gates))

    answer = function.handler(event(scenario), LambdaContext())

    captured = capsys.readouterr()
    assert answer["verdict"] == "failed"
    assert "sex = " not in captured.out + captured.err + log.getvalue() + json.dumps(answer)


def test_spec_that_is_not_the_runs_is_refused(store: S3ObjectStore, function: ModuleType) -> None:
    payload = event(Scenario(store, spec_document()))
    store.write(ARTIFACTS, payload["spec_key"], b"{}", content_type="application/json")

    with pytest.raises(DigestMismatchError):
        function.handler(payload, LambdaContext())


def test_missing_environment_is_named(
    store: S3ObjectStore, function: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = event(Scenario(store, spec_document()))
    monkeypatch.delenv("MILLRACE_DATA_BUCKET")

    with pytest.raises(ConfigurationError, match="MILLRACE_DATA_BUCKET"):
        function.handler(payload, LambdaContext())
