"""A registry of 10,000 versions, 100,000 runs and 1,000,000 ledger entries answers as an empty one.

Requests and capacity are counted by DynamoDB's own rules: a query ends at a megabyte, a strongly
consistent read costs a unit for each 4 KB, an index read half, a transactional write two for each
KB. Items of the large registry are made when they are read.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, override

import pytest

from millrace.aws.dynamodb import (
    INDEX_PK,
    INDEX_SK,
    PK,
    SK,
    Check,
    Item,
    Key,
    Put,
    QueryPage,
    Update,
    Write,
    to_item,
)
from millrace.registry import items
from millrace.registry.ledger import AUDIT, digest_of, head_key
from millrace.registry.live import LIVE
from millrace.registry.records import RunOutcome
from millrace.registry.registry import Registry
from tests.bench.measure import keep
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

pytestmark = pytest.mark.bench

M = cases.MODEL
START = datetime(2026, 1, 1, tzinfo=UTC)
MEGABYTE = 1_048_576


def item_bytes(item: Mapping[str, Any]) -> int:
    """About what DynamoDB counts: names and values."""
    return sum(len(name.encode()) + _value_bytes(v) for name, v in to_item(item).items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(str(content).encode())
        case "N":
            return len(str(content)) // 2 + 2
        case "M":
            return 3 + sum(len(k.encode()) + 1 + _value_bytes(v) for k, v in content.items())
        case "L":
            return 3 + sum(1 + _value_bytes(v) for v in content)
    return 1


@dataclass(frozen=True)
class Segment:
    """So many items of a partition, in the order of their sort keys, made when they are read."""

    sort_keys: Sequence[str]
    make: Callable[[int], Item]


class Numbered(Sequence[str]):
    """Sort keys that follow from their number."""

    def __init__(self, count: int, text: Callable[[int], str]) -> None:
        self._count = count
        self._text = text

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            raise TypeError("one at a time")
        return self._text(number)


@dataclass
class Used:
    """What calls cost."""

    requests: int = 0
    reads: float = 0.0
    writes: float = 0.0


@dataclass
class Meter(FakeTable):
    """A table that counts, some of whose items are made when they are read."""

    segments: dict[tuple[bool, str], list[Segment]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.used = Used()

    @override
    def get(self, key: Key) -> Item | None:
        found = self._made(key) if (stored := super().get(key)) is None else stored
        self.used.requests += 1
        self.used.reads += max(1, math.ceil(item_bytes(found or {}) / 4_096))
        return found

    @override
    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        before = self.used.requests
        found = {k: i for k in keys if (i := self.get(k)) is not None}
        self.used.requests = before + math.ceil(len(keys) / 100)
        return found

    @override
    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        until: str = "",
        index: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        start: Item | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> QueryPage:
        sk_name = INDEX_SK if index else SK
        how: dict[str, Any] = {"prefix": prefix, "since": since, "until": until, "index": index}
        rows = list(super().query(pk, newest_first=newest_first, start=start, **how).items)
        lowest, highest = (
            (prefix, prefix + "\U0010ffff") if prefix else (since, until or "\U0010ffff")
        )
        mark = None if start is None else str(start[sk_name])
        most = limit or 2_000
        # One more than asked for, so that it is known whether there are more.
        some_more = most + 1
        there = {r[sk_name] for r in rows}
        for segment in self.segments.get((index, pk), []):
            first = bisect_left(segment.sort_keys, lowest)
            end = bisect_right(segment.sort_keys, highest)
            if mark is not None and newest_first:
                end = min(end, bisect_left(segment.sort_keys, mark))
            elif mark is not None:
                first = max(first, bisect_right(segment.sort_keys, mark))
            some = (
                range(max(first, end - some_more), end)
                if newest_first
                else range(first, min(end, first + some_more))
            )
            rows += [i for n in some if (i := segment.make(n))[sk_name] not in there]
        rows.sort(key=lambda r: str(r[sk_name]), reverse=newest_first)
        kept = rows[:most]
        size = sum(item_bytes(i) for i in kept)
        self.used.requests += 1 + size // MEGABYTE
        self.used.reads += max(1, math.ceil(size / 4_096)) * (0.5 if index else 1)
        if len(kept) == len(rows):
            return QueryPage(tuple(kept), None)
        names = (PK, SK, INDEX_PK, INDEX_SK) if index else (PK, SK)
        return QueryPage(tuple(kept), {n: kept[-1][n] for n in names})

    @override
    def transact(self, writes: Sequence[Write], what: str) -> None:
        for write in writes:
            made = self._made(write.key) if super().get(write.key) is None else None
            if made is not None:
                self.put(Put("made", write.key, made))
        super().transact(writes, what)
        self.used.requests += 1
        for write in writes:
            stored = super().get(write.key) or {}
            match write:
                case Check():
                    self.used.reads += 2 * max(1, math.ceil(item_bytes(stored) / 4_096))
                case Put() | Update():
                    size = max(1, math.ceil(item_bytes(stored) / 1_024))
                    self.used.writes += 2 * size + (size if INDEX_PK in stored else 0)

    def _made(self, key: Key) -> Item | None:
        for segment in self.segments.get((False, key.pk), []):
            at = bisect_left(segment.sort_keys, key.sk)
            if at < len(segment.sort_keys) and segment.sort_keys[at] == key.sk:
                return segment.make(at)
        return None


def registry_of(versions: int, runs: int, entries: int) -> tuple[Meter, Registry]:
    """A registry with a champion, and so many more versions, runs and ledger entries."""
    table = Meter()
    registry = Registry(table, clock=FakeClock(START + timedelta(days=300)), ids=counting_ids())
    cases.champion(registry, 1)
    task = cases.candidate(registry, 2)
    registry.record_evaluation(task, 2, cases.evaluated(task.run_id, champion=1), automatic=True)
    stored = {(i[PK], i[SK]): i for i in table.items()}
    pk = items.model_pk(M)

    def at(number: int) -> str:
        return (START + timedelta(seconds=number)).isoformat().replace("+00:00", "Z")

    version = stored[pk, "VERSION#000002"]
    table.segments[False, pk] = [
        Segment(
            Numbered(versions, lambda n: f"VERSION#{n + 3:06d}"),
            lambda n: {**version, "version": n + 3, SK: f"VERSION#{n + 3:06d}"},
        )
    ]
    head = stored[pk, "LEDGER"]
    entry = stored[pk, f"{AUDIT}{head['sequence']:012d}"]
    begun = int(head["sequence"]) + 1

    def told(n: int) -> Item:
        number = begun + n
        made = {
            **entry,
            "sequence": number,
            SK: f"{AUDIT}{number:012d}",
            "entry_id": f"made-{n:07d}",
        }
        return {**made, "hash": digest_of(made)}

    table.segments[False, pk].append(
        Segment(Numbered(entries, lambda n: f"{AUDIT}{begun + n:012d}"), told)
    )
    if entries:
        last = told(entries - 1)
        end = {"sequence": last["sequence"], "hash": last["hash"], "at": last["at"]}
        table.transact([Update("head", head_key(M), end)], "a long ledger")
    live = next(i for (p, sk), i in stored.items() if p == pk and sk.startswith(LIVE))

    def lived(n: int) -> str:
        return f"{LIVE}{items.sortable(START + timedelta(seconds=n))}#{n:012d}"

    table.segments[False, pk].append(
        Segment(Numbered(versions, lived), lambda n: {**live, "at": at(n), SK: lived(n)})
    )
    run = stored[items.run_pk(task.run_id), items.META]

    def ran(n: int) -> str:
        return f"{items.sortable(START + timedelta(seconds=n))}#{M}-{n:024d}"

    table.segments[True, items.runs_index_pk(M)] = [
        Segment(
            Numbered(runs, ran),
            lambda n: {
                **run,
                "run_id": f"{M}-{n:024d}",
                PK: f"RUN#{M}-{n:024d}",
                INDEX_SK: ran(n),
            },
        )
    ]
    dataset = next(i for (p, sk), i in stored.items() if p == pk and sk.startswith("DATASET#"))
    table.segments[True, items.datasets_index_pk(M)] = [
        Segment(
            Numbered(runs, lambda n: f"{items.sortable(START + timedelta(seconds=n))}#{n:064x}"),
            lambda n: {
                **dataset,
                SK: f"DATASET#{n:064x}",
                INDEX_SK: f"{items.sortable(START + timedelta(seconds=n))}#{n:064x}",
            },
        )
    ]
    table.transact(
        [Update("model", items.model_key(M), {"latest_version": versions + 2})], "many versions"
    )
    return table, registry


def second_page(listing: Callable[..., Any]) -> Callable[[], object]:
    """A listing's page after the first, when there is one."""
    return lambda: listing(token=listing(limit=50).token, limit=50)


