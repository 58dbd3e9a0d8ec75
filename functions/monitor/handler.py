"""The monitor function: judges every model's windows, and does what follows.

Invoked by the schedule, and by hand with ``{"model": "churn", "now": "2026-11-22T09:10:00Z"}``, either
of which may be left out. What lies in hours that are over is put together in few objects. The schedule's
hour is also when requests for approval expire that no machine waits for. Idempotent by model, version
and the window's start.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter

from millrace.aws.clients import client
from millrace.aws.console import page_of_object
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.lambda_ import LambdaInvoker
from millrace.aws.s3 import S3ObjectStore
from millrace.aws.sns import SnsNotifier
from millrace.decoding import decode
from millrace.documents import read_spec
from millrace.errors import MillraceError, NotFoundError, RetryableError
from millrace.monitoring.archive import latest
from millrace.monitoring.assembly import actions_of
from millrace.monitoring.baseline import Baseline, read_baseline
from millrace.monitoring.compaction import Compacted, compact
from millrace.monitoring.costs import Sizes, Spending, counted_from
from millrace.monitoring.document import Action, MonitorReport
from millrace.monitoring.episodes import Observed, open_episodes
from millrace.monitoring.labelbook import LabelBook
from millrace.monitoring.loop import TriggerDoor, cost_of, open_retraining, take_up
from millrace.monitoring.monitor import Models, Monitor, Outcome
from millrace.monitoring.report import conclude, readable, rewrite
from millrace.monitoring.rows import RowReader
from millrace.monitoring.windows import WindowBook
from millrace.observability import METRICS, bind, count, logger, published, tracer
from millrace.registry.approvals import open_approvals
from millrace.registry.records import RunOutcome
from millrace.registry.registry import open_registry
from millrace.registry.serving import ServingReader, version_key
from millrace.settings import EnvironmentSettings
from millrace.spec import ModelName, ModelSpec

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_WINDOW_MS: Final = 60_000
"""Time that has to be left for another window."""
_ACTIONS: Final = 50


class Look(BaseModel):
    """What is asked for; EventBridge's schedule says more, and that is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: ModelName | None = None
    now: AwareDatetime | None = None


_EVENT: Final = TypeAdapter(Look)


class MonitorSettings(EnvironmentSettings):
    """Environment of the monitor function."""

    table_name: str
    artifact_bucket: str
    data_bucket: str
    topic_arn: str
    trigger_function: str
    stage: str
    capture_days: int = 90
    hour_seconds: int = 3600
    docs_url: str = ""
    """Where people read the repository; empty leaves runbooks paths of it."""


@cache
def settings() -> MonitorSettings:
    """The settings, read once per process."""
    return MonitorSettings.from_environment()


@lru_cache(maxsize=64)
def baseline(model: str, run_id: str) -> Baseline:
    """The baseline that a run made; it never changes."""
    return read_baseline(S3ObjectStore(client("s3")), settings().artifact_bucket, model, run_id)


