"""Batch prediction on the deployed stack: files in, results in the files' order out.

The million rows are a table's rows again and again: what the model says to each is known from the API,
so every row of the result is compared without asking a million times.
"""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from millrace import layout
from millrace.errors import InvalidRequestError, NotFoundError
from millrace_cli.app import app
from millrace_cli.batches import follow_to_end
from millrace_cli.client import ApiClient
from millrace_cli.exits import ExitCode
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Named, Sample, Until, spec_document
from tests.e2e.mailbox import Mailbox

pytestmark = pytest.mark.needs("rest-api", "upload-events", "state-machine", "transactions")

MILLION = 1_000_000


def put(client: Client, target: Target, key: str, body: bytes) -> dict[str, Any]:
    """Puts an object into the data bucket."""
    bucket = target.outputs.data_bucket
    answer: dict[str, Any] = client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    return answer


def job_of(target: Target, key: str, version_id: str) -> str:
    """The job of an object's version."""
    model = key.split("/")[1]
    return layout.batch_id_for(model, target.outputs.data_bucket, key, version_id)


def read(url: str) -> bytes:
    """What lies behind a presigned link."""
    return httpx.get(url, timeout=60).raise_for_status().content


def _has(wanted: dict[str, Any], message: dict[str, Any]) -> bool:
    return wanted.items() <= message.items()


def answers(api: ApiClient, model: str, sample: Sample, count: int) -> list[dict[str, Any]]:
    """What the API says to the first rows of a table."""
    rows = [sample.feature_row(i) for i in range(count)]
    predictions: list[dict[str, Any]] = api.post(f"/v1/models/{model}/predict", {"rows": rows})[
        "predictions"
    ]
    return predictions


def test_a_file_in_the_bucket_is_scored_as_the_api_answers(
    target: Target,
    client: Client,
    api: ApiClient,
    trained: dict[str, Any],
    cancer: Sample,
    tmp_path: Path,
    mailbox: Mailbox,
    patiently: Until,
) -> None:
    model = trained["model"]
    path = cancer.write(tmp_path / "scores.csv", stop=60)
    lines = path.read_text().splitlines()
    lines[8] = lines[8].replace(lines[8].split(",")[0], "wide", 1)
    lines[20] = "1.0,2.0"
    key = layout.batch_key(model, "scores.csv")

    version_id = put(client, target, key, "\n".join(lines).encode())["VersionId"]
    ended = follow_to_end(api, job_of(target, key, version_id), quiet=True)

    assert (ended["status"], ended["outcome"]) == ("FINISHED", "scored"), ended
    assert ended["rows"] == {"read": 60, "accepted": 58, "quarantined": 2}
    assert ended["progress"] == {"chunks": 1, "scored": 1}
    table = list(csv.DictReader(read(ended["predictions_url"]).decode().splitlines()))
    assert [int(row["row"]) for row in table] == list(range(60))
    expected = answers(api, model, cancer, 60)
    for number, (row, answer) in enumerate(zip(table, expected, strict=True)):
        if number in (7, 19):
            assert (row["status"], row["label"]) == ("quarantined", "")
            continue
        assert row["status"] == "scored"
        assert int(row["label"]) == answer["label"]
        for label, probability in answer["probabilities"].items():
            assert np.float32(row[f"probability_{label}"]) == np.float32(probability)
    wrong = list(csv.DictReader(read(ended["quarantine_url"]).decode().splitlines()))
    assert [(w["row"], w["field"], w["rule"]) for w in wrong] == [
        ("7", cancer.header[0], "type"),
        ("19", "(row)", "too_few_fields"),
    ]
    manifest = json.loads(read(ended["manifest_url"]))
    assert manifest["version"] == ended["version"] == trained["model_version"]
    assert json.loads(read(ended["summary_url"]))["rows"]["scored"] == 58
    listed = api.get(f"/v1/models/{model}/batches", limit=5)["items"]
    assert ended["batch_id"] in [job["batch_id"] for job in listed]
    actions = [
        entry["action"]
        for entry in api.get(f"/v1/models/{model}/audit", limit=50)["items"]
        if entry["subject"] == ended["batch_id"]
    ]
    assert actions == ["batch_finished", "batch_created"]
    wanted = {"event": "batch_scored", "batch_id": ended["batch_id"]}
    assert patiently(partial(mailbox.find, partial(_has, wanted)))


