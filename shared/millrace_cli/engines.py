"""The engines that the template runs on, and what each is declared to do.

A test says which capabilities it needs and is skipped, with the reason, where an engine lacks one;
docs/testing.md shows the same declarations as a table. Whoever makes an engine do more adds it here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Capability(StrEnum):
    """Something Millrace relies on that an engine does, or does not."""

    DEPLOYMENT = "deployment"
    """CloudFormation with the SAM transform and change sets."""
    UPLOAD_EVENTS = "upload-events"
    """An object's event names its version and reaches the function by a rule."""
    OBJECT_VERSIONS = "object-versions"
    """A replaced or deleted object can be had back."""
    TRANSACTIONS = "transactions"
    """DynamoDB transactions and conditions hold."""
    STATE_MACHINE = "state-machine"
    """Map, Choice, Retry and Catch on named errors, one execution per name."""
    EXECUTION_EVENTS = "execution-events"
    """An execution that did not succeed is an event."""
    REST_API = "rest-api"
    """The REST API of the OpenAPI body with Lambda proxy integrations."""
    AUTHORIZERS = "authorizers"
    """API keys are checked and Lambda authorizers asked; the function behind is told who calls."""
    RATES = "rates"
    """Request rates and quotas of usage plans and stages are limited."""
    PROBLEMS = "problems"
    """The gateway's own errors have the form that the template gives them."""
    LOGS = "logs"
    """What functions log is in CloudWatch Logs."""
    EMBEDDED_METRICS = "embedded-metrics"
    """Metrics in logs become CloudWatch metrics."""
    SERVICE_METRICS = "service-metrics"
    """Lambda, Step Functions, API Gateway and SQS measure themselves."""
    ALARMS = "alarms"
    """Alarms, metric math included, change state by their metrics and publish to their topic."""
    SCHEDULES = "schedules"
    """A rule ticks by its schedule, and by another as soon as it is given one."""
    NOTICES = "notices"
    """A topic delivers to its subscribers."""
    DEAD_LETTERS = "dead-letters"
    """An event that a function fails is tried again, then kept in the dead-letter queue."""
    SIGNATURES = "signatures"
    """A request without a valid signature is refused."""
    ROLES = "roles"
    """What a role does not grant is refused."""
    LIMITS = "limits"
    """Memory, payload sizes, timeouts of states and concurrency are limited."""
    ACCESS_LOGS = "access-logs"
    """The API writes access logs."""
    TRACES = "traces"
    """X-Ray records traces."""
    EXPIRY = "expiry"
    """What has expired is deleted: items, replaced objects, logs."""
    ENCRYPTION = "encryption"
    """Data at rest is encrypted, on demand with a customer key; only TLS is answered."""
    RECOVERY = "recovery"
    """A table can be restored to a point in time."""
    RETENTION = "retention"
    """What a template retains outlives its stack."""
    RECORDED_CALLS = "recorded-calls"
    """Function processes record their AWS calls, to be held against their roles."""
    DISPOSABLE = "disposable"
    """Nobody's account: stacks and stages may be made and removed at will."""
    PIPELINES = "pipelines"
    """The pipelines' own commands are rehearsed on it, roles refused by a proxy before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An emulator of AWS on this machine.

    Attributes:
        name: What it is called on command lines.
        title: What it is called in sentences.
        health: Path that answers 200 when it is up.
        folder: Where its cloud lives, below ``.millrace``.
        tools: Its environment below ``.tools``.
        setup: The make target that makes that environment.
        host: The module that is its process.
        keeps_state: Whether a stop and a start keep what was deployed.
        containers: Whether it can run in Docker instead.
        capabilities: What it does of what Millrace relies on.
    """

    name: str
    title: str
    health: str
    folder: str
    tools: str
    setup: str
    host: str
    keeps_state: bool
    containers: bool
    capabilities: frozenset[Capability]


_WIRING: Final = frozenset(
    {
        Capability.DEPLOYMENT,
        Capability.UPLOAD_EVENTS,
        Capability.OBJECT_VERSIONS,
        Capability.TRANSACTIONS,
        Capability.STATE_MACHINE,
        Capability.EXECUTION_EVENTS,
        Capability.REST_API,
        Capability.AUTHORIZERS,
        Capability.LOGS,
        Capability.EMBEDDED_METRICS,
        Capability.SERVICE_METRICS,
        Capability.ALARMS,
        Capability.NOTICES,
        Capability.DEAD_LETTERS,
        Capability.RECORDED_CALLS,
        Capability.DISPOSABLE,
    }
)
"""What must hold for data to flow from an upload to an answer, and trouble to a person; and what shows
that AWS would let it."""

MINISTACK: Final = Engine(
    name="ministack",
    title="MiniStack",
    health="/_ministack/health",
    folder="cloud",
    tools="cloud",
    setup="make setup",
    host="infra.local.host",
    keeps_state=True,
    containers=False,
    capabilities=_WIRING
    | {
        Capability.RATES,
        Capability.PROBLEMS,
        Capability.SCHEDULES,
        Capability.RETENTION,
        Capability.PIPELINES,
    },
)
LOCALSTACK: Final = Engine(
    name="localstack",
    title="LocalStack",
    health="/_localstack/health",
    folder="localstack",
    tools="localstack",
    setup="make setup-localstack",
    host="infra.localstack.host",
    keeps_state=False,
    containers=True,
    capabilities=_WIRING,
)
ENGINES: Final = {engine.name: engine for engine in (MINISTACK, LOCALSTACK)}
DEFAULT_ENGINE: Final = MINISTACK

OF_PROCESSES: Final = frozenset({Capability.RECORDED_CALLS})
"""What needs function processes of ours: neither containers nor AWS do it."""

OF_NOBODY: Final = frozenset({Capability.DISPOSABLE, Capability.PIPELINES})
"""What is done to no account that somebody uses."""

AWS_CAPABILITIES: Final = frozenset(Capability) - OF_PROCESSES - OF_NOBODY
"""AWS does all the rest, in somebody's account."""
