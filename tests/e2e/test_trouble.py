"""When something breaks: the alarm rings, a subscriber hears it, and after the cure it is quiet.

Each trouble is a real one, caused from outside and mended as docs/operations.md says. The alarms are
those of the template; a stack that people have subscribed to sends them these alarms too.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.layout import artifacts_prefix, run_id_for_upload
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from millrace_cli.training import upload_file
from tests.e2e.conftest import (
    Client,
    Follow,
    Millrace,
    Named,
    Sample,
    Until,
    Upload,
    spec_document,
)
from tests.e2e.mailbox import Mailbox

pytestmark = [pytest.mark.needs("alarms", "notices"), pytest.mark.timeout(3600)]

Name = Callable[[str], str]
Quiet = Callable[[str], None]
Rings = Callable[[str], dict[str, Any]]

SECONDS = 60.0
"""An alarm's change of state; its longest period locally is half a minute."""


@pytest.fixture(scope="module")
def alarms(target: Target, client: Client) -> Name:
    """An alarm's name by its logical name in the template."""
    [stack] = target.cloudformation.describe_stacks(StackName=target.stack)["Stacks"]
    if {"ParameterKey": "Alarms", "ParameterValue": "off"} in stack.get("Parameters", ()):
        pytest.skip(f"stack {target.stack} was deployed without alarms")

    def name_of(logical: str) -> str:
        found = target.cloudformation.describe_stack_resource(
            StackName=target.stack, LogicalResourceId=logical
        )
        return found["StackResourceDetail"]["PhysicalResourceId"]

    return name_of


@pytest.fixture
def state(client: Client, alarms: Name) -> Name:
    """An alarm's state by its logical name."""

    def state_of(logical: str) -> str:
        name = alarms(logical)
        [alarm] = client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return str(alarm["StateValue"])

    return state_of


@pytest.fixture
def quiet(state: Name, patiently: Until) -> Quiet:
    """Waits until an alarm is quiet: before a trouble, so that it can ring, and after its cure."""

    def wait(logical: str) -> None:
        patiently(lambda: state(logical) == "OK", seconds=SECONDS)

    return wait


@pytest.fixture(scope="module")
def rung() -> set[str]:
    """Alarms that rang."""
    return set()


@pytest.fixture
def rings(
    client: Client, alarms: Name, mailbox: Mailbox, patiently: Until, rung: set[str]
) -> Rings:
    """Waits for an alarm's message to its subscribers."""

    def wait(logical: str) -> dict[str, Any]:
        name = alarms(logical)
        try:
            message = patiently(
                lambda: mailbox.find(lambda m: m.get("AlarmName") == name), seconds=SECONDS
            )
        except pytest.fail.Exception:
            [alarm] = client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
            pytest.fail(
                f"{logical} told nobody: {alarm['StateValue']} since "
                f"{alarm['StateUpdatedTimestamp']}, {alarm['StateReason']}"
            )
        assert message["NewStateValue"] == "ALARM"
        assert message["NewStateReason"]
        rung.add(logical)
        return message

    return wait


@pytest.mark.needs("service-metrics", "dead-letters")
def test_an_event_that_nobody_can_handle_becomes_a_dead_letter_and_rings(
    client: Client,
    target: Target,
    quiet: Quiet,
    rings: Rings,
    patiently: Until,
    millrace: Millrace,
) -> None:
    for alarm in ("DeadLettersAlarm", "TriggerTroubleAlarm"):
        quiet(alarm)
    mark = f"poison-{uuid.uuid4()}"

    client("lambda").invoke(
        FunctionName=target.outputs.raw["TriggerFunctionName"],
        InvocationType="Event",
        Payload=json.dumps({"id": mark, "detail-type": "Poison"}).encode(),
    )

    rings("TriggerTroubleAlarm")
    rings("DeadLettersAlarm")
    listed = patiently(lambda: _letters(millrace, "list", "waiting"))
    sent = patiently(lambda: _letters(millrace, "replay", "sent"))
    assert {one["reason"] for one in (*listed, *sent)} == {"InvalidEventError"}
    # Nothing was mended, so it comes back as a new letter.
    letter = patiently(lambda: _take(client("sqs"), target, mark))
    assert letter["requestPayload"]["id"] == mark
    assert letter["responsePayload"]["errorType"] == "InvalidEventError"


def _letters(millrace: Millrace, verb: str, part: str) -> list[dict[str, Any]]:
    """The trigger's dead letters, as the command line shows or sends them."""
    only = ("--function", "trigger") if verb == "replay" else ()
    result = millrace("dlq", verb, *only, "--json")
    assert result.exit_code == 0, result.output
    letters: list[dict[str, Any]] = json.loads(result.stdout)[part]
    return [letter for letter in letters if letter["function"].endswith("-trigger")]


def _take(sqs: Any, target: Target, mark: str) -> dict[str, Any] | None:
    """Takes the letter with a mark out of the dead-letter queue; others stay."""
    url = target.outputs.raw["DeadLetterQueueUrl"]
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=1)
    for message in answer.get("Messages", ()):
        if mark in message["Body"]:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            letter: dict[str, Any] = json.loads(message["Body"])
            return letter
    return None


