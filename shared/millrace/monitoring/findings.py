"""What monitoring says of a window: findings, their verdict, and the policy that made them.

Standard library only: the command line and the API read it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

State = Literal["ok", "watch", "alarm", "unknown"]
"""``watch``: it moved, and does not count yet or not as much. ``unknown``: too little was seen."""

Against = Literal["training", "last_week", "same_hour"]

Kind = Literal[
    "feature_drift",
    "score_drift",
    "class_drift",
    "multivariate",
    "missing",
    "unseen",
    "range",
    "performance",
    "estimated_performance",
    "fairness",
    "errors",
    "latency",
    "capture_gap",
]

SCORES: Final = "scores"
CLASSES: Final = "classes"
INPUTS: Final = "inputs"
"""Subjects of the findings that are of no feature: score drift, class drift, multivariate drift."""

DIRECTION: Final = "direction"
"""The parameter of a finding that says which way it moved when it was first seen."""

_RANK: Final[Mapping[State, int]] = {"unknown": 0, "ok": 1, "watch": 2, "alarm": 3}

_MAX_SHOWN: Final = 60

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True)
class StatisticValue:
    """A statistic with all that is needed to make it again.

    Attributes:
        name: ``psi``, ``ks``, ``chi2``, ``jensen_shannon``, ``wasserstein``, …
        value: The statistic.
        p_value: How likely one as large is without any difference; None where no test is made of it.
        bound: By how much the statistic of the raw samples may exceed or miss the one of the binned
            counts; 0 where both are the same by definition, None where the samples themselves were used
            or nothing can be said.
        parameters: Binning, logarithm's base, sizes.
    """

    name: str
    value: float
    p_value: float | None = None
    bound: float | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one comparison said.

    Attributes:
        kind: What moved.
        subject: The feature, metric or segment; `SCORES`, `CLASSES` or `INPUTS`.
        statistic: Name of the statistic.
        value: The statistic; it is held against `threshold`.
        effect: How much it moved, without what chance alone gives at this number of rows.
        p_value: Of the test; None where none is made.
        adjusted_p: Corrected for the number of tests in the window (Benjamini and Hochberg).
        threshold: The value from which on it counts, at this number of rows.
        against: What the window was compared with; None for what has no reference.
        rows: Rows (or requests) of the window that were compared.
        first_seen: Begin of the first window in a row that said so; None if `ok`.
        persisted: Windows in a row that said so, this one included; windows that overlap count once.
        verdict: ``ok``, ``watch`` or ``alarm``; ``unknown`` when there was too little to say.
        parameters: How the statistic was made.
        text: In words: what moved, and why the verdict is what it is.
    """

    kind: Kind
    subject: str
    statistic: str
    value: float | None
    effect: float | None = None
    p_value: float | None = None
    adjusted_p: float | None = None
    threshold: float | None = None
    against: Against | None = None
    rows: int = 0
    first_seen: datetime | None = None
    persisted: int = 0
    verdict: State = "ok"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    text: str = ""

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What makes it the same finding in another window: kind, subject, reference."""
        return self.kind, self.subject, self.against

    def to_document(self) -> dict[str, Any]:
        """As JSON knows it."""
        document = asdict(self) | {"parameters": dict(self.parameters)}
        document["first_seen"] = None if self.first_seen is None else self.first_seen.isoformat()
        return document

    def to_memory(self) -> dict[str, Any]:
        """What the next window needs to know of it: that it was there, since when, and which way."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "statistic": self.statistic,
            "value": None,
            "against": self.against,
            "first_seen": None if self.first_seen is None else self.first_seen.isoformat(),
            "persisted": self.persisted,
            "verdict": self.verdict,
            "parameters": {
                name: value for name, value in self.parameters.items() if name == DIRECTION
            },
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> "Finding":
        """Of what `to_document` or `to_memory` gave."""
        seen = document.get("first_seen")
        return cls(
            **{**document, "first_seen": None if seen is None else datetime.fromisoformat(seen)}
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in one window of one version.

    Attributes:
        model: The model.
        version: Its version.
        since: Begin of the window.
        until: Its end; not part of it.
        rows: Rows that were seen.
        state: The worst of the findings; ``unknown`` when the window was refused.
        reason: In words: why it was refused, or what is worst.
        findings: All that was compared, the ones that are ``ok`` too.
    """

    model: str
    version: int
    since: datetime
    until: datetime
    rows: int
    state: State
    reason: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings that are alarms."""
        return tuple(f for f in self.findings if f.verdict == "alarm")

    @property
    def moved(self) -> tuple[Finding, ...]:
        """Findings that are not ``ok``, what was seen first first, and of these the largest."""
        told = [f for f in self.findings if f.first_seen is not None]
        return tuple(sorted(told, key=lambda f: (f.first_seen or self.since, -(f.effect or 0.0))))

    def to_document(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "model": self.model,
            "version": self.version,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "rows": self.rows,
            "state": self.state,
            "reason": self.reason,
            "findings": [f.to_document() for f in self.findings],
        }

    def to_memory(self, findings: Iterable[Finding]) -> dict[str, Any]:
        """What the next window's verdict needs, as JSON knows it.

        Args:
            findings: Those of its findings that are remembered; what is ``ok`` need not be.
        """
        memory = replace(self, findings=()).to_document()
        return memory | {"findings": [f.to_memory() for f in findings]}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> "Verdict":
        """Of what `to_document` or `to_memory` gave."""
        return cls(
            **{
                **document,
                "since": datetime.fromisoformat(document["since"]),
                "until": datetime.fromisoformat(document["until"]),
                "findings": tuple(Finding.of_document(f) for f in document["findings"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """When a difference counts. The defaults are those that docs/monitoring.md has the curves of.

    Attributes:
        min_rows: Windows of fewer rows are refused, not guessed.
        significance: Largest adjusted p-value of a difference that counts.
        min_drift: Least drift that counts: PSI less what chance alone gives. 0.05 is a shift of a
            normal feature by some 0.22 of its standard deviation.
        min_share: Least rise of a share that counts: missing values, unseen categories, values out of
            range, errors.
        min_error: Least rise of the mean reconstruction error that counts, in standard deviations of
            a row's error.
        slow_factor: How many times as many slow requests count (slow: beyond the references' p95).
        persistence: Windows in a row, none overlapping another, that make an alarm of a difference.
        unseasoned: How long a difference must last while there is no window of the same hour and
            weekday to compare with; windows that are as long need none.
        cycle: What lasts this long is no season.
        thresholds: Instead of `min_drift` and the like, by ``<kind>:<subject>`` or ``<kind>``: what a
            person has widened.
    """

    min_rows: int = 200
    significance: float = 0.01
    min_drift: float = 0.05
    min_share: float = 0.01
    min_error: float = 0.2
    slow_factor: float = 2.0
    persistence: int = 2
    unseasoned: timedelta = timedelta(days=1)
    cycle: timedelta = timedelta(days=7)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def least(self, kind: Kind, subject: str) -> float:
        """The least effect that counts."""
        for name in (f"{kind}:{subject}", kind):
            if name in self.thresholds:
                return self.thresholds[name]
        match kind:
            case "feature_drift" | "score_drift" | "class_drift":
                return self.min_drift
            case "multivariate":
                return self.min_error
            case "latency":
                return self.slow_factor
            case _:
                return self.min_share


def shortened(name: str) -> str:
    """A category as texts for people have it: values of a column may be as long as a book."""
    return name if len(name) <= _MAX_SHOWN else f"{name[: _MAX_SHOWN - 1]}…"


def worst(states: Iterable[State]) -> State:
    """The worst of some states; ``unknown`` of none."""
    return max(states, key=_RANK.__getitem__, default="unknown")
