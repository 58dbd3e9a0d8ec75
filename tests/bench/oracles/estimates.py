"""Runs in the environment of the oracles: what NannyML estimates of a stream without its labels.

    estimates.py STREAM.npz ANSWERS.json

``chunks`` says how many. A classification brings ``reference_scores``, ``reference_labels`` and ``scores``
(of several classes: [rows, classes]); a regression ``reference_truth``, ``reference_output``, ``output``
and, by ``reference_<name>`` and ``analysis_<name>``, its ``features``. The answers are the estimates by metric
and chunk.
"""

import json
import sys
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd

METRICS = ["roc_auc", "f1", "accuracy"]


def classification(stream: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """NannyML's confidence-based performance estimation."""
    reference, scores = stream["reference_scores"], stream["scores"]
    if reference.ndim == 1:
        kind, columns = "classification_binary", "score"
        past = pd.DataFrame({"score": reference, "predicted": (reference > 0.5).astype(int)})
        later = pd.DataFrame({"score": scores, "predicted": (scores > 0.5).astype(int)})
    else:
        kind = "classification_multiclass"
        columns = {code: f"score_{code}" for code in range(reference.shape[1])}
        past = pd.DataFrame(reference, columns=list(columns.values()))
        past["predicted"] = reference.argmax(axis=1)
        later = pd.DataFrame(scores, columns=list(columns.values()))
        later["predicted"] = scores.argmax(axis=1)
    past["label"] = stream["reference_labels"]
    estimator = nannyml.CBPE(
        y_pred_proba=columns,
        y_pred="predicted",
        y_true="label",
        metrics=METRICS,
        problem_type=kind,
        chunk_number=int(stream["chunks"]),
    )
    return told(estimator.fit(past).estimate(later), METRICS)


def regression(stream: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """NannyML's direct loss estimation, by its boosted trees with their defaults."""
    names = [str(name) for name in stream["features"]]
    past = pd.DataFrame({name: stream[f"reference_{name}"] for name in names})
    later = pd.DataFrame({name: stream[f"analysis_{name}"] for name in names})
    for name in names:
        if past[name].dtype == object or past[name].dtype.kind in "US":
            past[name] = past[name].astype("category")
            later[name] = later[name].astype(past[name].dtype)
    past["truth"], past["output"] = stream["reference_truth"], stream["reference_output"]
    later["output"] = stream["output"]
    estimator = nannyml.DLE(
        feature_column_names=names,
        y_pred="output",
        y_true="truth",
        metrics=["mae", "rmse"],
        chunk_number=int(stream["chunks"]),
    )
    return told(estimator.fit(past).estimate(later), ["mae", "rmse"])


def told(results: object, metrics: list[str]) -> dict[str, list[float]]:
    """The estimates of the analysis, chunk by chunk."""
    frame = results.filter(period="analysis").to_df()
    return {name: [float(v) for v in frame[(name, "value")]] for name in metrics}


def main(stream_path: Path, answers_path: Path) -> None:
    """Reads the stream, writes the answers."""
    with np.load(stream_path, allow_pickle=False) as stored:
        stream = dict(stored)
    estimate = regression if "features" in stream else classification
    answers_path.write_text(json.dumps(estimate(stream)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