def questions(registry: Registry) -> dict[str, Callable[[], object]]:
    """What people and functions ask and do every day."""
    spec = cases.spec()
    when = START + timedelta(days=400)
    return {
        "what serves": lambda: registry.get_serving(M),
        "what serves at a moment": lambda: registry.live_at(M, when),
        "a model": lambda: registry.get_model(M),
        "all models": lambda: registry.list_models(limit=50),
        "a version": lambda: registry.get_version(M, 2),
        "the champion": lambda: registry.get_version(M, "champion"),
        "versions": lambda: registry.list_versions(M, limit=50),
        "versions, second page": second_page(lambda **how: registry.list_versions(M, **how)),
        "runs": lambda: registry.list_runs(M, limit=50),
        "runs, second page": second_page(lambda **how: registry.list_runs(M, **how)),
        "dataset versions": lambda: registry.list_datasets(M, limit=50),
        "a run": lambda: registry.get_run(cases.run(1, spec).run_id),
        "the audit": lambda: registry.audit(M, limit=50),
        "the audit, second page": second_page(lambda **how: registry.audit(M, **how)),
        "aliases": lambda: registry.list_aliases(M),
        "apply a spec": lambda: cases.apply(registry, cases.spec(description="new")),
        "create a run": lambda: registry.create_run(cases.run(7, spec)),
        "log": lambda: registry.log(cases.run(7, spec).run_id, metrics={"auc": 0.5}),
        "close a run": lambda: registry.finish_run(cases.run(7, spec).run_id, RunOutcome.FAILED),
        "promote": lambda: registry.promote(M, 2, actor="ann", reason="why", expected_champion=1),
        "roll back": lambda: registry.rollback(M, actor="ann", reason="why"),
        "set an alias": lambda: registry.set_alias(M, "tried", 2, actor="ann"),
    }


