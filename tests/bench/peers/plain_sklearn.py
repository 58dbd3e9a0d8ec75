"""FastAPI with a pickled scikit-learn model as most people write it.

The pickle is the peer's way, and what is measured; nothing of ours reads one.
"""

import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

# The bench wrote this file itself, a moment ago.
model = joblib.load(Path(os.environ["PEER_FOLDER"]) / "model.joblib")
app = FastAPI()


class Request(BaseModel):
    """The request's body: encoded features."""

    rows: list[list[float | None]]


@app.post("/predict")
def predict(request: Request) -> dict[str, Any]:
    """Probabilities."""
    features = np.array(request.rows, dtype=np.float64)
    return {"probabilities": model.predict_proba(features).tolist()}
