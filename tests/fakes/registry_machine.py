"""Writers of a registry that interleave at every call, over a table that fails; one machine for
every table: in memory, on moto, on an engine, on DynamoDB.

After each step the record is read back whole and must be true: one champion at most, told alike
everywhere; every transition told once, in one chain that only grows; outcomes that stay.
"""

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from millrace.aws.dynamodb import (
    INDEX_PK,
    PK,
    Check,
    Item,
    Key,
    Put,
    QueryPage,
    Table,
    Update,
    Write,
)
from millrace.errors import FinalError, RetryableError
from millrace.messages import ChampionRef, TrainingInput
from millrace.registry.approvals import Approvals, Decision
from millrace.registry.batches import Batches
from millrace.registry.champions import ANY_CHAMPION
from millrace.registry.changes import Backoff
from millrace.registry.records import (
    ApprovalStatus,
    Batch,
    BatchOutcome,
    RunOutcome,
    RunStatus,
)
from millrace.registry.registry import Registry
from millrace.registry.rollout_records import Judgement, Rollout
from millrace.registry.rollouts import Rollouts
from millrace.registry.verification import verify
from millrace.spec import RolloutSection
from tests.fakes import cases
from tests.fakes.clock import FakeClock, counting_ids
from tests.fakes.crashes import Killed
from tests.fakes.faults import Event, Fault, FaultyTable
from tests.fakes.soundness import check_model
from tests.fakes.table import FakeTable

M = cases.MODEL
SPEC = cases.spec()
CANARY = RolloutSection.model_validate({"strategy": "canary"})
IMPATIENT = RolloutSection.model_validate({"strategy": "canary", "on_conflict": "supersede"})
SHADOW = RolloutSection.model_validate({"strategy": "shadow"})


class Hands:
    """What one process holds: the registry's parts, made anew after each crash."""

    def __init__(self, table: Table, clock: FakeClock, ids: Callable[[], str]) -> None:
        waits: list[float] = []
        backoff = Backoff(clock=lambda: sum(waits), wait=waits.append, draw=lambda _, most: most)
        self.registry = Registry(table, clock=clock, ids=ids, backoff=backoff)
        self.batches = Batches(table, self.registry, clock=clock, ids=ids, backoff=backoff)
        self.rollouts = Rollouts(table, self.registry, clock=clock, ids=ids, backoff=backoff)
        self.approvals = Approvals(
            table, clock=clock, ids=ids, backoff=backoff, new_secret=lambda: "secret"
        )


type Deed = Callable[[Hands], Any]


def task_of(number: int) -> TrainingInput:
    """The input of a run."""
    return cases.training_input(cases.run(number, SPEC), force=True)


def create(number: int) -> Deed:
    """A run is recorded."""
    return lambda h: h.registry.create_run(cases.run(number, SPEC))


def record_dataset(number: int) -> Deed:
    """Its upload is recorded."""
    return lambda h: h.registry.record_dataset(
        task_of(number), cases.ingested(f"d{number % 3}"), train_on_upload=True
    )


def register(number: int) -> Deed:
    """Its model is registered."""
    task = task_of(number)
    return lambda h: h.registry.register_version(
        task, cases.ingested(f"d{number % 3}"), cases.fitted(task.run_id)
    )


def evaluate(number: int, passed: bool, automatic: bool) -> Deed:
    """Its version is judged."""

    def deed(hands: Hands) -> None:
        run = hands.registry.get_run(task_of(number).run_id)
        if run.model_version is None:
            return
        now: ChampionRef | None = hands.registry.champion_ref(M)
        if now is not None and now.version == run.model_version:
            return
        hands.registry.record_evaluation(
            task_of(number),
            run.model_version,
            cases.evaluated(run.run_id, passed=passed, champion=now.version if now else None),
            automatic=automatic,
        )

    return deed


def promote_by_pipeline(number: int) -> Deed:
    """Its version becomes champion, and the run ends."""

    def deed(hands: Hands) -> None:
        run = hands.registry.get_run(task_of(number).run_id)
        if run.model_version is None:
            return
        version = hands.registry.get_version(M, run.model_version)
        asked = hands.approvals.find(M, run.model_version)
        if version.verdict != "passed" or (asked and asked.status is not ApprovalStatus.APPROVED):
            return
        hands.registry.promote(
            M,
            version.version,
            actor=asked.decided_by if asked else "pipeline",
            expected_champion=version.compared_with,
            finishing_run=run.run_id,
        )

    return deed


