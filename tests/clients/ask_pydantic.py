"""Asks as `pydantic-open-inference` does: inputs and outputs are pydantic models.

Plan: ``url``, ``model``, ``missing``, ``inputs``, ``outputs`` (names and datatypes).
"""

import json
import sys
from typing import Annotated, Any, NamedTuple

from pydantic import create_model
from pydantic_open_inference import (
    BadStatusCodeFromServerError,
    DatatypeOverride,
    InputsBaseModel,
    OutputsBaseModel,
    RemoteModel,
)

_TYPES = {"BOOL": bool, "BYTES": str, "INT64": int, "FP64": float, "FP32": float}


def _input(tensor: dict[str, Any]) -> tuple[Any, Any]:
    """A field of the inputs."""
    datatype = tensor["datatype"]
    values: Any = list.__class_getitem__(_TYPES[datatype])
    return Annotated[values, DatatypeOverride(datatype)], ...


def _output(tensor: dict[str, Any]) -> tuple[Any, Any]:
    """A field of the outputs: one value a row, or several."""
    _, *width = tensor["shape"]
    kind = _TYPES[tensor["datatype"]]
    # With list[tuple[float, float]] the client's own check counts the tuple twice.
    row: Any = NamedTuple("Row", [(f"c{i}", kind) for i in range(width[0])]) if width else kind
    return list.__class_getitem__(row), ...


def refused(plan: dict[str, Any], inputs_of: Any, outputs_of: Any) -> int | None:
    """The status that asking a model which is not there has."""
    remote: Any = RemoteModel(
        model_name=plan["missing"],
        inputs_model=inputs_of,
        outputs_model=outputs_of,
        server_url=plan["url"],
    )
    try:
        remote.infer(inputs_of(**{i["name"]: i["data"] for i in plan["inputs"]}))
    except BadStatusCodeFromServerError as exc:
        return exc.status_code
    return None


def main() -> None:
    """Asks everything."""
    plan = json.load(sys.stdin)
    make: Any = create_model
    inputs_of = make(
        "Inputs", __base__=InputsBaseModel, **{i["name"]: _input(i) for i in plan["inputs"]}
    )
    outputs_of = make(
        "Outputs", __base__=OutputsBaseModel, **{o["name"]: _output(o) for o in plan["outputs"]}
    )
    remote: Any = RemoteModel(
        model_name=plan["model"],
        inputs_model=inputs_of,
        outputs_model=outputs_of,
        server_url=plan["url"],
    )
    remote.validate()
    answered = remote.infer(inputs_of(**{i["name"]: i["data"] for i in plan["inputs"]}))
    json.dump(
        {
            "ready": remote.is_ready(),
            "answer": answered.model_dump(),
            "refused": refused(plan, inputs_of, outputs_of),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
