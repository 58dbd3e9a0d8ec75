"""The model spec: the one file a user writes, `models/<name>.yaml`.

Every field has a meaning here and a message when it is wrong. Only what Millrace does is accepted:
an unknown key is an error, never ignored.
"""

import hashlib
import json
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from millrace.errors import FieldProblem, InvalidSpecError
from millrace.vocabulary import MODEL_NAME_PATTERN as MODEL_NAME_PATTERN
from millrace.vocabulary import WHITESPACE as WHITESPACE
from millrace.vocabulary import Algorithm as Algorithm
from millrace.vocabulary import ColumnType as ColumnType
from millrace.vocabulary import Task as Task
from millrace.vocabulary import null_texts as null_texts

ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

MAX_COLUMNS = 2_000
"""Widest table Millrace accepts; a wider file is refused with this number in the message."""


class Role(StrEnum):
    """What a column is for.

    ``feature`` enters the model; ``target`` is predicted; ``id`` names a row and must be unique;
    ``time`` orders rows for the time split; ``group`` keeps rows of one entity in one split;
    ``sensitive`` is never a feature, never logged, and slices the evaluation; ``ignore`` is kept
    in the dataset version and used for nothing.
    """

    FEATURE = "feature"
    TARGET = "target"
    ID = "id"
    TIME = "time"
    GROUP = "group"
    SENSITIVE = "sensitive"
    IGNORE = "ignore"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Column(_Section):
    """One column of the contract."""

    name: ColumnName
    type: ColumnType
    role: Role = Role.FEATURE
    nullable: bool = Field(True, description="May cells be empty? The target and id never are.")
    min: float | None = Field(None, description="Smallest allowed value, inclusive.")
    max: float | None = Field(None, description="Largest allowed value, inclusive.")
    allowed: tuple[str, ...] | None = Field(
        None, description="The only allowed values, as text.", max_length=10_000
    )
    description: str = Field("", max_length=2_000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.min is not None or self.max is not None) and self.type not in (
            ColumnType.INTEGER,
            ColumnType.NUMBER,
        ):
            raise ValueError(f"min and max need type integer or number, and this is {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if self.allowed is not None and self.type is not ColumnType.STRING:
            raise ValueError(f"allowed needs type string, and this is {self.type}")
        if self.role is Role.FEATURE and self.type is ColumnType.TIMESTAMP:
            raise ValueError(
                "a timestamp cannot be a feature: derive numbers from it before the upload, "
                "or give it role time or ignore"
            )
        if self.role is Role.TIME and self.type not in (
            ColumnType.TIMESTAMP,
            ColumnType.INTEGER,
            ColumnType.NUMBER,
        ):
            raise ValueError(f"role time needs type timestamp, integer or number, not {self.type}")
        return self

    @property
    def required_value(self) -> bool:
        """Whether an empty cell makes the row bad."""
        return not self.nullable or self.role in (Role.TARGET, Role.ID, Role.TIME, Role.GROUP)


class DataSection(_Section):
    """The contract of the uploaded data."""

    columns: tuple[Column, ...] = Field(min_length=2, max_length=MAX_COLUMNS)
    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="Largest share of bad rows before the upload is refused."
    )
    min_rows: int = Field(100, ge=20, description="Fewest good rows worth training on.")
    unknown_columns: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with columns the contract does not name."
    )
    null_values: tuple[str, ...] = Field(
        ("", "NA", "N/A", "NULL", "null", "None"),
        description="Cells that mean 'no value' in text formats.",
    )
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = Field(
        ",", description="CSV field separator."
    )

    @model_validator(mode="after")
    def _roles(self) -> Self:
        seen: set[str] = set()
        for column in self.columns:
            if column.name.casefold() in seen:
                raise ValueError(f"column {column.name!r} is named twice (case does not count)")
            seen.add(column.name.casefold())
        for role, most in ((Role.TARGET, 1), (Role.ID, 1), (Role.TIME, 1), (Role.GROUP, 1)):
            names = [c.name for c in self.columns if c.role is role]
            if len(names) > most:
                raise ValueError(f"role {role} is given to {', '.join(names)}: one column at most")
        if not any(c.role is Role.TARGET for c in self.columns):
            raise ValueError("no column has role target")
        if not any(c.role is Role.FEATURE for c in self.columns):
            raise ValueError("no column has role feature")
        return self


