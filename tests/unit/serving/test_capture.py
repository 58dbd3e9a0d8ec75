"""What a line of the predict function tells of a captured request."""

import json
from typing import Any

import pytest

from millrace.errors import InvalidEventError
from millrace.serving.capture import missing_lines, of_document, of_line, to_document
from tests.samples import capture_line


def test_a_captured_line_is_read() -> None:
    record = of_line(capture_line(model="churn", at_ms=1_795_285_200_123, sequence=17))

    assert record.model == "churn"
    assert record.at.isoformat() == "2026-11-21T18:20:00.123000+00:00"
    assert record.inputs == {"age": [41, 29], "plan": ["basic", None]}
    assert record.outputs == {"probabilities": [[0.9, 0.1], [0.4, 0.6]]}
    assert record.sequence == 17
    assert list(record.kept_rows) == [0, 1]


def test_what_is_kept_of_a_line_reads_as_the_line_did() -> None:
    line = capture_line()
    line["row_count"] = 5
    line["capture"]["rows"] = [1, 4]

    kept = json.loads(json.dumps(to_document(of_line(line))))

    assert of_document(kept) == of_line(line)
    assert list(of_document(kept).kept_rows) == [1, 4]


WRONG: list[Any] = [
    pytest.param(("model",), "Not A Name", "model", id="no model name"),
    pytest.param(("version",), True, "version", id="a boolean version"),
    pytest.param(("prediction_id",), "919108f7", "prediction_id", id="another id"),
    pytest.param(("row_count",), 3, "inputs.age", id="fewer values than rows"),
    pytest.param(("PredictionLatency",), None, "latency_ms", id="no latency"),
    pytest.param(("warnings",), {"age": "many"}, "warnings", id="a count in words"),
    pytest.param(("capture",), [], "capture", id="no object"),
    pytest.param(("capture", "schema"), 3, "capture.schema", id="another schema"),
    pytest.param(("capture", "rate"), 0, "rate", id="a rate of nothing"),
    pytest.param(("capture", "sequence"), 0, "sequence", id="numbered from 0"),
    pytest.param(("capture", "process"), "", "process", id="no process"),
    pytest.param(("capture", "inputs"), {"age": 41}, "inputs.age", id="no column"),
    pytest.param(("capture", "outputs"), {}, "outputs", id="no outputs"),
    pytest.param(("capture", "outputs"), {"scores": [1, 2]}, "outputs", id="unknown outputs"),
    pytest.param(("capture", "rows"), [-1], "rows", id="a negative row"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG)
def test_a_wrong_line_is_refused_by_field_and_without_its_values(
    path: tuple[str, ...], value: Any, named: str
) -> None:
    line = capture_line()
    place = line
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(InvalidEventError, match=f"^{named.replace('.', '[.]')}:? ?") as caught:
        of_line(line)

    assert "basic" not in str(caught.value)
    assert "Not A Name" not in str(caught.value)


NUMBERS = {"features": ["age", "tenure"], "float32": "AAAkQgAAwH8AAOhBAAAAPw=="}
"""41 and nothing, 29 and 0.5: 32-bit floats, little-endian."""
TEXTS = {"features": ["plan"], "values": ["team", "", "basic"], "uint8": "AgE="}


def packed_line() -> dict[str, Any]:
    """A line whose inputs are packed, but for one of them."""
    line = capture_line()
    line["capture"] |= {
        "schema": 2,
        "inputs": {"city": ["Graz", "Wien"]},
        "numbers": dict(NUMBERS),
        "texts": dict(TEXTS),
    }
    return line


def test_packed_inputs_are_read_as_columns() -> None:
    assert of_line(packed_line()).inputs == {
        "age": [41.0, 29.0],
        "tenure": [None, 0.5],
        "plan": ["basic", ""],
        "city": ["Graz", "Wien"],
    }


@pytest.mark.parametrize(("kind", "code"), [("uint16", "AgABAA=="), ("uint32", "AgAAAAEAAAA=")])
def test_places_of_many_values_are_wider(kind: str, code: str) -> None:
    line = packed_line()
    del line["capture"]["texts"]["uint8"]
    line["capture"]["texts"][kind] = code

    assert of_line(line).inputs["plan"] == ["basic", ""]


def test_columns_that_are_packed_each_for_itself_are_read() -> None:
    line = capture_line()
    line["capture"]["inputs"]["age"] = {"float32": "AAAkQgAAwH8="}

    assert of_line(line).inputs["age"] == [41.0, None]


def test_packed_inputs_are_kept_as_columns() -> None:
    kept = to_document(of_line(packed_line()))

    assert kept["schema"] == 1
    assert of_document(json.loads(json.dumps(kept))) == of_line(packed_line())


@pytest.mark.parametrize(
    ("part", "field", "value", "named"),
    [
        ("numbers", "features", None, "numbers.features"),
        ("numbers", "features", [], "numbers.features"),
        ("numbers", "features", ["age", "age"], "numbers.features"),
        ("numbers", "features", ["age", "city"], "numbers.features"),
        ("numbers", "features", ["age", 1], "numbers.features"),
        ("numbers", "features", ["age", "tenure", "active"], "numbers"),
        ("numbers", "features", ["age"], "inputs.age"),
        ("numbers", "float32", "basic", "numbers"),
        ("numbers", "float32", None, "numbers"),
        ("texts", "features", ["age"], "texts.features"),
        ("texts", "values", "basic", "texts.values"),
        ("texts", "values", ["basic", "team"], "texts.uint8"),
        ("texts", "uint8", 3, "texts.uint8"),
        ("texts", "uint8", "AgEA", "inputs.plan"),
    ],
)
def test_inputs_that_are_packed_wrong_are_refused_by_field(
    part: str, field: str, value: Any, named: str
) -> None:
    line = packed_line()
    line["capture"][part][field] = value

    with pytest.raises(InvalidEventError, match=f"^{named.replace('.', '[.]')}: ") as caught:
        of_line(line)

    assert "basic" not in str(caught.value)


@pytest.mark.parametrize("part", ["numbers", "texts"])
@pytest.mark.parametrize("value", [[], "basic", 3])
def test_packed_inputs_are_objects(part: str, value: Any) -> None:
    line = packed_line()
    line["capture"][part] = value

    with pytest.raises(InvalidEventError, match=f"^{part}: expected an object"):
        of_line(line)


def test_texts_without_places_are_refused() -> None:
    line = packed_line()
    del line["capture"]["texts"]["uint8"]

    with pytest.raises(InvalidEventError, match="^texts: expected uint8 or uint16 or uint32"):
        of_line(line)


def test_a_line_that_never_arrived_shows_as_a_gap() -> None:
    arrived = [
        of_line(capture_line(process=process, sequence=sequence))
        for process, sequence in (("one", 4), ("one", 7), ("two", 1), ("one", 5), ("one", 5))
    ]

    assert missing_lines(arrived) == 1


def test_processes_are_numbered_each_for_itself() -> None:
    arrived = [of_line(capture_line(process=str(n), sequence=n)) for n in range(1, 9)]

    assert missing_lines(arrived) == 0


def test_models_of_one_process_are_numbered_each_for_itself() -> None:
    arrived = [
        of_line(capture_line(model=model, sequence=sequence))
        for model, sequence in (("churn", 1), ("fraud", 5), ("churn", 2), ("fraud", 6))
    ]

    assert missing_lines(arrived) == 0
