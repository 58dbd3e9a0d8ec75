"""The registry's proof on DynamoDB itself, as far as moto goes.

moto's transactions break under threads, so each call of the table takes a lock; what interleaves is
the reads and commits of the changes, which is what the registry's conditions are about. Its client
tokens are not honoured: a repeated call is a second one, and the registry recognises its own commit.
"""

import itertools
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from millrace.aws.clients import client
from millrace.aws.dynamodb import DynamoTable
from tests.fakes import cloud
from tests.fakes.registry_machine import RegistryMachine, Scoped, eight_writers

pytestmark = pytest.mark.usefixtures("stack")

_parts = itertools.count()


def part() -> Scoped:
    """A part of moto's table that nobody else has; one call at a time."""
    table: Any = DynamoTable(client("dynamodb"), cloud.TABLE)
    return Scoped(table, f"PART{next(_parts)}#", threading.RLock())


class OnMoto(RegistryMachine):
    """The machine of the unit tests, over the adapter."""

    open_table = staticmethod(part)


def test_no_example_breaks_the_record() -> None:
    run_state_machine_as_test(
        OnMoto,
        settings=settings(
            max_examples=3,
            stateful_step_count=6,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_writers_at_once_leave_one_champion() -> None:
    eight_writers(part(), seed=1, writers=4, rounds=1)
