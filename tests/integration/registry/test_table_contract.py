"""The fake table and the adapter keep the same contract."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from millrace.aws.clients import client
from millrace.aws.dynamodb import (
    ABSENT,
    MAX_WRITES,
    PRESENT,
    Below,
    Check,
    DynamoTable,
    Key,
    OneOf,
    Put,
    Table,
    Update,
    from_attribute,
    to_attribute,
)
from millrace.aws.table import MAX_ITEM
from millrace.errors import (
    AccessDeniedError,
    ConcurrentWriteError,
    ConditionFailedError,
    ConfigurationError,
    InvalidEventError,
    MillraceError,
    ServiceUnavailableError,
    ThrottledError,
)
from tests.fakes import cloud
from tests.fakes.table import FakeTable


@pytest.fixture(params=["fake", "dynamodb"])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    if request.param == "fake":
        yield FakeTable()
        return
    stack = request.getfixturevalue("stack")
    assert isinstance(stack, cloud.Cloud)
    yield DynamoTable(client("dynamodb"), cloud.TABLE)


def put(table: Table, sk: str, pk: str = "P", **item: Any) -> None:
    table.transact([Put("put", Key(pk, sk), item)], "put")


def test_item_comes_back_as_it_was(table: Table) -> None:
    item: dict[str, Any] = {
        "text": "",
        "whole": 3,
        "part": 0.1,
        "tiny": 1e-300,
        "yes": True,
        "list": [1, None, {"a": "b"}],
        "map": {"none": None, "number": 1.5},
    }
    put(table, "S", **item)

    stored = table.get(Key("P", "S"))

    assert stored == {"PK": "P", "SK": "S", **item, "tiny": "1e-300"}


def test_none_is_an_absent_attribute(table: Table) -> None:
    put(table, "S", here=1, gone=None)
    table.transact([Update("u", Key("P", "S"), {"here": None, "new": 2})], "update")

    assert table.get(Key("P", "S")) == {"PK": "P", "SK": "S", "new": 2}


def test_missing_item_is_none(table: Table) -> None:
    assert table.get(Key("P", "nothing")) is None


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"status": "a"}, True),
        ({"status": "b"}, False),
        ({"status": OneOf(("a", "b"))}, True),
        ({"status": OneOf(("b", None))}, False),
        ({"other": OneOf(("b", None))}, True),
        ({"other": None}, True),
        ({"status": None}, False),
        ({"number": Below(2)}, True),
        ({"number": Below(1)}, False),
        ({"other": Below(-5)}, True),
        ({"number": 1, "status": "a"}, True),
        ({"number": 1, "status": "b"}, False),
        (ABSENT, False),
    ],
)
def test_condition(table: Table, when: dict[str, str], holds: bool) -> None:
    put(table, "S", status="a", number=1)

    for write in (
        Check("it", Key("P", "S"), when),
        Update("it", Key("P", "S"), {"x": 1}, when),
        Put("it", Key("P", "S"), {"status": "a", "number": 1}, when),
    ):
        if holds:
            table.transact([write], "try")
        else:
            with pytest.raises(ConditionFailedError) as failed:
                table.transact([write], "try")
            assert failed.value.failed == ("it",)


def test_update_and_check_need_the_item(table: Table) -> None:
    for write in (Update("it", Key("P", "S"), {"x": 1}), Check("it", Key("P", "S"))):
        with pytest.raises(ConditionFailedError):
            table.transact([write], "try")

    table.transact([Update("it", Key("P", "S"), {"x": 1}, exists=False)], "make")
    assert table.get(Key("P", "S")) == {"PK": "P", "SK": "S", "x": 1}


def test_transaction_is_all_or_nothing_and_names_what_failed(table: Table) -> None:
    put(table, "old", v=1)

    with pytest.raises(ConditionFailedError) as failed:
        table.transact(
            [
                Put("new", Key("P", "new"), {"v": 1}, ABSENT),
                Put("again", Key("P", "old"), {"v": 2}, ABSENT),
                Update("stale", Key("P", "other"), {"v": 2}),
            ],
            "three",
        )

    assert failed.value.failed == ("again", "stale")
    assert table.get(Key("P", "new")) is None
    assert table.get(Key("P", "old")) == {"PK": "P", "SK": "old", "v": 1}


def test_query_by_prefix_in_both_orders(table: Table) -> None:
    for sk in ("A#1", "B#1", "B#2", "B#3", "C#1"):
        put(table, sk)
    put(table, "B#9", pk="other")

    up = table.query("P", prefix="B#")
    down = table.query("P", prefix="B#", newest_first=True)

    assert [i["SK"] for i in up.items] == ["B#1", "B#2", "B#3"]
    assert [i["SK"] for i in down.items] == ["B#3", "B#2", "B#1"]
    assert up.last is None


def test_query_from_a_key_on(table: Table) -> None:
    for sk in ("HISTORY#1", "META", "PARAM#x", "TRIAL#1"):
        put(table, sk)

    assert [i["SK"] for i in table.query("P", since="META").items] == [
        "META",
        "PARAM#x",
        "TRIAL#1",
    ]


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_join_without_gap_or_repetition(table: Table, newest_first: bool) -> None:
    for number in range(7):
        put(table, f"B#{number}")

    seen: list[str] = []
    start = None
    for _ in range(10):
        page = table.query("P", prefix="B#", newest_first=newest_first, limit=3, start=start)
        seen += [i["SK"] for i in page.items]
        start = page.last
        if start is None:
            break

    assert sorted(seen, reverse=newest_first) == seen
    assert len(seen) == 7


def test_query_between_two_keys(table: Table) -> None:
    for number in range(6):
        put(table, f"B#{number}")

    found = table.query("P", since="B#1", until="B#3", newest_first=True)

    assert [i["SK"] for i in found.items] == ["B#3", "B#2", "B#1"]


def test_a_filter_leaves_out_what_it_looked_at_and_says_where_it_stopped(table: Table) -> None:
    for number in range(6):
        put(table, f"B#{number}", colour="red" if number % 3 == 0 else "blue", n=number)

    first = table.query("P", prefix="B#", limit=3, where={"colour": "red"})
    rest = table.query("P", prefix="B#", limit=9, start=first.last, where={"colour": "red"})
    none = table.query("P", prefix="B#", limit=3, where={"colour": "green"})

    assert [i["SK"] for i in first.items] == ["B#0"]
    assert first.last == {"PK": "P", "SK": "B#2"}
    assert ([i["SK"] for i in rest.items], rest.last) == (["B#3"], None)
    assert (none.items, none.last) == ((), {"PK": "P", "SK": "B#2"})


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"a": PRESENT}, ["B#1", "B#2"]),
        ({"a": None}, ["B#3"]),
        ({"a": OneOf(("x", None))}, ["B#1", "B#3"]),
        ({"a": PRESENT, "b": 2}, ["B#2"]),
    ],
    ids=["present", "absent", "one of", "both"],
)
def test_a_filter_may_ask_for_presence(table: Table, where: Any, expected: list[str]) -> None:
    put(table, "B#1", a="x", b=1)
    put(table, "B#2", a="y", b=2)
    put(table, "B#3", b=2)

    assert [i["SK"] for i in table.query("P", prefix="B#", where=where).items] == expected


def test_index_lists_by_its_own_key(table: Table) -> None:
    for number in (2, 1, 3):
        put(table, "META", pk=f"R{number}", GSI1PK="RUNS", GSI1SK=f"t{number}")
    put(table, "META", pk="R9")

    page = table.query("RUNS", index=True, newest_first=True, limit=2)
    rest = table.query("RUNS", index=True, newest_first=True, limit=2, start=page.last)

    assert [i["PK"] for i in page.items] == ["R3", "R2"]
    assert [i["PK"] for i in rest.items] == ["R1"]


def test_transaction_beyond_the_limit_is_refused(table: Table) -> None:
    writes = [Put("p", Key("P", str(n)), {}) for n in range(MAX_WRITES + 1)]

    with pytest.raises(ConfigurationError):
        table.transact(writes, "too many")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**37), 10**37)
        | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e120, max_value=1e120).map(
            lambda f: 0.0 if abs(f) < 1e-120 else f
        )
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_values_survive_the_conversion(value: object) -> None:
    assert same(from_attribute(to_attribute(value)), value)


def same(stored: Any, value: Any) -> bool:
    """Equality, where a whole float may come back as the int that is nearest to its text."""
    if isinstance(value, float):
        return bool(float(stored) == value)
    if isinstance(value, dict):
        return stored.keys() == value.keys() and all(same(stored[k], value[k]) for k in value)
    if isinstance(value, list):
        return len(stored) == len(value) and all(map(same, stored, value))
    return bool(stored == value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e-200, -1e200])
def test_float_that_dynamodb_cannot_hold_is_text_that_reads_the_same(value: float) -> None:
    stored = to_attribute(value)

    assert repr(float(stored["S"])) == repr(value)


def test_missing_table_is_the_deployments_fault(stack: cloud.Cloud) -> None:
    missing = DynamoTable(client("dynamodb"), "no-such-table")

    with pytest.raises(ConfigurationError, match="no table 'no-such-table'"):
        missing.get(Key("P", "S"))
    with pytest.raises(ConfigurationError, match="no table 'no-such-table'"):
        missing.query("P")


class BrokenClient:
    """A client whose transactions fail as told."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def transact_write_items(self, **_: object) -> None:
        raise self._error