def measured(versions: int, runs: int, entries: int) -> dict[str, Used]:
    """What each question costs, asked in order of one registry."""
    table, registry = registry_of(versions, runs, entries)
    costs: dict[str, Used] = {}
    for name, ask in questions(registry).items():
        table.used = Used()
        ask()
        costs[name] = table.used
    return costs


def test_common_queries_cost_the_same_in_a_large_registry() -> None:
    empty = measured(0, 0, 0)
    pages = measured(150, 150, 150)
    large = measured(10_000, 100_000, 1_000_000)

    print(f"\n{'':26}{'requests':>18}{'read units':>20}{'write units':>20}")
    for name, cost in large.items():
        was, page = empty[name], pages[name]
        print(
            f"{name:26}{was.requests:>6}{page.requests:>6}{cost.requests:>6}"
            f"{was.reads:>8g}{page.reads:>6g}{cost.reads:>6g}"
            f"{was.writes:>8g}{page.writes:>6g}{cost.writes:>6g}"
        )
    keep("registry at scale", {n: [c.requests, c.reads, c.writes] for n, c in large.items()})
    # A second page needs the first one's token, which an empty registry does not give: it is the
    # first page again, at as many requests.
    assert {n: c.requests for n, c in large.items()} == {n: c.requests for n, c in empty.items()}
    assert large == pages
