"""FastAPI with ONNX Runtime as most people write it: typed rows in, a list of answers out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

FOLDER = Path(os.environ["PEER_FOLDER"])
SIGNATURE = json.loads((FOLDER / "signature.json").read_text())
NUMERIC = [f["name"] for f in SIGNATURE["features"] if f["type"] != "string"]
TEXTS = [f["name"] for f in SIGNATURE["features"] if f["type"] == "string"]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    (FOLDER / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
)
app = FastAPI()


class Row(BaseModel):
    """One row of the bench's model."""

    visits: int | None
    age: int
    ratio: float | None
    income: float
    member: bool | None
    agreed: bool
    city: str | None
    plan: str


class Request(BaseModel):
    """The request's body."""

    rows: list[Row]


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Probabilities and labels."""
    numeric = np.array(
        [[getattr(row, name) for name in NUMERIC] for row in request.rows], dtype=np.float32
    )
    texts = np.array(
        [[getattr(row, name) or "" for name in TEXTS] for row in request.rows], dtype=object
    )
    (probabilities,) = session.run(None, {"numeric": numeric, "categorical": texts})
    classes = SIGNATURE["classes"]
    return {
        "predictions": [
            {
                "label": classes[int(row.argmax())],
                "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]
    }
