"""Files of labels: good lines are taken, bad ones kept with their reasons beside a report."""

import gzip
import json
from typing import Any

import pytest

from millrace.aws.clients import client
from millrace.errors import InvalidEventError
from millrace.serving.identity import new_prediction_id
from tests.fakes import cases
from tests.integration.feedback.conftest import Desk


def csv(*lines: str) -> bytes:
    """A file with the full header."""
    return "\n".join(["prediction_id,row,label,observed_at", *lines, ""]).encode()


def test_the_labels_of_a_file_are_taken(desk: Desk) -> None:
    desk.crown()
    made = [new_prediction_id() for _ in range(3)]

    outcome = desk.deliver(desk.event("labels.csv", csv(*[f"{one},0,1," for one in made])))

    assert outcome["counts"] == {"accepted": 3, "duplicate": 0, "corrected": 0, "outdated": 0}
    assert [desk.labels(one) for one in made] == [{0: "1"}] * 3
    report = desk.report(outcome)
    assert (report["lines"], report["accepted"], report["rejected"]) == (3, 3, 0)
    assert desk.stack.notices() == []


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.ndjson.gz"])
def test_json_lines_are_taken_plain_and_gzipped(desk: Desk, name: str) -> None:
    desk.crown()
    made = new_prediction_id()
    body = json.dumps({"prediction_id": made, "row": 4, "label": 0}).encode() + b"\n"

    outcome = desk.deliver(desk.event(name, gzip.compress(body) if name.endswith("gz") else body))

    assert outcome["counts"]["accepted"] == 1
    assert desk.labels(made) == {4: "0"}


def test_bad_lines_are_kept_with_line_and_reason_and_people_are_told(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    body = csv(f"{made},0,1,", f"{made},1,7,", f"{made},2", "", f"{made},3,0,")

    outcome = desk.deliver(desk.event("labels.csv", body))

    assert desk.labels(made) == {0: "1", 3: "0"}
    report = desk.report(outcome)
    assert report["problems"] == [
        {
            "line": 3,
            "field": "label",
            "reason": "expected a class of the model, as its predictions name it: 0, 1",
        },
        {"line": 4, "field": "", "reason": "expected 4 cells"},
    ]
    kept = gzip.decompress(desk.read(report["rejected_lines"])).splitlines()
    assert [json.loads(one)["text"].strip() for one in kept] == [f"{made},1,7,", f"{made},2"]
    (notice,) = desk.stack.notices()
    assert notice["event"] == "feedback_rejected"
    assert notice["summary"] == "churn: 2 of 4 labels in labels.csv were wrong"
    assert made not in json.dumps(notice)


def test_a_file_delivered_twice_is_looked_at_once(desk: Desk) -> None:
    desk.crown()
    event = desk.event("labels.csv", csv(f"{new_prediction_id()},0,7,"))
    first = desk.deliver(event)

    again = desk.deliver(event)

    assert (first["repeated"], again["repeated"]) == (False, True)
    assert again["report_key"] == first["report_key"]
    assert len(desk.stack.notices()) == 1


def test_a_delivery_that_was_cut_off_is_done_again_with_the_same_result(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    event = desk.event("labels.csv", csv(f"{made},0,1,"))
    first = desk.deliver(event)
    client("s3").delete_object(Bucket=cases.DATA_BUCKET, Key=first["report_key"])

    again = desk.deliver(event)

    assert again["counts"] == {"accepted": 0, "duplicate": 1, "corrected": 0, "outdated": 0}
    assert desk.labels(made) == {0: "1"}


def test_a_corrected_file_under_the_same_name_is_another_file(desk: Desk) -> None:
    desk.crown()
    made = new_prediction_id()
    desk.deliver(desk.event("labels.csv", csv(f"{made},0,1,")))

    outcome = desk.deliver(desk.event("labels.csv", csv(f"{made},0,0,")))

    assert outcome["counts"]["corrected"] == 1
    assert desk.labels(made) == {0: "0"}


REFUSED: list[Any] = [
    pytest.param("labels.xlsx", b"PK", "expected a file that ends in .csv", id="another suffix"),
    pytest.param("labels.csv", b"\xff\xfe", "expected UTF-8", id="another encoding"),
    pytest.param("labels.csv", b"id,truth\n1,1\n", "whose header names prediction_id", id="header"),
    pytest.param("labels.csv.gz", b"plain", "the file is damaged", id="no gzip"),
    pytest.param("labels.csv.gz", gzip.compress(b"x" * 99)[:-4], "the file is cut off", id="cut"),
]


@pytest.mark.parametrize(("name", "body", "reason"), REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_a_report_and_a_notice(
    desk: Desk, name: str, body: bytes, reason: str
) -> None:
    desk.crown()

    outcome = desk.deliver(desk.event(name, body))

    assert reason in outcome["refused"]
    assert desk.report(outcome)["refused"] == outcome["refused"]
    (notice,) = desk.stack.notices()
    assert (notice["event"], notice["reason"]) == ("feedback_refused", outcome["refused"])


def test_labels_for_a_model_without_a_champion_are_refused(desk: Desk) -> None:
    outcome = desk.deliver(desk.event("labels.csv", csv(), model="nobody"))

    assert "nobody" in outcome["refused"]


@pytest.mark.parametrize("key", ["feedback/labels.csv", "feedback/Not a name/labels.csv"])
def test_a_file_that_lies_nowhere_is_handed_to_the_dead_letters(desk: Desk, key: str) -> None:
    event = desk.event("labels.csv", b"")
    event["detail"]["object"]["key"] = key

    with pytest.raises(InvalidEventError, match="key"):
        desk.deliver(event)


def test_no_value_of_a_file_is_logged(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.crown()

    desk.deliver(desk.event("labels.csv", csv("canary-1,0,canary-2,", "canary-3")))

    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
