"""Requests for approval: asked by the TRAINING machine, answered by a person, once.

A version that passed its gates and needs a person's word gets one item, ``APPROVAL#``. The request,
its answer, its expiry and its replacement are each one transaction with a condition on the request as
it was read and an entry of the ledger, so that of two people who press at once one decides, and the
other reads who did. The machine that waits is only told to look: what was decided is read from here,
so a lost message, a lost machine or a token in the wrong hands decides nothing.
"""

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

from millrace.aws.dynamodb import (
    ABSENT,
    Check,
    DynamoTable,
    Expected,
    Item,
    Key,
    OneOf,
    Put,
    Table,
    Update,
    Write,
)
from millrace.aws.table import ItemReader
from millrace.errors import (
    AlreadyDecidedError,
    ConflictError,
    GoneError,
    InvalidEventError,
    NotApproverError,
    NotFoundError,
)
from millrace.registry import items
from millrace.registry.champions import name_of
from millrace.registry.changes import BACKOFF, Backoff
from millrace.registry.records import (
    ANONYMOUS,
    PIPELINE,
    Approval,
    ApprovalStatus,
    AuditEntry,
    ModelVersion,
    RegisteredModel,
    Run,
    RunStatus,
    VersionStatus,
)
from millrace.registry.states import Event, transition
from millrace.registry.writer import Writer, text_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

PENDING: Final = ApprovalStatus.PENDING
TIMER: Final = "timeout"
"""Actor of an expiry: the clock."""

type Decision = Literal["approve", "reject"]
type Via = Literal["api", "link", "promotion", "timeout", "champion_changed"]

DUE: Final = "APPROVALS_DUE"
"""Partition of requests that no machine waits for, by when they expire."""
_LOOK_BACK: Final = timedelta(days=14)
"""How long after it is due a request is found by `Approvals.expire_due`."""
_OPEN_RUN: Final = OneOf((RunStatus.SCHEDULED.value, RunStatus.RUNNING.value))
_MAX_REASON: Final = 2_000


def approval_key(model: str, version: int) -> Key:
    """The request for approval of a version."""
    return Key(items.model_pk(model), f"APPROVAL#{version:06d}")


def open_approvals(client: "DynamoDBClient", table_name: str) -> "Approvals":
    """Requests for approval on a real table, with the real clock and randomness."""
    return Approvals(
        DynamoTable(client, table_name),
        clock=lambda: datetime.now(UTC),
        ids=lambda: secrets.token_hex(16),
    )


