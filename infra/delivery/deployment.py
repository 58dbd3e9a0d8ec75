"""Deploying a release to a stage: checked, planned, agreed to, done by SAM, recorded."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from infra.delivery import records
from infra.delivery.place import Place, asked
from infra.delivery.plan import Plan, make_plan, moment_of
from infra.delivery.release import OnDisk, Release, refuse_elsewhere, verify
from infra.delivery.stack import (
    NEVER_WORKED,
    Stack,
    failures_since,
    find_stack,
    parse_template,
    refuse_unready,
)
from infra.delivery.stages import Stage
from infra.delivery.store import BOUNDARY_OUTPUT, ROLE_OUTPUT, ArtifactStore, bootstrap_outputs
from millrace.errors import (
    AccessDeniedError,
    ConflictError,
    FinalError,
    InvalidRequestError,
    NotFoundError,
    ServiceUnavailableError,
)
from millrace_cli.console import Interrupted
from millrace_cli.deploy import run_tool, sam_executable

VERSION_PARAMETER = "CodeVersion"
BOUNDARY_PARAMETER = "PermissionsBoundaryArn"
DELETION_SECONDS = 1800.0

_EVENT = re.compile(
    r"^(?P<status>[A-Z_]+_(?:IN_PROGRESS|COMPLETE|FAILED))\s+(?P<kind>\S+::\S+)\s+(?P<name>\S+)"
    r"(?:\s+(?P<reason>.*))?$"
)


_BUSY = re.compile(r"is in:? ?\w+_IN_PROGRESS state")
_AT_REST = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


@dataclass(frozen=True, slots=True)
class StackEvent:
    """One line of SAM's progress."""

    status: str
    kind: str
    name: str
    reason: str

    @property
    def finished(self) -> bool:
        """Whether the resource is done with, well or not."""
        return not self.status.endswith("_IN_PROGRESS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What every verb on a stage needs.

    Attributes:
        project: The checkout.
        place: Account and region.
        stage: The stage.
        store: The bucket for artifacts.
        say: Told what is being done.
    """

    project: Path
    place: Place
    stage: Stage
    store: ArtifactStore
    say: Callable[[str], None]

    @property
    def config(self) -> Path:
        """samconfig.toml."""
        return self.project / "samconfig.toml"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A deployment that may be carried out."""

    on_disk: OnDisk
    plan: Plan
    previous: str


def parameters_for(
    delivery: Delivery, release: Release, declared: Mapping[str, object], given: Mapping[str, str]
) -> dict[str, str]:
    """The parameters of a deployment: the stage's, then the bootstrap's, then those given.

    Raises:
        InvalidRequestError: The version was given: it is the release's.
    """
    claimed = given.get(VERSION_PARAMETER)
    if claimed not in (None, release.version):
        raise InvalidRequestError(
            f"PARAMETERS says {VERSION_PARAMETER}={claimed}, and the release is {release.version}: "
            "leave it out"
        )
    chosen = {n: v for n, v in delivery.stage.parameters.items() if n in declared}
    boundary = bootstrap_outputs(delivery.place, delivery.stage.name).get(BOUNDARY_OUTPUT)
    if boundary and BOUNDARY_PARAMETER in declared:
        chosen[BOUNDARY_PARAMETER] = boundary
    if VERSION_PARAMETER in declared:
        chosen[VERSION_PARAMETER] = release.version
    return chosen | dict(given)


def prepare(
    delivery: Delivery,
    on_disk: OnDisk,
    given: Mapping[str, str],
    *,
    bucket: str | None = None,
    allow_dirty: bool = True,
    tidy: bool = False,
) -> Prepared:
    """Checks everything that can be checked, and plans; nothing is changed.

    Args:
        delivery: Where to.
        on_disk: The release.
        given: Parameters given for this deployment.
        bucket: ``ARTIFACT_BUCKET``, where given.
        allow_dirty: Whether production may get what no commit describes.
        tidy: Whether nothing follows, so that an empty stack has to go again.

    Raises:
        MillraceError: It cannot be deployed; the message says what to do.
    """
    release = on_disk.release
    refuse_elsewhere(release, delivery.place, bucket)
    if release.dirty and delivery.stage.production and not allow_dirty:
        raise InvalidRequestError(
            f"release {release.version} was built from files that no commit describes, so nobody can "
            f"find out later what {delivery.stage.name} runs: commit and package again, or say "
            "ALLOW_DIRTY=1"
        )
    delivery.say("comparing every artifact in the bucket with the release")
    verify(release, delivery.store, lambda name: delivery.say(f"verifying {name}"))
    told = records.history(delivery.store, delivery.stage.stack)
    delivery.say("asking CloudFormation what would change")
    stack = find_stack(delivery.place, delivery.stage.stack)
    _refuse_unready(delivery, stack, told)
    told = settled(told, stack)
    if stack is not None and stack.exists and VERSION_PARAMETER not in stack.parameters:
        raise ConflictError(
            f"stack {stack.name} is not Millrace's (it has no parameter {VERSION_PARAMETER}), and this "
            "deployment would replace all of it: choose another name with STACK=…"
        )
    template = parse_template(on_disk.template.read_text(encoding="utf-8"))
    parameters = parameters_for(delivery, release, template.get("Parameters", {}), given)
    last = records.last_good(told)
    plan = make_plan(
        place=delivery.place,
        stage=delivery.stage,
        on_disk=on_disk,
        given=parameters,
        last=last,
        tidy=tidy,
        role=bootstrap_outputs(delivery.place, delivery.stage.name).get(ROLE_OUTPUT),
    )
    return Prepared(on_disk, plan, plan.deployed)


def carry_out(
    delivery: Delivery,
    prepared: Prepared,
    *,
    kind: Literal["deploy", "rollback"],
    event: Callable[[StackEvent], None],
) -> records.Deployment:
    """Deploys with ``sam deploy`` and keeps a record of it.

    Args:
        delivery: Where to.
        prepared: What was agreed to.
        kind: Whether it goes forward or back.
        event: Told of every resource as it changes.

    Returns:
        The record.

    Raises:
        ConflictError: Somebody else deployed since the plan was made.
        FinalError: The deployment failed; the message says what failed first.
    """
    place, stage, release = delivery.place, delivery.stage, prepared.on_disk.release
    told = records.history(delivery.store, stage.stack)
    stack = find_stack(place, stage.stack)
    _refuse_unready(delivery, stack, told)
    if moment_of(stack) != prepared.plan.seen:
        last = told[-1] if told else None
        by = f" by {last.who}" if last else ""
        raise ConflictError(
            f"stack {stage.stack} was changed after this plan was made{by}: nothing was done; look "
            "at the plan again"
        )
    if records.unfinished(told):
        records.keep(delivery.store, settled(told, stack)[-1])
    started = datetime.now(UTC)
    record = records.Deployment(
        stack=stage.stack,
        stage=stage.name,
        kind=kind,
        version=release.version,
        previous=prepared.previous,
        commit=release.commit,
        parameters=dict(prepared.plan.given),
        by=place.identity.arn,
        actor=records.actor(),
        started=started,
        outcome="running",
    )
    records.keep(delivery.store, record)
    try:
        _sam_deploy(delivery, prepared, event)
    except FinalError as exc:
        reason = _why(delivery, started, exc)
        records.keep(delivery.store, records.ended(record, "failed", reason=reason))
        raise type(exc)(reason) from exc
    except KeyboardInterrupt as exc:
        # The record stays as it is: what became of it is found out before the next deployment.
        raise Interrupted(
            f"stopped watching: CloudFormation goes on with stack {stage.stack}; wait for it, then look "
            f"(`make plan STAGE={stage.name}`)"
        ) from exc
    after = find_stack(place, stage.stack)
    template = parse_template(prepared.on_disk.template.read_text(encoding="utf-8"))
    secret = {n for n, d in template.get("Parameters", {}).items() if d.get("NoEcho")}
    parameters = after.parameters if after else prepared.plan.given
    record = record.model_copy(
        update={"parameters": {n: v for n, v in parameters.items() if n not in secret}}
    )
    done = records.ended(record, "succeeded")
    records.keep(delivery.store, done)
    return done


def settled(told: list[records.Deployment], stack: Stack | None) -> list[records.Deployment]:
    """The records, the last one closed if it was cut off: the stack says what became of it.

    Args:
        told: A stack's records.
        stack: The stack, which nobody is changing.
    """
    cut_off = records.unfinished(told)
    if cut_off is None or (stack is not None and stack.busy):
        return told
    arrived = (
        stack is not None
        and stack.status in _AT_REST
        and stack.parameters.get(VERSION_PARAMETER) == cut_off.version
    )
    reason = "nobody watched its end; " + (
        f"the stack is in {stack.status}" if stack else "no stack"
    )
    return [*told[:-1], records.ended(cut_off, "succeeded" if arrived else "failed", reason=reason)]


def replace_failed(
    delivery: Delivery,
    stack: Stack,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Deletes a stack whose first deployment failed.

    Raises:
        ConflictError: The stack is no such stack, or cannot be deleted.
    """
    if stack.status not in NEVER_WORKED:
        raise ConflictError(
            f"stack {stack.name} is in {stack.status}: REPLACE_FAILED=1 deletes only a stack whose "
            "first deployment failed"
        )
    delete_stack(delivery.place, stack, clock=clock, pause=pause)


def delete_stack(
    place: Place,
    stack: Stack,
    *,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Deletes a stack and waits until it is gone.

    Raises:
        ConflictError: CloudFormation could not delete all of it.
        ServiceUnavailableError: It takes too long; it goes on by itself.
    """
    started = datetime.now(UTC)
    with asked(f"delete stack {stack.name}", place):
        place.cloudformation.delete_stack(StackName=stack.arn)
    deadline = clock() + DELETION_SECONDS
    while True:
        found = find_stack(place, stack.arn)
        if found is None:
            return
        if found.status == "DELETE_FAILED":
            failed = failures_since(place, stack.arn, started)
            raise ConflictError(
                f"CloudFormation could not delete all of stack {stack.name}:"
                + "".join(f"\n  {line}" for line in failed or [found.reason])
                + "\nMend that and run it again"
            )
        if clock() > deadline:
            raise ServiceUnavailableError(
                f"stack {stack.name} is still {found.status} after "
                f"{DELETION_SECONDS / 60:.0f} minutes; it goes on by itself: run this again later"
            )
        say(found.status)
        pause(0.2 if place.emulated else 3.0)


def _sam_deploy(
    delivery: Delivery, prepared: Prepared, event: Callable[[StackEvent], None]
) -> None:
    place, stage, release = delivery.place, delivery.stage, prepared.on_disk.release

    def line(text: str) -> None:
        found = _EVENT.match(text)
        if found:
            event(
                StackEvent(
                    found["status"],
                    found["kind"],
                    found["name"],
                    (found["reason"] or "").strip(" -"),
                )
            )

    with tempfile.TemporaryDirectory(prefix="millrace-deploy-") as folder:
        # A file: on the command line, spaces and quotes in a value would be SAM's to take apart.
        # JSON is YAML, and SAM reads no file that calls itself JSON.
        parameters = Path(folder) / "parameters.yaml"
        parameters.write_text(json.dumps(dict(prepared.plan.given)), encoding="utf-8")
        command = [
            str(sam_executable(delivery.project)),
            "deploy",
            "--template-file",
            str(prepared.on_disk.template.resolve()),
            "--config-file",
            str(delivery.config.resolve()),
            "--config-env",
            stage.section,
            "--stack-name",
            stage.stack,
            "--region",
            place.region,
            "--no-resolve-s3",
            "--s3-bucket",
            release.bucket,
            "--s3-prefix",
            f"templates/{stage.stack}",
            "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
            "--parameter-overrides",
            f"file://{parameters}",
        ]
        role = bootstrap_outputs(place, stage.name).get(ROLE_OUTPUT)
        if role:
            command += ["--role-arn", role]
        run_tool(command, delivery.project, place.environment(), line)


def _why(delivery: Delivery, since: datetime, error: FinalError) -> str:
    """Why a deployment failed: what failed first, else what SAM said."""
    stack = delivery.stage.stack
    text = str(error)
    if _BUSY.search(text):
        return (
            f"somebody else began to change stack {stack} at the same moment: nothing was done; wait "
            "until they are done and look at the plan again"
        )
    if "InvalidChangeSetStatus" in text or "OBSOLETE" in text:
        return (
            f"stack {stack} was changed while this deployment began: nothing was done; look at the "
            "plan again"
        )
    try:
        failed = failures_since(delivery.place, stack, since)
        found = find_stack(delivery.place, stack)
    except (AccessDeniedError, NotFoundError, FinalError):
        failed, found = [], None
    if not failed:
        return f"the deployment of {stack} failed; SAM said:\n{text}"
    now = f"; the stack is in {found.status}" if found else ""
    undone = (
        ": everything is as it was before"
        if found and found.status == "UPDATE_ROLLBACK_COMPLETE"
        else ""
    )
    causes = "".join(f"\n  {line}" for line in failed)
    return f"the deployment of {stack} failed{now}{undone}. What failed, the cause first:{causes}"


def _refuse_unready(
    delivery: Delivery, stack: Stack | None, told: list[records.Deployment]
) -> None:
    running = records.unfinished(told)
    stuck: list[str] = []
    if stack is not None and stack.status.endswith(("_FAILED", "ROLLBACK_COMPLETE")):
        stuck = failures_since(
            delivery.place,
            stack.arn,
            told[-1].started if told else datetime.min.replace(tzinfo=UTC),
        )
    refuse_unready(
        stack,
        delivery.place.region,
        started_by=running.who if running else "",
        stuck=stuck,
    )
