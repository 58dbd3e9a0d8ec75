"""What every command shares: consoles, the chosen deployment, JSON, errors and exit codes."""

import csv
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from millrace.errors import FieldProblem, InvalidRequestError, MillraceError, ProblemsError
from millrace.questions.moments import parse_moment
from millrace_cli.client import ApiClient
from millrace_cli.exits import ExitCode, exit_code_for
from millrace_cli.target import Target, TargetKind, resolve_target

_ASKED = 20
"""Requests of a page that filters, at most: each looks at some thousand items."""

_LOG_WIDTH = 140
"""Columns when the output is no terminal: logs need no wrapping at 80."""


def _width(terminal: bool) -> int | None:
    """The columns to use, None to ask the terminal or ``COLUMNS``."""
    return None if terminal or os.environ.get("COLUMNS") else _LOG_WIDTH


out = Console(highlight=False, width=_width(sys.stdout.isatty()))
err = Console(stderr=True, highlight=False, width=_width(sys.stderr.isatty()))

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
ModelArgument = Annotated[str, typer.Argument(help="The registered model's name.")]
_TIME = "ISO 8601 with its zone, e.g. 2026-11-01T12:00Z; without one it is UTC."
SinceOption = Annotated[str | None, typer.Option("--since", help=f"Not before: {_TIME}")]
UntilOption = Annotated[str | None, typer.Option("--until", help=f"Not after: {_TIME}")]
AtOption = Annotated[str | None, typer.Option("--at", help=f"What held then: {_TIME}")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100, help="Most on a page.")]
PageTokenOption = Annotated[str | None, typer.Option("--page-token", help="Next page.")]
ReasonOption = Annotated[str, typer.Option("--reason", "--why", help="Why; kept in the audit.")]


@dataclass(slots=True)
class Context:
    """What the global options chose."""

    kind: TargetKind | None = None
    stack: str | None = None
    endpoint_url: str | None = None
    region: str | None = None
    project: Path = Path()
    api_key: str | None = None
    token: str | None = None

    def target(self, stack: str | None = None) -> Target:
        """The deployment to talk to.

        Args:
            stack: A stack other than the one that the options chose.
        """
        return resolve_target(
            kind=self.kind,
            stack=stack or self.stack,
            endpoint_url=self.endpoint_url,
            region=self.region,
            project=self.project,
        )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with words on what goes on without us."""


def chosen(context: typer.Context) -> Context:
    """What the global options chose, from Typer's context."""
    of: Context = context.obj
    return of


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    sys.stdout.flush()


def print_json_error(kind: str, message: str, problems: Sequence[FieldProblem] = ()) -> None:
    """A failure as the one JSON document on stdout."""
    shown = [{"field": p.field, "message": p.message, "row": p.row} for p in problems]
    print_json({"error": kind, "message": message, "problems": shown})


def print_link(label: str, url: str | None) -> None:
    """An address on a line of its own that no wrapping breaks, so that it can be copied."""
    if url:
        out.print(Text.assemble((f"{label}: ", "dim"), url), soft_wrap=True)


def connect(context: typer.Context) -> ApiClient:
    """The API of the chosen deployment; its connections end with the command."""
    of = chosen(context)
    api = ApiClient(of.target(), api_key=of.api_key, token=of.token)
    context.call_on_close(api.close)
    return api


@contextmanager
def reported(
    as_json: bool, *, hint: str = "to look at everything: millrace doctor"
) -> Iterator[None]:
    """Turns our errors, unusable files and Ctrl-C into a message and the right exit code.

    Args:
        as_json: Whether the message is a JSON document.
        hint: Where to go on when nothing can be reached.
    """
    try:
        yield
    except MillraceError as exc:
        _fail(exc, as_json, hint)
    except OSError as exc:
        if exc.errno == errno.EPIPE or exc.filename is None:
            raise
        _fail(InvalidRequestError(f"{exc.filename}: {exc.strerror}"), as_json, hint)
    except KeyboardInterrupt as exc:
        message = str(exc) or "interrupted"
        if as_json:
            print_json_error("Interrupted", message)
        else:
            err.print(Text(message, style="yellow"), soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from exc


def _fail(exc: MillraceError, as_json: bool, hint: str) -> NoReturn:
    problems = exc.problems if isinstance(exc, ProblemsError) else ()
    code = exit_code_for(exc)
    if as_json:
        print_json_error(type(exc).__name__, str(exc), problems)
    else:
        err.print(Text.assemble(("error: ", "bold red"), str(exc)))
        for p in problems:
            row = f"row {p.row}, " if p.row is not None else ""
            err.print(Text(f"  {row}{p.field}: {p.message}"))
        if code == ExitCode.UNREACHABLE:
            err.print(Text(f"  {hint}", style="dim"))
    raise typer.Exit(code)


def moment_of(text: str | None, option: str) -> str | None:
    """An option that is a time, in UTC and as the API takes it.

    Raises:
        InvalidRequestError: It is no time.
    """
    if text is None:
        return None
    return parse_moment(text, option).isoformat().replace("+00:00", "Z")


def print_csv(page: dict[str, Any]) -> None:
    """A page's items as CSV on stdout, and on stderr how to get the next."""
    items = page["items"]
    columns = list(items[0]) if items else []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if columns:
        writer.writerow(columns)
    for item in items:
        values = (item.get(c) for c in columns)
        writer.writerow(
            [json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v for v in values]
        )
    if page.get("next_page_token"):
        err.print(f"more: --page-token {page['next_page_token']}", style="dim", soft_wrap=True)


def filled_page(
    api: ApiClient, path: str, *, limit: int, page_token: str | None, **filters: str | None
) -> dict[str, Any]:
    """A page of a listing that may filter: asks on, a bounded number of times, until it is full.

    Args:
        api: The API.
        path: The listing.
        limit: Most items of the page.
        page_token: Where the page before ended.
        filters: What the items must have; None for anything.
    """
    items: list[Any] = []
    page: dict[str, Any] = {}
    for _ in range(_ASKED if any(filters.values()) else 1):
        page = api.get(path, limit=limit - len(items), page_token=page_token, **filters)
        items += page["items"]
        page_token = page["next_page_token"]
        if page_token is None or len(items) >= limit:
            break
    return {**page, "items": items}


def print_page(page: dict[str, Any], table: RenderableType, as_json: bool) -> None:
    """A page of a listing, and how to get the next."""
    if as_json:
        print_json(page)
        return
    out.print(table)
    if page.get("next_page_token"):
        out.print(f"more: --page-token {page['next_page_token']}", style="dim", soft_wrap=True)
