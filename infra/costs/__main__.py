"""`make costs`: what a stage costs by the hour, at rest and by use.

python -m infra.costs [--stage dev | --defaults] [--parameter NAME=VALUE ...] [--assume NAME=VALUE ...]
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from infra.build.expansion import ROOT, source
from infra.costs.bill import Bill, Line, bill_of, total
from infra.costs.pages import DOCUMENT, dollars, rendered
from infra.costs.prices import Assumptions, assumptions, price_list
from infra.delivery.stages import check_parameters, stage_named, stages
from millrace.errors import ConfigurationError, InvalidRequestError
from millrace_cli.console import err, out

SAMCONFIG = ROOT / "samconfig.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the costs, or writes the tables of the page; returns the exit code."""
    given = _parser().parse_args(arguments)
    # The translator tells its log about features that nobody switched on.
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    try:
        if given.write:
            DOCUMENT.write_text(rendered(DOCUMENT.read_text("utf-8")), "utf-8")
            return 0
        overrides = {} if given.defaults else dict(stage_named(SAMCONFIG, given.stage).parameters)
        overrides |= _pairs(given.parameter)
        check_parameters(source()["Parameters"], overrides)
        assumed = assumptions().changed(_pairs(given.assume))
        bill = bill_of(overrides, assumed)
    except ConfigurationError as exc:
        err.print(Text(str(exc), style="red"))
        return 2
    except InvalidRequestError as exc:
        wrong = [f"{problem.field}: {problem.message}" for problem in exc.problems]
        err.print(Text("\n".join(wrong or [str(exc)]), style="red"))
        return 2
    title = "the template's defaults" if given.defaults else f"stage {given.stage}"
    if given.json:
        sys.stdout.write(json.dumps(_document(title, bill, assumed), indent=2) + "\n")
    else:
        _show(title, overrides, bill, assumed)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make costs", description="What a stage costs.")
    parser.add_argument("--stage", default="dev", help=f"one of {', '.join(stages(SAMCONFIG))}")
    parser.add_argument(
        "--defaults", action="store_true", help="the template's own parameters instead of a stage's"
    )
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE", help="another parameter"
    )
    parser.add_argument(
        "--assume", action="append", default=[], metavar="NAME=VALUE", help="another assumption"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document for machines")
    parser.add_argument(
        "--write", action="store_true", help=f"write the tables of {DOCUMENT.name} instead"
    )
    return parser


def _pairs(given: Sequence[str]) -> dict[str, str]:
    wrong = [pair for pair in given if "=" not in pair]
    if wrong:
        raise ConfigurationError(f"expected NAME=VALUE, not {', '.join(wrong)}")
    return dict(pair.split("=", 1) for pair in given)


def _document(title: str, bill: Bill, assumed: Assumptions) -> dict[str, Any]:
    prices = price_list()
    return {
        "of": title,
        "currency": "USD",
        "region": "us-east-1",
        "note": "storage and uses are as assumed; predictions and training are estimates",
        "parameters": bill.parameters,
        "by_the_hour": [dataclasses.asdict(idle) for idle in bill.by_the_hour],
        **{
            name: {
                "usd": _number(total(lines)),
                "lines": [
                    {
                        "item": line.item,
                        "formula": line.formula,
                        "units": _number(line.units),
                        "price": prices.prices[line.price].spoken(),
                        "price_read": prices.date_of(line.price),
                        "usd": _number(line.usd),
                    }
                    for line in lines
                ],
            }
            for name, lines in _parts(bill).items()
        },
        "assumptions": {name: _number(one.value) for name, one in assumed.all().items()},
    }


def _parts(bill: Bill) -> dict[str, list[Line]]:
    return {
        "at_rest": bill.at_rest,
        "predictions": bill.predictions,
        "training": bill.training,
    }


def _number(value: Decimal) -> float:
    return float(round(value, 9))


def _show(title: str, overrides: dict[str, str], bill: Bill, assumed: Assumptions) -> None:
    said = " ".join(f"{name}={value}" for name, value in overrides.items()) or "no overrides"
    out.print(Text.assemble(("What ", ""), (title, "bold"), (f" costs  ({said})", "dim")))
    out.print(Text("us-east-1, US dollars, no free tier; docs/costs.md explains it", style="dim"))
    out.print()
    if bill.by_the_hour:
        out.print(Text("By the hour, or at work while nothing flows", style="bold red"))
        for idle in bill.by_the_hour:
            out.print(f"  {idle.resource} ({idle.type}): {idle.why}", soft_wrap=True)
    else:
        out.print(Text.assemble(("By the hour", "bold"), "  nothing, and nothing works at rest"))
    out.print()
    out.print(_bill("A month at rest, with what is assumed to be stored", bill.at_rest, 4))
    out.print(_bill(f"{assumed['requests']:,} predictions (estimate)", bill.predictions, 5))
    out.print(_bill("A training (estimate)", bill.training, 5))


def _bill(title: str, lines: Sequence[Line], places: int) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_footer=True,
        pad_edge=False,
    )
    table.add_column("item", "together")
    table.add_column("units", style="dim")
    table.add_column("price", style="dim")
    table.add_column("cost", dollars(total(lines), places), justify="right", footer_style="bold")
    for line in lines:
        price = price_list().prices[line.price].spoken()
        cost = dollars(line.usd, places) if line.usd else "0"
        table.add_row(line.item, line.formula, price, cost, style="dim" if not line.usd else None)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