@cache
def monitor() -> Monitor:
    """The use case with its clients, wired once per process."""
    made = settings()
    table = DynamoTable(client("dynamodb"), made.table_name)
    store = S3ObjectStore(client("s3"))
    registry = open_registry(client("dynamodb"), made.table_name)
    episodes = open_episodes(client("dynamodb"), made.table_name)
    notifier = SnsNotifier(client("sns"), made.topic_arn)
    book = LabelBook(table, timedelta(days=made.capture_days))
    hour = timedelta(seconds=made.hour_seconds)
    spending = Spending(table, registry, counted_from(table), Sizes.from_environment())
    retraining = open_retraining(
        table=table,
        registry=registry,
        book=book,
        spending=spending,
        door=TriggerDoor(LambdaInvoker(client("lambda")).invoke, made.trigger_function),
        notifier=notifier,
        clock=lambda: datetime.now(UTC),
    )

    def spec_of(model: str) -> ModelSpec:
        current = registry.get_spec(model)
        return read_spec(store, made.artifact_bucket, current.key, current.digest)

    def baseline_of(model: str, version: int) -> Baseline | None:
        item = table.get(version_key(model, version))
        try:
            return None if item is None else baseline(model, str(item["run_id"]))
        except NotFoundError:
            return None

    def newest(model: str) -> MonitorReport | None:
        return readable(partial(latest, model, objects=store, bucket=made.artifact_bucket))

    def actions(model: str) -> Sequence[Action]:
        return actions_of(registry.audit(model, limit=_ACTIONS).items)

    def concluded(report: MonitorReport, clear_after: int) -> tuple[MonitorReport, Observed]:
        return conclude(
            report,
            episodes=episodes,
            objects=store,
            bucket=made.artifact_bucket,
            notifier=notifier,
            link=partial(page_of_object, made.artifact_bucket),
            docs=made.docs_url,
            clear_windows=clear_after,
        )

    def settled(spec: ModelSpec, now: datetime) -> None:
        spending.settle(spec.name, now)
        retraining.watch_budget(spec)

    return Monitor(
        table=table,
        book=WindowBook(table, book.keep),
        models=Models(
            serving=registry.get_serving,
            spec=spec_of,
            baseline=baseline_of,
            widened=episodes.widened,
            newest=newest,
            actions=actions,
            cost=lambda spec, window, now: cost_of(spec, window, spending, now),
        ),
        rows=RowReader(store, made.data_bucket, book),
        conclude=concluded,
        rewrite=partial(rewrite, objects=store, bucket=made.artifact_bucket),
        consider=partial(take_up, retraining=retraining, episodes=episodes),
        settle=settled,
        stage=made.stage,
        hour=hour,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    look = decode(_EVENT, event, "a look of the monitor")
    bind(correlation_id=context.aws_request_id)
    now = look.now or datetime.now(UTC)
    if look.model is not None:
        models = [look.model]
    else:
        table = DynamoTable(client("dynamodb"), settings().table_name)
        offers = ServingReader(table).list_serving()
        models = [offer.model for offer in offers if offer.version is not None]
        # Each is the first at some hour: where time is short, none always waits for the others.
        first = int(now.timestamp() // settings().hour_seconds) % max(1, len(models))
        models = models[first:] + models[:first]
    outcomes: list[dict[str, Any]] = []
    failed: list[Exception] = []
    if look.model is None:
        try:
            _expire_approvals()
        except MillraceError as exc:
            logger.exception("requests for approval not looked at")
            failed.append(exc)
    for model in models:
        bind(correlation_id=context.aws_request_id, model=model)
        try:
            if outcomes and context.get_remaining_time_in_millis() <= _WINDOW_MS:
                raise RetryableError(
                    f"no time is left for {model}: the look is repeated, and the next begins with "
                    "another model"
                )
            outcomes.append(_watch(model, now, context))
        except Exception as exc:  # noqa: BLE001 - raised again below, when the others were judged
            # One model that cannot be judged holds up no other, whatever is wrong with it.
            logger.exception("model not monitored")
            count(METRICS.MODELS_NOT_MONITORED, model=model)
            failed.append(exc)
    logger.info("monitor ends", models=len(models), failed=len(failed))
    if failed:
        raise failed[0]
    return {"models": len(models), "outcomes": outcomes}


def _expire_approvals() -> None:
    """Ends what nobody answered in time and no machine waits for: requests for imported versions."""
    dynamodb, table = client("dynamodb"), settings().table_name
    registry = open_registry(dynamodb, table)
    for asked in open_approvals(dynamodb, table).expire_due():
        # Again, if this was what a crash prevented: a run that is closed stays as it is.
        closed = registry.finish_run(
            asked.run_id,
            RunOutcome.EXPIRED,
            reason=asked.reason,
            actor=asked.decided_by,
            correlation_id=asked.correlation_id,
        )
        if closed:
            logger.info("approval expired", model=asked.model, version=asked.version)


def _watch(model: str, now: datetime, context: "LambdaContext") -> dict[str, Any]:
    """Judges one model's windows, and tidies what was captured of it."""

    def time_left() -> bool:
        return context.get_remaining_time_in_millis() > _WINDOW_MS

    outcome: Outcome = monitor().watch(model, now, time_left=time_left)
    compacted = Compacted()
    if outcome.flowed:
        store = S3ObjectStore(client("s3"))
        compacted = compact(store, settings().data_bucket, model, now, time_left=time_left)
    logger.info(
        "model watched",
        windows=len(outcome.windows),
        again=outcome.again,
        compacted=compacted.objects,
        into=compacted.into,
    )
    return {
        "model": model,
        "windows": [
            {
                "since": one.since.isoformat(),
                "until": one.until.isoformat(),
                "version": one.version,
                "rows": one.rows,
                "state": one.state,
                "reason": one.reason,
            }
            for one in outcome.windows
        ],
        "again": outcome.again,
        "compacted": compacted.objects,
    }
