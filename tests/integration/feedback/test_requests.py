"""POST /v1/models/{name}/feedback: all labels of a request are taken, or none."""

import gzip
import json
from base64 import b64encode
from typing import Any

import pytest

from millrace.monitoring.feedback import MAX_LABELS
from millrace.serving.identity import new_prediction_id
from millrace.spec import Task
from tests.fakes.gateway import Reply, problem
from tests.fakes.onnx_models import stored
from tests.integration.feedback.conftest import Desk

PATH = "/v1/models/churn/feedback"
CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def counts(reply: Reply) -> tuple[int, int, int, int, int]:
    """Received, accepted, duplicate, corrected, outdated."""
    assert reply.status == 200, reply.body
    told = reply.json
    assert told["model"] == "churn"
    names = ("received", "accepted", "duplicate", "corrected", "outdated")
    received, accepted, duplicate, corrected, outdated = (told[name] for name in names)
    return received, accepted, duplicate, corrected, outdated


def test_a_label_is_taken(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()

    reply = desk.call("POST", PATH, {"prediction_id": made, "label": 1})

    assert counts(reply) == (1, 1, 0, 0, 0)
    assert desk.labels(made) == {0: "1"}


def test_labels_of_many_rows_are_taken_at_once(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    labels = [{"prediction_id": made, "row": n, "label": n % 2} for n in range(MAX_LABELS)]

    reply = desk.call("POST", PATH, {"labels": labels})

    assert counts(reply) == (MAX_LABELS, MAX_LABELS, 0, 0, 0)
    assert desk.labels(made) == {n: str(n % 2) for n in range(MAX_LABELS)}


def test_the_same_label_twice_is_one_and_another_corrects_it(desk: Desk) -> None:
    desk.crown()
    entry: dict[str, Any] = {"prediction_id": new_prediction_id(), "label": 1}

    replies = [
        desk.call("POST", PATH, entry),
        desk.call("POST", PATH, entry),
        desk.call("POST", PATH, entry | {"label": 0}),
        desk.call("POST", PATH, entry | {"label": 1, "observed_at": "2025-01-01T00:00:00Z"}),
    ]

    assert [counts(reply) for reply in replies] == [
        (1, 1, 0, 0, 0),
        (1, 0, 1, 0, 0),
        (1, 0, 0, 1, 0),
        (1, 0, 0, 0, 1),
    ]
    assert desk.labels(entry["prediction_id"]) == {0: "0"}


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        pytest.param(CSV, "prediction_id,row,label\n{id},2,1\n", id="csv"),
        pytest.param(CSV, "\ufefflabel,prediction_id,row\r\n1,{id},2\r\n\r\n", id="csv of Excel"),
        pytest.param(NDJSON, '{{"prediction_id": "{id}", "row": 2, "label": 1}}\n\n', id="ndjson"),
    ],
)
def test_lines_are_taken_like_json(desk: Desk, headers: dict[str, str], line: str) -> None:
    desk.crown()
    made = new_prediction_id()

    reply = desk.call("POST", PATH, line.format(id=made), headers=headers)

    assert counts(reply) == (1, 1, 0, 0, 0)
    assert desk.labels(made) == {2: "1"}


def test_a_gzipped_body_is_taken(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    body = gzip.compress(json.dumps({"prediction_id": made, "label": 1}).encode())

    reply = desk.call(
        "POST",
        PATH,
        b64encode(body),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        base64_encoded=True,
    )

    assert counts(reply) == (1, 1, 0, 0, 0)


def test_a_wrong_entry_is_named_and_nothing_of_the_request_is_taken(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    labels = [
        {"prediction_id": made, "label": 1},
        {"prediction_id": made, "row": 1, "label": "canary"},
        {"prediction_id": "canary", "row": 2, "label": 1},
    ]

    reply = desk.call("POST", PATH, {"labels": labels})

    told = problem(reply, 422, "invalid_request")
    assert [(e.row, e.field) for e in told.errors] == [(1, "label"), (2, "prediction_id")]
    assert told.errors[0].message.endswith("as its predictions name it: 0, 1")
    assert "canary" not in reply.body
    assert desk.labels(made) == {}


def test_a_regression_takes_numbers(desk: Desk) -> None:
    desk.crown(1, stored("run-r", name="churn", task=Task.REGRESSION))
    made = new_prediction_id()

    good = desk.call("POST", PATH, {"prediction_id": made, "label": 12.5})
    bad = desk.call("POST", PATH, {"prediction_id": made, "label": "12.5"})

    assert counts(good) == (1, 1, 0, 0, 0)
    (error,) = problem(bad, 422, "invalid_request").errors
    assert (error.field, error.message) == ("label", "expected a finite number")
    assert desk.labels(made) == {0: "12.5"}


BAD: list[Any] = [
    pytest.param("{", {}, 400, "malformed_request", id="no JSON"),
    pytest.param("[]", {}, 422, "invalid_request", id="a list"),
    pytest.param('{"labels": []}', {}, 422, "invalid_request", id="no labels"),
    pytest.param('{"labels": {}}', {}, 422, "invalid_request", id="labels that are no list"),
    pytest.param('{"labels": [], "more": 1}', {}, 422, "invalid_request", id="a key beside"),
    pytest.param("id,label\n1,1\n", CSV, 400, "malformed_request", id="another header"),
    pytest.param("", CSV, 400, "malformed_request", id="no header"),
    pytest.param("prediction_id,label\n", CSV, 422, "invalid_request", id="a header alone"),
    pytest.param("prediction_id,label\n1\n", CSV, 422, "invalid_request", id="a short line"),
    pytest.param('prediction_id,label\n"1,1\n', CSV, 400, "malformed_request", id="an open quote"),
    pytest.param("{}\nno\n", NDJSON, 422, "invalid_request", id="a line that is no JSON"),
    pytest.param("<labels/>", {"Content-Type": "text/xml"}, 415, None, id="XML"),
    pytest.param("x" * 1_000_001, CSV, 413, "request_too_large", id="too long"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), BAD)
def test_a_body_that_cannot_be_read_is_refused(
    desk: Desk, body: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    desk.crown()

    reply = desk.call("POST", PATH, body, headers={"Content-Type": "application/json"} | headers)

    assert reply.status == status, reply.body
    assert code in (None, reply.json["code"])


def test_more_labels_than_a_request_may_carry_are_pointed_to_files(desk: Desk) -> None:
    desk.crown()
    labels = [{"prediction_id": new_prediction_id(), "label": 1}] * (MAX_LABELS + 1)

    reply = desk.call("POST", PATH, {"labels": labels})

    told = problem(reply, 413, "request_too_large")
    assert "feedback/churn/" in told.detail


def test_labels_for_a_model_that_nobody_knows_are_refused(desk: Desk) -> None:
    reply = desk.call("POST", PATH, {"prediction_id": new_prediction_id(), "label": 1})

    problem(reply, 404, "not_found")


def test_labels_are_counted_and_never_logged(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.crown()
    entry = {"prediction_id": new_prediction_id(), "label": 1}
    desk.call("POST", PATH, entry)

    told = [json.loads(one) for one in capsys.readouterr().out.splitlines() if "Labels" in one]

    (figures,) = told
    assert (figures["LabelsAccepted"], figures["model"]) == ([1.0], "churn")
    assert "label" not in figures
