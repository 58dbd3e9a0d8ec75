"""Labelled predictions become rows beside those of the upload, in the ingest function on moto."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest
from moto import mock_aws

from functions.ingest import handler as function
from millrace import layout
from millrace.aws.clients import client, forget_clients
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.datasets.versions import Manifest
from millrace.messages import IngestResult
from millrace.monitoring.captures import keep, read
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import Assertion, RowKey, Told
from millrace.spec import ModelSpec
from tests import samples
from tests.fakes import cloud
from tests.unit.datasets.uploads import CHURN, churn_csv, churn_rows, churn_spec, with_column

DATA, ARTIFACTS = "data-bucket", "artifact-bucket"
AT_MS = 1_795_285_200_123
NOON = datetime.fromtimestamp(AT_MS / 1_000, UTC)
BEFORE, AFTER = NOON - timedelta(days=1), NOON + timedelta(days=1)

INPUTS: dict[str, list[Any]] = {
    "age": [41.0, 29.0],
    "score": [0.25, None],
    "city": ["Paris", ""],
    "member": [1.0, 0.0],
}


@dataclass
class Room:
    """Two buckets, the table and the handler."""

    s3: Any
    book: LabelBook
    base: IngestResult | None = None
    runs: int = 0
    told: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def upload(self, spec: ModelSpec = CHURN, rows: int = 300) -> IngestResult:
        """A first training's upload, of the spec's columns."""
        names = [column.name for column in spec.data.columns]
        body = churn_csv([{name: row[name] for name in names} for row in churn_rows(rows)])
        key = layout.incoming_key("churn", "customers.csv")
        version = self.s3.put_object(Bucket=DATA, Key=key, Body=body)["VersionId"]
        source = {"bucket": DATA, "key": key, "version_id": version, "size": len(body)}
        self.base = self._ingest(spec, {"cause": "upload", "source": source})
        return self.base

    def predict(self, *numbers: int, inputs: dict[str, list[Any]] | None = None) -> list[str]:
        """Predictions of two rows each, as the capture function keeps them; their ids."""
        lines = []
        for number in numbers:
            line = samples.capture_line(
                model="churn", at_ms=AT_MS + number * 60_000, sequence=number
            )
            line["capture"]["inputs"] = INPUTS if inputs is None else inputs
            lines.append(line)
        store = S3ObjectStore(client("s3"))
        delivered = read(map(json.dumps, lines))
        keep(delivered, objects=store, bucket=DATA, logged=NOON)
        return [line["prediction_id"] for line in lines]

    def label(self, prediction_id: str, row: int, label: str) -> None:
        """Tells a label; a later one corrects it."""
        self.told += 1
        assertion = Assertion(label, NOON + timedelta(seconds=self.told))
        self.book.record("churn", [Told(RowKey(prediction_id, row), assertion)])

    def retrain(
        self,
        spec: ModelSpec = CHURN,
        *,
        since: datetime = BEFORE,
        until: datetime = AFTER,
        previous: IngestResult | None = None,
        cause: str = "drift",
        run: int | None = None,
    ) -> IngestResult:
        """A retraining on the upload and the labelled predictions of a span."""
        assert self.base is not None
        held = previous.labelled if previous is not None else None
        return self._ingest(
            spec,
            {
                "cause": cause,
                "source": {"bucket": DATA, "key": "incoming/churn/customers.csv", "version_id": ""},
                "labelled": {
                    "base_version": self.base.dataset_version,
                    "base_key": self.base.data_key,
                    "previous_key": "" if held is None else held.key,
                    "since": since.isoformat(),
                    "until": until.isoformat(),
                },
            },
            run,
        )

    def _ingest(
        self, spec: ModelSpec, event: dict[str, Any], run: int | None = None
    ) -> IngestResult:
        self.runs += 1
        key = layout.spec_key(spec.name, spec.digest)
        self.s3.put_object(Bucket=ARTIFACTS, Key=key, Body=spec.to_json().encode())
        task = {
            "run_id": f"churn-{run or self.runs:024x}",
            "model": "churn",
            "correlation_id": "event-1",
            "spec_version": 1,
            "spec_key": key,
            "spec_digest": spec.digest,
            **event,
        }
        return IngestResult.model_validate(function.handler(task, cloud.LambdaContext()))

    def rows(self, result: IngestResult, where: str = "true") -> list[tuple[Any, ...]]:
        """Rows of a dataset version, by id."""
        body = self.s3.get_object(Bucket=DATA, Key=result.data_key)["Body"].read()
        path = Path(self.folder) / "rows.parquet"
        path.write_bytes(body)
        with duckdb.connect() as connection:
            return connection.execute(
                f"SELECT id, age, score, city, member, churned FROM read_parquet('{path}') "  # noqa: S608  # a test's own file
                f"WHERE {where} ORDER BY id"
            ).fetchall()

    folder: str = ""


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Room]:
    (tmp_path / "scratch").mkdir()
    for name, value in {
        "DATA_BUCKET": DATA,
        "ARTIFACT_BUCKET": ARTIFACTS,
        "TABLE_NAME": cloud.TABLE,
        "SCRATCH": str(tmp_path / "scratch"),
    }.items():
        monkeypatch.setenv(f"MILLRACE_{name}", value)
    with mock_aws():
        forget_clients()
        function.settings.cache_clear()
        s3 = boto3.client("s3", region_name="us-east-1")
        for bucket in (DATA, ARTIFACTS):
            s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        cloud.create_table()
        book = LabelBook(DynamoTable(client("dynamodb"), cloud.TABLE), timedelta(days=90))
        yield Room(s3, book, folder=str(tmp_path))
    forget_clients()
    function.settings.cache_clear()


def test_labelled_predictions_stand_beside_the_rows_of_the_upload(room: Room) -> None:
    base = room.upload()
    first, second = room.predict(1, 2)
    room.label(first, 0, "true")
    room.label(second, 1, "false")

    made = room.retrain()

    assert made.outcome == "accepted", made.reason
    assert made.rows.model_dump() == {"read": 302, "accepted": 302, "quarantined": 0}
    assert made.dataset_version != base.dataset_version
    assert room.rows(made, "id < 300") == room.rows(base)
    assert room.rows(made, "id >= 300") == [
        (300, 41, 0.25, "Paris", True, True),
        (301, 29, None, None, False, False),
    ]
    assert made.labelled is not None
    assert (made.labelled.rows, made.labelled.new) == (2, 2)
    manifest = Manifest.model_validate_json(
        room.s3.get_object(Bucket=DATA, Key=made.manifest_key)["Body"].read()
    )
    assert manifest.labelled == made.labelled


def test_rows_without_texts_can_stand_beside_labelled_ones(room: Room) -> None:
    columns = (
        {"name": "age", "type": "integer"},
        {"name": "score", "type": "number"},
        {"name": "churned", "type": "boolean", "role": "target"},
    )
    numbers = churn_spec(columns=columns)
    base = room.upload(numbers)

    nothing = room.retrain(numbers, cause="schedule")
    (made,) = room.predict(1, inputs={"age": [41, 29], "score": [0.25, None]})
    room.label(made, 0, "true")
    labelled = room.retrain(numbers)

    assert (nothing.outcome, nothing.reason) == ("accepted", "")
    assert nothing.dataset_version == base.dataset_version
    assert labelled.rows.model_dump() == {"read": 301, "accepted": 301, "quarantined": 0}


def test_a_later_retraining_keeps_earlier_rows_adds_new_ones_and_takes_corrections(
    room: Room,
) -> None:
    room.upload()
    first, second = room.predict(1, 2)
    room.label(first, 0, "true")
    once = room.retrain()
    room.label(first, 0, "false")
    room.label(second, 0, "true")

    twice = room.retrain(previous=once)
    # Captured predictions are forgotten after a while; what was learnt from them is not.
    for found in room.s3.list_objects_v2(Bucket=DATA, Prefix="capture/")["Contents"]:
        room.s3.delete_object(Bucket=DATA, Key=found["Key"])
    thrice = room.retrain(previous=twice)

    assert [row[-1] for row in room.rows(twice, "id >= 300")] == [False, True]
    assert twice.labelled is not None
    assert (twice.labelled.rows, twice.labelled.new) == (2, 1)
    assert thrice.dataset_version == twice.dataset_version
    assert thrice.labelled is not None
    assert (thrice.labelled.rows, thrice.labelled.new) == (2, 0)


def test_a_run_that_is_tried_again_takes_the_same_rows(room: Room) -> None:
    room.upload()
    first, second = room.predict(1, 2)
    room.label(first, 0, "true")

    made = room.retrain(run=77)
    room.label(second, 0, "true")
    again = room.retrain(run=77)

    assert again.dataset_version == made.dataset_version
    assert again.labelled == made.labelled


def test_labels_before_and_after_the_span_are_left_out(room: Room) -> None:
    room.upload()
    early, inside, late = room.predict(1, 60, 200)
    for prediction in (early, inside, late):
        room.label(prediction, 0, "true")

    made = room.retrain(since=NOON + timedelta(minutes=30), until=NOON + timedelta(minutes=90))

    assert made.labelled is not None
    assert made.labelled.rows == 1


def test_predictions_of_a_version_that_took_other_features_are_counted_and_left_out(
    room: Room,
) -> None:
    room.upload()
    (old,) = room.predict(1, inputs={"age": [1.0, 2.0]})
    room.label(old, 0, "true")

    made = room.retrain()

    assert made.labelled is not None
    assert (made.labelled.rows, made.labelled.lacking) == (0, 1)


def test_labels_without_a_captured_prediction_are_no_rows(room: Room) -> None:
    base = room.upload()
    room.label(samples.capture_line(sequence=9)["prediction_id"], 0, "true")

    made = room.retrain()

    assert made.outcome == "accepted"
    assert made.dataset_version == base.dataset_version


REFUSED = [
    pytest.param(
        CHURN.model_copy(
            update={"privacy": CHURN.privacy.model_copy(update={"never_log": ("age",)})}
        ),
        "without the private column 'age'",
        id="private feature",
    ),
    pytest.param(
        churn_spec(columns=with_column("salary", nullable=False)),
        "asks for column 'salary', which predictions do not carry",
        id="required sensitive column",
    ),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_what_predictions_do_not_carry_is_refused_with_its_reason_and_what_to_do(
    room: Room, spec: ModelSpec, said: str
) -> None:
    room.upload()
    (made,) = room.predict(1)
    room.label(made, 0, "true")

    refused = room.retrain(spec)

    assert (refused.outcome, refused.code) == ("refused", "not_captured")
    assert said in refused.reason
    assert "upload a file with the labelled rows" in refused.reason


def test_the_calendar_trains_on_the_upload_where_predictions_cannot_be_rows(room: Room) -> None:
    base = room.upload(REFUSED[0].values[0])  # type: ignore[arg-type]  # the spec

    made = room.retrain(REFUSED[0].values[0], cause="schedule")  # type: ignore[arg-type]  # the spec

    assert made.outcome == "accepted"
    assert made.dataset_version == base.dataset_version
    assert made.labelled is None


def test_a_contract_that_grew_asks_for_an_upload(room: Room) -> None:
    room.upload()
    grown = churn_spec(
        columns=(
            *CHURN.model_dump(mode="json")["data"]["columns"],
            {"name": "new", "type": "number"},
        )
    )
    (made,) = room.predict(1, inputs={**INPUTS, "new": [1.0, 2.0]})
    room.label(made, 0, "true")

    refused = room.retrain(grown)

    assert (refused.outcome, refused.code) == ("refused", "missing_columns")
    assert "'new' is not in the newest dataset version" in refused.reason