def promote_by_hand(version: int, expected: Any, force: bool) -> Deed:
    """Somebody promotes."""
    return lambda h: h.registry.promote(
        M, version, actor="ann", reason="why", expected_champion=expected, force=force
    )


def rollback(to: int | None, expected: Any, force: bool) -> Deed:
    """Somebody rolls back."""
    return lambda h: h.registry.rollback(
        M, to=to, actor="ann", reason="why", expected_champion=expected, force=force
    )


def abort(number: int) -> Deed:
    """A run fails."""
    return lambda h: h.registry.finish_run(
        task_of(number).run_id, RunOutcome.FAILED, error="Aborted"
    )


def apply_spec(rate: float) -> Deed:
    """Somebody applies a spec."""
    return lambda h: cases.apply(h.registry, cases.spec(monitor={"capture_rate": rate}))


def log_metric(number: int, step: int) -> Deed:
    """A run logs."""
    return lambda h: h.registry.log(
        task_of(number).run_id, metrics={"loss": 1 / (step + 1)}, tags={"step": str(step)}
    )


def set_alias(version: int | None) -> Deed:
    """Somebody names a version, or takes the name away."""
    if version is None:
        return lambda h: h.registry.delete_alias(M, "tried", actor="ann")
    return lambda h: h.registry.set_alias(M, "tried", version, actor="ann")


def _job_id(number: int) -> str:
    return f"{M}-batch-{number:024d}"


def create_job(number: int) -> Deed:
    """A batch job is recorded."""

    def deed(hands: Hands) -> object:
        job = Batch(
            batch_id=_job_id(number),
            model=M,
            correlation_id=f"event-{number}",
            source=cases.source(number),
            version=hands.registry.get_serving(M).version,
            spec_version=1,
            spec_digest=SPEC.digest,
            created_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=number),
            status=RunStatus.SCHEDULED,
        )
        return hands.batches.create(job)

    return deed


def move_job(number: int, outcome: BatchOutcome | None) -> Deed:
    """A batch job ends, or is resumed."""
    if outcome is None:
        return lambda h: h.batches.resume(_job_id(number), actor="ann", execution_arn=str)
    return lambda h: h.batches.finish(_job_id(number), 1, outcome)


def rollout_id_of(number: int) -> str:
    """A rollout's id."""
    return f"{M}-rollout-{number}"


def start_rollout(
    number: int, version: int, plan: RolloutSection = CANARY, *, of_training: bool = False
) -> Deed:
    """A version begins to take traffic; version 0 is the newest that passed its gates."""

    def deed(hands: Hands) -> None:
        rollout_id = rollout_id_of(number)
        candidate = version or _newest_candidate(hands)
        run_id = hands.registry.get_version(M, candidate).run_id if of_training else ""
        hands.rollouts.start(
            rollout_id=rollout_id,
            model=M,
            version=candidate,
            plan=plan,
            actor="ann",
            run_id=run_id,
        )
        attempt = hands.rollouts.get(rollout_id).attempt
        hands.rollouts.begin(rollout_id, attempt)
        hands.rollouts.set_traffic(rollout_id, attempt, 0)

    return deed


def queue_rollout(number: int, version: int) -> Deed:
    """A version is to take traffic when the one before it has ended."""
    return lambda h: h.rollouts.start(
        rollout_id=rollout_id_of(number),
        model=M,
        version=version or _newest_candidate(h),
        plan=CANARY,
        actor="bob",
    )


def _newest_candidate(hands: Hands) -> int:
    """The newest version that passed its gates and is not rolled out; 0 when there is none."""
    busy = hands.registry.get_model(M).challenger_version
    found = hands.registry.list_versions(M, limit=50).items
    ready = (v.version for v in found if v.status == "validated" and v.version != busy)
    return next(ready, 0)


def end_rollout(number: int, how: str) -> Deed:
    """A rollout ends: well, badly, or by hand."""
    return lambda h: _move(h, h.rollouts.get(rollout_id_of(number)), how)


