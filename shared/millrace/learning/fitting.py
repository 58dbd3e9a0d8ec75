"""The fit: the winning trial on train plus validation, exported and proven equal.

Validation rows that intervals are calibrated on are held back from it (`conformal`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millrace.datasets.table import Table, TableSchema
from millrace.errors import TrainingError
from millrace.learning.conformal import calibrate, hold_back
from millrace.learning.deadline import Remaining, deadline
from millrace.learning.export import OPSET, to_onnx
from millrace.learning.features import Rows
from millrace.learning.known import known_categories, typical_row
from millrace.learning.model import FittedModel, fit_model
from millrace.learning.parity import check_parity
from millrace.learning.scoring import score
from millrace.learning.search import choose
from millrace.messages import Parity, Plan, Trial, TrialResult
from millrace.signature import Conformal, FeatureField, Signature
from millrace.spec import Algorithm, ModelSpec, Role, Task


@dataclass(frozen=True, slots=True)
class Fit:
    """The winner, fitted and exported.

    Attributes:
        trial: The winning trial.
        result: Its cross-validation.
        validation_score: Of the trial fitted on train alone, on the validation split.
        rows: Rows fitted on: train, and validation without what was held back.
        onnx: The exported model.
        parity: Its agreement with the pipeline.
        model: The pipeline it was exported from.
        held_out: The rows parity was checked on.
        target_scale: What differences of a regression are divided by.
        seen: The rows fitted on.
        calibration: The rows held back for intervals.
        calibration_target: Their targets.
    """

    trial: Trial
    result: TrialResult
    validation_score: float
    rows: int
    onnx: bytes
    parity: Parity
    model: FittedModel
    held_out: Rows
    target_scale: float
    seen: Rows
    calibration: Rows
    calibration_target: npt.NDArray[np.generic]

    def calibrate(self, onnx: bytes, spec: ModelSpec) -> Conformal | None:
        """What the held-back rows say about the errors of some ONNX model of this fit."""
        return calibrate(onnx, spec, self.calibration, self.calibration_target)


def fit(
    spec: ModelSpec,
    train: Table,
    validation: Table,
    plan: Plan,
    results: Sequence[TrialResult],
    *,
    metadata: Mapping[str, str],
    remaining: Remaining | None = None,
) -> Fit:
    """Chooses the best trial, fits it, exports it and proves the export equal.

    The trial is fitted twice: on train, to score it on the validation split it has not seen, and
    on both without the rows held back for intervals, to be served.

    Args:
        spec: The run's spec.
        train: The train split.
        validation: The validation split.
        plan: What was to be tried.
        results: What the trials gave.
        metadata: Goes into the model file.
        remaining: Seconds the invocation still has, or None for no bound.

    Raises:
        NoViableTrialError: No trial finished.
        TrainingError: The winner cannot be fitted, scored or exported, or not in time.
        ParityError: ONNX and scikit-learn disagree.
    """
    trial, result = choose(plan, results)
    if not validation.rows:
        raise TrainingError("the validation split has no rows")
    classes = len(train.schema.classes)
    seen, held_out = Rows.of_table(train), Rows.of_table(validation)
    with deadline(remaining, f"the fit of trial {trial.trial_id} ({trial.algorithm})"):
        first = fit_model(trial, spec.task, seen, train.target, classes)
        validation_score = score(plan.metric, spec.task, validation.target, first.predict(held_out))
        held = hold_back(spec, validation)
        fitted_on = seen.joined(held_out.take(np.flatnonzero(~held)))
        target = np.concatenate((train.target, validation.target[~held]))
        model = fit_model(trial, spec.task, fitted_on, target, classes)
        onnx = to_onnx(
            model, doc=f"{spec.name}: {trial.algorithm} for {spec.task}", metadata=metadata
        )
        scale = float(np.std(target)) or 1.0 if spec.task is Task.REGRESSION else 1.0
        parity = check_parity(
            onnx,
            model.predict,
            held_out,
            task=spec.task,
            tolerance=spec.train.parity_tolerance,
            target_scale=scale,
            seed=trial.seed,
        )
    return Fit(
        trial=trial,
        result=result,
        validation_score=validation_score,
        rows=model.rows,
        onnx=onnx,
        parity=parity,
        model=model,
        held_out=held_out,
        target_scale=scale,
        seen=fitted_on,
        calibration=held_out.take(np.flatnonzero(held)),
        calibration_target=validation.target[held],
    )


def make_signature(
    spec: ModelSpec,
    schema: TableSchema,
    algorithm: Algorithm,
    *,
    seen: Rows | None = None,
    conformal: Conformal | None = None,
) -> Signature:
    """The signature of a model fitted for a spec on a dataset version.

    Args:
        spec: The run's spec.
        schema: What the splits hold.
        algorithm: The winner.
        seen: The rows it was fitted on; without them the signature knows no categories and no
            typical row.
        conformal: What the held-back rows say about its errors.

    Raises:
        TrainingError: The spec has unknown categories refused, and they cannot be told.
    """
    private = spec.private_columns
    known = {} if seen is None else known_categories(spec, seen)
    target = next(c for c in schema.columns if c.role is Role.TARGET)
    return Signature(
        model=spec.name,
        task=spec.task,
        target=spec.target.name,
        features=tuple(
            FeatureField(
                name=column.name,
                type=column.type,
                nullable=column.nullable,
                min=column.min,
                max=column.max,
                allowed=column.allowed,
                private=column.name in private,
                categories=known.get(column.name),
            )
            for column in spec.features
        ),
        classes=schema.classes,
        target_type=target.type,
        algorithm=algorithm,
        onnx_opset=OPSET,
        null_values=spec.data.null_values,
        unknown_categories=spec.serve.unknown_categories,
        reference=None if seen is None else typical_row(spec, seen),
        conformal=conformal,
    )
