"""Runs in the environment of the oracles: what Evidently and NannyML say of samples.

    drift.py SAMPLES.npz ANSWERS.json

``reference`` and ``windows`` are arrays [rows, features] and [windows, rows, features]. The answers are, for
each window and feature, Evidently's PSI with its edges, its default test's score and verdict, and
NannyML's Jensen-Shannon distance with its threshold and verdict.
"""

import json
import sys
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests import psi_stat_test
from evidently.legacy.calculations.stattests.registry import get_stattest
from evidently.legacy.core import ColumnType


def evidently_says(reference: pd.Series, window: pd.Series) -> dict[str, object]:
    """PSI, and the test that it takes when told nothing."""
    edges = np.histogram_bin_edges(np.concatenate((reference, window)), bins="sturges")
    taken = get_stattest(reference, window, ColumnType.Numerical, None)
    result = taken(reference, window, ColumnType.Numerical, None)
    found = psi_stat_test(reference, window, ColumnType.Numerical, None)
    return {
        "edges": edges.tolist(),
        "psi": float(found.drift_score),
        "test": taken.name,
        "score": float(result.drift_score),
        "drifted": bool(result.drifted),
    }


def nannyml_says(reference: pd.DataFrame, windows: list[pd.DataFrame]) -> list[dict[str, object]]:
    """What the calculator of univariate drift finds with its defaults, chunk by chunk."""
    rows = len(windows[0])
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference), chunk_size=rows, continuous_methods=["jensen_shannon"]
    )
    calculator.fit(reference)
    found = calculator.calculate(pd.concat(windows, ignore_index=True)).filter(period="analysis")
    table = found.to_df()
    answers = []
    for number in range(len(windows)):
        row = table.iloc[number]
        answers.append(
            {
                name: {
                    "distance": float(row[name, "jensen_shannon", "value"]),
                    "threshold": float(row[name, "jensen_shannon", "upper_threshold"]),
                    "alert": bool(row[name, "jensen_shannon", "alert"]),
                }
                for name in reference
            }
        )
    return answers


def main() -> None:
    """Reads the samples, writes the answers."""
    given = np.load(sys.argv[1])
    names = [f"n{i}" for i in range(given["reference"].shape[1])]
    reference = pd.DataFrame(given["reference"], columns=names)
    windows = [pd.DataFrame(rows, columns=names) for rows in given["windows"]]
    answers = {
        "versions": {"nannyml": nannyml.__version__},
        "evidently": [
            {name: evidently_says(reference[name], window[name]) for name in names}
            for window in windows
        ],
        "nannyml": nannyml_says(reference, windows),
    }
    Path(sys.argv[2]).write_text(json.dumps(answers), encoding="utf-8")


main()
