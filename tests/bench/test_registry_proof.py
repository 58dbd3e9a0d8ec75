"""The registry's record stays true: the exhaustive form of tests/unit/registry/test_invariants.py.

500 examples of 30 steps, and 50 rounds of eight concurrent writers. On a table in memory by default;
on DynamoDB when ``MILLRACE_PROOF_TABLE`` names a table with the template's keys and index and there
are credentials: it is left with the items of the run.
"""

import os
import uuid
from collections.abc import Callable

import boto3
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from millrace.aws.dynamodb import DynamoTable
from tests.fakes.registry_machine import Readable, RegistryMachine, Scoped, eight_writers
from tests.fakes.table import FakeTable

pytestmark = [pytest.mark.bench, pytest.mark.timeout(5400)]

EXAMPLES = int(os.environ.get("MILLRACE_PROOF_EXAMPLES", "500"))
STEPS = int(os.environ.get("MILLRACE_PROOF_STEPS", "30"))
ROUNDS = int(os.environ.get("MILLRACE_PROOF_ROUNDS", "50"))


def on_dynamodb() -> Readable:
    """A part of the named table that nobody else has."""
    table = DynamoTable(boto3.client("dynamodb"), os.environ["MILLRACE_PROOF_TABLE"])
    return Scoped(table, f"PROOF{uuid.uuid4().hex}#")


@pytest.fixture(params=["memory", "dynamodb"])
def open_table(request: pytest.FixtureRequest) -> Callable[[], Readable]:
    if request.param == "memory":
        return FakeTable
    if not os.environ.get("MILLRACE_PROOF_TABLE"):
        pytest.skip("MILLRACE_PROOF_TABLE names no table of DynamoDB to write to")
    return on_dynamodb


def test_no_example_breaks_the_record(open_table: Callable[[], Readable]) -> None:
    seen: list[int] = []

    class Counted(RegistryMachine):
        def __init__(self) -> None:
            super().__init__()
            seen.append(0)

        def teardown(self) -> None:
            super().teardown()
            seen[-1] = len(self.chain)

    Counted.open_table = staticmethod(open_table)
    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    print(
        f"\n{len(seen)} examples of up to {STEPS} steps, {sum(seen):,} ledger entries, no violation"
    )
    assert len(seen) >= EXAMPLES


def test_no_round_of_eight_writers_breaks_the_record(open_table: Callable[[], Readable]) -> None:
    for seed in range(ROUNDS):
        eight_writers(open_table(), seed)

    print(f"\n{ROUNDS} rounds of eight writers, no violation")