class SplitSection(_Section):
    """How rows are divided into train, validation and test."""

    strategy: Literal["hash", "stratified", "time", "group"] | None = Field(
        None, description="Default: stratified for classification, hash for regression."
    )
    validation: float = Field(0.15, gt=0, lt=0.5)
    test: float = Field(0.2, gt=0, lt=0.5)
    seed: int = Field(7, ge=0, le=2**31 - 1)


class TrainSection(_Section):
    """The search for a model."""

    candidates: tuple[Algorithm, ...] = Field(tuple(Algorithm), min_length=1)
    trials: int = Field(6, ge=1, le=100, description="Trials over all candidates together.")
    folds: int = Field(3, ge=2, le=10, description="Cross-validation folds on the train split.")
    metric: str | None = Field(
        None, description="Metric to optimise. Default: roc_auc, f1_macro or rmse by task."
    )
    seed: int = Field(7, ge=0, le=2**31 - 1)
    parity_tolerance: float = Field(
        1e-4,
        gt=0,
        le=0.01,
        description="Largest difference between ONNX and scikit-learn: absolute for "
        "probabilities, relative to the target's standard deviation for regression.",
    )
    compute: Literal["lambda"] = "lambda"


class AbsoluteGate(_Section):
    """A metric on the test split must reach a bound."""

    metric: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min or max")
        return self


class ChampionGate(_Section):
    """The candidate against the reigning champion on the same test rows."""

    metric: str | None = Field(None, description="Default: the training metric.")
    min_improvement: float = Field(
        0.0,
        description="The candidate must be better by at least this much; "
        "a negative number tolerates that much loss.",
    )
    significant: bool = Field(
        False, description="Must the paired bootstrap interval of the difference exclude a loss?"
    )


class SliceGate(_Section):
    """A metric must hold in every slice of a column, not only on average."""

    column: ColumnName
    metric: str
    min: float | None = None
    max: float | None = None
    max_gap: float | None = Field(
        None, gt=0, description="Largest allowed gap between the best and the worst slice."
    )
    min_rows: int = Field(50, ge=10, description="Slices with fewer rows are shown, not judged.")


class EvaluateSection(_Section):
    """The gates to deployment."""

    metrics: tuple[AbsoluteGate, ...] = ()
    against_champion: ChampionGate = ChampionGate()
    slices: tuple[SliceGate, ...] = ()
    bootstrap: int = Field(200, ge=50, le=5_000, description="Bootstrap resamples for intervals.")
    confidence: float = Field(0.95, gt=0.5, lt=1)


