"""The calendar: each model trains once in each slot of its spec's ``retrain.on_schedule``.

One rule ticks for all models; which slot a tick lies in decides, not the tick. A tick that is lost,
late or repeated therefore changes nothing: the next one finds the slot still to be trained, or done.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from millrace.errors import InvalidEventError, MillraceError, NotFoundError
from millrace.observability import logger
from millrace.registry.door import Admission, AdmissionStatus, Door, slot_run_id
from millrace.registry.records import RegisteredModel, Run, RunOutcome
from millrace.registry.registry import Registry

NOT_TRAINED: Final = (RunOutcome.REFUSED, RunOutcome.UNCHANGED, RunOutcome.STORED)
"""Outcomes of runs in which nothing was trained."""
_LOOK_BACK: Final = 20


@dataclass(frozen=True, slots=True)
class Slot:
    """A stretch of the calendar in which a model trains once.

    Attributes:
        name: Such as ``2026-W47``.
        begins: Its first moment, in UTC.
    """

    name: str
    begins: datetime


def slot_of(schedule: str, moment: datetime) -> Slot:
    """The slot of a calendar that a moment lies in.

    Args:
        schedule: The spec's ``retrain.on_schedule``.
        moment: Aware.

    Raises:
        InvalidEventError: There is no such calendar.
    """
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match schedule:
        case "daily":
            return Slot(f"{day:%Y-%m-%d}", day)
        case "weekly":
            year, week, weekday = day.isocalendar()
            return Slot(f"{year}-W{week:02d}", day - timedelta(days=weekday - 1))
        case "monthly":
            return Slot(f"{day:%Y-%m}", day.replace(day=1))
        case "quarterly":
            quarter = (day.month - 1) // 3
            return Slot(f"{day.year}-Q{quarter + 1}", day.replace(month=3 * quarter + 1, day=1))
        case _:
            raise InvalidEventError(
                f"retrain_schedule: expected daily, weekly, monthly or quarterly, got {schedule!r}"
            )


def last_training(registry: Registry, model: str) -> Run | None:
    """The newest run of a model in which something is or was trained."""
    runs = registry.list_runs(model, limit=_LOOK_BACK).items
    return next((run for run in runs if run.outcome not in NOT_TRAINED), None)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Starts what is due.

    Attributes:
        registry: Knows the models and their runs.
        door: The one door to a training.
        over_budget: Why a model may not be trained for its cost; empty when it may.
    """

    registry: Registry
    door: Door
    over_budget: Callable[[RegisteredModel, datetime], str]

    def tick(self, moment: datetime, correlation_id: str) -> dict[str, Any]:
        """Starts every training that is due at a moment. Idempotent by model and slot.

        One model's failure holds up no other; it is raised when all were looked at.

        Args:
            moment: The time of the tick.
            correlation_id: The event's id.

        Returns:
            Admissions, in the order of the models.

        Raises:
            MillraceError: The first failure.
        """
        admissions: list[Admission] = []
        failed: list[MillraceError] = []
        for model in self._models():
            try:
                admissions.append(self._of_model(model, moment, correlation_id))
            except MillraceError as exc:
                logger.warning("a model's calendar failed", model=model.name, error=str(exc))
                failed.append(exc)
        logger.info(
            "calendar ends",
            models=len(admissions) + len(failed),
            started=sum(one.started for one in admissions),
            failed=len(failed),
        )
        if failed:
            raise failed[0]
        return {"admissions": [one.model_dump(mode="json") for one in admissions]}

    def _models(self) -> Iterator[RegisteredModel]:
        token: str | None = None
        while True:
            page = self.registry.list_models(limit=100, token=token)
            yield from (model for model in page.items if model.retrain_schedule)
            token = page.token
            if token is None:
                return

    def _of_model(self, model: RegisteredModel, moment: datetime, correlation_id: str) -> Admission:
        slot = slot_of(model.retrain_schedule, moment)
        began = last_training(self.registry, model.name)
        if (
            began is not None
            and began.started_at >= slot.begins
            and began.run_id != slot_run_id(model.name, slot.name)
        ):
            return _ignored(model, f"run {began.run_id} began in {slot.name} already")
        reason = self.over_budget(model, moment)
        if reason:
            return _ignored(model, reason)
        try:
            dataset = self.registry.latest_dataset(model.name)
        except NotFoundError as exc:
            return _ignored(model, str(exc))
        return self.door.admit_slot(model, dataset, slot.name, correlation_id)


def _ignored(model: RegisteredModel, reason: str) -> Admission:
    logger.info("nothing to train by the calendar", model=model.name, reason=reason)
    return Admission(status=AdmissionStatus.IGNORED, model=model.name, reason=reason)
