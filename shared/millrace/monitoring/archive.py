"""Where monitoring's reports are kept, and how they are read again: by the API, and by the next window."""

from datetime import datetime

from millrace import layout
from millrace.aws.objects import ObjectReader
from millrace.errors import ArtifactError, NotFoundError
from millrace.monitoring.document import MonitorReport


def latest(model: str, *, objects: ObjectReader, bucket: str) -> MonitorReport | None:
    """The newest report of a model; None when there is none yet.

    Raises:
        ArtifactError: What is stored is no report that this version reads.
    """
    return read(layout.latest_monitor_report_key(model, "json"), objects=objects, bucket=bucket)


def read(key: str, *, objects: ObjectReader, bucket: str) -> MonitorReport | None:
    """A report by its key; None when there is none.

    Raises:
        ArtifactError: What is stored is no report that this version reads.
    """
    try:
        body = objects.read(bucket, key)
    except NotFoundError:
        return None
    try:
        return MonitorReport.model_validate_json(body)
    except ValueError:
        raise ArtifactError(
            f"s3://{bucket}/{key} is no monitoring report of format 1: the next window writes a new "
            "one"
        ) from None


def of_window(
    model: str, since: datetime, *, objects: ObjectReader, bucket: str
) -> MonitorReport | None:
    """The report of the window that began then; None when there is none.

    Raises:
        ArtifactError: What is stored is no report that this version reads.
    """
    return read(layout.monitor_report_key(model, since, "json"), objects=objects, bucket=bucket)