type Duration = Annotated[
    str,
    StringConstraints(pattern=r"^[1-9][0-9]{0,5}[smhd]$"),
]
"""A whole number of seconds, minutes, hours or days: ``90s``, ``30m``, ``24h``, ``14d``."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds_of(duration: str) -> int:
    """Seconds of a `Duration`."""
    return int(duration[:-1]) * _UNITS[duration[-1]]


class ApproveSection(_Section):
    """Who lets a model that passed its gates go live."""

    mode: Literal["automatic", "manual"] = Field(
        "automatic",
        description="automatic promotes what passed its gates; manual asks a person first.",
    )
    four_eyes: bool = Field(
        False,
        description="Whoever asked for the training, or applied the spec it was trained with, may "
        "not approve its version.",
    )
    timeout: Duration = Field(
        "14d",
        description="How long a version waits for an answer before its request expires, from a "
        "minute to thirty days: 12h, 14d.",
    )
    approvers: tuple[Annotated[str, StringConstraints(min_length=1, max_length=400)], ...] = Field(
        (),
        max_length=50,
        description="Who may decide, as the audit writes them: user:SUBJECT, key:ID or an ARN, in "
        "which * stands for anything. Empty: whoever holds the role approver.",
    )

    @field_validator("timeout")
    @classmethod
    def _answerable(cls, value: str) -> str:
        if not 60 <= seconds_of(value) <= 30 * 86_400:
            raise ValueError("expected a time between 1m and 30d")
        return value

    @property
    def timeout_seconds(self) -> int:
        """How long an answer is waited for."""
        return seconds_of(self.timeout)


class ErrorsCondition(_Section):
    """The challenger must not fail more requests than the champion does at the same time."""

    max_increase: float = Field(
        0.01, ge=0, lt=1, description="Tolerated difference in the share of failed requests."
    )


class LatencyCondition(_Section):
    """The challenger must not answer more slowly than the champion does at the same time."""

    max_increase: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Tolerated difference in the share of slow requests; 0.05 means that one in "
        "ten of the challenger's requests may be slower than the champion's p95.",
    )
    max_ms: float | None = Field(
        None, gt=0, description="What is slow. Default: the champion's 95th percentile."
    )


class ScoresCondition(_Section):
    """The challenger's scores must be spread much as the champion's are at the same time."""

    max_shift: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Tolerated difference between the shares of scores below any bound "
        "(Kolmogorov and Smirnov's distance).",
    )


class DisagreementCondition(_Section):
    """In a shadow rollout, the challenger must mostly predict what the champion does."""

    max_share: float = Field(
        0.2, gt=0, lt=1, description="Tolerated share of rows with another prediction."
    )


class FeedbackCondition(_Section):
    """Where labels arrive in time, the challenger must not be wrong more often."""

    max_increase: float = Field(
        0.05, ge=0, lt=1, description="Tolerated difference in the share of wrong predictions."
    )


class HealthSection(_Section):
    """What a rollout is judged by. A condition set to null is not judged."""

    errors: ErrorsCondition | None = Field(default_factory=ErrorsCondition)
    latency: LatencyCondition | None = Field(default_factory=LatencyCondition)
    scores: ScoresCondition | None = Field(default_factory=ScoresCondition)
    disagreement: DisagreementCondition | None = Field(default_factory=DisagreementCondition)
    feedback: FeedbackCondition | None = None
    alarms: tuple[Annotated[str, StringConstraints(min_length=1, max_length=255)], ...] = Field(
        (), max_length=20, description="CloudWatch alarms: one in ALARM is a breach."
    )


_STEPS: Final[dict[str, tuple[float, ...]]] = {
    "all-at-once": (),
    "canary": (5.0, 25.0, 50.0),
    "linear": tuple(float(w) for w in range(10, 100, 10)),
    "shadow": (100.0,),
}


class RolloutSection(_Section):
    """How a new champion takes the traffic."""

    strategy: Literal["all-at-once", "canary", "linear", "shadow"] = "all-at-once"
    steps: tuple[Annotated[float, Field(gt=0, le=100)], ...] | None = Field(
        None,
        min_length=1,
        max_length=50,
        description="Percent of the traffic, rising. Default: 5, 25, 50 for canary; 10 to 90 by "
        "tens for linear; 100 for shadow, where it is the share of requests scored twice.",
    )
    bake: Duration = Field("30m", description="How long each step is watched at least.")
    looks: int = Field(
        6,
        ge=1,
        le=100,
        description="How often it is judged within a bake; the first look only learns.",
    )
    min_requests: int = Field(
        200, ge=1, description="Requests of either version that a step needs before the next."
    )
    max_wait: Duration = Field(
        "24h", description="How long a step may wait for so many requests, its bake included."
    )
    when_short_of_traffic: Literal["hold", "promote", "roll_back"] = Field(
        "hold", description="What happens then; hold leaves the traffic and asks a person."
    )
    finish: Literal["promote", "hold"] = Field(
        "promote", description="After the last step: promote, or hold until a person resumes it."
    )
    on_conflict: Literal["wait", "supersede"] = Field(
        "wait", description="While another rollout of the model runs: wait for it, or end it."
    )
    alpha: float = Field(
        0.01,
        gt=0,
        le=0.2,
        description="Chance of rolling a version back by mistake, over all looks, conditions and "
        "steps of a rollout.",
    )
    health: HealthSection = HealthSection()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.strategy == "all-at-once":
            if self.steps is not None:
                raise ValueError("strategy all-at-once has no steps")
            return self
        weights = self.weights
        for before, after in pairwise(weights):
            if after <= before:
                raise ValueError(
                    f"steps must rise, and {_percent(after)} follows {_percent(before)}"
                )
        if self.strategy != "shadow" and weights[-1] >= 100:
            raise ValueError(
                f"a {self.strategy} step of {_percent(weights[-1])} leaves the champion no traffic "
                "to compare with; what follows the last step is the promotion"
            )
        if seconds_of(self.max_wait) < seconds_of(self.bake):
            raise ValueError(f"max_wait {self.max_wait} is shorter than bake {self.bake}")
        if seconds_of(self.bake) < self.looks:
            raise ValueError(f"bake {self.bake} is too short for {self.looks} looks")
        if seconds_of(self.max_wait) > _UNITS["d"] * 90:
            raise ValueError(f"max_wait {self.max_wait} is longer than 90d")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The steps with their default worked out."""
        return _STEPS[self.strategy] if self.steps is None else self.steps

    @property
    def look_seconds(self) -> int:
        """Seconds from one look to the next."""
        return max(1, seconds_of(self.bake) // self.looks)

    @property
    def max_looks(self) -> int:
        """Looks at a step before it is said to be short of traffic."""
        return max(self.looks, seconds_of(self.max_wait) // self.look_seconds)


def _percent(weight: float) -> str:
    return f"{weight:g} %"


class ServeSection(_Section):
    """How the model answers; fixed with each version."""

    unknown_categories: Literal["serve", "refuse"] = Field(
        "serve",
        description="A text the model was not fitted on: serve answers and warns, refuse refuses "
        "the request. Both count it.",
    )
    intervals: bool = Field(
        True,
        description="Hold at most 1,000 validation rows back from the fit, so that intervals and "
        "label sets can be answered; false fits on them too.",
    )


class MonitorSection(_Section):
    """What is kept of the predictions, and how they are judged."""

    capture_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests whose inputs and outputs are kept, 0 to 1; private columns "
        "never are.",
    )
    window: Duration = Field(
        "1h",
        description="How much is judged at once at least, in whole hours. A window grows until it "
        "has min_rows.",
    )
    max_window: Duration = Field(
        "7d", description="How long a window may grow before it is given up as too small to judge."
    )
    min_rows: int = Field(
        200,
        ge=200,
        le=10_000_000,
        description="Fewest captured rows that are judged: of fewer, much looks large that is "
        "nothing.",
    )
    min_drift: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Least drift that counts, as a population stability index less what chance "
        "alone gives at the window's size; 0.05 is some 0.22 standard deviations.",
    )
    significance: float = Field(
        0.01,
        gt=0,
        le=0.2,
        description="Largest p-value that counts, corrected for the number of features.",
    )
    persistence: int = Field(
        2, ge=1, le=50, description="Windows in a row that make an alarm of a difference."
    )
    clear_after: int = Field(
        3, ge=1, le=50, description="Windows in a row without it that end an alarm."
    )

    @field_validator("window", "max_window")
    @classmethod
    def _whole_hours(cls, value: str) -> str:
        seconds = seconds_of(value)
        if seconds % _UNITS["h"] or seconds > 31 * _UNITS["d"]:
            raise ValueError("expected whole hours, 31d at most")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if seconds_of(self.max_window) < seconds_of(self.window):
            raise ValueError(f"max_window {self.max_window} is shorter than window {self.window}")
        return self

    @property
    def window_hours(self) -> int:
        """Hours of a window at least."""
        return seconds_of(self.window) // _UNITS["h"]

    @property
    def max_window_hours(self) -> int:
        """Hours of a window at most."""
        return seconds_of(self.max_window) // _UNITS["h"]


