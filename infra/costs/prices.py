"""Public prices and stated assumptions: the two tables that no template holds."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from millrace.errors import ConfigurationError

_FOLDER = Path(__file__).parent


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reading(_Row):
    """Where a price was read.

    Attributes:
        what: The text that was read.
        region: The region it speaks of.
        date: Its date, as exact as it is known; None for an undated copy.
    """

    what: str
    region: str
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")] | None


class Price(_Row):
    """What AWS asks for a number of units.

    Attributes:
        usd: US dollars for ``per`` units.
        per: How many units the price is for.
        unit: What is counted.
        page: The page of AWS that publishes it.
        read: Names of the readings that agree on it, newest first.
    """

    usd: Decimal = Field(gt=0)
    per: Decimal = Field(gt=0)
    unit: str
    page: str
    read: tuple[str, ...]

    def cost(self, units: Decimal) -> Decimal:
        """US dollars for so many units."""
        return self.usd * units / self.per

    def spoken(self) -> str:
        """As a person says it: ``$0.20 per 1,000,000 requests``."""
        count = "" if self.per == 1 else f"{self.per:,} "
        return f"${self.usd:f} per {count}{self.unit}"


class PriceList(_Row):
    """Every price used here and where it was read."""

    readings: dict[str, Reading]
    prices: dict[str, Price]

    def date_of(self, name: str) -> str:
        """The newest date at which a price was read."""
        return max(date for r in self.prices[name].read if (date := self.readings[r].date))


class Assumption(_Row):
    """A number that the estimates take for granted.

    Attributes:
        value: The number.
        unit: What is counted.
        why: Where the number comes from.
    """

    value: Decimal = Field(ge=0)
    unit: str
    why: str


class Assumptions(_Row):
    """All of them, by what they are for."""

    at_rest: dict[str, Assumption]
    prediction: dict[str, Assumption]
    training: dict[str, Assumption]

    def __getitem__(self, name: str) -> Decimal:
        """The value of one assumption."""
        return self.all()[name].value

    def all(self) -> dict[str, Assumption]:
        """Every assumption by its name."""
        return self.at_rest | self.prediction | self.training

    def changed(self, values: Mapping[str, str]) -> "Assumptions":
        """The same with some values replaced.

        Raises:
            ConfigurationError: There is no such assumption, or the value is no number from 0 on.
        """
        unknown = sorted(values.keys() - self.all().keys())
        if unknown:
            raise ConfigurationError(
                f"there is no assumption {', '.join(unknown)}: "
                f"expected one of {', '.join(self.all())}"
            )
        replaced = {name: _number(name, text) for name, text in values.items()}
        groups = {
            group: {
                name: one.model_copy(update={"value": replaced.get(name, one.value)})
                for name, one in getattr(self, group).items()
            }
            for group in type(self).model_fields
        }
        return type(self)(**groups)


def _number(name: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise ConfigurationError(
            f"the assumption {name} has to be a number from 0 on, not {text!r}"
        )
    return value


@cache
def price_list() -> PriceList:
    """The prices of `prices.yaml`."""
    return PriceList.model_validate(yaml.safe_load((_FOLDER / "prices.yaml").read_text("utf-8")))


@cache
def assumptions() -> Assumptions:
    """The assumptions of `assumptions.yaml`."""
    text = (_FOLDER / "assumptions.yaml").read_text("utf-8")
    return Assumptions.model_validate(yaml.safe_load(text))
