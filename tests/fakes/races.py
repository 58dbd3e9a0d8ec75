"""Races: a rival is done between a change's reads and its commit, over a table that knows few conditions.

What the scenes of tests/unit/registry/test_conditions_matter.py are made of.
"""

import ast
import dataclasses
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import millrace.registry
from millrace.aws.dynamodb import Check, Item, Key, Put, Update, Write
from millrace.errors import FinalError, RetryableError
from millrace.messages import TrainingInput
from millrace.registry.approvals import Approvals
from millrace.registry.batches import Batches
from millrace.registry.changes import Backoff
from millrace.registry.ledger import HEAD
from millrace.registry.registry import Registry
from millrace.registry.rollouts import Rollouts
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.table import FakeTable

M = cases.MODEL
SPEC = cases.spec()
REGISTRY = Path(millrace.registry.__file__).parent


class Weakened(FakeTable):
    """Knows the conditions of the named writes alone, and lets a rival in after a change's reads.

    A change reads the head of the ledger last: the rival comes before that, or, where nothing is
    entered in the ledger, before the commit.

    Args:
        kept: The writes whose conditions count; None for all.
        without: Says of a write that its condition does not count in any case.
    """

    def __init__(
        self, kept: Sequence[str] | None, without: Callable[[Write], bool] = lambda _: False
    ) -> None:
        super().__init__()
        self._kept = None if kept is None else frozenset(kept)
        self._without = without
        self.rival: Callable[[], object] | None = None
        self.late = False
        self.conditional: list[tuple[str, Write]] = []
        """The kind of change of each write that came with a condition, and the write."""

    def get(self, key: Key) -> Item | None:
        if key.sk == HEAD and not self.late:
            self._let_in()
        return super().get(key)

    def transact(self, writes: Sequence[Write], what: str) -> None:
        if self.late:
            self._let_in()
        self.conditional += [(kind_of(what), w) for w in writes if _has_condition(w)]
        super().transact([self._weaken(w) for w in writes], what)

    @property
    def seen(self) -> set[tuple[str, str]]:
        """The kind of change and the name of each write that came with a condition."""
        return {(kind, name_of(write)) for kind, write in self.conditional}

    def _let_in(self) -> None:
        rival, self.rival = self.rival, None
        if rival is not None:
            rival()

    def _weaken(self, write: Write) -> Write:
        counts = self._kept is None or name_of(write) in self._kept
        if counts and not self._without(write):
            return write
        if isinstance(write, Update):
            return dataclasses.replace(write, when={}, exists=False)
        if isinstance(write, Check):
            return Put(write.name, Key("NOWHERE", write.key.pk + write.key.sk), {})
        return dataclasses.replace(write, when={})


KINDS = {
    "ask for approval": "ask",
    "hand over": "hand over",
    "replace the request": "supersede",
    "reject ": "turn down",
    "expire ": "turn down",
    "abort rollout": "end rollout",
    "roll back rollout": "end rollout",
    "pause rollout": "move rollout",
    "resume rollout": "move rollout",
    "hold rollout": "move rollout",
    "stall rollout": "move rollout",
    "renew rollout": "move rollout",
    "start rollout": "start rollout",
    "begin rollout": "begin rollout",
    "record look": "record look",
    "set step": "set step",
    "promote": "crown",
    "roll ": "crown",
    "record trial": "record trial",
    "record dataset": "record dataset",
    "record the evaluation": "record evaluation",
    "create batch": "create batch",
    "update batch": "update batch",
    "close batch": "close batch",
    "resume batch": "resume batch",
}
"""Kinds of change by the words that name one; any other kind is its first word."""


def kind_of(what: str) -> str:
    """The kind of change, of the words that name one."""
    for start, kind in KINDS.items():
        if what.startswith(start):
            return kind
    return what.split(" ", 1)[0]


