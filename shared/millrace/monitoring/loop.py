"""The loop back to training: what the monitor does with the alarms of a window.

`open_retraining` puts the decision together from the registry, the labels and the trigger;
`take_up` asks it, and writes on the alarms which training they started.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from millrace.aws.dynamodb import DynamoTable
from millrace.aws.sns import Notifier
from millrace.monitoring import prices
from millrace.monitoring.costs import Spending, predictions, total, usage_of
from millrace.monitoring.document import Cost, CostLine
from millrace.monitoring.episode_records import Episode, EpisodeState
from millrace.monitoring.episodes import Episodes
from millrace.monitoring.hours import WindowCounts
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.retraining import Alarmed, Decision, Retraining, Spent, Standing
from millrace.registry.calendar import last_training
from millrace.registry.registry import Registry
from millrace.spec import ModelSpec

TRIGGER_SOURCE: Final = "millrace.monitor"
DETAIL_TYPE: Final = "Retrain Requested"
_DECIDES: Final = (EpisodeState.OPEN, EpisodeState.ACKNOWLEDGED)
"""An alarm that a person silenced starts nothing."""
_OPEN_RUNS: Final = 5


def standing_of(registry: Registry, model: str) -> Standing:
    """Where a model stands between two trainings.

    Args:
        registry: Knows its runs and dataset versions.
        model: The model.

    Raises:
        NotFoundError: It has no dataset version yet.
    """
    dataset = registry.latest_dataset(model)
    since = dataset.created_at if dataset.labelled is None else dataset.labelled.until
    began = last_training(registry, model)
    newest = registry.list_runs(model, limit=_OPEN_RUNS).items
    open_run = next((run.run_id for run in newest if run.outcome is None), "")
    known = registry.get_model(model)
    rollout = known.rollout_id or ""
    return Standing(
        labelled_since=since,
        training_began=None if began is None else began.started_at,
        training_runs=open_run or (f"rollout {rollout}" if rollout else ""),
        champion=known.champion_version,
    )


def count_labelled(
    book: LabelBook, clock: Callable[[], datetime]
) -> Callable[[str, datetime, int], int]:
    """Counts rows with a label, and reads no more of them than are asked for.

    Args:
        book: The labels.
        clock: Now, in UTC.
    """

    def count(model: str, since: datetime, most: int) -> int:
        rows = 0
        begin = max(since, clock() - book.keep)
        for _ in book.of_span(model, begin, clock() + timedelta(minutes=1)):
            rows += 1
            if rows >= most:
                break
        return rows

    return count


@dataclass(frozen=True, slots=True)
class TriggerDoor:
    """Asks the trigger function, the one door to a training.

    Attributes:
        invoke: Calls a function and waits for its answer.
        function_name: The trigger's.
    """

    invoke: Callable[[str, Mapping[str, Any]], Any]
    function_name: str

    def __call__(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """Hands over a request; the trigger's answer.

        Raises:
            MillraceError: What the trigger raised.
        """
        answer: Mapping[str, Any] = self.invoke(
            self.function_name,
            {
                "id": str(detail["token"]),
                "source": TRIGGER_SOURCE,
                "detail-type": DETAIL_TYPE,
                "detail": dict(detail),
            },
        )
        return answer


def cost_of(spec: ModelSpec, window: WindowCounts, spending: Spending, now: datetime) -> Cost:
    """What a model costs, as its report shows it.

    Args:
        spec: The model's current spec.
        window: What it was asked in the window.
        spending: What models cost.
        now: The time.
    """
    month = spending.of_month(spec.name, now)
    inside = total(predictions(usage_of([window]), spending.sizes))
    trained = next((one for one in month.trainings if one.usd), None)
    budget = spec.retrain.monthly_budget
    return Cost(
        window=float(inside),
        per_thousand_predictions=None if month.per_thousand is None else float(month.per_thousand),
        month_to_date=float(month.usd),
        last_training=None if trained is None else float(trained.usd),
        monthly_budget=budget,
        budget_state=Spent(float(month.usd), budget).state,
        lines=tuple(CostLine(name=line.name, amount=float(line.usd)) for line in month.lines),
        prices_of=prices.READ,
    )


def open_retraining(
    *,
    table: DynamoTable,
    registry: Registry,
    book: LabelBook,
    spending: Spending,
    door: TriggerDoor,
    notifier: Notifier,
    clock: Callable[[], datetime],
) -> Retraining:
    """The decision with its ports.

    Args:
        table: The registry's table.
        registry: Knows runs and dataset versions.
        book: The labels.
        spending: What models cost.
        door: The way to a training.
        notifier: Tells people.
        clock: Now, in UTC.
    """
    return Retraining(
        table=table,
        standing=lambda model: standing_of(registry, model),
        labelled=count_labelled(book, clock),
        spent=lambda model, moment: float(spending.of_month(model, moment).usd),
        ask=door,
        notifier=notifier,
        clock=clock,
    )


def take_up(
    spec: ModelSpec, alarms: Iterable[Episode], *, retraining: Retraining, episodes: Episodes
) -> Decision:
    """Decides on a model's alarms, and writes on them which training they started. Idempotent.

    Args:
        spec: The model's current spec.
        alarms: The model's alarms; those that are over or silenced decide nothing.
        retraining: The decision.
        episodes: Where alarms are kept.
    """
    held = {one.id: one for one in alarms if one.state in _DECIDES}
    decision = retraining.consider(
        spec,
        [
            Alarmed(one.opened_at, one.id, one.kind, one.subject, one.text, one.version)
            for one in held.values()
        ],
    )
    for name in decision.episodes:
        if decision.run_id and name in held and not held[name].run_id:
            episodes.note_retraining(
                spec.name, name, decision.run_id, text=f"it started {decision.run_id}"
            )
    return decision
