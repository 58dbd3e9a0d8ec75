"""Business feedback on a rollout: wrong predictions among those whose truth is known already.

Labels are kept by the day of their prediction (`monitoring.labelbook`), captured predictions by the
hour (`monitoring.captures`). Both are read for the time of the rollout's step, and a prediction of
a classification is wrong when its most probable class is not the label. As everywhere in a rollout,
a request counts once: by its first captured row that has a label.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from millrace.monitoring.labels import Label, RowKey
from millrace.registry.rollout_records import Rollout
from millrace.rollout.sequential import Counts
from millrace.serving.capture import CapturedPrediction

MOST: Final = 50_000
"""Captured predictions that a look reads at most, the oldest of the step first."""


def count_wrong(
    rollout: Rollout,
    *,
    classes: Callable[[int], tuple[str, ...]],
    labels: Callable[[str, datetime, datetime], Iterable[tuple[RowKey, Label]]],
    captured: Callable[[str, datetime, datetime], Iterable[CapturedPrediction]],
    until: datetime,
) -> tuple[Counts, Counts] | None:
    """Wrong predictions of the champion and of the challenger since the step was set.

    Args:
        rollout: The rollout, at a step.
        classes: The classes of a version, in the order of its probabilities.
        labels: Labels of a model's predictions made in a span of time.
        captured: Captured predictions of a span of time.
        until: Now.

    Returns:
        None when there is no step, or no label.
    """
    if not rollout.steps or rollout.champion is None:
        return None
    since = rollout.steps[-1].at
    known: dict[str, dict[int, str]] = {}
    for row, label in labels(rollout.model, since, until):
        known.setdefault(row.prediction_id, {})[row.row] = label.value
    if not known:
        return None
    versions = (rollout.champion, rollout.version)
    names = {version: classes(version) for version in versions}
    totals = dict.fromkeys(versions, Counts(0, 0))
    for number, record in enumerate(captured(rollout.model, since, until)):
        if number >= MOST:
            break
        truth = known.get(record.prediction_id)
        if truth is None or record.version not in totals:
            continue
        wrong = _is_wrong(record, truth, names[record.version])
        if wrong is not None:
            before = totals[record.version]
            totals[record.version] = Counts(before.trials + 1, before.hits + wrong)
    return totals[versions[0]], totals[versions[1]]


def _is_wrong(
    record: CapturedPrediction, truth: dict[int, str], classes: tuple[str, ...]
) -> bool | None:
    probabilities: list[Any] = record.outputs.get("probabilities", [])
    for row, scores in zip(record.kept_rows, probabilities, strict=False):
        if row in truth and len(scores) == len(classes):
            return bool(classes[scores.index(max(scores))] != truth[row])
    return None
