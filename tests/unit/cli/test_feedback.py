"""Labels from the command line and from files, in requests that the API takes."""

from pathlib import Path
from typing import Any

import pytest

from millrace.errors import FieldProblem, InvalidRequestError
from millrace_cli.client import ApiClient
from millrace_cli.feedback import LABELS_PER_REQUEST, in_words, read_labels, send_labels


class Api(ApiClient):
    """Takes labels; refuses the request that holds a text."""

    def __init__(self, refuse: str = "") -> None:
        self.sent: list[tuple[str, bytes, str]] = []
        self._refuse = refuse

    def post_bytes(self, path: str, content: bytes, content_type: str) -> dict[str, Any]:
        """See `ApiClient.post_bytes`."""
        if self._refuse and self._refuse.encode() in content:
            raise InvalidRequestError("wrong", [FieldProblem("label", "expected a class", 4)])
        self.sent.append((path, content, content_type))
        labels = len(content.splitlines()) - (content_type == "text/csv")
        return {"received": labels, "accepted": labels, "duplicate": 0, "corrected": 0} | {
            "outdated": 0
        }


def test_a_csv_is_sent_in_requests_with_its_header(tmp_path: Path) -> None:
    lines = [f"id-{n},yes" for n in range(LABELS_PER_REQUEST + 5)]
    file = tmp_path / "labels.csv"
    file.write_text("\ufeff" + "\n".join(["prediction_id,label", *lines, "", ""]), encoding="utf-8")
    api = Api()

    taken = send_labels(api, "churn", read_labels(file), file.name)

    assert taken["received"] == LABELS_PER_REQUEST + 5
    assert [path for path, _, _ in api.sent] == ["/v1/models/churn/feedback"] * 2
    assert {kind for _, _, kind in api.sent} == {"text/csv"}
    assert [body.splitlines()[:2] for _, body, _ in api.sent] == [
        [b"prediction_id,label", b"id-0,yes"],
        [b"prediction_id,label", b"id-1000,yes"],
    ]


def test_json_lines_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"label": 1}\n\n{"label": 0}\n')
    api = Api()

    send_labels(api, "churn", read_labels(file), file.name)

    assert api.sent[0][1:] == (b'{"label": 1}\n{"label": 0}', "application/x-ndjson")


def test_a_wrong_label_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    lines = [f"id-{n},yes" for n in range(2 * LABELS_PER_REQUEST)]
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(["prediction_id,label", *lines]))

    with pytest.raises(InvalidRequestError, match="labels 1,001 to 2,000 were not taken") as caught:
        send_labels(Api(refuse="id-1004"), "churn", read_labels(file), file.name)

    assert [p.row for p in caught.value.problems] == [LABELS_PER_REQUEST + 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.xlsx", b"PK", "expected .csv or .jsonl"),
        ("labels.csv", b"\xff", "expected UTF-8"),
        ("labels.csv", b'prediction_id,label\n"1', "line 2"),
        ("labels.csv", b"prediction_id,label\n", "has no labels"),
    ],
)
def test_a_file_without_labels_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(InvalidRequestError, match=message):
        send_labels(Api(), "churn", read_labels(file), file.name)


def test_what_came_of_labels_is_told_in_a_sentence() -> None:
    taken = {"model": "churn", "received": 1204, "accepted": 1180, "duplicate": 20, "corrected": 4}

    assert in_words(taken | {"outdated": 0}) == (
        "churn: 1,204 labels: 1,180 accepted, 20 duplicate, 4 corrected"
    )
