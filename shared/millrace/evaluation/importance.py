"""Permutation importance: how much worse the model gets when one feature is shuffled.

Breiman, Random Forests (2001), section 10, on held-out rows. Correlated features share their
importance and each may look small.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace.evaluation.document import FeatureImportance, Importance
from millrace.evaluation.metrics import Floats, Outcome, compute, improvement
from millrace.onnx_session import predict
from millrace.signature import Signature
from millrace.spec import ColumnType

MAX_ROWS: Final = 2_000
MIN_ROWS: Final = 100
REPEATS: Final = 3
MAX_PREDICTIONS: Final = 400_000
"""Bounds the time for wide tables: fewer rows are sampled when there are many features."""


def permutation_importance(
    session: onnxruntime.InferenceSession,
    signature: Signature,
    inputs: tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]],
    outcome: Outcome,
    metric: str,
    seed: int,
) -> Importance:
    """Shuffles one feature after the other on a seeded sample of the rows.

    Args:
        session: The model.
        signature: Its signature.
        inputs: The model's inputs on the rows of ``outcome``.
        outcome: The model's answers on them.
        metric: What is measured; the importance is by how much it gets worse.
        seed: Names sample and shuffles.
    """
    rng = np.random.default_rng(seed)
    budget = MAX_PREDICTIONS // (len(signature.features) * REPEATS)
    rows = min(outcome.rows, max(MIN_ROWS, min(MAX_ROWS, budget)))
    sample = np.sort(rng.choice(outcome.rows, rows, replace=False))
    numeric, categorical = inputs[0][sample], inputs[1][sample]
    sampled = outcome.take(sample)
    base = compute(metric, sampled)

    def worsening(shuffled: Floats) -> float:
        changed = Outcome(outcome.task, sampled.truth, shuffled)
        return -improvement(metric, compute(metric, changed), base)

    numeric_index = {f.name: i for i, f in enumerate(signature.numeric)}
    categorical_index = {f.name: i for i, f in enumerate(signature.categorical)}
    measured = []
    for feature in signature.features:
        effects = []
        for _ in range(REPEATS):
            order = rng.permutation(rows)
            if feature.type is ColumnType.STRING:
                mixed = categorical.copy()
                column = categorical_index[feature.name]
                mixed[:, column] = categorical[order, column]
                answer = predict(session, signature, numeric, mixed)
            else:
                shuffled = numeric.copy()
                column = numeric_index[feature.name]
                shuffled[:, column] = numeric[order, column]
                answer = predict(session, signature, shuffled, categorical)
            effects.append(worsening(answer.astype(np.float64)))
        measured.append((feature.name, np.asarray(effects)))
    features = [
        FeatureImportance(feature=name, mean=float(effects.mean()), deviation=float(effects.std()))
        for name, effects in measured
        if np.isfinite(effects).all()
    ]
    features.sort(key=lambda f: (-f.mean, f.feature))
    return Importance(metric=metric, rows=rows, repeats=REPEATS, features=tuple(features))
