"""An EventBridge bus that events are put on."""

from datetime import datetime
from typing import TYPE_CHECKING

from millrace.aws.codes import error_of
from millrace.aws.translate import translated

if TYPE_CHECKING:
    from mypy_boto3_events.client import EventBridgeClient


class Bus:
    """A bus.

    Args:
        client: EventBridge.
        name: The bus's name or ARN.
    """

    def __init__(self, client: "EventBridgeClient", name: str) -> None:
        self._client = client
        self._name = name

    def put(self, *, source: str, detail_type: str, detail: str, at: datetime) -> None:
        """Puts one event on the bus.

        Raises:
            MillraceError: It was not taken; EventBridge says so inside an answer that is well.
        """
        what = f"put an event on the bus {self._name}"
        with translated(what):
            answer = self._client.put_events(
                Entries=[
                    {
                        "EventBusName": self._name,
                        "Source": source,
                        "DetailType": detail_type,
                        "Detail": detail,
                        "Time": at,
                    }
                ]
            )
        for entry in answer["Entries"]:
            if entry.get("ErrorCode"):
                raise error_of(
                    str(entry["ErrorCode"]), str(entry.get("ErrorMessage", "")), 400, what
                )
