"""Whether an alarm starts a training, at most once for each drift episode, and why not.

Inputs that drift alone never start one: a training needs an alarm on the model's performance, and
enough rows whose labels came since the last one. A decision to start is claimed by one transaction
before the trigger is asked, with every open performance episode of the model, so that two monitors
at once, a repeated or a late window and a crash in between lead to one training: whoever comes next
with a claimed episode asks the trigger again with the same token, and the door knows its run.

``MONITOR#<model>`` / ``RETRAINING`` says when the last one was started, which is the cooldown;
``MONITOR#<model>`` / ``RETRAINING#<episode>`` is an episode's claim, or the last refusal of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

from millrace import layout
from millrace.aws.sns import Notice, Notifier
from millrace.aws.table import ABSENT, PK, SK, Expected, Item, Key, OneOf, Put, Write
from millrace.errors import ConcurrentWriteError, ConditionFailedError, NotFoundError
from millrace.messages import Cause
from millrace.monitoring.usable import why_not_usable
from millrace.observability import METRICS, count, logger
from millrace.spec import ModelSpec, RetrainSection

MONITOR: Final = "monitor"
"""Who asks for a training that drift starts, as the audit writes it."""
REALISED: Final = "performance"
ESTIMATED: Final = "estimated_performance"
CAUSES: Final = frozenset({REALISED, ESTIMATED})
"""Kinds of findings that can start a training; no other does."""
WARN_FROM: Final = 0.8
_ATTEMPTS: Final = 5
_SHOWN: Final = 3
_MAX_CLAIMED: Final = 50
"""Episodes of one claim; a transaction takes a hundred writes."""
_CLAIMED: Final = "claimed"
_STARTED: Final = "started"
_REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True, order=True)
class Alarmed:
    """An open drift episode, as the decision needs it.

    Attributes:
        opened_at: When it was opened.
        id: The episode's id: the idempotency key of its retraining.
        kind: The kind of its findings.
        subject: Which metric, feature or segment.
        text: What was found, for people.
        version: The version that it was last found of.
    """

    opened_at: datetime
    id: str
    kind: str
    subject: str
    text: str = ""
    version: int | None = None


class Code(StrEnum):
    """Why a decision is as it is."""

    STARTED = "started"
    ALREADY_STARTED = "already_started"
    NO_EPISODE = "no_episode"
    SWITCHED_OFF = "switched_off"
    INPUT_DRIFT_ONLY = "input_drift_only"
    NOT_CAPTURED = "not_captured"
    NO_DATASET = "no_dataset"
    TRAINING_RUNS = "training_runs"
    FORMER_VERSION = "former_version"
    COOLDOWN = "cooldown"
    BUDGET = "budget"
    TOO_FEW_ROWS = "too_few_rows"


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of an alarm.

    Attributes:
        outcome: ``start`` when a training runs because of it.
        code: Why, for machines.
        reason: Why, for people.
        run_id: The training; empty when there is none.
        episodes: The episodes it is about.
    """

    outcome: Literal["start", "refuse"]
    code: Code
    reason: str
    run_id: str = ""
    episodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """What a model cost this calendar month.

    Attributes:
        usd: US dollars so far.
        of: The spec's ``retrain.monthly_budget``; None when there is none.
    """

    usd: float
    of: float | None

    @property
    def state(self) -> Literal["none", "within", "warned", "exhausted"]:
        """How that stands to the budget."""
        if self.of is None:
            return "none"
        if self.usd >= self.of:
            return "exhausted"
        return "warned" if self.usd >= WARN_FROM * self.of else "within"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a model stands between two trainings.

    Attributes:
        labelled_since: Predictions from then on are new to the newest dataset version.
        training_began: When its last training began, whatever started it.
        training_runs: The run that is open; empty when none is.
        champion: The version that answers.
    """

    labelled_since: datetime
    training_began: datetime | None
    training_runs: str
    champion: int | None = None


class DecidedTable(Protocol):
    """What reading a decision needs of DynamoDB."""

    def get(self, key: Key) -> Item | None:
        """The item as it is now, or None."""
        ...


class DecisionTable(DecidedTable, Protocol):
    """What is needed of DynamoDB: `aws.dynamodb.DynamoTable` is one."""

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """All writes or none.

        Raises:
            ConditionFailedError: A condition did not hold.
        """
        ...


@dataclass(frozen=True, slots=True)
class Retraining:
    """Decides on retraining, and asks the trigger for it.

    Attributes:
        table: Where decisions are kept.
        standing: Tells where a model stands.
        labelled: Counts rows with labels of a model from a moment on, up to a number.
        spent: What a model cost in the month of a moment.
        ask: Hands the detail of a "Retrain Requested" event to the trigger, and gives its answer.
        notifier: Told of refusals that a person can do something about.
        clock: Now, in UTC.
    """

    table: DecisionTable
    standing: Callable[[str], Standing]
    labelled: Callable[[str, datetime, int], int]
    spent: Callable[[str, datetime], float]
    ask: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    notifier: Notifier
    clock: Callable[[], datetime]

    def consider(self, spec: ModelSpec, episodes: Sequence[Alarmed]) -> Decision:
        """Decides on the open episodes of a model, and starts a training if that is due.

        Idempotent: the same episodes again lead to the same training.

        Args:
            spec: The model's current spec.
            episodes: All of its episodes that are open and not silenced.
        """
        decision = self._decide(spec, sorted(set(episodes)))
        logger.info(
            "retraining considered",
            outcome=decision.outcome,
            code=decision.code.value,
            run_id=decision.run_id,
        )
        return decision

    # ── Deciding ────────────────────────────────────────────────────────────────────────────────

    def _decide(self, spec: ModelSpec, episodes: Sequence[Alarmed]) -> Decision:
        if not episodes:
            return _refused(Code.NO_EPISODE, "no drift episode is open")
        for _ in range(_ATTEMPTS):
            held = {one.id: self.table.get(_claim_key(spec.name, one.id)) for one in episodes}
            for item in held.values():
                if item is not None and item["state"] == _CLAIMED:
                    return self._ask(spec.name, item)
            fresh = [one for one in episodes if not _is_started(held[one.id])]
            causes = [one for one in fresh if one.kind in CAUSES]
            refusal = self._refusal(spec, causes, has_started=len(fresh) < len(episodes))
            if refusal is not None:
                if refusal.code is Code.ALREADY_STARTED:
                    runs = {
                        name: str(item["run_id"])
                        for name, item in held.items()
                        if item is not None and _is_started(item)
                    }
                    newest = list(runs.values())[-1]
                    served = tuple(name for name, run in runs.items() if run == newest)
                    return Decision("refuse", refusal.code, refusal.reason, newest, served)
                return self._note(spec, refusal, causes or fresh, held)
            claim = self._claim(spec.name, causes[:_MAX_CLAIMED])
            if claim is not None:
                return self._ask(spec.name, claim)
        # Others keep claiming: what they claim is found at the next window.
        return _refused(Code.TRAINING_RUNS, "another monitor is deciding on the same episodes")

    def _refusal(
        self, spec: ModelSpec, causes: Sequence[Alarmed], *, has_started: bool
    ) -> Decision | None:
        """Why nothing is started, or None when a training is due."""
        policy = spec.retrain
        if not causes and has_started:
            return _refused(
                Code.ALREADY_STARTED, "its training was started already: one for each episode"
            )
        if not policy.on_drift:
            return _refused(Code.SWITCHED_OFF, "the spec's retrain.on_drift is false")
        if not causes:
            return _refused(
                Code.INPUT_DRIFT_ONLY,
                "inputs drifted, and no alarm says that the model got worse: drift of inputs alone "
                "starts no training",
            )
        reason = why_not_usable(spec)
        if reason:
            return _refused(Code.NOT_CAPTURED, reason)
        return self._not_now(spec.name, policy, causes)

    def _not_now(
        self, model: str, policy: RetrainSection, causes: Sequence[Alarmed]
    ) -> Decision | None:
        now = self.clock()
        try:
            standing = self.standing(model)
        except NotFoundError as exc:
            return _refused(Code.NO_DATASET, str(exc))
        if standing.training_runs:
            return _refused(Code.TRAINING_RUNS, f"{standing.training_runs} is under way")
        champion, found = standing.champion, {one.version for one in causes}
        if champion is not None and found.isdisjoint({champion, None}):
            # It opened while the version that mends it was trained or rolled out.
            named = ", ".join(sorted(str(version) for version in found))
            return _refused(
                Code.FORMER_VERSION,
                f"it was found of version {named}, and version {champion} answers now",
            )
        state = self.table.get(_state_key(model))
        began = max(
            (
                moment
                for moment in (
                    standing.training_began,
                    datetime.fromisoformat(state["at"]) if state else None,
                )
                if moment is not None
            ),
            default=None,
        )
        if began is not None and now < began + timedelta(seconds=policy.cooldown_seconds):
            return _refused(
                Code.COOLDOWN,
                f"the last training began at {_told(began)}; retrain.cooldown is {policy.cooldown}",
            )
        if policy.monthly_budget is not None:
            spent = Spent(self.spent(model, now), policy.monthly_budget)
            if spent.state == "exhausted":
                return _refused(
                    Code.BUDGET,
                    why_over(spent),
                )
        rows = self.labelled(model, standing.labelled_since, policy.min_new_rows)
        if rows < policy.min_new_rows:
            return _refused(
                Code.TOO_FEW_ROWS,
                f"{rows:,} rows predicted since {_told(standing.labelled_since)} have a label, and "
                f"retrain.min_new_rows is {policy.min_new_rows:,}: send more labels",
            )
        return None

    # ── Claiming and asking ─────────────────────────────────────────────────────────────────────

    def _claim(self, model: str, causes: Sequence[Alarmed]) -> Item | None:
        """Claims the episodes together; None when another was faster."""
        now = self.clock()
        leader = causes[0]
        claim: Item = {
            "state": _CLAIMED,
            "model": model,
            "leader": leader.id,
            "episodes": [one.id for one in causes],
            "run_id": layout.run_id_for_retrain(model, leader.id),
            "reason": _reason(causes),
            "at": now.isoformat(),
        }
        state = self.table.get(_state_key(model))
        revision = None if state is None else int(state["revision"])
        writes: list[Write] = [
            Put(
                "retraining",
                _state_key(model),
                {"revision": (revision or 0) + 1, "at": now.isoformat(), "leader": leader.id},
                {"revision": revision},
            )
        ]
        unclaimed: Mapping[str, Expected] = {"state": OneOf((None, _REFUSED))}
        writes += [Put("episode", _claim_key(model, one.id), claim, unclaimed) for one in causes]
        try:
            self.table.transact(writes, f"claim the retraining of {model}")
        except (ConditionFailedError, ConcurrentWriteError):
            return None
        return claim

    def _ask(self, model: str, claim: Item) -> Decision:
        """Asks the trigger for a claimed training, which may have been asked for before."""
        episodes = tuple(str(one) for one in claim["episodes"])
        answer = self.ask(
            {
                "model": model,
                "token": claim["leader"],
                "reason": claim["reason"],
                "requested_by": MONITOR,
                "cause": Cause.DRIFT.value,
                "labelled": True,
            }
        )
        run_id = str(answer.get("run_id") or claim["run_id"])
        for episode in episodes:
            started = {**claim, "state": _STARTED, "run_id": run_id}
            try:
                self.table.transact(
                    [
                        Put(
                            "episode",
                            _claim_key(model, episode),
                            _plain(started),
                            {"state": _CLAIMED, "leader": str(claim["leader"])},
                        )
                    ],
                    f"note the retraining of {model}",
                )
            except ConditionFailedError:
                continue  # another noted it
        if answer.get("started"):
            count(METRICS.DRIFT_RETRAININGS, model=model)
            self.notifier.notify(
                Notice(
                    model=model,
                    event="retraining_started",
                    subject=f"{model}: drift started a training",
                    details={"run_id": run_id, "episodes": list(episodes)},
                    why=str(claim["reason"]),
                    next_step=f"millrace status {run_id} --follow",
                )
            )
        return Decision("start", Code.STARTED, str(claim["reason"]), run_id, episodes)

    def _note(
        self,
        spec: ModelSpec,
        refusal: Decision,
        episodes: Sequence[Alarmed],
        held: Mapping[str, Item | None],
    ) -> Decision:
        """Keeps a refusal where it is new; tells people of one that they can do something about."""
        now = self.clock()
        new = False
        for one in episodes[:_MAX_CLAIMED]:
            item = held.get(one.id)
            if item is not None and item.get("code") == refusal.code.value:
                continue
            noted: Item = {
                "state": _REFUSED,
                "model": spec.name,
                "code": refusal.code.value,
                "reason": refusal.reason,
                "at": now.isoformat(),
            }
            unclaimed: Mapping[str, Expected] = {"state": OneOf((None, _REFUSED))}
            try:
                self.table.transact(
                    [Put("episode", _claim_key(spec.name, one.id), noted, unclaimed)],
                    f"note a refusal of {spec.name}",
                )
                new = True
            except ConditionFailedError:
                continue  # claimed meanwhile
        if new and refusal.code in _TOLD:
            self.notifier.notify(
                Notice(
                    model=spec.name,
                    event="retraining_refused",
                    subject=f"{spec.name}: drift, and no training",
                    details={"code": refusal.code.value, "episodes": [o.id for o in episodes]},
                    why=refusal.reason,
                    next_step=_TOLD[refusal.code].format(model=spec.name),
                )
            )
        return Decision(
            "refuse", refusal.code, refusal.reason, "", tuple(one.id for one in episodes)
        )

    # ── The budget ──────────────────────────────────────────────────────────────────────────────

    def watch_budget(self, spec: ModelSpec) -> Spent:
        """Tells people once a month each when a model comes near its budget, and when it is over.

        Args:
            spec: The model's current spec.
        """
        now = self.clock()
        of = spec.retrain.monthly_budget
        spent = Spent(self.spent(spec.name, now), of)
        if spent.state not in _BUDGET_NEXT:
            return spent
        key = Key(_pk(spec.name), f"BUDGET#{now.astimezone(UTC):%Y-%m}#{spent.state}")
        try:
            self.table.transact(
                [Put("budget", key, {"usd": f"{spent.usd:.4f}", "at": now.isoformat()}, ABSENT)],
                f"note the budget of {spec.name}",
            )
        except ConditionFailedError:
            return spent
        over = spent.state == "exhausted"
        self.notifier.notify(
            Notice(
                model=spec.name,
                event="budget_exhausted" if over else "budget_warning",
                subject=f"{spec.name}: the month's budget is {'spent' if over else 'nearly spent'}",
                details={"usd": round(spent.usd, 4), "monthly_budget": of},
                why=f"the model cost ${spent.usd:.2f} of ${of:.2f} in {now:%B}",
                next_step=_BUDGET_NEXT[spent.state].format(model=spec.name),
            )
        )
        return spent


_TOLD: Final[Mapping[Code, str]] = {
    Code.NOT_CAPTURED: "millrace upload {model} FILE",
    Code.NO_DATASET: "millrace upload {model} FILE",
    Code.BUDGET: "raise retrain.monthly_budget, or millrace retrain {model} --labelled --why …",
    Code.TOO_FEW_ROWS: "millrace feedback {model} --file LABELS.csv",
}
"""What a person can do about a refusal."""
_BUDGET_NEXT: Final[Mapping[str, str]] = {
    "warned": "millrace costs {model}",
    "exhausted": "millrace costs {model}; neither drift nor the calendar trains it before the next "
    "month, unless retrain.monthly_budget is raised",
}


def why_over(spent: Spent) -> str:
    """Why a model over its budget is not trained."""
    return (
        f"the model cost ${spent.usd:.2f} this month, and retrain.monthly_budget is "
        f"${spent.of:.2f}; predictions go on"
    )


def of_episode(table: DecidedTable, model: str, episode: str) -> Decision | None:
    """What became of an episode; None when nothing was decided on it yet.

    Args:
        table: Where decisions are kept.
        model: The model.
        episode: The episode's id.
    """
    item = table.get(_claim_key(model, episode))
    if item is None:
        return None
    if item["state"] == _REFUSED:
        return _refused(Code(item["code"]), str(item["reason"]))
    return Decision(
        "start", Code.STARTED, str(item["reason"]), str(item["run_id"]), tuple(item["episodes"])
    )


def _refused(code: Code, reason: str) -> Decision:
    return Decision("refuse", code, reason)


def _is_started(item: Item | None) -> bool:
    return item is not None and item["state"] == _STARTED


def _reason(causes: Sequence[Alarmed]) -> str:
    # What labels tell comes before what is estimated, whichever opened first.
    shown = sorted(causes, key=lambda one: one.kind != REALISED)[:_SHOWN]
    said = "; ".join(
        one.text if one.text.startswith(one.subject) else f"{one.subject}: {one.text}".rstrip(": ")
        for one in shown
    )
    more = f"; and {len(causes) - _SHOWN} more" if len(causes) > _SHOWN else ""
    return f"drift episode {causes[0].id}: {said}{more}"


def _plain(item: Item) -> Item:
    """An item without its keys."""
    return {name: value for name, value in item.items() if name not in (PK, SK)}


def _told(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _pk(model: str) -> str:
    return f"MONITOR#{model}"


def _state_key(model: str) -> Key:
    return Key(_pk(model), "RETRAINING")


def _claim_key(model: str, episode: str) -> Key:
    return Key(_pk(model), f"RETRAINING#{episode}")
