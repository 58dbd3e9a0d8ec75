"""Whatever is done to a ledger behind the registry's back is found and named."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.aws.dynamodb import PK, SK, Item, Key, Put, Update
from millrace.errors import InvalidEventError, NotFoundError
from millrace.registry import verification
from millrace.registry.approvals import Approvals
from millrace.registry.ledger import Anchor, digest_of, entry_key, head_key, parse_anchor
from millrace.registry.registry import Registry
from millrace.registry.verification import FaultKind, verify
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL


@dataclasses.dataclass
class Forger:
    """Somebody who may write the table, and does not ask the registry."""

    table: FakeTable

    def entry(self, number: int) -> Item:
        item = self.table.get(entry_key(M, number))
        assert item is not None
        return item

    def put(self, sk: str, item: Item) -> None:
        self.table.put(
            Put(
                "forged",
                Key(f"MODEL#{M}", sk),
                {k: v for k, v in item.items() if k not in (PK, SK)},
            )
        )

    def edit(self, number: int, *, sealed: bool = False, **changes: Any) -> None:
        item = {**self.entry(number), **changes}
        if sealed:
            item["hash"] = digest_of(item)
        self.put(item[SK], item)

    def drop(self, *numbers: int) -> None:
        for number in numbers:
            self.table.remove(entry_key(M, number))

    def swap(self, one: int, other: int) -> None:
        first, second = self.entry(one), self.entry(other)
        self.put(first[SK], second)
        self.put(second[SK], first)

    def end_at(self, number: int) -> None:
        """Cuts the end and mends the head, so that the chain alone shows nothing."""
        last = self.entry(number)
        while self.table.get(entry_key(M, number + 1)) is not None:
            number += 1
            self.drop(number)
        self.set_head(sequence=last["sequence"], hash=last["hash"])

    def set_head(self, **changes: Any) -> None:
        self.table.transact([Update("head", head_key(M), changes)], "forge the head")

    def reseal_from(self, number: int) -> None:
        """Writes the rest of the chain anew, as somebody would who knows how it is made."""
        item: Item | None = self.entry(number)
        while item is not None:
            item["hash"] = digest_of(item)
            self.put(item[SK], item)
            last = item
            number += 1
            item = self.table.get(entry_key(M, number))
            if item is not None:
                item["previous_hash"] = last["hash"]
        self.set_head(hash=last["hash"])


@pytest.fixture
def table() -> FakeTable:
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    for number in (1, 2, 3):
        cases.champion(registry, number)
    registry.rollback(M, actor="ann", reason="worse")
    return table


@pytest.fixture
def forger(table: FakeTable) -> Forger:
    return Forger(table)


def found(table: FakeTable, *anchors: Anchor) -> list[tuple[FaultKind, int]]:
    return [(f.kind, f.sequence) for f in verify(table, M, anchors=anchors).faults]


def test_a_ledger_nobody_touched_is_sound(table: FakeTable) -> None:
    answer = verify(table, M)

    head = table.get(head_key(M))
    assert head is not None
    assert answer.sound
    assert answer.complete
    assert (answer.first, answer.last, answer.entries) == (1, head["sequence"], head["sequence"])
    assert answer.head == f"{head['sequence']}:{head['hash']}"
    assert answer.token is None


TAMPERINGS: list[tuple[str, Callable[[Forger], object], tuple[FaultKind, int] | None]] = [
    ("a reason edited", lambda f: f.edit(4, reason="because"), (FaultKind.EDITED, 4)),
    ("a field added", lambda f: f.edit(4, approved_by="eve"), (FaultKind.EDITED, 4)),
    ("edited and sealed", lambda f: f.edit(4, sealed=True, actor="eve"), (FaultKind.EDITED, 4)),
    ("the last sealed anew", lambda f: f.edit(last(f), sealed=True, actor="eve"), None),
    ("the first dropped", lambda f: f.drop(1), (FaultKind.DROPPED, 1)),
    ("one dropped", lambda f: f.drop(5), (FaultKind.DROPPED, 5)),
    ("three dropped", lambda f: f.drop(5, 6, 7), (FaultKind.DROPPED, 5)),
    ("neighbours swapped", lambda f: f.swap(4, 5), (FaultKind.REORDERED, 4)),
    ("two far apart swapped", lambda f: f.swap(2, 9), (FaultKind.REORDERED, 2)),
    ("one repeated in another's place", lambda f: f.put(f.entry(6)[SK], f.entry(5)), (FaultKind.REORDERED, 6)),
    ("one added at the end", lambda f: f.put(entry_key(M, last(f) + 1).sk, f.entry(3)), None),
    ("one under a key of its own", lambda f: f.put("AUDIT#000000000004b", f.entry(4)), (FaultKind.ADDED, 5)),
    ("the end cut", lambda f: f.drop(last(f)), None),
    ("another hash in the head", lambda f: f.set_head(hash="0" * 64), None),
    ("the head set back", lambda f: f.set_head(sequence=last(f) - 2), None),
    ("the head gone", lambda f: f.table.remove(head_key(M)), None),
]  # fmt: skip
AT_THE_END = {
    "the last sealed anew": (FaultKind.HEAD, 0),
    "one added at the end": (FaultKind.REORDERED, 1),
    "the end cut": (FaultKind.CUT, 0),
    "another hash in the head": (FaultKind.HEAD, 0),
    "the head set back": (FaultKind.ADDED, -1),
    "the head gone": (FaultKind.ADDED, None),
}


def last(forger: Forger) -> int:
    head = forger.table.get(head_key(M))
    assert head is not None
    return int(head["sequence"])


@pytest.mark.parametrize(
    ("name", "tamper", "fault"), TAMPERINGS, ids=[name for name, _, _ in TAMPERINGS]
)
def test_tampering_is_named(
    forger: Forger,
    name: str,
    tamper: Callable[[Forger], object],
    fault: tuple[FaultKind, int] | None,
) -> None:
    end = last(forger)
    tamper(forger)

    if fault is None:
        kind, offset = AT_THE_END[name]
        fault = (kind, 1 if offset is None else end + offset)
    answer = verify(forger.table, M)
    assert not answer.sound
    assert fault in [(f.kind, f.sequence) for f in answer.faults]


def test_one_edited_entry_is_the_only_fault(forger: Forger) -> None:
    forger.edit(4, reason="because")

    assert found(forger.table) == [(FaultKind.EDITED, 4)]


def test_swapped_entries_are_the_only_faults(forger: Forger) -> None:
    forger.swap(4, 5)

    assert found(forger.table) == [(FaultKind.REORDERED, 4), (FaultKind.REORDERED, 5)]


def test_an_end_cut_off_with_its_head_is_shown_by_an_anchor(forger: Forger) -> None:
    kept = parse_anchor(verify(forger.table, M).head)
    forger.end_at(kept.sequence - 1)

    chain = [f for f in verify(forger.table, M).faults if f.kind is not FaultKind.STATE]
    assert chain == []
    assert (FaultKind.ANCHOR, kept.sequence) in found(forger.table, kept)


def test_a_chain_written_anew_is_shown_by_an_anchor(forger: Forger) -> None:
    kept = parse_anchor(verify(forger.table, M).head)
    forger.edit(6, actor="eve")
    forger.reseal_from(6)

    assert found(forger.table) == []
    assert found(forger.table, kept) == [(FaultKind.ANCHOR, kept.sequence)]
    before = Anchor(5, forger.entry(5)["hash"])
    assert found(forger.table, before) == []


def update(sk: str, **values: Any) -> Callable[[FakeTable], None]:
    return lambda t: t.transact([Update("forged", Key(f"MODEL#{M}", sk), values)], "forge")


@pytest.mark.parametrize(
    "tamper",
    [
        update("VERSION#000001", status="champion"),
        update("VERSION#000002", status="archived"),
        update("VERSION#000003", ledger_sequence=1),
        update("VERSION#000003", ledger_sequence=9_999),
        update("ALIAS#champion", version=3),
        update("ALIAS#champion", ledger_sequence=1),
        update("SERVING", version=3),
        update("SERVING", sha256="0" * 64),
        update("META", champion_version=3),
        lambda t: t.remove(Key(f"MODEL#{M}", "VERSION#000001")),
        lambda t: t.remove(Key(f"MODEL#{M}", "ALIAS#champion")),
        lambda t: t.remove(Key(f"MODEL#{M}", "SERVING")),
    ],
    ids=lambda _: "tampering",
)
def test_a_state_that_the_ledger_does_not_tell_is_found(
    table: FakeTable, tamper: Callable[[FakeTable], None]
) -> None:
    tamper(table)

    assert FaultKind.STATE in {kind for kind, _ in found(table)}


@settings(max_examples=60)
@given(data=st.data())
def test_any_change_of_any_entry_is_found(data: st.DataObject) -> None:
    table = FakeTable()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    cases.champion(registry, 1)
    forger = Forger(table)
    number = data.draw(st.integers(1, last(forger)))
    names = sorted(set(forger.entry(number)) - {PK, SK})
    name = data.draw(st.sampled_from(names))
    value = data.draw(
        st.text(max_size=5) | st.integers(-5, 5) | st.lists(st.integers(), max_size=2)
    )
    if forger.entry(number)[name] == value:
        return
    forger.put(forger.entry(number)[SK], {**forger.entry(number), name: value})

    assert not verify(table, M).sound


def test_a_walk_in_parts_finds_the_same_as_one(forger: Forger) -> None:
    forger.edit(4, reason="because")
    forger.drop(7)
    whole = verify(forger.table, M)

    answers = [verify(forger.table, M, limit=2)]
    while answers[-1].token:
        answers.append(verify(forger.table, M, limit=2, token=answers[-1].token))

    assert [f for a in answers for f in a.faults] == list(whole.faults)
    assert sum(a.entries for a in answers) == whole.entries
    assert [a.complete for a in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].head == whole.head


def test_faults_beyond_a_hundred_are_counted(
    forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_FAULTS", 2)
    for number in (2, 4, 6, 8):
        forger.edit(number, reason="because")

    answer = verify(forger.table, M)

    assert answer.fault_count == 4
    assert [f.sequence for f in answer.faults] == [2, 4]


@pytest.mark.parametrize(
    "token", ["", "x", "W10", "e30", "WzEsMiwzXQ", "🙂", "A" * 5000], ids=lambda t: t[:6] or "empty"
)
def test_a_token_of_no_walk_is_refused(table: FakeTable, token: str) -> None:
    if token == "":
        assert verify(table, M, token=token).sound
        return
    with pytest.raises(InvalidEventError, match="token"):
        verify(table, M, token=token)


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":" + "0" * 64, "-1:" + "0" * 64, "1:" + "G" * 64, "٣:" + "0" * 64]
)
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(InvalidEventError, match="SEQUENCE:HASH"):
        parse_anchor(text)


def test_an_unknown_model_has_no_ledger(table: FakeTable) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'nobody'"):
        verify(table, "nobody")


class Busy(FakeTable):
    """Lets a writer in whenever the head is read or a page is."""

    def __init__(self) -> None:
        super().__init__()
        self.writer: Callable[[], object] | None = None
        self.left = 0

    def get(self, key: Key) -> Item | None:
        self._let_in()
        return super().get(key)

    def query(self, pk: str, **given: Any) -> Any:
        self._let_in()
        return super().query(pk, **given)

    def _let_in(self) -> None:
        if self.writer is None or self.left == 0:
            return
        writer, self.writer = self.writer, None
        self.left -= 1
        writer()
        self.writer = writer


@pytest.mark.parametrize("changes", [1, 2, 3, 5, 9])
def test_changes_under_way_are_no_faults(changes: int) -> None:
    table = Busy()
    registry = Registry(table, clock=FakeClock(), ids=counting_ids())
    for number in (1, 2):
        cases.champion(registry, number)
    crowns = [1, 2]

    def swap() -> None:
        crowns.reverse()
        registry.promote(M, crowns[0], actor="ann", reason="why", force=True) if (
            registry.get_version(M, crowns[0]).status != "champion"
        ) else None

    table.writer, table.left = swap, changes

    assert verify(table, M).faults == ()


def test_the_documentation_names_every_fault() -> None:
    text = (Path(__file__).parents[3] / "docs" / "registry.md").read_text(encoding="utf-8")

    assert {f"| `{kind}` |" for kind in FaultKind if f"| `{kind}` |" not in text} == set()


@pytest.mark.parametrize("answer", ["approve", "reject", "expire"])
def test_an_answered_request_for_approval_is_no_fault(answer: str) -> None:
    table, clock, ids = FakeTable(), FakeClock(), counting_ids()
    registry = Registry(table, clock=clock, ids=ids)
    approvals = Approvals(table, clock=clock, ids=ids)
    task = cases.candidate(registry, 1)
    registry.record_evaluation(task, 1, cases.evaluated(task.run_id), automatic=False)
    approvals.request(M, 1, task_token="machine-1", timeout=timedelta(days=1))

    if answer == "expire":
        approvals.expire(M, 1)
    else:
        approvals.decide(M, 1, answer, actor="user:ada", reason="why")  # type: ignore[arg-type]

    assert verify(table, M).faults == ()
