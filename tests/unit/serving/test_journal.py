"""The one line of a prediction: metrics and capture record, read again as the capture function does."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.registry.serving import ServingRecord
from millrace.serving.capture import of_line
from millrace.serving.capture_record import PACKED_FROM
from millrace.serving.codec import SignatureCodec
from millrace.serving.columns import Coded
from millrace.serving.features import Batch
from millrace.serving.journal import MAX_LINE_BYTES, PredictionLog
from millrace.serving.model import load_model
from millrace.serving.prediction import Prediction
from millrace.serving.store import LoadedModel
from millrace.signature import Signature
from tests.fakes.onnx_models import StoredModel, churn_signature, stored

ID = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def loaded_model(signature: Signature) -> LoadedModel:
    model: StoredModel = stored("run-1", signature=signature)
    return LoadedModel(
        record=ServingRecord(
            model=signature.model,
            version=3,
            run_id="run-1",
            model_key=model.model_key,
            sha256=model.sha256,
            signature_key=model.signature_key,
            signature_sha256=model.signature_sha256,
            updated_at=datetime(2026, 11, 1, tzinfo=UTC),
        ),
        signature=signature,
        codec=SignatureCodec(signature),
        model=load_model(model.onnx, model.sha256, "churn@3", signature),
        size=len(model.onnx),
    )


def predicted(rows: int, signature: Signature | None = None, plan: str = "basic") -> Prediction:
    """A prediction of rows whose numbers take all forms."""
    loaded: LoadedModel = loaded_model(signature or churn_signature())
    dice = np.random.default_rng(rows)
    numeric = (dice.normal(size=(rows, 3)) * 10.0 ** dice.integers(-30, 30, (rows, 3))).astype(
        np.float32
    )
    numeric[:, 1] = np.where(np.arange(rows) % 3 == 1, np.nan, numeric[:, 1])
    share = dice.random(rows).astype(np.float32)
    output: npt.NDArray[np.float32] = np.stack([share, 1 - share], axis=1)
    texts = np.empty((rows, 2), dtype=object)
    texts[:] = [[plan, "Graz"]] * rows
    return Prediction(loaded, Batch(rows, numeric, texts), ID, output)


def line_of(prediction: Prediction) -> dict[str, Any]:
    lines: list[bytes] = []
    log = PredictionLog(lines.append, now=lambda: 1_795_285_200.1234)
    log.answered(prediction, seconds=0.00142, correlation_id='"quoted"')
    (line,) = lines
    assert line.endswith(b"}\n")
    assert len(line) <= MAX_LINE_BYTES
    read: dict[str, Any] = json.loads(line)
    return read


@pytest.mark.parametrize("rows", [1, 2, PACKED_FROM - 1, PACKED_FROM, 1_000])
def test_inputs_and_outputs_are_read_again_to_the_bit(rows: int) -> None:
    prediction = predicted(rows)

    record = of_line(line_of(prediction))

    numeric = prediction.batch.numeric
    for name, column in zip(("age", "tenure", "active"), numeric.T, strict=True):
        np.testing.assert_array_equal(np.array(record.inputs[name], dtype=np.float32), column)
    assert record.inputs["plan"] == ["basic"] * rows
    np.testing.assert_array_equal(
        np.array(record.outputs["probabilities"], dtype=np.float32), prediction.output
    )
    assert record.row_count == rows
    assert record.latency_ms == 1.42


def test_packed_numbers_read_as_the_digits_of_few_rows_do() -> None:
    many = predicted(PACKED_FROM)
    few = predicted(2)
    few = few._replace(
        batch=Batch(2, many.batch.numeric[:2], few.batch.categorical), output=many.output[:2]
    )

    packed, digits = of_line(line_of(many)), of_line(line_of(few))

    assert {name: column[:2] for name, column in packed.inputs.items()} == digits.inputs
    assert packed.outputs["probabilities"][:2] == digits.outputs["probabilities"]


@pytest.fixture(scope="module")
def oddly_named() -> Prediction:
    """A prediction of one row; its features' names are what a template may take for its own."""
    signature = churn_signature()
    odd = {"plan": 'p%b "of', "age": "100%"}
    features = tuple(
        replace(f, name=odd.get(f.name, f.name), private=False) for f in signature.features
    )
    return predicted(1, replace(signature, features=features))


@given(plan=st.text('",\\%b[]{}ü\n', max_size=12), city=st.text(max_size=12))
def test_texts_of_one_row_are_read_again_whatever_is_in_them(
    plan: str, city: str, oddly_named: Prediction
) -> None:
    texts = np.empty((1, 2), dtype=object)
    texts[0] = [plan, city]
    batch = Batch(1, oddly_named.batch.numeric, texts)

    record = of_line(line_of(oddly_named._replace(batch=batch)))

    assert record.inputs['p%b "of'] == [plan]
    assert record.inputs["city"] == [city]
    assert sorted(record.inputs) == ["100%", "active", "city", 'p%b "of', "tenure"]


