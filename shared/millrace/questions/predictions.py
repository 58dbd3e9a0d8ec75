"""From a prediction's id to the version that answered, who put it there, and on what evidence.

The id carries the time, the role in which the version answered and the number of the ledger's entry
that had set the traffic (`serving.identity`). The entry leads to what was live, that to the version,
its artifact's digest, the rollout's step and the approval: four requests, however long ago it was.
An id is no proof that the request took place; the captured prediction is.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from millrace import layout
from millrace.errors import FieldProblem, InvalidRequestError, NotFoundError
from millrace.messages import GateResult
from millrace.questions.history import Decision, History, ReadTable, decision_of
from millrace.questions.listings import expect_model
from millrace.questions.moments import text_of
from millrace.registry import items
from millrace.registry.live import Live, LiveRollout
from millrace.registry.records import Record
from millrace.serving.identity import Role, describe, is_prediction_id

SKEW: Final = timedelta(seconds=5)
"""By which the clocks of functions may differ."""

_MOST_VERSIONS: Final = 10**6


class Prediction(Record):
    """What the record says of a prediction."""

    prediction_id: str
    predicted_at: datetime
    model: str
    role: str
    """``champion``, ``challenger`` of a rollout, or ``pinned``: asked for by number."""
    version: int
    sha256: str
    model_key: str
    run_id: str
    dataset_version: str
    spec_version: int
    code_version: str
    since: datetime | None
    """When the traffic was set so; None for a version asked for by number."""
    until: datetime | None
    """When it was set otherwise; None while it lasts."""
    rollout: LiveRollout | None
    approval: dict[str, Any] | None
    decision: Decision | None
    """The ledger's entry that put the version there."""
    verdict: str
    verdict_reason: str
    gates: tuple[GateResult, ...]
    evaluation_key: str
    report_key: str
    captured: str
    """Where the hour's predictions lie, this one among them if it was captured."""
    note: str = ""


def prediction(
    model: str, prediction_id: str, *, table: ReadTable, data_bucket: str, now: datetime
) -> Prediction:
    """What the record says of a prediction.

    Args:
        model: The model that was asked.
        prediction_id: As the answer named it.
        table: The registry's table.
        data_bucket: Where predictions are captured.
        now: The time.

    Raises:
        InvalidRequestError: It is no prediction's id, or one of a time to come.
        NotFoundError: There is no such model, or the id leads to nothing of it.
    """
    prediction_id = prediction_id.lower()
    if not is_prediction_id(prediction_id):
        raise _malformed("expected an id as an answer names it: a UUID of version 7")
    at, role, number = describe(prediction_id)
    if at > now + SKEW:
        raise _malformed(f"expected an id of a time that has come, got one of {text_of(at)}")
    if role is Role.UNREGISTERED:
        expect_model(table, model)
        raise NotFoundError(
            f"prediction {prediction_id} was answered outside a registry, as from an exported "
            "bundle: the bundle's manifest names its version"
        )
    live: Live | None = None
    decision: Decision | None = None
    until: datetime | None = None
    version = number
    if role is not Role.PINNED:
        history = History(table)
        found = history.of_change(model, number)
        if found is None or at < found[1].at - SKEW:
            expect_model(table, model)
            raise _unknown(model, prediction_id)
        decision, live = decision_of(found[0]), found[1]
        if role is Role.CHALLENGER:
            if live.rollout is None:
                raise _unknown(model, prediction_id)
            version = live.rollout.version
        else:
            version = live.version
        later = history.next(model, live)
        until = later.at if later else None
    item = table.get(items.version_key(model, version)) if 0 < version < _MOST_VERSIONS else None
    if item is None:
        expect_model(table, model)
        raise _unknown(model, prediction_id)
    record = items.to_version(item)
    approval = item.get("approval")
    sha256 = record.sha256
    if live is not None:
        served = live.rollout if role is Role.CHALLENGER else live
        sha256 = (served.sha256 if served else "") or record.sha256
        approval = (live.approval if role is Role.CHAMPION else None) or approval
    return Prediction(
        prediction_id=prediction_id,
        predicted_at=at,
        model=model,
        role=role.name.lower(),
        version=version,
        sha256=sha256,
        model_key=record.model_key,
        run_id=record.run_id,
        dataset_version=record.dataset_version,
        spec_version=record.spec_version,
        code_version=record.code_version,
        since=live.at if live else None,
        until=until,
        rollout=live.rollout if live else None,
        approval=approval,
        decision=decision,
        verdict=record.verdict,
        verdict_reason=record.reason,
        gates=record.gates,
        evaluation_key=record.evaluation_key,
        report_key=record.report_key,
        captured=f"s3://{data_bucket}/{layout.capture_prefix(model, at)}",
        note=_note(at, until, sha256, record.sha256, role),
    )


def _note(at: datetime, until: datetime | None, served: str, recorded: str, role: Role) -> str:
    if served != recorded:
        return (
            "the version's digest in the registry is another than the one that was served: "
            "see `millrace audit --verify`"
        )
    if role is Role.PINNED:
        return "the caller asked for this version by number"
    if until is not None and at > until:
        seconds = (at - until).total_seconds()
        return (
            f"answered {seconds:.1f} s after the traffic was set otherwise: functions follow "
            "within their refresh interval"
        )
    return ""


def _malformed(message: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"prediction_id: {message}", [FieldProblem("prediction_id", message)]
    )


def _unknown(model: str, prediction_id: str) -> NotFoundError:
    return NotFoundError(
        f"prediction {prediction_id} leads to nothing in the record of {model!r}: it is of another "
        "model or another deployment, or nobody's"
    )
