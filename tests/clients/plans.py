"""What the public clients are told to ask, from a signature and rows."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from millrace.signature import FeatureField, Signature
from millrace.spec import ColumnType, Task

DATATYPES: Final = {
    ColumnType.INTEGER: "INT64",
    ColumnType.NUMBER: "FP64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.STRING: "BYTES",
}


def plan_of(
    url: str, signature: Signature, rows: Sequence[dict[str, Any]], *, version: int
) -> dict[str, Any]:
    """A plan for every client.

    Args:
        url: Where the server answers, with its base path.
        signature: The model's signature.
        rows: Rows as the native API takes them, nothing missing.
        version: The version that answers.
    """
    regression = signature.task is Task.REGRESSION
    outputs = [{"name": "prediction", "datatype": "FP32", "shape": [-1]}]
    if not regression:
        label = {ColumnType.INTEGER: "INT64", ColumnType.BOOLEAN: "BOOL"}
        outputs = [
            {
                "name": "label",
                "datatype": label.get(signature.target_type, "BYTES"),
                "shape": [-1],
            },
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(signature.classes)]},
        ]
    return {
        "url": url,
        "model": signature.model,
        "version": str(version),
        "missing": "no-such-model",
        "inputs": inputs_of(signature, rows),
        "packed": packed_of(signature, rows),
        "outputs": outputs,
        "score": outputs[-1]["name"],
        "others": [o["name"] for o in outputs[:-1]],
        "wrong": wrong_of(signature, rows),
    }


def inputs_of(signature: Signature, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One tensor per feature."""
    return [_tensor(f, rows) for f in signature.features]


def packed_of(signature: Signature, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The packed tensors."""
    forms: tuple[tuple[str, str, tuple[FeatureField, ...], Callable[[Any], Any]], ...] = (
        ("numeric", "FP32", signature.numeric, float),
        ("categorical", "BYTES", signature.categorical, str),
    )
    return [
        {
            "name": name,
            "datatype": datatype,
            "shape": [len(rows), len(features)],
            "data": [make(row[f.name]) for row in rows for f in features],
        }
        for name, datatype, features, make in forms
        if features
    ]


def wrong_of(signature: Signature, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Requests that are refused, by what is wrong with them."""
    inputs = inputs_of(signature, rows)
    first = inputs[0]
    other: dict[str, Any] = {"datatype": "BYTES", "data": ["x"] * len(rows)}
    if first["datatype"] == "BYTES":
        other = {"datatype": "FP64", "data": [1.0] * len(rows)}
    wide = {"shape": [len(rows), 2], "data": [v for v in first["data"] for _ in range(2)]}
    return {
        "missing model": {"inputs": inputs, "model": "no-such-model"},
        "wrong datatype": {"inputs": [first | other, *inputs[1:]]},
        "wrong shape": {"inputs": [first | wide, *inputs[1:]]},
        "missing input": {"inputs": inputs[1:]},
        "unknown input": {"inputs": [*inputs, first | {"name": "unheard-of"}]},
        "unknown output": {"inputs": inputs, "outputs": ["unheard-of"]},
        "ragged rows": {"inputs": [*inputs[:-1], _without_last(inputs[-1])]},
    }


def _without_last(tensor: dict[str, Any]) -> dict[str, Any]:
    return tensor | {"shape": [tensor["shape"][0] - 1], "data": tensor["data"][:-1]}


def _tensor(feature: FeatureField, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": feature.name,
        "datatype": DATATYPES[feature.type],
        "shape": [len(rows)],
        "data": [row[feature.name] for row in rows],
    }
