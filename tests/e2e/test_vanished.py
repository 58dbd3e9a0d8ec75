"""Files that are gone, steps that run again, causes that fail: nothing is guessed, nothing breaks.

No ordinary day shows these, and each uses a right that nothing else does: S3 tells of absence only to
those who may list, and a repetition reads what the first time wrote.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Follow, Named, Sample, Until, Upload, spec_document
from tests.e2e.events import uploaded

pytestmark = pytest.mark.needs("upload-events", "state-machine", "transactions")

type Event = dict[str, Any]
Answer = tuple[Any, str | None]
Invoke = Callable[[str, Event], Answer]


@pytest.fixture(scope="module")
def invoke(client: Client, target: Target) -> Invoke:
    """Calls a function by its logical name: its answer and Lambda's word for its failure."""

    def call(name: str, event: Event) -> Answer:
        found = target.cloudformation.describe_stack_resource(
            StackName=target.stack, LogicalResourceId=name
        )
        answer = client("lambda").invoke(
            FunctionName=found["StackResourceDetail"]["PhysicalResourceId"],
            Payload=json.dumps(event).encode(),
        )
        return json.loads(answer["Payload"].read()), answer.get("FunctionError")

    return call


@pytest.fixture(scope="module")
def given(client: Client, target: Target, trained: Event) -> dict[str, Event]:
    """What each state of the first training was given."""
    machine = target.outputs.raw["TrainingStateMachineArn"]
    execution = f"{machine.replace(':stateMachine:', ':execution:')}:{trained['run_id']}"
    pages = client("stepfunctions").get_paginator("get_execution_history")
    entered = [
        event["stateEnteredEventDetails"]
        for page in pages.paginate(executionArn=execution)
        for event in page["events"]
        if "stateEnteredEventDetails" in event
    ]
    return {one["name"]: json.loads(one["input"]) for one in entered}


def _task(action: str, given: Event) -> Event:
    return {"action": action, "input": given}


def test_a_fit_that_runs_again_finds_the_model_it_made(
    invoke: Invoke, given: dict[str, Event]
) -> None:
    first = given["Register"]["fit"]

    again, failure = invoke("TrainFunction", _task("fit", given["Fit"]))

    assert failure is None, again
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def _without_spec(event: Event) -> Event:
    return {**event, "spec_key": f"specs/{event['model']}/gone.json"}


def _without_rows(event: Event) -> Event:
    gone = f"datasets/{event['model']}/gone/schema.json"
    return {**event, "ingest": {**event["ingest"], "schema_key": gone}}


@pytest.mark.parametrize(
    ("function", "state", "event"),
    [
        ("IngestFunction", "Ingest", _without_spec),
        ("TrainFunction", "Plan", lambda e: _task("plan", _without_spec(e))),
        ("TrainFunction", "Plan", lambda e: _task("plan", _without_rows(e))),
        ("EvaluateFunction", "Evaluate", _without_spec),
        ("EvaluateFunction", "Evaluate", _without_rows),
        ("RegistryFunction", "RecordDataset", lambda e: _task("record_dataset", _without_spec(e))),
    ],
    ids=["ingest spec", "train spec", "train rows", "evaluate spec", "evaluate rows", "registry"],
)
def test_a_function_says_which_file_is_gone(
    invoke: Invoke,
    given: dict[str, Event],
    function: str,
    state: str,
    event: Callable[[Event], Event],
) -> None:
    answer, failure = invoke(function, event(given[state]))

    assert failure == "Unhandled"
    assert answer["errorType"] == "NotFoundError"
    assert "/gone" in answer["errorMessage"]


@pytest.fixture
def told(client: Client, target: Target, patiently: Until) -> Callable[[str, str], None]:
    """Waits for a text in the log of a function, by the logical name of its group."""

    def wait(group: str, text: str) -> None:
        found = target.cloudformation.describe_stack_resource(
            StackName=target.stack, LogicalResourceId=group
        )
        name = found["StackResourceDetail"]["PhysicalResourceId"]
        pages = client("logs").get_paginator("filter_log_events")
        patiently(
            lambda: [
                event
                for page in pages.paginate(logGroupName=name)
                for event in page["events"]
                if text in event["message"]
            ]
        )

    return wait


def _delete(target: Target, prefix: str) -> None:
    """Deletes the artifacts that begin so; their versions stay."""
    bucket = target.outputs.artifact_bucket
    found = target.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)
    for thing in found["Contents"]:
        target.s3.delete_object(Bucket=bucket, Key=thing["Key"])


@pytest.mark.needs("rest-api", "object-versions", "logs")
def test_a_spec_whose_file_is_gone_is_told_in_the_log(
    api: ApiClient,
    target: Target,
    named: Named,
    cancer: Sample,
    told: Callable[[str, str], None],
) -> None:
    name = named("gone")
    api.put(f"/v1/specs/{name}", spec_document(name, cancer))
    _delete(target, f"specs/{name}/")

    answer = api.send("GET", f"/v1/specs/{name}")

    assert answer.is_server_error
    # What is broken inside is for the log alone.
    assert name not in answer.json()["detail"]
    told("ApiLogGroup", f"spec {name}@1 is not stored")


@pytest.mark.needs("rest-api", "object-versions", "logs")
def test_a_champion_whose_files_are_gone_is_told_in_the_log(
    api: ApiClient,
    target: Target,
    named: Named,
    upload: Upload,
    cancer: Sample,
    tmp_path: Path,
    told: Callable[[str, str], None],
) -> None:
    name = named("lost")
    api.put(f"/v1/specs/{name}", spec_document(name, cancer))
    assert upload(name, cancer.write(tmp_path / "all.csv"))["outcome"] == "promoted"
    _delete(target, f"models/{name}/")

    rows = json.dumps({"rows": [cancer.feature_row(0)]}).encode()
    answer = api.send("POST", f"/v1/models/{name}/predict", content=rows)

    assert answer.is_server_error
    told("PredictLogGroup", f"{name}@1: a registered object does not exist")


def test_a_cause_that_could_not_be_admitted_may_come_again(invoke: Invoke, named: Named) -> None:
    token = uuid.uuid4().hex
    request = {
        "id": token,
        "detail-type": "Retrain Requested",
        "source": "millrace.api",
        "detail": {
            "model": named("nobody"),
            "token": token,
            "requested_by": "a test",
            "reason": "a test",
        },
    }

    answers = [invoke("TriggerFunction", request) for _ in range(2)]

    assert [failure for _, failure in answers] == ["Unhandled"] * 2
    # A cause that is remembered as under way would be refused the second time.
    assert [answer["errorType"] for answer, _ in answers] == ["NotFoundError"] * 2


def test_an_event_that_names_no_version_is_about_the_object_as_it_is(
    invoke: Invoke, follow: Follow, trained: Event
) -> None:
    event = uploaded(trained["source"])
    del event["detail"]["object"]["version-id"]

    answer, failure = invoke("TriggerFunction", event)

    assert failure is None, answer
    run = follow(answer["run_id"])
    assert run["run_id"] != trained["run_id"]
    assert run["outcome"] == "unchanged"
    assert run["dataset_version"] == trained["dataset_version"]
