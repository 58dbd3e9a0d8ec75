"""CloudWatch alarms by name: metric alarms, as composite ones are told only to who may see all."""

from collections.abc import Sequence
from itertools import batched
from typing import TYPE_CHECKING, Final

from millrace.aws.translate import translated

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.client import CloudWatchClient

_PAGE: Final = 100
"""DescribeAlarms' limit of names per request."""


class Alarms:
    """Tells the states of alarms."""

    def __init__(self, client: "CloudWatchClient") -> None:
        self._client = client

    def states(self, names: Sequence[str]) -> dict[str, str | None]:
        """``OK``, ``ALARM`` or ``INSUFFICIENT_DATA`` by name; None for an alarm that is not there."""
        found: dict[str, str | None] = dict.fromkeys(names)
        for some in batched(names, _PAGE, strict=False):
            with translated(f"describe {len(some)} alarms"):
                answer = self._client.describe_alarms(
                    AlarmNames=list(some), AlarmTypes=["MetricAlarm"]
                )
            found |= {one["AlarmName"]: one["StateValue"] for one in answer["MetricAlarms"]}
        return found
