"""What CloudWatch says was counted."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

NAMESPACE = "Millrace"


def counted(client: Any, metric: str, stack: str, model: str | None = None) -> float:
    """The sum of one of Millrace's metrics in the last hours, of a stack or of one of its models."""
    dimensions = {"service": stack} | ({} if model is None else {"model": model})
    return total(client, NAMESPACE, metric, dimensions)


def total(client: Any, namespace: str, metric: str, dimensions: Mapping[str, str]) -> float:
    """The sum of a metric in the last hours."""
    now = dt.datetime.now(dt.UTC)
    points = client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - dt.timedelta(hours=3),
        EndTime=now + dt.timedelta(minutes=1),
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))