def name_of(write: Write) -> str:
    """A write's name, without the key of what is logged, or the id of what is replaced."""
    for own, other in (("run of the rollout", "replaced run"), ("rollout", "replaced rollout")):
        if write.name.startswith(f"{own} "):
            return other
    first = write.name.split(" ", 1)[0]
    return first if first in ("param", "metric", "point", "tag", "audit") else write.name


def _has_condition(write: Write) -> bool:
    return (
        bool(write.when) or isinstance(write, Check) or (isinstance(write, Update) and write.exists)
    )


class StoppedClock(FakeClock):
    """Two changes of one moment."""

    def __call__(self) -> datetime:
        """The time; it stands still."""
        return self.now


@dataclasses.dataclass
class Race:
    """A table, the parts of its registry, and what a rival sees."""

    table: Weakened
    registry: Registry
    batches: Batches
    rollouts: Rollouts
    approvals: Approvals

    @classmethod
    def over(cls, table: Weakened, clock: Callable[[], datetime]) -> "Race":
        """The parts over one table; they never wait for real."""
        waits: list[float] = []
        impatient = Backoff(clock=lambda: sum(waits), wait=waits.append, draw=lambda _, most: most)
        ids = counting_ids()
        registry = Registry(table, clock=clock, ids=ids, backoff=impatient)
        return cls(
            table,
            registry,
            Batches(table, registry, clock=clock, ids=ids, backoff=impatient),
            Rollouts(table, registry, clock=clock, ids=ids, backoff=impatient),
            Approvals(table, clock=clock, ids=ids, backoff=impatient),
        )

    def run(
        self, change: Callable[[], object], rival: Callable[[], object], *, late: bool = False
    ) -> None:
        """The rival is done between the change's reads and its commit."""
        self.table.rival, self.table.late = rival, late
        try:
            change()
        except (FinalError, RetryableError):
            return
        finally:
            self.table.rival = None

    def take_away(self, key: Key) -> None:
        """What only somebody with the table's rights can do, or a restored backup."""
        if self.table.get(key) is not None:
            self.table.remove(key)

    def item(self, key: Key) -> Item:
        return self.table.get(key) or {}

    def judged(self, number: int, champion: int | None = None) -> tuple[TrainingInput, int]:
        """A version that passed its gates."""
        task = cases.candidate(self.registry, number, SPEC)
        version = self.registry.get_run(task.run_id).model_version or 0
        self.registry.record_evaluation(
            task, version, cases.evaluated(task.run_id, champion=champion), automatic=True
        )
        return task, version

    def scheduled(self, number: int) -> TrainingInput:
        """A run that was recorded, and nothing more."""
        cases.apply(self.registry, SPEC)
        run = cases.run(number, SPEC)
        self.registry.create_run(run)
        return cases.training_input(run)


type Scene = Callable[[Race], None]
type Place = tuple[str, int]
"""A file of the registry and a line in it."""
type Births = dict[int, tuple[Write, Place]]
"""Where writes were made, by their identity; they are kept, so that none has another's."""


def conditional_writes() -> dict[Place, str]:
    """Every place in the registry's code that makes a write with a condition, with its name there."""
    found: dict[Place, str] = {}
    for path in sorted(REGISTRY.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind = node.func.id
                if kind in ("Update", "Check") or (kind == "Put" and _is_conditional(node)):
                    found[path.name, node.lineno] = ast.unparse(node.args[0])
    return found


def _is_conditional(put: ast.Call) -> bool:
    return len(put.args) > 3 or any(k.arg == "when" for k in put.keywords)


def note_births(monkeypatch: pytest.MonkeyPatch) -> Births:
    """From now on, where in the code each write was made, by the write's identity."""
    births: Births = {}

    def note(made: type[Put | Update | Check]) -> None:
        construct = made.__init__

        def init(write: Any, *args: Any, **named: Any) -> None:
            construct(write, *args, **named)
            maker = sys._getframe(1)
            births[id(write)] = (write, (Path(maker.f_code.co_filename).name, maker.f_lineno))

        monkeypatch.setattr(made, "__init__", init)

    for made in (Put, Update, Check):
        note(made)
    return births
