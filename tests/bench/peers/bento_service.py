"""The model as a BentoML service."""

import os
from pathlib import Path

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1, traffic={"timeout": 30})
class Scorer:
    """Encoded features in, probabilities out."""

    def __init__(self) -> None:
        self.model = joblib.load(Path(os.environ["PEER_FOLDER"]) / "model.joblib")

    @bentoml.api
    def predict(self, rows: list[list[float | None]]) -> list[list[float]]:
        """Probabilities."""
        probabilities: list[list[float]] = self.model.predict_proba(
            np.array(rows, dtype=np.float64)
        ).tolist()
        return probabilities