class Approvals(Writer):
    """Requests for approval and their answers.

    Args:
        table: The registry's table.
        clock: Gives the time of a change, aware and in UTC.
        ids: Gives ids of requests and entries, never the same twice.
        new_secret: Gives the secret that signs a request's link.
        backoff: How long a change that lost a race waits.
    """

    def __init__(
        self,
        table: Table,
        *,
        clock: Callable[[], datetime],
        ids: Callable[[], str],
        new_secret: Callable[[], str] = lambda: secrets.token_hex(32),
        backoff: Backoff = BACKOFF,
    ) -> None:
        super().__init__(table, clock=clock, ids=ids, backoff=backoff)
        self._new_secret = new_secret

    # ── Reading ─────────────────────────────────────────────────────────────────────────────────

    def find(self, model: str, version: int) -> Approval | None:
        """The version's request; None when none was made."""
        if not 0 < version < 10**6:
            return None
        item = self._table.get(approval_key(model, version))
        return None if item is None else Approval.model_validate(item)

    def get(self, model: str, version: int) -> Approval:
        """The version's request.

        Raises:
            NotFoundError: None was made, or there is no such model or version.
        """
        found = self.find(model, version)
        if found is None:
            self._model(model)
            state = self._version(model, version).status
            raise NotFoundError(
                f"nobody was asked to approve {model}@{version}: it is {state}; a request is made "
                "when a version passes its gates and its spec says approve.mode manual"
            )
        return found

    # ── Asking ──────────────────────────────────────────────────────────────────────────────────

    def request(
        self,
        model: str,
        version: int,
        *,
        task_token: str,
        timeout: timedelta,
        four_eyes: bool = False,
        barred: Mapping[str, str] | None = None,
        approvers: tuple[str, ...] = (),
        requested_by: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Approval:
        """Asks for approval of a validated version.

        Idempotent by the version's evaluation: repeating it only hands over the newer task token.
        After another evaluation it is a new request, with a new link.

        Args:
            model: The model.
            version: The version.
            task_token: What the waiting machine is woken with.
            timeout: How long an answer is waited for.
            four_eyes: Whether those in ``barred`` may not approve.
            barred: Who took part in the training, and how.
            approvers: Who alone may decide; empty for everyone with the permission.
            requested_by: Who asked for the training.
            evidence: How version and champion did.

        Raises:
            AlreadyDecidedError: A person decided before the request was made.
            ConflictError: The run is closed.
        """
        now = self._clock()
        request_id, entry_id = self._ids(), self._ids()
        secret = self._new_secret()
        subject = f"{model}@{version}"

        def change() -> Approval:
            found = self.find(model, version)
            record = self._version(model, version)
            if found is not None and found.evaluation_key == record.evaluation_key:
                if found.status is ApprovalStatus.PENDING:
                    return self._hand_over(found, task_token)
                raise AlreadyDecidedError(
                    f"{subject} was {found.status} by {found.decided_by} while the machine asked"
                )
            if record.status is not VersionStatus.VALIDATED:
                raise AlreadyDecidedError(
                    f"expected {subject} to wait for approval, found it {record.status}"
                )
            run = self._run(record.run_id)
            if run.outcome is not None:
                raise ConflictError(f"run {run.run_id} is closed: {run.outcome}")
            asked = Approval(
                model=model,
                version=version,
                request_id=request_id,
                run_id=record.run_id,
                correlation_id=record.correlation_id,
                status=ApprovalStatus.PENDING,
                requested_at=now,
                deadline=now + timeout,
                requested_by=requested_by,
                four_eyes=four_eyes,
                barred=dict(barred or {}),
                approvers=approvers,
                compared_with=record.compared_with,
                evaluation_key=record.evaluation_key,
                report_key=record.report_key,
                evidence=dict(evidence or {}),
                link_secret=secret if found is None else found.link_secret,
                task_token=task_token,
            )
            self._table.transact(
                [
                    Put(
                        "approval",
                        approval_key(model, version),
                        asked.model_dump(mode="json"),
                        ABSENT if found is None else _as_read(found),
                    ),
                    Check(
                        "version",
                        items.version_key(model, version),
                        {
                            "status": VersionStatus.VALIDATED.value,
                            "evaluation_key": record.evaluation_key,
                        },
                    ),
                    Update(
                        "run",
                        items.run_key(record.run_id),
                        {"awaiting_approval": True},
                        {"status": _OPEN_RUN},
                    ),
                    _trained(record, "awaiting_approval"),
                    *([] if task_token else [_due(asked)]),
                    *self._ledger.append(
                        AuditEntry(
                            model=model,
                            at=now,
                            entry_id=entry_id,
                            actor=PIPELINE,
                            action="approval_requested",
                            subject=subject,
                            after=ApprovalStatus.PENDING.value,
                            reason=record.reason,
                            correlation_id=record.correlation_id,
                            facts=_facts(asked),
                        )
                    ).writes,
                ],
                f"ask for approval of {subject}",
            )
            return asked

        return self._with_fresh_reads(f"ask for approval of {subject}", change)

    def _hand_over(self, found: Approval, task_token: str) -> Approval:
        if found.task_token == task_token:
            return found
        self._table.transact(
            [
                Update(
                    "approval",
                    approval_key(found.model, found.version),
                    {"task_token": task_token},
                    _as_read(found),
                )
            ],
            f"hand over the waiting machine of {found.subject}",
        )
        return found.model_copy(update={"task_token": task_token})

    # ── Answering ───────────────────────────────────────────────────────────────────────────────

    def decide(
        self,
        model: str,
        version: int,
        decision: Decision,
        *,
        actor: str,
        reason: str = "",
        via: Via = "api",
        request_id: str | None = None,
        correlation_id: str = "",
    ) -> Approval:
        """Approves or rejects. Idempotent by actor and decision.

        Args:
            model: The model.
            version: The version.
            decision: What was decided.
            actor: By whom.
            reason: Why; needed to reject.
            via: Where the decision came in.
            request_id: The request that was looked at; any by default.
            correlation_id: The request's id.

        Returns:
            The request as it is afterwards: ``expired`` when it was too late, ``superseded`` when
            the champion is not the one the version was compared with.

        Raises:
            NotFoundError: There is no such request.
            AlreadyDecidedError: Somebody decided before, or otherwise; or the version waits no more.
            GoneError: It expired before, the request that was looked at is not the newest, or the
                version was evaluated again since.
            NotApproverError: The actor may not decide.
            InvalidEventError: A rejection without a reason.
        """
        now = self._clock()
        entry_id, told = self._ids(), reason.strip()[:_MAX_REASON]
        if decision == "reject" and not told:
            raise InvalidEventError(
                f"to reject {model}@{version}, a reason is required: whoever trained it reads it"
            )

        def change() -> Approval:
            asked = self.get(model, version)
            if request_id is not None and request_id != asked.request_id:
                raise GoneError(
                    f"{asked.subject} was evaluated again since, and a newer request asks for it: "
                    "decide on what that one shows"
                )
            if asked.status is not ApprovalStatus.PENDING:
                return _answered(asked, decision, actor)
            if now >= asked.deadline:
                return self._expire(asked, now, entry_id, correlation_id)
            check_may_decide(asked, actor, decision)
            _check_evidence(asked, self._version(model, version))
            if decision == "reject":
                decided = _decided(asked, ApprovalStatus.REJECTED, actor, told, via, now)
                return self._turn_down(decided, Event.REJECT, entry_id, correlation_id)
            meta = self._model(model)
            if meta.champion_version != asked.compared_with:
                return self._supersede(asked, meta, now, entry_id, correlation_id)
            decided = _decided(asked, ApprovalStatus.APPROVED, actor, told, via, now)
            self._table.transact(
                [
                    decision_write(decided, before=asked.status),
                    Update(
                        "version",
                        items.version_key(model, version),
                        {"approval": reference_to(decided)},
                        {
                            "status": VersionStatus.VALIDATED.value,
                            "evaluation_key": asked.evaluation_key,
                        },
                    ),
                    Check(
                        "model",
                        items.model_key(model),
                        {"champion_version": asked.compared_with},
                    ),
                    *self._told(decided, entry_id, correlation_id),
                ],
                f"approve {asked.subject}",
            )
            return decided

        return self._with_fresh_reads(f"{decision} {model}@{version}", change)

    def expire(self, model: str, version: int) -> Approval:
        """Records that nobody answered in time; a request that was answered stays as it is.

        Raises:
            NotFoundError: There is no such request.
        """
        now = self._clock()
        entry_id = self._ids()

        def change() -> Approval:
            asked = self.get(model, version)
            if asked.status is not ApprovalStatus.PENDING:
                return asked
            return self._expire(asked, now, entry_id, "")

        return self._with_fresh_reads(f"expire the request for {model}@{version}", change)

    def expire_due(self) -> list[Approval]:
        """Records of every request that is over, and that no machine waits for, that nobody answered.

        Idempotent: what was answered, or asked for anew, stays as it is.

        Returns:
            The requests that expired, those of earlier calls included.
        """
        now = self._clock()
        page = self._table.query(DUE, since=text_of(now - _LOOK_BACK), until=f"{text_of(now)}~")
        expired: list[Approval] = []
        for item in page.items:
            asked = self.find(item["model"], item["version"])
            if asked is None or asked.request_id != item["request_id"]:
                continue
            if asked.status is ApprovalStatus.PENDING:
                asked = self.expire(asked.model, asked.version)
            if asked.status is ApprovalStatus.EXPIRED:
                expired.append(asked)
        return expired

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────

    def _turn_down(
        self,
        decided: Approval,
        event: Event,
        entry_id: str,
        correlation_id: str,
    ) -> Approval:
        """The request is answered, and its version goes the way of the rejected."""
        record = self._version(decided.model, decided.version)
        after = transition(record.status, event, decided.subject)
        entry = decision_entry(
            decided, entry_id=entry_id, before=PENDING, correlation_id=correlation_id
        )
        appended = self._ledger.append(entry)
        self._table.transact(
            [
                decision_write(decided, before=PENDING),
                Update(
                    "version",
                    items.version_key(record.model, record.version),
                    {
                        "status": after.value,
                        "reason": decided.reason,
                        "updated_at": text_of(appended.entries[0].at),
                        "ledger_sequence": appended.entries[0].sequence,
                    },
                    {"status": record.status.value},
                ),
                _trained(record, decided.status.value),
                *appended.writes,
            ],
            f"{event.value} {decided.subject}",
        )
        return decided

    def _expire(
        self, asked: Approval, now: datetime, entry_id: str, correlation_id: str
    ) -> Approval:
        reason = f"nobody answered the request of {_moment(asked.requested_at)} in time"
        decided = _decided(asked, ApprovalStatus.EXPIRED, TIMER, reason, "timeout", now)
        return self._turn_down(decided, Event.EXPIRE, entry_id, correlation_id)

    def _supersede(
        self,
        asked: Approval,
        meta: RegisteredModel,
        now: datetime,
        entry_id: str,
        correlation_id: str,
    ) -> Approval:
        reason = (
            f"{asked.subject} was compared with {name_of(meta, asked.compared_with)}, and the "
            f"champion is {name_of(meta, meta.champion_version)} now"
        )
        decided = _decided(
            asked, ApprovalStatus.SUPERSEDED, PIPELINE, reason, "champion_changed", now
        )
        self._table.transact(
            [
                decision_write(decided, before=PENDING),
                *self._told(decided, entry_id, correlation_id),
            ],
            f"replace the request for {asked.subject}",
        )
        return decided

    def _told(self, decided: Approval, entry_id: str, correlation_id: str) -> list[Write]:
        entry = decision_entry(
            decided, entry_id=entry_id, before=PENDING, correlation_id=correlation_id
        )
        return self._ledger.append(entry).writes

    def _model(self, model: str) -> RegisteredModel:
        item = self._table.get(items.model_key(model))
        if item is None:
            raise NotFoundError(f"there is no model {model!r}; apply its spec first")
        return items.to_model(item)

    def _version(self, model: str, version: int) -> ModelVersion:
        item = self._table.get(items.version_key(model, version)) if 0 < version < 10**6 else None
        if item is None:
            raise NotFoundError(f"model {model!r} has no version {version}")
        return items.to_version(item)

    def _run(self, run_id: str) -> Run:
        item = self._table.get(items.run_key(run_id))
        if item is None:
            raise NotFoundError(f"there is no run {run_id!r}")
        return items.to_run(item)


def _due(asked: Approval) -> Put:
    """When a request expires that no machine waits for."""
    # nosemgrep: registry-write-without-assumption -- written with the request, which has the condition
    return Put(
        "due",
        Key(DUE, f"{text_of(asked.deadline)}#{asked.subject}"),
        {
            "model": asked.model,
            "version": asked.version,
            "request_id": asked.request_id,
            "expires_at": int((asked.deadline + 2 * _LOOK_BACK).timestamp()),
        },
    )


def _check_evidence(asked: Approval, record: ModelVersion) -> None:
    """That the version is still what people were shown when they were asked.

    Raises:
        AlreadyDecidedError: It waits no more.
        GoneError: It was evaluated again: what was shown is not what would be decided on.
    """
    if record.status is not VersionStatus.VALIDATED:
        raise AlreadyDecidedError(
            f"{asked.subject} waits no more, it is {record.status} since it was asked for: "
            f"{record.reason or 'its evaluation was repeated'}"
        )
    if record.evaluation_key == asked.evaluation_key:
        return
    before, after = (
        "no champion" if version is None else f"version {version}"
        for version in (asked.compared_with, record.compared_with)
    )
    compared = f"compared with {after}" + (f", not with {before}" if before != after else " anew")
    raise GoneError(
        f"{asked.subject} was evaluated again since the request of {_moment(asked.requested_at)}, "
        f"{compared}: a new request comes; decide on what that one shows"
    )


def check_may_decide(asked: Approval, actor: str, decision: Decision) -> None:
    """Whether this caller may give this answer. Four eyes are for approving: anyone may reject.

    Raises:
        NotApproverError: They may not; says why, and who may.
    """
    named = asked.approvers or (asked.four_eyes and decision == "approve")
    if named and actor.strip() in ("", ANONYMOUS):
        raise NotApproverError(
            f"{asked.subject} is approved by callers who are known by name, and this deployment "
            "lets anyone in (ApiAuthorizer NONE): deploy it with an authorizer, or take four_eyes "
            "and approvers out of the spec"
        )
    if asked.approvers and not any(fnmatchcase(actor, a) for a in asked.approvers):
        raise NotApproverError(
            f"the spec of {asked.model} names who may decide on {asked.subject}, and {actor} is "
            "not among them"
        )
    if asked.four_eyes and decision == "approve" and actor in asked.barred:
        raise NotApproverError(
            f"four eyes: {actor} {asked.barred[actor]}, so another person must approve "
            f"{asked.subject}"
        )


def approved(table: ItemReader, model: str, version: int) -> Check:
    """That no person's word is missing: a condition for the transaction of what needs it.

    Args:
        table: The registry's table.
        model: The model.
        version: The version that is to take traffic.

    Raises:
        ConflictError: Its request waits, or came to nothing.
    """
    key = approval_key(model, version)
    item = table.get(key)
    if item is None:
        return Check("approval", key, ABSENT, exists=False)
    asked = Approval.model_validate(item)
    if asked.status is ApprovalStatus.PENDING:
        raise ConflictError(
            f"{asked.subject} waits for approval: approve it, and what its spec says of the rollout "
            "follows by itself"
        )
    if asked.status is not ApprovalStatus.APPROVED:
        raise ConflictError(
            f"{asked.subject} was not approved, its request is {asked.status}: train again"
        )
    return Check("approval", key, {"status": ApprovalStatus.APPROVED.value})


def check_asked(table: ItemReader, version: ModelVersion) -> None:
    """That people were asked about an imported version, where the spec wants them to be.

    A training asks before anybody could promote what it made; an import may have died before it asked.

    Raises:
        ConflictError: They were not.
    """
    origin = version.provenance
    if origin is None or not origin.needs_approval:
        return
    if table.get(approval_key(version.model, version.version)) is None:
        raise ConflictError(
            f"{version.model}@{version.version} was imported under approve.mode manual, and nobody "
            "was asked to approve it yet: import its bundle again, which asks"
        )


def decided_by_promotion(
    table: ItemReader, model: str, version: int, *, actor: str, reason: str, now: datetime
) -> Approval | None:
    """What a promotion by hand does to the version's request: it answers it.

    Args:
        table: The registry's table.
        model: The model.
        version: The version that is promoted.
        actor: By whom.
        reason: Why.
        now: When.

    Returns:
        The request as it becomes, for `decision_write` and `decision_entry` in the promotion's
        transaction; None when no request waits.

    Raises:
        NotApproverError: The request's rules do not let this person approve, waiting or not.
    """
    item: Item | None = table.get(approval_key(model, version))
    if item is None:
        return None
    asked = Approval.model_validate(item)
    if asked.status is not ApprovalStatus.APPROVED:
        check_may_decide(asked, actor, "approve")
    if asked.status is not ApprovalStatus.PENDING:
        return None
    return _decided(asked, ApprovalStatus.APPROVED, actor, reason, "promotion", now)


def decision_write(decided: Approval, *, before: ApprovalStatus) -> Update:
    """The write of an answer; it fails when somebody else answered meanwhile."""
    changed = decided.model_dump(
        mode="json", include={"status", "decided_by", "decided_at", "reason", "via"}
    )
    return Update(
        "approval",
        approval_key(decided.model, decided.version),
        changed,
        {"request_id": decided.request_id, "status": before.value},
    )


def decision_entry(
    decided: Approval, *, entry_id: str, before: ApprovalStatus, correlation_id: str = ""
) -> AuditEntry:
    """The entry of the ledger that tells of an answer."""
    return AuditEntry(
        model=decided.model,
        at=decided.decided_at or decided.requested_at,
        entry_id=entry_id,
        actor=decided.decided_by,
        action=f"approval_{decided.status.value}",
        subject=decided.subject,
        before=before.value,
        after=decided.status.value,
        reason=decided.reason,
        correlation_id=correlation_id or decided.correlation_id,
        facts={**_facts(decided), "via": decided.via},
    )


def reference_to(decided: Approval) -> dict[str, Any]:
    """What a version's item, and what was live when, say of the approval."""
    return {
        "request_id": decided.request_id,
        "by": decided.decided_by,
        "at": text_of(decided.decided_at or decided.requested_at),
        "via": decided.via,
        "reason": decided.reason,
        "report_key": decided.report_key,
        "evaluation_key": decided.evaluation_key,
    }


def _facts(asked: Approval) -> dict[str, Any]:
    """What an entry of the ledger says of a request: never its secret or its token."""
    return {
        "request_id": asked.request_id,
        "run_id": asked.run_id,
        "deadline": text_of(asked.deadline),
        "four_eyes": asked.four_eyes,
        "compared_with": asked.compared_with,
        "report_key": asked.report_key,
        "evaluation_key": asked.evaluation_key,
    }


def _as_read(asked: Approval) -> Mapping[str, Expected]:
    return {"request_id": asked.request_id, "status": asked.status.value}


def _decided(
    asked: Approval, status: ApprovalStatus, actor: str, reason: str, via: Via, now: datetime
) -> Approval:
    return asked.model_copy(
        update={
            "status": status,
            "decided_by": actor,
            "decided_at": now,
            "reason": reason,
            "via": via,
        }
    )


def _answered(asked: Approval, decision: Decision, actor: str) -> Approval:
    """The answer to who comes after the decision: the same one, if it was theirs."""
    wanted = ApprovalStatus.APPROVED if decision == "approve" else ApprovalStatus.REJECTED
    if asked.status is wanted and asked.decided_by == actor:
        return asked
    when = _moment(asked.decided_at)
    if asked.status is ApprovalStatus.EXPIRED:
        raise GoneError(
            f"the request for {asked.subject} expired at {when}: train again, or promote it by "
            "force with a reason"
        )
    if asked.status is ApprovalStatus.SUPERSEDED:
        raise AlreadyDecidedError(f"{asked.reason}: it is evaluated again; wait for a new request")
    raise AlreadyDecidedError(f"{asked.subject} was {asked.status} by {asked.decided_by} at {when}")


def _trained(record: ModelVersion, outcome: str) -> Put:
    """That these rows were trained with this spec: the same upload again waits for nobody."""
    # nosemgrep: registry-write-without-assumption -- the latest wins; the version has a condition
    return Put(
        "trained",
        items.trained_key(record.model, record.dataset_version, record.spec_digest),
        {
            "spec_digest": record.spec_digest,
            "run_id": record.run_id,
            "version": record.version,
            "outcome": outcome,
        },
    )


def _moment(at: datetime | None) -> str:
    return "an unknown time" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
