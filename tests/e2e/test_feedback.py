"""From an answer to its label: captured on the log, kept in S3, joined with what came to be true."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from millrace.aws.dynamodb import DynamoTable
from millrace.aws.s3 import S3ObjectStore
from millrace.monitoring.captures import captured
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.labels import LabelledRow, joined
from millrace.serving.capture import CapturedPrediction, missing_lines
from millrace.serving.capture_record import PACKED_FROM
from millrace.serving.identity import predicted_at
from millrace_cli.client import ApiClient
from millrace_cli.target import Target
from tests.e2e.conftest import Client, Named, Sample, Until, Upload, spec_document
from tests.e2e.mailbox import Mailbox

pytestmark = pytest.mark.needs("upload-events", "state-machine", "rest-api", "logs", "notices")

PRIVATE = "mean_texture"


@pytest.fixture(scope="module")
def watched(
    api: ApiClient,
    upload: Upload,
    named: Named,
    cancer: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A model with a champion and a private column."""
    name = named("watched")
    document = spec_document(name, cancer, train={"trials": 1}, privacy={"never_log": [PRIVATE]})
    api.put(f"/v1/specs/{name}", document)
    run = upload(name, cancer.write(tmp_path_factory.mktemp("data") / "all.csv", stop=300))
    assert run["outcome"] == "promoted", run
    return name


def predict(api: ApiClient, model: str, sample: Sample, *indices: int) -> str:
    """Asks for some rows; the prediction's id."""
    rows = [sample.feature_row(i) for i in indices]
    answer: dict[str, Any] = api.post(f"/v1/models/{model}/predict", {"rows": rows})
    return str(answer["prediction_id"])


def span(*ids: str) -> tuple[datetime, datetime]:
    """The time in which predictions were made."""
    moments = [predicted_at(one) for one in ids]
    return min(moments), max(moments) + timedelta(milliseconds=1)


def kept(target: Target, model: str, *ids: str) -> dict[str, CapturedPrediction]:
    """What was captured of the time of some predictions, by id."""
    store = S3ObjectStore(target.s3)
    found = captured(store, target.outputs.data_bucket, model, *span(*ids))
    return {one.prediction_id: one for one in found}


def book(client: Client, target: Target) -> LabelBook:
    """The deployment's labels."""
    table = DynamoTable(client("dynamodb"), target.outputs.raw["TableName"])
    return LabelBook(table, timedelta(days=1))