class RetrainSection(_Section):
    """What starts a training besides a person."""

    on_upload: bool = Field(True, description="Does every accepted upload start a training?")
    on_drift: bool = Field(
        False,
        description="May an alarm on the model's performance start a training on the rows whose "
        "labels came? Inputs that drift alone never do.",
    )
    on_schedule: Literal["daily", "weekly", "monthly", "quarterly"] | None = Field(
        None,
        description="Train once in each day, week (from Monday), month or quarter (UTC), unless "
        "a training began in it already.",
    )
    cooldown: Duration = Field(
        "24h", description="How long after a training began none is started by drift."
    )
    min_new_rows: int = Field(
        500,
        ge=1,
        le=10_000_000,
        description="Fewest newly labelled rows that drift starts a training with.",
    )
    monthly_budget: float | None = Field(
        None,
        gt=0,
        description="US dollars that the model may cost in a calendar month: at four fifths "
        "somebody is told, beyond it neither drift nor the calendar starts a training. "
        "Predictions are never stopped.",
    )

    @property
    def cooldown_seconds(self) -> int:
        """How long a training keeps drift from starting another."""
        return seconds_of(self.cooldown)


class BatchSection(_Section):
    """What a file of rows to score may be like."""

    max_quarantined: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Largest share of rows that cannot be scored before the whole file is "
        "refused. Default: data.max_quarantined.",
    )


class PrivacySection(_Section):
    """What must never leave the data bucket."""

    never_log: tuple[ColumnName, ...] = Field(
        (), description="Columns, besides id and sensitive ones, never shown in logs or reports."
    )