@pytest.mark.needs(
    "upload-events", "state-machine", "execution-events", "embedded-metrics", "service-metrics"
)
def test_a_training_that_breaks_is_told_and_rings(
    api: ApiClient,
    target: Target,
    named: Named,
    follow: Follow,
    mailbox: Mailbox,
    quiet: Quiet,
    rings: Rings,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    for alarm in ("TrainingFailedAlarm", "RunsFailedAlarm"):
        quiet(alarm)
    model, artifacts = named("broken"), target.outputs.artifact_bucket
    api.put(f"/v1/specs/{model}", spec_document(model, cancer))
    [spec] = target.s3.list_objects_v2(Bucket=artifacts, Prefix=f"specs/{model}/")["Contents"]
    target.s3.put_object(Bucket=artifacts, Key=spec["Key"], Body=b"{}")

    path = cancer.write(tmp_path / "all.csv", stop=300)
    _, run_id, _ = upload_file(target, model, path, path.name)
    run = follow(run_id)

    assert (run["status"], run["outcome"]) == ("FAILED", "failed")
    assert run["error"] == "DigestMismatchError"
    notice = patiently(lambda: mailbox.find(lambda m: m.get("run_id") == run_id))
    assert (notice["event"], notice["model"]) == ("failed", model)
    assert notice["error"] == "DigestMismatchError"
    rings("TrainingFailedAlarm")
    rings("RunsFailedAlarm")


@pytest.mark.needs(
    "upload-events",
    "state-machine",
    "rest-api",
    "object-versions",
    "embedded-metrics",
    "service-metrics",
)
def test_a_champion_that_cannot_be_loaded_rings_and_answers_once_its_object_is_restored(
    api: ApiClient,
    target: Target,
    named: Named,
    upload: Upload,
    quiet: Quiet,
    rings: Rings,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    for alarm in ("ModelLoadFailuresAlarm", "ApiServerErrorsAlarm"):
        quiet(alarm)
    model, artifacts = named("damaged"), target.outputs.artifact_bucket
    api.put(f"/v1/specs/{model}", spec_document(model, cancer))
    run = upload(model, cancer.write(tmp_path / "all.csv", stop=300))
    assert run["outcome"] == "promoted", run
    listed = target.s3.list_objects_v2(Bucket=artifacts, Prefix=artifacts_prefix(model))
    [key] = [o["Key"] for o in listed["Contents"] if o["Key"].endswith("/model.onnx")]
    damage = target.s3.put_object(Bucket=artifacts, Key=key, Body=b"not a model")
    rows = json.dumps({"rows": [cancer.feature_row(0)]}).encode()

    refused = api.send("POST", f"/v1/models/{model}/predict", content=rows)

    assert refused.status_code == 500
    assert refused.headers["content-type"].startswith("application/problem+json")
    rings("ModelLoadFailuresAlarm")
    rings("ApiServerErrorsAlarm")

    target.s3.delete_object(Bucket=artifacts, Key=key, VersionId=damage["VersionId"])

    patiently(
        lambda: api.send("POST", f"/v1/models/{model}/predict", content=rows).status_code == 200,
        seconds=60,
    )


def test_every_alarm_is_quiet_again_after_its_cure(quiet: Quiet, rung: set[str]) -> None:
    """Last of the troubles, so that the alarms' periods pass together."""
    if not rung:
        pytest.skip("no alarm rang: the tests above were left out of this run")

    for alarm in rung:
        quiet(alarm)


@pytest.mark.needs("upload-events", "state-machine")
def test_a_refused_upload_is_told_with_its_reason(
    api: ApiClient,
    named: Named,
    upload: Upload,
    mailbox: Mailbox,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("refused")
    api.put(f"/v1/specs/{model}", spec_document(model, cancer))
    empty = tmp_path / "empty.csv"
    empty.touch()

    run = upload(model, empty)

    notice = patiently(lambda: mailbox.find(lambda m: m.get("run_id") == run["run_id"]))
    assert (notice["event"], notice["model"]) == ("refused", model)
    assert "empty" in notice["summary"]
    assert notice["key"] == f"incoming/{model}/empty.csv"


@pytest.mark.needs("upload-events")
def test_an_upload_for_a_model_that_is_not_there_is_told(
    target: Target,
    named: Named,
    mailbox: Mailbox,
    patiently: Until,
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model = named("nobodys")
    path = cancer.write(tmp_path / "all.csv", stop=10)

    _, run_id, version_id = upload_file(target, model, path, path.name)

    key = f"incoming/{model}/all.csv"
    notice = patiently(lambda: mailbox.find(lambda m: m.get("key") == key), seconds=60)
    assert notice["event"] == "upload_unroutable"
    assert model in notice["reason"]
    assert run_id == run_id_for_upload(model, target.outputs.data_bucket, key, version_id)
