"""Small made-up data with something to learn in it: specs and files for tests that go end to end.

The rows are a pure function of the arguments. One feature carries most of the signal, one is a
category, one has gaps, one is noise; an id and a sensitive column ride along.
"""

import csv
import io
import math
import random
from typing import Any, Literal

from millrace.spec import ModelSpec

MODEL = "churn"

type Row = dict[str, str]
type TaskName = Literal["binary", "multiclass", "regression"]

TARGETS: dict[TaskName, str] = {"binary": "left", "multiclass": "plan", "regression": "spend"}
_TARGET_TYPES: dict[TaskName, str] = {
    "binary": "boolean",
    "multiclass": "string",
    "regression": "number",
}
CITIES = ("Aarhus", "Bergen", "Cork")


def document(name: str = MODEL, task: TaskName = "binary", **sections: Any) -> dict[str, Any]:
    """A spec as a user would write it, quick to train.

    Args:
        name: The model.
        task: What it predicts.
        sections: Keys laid over those of a section, or a section's whole value; for example
            ``train={"trials": 4}`` or ``approve={"mode": "manual"}``.
    """
    base: dict[str, Any] = {
        "name": name,
        "task": task,
        "data": {
            "columns": [
                {"name": "customer", "type": "string", "role": "id"},
                {"name": "sex", "type": "string", "role": "sensitive"},
                {"name": "tenure", "type": "number", "min": 0, "max": 120},
                {"name": "calls", "type": "integer", "min": 0},
                {"name": "city", "type": "string", "allowed": list(CITIES)},
                {"name": "noise", "type": "number"},
                {"name": TARGETS[task], "type": _TARGET_TYPES[task], "role": "target"},
            ],
            "min_rows": 50,
        },
        "train": {"candidates": ["linear"], "trials": 2, "folds": 2},
        "evaluate": {"bootstrap": 50},
    }
    for section, value in sections.items():
        base[section] = {**base.get(section, {}), **value} if isinstance(value, dict) else value
    return base


def spec(name: str = MODEL, task: TaskName = "binary", **sections: Any) -> ModelSpec:
    """`document`, validated."""
    return ModelSpec.from_document(document(name, task, **sections))


def rows(count: int = 300, *, task: TaskName = "binary", seed: int = 1) -> list[Row]:
    """Rows as text, the way a CSV holds them; another seed gives other customers."""
    # Numbers from a seed, not secrets.
    draw = random.Random(seed)
    return [_row(draw, f"customer-{seed}-{number}", task) for number in range(count)]


def _row(draw: random.Random, customer: str, task: TaskName) -> Row:
    tenure = draw.uniform(0, 120)
    calls = draw.randint(0, 9)
    city = draw.choice(CITIES)
    score = (60 - tenure) / 15 + (calls - 4) / 4 + (city == "Cork") + draw.gauss(0, 0.5)
    match task:
        case "binary":
            target = "true" if draw.random() < 1 / (1 + math.exp(-score)) else "false"
        case "multiclass":
            target = "basic" if score > 1.5 else "plus" if score > -1.5 else "premium"
        case "regression":
            target = f"{100 - 10 * score:.2f}"
    return {
        "customer": customer,
        "sex": draw.choice("fm"),
        "tenure": f"{tenure:.1f}",
        "calls": "" if draw.random() < 0.05 else str(calls),
        "city": "" if draw.random() < 0.05 else city,
        "noise": f"{draw.gauss(0, 1):.3f}",
        TARGETS[task]: target,
    }


def csv_file(table: list[Row]) -> bytes:
    """The rows as a CSV file with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode()


def request_rows(table: list[Row]) -> list[dict[str, Any]]:
    """The rows' features as the prediction API takes them."""
    return [
        {
            "tenure": float(row["tenure"]),
            "calls": int(row["calls"]) if row["calls"] else None,
            "city": row["city"] or None,
            "noise": float(row["noise"]),
        }
        for row in table
    ]


def capture_line(
    *,
    model: str = MODEL,
    at_ms: int = 1_795_285_200_123,
    process: str = "5f0e8c1d2b3a4f60",
    sequence: int = 1,
) -> dict[str, Any]:
    """A line of the predict function with two rows captured; its id belongs to it alone."""
    tail = f"{sequence:06x}{process.encode().hex()[:6]:0<6}"
    time_part = f"{at_ms:012x}"
    return {
        "_aws": {"Timestamp": at_ms, "CloudWatchMetrics": []},
        "service": "millrace",
        "level": "INFO",
        "message": "predicted",
        "model": model,
        "version": 3,
        "prediction_id": f"{time_part[:8]}-{time_part[8:]}-7000-8000-{tail}",
        "row_count": 2,
        "Predictions": 2,
        "PredictionLatency": 1.42,
        "warnings": {"age": 1},
        "capture": {
            "schema": 1,
            "process": process,
            "sequence": sequence,
            "rate": 1.0,
            "inputs": {"age": [41, 29], "plan": ["basic", None]},
            "outputs": {"probabilities": [[0.9, 0.1], [0.4, 0.6]]},
        },
    }
