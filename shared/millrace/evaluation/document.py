"""The whole evaluation of one candidate: stored as JSON, and all that the report is made of.

Numbers are aggregates over at least a handful of rows; no row of the data is in it. Values of
private columns are not either, sensitive groups above the row limit aside.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from millrace.messages import GateResult, MetricValue, Parity, TrialResult
from millrace.spec import Algorithm, Role, Task

type Points = tuple[tuple[float, float], ...]


class Part(BaseModel):
    """Base of everything in the document."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Measured(MetricValue):
    """A metric with its interval and how far the interval can be trusted."""

    resamples: int
    skipped: int = 0
    """Resamples on which the metric has no value, as only one class was drawn."""


class Comparison(Part):
    """The reigning champion on the same test rows."""

    version: int
    comparable: bool
    reason: str = ""
    """Why it cannot be compared."""
    metrics: dict[str, Measured] = {}
    differences: dict[str, Measured] = {}
    """Candidate minus champion, signed so that positive is better."""


class Curves(Part):
    """ROC and precision-recall of a binary model, thinned to few points."""

    roc: Points
    precision_recall: Points
    prevalence: float


class CalibrationBin(Part):
    """Rows whose prediction fell in one bin."""

    low: float
    high: float
    rows: int
    predicted: float
    observed: float
    observed_low: float
    observed_high: float
    """Classification: 95 % Wilson interval of the share. Regression: 10 to 90 % of the values."""


class Calibration(Part):
    """Predicted against observed."""

    bins: tuple[CalibrationBin, ...]
    error: float
    """Classification: expected calibration error. Regression: mean absolute gap of the bins."""


class Histogram(Part):
    """Counts between edges, one series per name."""

    edges: tuple[float, ...]
    series: dict[str, tuple[int, ...]]


class Density(Part):
    """Counts of predicted (across) by actual (up) values."""

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    """Rows of actual values, from the smallest."""
    outside: int
    """Rows beyond the edges, which lie at the 0.5 and 99.5 % quantiles."""


class Confusion(Part):
    """True classes down, predicted classes across."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class ClassScores(Part):
    """One class against the others."""

    label: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


class OperatingPoint(Part):
    """What a binary model does when rows from a probability on are called positive."""

    threshold: float
    selected: float
    """Share of rows called positive."""
    precision: float | None
    recall: float
    f1: float
    accuracy: float


class Drawings(Part):
    """What the report draws of the candidate's answers, by task."""

    curves: Curves | None
    champion_curves: Curves | None
    calibration: Calibration
    scores: Histogram
    residuals: Histogram | None
    density: Density | None
    confusion: Confusion | None
    class_scores: tuple[ClassScores, ...]
    operating_points: tuple[OperatingPoint, ...] = ()


class Slice(Part):
    """One group of rows."""

    value: str
    rows: int
    judged: bool
    """Enough rows for the gates, and a metric that has a value."""
    metric: Measured | None
    facts: dict[str, float | None]
    """Further figures of the group, by name."""


class SliceTable(Part):
    """One column's groups."""

    column: str
    role: Role
    metric: str
    min_rows: int
    slices: tuple[Slice, ...]
    hidden_groups: int
    """Groups not listed: too small to show for a private column, or beyond the largest fifty."""
    hidden_rows: int
    worst: float | None
    best: float | None
    gap: float | None
    judged: int


class FeatureImportance(Part):
    """How much worse the model gets when one feature is shuffled."""

    feature: str
    mean: float
    deviation: float


class Importance(Part):
    """Permutation importance on a sample of the test rows."""

    metric: str
    rows: int
    repeats: int
    features: tuple[FeatureImportance, ...]
    """Most important first."""


class CoverageLevel(Part):
    """One coverage that intervals or label sets are given for."""

    promised: float
    covered: float
    """Share of the test rows whose truth was inside."""
    low: float
    high: float
    """95 % Wilson interval of that share."""
    size: float
    """Classification: mean number of labels in a set. Regression: width of the interval."""


class Coverage(Part):
    """Promised and measured coverage of the answers' intervals or label sets."""

    method: Literal["absolute_residual", "lac"]
    calibration_rows: int
    """Validation rows held back from the fit to calibrate on."""
    exchangeable: bool
    """False after a split by time or group: the promise then holds only as far as rows are alike."""
    levels: tuple[CoverageLevel, ...]


class Provenance(Part):
    """What the evaluation can be repeated from."""

    model_key: str
    model_sha256: str
    signature_key: str
    signature_sha256: str
    environment_key: str
    data_key: str
    split_key: str
    spec_key: str
    spec_digest: str
    spec_version: int
    code_version: str
    fit_seed: int
    split_seed: int
    split_strategy: str
    bootstrap_seed: int
    bootstrap_resamples: int
    confidence: float
    packages: dict[str, str]
    upload: str = ""
    """Key of the upload that the run was started with."""


class Evaluation(Part):
    """The stored document."""

    format: Literal[1] = 1
    model: str
    version: int
    run_id: str
    correlation_id: str
    attempt: str
    evaluated_at: datetime
    description: str
    owner: str
    task: Task
    target: str
    classes: tuple[str, ...]
    dataset_version: str
    split_rows: dict[str, int]
    rows: int
    algorithm: Algorithm
    params: dict[str, Any]
    features: tuple[str, ...]
    cv_metric: str
    cv_score: float
    metric: str
    """The training metric: the one the report leads with."""
    metrics: dict[str, Measured]
    guess: dict[str, float]
    """The metrics of always answering the class shares, or the mean: what no model gives."""
    comparison: Comparison | None
    gates: tuple[GateResult, ...]
    verdict: Literal["passed", "failed"]
    reason: str
    drawings: Drawings
    slices: tuple[SliceTable, ...]
    importance: Importance
    coverage: Coverage | None = None
    """None when the version answers no intervals."""
    trials: tuple[TrialResult, ...]
    parity: Parity
    provenance: Provenance