def cancelled(*codes: str) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": "TransactionCanceledException", "Message": "cancelled"},
            "CancellationReasons": [{"Code": c} for c in codes],
        },
        "TransactWriteItems",
    )


def plain(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": code},
            "ResponseMetadata": {"HTTPStatusCode": status},  # type: ignore[typeddict-item]
        },
        "TransactWriteItems",
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (cancelled("None", "TransactionConflict"), ConcurrentWriteError),
        (cancelled("ConditionalCheckFailed", "TransactionConflict"), ConcurrentWriteError),
        (cancelled("ThrottlingError"), ThrottledError),
        (cancelled("ConditionalCheckFailed"), ConditionFailedError),
        (plain("TransactionInProgressException"), ConcurrentWriteError),
        (plain("ProvisionedThroughputExceededException"), ThrottledError),
        (plain("InternalServerError", 500), ServiceUnavailableError),
        (plain("AccessDeniedException"), AccessDeniedError),
        (EndpointConnectionError(endpoint_url="http://nowhere"), ServiceUnavailableError),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "",
)
def test_dynamodbs_errors_become_ours(error: Exception, kind: type[MillraceError]) -> None:
    table = DynamoTable(BrokenClient(error), "t")  # type: ignore[arg-type]

    with pytest.raises(kind):
        table.transact([Put("it", Key("P", "S"), {}, ABSENT), Check("b", Key("P", "T"))], "try")


