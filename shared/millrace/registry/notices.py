"""Changes of the registry in words for people: what happened, why, and what to do next."""

from collections.abc import Callable

from millrace.aws.sns import Notice
from millrace.registry.records import Approval, AuditEntry


def notice_of(
    entry: AuditEntry, request: Callable[[], Approval | None], link: Callable[[Approval], str]
) -> Notice | None:
    """What people are told of an entry; None when it is nothing they wait for.

    Trainings and batch jobs tell their own ends, with what only they know; so does a promotion.

    Args:
        entry: The entry.
        request: Reads the request for approval that an entry about approvals tells of.
        link: The address where a request can be answered; empty when links are turned off.
    """
    subject = entry.subject
    match entry.action:
        case "approval_requested":
            asked = request()
            if asked is None or asked.request_id != entry.facts.get("request_id"):
                # A newer request of the version replaced it; its own notice comes.
                return None
            address = link(asked)
            by_hand = f"millrace approve {subject}"
            if not address:
                next_step = f"look and decide: {by_hand}"
            elif asked.link_decides:
                next_step = f"look and decide: {address}\nor: {by_hand}"
            else:
                next_step = (
                    f"look: {address}\ndecide, signed in as an approver who had no part in the "
                    f"training: {by_hand}"
                    if asked.four_eyes
                    else f"look: {address}\ndecide, as one of the spec's approvers: {by_hand}"
                )
            summary = f"{subject} passed its gates and waits for your approval"
            return _notice(entry, summary, f"{next_step}\nuntil {_deadline(asked)}")
        case "approval_rejected":
            return _notice(
                entry,
                f"{subject} was rejected by {entry.actor}",
                "the champion stands; change what the reason names, and train again",
            )
        case "approval_expired":
            return _notice(
                entry,
                f"{subject} was not approved in time",
                f"train again, or: millrace promote {subject} --force --reason WHY",
            )
        case "approval_superseded":
            return _notice(
                entry,
                f"the champion changed while {subject} waited",
                "nothing: it is evaluated against the new champion, and asked for again if it passes",
            )
        case _:
            return None


def _notice(entry: AuditEntry, summary: str, next_step: str) -> Notice:
    return Notice(
        model=entry.model,
        event=entry.action,
        subject=summary,
        why=entry.reason,
        next_step=next_step,
        details={
            "version": entry.subject,
            "actor": entry.actor,
            "at": entry.at.isoformat(),
            "sequence": entry.sequence,
            "correlation_id": entry.correlation_id,
        },
    )


def _deadline(asked: Approval) -> str:
    return f"{asked.deadline:%Y-%m-%d %H:%M} UTC"
