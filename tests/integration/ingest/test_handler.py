"""The ingest function on moto's S3."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto import mock_aws

from functions.ingest import handler as function
from millrace import layout
from millrace.aws.clients import forget_clients
from millrace.datasets.table import SPLITS, Table, TableSchema
from millrace.datasets.versions import Manifest
from millrace.errors import DigestMismatchError, NotFoundError
from millrace.messages import IngestResult
from millrace.spec import ModelSpec
from tests.fakes.cloud import LambdaContext
from tests.unit.datasets.test_bad_files import REFUSALS
from tests.unit.datasets.uploads import CHURN, churn_csv, churn_rows

DATA, ARTIFACTS = "data-bucket", "artifact-bucket"
RUN = "churn-0123456789abcdef01234567"


@dataclass(frozen=True)
class Room:
    """Two buckets and a handler."""

    s3: Any
    scratch: Path

    def event(self, name: str, body: bytes, spec: ModelSpec = CHURN) -> dict[str, Any]:
        """Uploads a file; the TRAINING machine's input for it."""
        key = layout.incoming_key(spec.name, name)
        version = self.s3.put_object(Bucket=DATA, Key=key, Body=body)["VersionId"]
        spec_key = layout.spec_key(spec.name, spec.digest)
        self.s3.put_object(Bucket=ARTIFACTS, Key=spec_key, Body=spec.to_json().encode())
        return {
            "run_id": RUN,
            "model": spec.name,
            "cause": "upload",
            "correlation_id": "event-1",
            "spec_version": 1,
            "spec_key": spec_key,
            "spec_digest": spec.digest,
            "source": {"bucket": DATA, "key": key, "version_id": version, "size": len(body)},
            "a_field_of_a_later_step": {},
        }

    def ingest(self, event: dict[str, Any]) -> IngestResult:
        """Runs the handler."""
        return IngestResult.model_validate(function.handler(event, LambdaContext()))

    def read(self, key: str) -> bytes:
        """An object of the data bucket."""
        body: bytes = self.s3.get_object(Bucket=DATA, Key=key)["Body"].read()
        return body

    def versions(self) -> list[tuple[str, str]]:
        """Every version of every object that ingest wrote."""
        listed = self.s3.list_object_versions(Bucket=DATA).get("Versions", [])
        return sorted(
            (v["Key"], v["VersionId"]) for v in listed if not v["Key"].startswith("incoming/")
        )


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Room]:
    monkeypatch.setenv("MILLRACE_DATA_BUCKET", DATA)
    monkeypatch.setenv("MILLRACE_ARTIFACT_BUCKET", ARTIFACTS)
    monkeypatch.setenv("MILLRACE_TABLE_NAME", "registry-table")
    monkeypatch.setenv("MILLRACE_SCRATCH", str(tmp_path))
    monkeypatch.setenv("MILLRACE_MAX_UPLOAD_MB", "1")
    with mock_aws():
        forget_clients()
        function.settings.cache_clear()
        s3 = boto3.client("s3", region_name="us-east-1")
        for bucket in (DATA, ARTIFACTS):
            s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        yield Room(s3, tmp_path)
    forget_clients()
    function.settings.cache_clear()


def test_accepted_upload_becomes_a_dataset_version(room: Room) -> None:
    rows = churn_rows(300)
    rows[4]["age"] = "old"
    body = churn_csv(rows)

    result = room.ingest(room.event("customers.csv", body))

    assert (result.outcome, result.code) == ("accepted", "")
    assert result.rows.model_dump() == {"read": 300, "accepted": 299, "quarantined": 1}
    assert result.problems[0].model_dump() == {
        "column": "age",
        "rule": "type",
        "count": 1,
        "first_row": 5,
        "example": "old",
    }
    manifest = Manifest.model_validate_json(room.read(result.manifest_key))
    assert manifest.dataset_version == result.dataset_version
    assert manifest.spec_digest == CHURN.digest
    assert manifest.size_bytes == len(room.read(result.data_key))
    profile = json.loads(room.read(result.profile_key))
    assert profile["rows"] == 299
    schema = TableSchema.model_validate_json(room.read(result.schema_key))
    assert schema.rows == result.split_rows
    tables = [
        Table.from_bytes(
            room.read(layout.split_key("churn", result.dataset_version, result.data_digest, split)),
            schema,
        )
        for split in SPLITS
    ]
    assert [t.rows for t in tables] == [result.split_rows[s] for s in SPLITS]
    assert len(np.unique(np.concatenate([t.row for t in tables]))) == 299
    report = json.loads(room.read(result.quarantine_prefix + "report.json"))
    assert report["samples"][0]["row"] == 5
    assert room.read(result.quarantine_prefix + "rows.parquet")[:4] == b"PAR1"


def test_same_upload_twice_writes_nothing_new(room: Room) -> None:
    rows = churn_rows(200)
    rows[7]["score"] = "NaN"
    event = room.event("customers.csv", churn_csv(rows))
    first = room.ingest(event)
    before = room.versions()

    second = room.ingest(event)

    assert second.model_copy(update={"seconds": 0.0}) == first.model_copy(update={"seconds": 0.0})
    assert room.versions() == before


def test_same_rows_in_other_order_are_the_same_version(room: Room) -> None:
    rows = churn_rows(200)
    first = room.ingest(room.event("one.csv", churn_csv(rows)))
    before = room.versions()

    second = room.ingest(room.event("two.csv", churn_csv(rows[::-1])))

    assert second.dataset_version == first.dataset_version
    assert room.versions() == before