def test_answers_are_captured_labelled_by_api_and_file_and_joined(
    api: ApiClient,
    client: Client,
    target: Target,
    mailbox: Mailbox,
    patiently: Until,
    watched: str,
    cancer: Sample,
) -> None:
    ids = [predict(api, watched, cancer, n, n + 1) for n in (0, 2, 4)]
    by_api, by_file, _unlabelled = ids
    truth = [int(row[-1]) for row in cancer.rows[:6]]

    answer = api.post(
        f"/v1/models/{watched}/feedback",
        {"labels": [{"prediction_id": by_api, "row": n, "label": truth[n]} for n in (0, 1)]},
    )
    lines = ["prediction_id,row,label", *[f"{by_file},{n},{truth[2 + n]}" for n in (0, 1)]]
    lines.append(f"{by_file},9,benign")
    client("s3").put_object(
        Bucket=target.outputs.data_bucket,
        Key=f"feedback/{watched}/labels.csv",
        Body="\n".join(lines).encode(),
    )

    assert (answer["received"], answer["accepted"]) == (2, 2)
    found = patiently(lambda: kept(target, watched, *ids).keys() >= set(ids) or None, seconds=60)
    assert found
    labels = patiently(
        lambda: (
            known
            if len(known := list(book(client, target).of_span(watched, *span(*ids)))) == 4
            else None
        ),
        seconds=60,
    )
    predictions = kept(target, watched, *ids)
    rows: list[LabelledRow] = list(joined(predictions.values(), labels))
    told = {
        (one.prediction.prediction_id, one.row): one.label.value
        for one in rows
        if one.label is not None
    }
    assert told == {
        (made, n): str(truth[2 * index + n]) for index, made in enumerate(ids[:2]) for n in (0, 1)
    }
    assert len(rows) == 6
    notice = patiently(lambda: mailbox.find(lambda m: m.get("model") == watched and "first" in m))
    assert notice["first"] == [
        "line 4: label: expected a class of the model, as its predictions name it: 0, 1"
    ]
    bucket, key = target.outputs.data_bucket, notice["report_key"]
    assert notice["report"].startswith("http")
    assert notice["report"].partition("?")[0].count(bucket) == 1
    report = json.loads(client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    assert (report["accepted"], report["rejected"]) == (2, 1)
    [first] = [one for one in rows if (one.prediction.prediction_id, one.row) == (by_api, 0)]
    expected = {name: value for name, value in cancer.feature_row(0).items() if name != PRIVATE}
    assert first.inputs == pytest.approx(expected, rel=1e-6)
    assert sum(first.output) == pytest.approx(1, abs=1e-5)
    assert missing_lines(predictions.values()) == 0


def test_the_rows_of_a_large_request_are_captured_as_those_of_a_small_one(
    api: ApiClient, target: Target, patiently: Until, watched: str, cancer: Sample
) -> None:
    rows = range(2 * PACKED_FROM)
    many, few = predict(api, watched, cancer, *rows), predict(api, watched, cancer, *rows[:2])

    found = patiently(
        lambda: both if (both := kept(target, watched, many, few)).keys() >= {many, few} else None,
        seconds=60,
    )

    assert found[many].row_count == len(rows)
    assert {name: values[:2] for name, values in found[many].inputs.items()} == found[few].inputs
    assert PRIVATE not in found[many].inputs
    assert len(found[many].outputs["probabilities"]) == len(rows)


def test_private_columns_are_in_no_object(
    api: ApiClient, target: Target, patiently: Until, watched: str, cancer: Sample
) -> None:
    made = predict(api, watched, cancer, 7)

    record = patiently(lambda: kept(target, watched, made).get(made), seconds=60)

    assert PRIVATE not in record.inputs
    assert record.inputs.keys() == set(cancer.header[:-1]) - {PRIVATE}


def line_of(client: Client, target: Target, made: str) -> dict[str, Any] | None:
    """What the predict function's log says of a prediction, once it says something."""
    found = client("logs").filter_log_events(
        logGroupName=f"/aws/lambda/{target.stack}-predict",
        startTime=int(predicted_at(made).timestamp() * 1000) - 60_000,
    )
    messages = (event["message"] for event in found["events"])
    return next((json.loads(m) for m in messages if f'"{made}"' in m and m[0] == "{"), None)


def test_the_spec_changes_the_rate_without_a_training(
    api: ApiClient,
    client: Client,
    target: Target,
    patiently: Until,
    watched: str,
    cancer: Sample,
) -> None:
    document = api.get(f"/v1/specs/{watched}")["spec"]

    def is_captured() -> bool:
        """Whether a prediction made now is."""
        made = predict(api, watched, cancer, 8)
        return "capture" in patiently(lambda: line_of(client, target, made), seconds=60)

    api.put(f"/v1/specs/{watched}", document | {"monitor": {"capture_rate": 0.0}})
    try:
        patiently(lambda: not is_captured() or None, seconds=60, pause=0.5)
    finally:
        api.put(f"/v1/specs/{watched}", document)
    patiently(lambda: is_captured() or None, seconds=60, pause=0.5)


def test_a_corrected_label_is_counted_as_such(
    api: ApiClient, client: Client, target: Target, watched: str, cancer: Sample
) -> None:
    made = predict(api, watched, cancer, 3)

    def tell(label: int) -> dict[str, Any]:
        return api.post(f"/v1/models/{watched}/feedback", {"prediction_id": made, "label": label})

    answers = [tell(0), tell(0), tell(1)]

    assert [(a["accepted"], a["duplicate"], a["corrected"]) for a in answers] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    assert book(client, target).of_prediction(watched, made)[0].value == "1"
