"""The events function: every new entry of the ledger goes to EventBridge, and to people.

Events: deliveries of the registry table's stream. Repeating a delivery repeats its events, which
readers know by model and sequence.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from millrace.aws.clients import client
from millrace.aws.eventbridge import Bus
from millrace.aws.sns import SnsNotifier
from millrace.observability import bind, logger, published, tracer
from millrace.registry.approvals import open_approvals
from millrace.registry.publishing import Publisher
from millrace.settings import EnvironmentSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class EventsSettings(EnvironmentSettings):
    """Environment of the events function."""

    table_name: str
    topic_arn: str
    event_bus: str
    api_url: str = ""
    """Of the API, for links in notices; empty when there are to be none."""


@cache
def publisher() -> Publisher:
    """The service, wired once per process."""
    made = EventsSettings.from_environment()
    return Publisher(
        bus=Bus(client("events"), made.event_bus),
        notifier=SnsNotifier(client("sns"), made.topic_arn),
        approvals=open_approvals(client("dynamodb"), made.table_name),
        address=made.api_url,
    )


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@published()
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Lambda's entry point; answers which record to deliver from again."""
    bind(correlation_id=context.aws_request_id)
    records = event.get("Records") or []
    failed = publisher().publish(records)
    logger.info("delivery ends", record_count=len(records), failed=failed is not None)
    return {"batchItemFailures": [] if failed is None else [{"itemIdentifier": failed}]}
