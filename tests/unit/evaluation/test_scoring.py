"""Champion and candidate on one split: when they can be compared, and how their answers are read."""

from typing import Any

import numpy as np
import pytest

from millrace.datasets.table import ColumnSchema, Table, TableSchema
from millrace.errors import ArtifactError, TrainingError
from millrace.evaluation import scoring
from millrace.evaluation.scoring import (
    check_split,
    guess,
    model_inputs,
    score,
    why_incomparable,
)
from millrace.signature import FeatureField, Signature
from millrace.spec import Algorithm, ColumnType, Role, Task
from tests.unit.evaluation import cases

NUMBER, STRING = ColumnType.NUMBER, ColumnType.STRING


def signature(
    features: dict[str, ColumnType],
    task: Task = Task.BINARY,
    classes: tuple[str, ...] = ("no", "yes"),
    target: str = "y",
) -> Signature:
    return Signature(
        model="tiny",
        task=task,
        target=target,
        features=tuple(FeatureField(name=n, type=t, nullable=True) for n, t in features.items()),
        classes=classes,
        target_type=STRING,
        algorithm=Algorithm.LINEAR,
        onnx_opset=17,
    )


SPLIT = cases.table(
    a=cases.numbers([1, 2, np.nan]),
    b=cases.strings(["x", None, "z"]),
    c=cases.numbers([7, 8, 9]),
)


def test_inputs_are_in_the_order_of_the_signature_not_of_the_split() -> None:
    numeric, categorical = model_inputs(signature({"c": NUMBER, "b": STRING, "a": NUMBER}), SPLIT)

    assert np.array_equal(
        numeric, np.array([[7, 1], [8, 2], [9, np.nan]], dtype=np.float32), equal_nan=True
    )
    assert categorical.tolist() == [["x"], [""], ["z"]]


def test_a_model_that_uses_a_part_of_the_columns_is_comparable() -> None:
    assert why_incomparable(signature({"a": NUMBER}), SPLIT.schema) is None


def test_an_integer_is_read_as_a_number() -> None:
    assert why_incomparable(signature({"a": ColumnType.INTEGER}), SPLIT.schema) is None


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (signature({"a": NUMBER}, Task.REGRESSION, ()), "its task is regression"),
        (signature({"a": NUMBER}, target="z"), "it predicts 'z'"),
        (signature({"a": NUMBER}, classes=("no", "maybe")), "its classes are not"),
        (
            signature({"gone": NUMBER, "a": NUMBER}),
            "it needs 'gone', which this dataset version does not have",
        ),
        (signature({"b": NUMBER}), "it takes 'b' as number and this dataset version has it as"),
        (
            signature({f"gone{i}": NUMBER for i in range(5)}),
            "it needs 'gone0', 'gone1', 'gone2' and 2 more",
        ),
    ],
    ids=["task", "target", "classes", "missing", "type", "many-missing"],
)
def test_the_reason_a_champion_cannot_be_compared_is_told(champion: Signature, reason: str) -> None:
    assert (why_incomparable(champion, SPLIT.schema) or "").startswith(reason)


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(scoring, "predict", lambda *_: np.asarray(answer, dtype=np.float32))


def multiclass(classes: tuple[str, ...], target: list[int]) -> Table:
    schema = TableSchema(
        task=Task.MULTICLASS,
        target="y",
        classes=classes,
        columns=(
            ColumnSchema(name="a", type=NUMBER, role=Role.FEATURE),
            ColumnSchema(name="y", type=STRING, role=Role.TARGET),
        ),
        rows={"test": len(target)},
    )
    arrays: dict[str, Any] = {
        "a": np.zeros(len(target)),
        "y": np.array(target, dtype=np.int32),
    }
    return Table(schema=schema, arrays=arrays, row=np.arange(len(target), dtype=np.uint64))


def test_classes_a_champion_does_not_know_get_probability_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering(monkeypatch, [[0.9, 0.1], [0.2, 0.8]])
    champion = signature({"a": NUMBER}, Task.MULTICLASS, ("c", "old"))

    outcome = score(None, champion, multiclass(("b", "c"), [0, 1]), "tiny@1")

    assert outcome.output == pytest.approx(np.array([[0, 0.9, 0.1], [0, 0.2, 0.8]]))
    assert outcome.labels.tolist() == [1, 2]


def test_answers_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [[0.5, 0.5], [np.nan, 1], [0.5, np.inf]])

    with pytest.raises(ArtifactError, match="tiny@1: 2 of 3 answers are not finite"):
        score(None, signature({"a": NUMBER}), SPLIT, "tiny@1")


def test_a_split_of_one_class_is_refused() -> None:
    with pytest.raises(TrainingError, match="'y' has one class only in all of its 2 rows"):
        check_split(multiclass(("b", "c"), [1, 1]))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(TrainingError, match="has 0 rows"):
        check_split(multiclass(("b", "c"), []))


def test_the_guess_answers_the_class_shares() -> None:
    constant = guess(cases.binary_outcome([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]))

    assert constant.output == pytest.approx(np.tile([0.75, 0.25], (4, 1)))
