"""The capture function: captured predictions leave the log for S3, and are counted.

Events: deliveries of the log subscription on the predict function's log group. Idempotent by the
prediction ids of a delivery: the same batch again is the same objects, which are written once, and
meets the markers of its own counts, of rollouts (`millrace.monitoring.tallies`) and by the hour
(`millrace.monitoring.hours`).
"""

from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from millrace.aws.logs import unpack
from millrace.aws.s3 import S3ObjectStore
from millrace.errors import ArtifactError, NotFoundError
from millrace.monitoring import hours, tallies
from millrace.monitoring.baseline import read_baseline
from millrace.monitoring.binning import NO_LAYOUT, Bins, begin_of
from millrace.monitoring.binning import count as count_hours
from millrace.monitoring.captures import Delivered, keep, read
from millrace.monitoring.counting import digest_of
from millrace.observability import METRICS, bind, count, logger, publish, published, tracer
from millrace.registry.serving import version_key
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class CaptureSettings(EnvironmentSettings):
    """Environment of the capture function."""

    data_bucket: str
    artifact_bucket: str
    table_name: str
    capture_days: int = 90
    hour_seconds: int = 3600


@cache
def settings() -> CaptureSettings:
    """The settings, read once per process."""
    return CaptureSettings.from_environment()


@lru_cache(maxsize=256)
def _known_bins(model: str, version: int) -> Bins:
    """Where a version's predictions fall: its baseline never changes.

    Raises:
        NotFoundError: It has none, or there is no such version.
        ArtifactError: It cannot be read.
    """
    table = DynamoTable(client("dynamodb"), settings().table_name)
    item = table.get(version_key(model, version))
    if item is None:
        raise NotFoundError(f"there is no {model}@{version}")
    store = S3ObjectStore(client("s3"))
    return Bins.of(read_baseline(store, settings().artifact_bucket, model, item["run_id"]))


def bins(model: str, version: int) -> Bins | None:
    """Where a version's predictions fall; None when it has no baseline that can be read.

    Then it is asked for again with the next delivery: one that comes later counts from then on.
    """
    try:
        return _known_bins(model, version)
    except NotFoundError:
        return None
    except ArtifactError:
        # Its traffic is still counted; the monitor says that the version cannot be judged.
        logger.exception("baseline cannot be read", model=model, version=version)
        return None


def add_hours(delivered: Delivered, messages: tuple[str, ...]) -> int:
    """Adds what was delivered to the counts of its hours; how many requests that were."""
    hour = timedelta(seconds=settings().hour_seconds)
    # Asked once for a delivery: its counts and their layout are of the same baseline.
    places = {(one.model, one.version) for one in delivered.records}
    places |= {(one.model, one.version) for one in delivered.failures}
    known = {place: bins(*place) for place in places}
    counted = count_hours(
        delivered.records, delivered.failures, lambda *place: known[place], hour=hour
    )
    layouts = {
        place: NO_LAYOUT if found is None else found.layout for place, found in known.items()
    }
    return hours.add(
        DynamoTable(client("dynamodb"), settings().table_name),
        digest_of(messages),
        counted,
        layouts,
        delivered.records,
        now=datetime.now(UTC),
        keep=timedelta(days=settings().capture_days),
        begin_of=lambda at: begin_of(at, hour),
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point."""
    bind(correlation_id=context.aws_request_id)
    delivered = unpack(event)
    lines = read(delivered.messages)
    kept = keep(
        lines,
        objects=S3ObjectStore(client("s3")),
        bucket=settings().data_bucket,
        logged=delivered.logged,
    )
    counted = tallies.add(
        DynamoTable(client("dynamodb"), settings().table_name),
        delivered.messages,
        now=datetime.now(UTC),
    )
    counted_by_hour = add_hours(lines, delivered.messages)
    for model, records in kept.captured.items():
        count(METRICS.CAPTURED_RECORDS, records, model=model)
        publish()  # one model at a time: a line's figures count for every model it names
    if kept.rejected:
        count(METRICS.CAPTURE_REJECTED, kept.rejected)
    logger.info(
        "capture ends",
        log_stream=delivered.stream,
        record_count=sum(kept.captured.values()),
        rejected=kept.rejected,
        written=kept.written,
        repeated=kept.repeated,
        counted=counted,
        counted_by_hour=counted_by_hour,
    )
    return {
        "records": sum(kept.captured.values()),
        "rejected": kept.rejected,
        "written": kept.written,
        "repeated": kept.repeated,
        "counted": counted,
        "counted_by_hour": counted_by_hour,
    }