# ── What DynamoDB does not store ────────────────────────────────────────────────────────────────


def test_an_item_of_almost_the_most_bytes_is_stored(table: Table) -> None:
    text = "x" * (MAX_ITEM - 10_000)  # moto counts some bytes more than DynamoDB

    put(table, "S", text=text)

    assert (table.get(Key("P", "S")) or {})["text"] == text


@pytest.mark.parametrize(
    "values",
    [
        {"text": "x" * MAX_ITEM},
        {"text": "é" * (MAX_ITEM // 2)},
        {"names": {f"{n:06d}": 1.5 for n in range(60_000)}},
        {"numbers": list(range(150_000))},
    ],
    ids=["text", "two-byte text", "map", "list"],
)
def test_an_item_that_is_too_large_is_refused_in_words(
    table: Table, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidEventError, match="put: expected an item of 409,600 bytes at most"):
        put(table, "S", **values)

    assert table.get(Key("P", "S")) is None


def test_an_update_that_makes_an_item_too_large_is_refused_in_words(table: Table) -> None:
    put(table, "S", text="x" * 300_000)

    with pytest.raises(InvalidEventError, match="expected an item of 409,600 bytes at most"):
        table.transact([Update("grow", Key("P", "S"), {"more": "y" * 200_000})], "grow it")

    assert "more" not in (table.get(Key("P", "S")) or {})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (Key("é" * 1_025, "S"), "a partition key of 2048 bytes at most, got 2050"),
        (Key("P", "x" * 1_025), "a sort key of 1024 bytes at most, got 1025"),
    ],
    ids=["partition", "sort"],
)
def test_a_key_that_is_too_long_is_refused_in_words(table: Table, key: Key, message: str) -> None:
    with pytest.raises(InvalidEventError, match=message):
        table.transact([Put("put", key, {})], "put")
