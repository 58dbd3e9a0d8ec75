"""The registry's record stays true: the exhaustive form of tests/unit/registry/test_invariants.py.

500 examples of 30 steps, and 50 rounds of eight concurrent writers, on a table in memory. A tenth of
that over HTTP on moto's server, behind a lock as its transactions break under threads; they copy
every table, so each example has one of its own. And on DynamoDB when ``MILLRACE_PROOF_TABLE`` names
a table with the template's keys and index and there are credentials: it is left with the items of
the run.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import boto3
import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from moto.server import ThreadedMotoServer

from millrace.aws.dynamodb import PK, SK, DynamoTable, Item, from_item
from tests.fakes.cloud import create_table
from tests.fakes.registry_machine import Readable, RegistryMachine, Scoped, eight_writers
from tests.fakes.table import FakeTable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

pytestmark = [pytest.mark.bench, pytest.mark.timeout(5400)]

EXAMPLES = int(os.environ.get("MILLRACE_PROOF_EXAMPLES", "500"))
STEPS = int(os.environ.get("MILLRACE_PROOF_STEPS", "30"))
ROUNDS = int(os.environ.get("MILLRACE_PROOF_ROUNDS", "50"))


class Own(Scoped):
    """A table of moto's that nobody else has, so that one scan reads it whole.

    Args:
        client: DynamoDB's client.
        name: The table's name.
    """

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        super().__init__(DynamoTable(client, name), "", threading.RLock())
        self._pages = client.get_paginator("scan").paginate(TableName=name, ConsistentRead=True)

    def items(self) -> list[Item]:
        """Everything that was written, in the order of its keys."""
        with self._lock:
            found = [from_item(i) for page in self._pages for i in page["Items"]]
        return sorted(found, key=lambda i: (i[PK], i[SK]))


def on_dynamodb() -> Readable:
    """A part of the named table that nobody else has."""
    table = DynamoTable(boto3.client("dynamodb"), os.environ["MILLRACE_PROOF_TABLE"])
    return Scoped(table, f"PROOF{uuid.uuid4().hex}#")


@pytest.fixture(scope="module")
def on_moto() -> Iterator[Callable[[], Readable]]:
    """Gives tables of moto's server, which forgets the one before: it keeps every copy it made."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    dynamodb = boto3.client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )

    def fresh() -> Readable:
        httpx.post(f"{url}/moto-api/reset", timeout=60).raise_for_status()
        create_table("proof", dynamodb)
        return Own(dynamodb, "proof")

    try:
        yield fresh
    finally:
        server.stop()


@pytest.fixture(params=["memory", "moto", "dynamodb"])
def open_table(request: pytest.FixtureRequest) -> Callable[[], Readable]:
    if request.param == "memory":
        return FakeTable
    if request.param == "moto":
        made: Callable[[], Readable] = request.getfixturevalue("on_moto")
        return made
    if not os.environ.get("MILLRACE_PROOF_TABLE"):
        pytest.skip("MILLRACE_PROOF_TABLE names no table of DynamoDB to write to")
    return on_dynamodb


def share(request: pytest.FixtureRequest, of: int) -> int:
    """How much of the proof a table is given: a tenth of it on moto's server."""
    slow = "moto" in request.node.callspec.id
    return max(1, of // 10) if slow else of


def test_no_example_breaks_the_record(
    open_table: Callable[[], Readable], request: pytest.FixtureRequest
) -> None:
    seen: list[int] = []
    examples = share(request, EXAMPLES)

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
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    print(
        f"\n{len(seen)} examples of up to {STEPS} steps, {sum(seen):,} ledger entries, no violation"
    )
    assert len(seen) >= examples


def test_no_round_of_eight_writers_breaks_the_record(
    open_table: Callable[[], Readable], request: pytest.FixtureRequest
) -> None:
    rounds = share(request, ROUNDS)
    for seed in range(rounds):
        eight_writers(open_table(), seed)

    print(f"\n{rounds} rounds of eight writers, no violation")