def test_an_object_delivered_and_asked_for_again_is_one_job(
    target: Target, client: Client, api: ApiClient, trained: dict[str, Any], cancer: Sample,
    tmp_path: Path,
) -> None:  # fmt: skip
    model = trained["model"]
    body = cancer.write(tmp_path / "twice.csv", stop=20).read_bytes()
    key = layout.batch_key(model, "twice.csv")
    version_id = put(client, target, key, body)["VersionId"]
    batch_id = job_of(target, key, version_id)
    first = follow_to_end(api, batch_id, quiet=True)

    again = api.post(f"/v1/models/{model}/batch", {"key": key})

    assert again == {"batch_id": batch_id, "started": False, "upload": None}
    same = api.get(f"/v1/batches/{batch_id}")
    assert (same["attempt"], same["ended_at"]) == (1, first["ended_at"])
    machine = target.outputs.raw["BatchStateMachineArn"]
    names = [
        execution["name"]
        for page in client("stepfunctions")
        .get_paginator("list_executions")
        .paginate(stateMachineArn=machine)
        for execution in page["executions"]
    ]
    assert names.count(batch_id) == 1


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("empty.csv", b"", "empty_file"),
        ("header.csv", b"a,b\n1,2\n3,4\n", "missing_columns"),
        ("book.csv", b"PK\x03\x04 a workbook", "unsupported_format"),
        ("table.xlsx", b"PK\x03\x04", "unsupported_suffix"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused_and_says_why(
    target: Target,
    client: Client,
    api: ApiClient,
    trained: dict[str, Any],
    name: str,
    body: bytes,
    code: str,
) -> None:
    key = layout.batch_key(trained["model"], name)

    version_id = put(client, target, key, body)["VersionId"]
    ended = follow_to_end(api, job_of(target, key, version_id), quiet=True)

    assert (ended["status"], ended["outcome"], ended["error"]) == ("FINISHED", "refused", code)
    assert ended["reason"]
    if code != "unsupported_suffix":
        report = json.loads(read(ended["report_url"]))
        assert (report["code"], report["reason"]) == (code, ended["reason"])


def test_rows_that_are_all_bad_are_refused_with_every_one_of_them(
    target: Target, client: Client, api: ApiClient, trained: dict[str, Any], cancer: Sample
) -> None:
    lines = [",".join(cancer.header), *(",".join(["bad"] * len(cancer.header)) for _ in range(9))]
    key = layout.batch_key(trained["model"], "bad.csv")

    version_id = put(client, target, key, "\n".join(lines).encode())["VersionId"]
    ended = follow_to_end(api, job_of(target, key, version_id), quiet=True)

    assert (ended["outcome"], ended["error"]) == ("refused", "too_many_quarantined")
    wrong = list(csv.DictReader(read(ended["quarantine_url"]).decode().splitlines()))
    assert {int(w["row"]) for w in wrong} == set(range(9))


def test_a_model_without_a_champion_scores_nothing(
    target: Target, client: Client, api: ApiClient, named: Named, cancer: Sample
) -> None:
    name = named("young")
    api.put(f"/v1/specs/{name}", spec_document(name, cancer))
    key = layout.batch_key(name, "scores.csv")

    version_id = put(client, target, key, b"a,b\n1,2\n")["VersionId"]
    ended = follow_to_end(api, job_of(target, key, version_id), quiet=True)

    assert (ended["outcome"], ended["error"], ended["version"]) == ("refused", "no_champion", None)
    with pytest.raises(NotFoundError, match="champion"):
        api.post(f"/v1/models/{name}/batch", {"filename": "scores.csv"})


def test_a_file_for_no_model_is_told_to_people(
    target: Target, client: Client, named: Named, mailbox: Mailbox, patiently: Until
) -> None:
    unknown = layout.batch_key(named("nobody"), "scores.csv")
    nameless = f"batch/{named('stray')}.csv"

    put(client, target, unknown, b"a\n1\n")
    put(client, target, nameless, b"a\n1\n")

    for key in (unknown, nameless):
        wanted = {"event": "upload_unroutable", "key": key}
        assert patiently(partial(mailbox.find, partial(_has, wanted)))["reason"]


def test_a_request_for_no_object_or_no_model_is_refused(
    api: ApiClient, trained: dict[str, Any], named: Named
) -> None:
    model = trained["model"]

    with pytest.raises(NotFoundError, match="absent"):
        api.post(f"/v1/models/{model}/batch", {"key": layout.batch_key(model, "absent.csv")})
    with pytest.raises(InvalidRequestError, match="batch/"):
        api.post(f"/v1/models/{model}/batch", {"key": "incoming/other/a.csv"})
    with pytest.raises(InvalidRequestError, match="ending"):
        api.post(f"/v1/models/{model}/batch", {"filename": "a.xlsx"})
    with pytest.raises(NotFoundError, match="no model"):
        api.post(f"/v1/models/{named('none')}/batch", {"filename": "a.csv"})
    with pytest.raises(NotFoundError, match="no batch job"):
        api.get(f"/v1/batches/{model}-batch-{'0' * 24}")


def test_a_million_rows_pass_through_the_command_line(
    target: Target,
    api: ApiClient,
    trained: dict[str, Any],
    cancer: Sample,
    tmp_path: Path,
) -> None:
    model, period = trained["model"], 500
    path = tmp_path / "million.csv"
    lines = "".join(",".join(row[:-1]) + "\n" for row in cancer.rows[:period])
    with path.open("w") as file:
        file.write(",".join(cancer.header[:-1]) + "\n")
        for _ in range(MILLION // period):
            file.write(lines)
    output = tmp_path / "predictions.csv"
    chosen = ["--target", target.kind, "--stack", target.stack, "--region", target.region]
    if target.endpoint_url:
        chosen += ["--endpoint-url", target.endpoint_url]

    done = CliRunner().invoke(
        app, [*chosen, "batch", model, str(path), "--output", str(output), "--json"]
    )

    assert done.exit_code == ExitCode.OK, done.output
    ended = json.loads(done.stdout)
    assert ended["rows"] == {"read": MILLION, "accepted": MILLION, "quarantined": 0}
    assert ended["progress"] == {"chunks": 20, "scored": 20}
    asked = answers(api, model, cancer, period)
    labels = np.array([int(a["label"]) for a in asked])
    probabilities = np.array([a["probabilities"]["1"] for a in asked], dtype=np.float32)
    with output.open(newline="") as file:
        table = np.array([(r["row"], r["label"], r["probability_1"]) for r in csv.DictReader(file)])
    assert np.array_equal(table[:, 0].astype(np.int64), np.arange(MILLION))
    wrong = np.flatnonzero(table[:, 1].astype(np.int64).reshape(-1, period) != labels)
    assert not wrong.size, (wrong.size, wrong[:5])
    given = table[:, 2].astype(np.float32).reshape(-1, period)
    wrong = np.flatnonzero(given != probabilities)
    assert not wrong.size, (wrong.size, wrong[:5], given.flat[wrong[:5]])
