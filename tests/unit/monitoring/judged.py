"""Judged versions made up of arrays, their baselines, and samples of live rows."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.evaluation.bootstrap import draw, measured
from millrace.evaluation.document import FeatureImportance, Importance
from millrace.evaluation.metrics import Outcome, compute, prepare
from millrace.evaluation.reference import Judged
from millrace.monitoring.sample import Sample
from millrace.signature import FeatureField, Signature
from millrace.spec import Algorithm, ColumnType, ModelSpec, Task, metrics_for

type Columns = Mapping[str, npt.NDArray[Any]]

BEGIN = datetime(2026, 11, 2, 8, tzinfo=UTC)
RESAMPLES = 60


def judged(
    task: Task,
    columns: Columns,
    truth: Any,
    output: Any,
    *,
    classes: tuple[str, ...] = ("no", "yes"),
    types: Mapping[str, ColumnType] | None = None,
    private: tuple[str, ...] = (),
    slices: Sequence[Mapping[str, Any]] = (),
    resamples: int = RESAMPLES,
) -> Judged:
    """A version that was judged on these rows; texts are columns of objects."""
    types = types or {
        name: ColumnType.STRING if values.dtype == object else ColumnType.NUMBER
        for name, values in columns.items()
    }
    target = ColumnType.NUMBER if task is Task.REGRESSION else ColumnType.STRING
    spec = ModelSpec.from_document(
        {
            "name": "churn",
            "task": task.value,
            "data": {
                "columns": [
                    *({"name": name, "type": kind.value} for name, kind in types.items()),
                    {"name": "target", "type": target.value, "role": "target"},
                ]
            },
            "evaluate": {"slices": [dict(one) for one in slices]},
            "privacy": {"never_log": list(private)},
        }
    )
    signature = Signature(
        model="churn",
        task=task,
        target="target",
        features=tuple(
            FeatureField(name=name, type=kind, nullable=True, private=name in private)
            for name, kind in types.items()
        ),
        classes=() if task is Task.REGRESSION else classes,
        target_type=target,
        algorithm=Algorithm.LINEAR,
        onnx_opset=17,
    )
    rows = len(truth)
    outcome = Outcome(task, np.asarray(truth), np.asarray(output, dtype=np.float64))
    names = metrics_for(task)
    draws = draw({name: prepare(name, outcome) for name in names}, rows, resamples, 7)
    metrics = {name: measured(compute(name, outcome), draws[name], 0.95) for name in names}
    return Judged(
        spec=spec,
        signature=signature,
        version=1,
        run_id="churn-run",
        dataset_version="d" * 64,
        inputs=(
            np.column_stack([columns[f.name] for f in signature.numeric]).astype(np.float32)
            if signature.numeric
            else np.empty((rows, 0), dtype=np.float32),
            np.column_stack([columns[f.name] for f in signature.categorical]).astype(object)
            if signature.categorical
            else np.empty((rows, 0), dtype=object),
        ),
        outcome=outcome,
        classes=classes if task is not Task.REGRESSION else (),
        metrics=metrics,
        importance=Importance(
            metric=names[0],
            rows=rows,
            repeats=1,
            features=tuple(
                FeatureImportance(feature=name, mean=1.0, deviation=0.0) for name in columns
            ),
        ),
    )


def captured(columns: Columns) -> dict[str, list[Any]]:
    """Columns as predictions capture them."""
    return {
        name: list(values)
        if values.dtype == object
        else [None if np.isnan(v) else float(str(np.float32(v))) for v in values]
        for name, values in columns.items()
    }


def sample(
    columns: Columns, output: Any, labels: Sequence[str | None], at: datetime = BEGIN
) -> Sample:
    """Live rows, all of them and evenly taken."""
    return Sample(
        since=at,
        until=at + timedelta(hours=1),
        inputs=captured(columns),
        output=np.asarray(output, dtype=np.float64),
        labels=list(labels),
        even=np.ones(len(labels), dtype=bool),
        share=1.0,
        objects=1,
    )
