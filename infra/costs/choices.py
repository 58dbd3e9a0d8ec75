"""What each parameter of the template changes in the bill at rest, and in what bills by the hour."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from infra.build.expansion import source
from infra.costs.bill import bill_of, total
from infra.costs.kinds import Idle
from millrace.errors import ConfigurationError

SAMPLES: dict[str, tuple[str, ...]] = {
    "Stage": ("dev", "staging", "prod"),
    "CodeVersion": ("0123abc",),
    "NotificationEmail": ("ops@example.org",),
    "KmsKeyArn": ("arn:aws:kms:us-east-1:123456789012:key/customer",),
    "JwtIssuer": ("https://issuer.example.org",),
    "JwtAudience": ("millrace",),
    "JwtRolesClaim": ("cognito:groups",),
    "JwtRoleMapping": ("team=operator",),
    "CalendarSchedule": ("rate(7 days)",),
    "PredictWarmFrom": ("cron(0 7 ? * MON-FRI *)",),
    "PredictWarmUntil": ("cron(0 19 ? * MON-FRI *)",),
    "PredictWarmTimezone": ("Europe/Vienna",),
    "PermissionsBoundaryArn": ("arn:aws:iam::123456789012:policy/boundary",),
    "DocsUrl": ("https://example.org/millrace/blob/main/",),
}
"""Values of the parameters whose values the template does not list."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one value of one parameter changes, with the defaults for all others.

    Attributes:
        parameter: The parameter.
        value: A value that is not its default.
        usd: How much dearer a month at rest becomes.
        by_the_hour: What then bills by the hour or works at rest.
    """

    parameter: str
    value: str
    usd: Decimal
    by_the_hour: list[Idle]


@cache
def effects() -> tuple[Effect, ...]:
    """Tries every value that the template offers, the smallest and the largest of numbers."""
    return tuple(_effects())


def _effects() -> Iterator[Effect]:
    usual = total(bill_of({}).at_rest)
    for name, declared in source()["Parameters"].items():
        for value in _values(name, declared):
            if value != str(declared["Default"]):
                bill = bill_of({name: value})
                yield Effect(name, value, total(bill.at_rest) - usual, bill.by_the_hour)


def _values(name: str, declared: dict[str, Any]) -> list[str]:
    if "AllowedValues" in declared:
        return [str(value) for value in declared["AllowedValues"]]
    if "MinValue" in declared:
        return [str(declared["MinValue"]), str(declared["MaxValue"])]
    if name not in SAMPLES:
        raise ConfigurationError(
            f"nobody has said which values of {name} to try: add it to SAMPLES in "
            "infra/costs/choices.py"
        )
    return list(SAMPLES[name])
