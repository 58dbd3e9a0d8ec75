"""A batch job on the twin: real handlers, the real machine, what goes wrong, and how it goes on."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest

from millrace import layout
from millrace.aws.clients import client
from millrace.errors import ArtifactError
from millrace.registry.batches import Batches, open_batches
from millrace.registry.records import BatchOutcome, RunStatus
from tests import samples
from tests.integration.pipeline.machine import REGION, Ended, Event
from tests.integration.pipeline.twin import DATA_BUCKET, TABLE, Twin, twin

ROWS = samples.rows(90, seed=5)


@pytest.fixture(scope="module")
def deployed() -> Iterator[Twin]:
    """A deployment whose model churn has a champion, and scores ten rows a chunk.

    One for all tests here, as a training takes longer than all of their jobs.
    """
    with twin() as made, pytest.MonkeyPatch.context() as patched:
        patched.setattr("millrace.batch.splitting.split.__kwdefaults__", {"chunk_rows": 10})
        made.apply(samples.spec(batch={"max_quarantined": 0.2}))
        made.train("churn", "first.csv", samples.csv_file(samples.rows(300, seed=1)))
        yield made


def batches() -> Batches:
    """The jobs, read beside the functions."""
    return open_batches(client("dynamodb"), TABLE)


def put(deployed: Twin, name: str, rows: list[samples.Row]) -> Event:
    """Puts a file under batch/churn/; gives its event."""
    return deployed.upload("churn", name, samples.csv_file(rows), folder=layout.BATCH)


def ended(deployed: Twin, execution: str) -> Ended:
    """Waits for an execution; a bad end is told to the registry as the rule does."""
    arn = deployed.batch_machine.arn.replace(":stateMachine:", ":execution:") + f":{execution}"
    found = deployed.batch_machine.ended(arn)
    if found.status != "SUCCEEDED":
        event = deployed.execution_event(execution, found)
        event["detail"]["stateMachineArn"] = deployed.batch_machine.arn
        assert deployed.rule_matches("ExecutionFailureRule", event)
        deployed.deliver("registry", event)
    return found


def shown(deployed: Twin, batch_id: str) -> dict[str, Any]:
    """The job as the API shows it."""
    answer = deployed.api("GET", f"/v1/batches/{batch_id}")
    assert answer["statusCode"] == 200, answer
    document: dict[str, Any] = json.loads(answer["body"])
    return document


def table(key: str) -> list[dict[str, str]]:
    """A CSV object as rows."""
    body = boto3.client("s3", region_name=REGION).get_object(Bucket=DATA_BUCKET, Key=key)["Body"]
    return list(csv.DictReader(io.StringIO(body.read().decode(), newline="")))


def test_upload_becomes_predictions_equal_to_those_of_the_api(deployed: Twin) -> None:
    admitted = deployed.deliver("trigger", put(deployed, "scores.csv", ROWS))

    done = ended(deployed, admitted["run_id"])

    assert (done.status, done.states[-1]) == ("SUCCEEDED", "BatchEnded"), done.cause
    job = batches().get(admitted["run_id"])
    assert (job.status, job.outcome, job.version) == (RunStatus.FINISHED, BatchOutcome.SCORED, 1)
    assert job.rows is not None
    assert job.rows.accepted == 90
    result = table(job.predictions_key)
    status, body = deployed.ask("churn", samples.request_rows(ROWS))
    assert status == 200, body
    for row, answer in zip(result, body["predictions"], strict=True):
        assert row["label"] == str(answer["label"]).lower()
        for label, probability in answer["probabilities"].items():
            assert np.float32(row[f"probability_{label}"]) == np.float32(probability)
    assert [row["customer"] for row in result] == [row["customer"] for row in ROWS]
    document = shown(deployed, job.batch_id)
    assert document["progress"] == {"chunks": 9, "scored": 9}
    scored = [i for i in deployed.functions.invocations if i.action == "score"]
    assert [i.event["batch_id"] for i in scored] == [job.batch_id] * 9
    listed = json.loads(deployed.api("GET", "/v1/models/churn/batches")["body"])["items"]
    assert listed[0]["batch_id"] == job.batch_id


def test_the_same_object_delivered_twice_starts_one_job(deployed: Twin) -> None:
    event = put(deployed, "twice.csv", ROWS)
    first = deployed.deliver("trigger", event)
    ended(deployed, first["run_id"])

    again = deployed.deliver("trigger", {**event, "id": "another-delivery"})

    assert (again["run_id"], again["started"]) == (first["run_id"], False)
    assert deployed.batch_machine.executions().count(first["run_id"]) == 1


def test_a_job_that_fails_in_the_middle_is_resumed_and_scores_the_rest(deployed: Twin) -> None:
    deployed.functions.fail(
        "score", ArtifactError("killed"), when=lambda event: event["chunk"] == 4
    )
    admitted = deployed.deliver("trigger", put(deployed, "fails.csv", ROWS))
    batch_id = admitted["run_id"]

    failed = ended(deployed, batch_id)

    assert (failed.status, failed.states[-1]) == ("FAILED", "BatchFailed")
    job = batches().get(batch_id)
    assert (job.status, job.outcome) == (RunStatus.FAILED, BatchOutcome.FAILED)
    assert shown(deployed, batch_id)["progress"] == {"chunks": 9, "scored": 8}
    before = len(deployed.functions.invocations)

    answer = deployed.api("POST", "/v1/models/churn/batch", {"key": job.source.key})

    assert answer["statusCode"] == 202, answer["body"]
    assert json.loads(answer["body"]) == {"batch_id": batch_id, "started": True, "upload": None}
    done = ended(deployed, f"{batch_id}-2")
    assert done.status == "SUCCEEDED", done.cause
    job = batches().get(batch_id)
    assert (job.status, job.outcome, job.attempt) == (RunStatus.FINISHED, BatchOutcome.SCORED, 2)
    assert len(table(job.predictions_key)) == 90
    counted = _scored_chunks(batch_id)
    assert sorted(counted) == list(range(9)), "every chunk was scored once"
    assert len(deployed.functions.invocations) > before
    actions = [e.action for e in deployed.registry.audit("churn", limit=50).items]
    assert actions[:4] == ["batch_finished", "batch_resumed", "batch_finished", "batch_created"]


def _scored_chunks(batch_id: str) -> list[int]:
    """Numbers of the chunks whose scores were written, once per write that succeeded."""
    s3 = boto3.client("s3", region_name=REGION)
    found = s3.list_object_versions(Bucket=DATA_BUCKET, Prefix=f"work/churn/{batch_id}/")[
        "Versions"
    ]
    return [int(v["Key"][-9:-4]) for v in found if "/scores/" in v["Key"]]


def test_a_refused_file_closes_its_job_and_tells_people(deployed: Twin) -> None:
    event = deployed.upload("churn", "empty.csv", b"", folder=layout.BATCH)
    admitted = deployed.deliver("trigger", event)

    done = ended(deployed, admitted["run_id"])

    assert (done.status, done.states[-1]) == ("SUCCEEDED", "FileRefused")
    document = shown(deployed, admitted["run_id"])
    assert (document["outcome"], document["error"]) == ("refused", "empty_file")
    assert document["report_url"]
    answer = deployed.api("POST", "/v1/models/churn/batch", {"key": "batch/churn/empty.csv"})
    assert json.loads(answer["body"])["started"] is False


def test_a_presigned_upload_starts_the_job_it_was_offered_for(deployed: Twin) -> None:
    answer = deployed.api("POST", "/v1/models/churn/batch", {"filename": "offered.csv"})
    assert answer["statusCode"] == 202, answer["body"]
    offer = json.loads(answer["body"])
    folder, _, name = offer["upload"]["key"].rpartition("/")
    assert offer["upload"]["headers"] == {"if-none-match": "*"}

    event = deployed.upload("", name, samples.csv_file(ROWS), folder=f"{folder}")
    admitted = deployed.deliver("trigger", event)
    ended(deployed, admitted["run_id"])

    assert admitted["run_id"] == offer["batch_id"]
    assert shown(deployed, offer["batch_id"])["outcome"] == "scored"
    # Whoever replaces the file starts a job of its own: nothing is lost.
    other = deployed.upload("", name, samples.csv_file(ROWS[:50]), folder=f"{folder}")
    assert deployed.deliver("trigger", other)["run_id"] != offer["batch_id"]


def test_a_promotion_in_the_middle_of_a_job_changes_no_row(deployed: Twin) -> None:
    tolerant = {"against_champion": {"min_improvement": -1.0}}
    deployed.apply(samples.spec(evaluate=tolerant, approve={"mode": "manual"}))
    body = samples.csv_file(samples.rows(400, seed=2))
    run_id = deployed.train_until_asked("churn", "second.csv", body)
    promotion = {"action": "promote", "version": 2, "expected_champion": 1}
    deployed.functions.before(
        "finish", lambda: deployed.api("POST", "/v1/models/churn/aliases/champion", promotion)
    )

    admitted = deployed.deliver("trigger", put(deployed, "pinned.csv", ROWS))
    ended(deployed, admitted["run_id"])

    assert deployed.registry.get_serving("churn").version == 2
    job = batches().get(admitted["run_id"])
    assert {row["version"] for row in table(job.predictions_key)} == {"1"}
    later = deployed.deliver("trigger", put(deployed, "later.csv", ROWS))
    ended(deployed, later["run_id"])
    assert batches().get(later["run_id"]).version == 2
    assert deployed.follow(run_id).states[-1] == "Promoted"