def move_rollout(how: str, waiting: bool = False) -> Deed:
    """The rollout that is under way, or waits, goes on as its machine or a person wants."""

    def deed(hands: Hands) -> object:
        meta = hands.registry.get_model(M)
        rollout_id = meta.waiting_rollout_id if waiting else meta.rollout_id
        if rollout_id is None:
            return None
        return _move(hands, hands.rollouts.get(rollout_id), how)

    return deed


MOVES = (
    *("begin", "advance", "look", "hold", "ask", "stall", "renew", "finish", "roll back"),
    *("pause", "resume", "take up", "abort"),
)
"""All that a rollout's machine and people do to it."""


def _move(hands: Hands, rollout: Rollout, how: str) -> object:
    rollouts, rollout_id, attempt = hands.rollouts, rollout.rollout_id, rollout.attempt
    match how:
        case "begin":
            return rollouts.begin(rollout_id, attempt)
        case "advance":
            step = 0 if rollout.step is None else rollout.step + 1
            return rollouts.set_traffic(rollout_id, attempt, step)
        case "look":
            return rollouts.record_look(rollout, looked(rollout), "{}")
        case "hold" | "ask":
            return rollouts.hold(rollout_id, attempt, "why", asks=how == "ask")
        case "stall":
            return rollouts.stall(rollout_id, attempt, "why")
        case "renew":
            return rollouts.renew(rollout_id, attempt)
        case "finish":
            return rollouts.finish(rollout_id, attempt)
        case "roll back":
            return rollouts.roll_back(rollout_id, attempt, "errors")
        case "pause":
            return rollouts.pause(rollout_id, actor="ann", reason="why")
        case "resume" | "take up":
            return rollouts.resume(
                rollout_id, actor="ann", reason="why", is_alive=lambda _: how == "resume"
            )
        case _:
            return rollouts.abort(rollout_id, actor="ann", reason="why")


def looked(rollout: Rollout) -> Judgement:
    """What the next look at a rollout finds."""
    return Judgement(
        check=rollout.checks + 1,
        step=rollout.step or 0,
        look=rollout.looks + 1,
        at=rollout.created_at,
        decision="wait",
        why="why",
    )


def ask(number: int, *, four_eyes: bool = False, minutes: int = 60) -> Deed:
    """The machine of a run asks a person to approve its version, and waits."""

    def deed(hands: Hands) -> None:
        run = hands.registry.get_run(task_of(number).run_id)
        if run.model_version is not None:
            hands.approvals.request(
                M,
                run.model_version,
                task_token=f"machine-{number}",
                timeout=timedelta(minutes=minutes),
                four_eyes=four_eyes,
                barred={"ann": "asked for the training"},
            )

    return deed


def decide(number: int, decision: Decision, actor: str = "bob") -> Deed:
    """A person answers; the champion may have changed, or the time be over."""

    def deed(hands: Hands) -> None:
        version = hands.registry.get_run(task_of(number).run_id).model_version
        if version is not None:
            hands.approvals.decide(M, version, decision, actor=actor, reason="why")

    return deed


def expire(number: int) -> Deed:
    """Nobody answered in time."""

    def deed(hands: Hands) -> None:
        version = hands.registry.get_run(task_of(number).run_id).model_version
        if version is not None:
            hands.approvals.expire(M, version)

    return deed


def settle(number: int) -> Deed:
    """The machine that waited looks, and closes its run."""

    def deed(hands: Hands) -> None:
        run = hands.registry.get_run(task_of(number).run_id)
        asked = None if run.model_version is None else hands.approvals.find(M, run.model_version)
        outcome = None if asked is None else _ENDS.get(asked.status)
        if asked is not None and outcome is not None:
            hands.registry.finish_run(run.run_id, outcome, reason=asked.reason)

    return deed


_ENDS = {
    ApprovalStatus.REJECTED: RunOutcome.REJECTED,
    ApprovalStatus.EXPIRED: RunOutcome.EXPIRED,
}


def whole_training(number: int) -> list[Deed]:
    """A training, from its cause to the crown."""
    return [
        create(number),
        record_dataset(number),
        register(number),
        evaluate(number, passed=True, automatic=True),
        promote_by_pipeline(number),
    ]


def asked_training(number: int) -> list[Deed]:
    """A training, up to the question that a person is to answer."""
    return [
        *whole_training(number)[:3],
        evaluate(number, passed=True, automatic=False),
        ask(number),
    ]


