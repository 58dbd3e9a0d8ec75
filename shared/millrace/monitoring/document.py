"""What monitoring found of one model in one window: stored as JSON, and all that the report shows.

Everything in it is an aggregate over at least a window's least number of rows. No row is in it, and
no value of a private column: of such a column there are the counts of missing values, by its name.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from millrace.spec import Task

type State = Literal["ok", "watch", "alarm", "unknown"]
"""``unknown``: too little was seen to judge."""

type Against = Literal["training", "last_week", "same_hour"]


type ActionKind = Literal[
    "episode", "notice", "retraining", "rollout", "promotion", "rollback", "person"
]


class Part(BaseModel):
    """Base of everything in the document."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Interval(Part):
    """A number and where it lies with 95 % confidence."""

    value: float
    low: float | None = None
    high: float | None = None


class VersionTraffic(Part):
    """What one version answered."""

    version: int
    role: Literal["champion", "challenger", "former"]
    requests: int
    errors: int
    p95_ms: float | None


class HourPoint(Part):
    """One hour of traffic."""

    at: datetime
    requests: int
    errors: int
    p95_ms: float | None


class MonitorTraffic(Part):
    """Requests of the window."""

    requests: int
    rows: int
    errors: int
    error_rate: Interval | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    captured: int
    """Requests whose inputs and outputs were captured."""
    lost: int
    """Captured lines that never arrived, by the gaps in their numbers."""
    versions: tuple[VersionTraffic, ...] = ()
    hours: tuple[HourPoint, ...] = ()
    last_week: int | None = None
    """Requests of the same hours a week before; None when nothing is known of them."""


class CostLine(Part):
    """One thing that is paid for."""

    name: str
    amount: float


class Cost(Part):
    """What the model costs, from usage and public prices, in USD without tax and free tiers."""

    window: float
    per_thousand_predictions: float | None
    month_to_date: float
    last_training: float | None
    monthly_budget: float | None
    """None: the spec sets none."""
    budget_state: Literal["none", "within", "warned", "exhausted"]
    lines: tuple[CostLine, ...] = ()
    prices_of: str = ""
    """Date of the prices."""


class Distribution(Part):
    """One quantity in the window beside its references, on the same bins."""

    edges: tuple[float, ...] = ()
    """Of a numeric quantity: one more than bins."""
    categories: tuple[str, ...] = ()
    """Of a categorical one: one for each bin; the last may be what is left."""
    window: tuple[int, ...]
    training: tuple[int, ...] = ()
    last_week: tuple[int, ...] = ()


class MonitorFinding(Part):
    """What one test said."""

    kind: str
    subject: str
    statistic: str
    value: float | None
    effect: float | None
    p_value: float | None
    adjusted_p: float | None
    threshold: float | None
    against: Against | None
    rows: int
    first_seen: datetime | None
    persisted: int
    """Windows in a row that said so, this one included."""
    verdict: State
    text: str = ""
    """In words: what moved, and by how much."""
    parameters: dict[str, Any] = {}
    """How the statistic was made: binning, logarithm's base, error bound."""


class Feature(Part):
    """One column of the inputs."""

    name: str
    kind: Literal["numeric", "categorical", "private"]
    rows: int
    missing: int
    missing_training: float | None
    """Share of missing values in the training baseline."""
    unseen: int = 0
    """Rows with a category that training never saw."""
    below: int = 0
    above: int = 0
    """Rows beyond the smallest and the largest value of training."""
    distribution: Distribution | None = None
    findings: tuple[MonitorFinding, ...] = ()
    verdict: State


class PerformancePoint(Part):
    """One metric in one window."""

    since: datetime
    until: datetime
    rows: int
    labelled: int
    realised: Interval | None
    """From labels; None where too few came."""
    estimated: Interval | None
    """Without labels; blind to a changed relation between inputs and labels."""
    verdict: State


class MetricSeries(Part):
    """One metric over the windows so far, the oldest first."""

    metric: str
    higher_is_better: bool
    reference: Interval | None
    """On the held-out test rows of training."""
    threshold_low: float | None
    threshold_high: float | None
    points: tuple[PerformancePoint, ...]
    caveat: str = ""
    """What the estimate cannot see, or why there is none."""


class LabelCoverage(Part):
    """How much is known of what really happened."""

    rows: int
    labelled: int
    warning: str = ""
    """Set when labelled rows differ from the others."""


class Segment(Part):
    """A group of rows."""

    value: str
    rows: int
    labelled: int
    realised: Interval | None
    estimated: Interval | None
    reference: float | None
    verdict: State


class SegmentTable(Part):
    """One column's groups."""

    column: str
    metric: str
    gate: bool
    """Whether the spec has a gate on it, as on sensitive columns."""
    segments: tuple[Segment, ...]
    gap: float | None = None
    """Between the best and the worst group that is large enough."""
    hidden: int = 0
    """Groups that are too small to be shown."""


class MonitorChange(Part):
    """Something that began to be different; listed by when."""

    at: datetime
    kind: str
    subject: str
    text: str
    verdict: State


class Action(Part):
    """Something that was done about it, by Millrace or by a person."""

    at: datetime
    kind: ActionKind
    text: str
    by: str
    reference: str = ""
    """Id of the run, rollout, version or episode."""


class EpisodeView(Part):
    """An alarm, open or closed."""

    id: str
    kind: str
    subject: str
    state: Literal["open", "acknowledged", "silenced", "closed"]
    opened_at: datetime
    closed_at: datetime | None
    windows: int
    """Windows in which it was found."""
    value: float | None
    threshold: float | None
    effect: float | None
    widened_to: float | None
    silenced_until: datetime | None
    by: str
    text: str
    likely_cause: str
    next_step: str
    run_id: str = ""
    """The retraining that it started."""


class MonitorReport(Part):
    """The stored document."""

    format: Literal[1] = 1
    model: str
    version: int
    """The champion that answered most of the window."""
    task: Task
    stage: str
    since: datetime
    until: datetime
    made_at: datetime
    state: State
    summary: str
    """One sentence: how the model is."""
    refused: str = ""
    """Why the window was not judged; empty when it was."""
    baseline_run: str = ""
    baseline_rows: int = 0
    traffic: MonitorTraffic
    cost: Cost | None = None
    scores: Distribution | None = None
    score_name: str = ""
    """What a score is: the probability of which class, or the predicted number."""
    classes: Distribution | None = None
    features: tuple[Feature, ...] = ()
    findings: tuple[MonitorFinding, ...] = ()
    """Of all kinds, the worst first."""
    performance: tuple[MetricSeries, ...] = ()
    """The metric that the training optimised comes first."""
    labels: LabelCoverage | None = None
    segments: tuple[SegmentTable, ...] = ()
    changes: tuple[MonitorChange, ...] = ()
    """What changed, the first change first."""
    actions: tuple[Action, ...] = ()
    """What was done about it, the newest first."""
    episodes: tuple[EpisodeView, ...] = ()
    """Open ones, and those closed within the last 30 days."""
