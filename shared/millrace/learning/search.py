"""The search: what to try, how one trial is scored, and which trial wins."""

import time
from collections.abc import Sequence
from random import Random

import numpy as np

from millrace.datasets.table import Table, TableSchema
from millrace.errors import NoViableTrialError, TrainingError
from millrace.learning.candidates import SIMPLICITY, default_params, sampled_params
from millrace.learning.deadline import Remaining, check_time, deadline
from millrace.learning.features import Rows
from millrace.learning.folds import make_folds
from millrace.learning.model import fit_model
from millrace.learning.scoring import score
from millrace.messages import Plan, Trial, TrialResult
from millrace.spec import HIGHER_IS_BETTER, ModelSpec


def plan(spec: ModelSpec, schema: TableSchema) -> Plan:
    """Proposes the trials: candidates in turn, each with its sound default first.

    A pure function of the spec and the shape of the data; asking for more trials keeps the ones
    there were.

    Args:
        spec: Candidates, number of trials, metric and seed.
        schema: Number of rows and classes.

    Raises:
        TrainingError: A classification whose target has fewer than two classes.
    """
    classes = len(schema.classes)
    if schema.task != spec.task or schema.target != spec.target.name:
        raise TrainingError(
            f"expected splits for task {spec.task} and target {spec.target.name!r}, "
            f"got {schema.task} and {schema.target!r}"
        )
    if schema.classes and classes < 2:
        raise TrainingError(
            f"target {schema.target!r}: expected two classes or more, got {classes}"
        )
    rows = schema.rows.get("train", 0)
    trials = []
    for trial_id in range(spec.train.trials):
        turn, place = divmod(trial_id, len(spec.train.candidates))
        algorithm = spec.train.candidates[place]
        # Python's own generator, whose numbers are promised to stay the same across versions.
        random = Random(f"{spec.train.seed}/{algorithm}/{turn}")  # noqa: S311  no secret
        seed = random.randrange(2**31)
        params = (
            sampled_params(algorithm, rows, classes, random)
            if turn
            else default_params(algorithm, spec.task, rows, classes)
        )
        trials.append(Trial(trial_id=trial_id, algorithm=algorithm, params=params, seed=seed))
    return Plan(
        metric=spec.training_metric,
        higher_is_better=HIGHER_IS_BETTER[spec.training_metric],
        folds=spec.train.folds,
        trials=tuple(trials),
    )


def run_trial(
    spec: ModelSpec,
    train: Table,
    trial: Trial,
    *,
    metric: str,
    folds: int,
    remaining: Remaining | None = None,
) -> TrialResult:
    """Scores one trial by cross-validation on the train split.

    Args:
        spec: The run's spec.
        train: The train split.
        trial: What to try.
        metric: What to measure.
        folds: Number of folds.
        remaining: Seconds the invocation still has, or None for no bound.

    Raises:
        TrainingError: The trial cannot be fitted or scored, or not in time.
    """
    started = time.perf_counter()
    what = f"trial {trial.trial_id} ({trial.algorithm})"
    rows = Rows.of_table(train)
    classes = len(train.schema.classes)
    scores: list[float] = []
    slowest = 0.0
    with deadline(remaining, what):
        for number, (learn, judge) in enumerate(make_folds(spec, train, folds), start=1):
            begun = time.perf_counter()
            check_time(remaining, slowest, f"{what}, fold {number} of {folds}")
            try:
                model = fit_model(trial, spec.task, rows.take(learn), train.target[learn], classes)
                scores.append(
                    score(metric, spec.task, train.target[judge], model.predict(rows.take(judge)))
                )
            except TrainingError as exc:
                raise TrainingError(f"{what}, fold {number} of {folds}: {exc}") from exc
            slowest = max(slowest, time.perf_counter() - begun)
    return TrialResult(
        trial_id=trial.trial_id,
        algorithm=trial.algorithm,
        params=trial.params,
        metric=metric,
        score=float(np.mean(scores)),
        score_std=float(np.std(scores)),
        fold_scores=tuple(scores),
        seconds=round(time.perf_counter() - started, 3),
    )


def choose(plan: Plan, results: Sequence[TrialResult]) -> tuple[Trial, TrialResult]:
    """The winner: best score, then the simpler algorithm, then the earlier trial.

    Raises:
        NoViableTrialError: No trial finished with a score.
    """
    finished = [r for r in results if r.status == "finished" and _scored(r)]
    if not finished:
        causes = sorted({r.error for r in results if r.error})
        raise NoViableTrialError(
            f"none of {len(results)} trials gave a score"
            + (f": {'; '.join(causes)}" * bool(causes))
        )
    sign = -1.0 if plan.higher_is_better else 1.0
    best = min(
        finished,
        key=lambda r: (sign * (r.score or 0.0), SIMPLICITY[r.algorithm], r.trial_id),
    )
    trials = {trial.trial_id: trial for trial in plan.trials}
    if best.trial_id not in trials:
        raise TrainingError(f"trial {best.trial_id} finished and is not in the plan")
    return trials[best.trial_id], best


def _scored(result: TrialResult) -> bool:
    return result.score is not None and bool(np.isfinite(result.score))
