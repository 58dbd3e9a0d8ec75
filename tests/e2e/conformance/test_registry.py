"""The registry's proof on the engine's DynamoDB: transactions, conditions and their races."""

import itertools
import uuid
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from millrace.aws.dynamodb import DynamoTable
from tests.e2e.conformance.conftest import Stack
from tests.fakes.cloud import create_table
from tests.fakes.registry_machine import RegistryMachine, Scoped, eight_writers

pytestmark = pytest.mark.needs("transactions")

_parts = itertools.count()


@pytest.fixture(scope="module")
def table(stack: Stack) -> Iterator[DynamoTable]:
    """A table with the template's keys and index, for this module alone."""
    name = f"proof-{uuid.uuid4().hex[:12]}"
    dynamodb = stack.client("dynamodb")
    create_table(name, dynamodb)
    yield DynamoTable(dynamodb, name)
    dynamodb.delete_table(TableName=name)


def test_no_example_breaks_the_record(table: DynamoTable) -> None:
    class OnTheEngine(RegistryMachine):
        open_table = staticmethod(lambda: Scoped(table, f"PART{next(_parts)}#"))

    run_state_machine_as_test(
        OnTheEngine,
        settings=settings(
            max_examples=3,
            stateful_step_count=6,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_eight_writers_at_once_leave_one_champion(table: DynamoTable) -> None:
    eight_writers(Scoped(table, f"PART{next(_parts)}#", nullcontext()), seed=1, rounds=1)
