"""What a verb says while it works, and what it asks before it changes something."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.status import Status
from rich.text import Text

from millrace.errors import InvalidRequestError
from millrace_cli.console import out

Say = Callable[[str], None]
"""Tells what is being done."""


class Teller:
    """Says what is being done: in place on a terminal, nowhere in a log."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def __call__(self, words: str) -> None:
        if self._status is not None:
            self._status.update(Text(words[:100]))
            self._status.start()

    def pause(self) -> None:
        """Makes way for output or a question."""
        if self._status is not None:
            self._status.stop()


@contextmanager
def working(words: str, as_json: bool) -> Iterator[Say]:
    """Shows that something is going on, and gives what says more; silent for machines."""
    if as_json or not out.is_terminal:
        yield Teller(None)
        return
    with out.status(Text(words)) as status:
        yield Teller(status)


def pause(say: Say) -> None:
    """Makes way for output or a question."""
    if isinstance(say, Teller):
        say.pause()


def tell(say: Say, words: str) -> None:
    """Something worth keeping on the screen, on stderr: stdout may be a JSON document."""
    pause(say)
    sys.stderr.write(f"{words}\n")


def ask(question: str, as_json: bool) -> None:
    """Asks whether to go on.

    Raises:
        InvalidRequestError: Nobody is there to answer.
        typer.Abort: The answer is no.
    """
    if as_json or not sys.stdin.isatty():
        raise InvalidRequestError(
            f"{question} There is no terminal to ask at: say YES=1 when the plan is what you want"
        )
    typer.confirm(question, abort=True)


def agree_to_destroy(
    stack: str, production: bool, yes: bool, confirm: str, data: bool, as_json: bool
) -> None:
    """Has a person type what is to be removed, or takes their word for it from the command line.

    Args:
        stack: What is to be removed.
        production: Whether people depend on it.
        yes: ``YES=1``.
        confirm: ``CONFIRM=``.
        data: Whether its data goes, too.
        as_json: Whether a machine is reading.

    Raises:
        InvalidRequestError: They named something else, or nobody is there to answer.
    """
    if confirm and confirm != stack:
        raise InvalidRequestError(
            f"CONFIRM is {confirm!r} and the stack is {stack!r}: nothing done"
        )
    if yes:
        if (production or data) and not confirm:
            what = "production" if production else "its data, too"
            raise InvalidRequestError(
                f"YES=1 alone does not remove {what}: say CONFIRM={stack} as well"
            )
        return
    if confirm:
        return
    if as_json or not sys.stdin.isatty():
        raise InvalidRequestError(
            f"remove {stack}? There is no terminal to ask at: say YES=1"
            + (f" CONFIRM={stack}" if production or data else "")
        )
    what = "the stack AND its data" if data else "the stack"
    typed = typer.prompt(f"type {stack} to remove {what}", default="", show_default=False)
    if typed.strip() != stack:
        raise InvalidRequestError(f"expected {stack!r}, got {typed.strip()!r}: nothing was removed")
