"""Answers in every format tell the same, and options and formats are read strictly."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import nanoarrow as na
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanoarrow.ipc import InputStream

from millrace.errors import InvalidRequestError, NotAcceptableError, RequestTooLargeError
from millrace.http.prediction_models import PredictionColumns, Predictions
from millrace.registry.serving import ServingRecord
from millrace.serving.answers import (
    DEFAULT_OPTIONS,
    AnswerOptions,
    Format,
    Output,
    Writer,
    acceptable,
    read_options,
)
from millrace.serving.codec import Limits, SignatureCodec
from millrace.serving.features import Batch, ContractWarning
from millrace.serving.prediction import Prediction
from millrace.serving.store import LoadedModel
from millrace.signature import Conformal, Reference, Signature
from millrace.spec import ColumnType, Task
from tests.fakes.onnx_models import churn_signature

BY_COLUMN = AnswerOptions(form="columns")
EVERYTHING = AnswerOptions(frozenset(Output))


def prediction(
    output: Any, signature: Signature | None = None, **batch: Any
) -> tuple[Writer, Prediction]:
    """A writer and what it is to write; the model behind it answers the same to any row."""
    signature = signature or churn_signature()
    values: npt.NDArray[np.float32] = np.array(output, dtype=np.float32)
    rows = len(values)

    class Model(LoadedModel):
        def run(self, batch: Batch) -> npt.NDArray[np.float32]:
            return np.repeat(values[:1], batch.rows, axis=0)

    codec = SignatureCodec(signature, Limits(answer_bytes=batch.pop("answer_bytes", 10**6)))
    loaded = Model(
        record=ServingRecord(
            model=signature.model,
            version=3,
            run_id="r",
            model_key="m",
            sha256="0",
            signature_key="s",
            signature_sha256="0",
            updated_at=datetime(2026, 11, 1, tzinfo=UTC),
        ),
        signature=signature,
        codec=codec,
        model=cast("Any", None),
        size=1,
    )
    taken = Batch(
        rows=rows,
        numeric=np.zeros((rows, 3), dtype=np.float32),
        categorical=np.full((rows, 2), "x", dtype=object),
        **batch,
    )
    return Writer(codec), Prediction(loaded, taken, "p-1", values)


def told(output: Any, options: AnswerOptions = DEFAULT_OPTIONS, **how: Any) -> Any:
    writer, made = prediction(output, **how)
    return orjson.loads(writer.write(made, options, Format.JSON))


def explained(task: Task = Task.BINARY) -> Signature:
    """A signature that can tell contributions and intervals."""
    return replace(
        churn_signature(task=task),
        reference=Reference(numeric=(40.0, 2.0, 1.0), categorical=("basic", "")),
        conformal=Conformal(
            method="lac" if task is Task.BINARY else "absolute_residual",
            rows=100,
            levels=(0.8, 0.9),
            quantiles=(0.5, 0.75),
        ),
    )


@pytest.mark.parametrize(
    ("classes", "kind", "labels"),
    [
        (("0", "1"), ColumnType.INTEGER, [1, 0]),
        (("false", "true"), ColumnType.BOOLEAN, [True, False]),
        (("no", "yes"), ColumnType.STRING, ["yes", "no"]),
        (('a "b"', "c,d\n"), ColumnType.STRING, ["c,d\n", 'a "b"']),
    ],
    ids=["integer", "boolean", "string", "odd strings"],
)
def test_labels_come_back_in_the_target_s_type(
    classes: tuple[str, ...], kind: ColumnType, labels: list[Any]
) -> None:
    signature = replace(churn_signature(), classes=classes, target_type=kind)
    output = [[0.25, 0.75], [0.5, 0.5]]

    by_row = told(output, signature=signature)
    by_column = told(output, BY_COLUMN, signature=signature)

    assert (by_row["model"], by_row["version"], by_row["prediction_id"]) == ("churn", 3, "p-1")
    assert [p["label"] for p in by_row["predictions"]] == labels
    assert [type(p["label"]) for p in by_row["predictions"]] == [type(v) for v in labels]
    assert by_row["predictions"][0]["probabilities"] == {classes[0]: 0.25, classes[1]: 0.75}
    assert by_row["warnings"] == []
    assert by_column["columns"]["label"] == labels
    assert by_column["columns"]["probabilities"] == {
        classes[0]: [0.25, 0.5],
        classes[1]: [0.75, 0.5],
    }


def test_a_regression_answers_with_values() -> None:
    signature = churn_signature(task=Task.REGRESSION)

    assert told([1.5, -2], signature=signature)["predictions"] == [{"value": 1.5}, {"value": -2.0}]
    assert told([1.5, -2], BY_COLUMN, signature=signature)["columns"] == {"value": [1.5, -2.0]}


_probabilities = st.floats(0, 1, width=32)


@given(st.integers(2, 5), st.data())
def test_json_written_around_the_numbers_is_json_of_the_numbers(classes: int, data: Any) -> None:
    rows = data.draw(
        st.lists(
            st.lists(_probabilities, min_size=classes, max_size=classes), min_size=1, max_size=9
        )
    )
    names = tuple(f"class {i}" for i in range(classes))
    signature = replace(
        churn_signature(), classes=names, target_type=ColumnType.STRING, task=Task.MULTICLASS
    )

    by_row = told(rows, signature=signature)["predictions"]
    by_column = told(rows, BY_COLUMN, signature=signature)["columns"]

    for index, row in enumerate(np.array(rows, dtype=np.float32)):
        given_row = by_row[index]
        assert list(given_row["probabilities"]) == list(names)
        np.testing.assert_array_equal(
            np.array(list(given_row["probabilities"].values()), dtype=np.float32), row
        )
        assert given_row["label"] == by_column["label"][index] == names[int(row.argmax())]


@pytest.mark.parametrize(
    ("outputs", "keys"),
    [
        ({Output.LABELS}, {"label"}),
        ({Output.PROBABILITIES}, {"probabilities"}),
        ({Output.INTERVALS}, {"interval"}),
        (set(Output), {"label", "probabilities", "contributions", "interval"}),
    ],
    ids=["labels", "probabilities", "intervals", "everything"],
)
def test_only_what_is_asked_for_is_told(outputs: set[Output], keys: set[str]) -> None:
    output = [[0.25, 0.75], [0.9, 0.1]]
    by_row = told(output, AnswerOptions(frozenset(outputs)), signature=explained())
    by_column = told(
        output, AnswerOptions(frozenset(outputs), form="columns"), signature=explained()
    )

    assert all(set(row) == keys for row in by_row["predictions"])
    assert set(by_column["columns"]) == keys
    Predictions.model_validate(by_row)
    PredictionColumns.model_validate(by_column)


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_every_format_tells_the_same(task: Task) -> None:
    output = [[0.25, 0.75], [0.9, 0.1]] if task is Task.BINARY else [1.5, -2.25]
    writer, made = prediction(output, explained(task))

    by_row = orjson.loads(writer.write(made, EVERYTHING, Format.JSON))["predictions"]
    lines = list(csv.DictReader(io.StringIO(writer.write(made, EVERYTHING, Format.CSV).decode())))
    stream = InputStream.from_readable(io.BytesIO(writer.write(made, EVERYTHING, Format.ARROW)))
    columns = na.ArrayStream(stream).read_all()
    names = [columns.schema.field(i).name for i in range(columns.schema.n_fields)]
    table = [dict(zip(names, row, strict=True)) for row in columns.iter_tuples()]

    assert len(by_row) == len(lines) == len(table) == 2
    for row, line, record in zip(by_row, lines, table, strict=True):
        assert set(line) == set(record)
        if task is Task.BINARY:
            assert str(row["label"]) == line["label"] == str(record["label"])
            for name, value in row["probabilities"].items():
                assert np.float32(value) == np.float32(line[f"probability_{name}"])
                assert np.float32(value) == np.float32(record[f"probability_{name}"])
            assert row["interval"]["labels"] == orjson.loads(line["interval_labels"])
        else:
            assert row["value"] == float(line["value"]) == record["value"]
            assert row["interval"]["lower"] == float(line["interval_lower"])
            assert row["interval"]["upper"] == record["interval_upper"]
        assert row["contributions"]["base"] == float(line["contributions_base"])
        for name, value in row["contributions"]["values"].items():
            assert value == float(line[f"contribution_{name}"]) == record[f"contribution_{name}"]


def test_csv_quotes_what_needs_it() -> None:
    signature = replace(
        churn_signature(), classes=('say "no"', "a,b"), target_type=ColumnType.STRING
    )
    writer, made = prediction([[0.25, 0.75]], signature)

    body = writer.write(made, AnswerOptions(frozenset({Output.LABELS})), Format.CSV)

    assert body == b'label\r\n"a,b"\r\n'


def test_warnings_stand_in_the_answer() -> None:
    warning = ContractWarning("age", "outside", 2, 1)

    assert told([[0.5, 0.5]] * 3, warnings=(warning,))["warnings"] == [
        {"field": "age", "message": "outside", "count": 2, "first_row": 1}
    ]


def test_an_answer_longer_than_a_response_may_be_is_refused_with_advice() -> None:
    with pytest.raises(RequestTooLargeError, match="several requests"):
        told([[0.5, 0.5]] * 9, answer_bytes=100)


# ── Options and formats ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": []},
        {"outputs": "labels"},
        {"outputs": ["label"]},
        {"outputs": [["labels"]]},
        {"outputs": None},
        {"coverage": 0},
        {"coverage": 1},
        {"coverage": True},
        {"coverage": "0.9"},
        {"coverage": None},
        {"form": "row"},
        {"form": None},
        {"form": ["rows"]},
    ],
    ids=str,
)
def test_an_option_that_says_nothing_known_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_options(options)

    assert [p.field for p in caught.value.problems] == list(options)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/json", Format.JSON),
        ("application/problem+json", Format.JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", Format.JSON),
        ("text/csv", Format.CSV),
        ("text/*", Format.CSV),
        ("TEXT/CSV; charset=utf-8", Format.CSV),
        ("application/json;q=0.5, text/csv", Format.CSV),
        ("text/csv;q=0, */*", Format.JSON),
        ("application/json;q=0, */*;q=0.1", Format.CSV),
        ("application/vnd.apache.arrow.stream", Format.ARROW),
        ("application/vnd.apache.arrow.stream, application/json;q=0.1", Format.ARROW),
    ],
)
def test_the_answer_is_written_in_what_is_preferred(accept: str, expected: Format) -> None:
    assert acceptable(accept) is expected


@pytest.mark.parametrize(
    "accept", ["image/png", "text/html", "*/*;q=0", "text/csv;q=x", "nonsense"]
)
def test_what_nothing_is_written_in_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match=Format.CSV):
        acceptable(accept)