class ModelSpec(_Section):
    """A whole spec; build it with `ModelSpec.from_yaml` or `ModelSpec.from_document`."""

    name: ModelName
    description: str = Field("", max_length=4_000)
    owner: str = Field("", max_length=200)
    task: Task
    data: DataSection
    split: SplitSection = SplitSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    approve: ApproveSection = ApproveSection()
    rollout: RolloutSection = RolloutSection()
    serve: ServeSection = ServeSection()
    monitor: MonitorSection = MonitorSection()
    retrain: RetrainSection = RetrainSection()
    batch: BatchSection = BatchSection()
    privacy: PrivacySection = PrivacySection()

    @field_validator("train")
    @classmethod
    def _known_candidates(cls, value: TrainSection) -> TrainSection:
        if len(set(value.candidates)) != len(value.candidates):
            raise ValueError("candidates names an algorithm twice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        target = self.target
        if self.task is Task.REGRESSION and target.type not in (
            ColumnType.INTEGER,
            ColumnType.NUMBER,
        ):
            raise ValueError(
                f"task regression needs a numeric target; {target.name!r} is {target.type}"
            )
        if self.task is not Task.REGRESSION and target.type in (
            ColumnType.NUMBER,
            ColumnType.TIMESTAMP,
        ):
            raise ValueError(
                f"task {self.task} needs a target of type integer, boolean or string; "
                f"{target.name!r} is {target.type}"
            )
        needed = {"time": Role.TIME, "group": Role.GROUP}.get(self.split.strategy or "")
        if needed is not None and not self.columns_with(needed):
            raise ValueError(f"split strategy {self.split.strategy} needs a column of that role")
        if self.split.strategy == "stratified" and self.task is Task.REGRESSION:
            raise ValueError("split strategy stratified needs a classification task")
        known = metrics_for(self.task)
        for where, metric in (
            ("train.metric", self.train.metric),
            ("evaluate.against_champion.metric", self.evaluate.against_champion.metric),
            *((f"evaluate.metrics[{i}]", g.metric) for i, g in enumerate(self.evaluate.metrics)),
            *((f"evaluate.slices[{i}]", g.metric) for i, g in enumerate(self.evaluate.slices)),
        ):
            if metric is not None and metric not in known:
                raise ValueError(
                    f"{where}: {metric!r} is no metric of task {self.task}; "
                    f"known: {', '.join(known)}"
                )
        if self.rollout.health.feedback is not None and self.task is Task.REGRESSION:
            raise ValueError(
                "rollout.health.feedback: of a regression no prediction is right or wrong; leave it "
                "out, or judge by scores and alarms"
            )
        names = {c.name for c in self.data.columns}
        for where, name in (
            *((f"evaluate.slices[{i}]", g.column) for i, g in enumerate(self.evaluate.slices)),
            *(("privacy.never_log", n) for n in self.privacy.never_log),
        ):
            if name not in names:
                raise ValueError(f"{where}: the contract has no column {name!r}")
        for i, gate in enumerate(self.evaluate.slices):
            column = next(c for c in self.data.columns if c.name == gate.column)
            if column.role not in (Role.FEATURE, Role.SENSITIVE, Role.GROUP):
                raise ValueError(
                    f"evaluate.slices[{i}]: {gate.column!r} has role {column.role}; "
                    "slices need a feature, group or sensitive column"
                )
        return self

    @property
    def target(self) -> Column:
        """The target column."""
        return next(c for c in self.data.columns if c.role is Role.TARGET)

    @property
    def features(self) -> tuple[Column, ...]:
        """The feature columns in the order of the contract."""
        return tuple(c for c in self.data.columns if c.role is Role.FEATURE)

    def columns_with(self, role: Role) -> tuple[Column, ...]:
        """The columns of a role in the order of the contract."""
        return tuple(c for c in self.data.columns if c.role is role)

    @property
    def private_columns(self) -> frozenset[str]:
        """Columns whose values never reach a log line, a metric, an error or a report."""
        roles = (Role.ID, Role.SENSITIVE)
        return frozenset(c.name for c in self.data.columns if c.role in roles) | frozenset(
            self.privacy.never_log
        )

    @property
    def split_strategy(self) -> Literal["hash", "stratified", "time", "group"]:
        """The split strategy with its default worked out."""
        if self.split.strategy is not None:
            return self.split.strategy
        return "hash" if self.task is Task.REGRESSION else "stratified"

    @property
    def batch_max_quarantined(self) -> float:
        """Largest share of rows that a batch job may quarantine."""
        own = self.batch.max_quarantined
        return self.data.max_quarantined if own is None else own

    @property
    def training_metric(self) -> str:
        """The metric to optimise with its default worked out."""
        return self.train.metric or DEFAULT_METRIC[self.task]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the spec; names its immutable document."""
        return _digest(self._document())

    @property
    def data_digest(self) -> str:
        """SHA-256 over what decides the splits: task, contract and split section."""
        whole = self.model_dump(mode="json")
        return _digest({key: whole[key] for key in ("task", "data", "split")})

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Validates a parsed document.

        Raises:
            InvalidSpecError: Names every wrong field.
        """
        if not isinstance(document, dict):
            raise InvalidSpecError(
                f"a spec is a mapping of sections, and this is {type(document).__name__}"
            )
        try:
            return cls.model_validate(document)
        except ValidationError as exc:
            problems = tuple(
                FieldProblem(field=_field_path(e["loc"]), message=_message(e))
                for e in exc.errors(include_url=False)
            )
            first = problems[0]
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InvalidSpecError(
                f"invalid spec: {first.field}: {first.message}{more}", problems
            ) from exc

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Parses and validates YAML (or JSON, its subset).

        Raises:
            InvalidSpecError: The text is no YAML, or a field is wrong.
        """
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            reason = getattr(exc, "problem", None) or "cannot be parsed"
            raise InvalidSpecError(f"the spec is not valid YAML{where}: {reason}") from exc
        return cls.from_document(document)

    def to_json(self) -> str:
        """Canonical JSON: the stored document whose SHA-256 is `digest`."""
        return canonical_json(self._document())

    def _document(self) -> dict[str, Any]:
        """The spec as it is stored.

        A section or a key that a later version of Millrace added is left out while it says
        nothing, so that a spec written before it keeps its digest.
        """
        silent = {name for name, section in _ADDED.items() if getattr(self, name) == section}
        document = self.model_dump(mode="json", exclude=silent)
        approve = self.approve.model_dump(mode="json", exclude_defaults=True)
        rollout = self.rollout.model_dump(mode="json", exclude_defaults=True)
        retrain = self.retrain.model_dump(mode="json", exclude_defaults=True)
        if "monitor" in document:
            monitor = self.monitor.model_dump(mode="json", exclude_defaults=True)
            document["monitor"] = {"capture_rate": self.monitor.capture_rate} | monitor
        return document | {
            "approve": {"mode": self.approve.mode} | approve,
            "rollout": {"strategy": self.rollout.strategy} | rollout,
            "retrain": {"on_upload": self.retrain.on_upload} | retrain,
        }


_ADDED: Final[dict[str, _Section]] = {"serve": ServeSection(), "monitor": MonitorSection()}
HIGHER_IS_BETTER: dict[str, bool] = {
    "roc_auc": True,
    "average_precision": True,
    "accuracy": True,
    "balanced_accuracy": True,
    "f1": True,
    "f1_macro": True,
    "log_loss": False,
    "brier": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}
"""Every metric Millrace knows and its direction."""

DEFAULT_METRIC: dict[Task, str] = {
    Task.BINARY: "roc_auc",
    Task.MULTICLASS: "f1_macro",
    Task.REGRESSION: "rmse",
}


def metrics_for(task: Task) -> tuple[str, ...]:
    """The metrics of a task, the default one first."""
    match task:
        case Task.BINARY:
            return (
                "roc_auc",
                "average_precision",
                "accuracy",
                "balanced_accuracy",
                "f1",
                "log_loss",
                "brier",
            )
        case Task.MULTICLASS:
            return ("f1_macro", "accuracy", "balanced_accuracy", "log_loss")
        case Task.REGRESSION:
            return ("rmse", "mae", "r2")


def canonical_json(document: Any) -> str:
    """The one text of a document: what digests of specs, signatures and parameters are over."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(document: Any) -> str:
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def _field_path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else part)
    return path or "spec"


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "string_pattern_mismatch" and "smhd" in str(error.get("ctx")):
        return f"{error['input']!r} must be a number and a unit: 90s, 30m, 24h or 14d"
    if error["type"] == "string_pattern_mismatch":
        return (
            f"{error['input']!r} must be 2 to 40 lower-case letters, digits and hyphens, "
            "beginning with a letter"
        )
    message: str = error["msg"].removeprefix("Value error, ")
    value = error.get("input")
    if isinstance(value, str | int | float | bool) and error["type"] != "value_error":
        message += f", got {value!r}"
    return message
