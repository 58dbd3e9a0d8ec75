"""What is told of a version holds to OpenLineage's own definition of an event of a run.

`openlineage-2-0-2.json` says what the specification asks for. Its top is a choice of kinds, one of which
takes nearly anything, so events are held to ``RunEvent`` itself, with formats checked.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from millrace.messages import RowCounts
from millrace.questions.openlineage import Event, Teller, events_of
from millrace.registry.batches import Batches
from millrace.registry.records import Batch, BatchOutcome, RunStatus
from millrace.signature import Signature
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.environments import BUCKET, Environment

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "openlineage-2-0-2.json").read_text("utf-8")
)
RUN_EVENT = Draft202012Validator(
    {"$ref": "#/$defs/RunEvent", "$defs": SCHEMA["$defs"]}, format_checker=FormatChecker()
)


def wrong(event: Event) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in RUN_EVENT.iter_errors(event)]


@pytest.fixture
def environment() -> Environment:
    made = Environment("staging")
    made.train(1)
    made.train(2)
    return made


@pytest.fixture
def events(environment: Environment) -> list[Event]:
    record = environment.registry.get_version("churn", 2)
    batch = Batch(
        batch_id="churn-batch-1",
        model="churn",
        correlation_id="c",
        source=cases.source(7),
        version=2,
        model_key=record.model_key,
        sha256=record.sha256,
        spec_version=1,
        spec_digest=record.spec_digest,
        created_at=environment.clock(),
        status=RunStatus.FINISHED,
        outcome=BatchOutcome.SCORED,
        rows=RowCounts(read=10, accepted=9, quarantined=1),
        predictions_key="results/churn/churn-batch-1/predictions.parquet",
        ended_at=environment.clock(),
    )
    Batches(environment.table, environment.registry, clock=FakeClock(), ids=counting_ids()).create(
        batch
    )
    body = environment.store.read(BUCKET, record.signature_key)
    return events_of(
        "churn",
        2,
        registry=environment.registry,
        table=environment.table,
        data_bucket=cases.DATA_BUCKET,
        artifact_bucket=BUCKET,
        signature=Signature.from_json(body),
    )


def test_every_event_holds_to_the_definition_of_a_run_event(events: list[Event]) -> None:
    assert len(events) == 6
    assert [wrong(e) for e in events] == [[]] * 6


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "runId"), "churn-1"),
        (("eventTime",), "yesterday"),
        (("producer",), "no uri"),
        (("eventType",), "DONE"),
        (("job", "namespace"), None),
        (("job", "facets", "jobType", "_schemaURL"), "nowhere at all"),
    ],
)
def test_the_definition_refuses_what_is_wrong(
    events: list[Event], path: tuple[str, ...], value: object
) -> None:
    event = json.loads(json.dumps(events[0]))
    place = event
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    assert wrong(event) != []


def test_every_run_begins_once_and_ends_once_with_the_same_id(events: list[Event]) -> None:
    kinds: dict[str, list[str]] = {}
    for event in events:
        kinds.setdefault(event["run"]["runId"], []).append(event["eventType"])

    assert list(kinds.values()) == [["START", "COMPLETE"]] * 3
    assert {e["job"]["name"] for e in events} == {"churn.ingest", "churn.training", "churn.batch"}
    assert [e["eventTime"] for e in events] == sorted(e["eventTime"] for e in events)


def test_upload_dataset_model_and_predictions_are_one_chain(events: list[Event]) -> None:
    ended = {e["job"]["name"]: e for e in events if e["eventType"] == "COMPLETE"}
    ingest, training, batch = (ended[f"churn.{j}"] for j in ("ingest", "training", "batch"))

    def name(dataset: Event) -> tuple[str, str]:
        return dataset["namespace"], dataset["name"]

    assert name(ingest["outputs"][0]) == name(training["inputs"][0])
    assert name(training["outputs"][0]) == name(batch["inputs"][1])
    assert ingest["outputs"][0]["facets"]["version"]["datasetVersion"] == "d2"
    fields = ingest["outputs"][0]["facets"]["schema"]["fields"]
    assert [f["name"] for f in fields] == ["age", "plan", "tenure", "active", "city", "left"]
    model = training["outputs"][0]["facets"]["millrace_modelVersion"]
    assert (model["name"], model["version"]) == ("churn", 2)


def test_the_same_events_come_again(environment: Environment) -> None:
    record = environment.registry.get_version("churn", 1)
    teller = Teller(data_bucket="d", artifact_bucket="a")

    once = list(teller.training(record, None, None, None))

    assert once == list(teller.training(record, None, None, None))
    assert [wrong(e) for e in once] == [[], []]
