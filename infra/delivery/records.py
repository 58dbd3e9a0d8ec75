"""Who deployed what, when and over what: one document per deployment, in the bucket for artifacts."""

import getpass
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.delivery.store import ArtifactStore
from millrace.errors import InvalidRequestError

_CI_PEOPLE = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "CIRCLE_USERNAME", "BUILD_USER_ID")
_CI_JOBS = ("CI_JOB_URL", "CIRCLE_BUILD_URL", "BUILD_URL")

_REMEMBERED = 200
"""Deployments that are read; older ones stay in the bucket."""

Outcome = Literal["running", "succeeded", "failed"]


class Deployment(BaseModel):
    """One deployment of a stack.

    Attributes:
        stack: The stack.
        stage: The stage it is.
        kind: Whether it went forward or back.
        version: The release.
        previous: The version before it, empty for the first.
        commit: The release's commit.
        parameters: The stack's parameters after it, secret ones left out.
        by: The caller's ARN.
        actor: The person or the CI job, where known.
        started: When it began.
        finished: When it ended, None while it runs.
        outcome: How it ended.
        reason: Why it failed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    stack: str
    stage: str
    kind: Literal["deploy", "rollback"]
    version: str
    previous: str
    commit: str
    parameters: Mapping[str, str]
    by: str
    actor: str = ""
    started: datetime
    finished: datetime | None = None
    outcome: Outcome
    reason: str = ""

    @property
    def key(self) -> str:
        """Where it is kept; keys sort by time."""
        return f"{prefix_of(self.stack)}{self.started:%Y-%m-%dT%H-%M-%S-%fZ}-{self.version}.json"

    @property
    def who(self) -> str:
        """Who started it, and when."""
        person = f"{self.actor} ({self.by})" if self.actor else self.by
        return f"{person} at {self.started:%Y-%m-%d %H:%M} UTC with {self.version}"


def prefix_of(stack: str) -> str:
    """Where a stack's records are."""
    return f"deployments/{stack}/"


def actor(environment: Mapping[str, str] = os.environ) -> str:
    """The person, or in CI the person and the job."""
    person = next((environment[name] for name in _CI_PEOPLE if environment.get(name)), "")
    job = next((environment[name] for name in _CI_JOBS if environment.get(name)), "")
    if environment.get("GITHUB_RUN_ID"):
        job = (
            "/".join(
                environment.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY")
            )
            + f"/actions/runs/{environment['GITHUB_RUN_ID']}"
        )
    if not person and not job:
        try:
            person = getpass.getuser()
        except (OSError, KeyError):
            return ""
    return " ".join(word for word in (person, job) if word)


def history(store: ArtifactStore, stack: str) -> list[Deployment]:
    """A stack's latest deployments, oldest first.

    Raises:
        InvalidRequestError: A record is damaged.
    """
    found = []
    for key in list(store.keys(prefix_of(stack)))[-_REMEMBERED:]:
        try:
            found.append(Deployment.model_validate_json(store.read(key)))
        except ValidationError as exc:
            raise InvalidRequestError(
                f"{store.uri(key)} is no record of a deployment: mend or delete it ({exc})"
            ) from exc
    return found


def keep(store: ArtifactStore, record: Deployment) -> None:
    """Writes a record, or what became of it."""
    store.put_document(record.key, record.model_dump(mode="json"))


def ended(record: Deployment, outcome: Outcome, *, reason: str = "") -> Deployment:
    """The same deployment at its end."""
    return record.model_copy(
        update={"outcome": outcome, "reason": reason, "finished": datetime.now(UTC)}
    )


def unfinished(records: Sequence[Deployment]) -> Deployment | None:
    """The deployment that runs, or that was cut off."""
    return records[-1] if records and records[-1].outcome == "running" else None


def last_good(records: Iterable[Deployment]) -> Deployment | None:
    """The last deployment that succeeded: what the stack runs, as far as the records know."""
    return next((r for r in reversed(list(records)) if r.outcome == "succeeded"), None)


def line_of_succession(records: Iterable[Deployment]) -> list[Deployment]:
    """Releases that stand behind the present one, the present one last.

    Going back takes away what was gone back from: rolling back twice leads to the release before
    the one before, and never forth again to the one that was left.
    """
    line: list[Deployment] = []
    for record in records:
        if record.outcome != "succeeded":
            continue
        versions = [r.version for r in line]
        if record.kind == "rollback" and record.version in versions:
            line = line[: versions.index(record.version)]
        elif line and line[-1].version == record.version:
            line = line[:-1]
        line.append(record)
    return line