def of_codes(rows: int, distinct: int, signature: Signature | None = None) -> Prediction:
    """A prediction of rows whose texts came as codes: of the plan even ones, of the city odd ones."""
    prediction = predicted(rows, signature)
    each = np.arange(rows) * 2 % distinct
    codes = np.stack([each, each + 1], axis=1)
    coded = Coded(codes.reshape(-1), [f"text {place}" for place in range(distinct)])
    return prediction._replace(batch=Batch(rows, prediction.batch.numeric, coded=coded))


def all_public() -> Signature:
    signature = churn_signature()
    features = tuple(replace(f, private=False) for f in signature.features)
    return replace(signature, features=features)


@pytest.mark.parametrize(
    ("rows", "distinct", "kind"),
    [(2, 4, None), (PACKED_FROM, 4, "uint8"), (300, 256, "uint8"), (300, 258, "uint16")],
)
def test_texts_by_code_are_read_again(rows: int, distinct: int, kind: str | None) -> None:
    prediction = of_codes(rows, distinct, all_public())

    line = line_of(prediction)

    assert line["capture"]["schema"] == (1 if kind is None else 2)
    assert kind is None or kind in line["capture"]["texts"]
    inputs = of_line(line).inputs
    assert inputs["plan"] == prediction.batch.categorical[:, 0].tolist()
    assert inputs["city"] == prediction.batch.categorical[:, 1].tolist()


def test_values_of_private_features_are_not_among_the_values_of_codes() -> None:
    prediction = of_codes(200, 40)  # the city is private

    line = line_of(prediction)

    texts = line["capture"]["texts"]
    assert texts["features"] == ["plan"]
    assert texts["values"] == [f"text {place}" for place in range(0, 40, 2)]
    assert of_line(line).inputs["plan"] == prediction.batch.categorical[:, 0].tolist()


def test_of_more_coded_rows_than_a_line_carries_some_are_kept() -> None:
    prediction = of_codes(20_000, 4, all_public())

    record = of_line(line_of(prediction))

    assert record.rows is not None
    assert 1_000 < len(record.rows) < 20_000
    kept = list(record.rows)
    assert record.inputs["city"] == prediction.batch.categorical[kept, 1].tolist()
    told = np.array(record.inputs["age"], dtype=np.float32)
    np.testing.assert_array_equal(told, prediction.batch.numeric[kept, 0])


@pytest.mark.parametrize("rows", [1, 2, 400])
def test_private_features_are_not_on_the_line(rows: int) -> None:
    signature = churn_signature()
    features = tuple(replace(f, private=f.name in ("age", "plan")) for f in signature.features)
    prediction = predicted(rows, replace(signature, features=features))

    record = of_line(line_of(prediction))

    assert sorted(record.inputs) == ["active", "city", "tenure"]
    told = np.array(record.inputs["active"], dtype=np.float32)
    np.testing.assert_array_equal(told, prediction.batch.numeric[:, 2])


def test_of_more_rows_than_a_line_carries_some_are_kept_and_named() -> None:
    prediction = predicted(5_000, plan="a plan whose name takes much of the line's room")

    record = of_line(line_of(prediction))

    assert record.rows is not None
    assert 100 < len(record.rows) < 5_000
    kept = list(record.rows)
    told = np.array(record.inputs["age"], dtype=np.float32)
    np.testing.assert_array_equal(told, prediction.batch.numeric[kept, 0])


def test_the_line_is_a_log_line_of_embedded_metrics() -> None:
    line = line_of(predicted(2))

    assert line["timestamp"] == "2026-11-21T18:20:00.123+00:00"
    assert line["_aws"]["Timestamp"] == 1_795_285_200_123
    assert line["correlation_id"] == '"quoted"'
    names = [m["Name"] for m in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    assert {name: line[name] for name in names} == {
        "Predictions": 2,
        "PredictionLatency": 1.42,
        "CapturedRequests": 1,
    }


def test_the_codec_of_a_signature_writes_each_line_alike() -> None:
    prediction = predicted(3)
    lines: list[bytes] = []
    log = PredictionLog(lines.append, now=lambda: 1_795_285_200.0)

    for _ in range(2):
        log.answered(prediction, seconds=0.001, correlation_id="c")

    first, second = map(json.loads, lines)
    assert (first["capture"].pop("sequence"), second["capture"].pop("sequence")) == (1, 2)
    assert first == second
