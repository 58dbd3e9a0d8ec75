"""What a handler asks AWS for is seen, in whatever thread, and held against its role."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from millrace.aws.clients import client
from tests.access.watched import watch
from tests.fakes import cloud
from tests.infra.deployment import ROOT

type Work = Callable[[], Any]

HANDLERS = """
def at_once(work):
    return work()

def in_a_pool(work):
    with pool() as threads:
        return threads.submit(work).result()
"""


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Scans the registry's table, which no function may."""
    with cloud.stack(monkeypatch):
        yield partial(client("dynamodb").scan, TableName=cloud.TABLE)


def handler(name: str, function: str = "trigger") -> Callable[[Work], Any]:
    """A handler that does what it is told, as if it stood in a function's folder."""
    file = ROOT / "functions" / function / "handler.py"
    names: dict[str, Any] = {"pool": ThreadPoolExecutor}
    exec(compile(HANDLERS, str(file), "exec"), names)  # noqa: S102  # the text above
    made: Callable[[Work], Any] = names[name]
    return made


def refused() -> list[tuple[str, str]]:
    """Who would be refused what, of everything asked for since the last time."""
    return [(one.request.principal, one.request.action) for one in watch().refused()]


@pytest.mark.parametrize("how", ["at_once", "in_a_pool"])
def test_a_handlers_call_without_a_grant_is_refused(scan: Work, how: str) -> None:
    handler(how)(scan)

    assert refused() == [("TriggerRole", "dynamodb:Scan")]


def test_a_tests_own_call_is_nobodys_even_within_a_handler(scan: Work) -> None:
    def meanwhile() -> None:
        scan()

    handler("at_once")(meanwhile)
    scan()

    assert refused() == []


@pytest.mark.usefixtures("scan")
def test_what_one_role_grants_another_may_refuse() -> None:
    listing = partial(
        client("dynamodb").query,
        TableName=cloud.TABLE,
        IndexName="GSI1",
        KeyConditionExpression="GSI1PK = :models",
        ExpressionAttributeValues={":models": {"S": "MODELS"}},
    )

    handler("at_once", "trigger")(listing)
    assert refused() == []
    handler("at_once", "capture")(listing)
    assert refused() == [("CaptureRole", "dynamodb:Query")]