def whole_rollout(number: int) -> list[Deed]:
    """A rollout, from its first step to the crown."""
    through = [move_rollout("look"), move_rollout("advance")] * (len(CANARY.weights) - 1)
    return [start_rollout(number, 0), *through, move_rollout("finish")]


def candidate(number: int) -> list[Deed]:
    """A training, up to a version that passed its gates."""
    return whole_training(number)[:4]


numbers = st.integers(1, 6)
rollouts = st.integers(1, 20)
champions = st.sampled_from([ANY_CHAMPION, None, 1, 2, 3])
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(create, numbers),
    st.builds(record_dataset, numbers),
    st.builds(register, numbers),
    st.builds(evaluate, numbers, st.booleans(), st.booleans()),
    st.builds(promote_by_pipeline, numbers),
    st.builds(promote_by_hand, numbers, champions, st.booleans()),
    st.builds(rollback, st.none() | numbers, champions, st.booleans()),
    st.builds(abort, numbers),
    st.builds(apply_spec, st.sampled_from([0.25, 0.5])),
    st.builds(log_metric, numbers, st.integers(0, 3)),
    st.builds(set_alias, st.none() | numbers),
    st.builds(create_job, st.integers(1, 2)),
    st.builds(move_job, st.integers(1, 2), st.none() | st.sampled_from(BatchOutcome)),
    st.builds(
        start_rollout,
        rollouts,
        st.just(0) | numbers,
        st.sampled_from([CANARY, IMPATIENT, SHADOW]),
        of_training=st.booleans(),
    ),
    st.builds(queue_rollout, rollouts, st.just(0) | numbers),
    st.builds(end_rollout, rollouts, st.sampled_from(["finish", "abort", "roll back"])),
    st.builds(move_rollout, st.sampled_from(MOVES), st.booleans()),
    st.builds(move_rollout, st.sampled_from(MOVES)),
    st.builds(ask, numbers, four_eyes=st.booleans(), minutes=st.sampled_from([1, 60])),
    st.builds(
        decide, numbers, st.sampled_from(["approve", "reject"]), st.sampled_from(["ann", "bob"])
    ),
    st.builds(expire, numbers),
    st.builds(settle, numbers),
)
troubles = st.dictionaries(st.integers(0, 14), st.sampled_from(list(Fault)), max_size=3)