def test_repair_after_a_crash_half_way(room: Room) -> None:
    event = room.event("customers.csv", churn_csv(churn_rows(200)))
    first = room.ingest(event)
    room.s3.delete_object(Bucket=DATA, Key=first.manifest_key)
    room.s3.delete_object(Bucket=DATA, Key=first.schema_key)

    second = room.ingest(event)

    assert second.dataset_version == first.dataset_version
    manifest = Manifest.model_validate_json(room.read(second.manifest_key))
    assert manifest.size_bytes == len(room.read(second.data_key))
    assert TableSchema.model_validate_json(room.read(second.schema_key)).rows == first.split_rows


def test_refused_upload_says_why_and_leaves_a_report(room: Room) -> None:
    result = room.ingest(room.event("customers.csv", b""))

    assert (result.outcome, result.code) == ("refused", "empty_file")
    report = json.loads(room.read(result.quarantine_prefix + "report.json"))
    assert report["reason"] == result.reason
    assert report["source"]["key"] == "incoming/churn/customers.csv"
    assert [key for key, _ in room.versions() if key.startswith("datasets/")] == []


@pytest.mark.parametrize(("name", "body", "code", "words"), REFUSALS)
def test_nothing_of_a_refused_upload_is_lost(
    room: Room, name: str, body: bytes, code: str, words: list[str]
) -> None:
    event = room.event(name, body)

    result = room.ingest(event)

    source = event["source"]
    kept = room.s3.get_object(Bucket=DATA, Key=source["key"], VersionId=source["version_id"])
    report = json.loads(room.read(result.quarantine_prefix + "report.json"))
    assert kept["Body"].read() == body
    assert (report["outcome"], report["code"]) == ("refused", code)
    assert all(word in report["reason"] for word in words)


def test_report_of_an_upload_with_too_many_bad_rows_names_them(room: Room) -> None:
    rows = churn_rows(200)
    for row in rows[:50]:
        row["age"] = "old"

    result = room.ingest(room.event("customers.csv", churn_csv(rows)))

    report = json.loads(room.read(result.quarantine_prefix + "report.json"))
    assert result.code == "too_many_quarantined"
    assert [(p["column"], p["rule"], p["count"]) for p in report["problems"]] == [
        ("age", "type", 50)
    ]
    assert report["samples"][0]["row"] == 1
    assert (result.quarantine_prefix + "rows.parquet") in dict(room.versions())


def test_too_large_upload_is_refused_before_it_is_fetched(room: Room) -> None:
    event = room.event("customers.csv", b"id\n")
    event["source"]["size"] = 2 * 1024 * 1024
    event["source"]["key"] = "incoming/churn/absent.csv"

    result = room.ingest(event)

    assert result.code == "too_large"
    assert "2,097,152 bytes" in result.reason
    assert "1 MB" in result.reason


def test_too_large_upload_of_unknown_size_is_refused(room: Room) -> None:
    event = room.event("customers.csv", b"x" * (1024 * 1024 + 1))
    event["source"]["size"] = 0

    assert room.ingest(event).code == "too_large"


def test_version_of_the_event_is_read_not_the_latest(room: Room) -> None:
    event = room.event("customers.csv", churn_csv(churn_rows(200)))
    room.event("customers.csv", b"")

    assert room.ingest(event).outcome == "accepted"


def test_nothing_stays_in_the_scratch_directory(room: Room) -> None:
    room.ingest(room.event("customers.csv", churn_csv(churn_rows(200))))
    room.ingest(room.event("customers.csv.gz", b"no gzip"))

    assert list(room.scratch.iterdir()) == []


def test_missing_object_is_an_infrastructure_fault(room: Room) -> None:
    event = room.event("customers.csv", b"")
    event["source"]["key"] = "incoming/churn/absent.csv"

    with pytest.raises(NotFoundError, match=r"absent\.csv"):
        room.ingest(event)

    assert list(room.scratch.iterdir()) == []


def test_another_spec_than_the_registered_one_is_an_infrastructure_fault(room: Room) -> None:
    event = room.event("customers.csv", b"")
    room.s3.put_object(Bucket=ARTIFACTS, Key=event["spec_key"], Body=b"{}")

    with pytest.raises(DigestMismatchError, match=CHURN.digest):
        room.ingest(event)


def test_private_values_reach_neither_result_nor_log(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = churn_rows(200)
    rows[3]["salary"] = "secret-salary"
    rows[4]["id"] = "secret-id"

    result = room.ingest(room.event("customers.csv", churn_csv(rows)))

    logged = capsys.readouterr()
    report = room.read(result.quarantine_prefix + "report.json").decode()
    assert result.rows.quarantined == 2
    assert "secret" not in result.model_dump_json() + logged.out + logged.err + report


def test_metrics_and_two_log_lines_tell_the_outcome(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = churn_rows(200)
    rows[3]["age"] = "-5"

    room.ingest(room.event("customers.csv", churn_csv(rows)))

    lines = [json.loads(line) for line in io.StringIO(capsys.readouterr().out)]
    metric = next(line for line in lines if "_aws" in line)
    assert metric["model"] == "churn"
    assert metric["RowsAccepted"] == [199.0]
    assert metric["RowsQuarantined"] == [1.0]
    assert metric["UploadsRefused"] == [0.0]
