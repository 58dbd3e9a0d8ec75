"""The tables of `docs/costs.md`, written between marks by `python -m infra.costs --write`."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from infra.build.expansion import ROOT, expanded
from infra.costs.bill import Bill, Line, bill_of, total
from infra.costs.choices import effects
from infra.costs.kinds import HOURLY, kind_of
from infra.costs.prices import Assumption, assumptions, price_list
from infra.delivery.stages import stages
from millrace.errors import ConfigurationError

DOCUMENT = ROOT / "docs" / "costs.md"
MARK = re.compile(
    r"(?P<begin><!-- (?P<name>[a-z ]+): written by `python -m infra\.costs --write` -->\n)"
    r".*?"
    r"(?P<end><!-- end of (?P=name) -->)",
    re.DOTALL,
)


def rendered(page: str) -> str:
    """The page with every table as it is today.

    Raises:
        ConfigurationError: The page lacks a table, or has one that nobody writes.
    """
    names = [match["name"] for match in MARK.finditer(page)]
    if sorted(names) != sorted(TABLES):
        raise ConfigurationError(
            f"{DOCUMENT.name} has to have the tables {', '.join(TABLES)}, not {', '.join(names)}"
        )
    return MARK.sub(lambda m: f"{m['begin']}\n{TABLES[m['name']]()}\n\n{m['end']}", page)


def dollars(usd: Decimal, places: int = 4) -> str:
    """A sum as people write it."""
    return f"${usd:,.{places}f}"


def _at_rest() -> str:
    bills = {"defaults": bill_of({})} | _stages()
    usual = bills["defaults"].at_rest
    rows = [
        [
            f"{line.item}: {line.formula}",
            price_list().prices[line.price].spoken(),
            *(_cell(bill.at_rest[at]) for bill in bills.values()),
        ]
        for at, line in enumerate(usual)
    ]
    sums = [f"**{dollars(total(bill.at_rest))}**" for bill in bills.values()]
    return _table(
        ["a month at rest", "price", *bills], [*rows, ["**together**", "", *sums]], right=len(bills)
    )


def _by_the_hour() -> str:
    rows = []
    for name, bill in ({"the defaults": bill_of({})} | _stages()).items():
        found = [f"`{idle.resource}`: {idle.why}" for idle in bill.by_the_hour]
        rows.append([name, "<br>".join(found) or "nothing"])
    return _table(["parameters of", "bills by the hour, or works while nothing flows"], rows)


def _parameters() -> str:
    tried = effects()
    rows = [
        [f"`{e.parameter}={e.value}`", f"{'+' if e.usd > 0 else '−'}{dollars(abs(e.usd), 2)}"]
        for e in tried
        if e.usd
    ]
    hourly = [f"`{e.parameter}={e.value}`" for e in tried if e.by_the_hour]
    said = ", ".join(hourly) if hourly else "none of them"
    return (
        _table(["parameter", "changes a month at rest by"], rows, right=1)
        + f"\n\n{len(tried)} values of {len({e.parameter for e in tried})} parameters were tried; "
        f"of those, {said} would make anything bill by the hour."
    )


def _types() -> str:
    counted = Counter(resource["Type"] for resource in expanded()["Resources"].values())
    rows = []
    for type_ in sorted(counted):
        kind = kind_of(type_)
        rows.append(
            [f"`{type_}`", str(counted[type_]), " and ".join(b.value for b in kind.bills), kind.why]
        )
    return _table(["type", "count", "billed", "why"], rows)


def _refused() -> str:
    return _table(
        ["type", "why it may not be here"],
        [[f"`{type_}`", why] for type_, why in sorted(HOURLY.items())],
    )


def _predictions() -> str:
    count = assumptions()["requests"]
    return _use(f"{count:,} predictions", bill_of({}).predictions)


def _training() -> str:
    return _use("a training", bill_of({}).training)


def _assumptions() -> str:
    stated = assumptions()
    groups: list[tuple[str, dict[str, Assumption]]] = [
        ("at rest", stated.at_rest),
        ("predictions", stated.prediction),
        ("a training", stated.training),
    ]
    rows = [
        [title, f"`{name}`", f"{one.value} {one.unit}", one.why]
        for title, group in groups
        for name, one in group.items()
    ]
    return _table(["for", "name", "taken for granted", "because"], rows)


def _prices() -> str:
    known = price_list()
    rows = [
        [
            f"`{name}`",
            price.spoken(),
            price.page,
            known.date_of(name),
            ", ".join(f"`{key}`" for key in price.read),
        ]
        for name, price in known.prices.items()
    ]
    return _table(["name", "price", "published on", "newest reading", "all readings"], rows)


def _readings() -> str:
    rows = [
        [f"`{name}`", reading.what, reading.region, reading.date or "unknown"]
        for name, reading in price_list().readings.items()
    ]
    return _table(["reading", "text", "region", "date"], rows)


def _switches() -> str:
    hours = assumptions()["month_hours"]
    prices = price_list().prices
    costs = {
        "provisioned concurrency, one function of 1 GB": prices["lambda-provisioned"].cost(
            hours * 3600
        ),
        "the smallest cache of the API": prices["api-cache"].cost(hours),
    }
    rows = [[item, dollars(usd, 2)] for item, usd in costs.items()]
    return _table(["a month of", "would cost"], rows, right=1)


TABLES: dict[str, Callable[[], str]] = {
    "at rest": _at_rest,
    "by the hour": _by_the_hour,
    "parameters": _parameters,
    "types": _types,
    "refused": _refused,
    "predictions": _predictions,
    "training": _training,
    "assumptions": _assumptions,
    "prices": _prices,
    "readings": _readings,
    "switches": _switches,
}


def _stages() -> dict[str, Bill]:
    known = stages(ROOT / "samconfig.toml")
    return {name: bill_of(stage.parameters) for name, stage in known.items()}


def _use(title: str, lines: Sequence[Line]) -> str:
    rows = [
        [line.item, line.formula, price_list().prices[line.price].spoken(), dollars(line.usd, 5)]
        for line in lines
    ]
    rows.append(["**together**", "", "", f"**{dollars(total(lines), 4)}**"])
    return _table([f"{title}, estimated", "units", "price", "cost"], rows, right=1)


def _cell(line: Line) -> str:
    return dollars(line.usd) if line.usd else "0"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A table in Markdown; the last ``right`` columns are numbers."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])