class Scoped:
    """A part of a table that others use, too: every partition is named after it.

    It knows the partitions it wrote, so that it can be read whole without a scan.

    Args:
        inner: The table.
        scope: The part's name.
        lock: Held by each call, for a table that cannot take two at once.
    """

    def __init__(
        self, inner: Table, scope: str, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self._inner = inner
        self._scope = scope
        self._lock = lock or threading.RLock()
        self._written: set[str] = set()

    def get(self, key: Key) -> Item | None:
        """See `Table.get`."""
        with self._lock:
            found = self._inner.get(self._key(key))
        return None if found is None else self._bare(found)

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """See `Table.get_many`."""
        with self._lock:
            found = self._inner.get_many([self._key(k) for k in keys])
        return {Key(self._without(k.pk), k.sk): self._bare(i) for k, i in found.items()}

    def query(self, pk: str, **how: Any) -> QueryPage:
        """See `Table.query`."""
        if how.get("start"):
            how["start"] = self._named(how["start"])
        with self._lock:
            page = self._inner.query(self._scope + pk, **how)
        last = None if page.last is None else self._bare(page.last)
        return QueryPage(tuple(self._bare(i) for i in page.items), last)

    def transact(self, writes: Sequence[Write], what: str) -> None:
        """See `Table.transact`."""
        self._written |= {w.key.pk for w in writes}
        with self._lock:
            self._inner.transact([self._write(w) for w in writes], what)

    def items(self) -> list[Item]:
        """Everything that was written."""
        return [i for pk in sorted(self._written) for i in self.query(pk).items]

    def _write(self, write: Write) -> Write:
        key = self._key(write.key)
        match write:
            case Put():
                return Put(write.name, key, self._named(write.item), write.when)
            case Update():
                return Update(write.name, key, self._named(write.values), write.when, write.exists)
            case Check():
                return Check(write.name, key, write.when, write.exists)

    def _key(self, key: Key) -> Key:
        return Key(self._scope + key.pk, key.sk)

    def _without(self, pk: str) -> str:
        return pk.removeprefix(self._scope)

    def _named(self, item: Mapping[str, Any]) -> Item:
        return {k: self._scope + v if k in (PK, INDEX_PK) else v for k, v in item.items()}

    def _bare(self, item: Mapping[str, Any]) -> Item:
        return {k: self._without(v) if k in (PK, INDEX_PK) else v for k, v in item.items()}


type Readable = FakeTable | Scoped


class RegistryMachine(RuleBasedStateMachine):
    """Writers that interleave at every call, over a table that fails."""

    open_table: ClassVar[Callable[[], Readable]] = FakeTable
    """Gives an empty table; another one for other engines."""

    def __init__(self) -> None:
        super().__init__()
        self.items = type(self).open_table()
        self.table = FaultyTable(self.items)
        self.clock, self.ids = FakeClock(), counting_ids()
        self.hands = Hands(self.table, self.clock, self.ids)
        self.rival = Hands(self.items, self.clock, self.ids)
        self.outcomes: dict[str, str] = {}
        self.chain: list[str] = []

    @initialize(stage=st.integers(0, 3))
    def begin(self, stage: int) -> None:
        """There is a model; a champion; versions that could follow it; and a rollout of one."""
        cases.apply(self.hands.registry, SPEC)
        stages = [
            whole_training(1),
            [*candidate(2), *candidate(3), *candidate(4), ask(4)],
            [start_rollout(1, 2), queue_rollout(2, 3)],
        ]
        for deeds in stages[:stage]:
            for deed in deeds:
                deed(self.rival)

    @rule(deed=deeds, trouble=troubles)
    def do(self, deed: Deed, trouble: dict[int, Fault]) -> None:
        """A change, over a table that fails; whoever asked repeats it."""
        self._insist(deed, trouble)

    @rule(deed=deeds, fault=st.sampled_from(list(Fault)), at=st.integers(0, 14))
    def give_up(self, deed: Deed, fault: Fault, at: int) -> None:
        """A change that nobody repeats when it fails."""
        self._insist(deed, {at: fault}, tries=1)

    @rule(number=numbers, trouble=troubles)
    def train(self, number: int, trouble: dict[int, Fault]) -> None:
        """A whole training, each of its steps in the same trouble."""
        for deed in whole_training(number):
            self._insist(deed, trouble)

    @rule(deed=deeds, rival=deeds, at=st.integers(0, 14))
    def race(self, deed: Deed, rival: Deed, at: int) -> None:
        """The rival does all of its work between two calls of the deed."""
        self._insist(deed, {at: lambda: self._try(rival)})

    @rule(number=numbers, answer=st.sampled_from(["approve", "reject"]), trouble=troubles)
    def ask_a_person(self, number: int, answer: Decision, trouble: dict[int, Fault]) -> None:
        """A training that a person decides on, each step in the same trouble."""
        then = [decide(number, answer), settle(number), promote_by_pipeline(number)]
        for deed in [*asked_training(number), *then]:
            self._insist(deed, trouble)

    @rule(number=numbers, trouble=troubles)
    def make_a_candidate(self, number: int, trouble: dict[int, Fault]) -> None:
        """A version that passes its gates, each step in the same trouble."""
        for deed in candidate(number):
            self._insist(deed, trouble)

    @rule(how=st.lists(st.sampled_from(MOVES), min_size=1, max_size=4), trouble=troubles)
    def move(self, how: list[str], trouble: dict[int, Fault]) -> None:
        """What a rollout's machine and people do to it, one after another, in the same trouble."""
        for action in how:
            self._insist(move_rollout(action), trouble)

    @rule(number=rollouts, trouble=troubles)
    def roll_out(self, number: int, trouble: dict[int, Fault]) -> None:
        """A whole rollout, each of its steps in the same trouble."""
        for deed in whole_rollout(number):
            self._insist(deed, trouble)

    @rule(number=rollouts, rival=deeds, at=st.integers(0, 8), call=st.integers(0, 10))
    def race_a_rollout(self, number: int, rival: Deed, at: int, call: int) -> None:
        """The rival does all of its work between two calls of a rollout."""
        for step, deed in enumerate(whole_rollout(number)):
            self._insist(deed, {call: lambda: self._try(rival)} if step == at else {})

    @rule(how=st.sampled_from(MOVES), rival=st.sampled_from(MOVES), call=st.integers(0, 8))
    def race_a_move(self, how: str, rival: str, call: int) -> None:
        """Somebody else moves the same rollout between two calls."""
        self._insist(move_rollout(how), {call: lambda: self._try(move_rollout(rival))})

    @rule(number=numbers, rival=deeds, at=st.integers(0, 5), call=st.integers(0, 10))
    def race_an_answer(self, number: int, rival: Deed, at: int, call: int) -> None:
        """The same of a training that a person decides on."""
        for step, deed in enumerate([*asked_training(number), decide(number, "approve")]):
            self._insist(deed, {call: lambda: self._try(rival)} if step == at else {})

    @rule(number=numbers, rival=deeds, at=st.integers(0, 4), call=st.integers(0, 10))
    def race_a_training(self, number: int, rival: Deed, at: int, call: int) -> None:
        """The same in a training."""
        for step, deed in enumerate(whole_training(number)):
            self._insist(deed, {call: lambda: self._try(rival)} if step == at else {})

    @invariant()
    def the_record_is_true(self) -> None:
        """One champion, told alike everywhere; every transition told once; nothing rewritten."""
        stored = self.items.items()
        if not stored:
            return
        check_model(stored, M)
        assert verify(self.items, M).faults == ()
        self._check_that_the_ledger_grew(stored)
        for item in stored:
            if "outcome" not in item or not item[PK].startswith("RUN#"):
                continue
            if item["outcome"] == RunOutcome.ROLLING_OUT:
                # The one outcome that is followed by another: what became of the rollout.
                assert item[PK] not in self.outcomes
                continue
            assert self.outcomes.setdefault(item[PK], item["outcome"]) == item["outcome"]

    def _check_that_the_ledger_grew(self, stored: Sequence[Item]) -> None:
        told = [i for i in stored if i[PK] == f"MODEL#{M}" and i["SK"].startswith("AUDIT#")]
        hashes = [str(i["hash"]) for i in sorted(told, key=lambda i: str(i["SK"]))]
        assert hashes[: len(self.chain)] == self.chain
        self.chain = hashes

    def _insist(
        self, deed: Deed, trouble: Mapping[int, Event], *, tries: int | None = None
    ) -> None:
        """Does it as Step Functions does: a retryable error or a crash is followed by another try."""
        self.table.plan_calls(trouble)
        for _ in range(len(trouble) + 1 if tries is None else tries):
            try:
                deed(self.hands)
                break
            except Killed:
                self.hands = Hands(self.table, self.clock, self.ids)
            except RetryableError:
                continue
            except FinalError:
                break
        self.table.plan_calls({})

    def _try(self, deed: Deed) -> None:
        try:
            deed(self.rival)
        except FinalError:
            return


def eight_writers(table: Readable, seed: int, *, writers: int = 8, rounds: int = 3) -> None:
    """Writers at once on threads of their own, and a record that is true afterwards."""
    ids = counting_ids()
    cases.apply(Registry(table, clock=FakeClock(), ids=ids), SPEC)
    together = threading.Barrier(writers)
    unexpected: list[BaseException] = []

    def write(writer: int) -> None:
        choices = random.Random(seed * 100 + writer)
        registry = Registry(table, clock=FakeClock(), ids=ids)
        hands = Hands(table, FakeClock(), ids)
        hands.registry = registry
        together.wait()
        for round_ in range(rounds):
            for deed in [
                *whole_training(writer * rounds + round_ + 1),
                promote_by_hand(choices.randint(1, 9), ANY_CHAMPION, force=True),
                rollback(None, ANY_CHAMPION, force=False),
                set_alias(choices.randint(1, 4)),
            ]:
                try:
                    _persist(deed, hands)
                except BaseException as exc:
                    unexpected.append(exc)
                    raise

    threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)

    assert unexpected == []
    assert not any(t.is_alive() for t in threads)
    stored = table.items()
    check_model(stored, M)
    assert verify(table, M).faults == ()
    made = sum(i["SK"].startswith("VERSION#") for i in stored)
    assert made == writers * rounds, "a registration was lost"


def _persist(deed: Deed, hands: Hands) -> None:
    for _ in range(5):
        try:
            deed(hands)
        except RetryableError:
            continue
        except FinalError:
            return
        return
