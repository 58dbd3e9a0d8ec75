"""Looks at a sample of a window's rows: how well the model did, and whether rows still hang together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from millrace.monitoring.baseline import Baseline
from millrace.monitoring.captures import ListedObjects
from millrace.monitoring.encoding import reconstruction_errors
from millrace.monitoring.findings import Policy, StatisticValue, Verdict
from millrace.monitoring.hours import WindowCounts
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.monitor import Looked
from millrace.monitoring.multivariate import reconstruction
from millrace.monitoring.performance import findings, measure
from millrace.monitoring.sample import Sample, read_sample


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads and measures rows: `monitor.Rows`.

    Attributes:
        objects: Where the data bucket is read.
        bucket: The data bucket.
        labels: What is known of predictions.
    """

    objects: ListedObjects
    bucket: str
    labels: LabelBook

    def __call__(
        self, baseline: Baseline, window: WindowCounts, history: Sequence[Verdict], policy: Policy
    ) -> Looked:
        """What the rows of a window tell."""
        sample = read_sample(
            objects=self.objects,
            bucket=self.bucket,
            labels=self.labels,
            baseline=baseline,
            since=window.since,
            until=window.until,
            expected=window.rows,
        )
        if sample.rows < policy.min_rows:
            return Looked()
        measured = measure(baseline, sample, policy)
        return Looked(
            measured,
            findings(measured, history, policy),
            _rebuilt(baseline, sample.take(sample.even), policy),
        )


def _rebuilt(baseline: Baseline, even: Sample, policy: Policy) -> StatisticValue | None:
    components = baseline.components
    if components is None:
        return None
    with np.errstate(all="ignore"):
        errors = reconstruction_errors(components, even.inputs)
    # A row with an infinite value has no place among the others; that it is out of range is told.
    errors = errors[np.isfinite(errors)]
    if len(errors) < policy.min_rows:
        return None
    return reconstruction(
        errors, mean=components.error_mean, std=components.error_std, rows=components.rows
    )
