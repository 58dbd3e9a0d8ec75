"""The verbs of ``python -m infra.delivery``; make passes its variables through the environment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from infra.delivery import records, screens
from infra.delivery.bootstrap import bootstrap as deploy_bootstrap
from infra.delivery.conversation import Say, agree_to_destroy, ask, pause, tell, working
from infra.delivery.deployment import (
    Delivery,
    Prepared,
    StackEvent,
    carry_out,
    delete_stack,
    prepare,
    replace_failed,
    settled,
)
from infra.delivery.destruction import delete_data, fates, prove, refuse_protected
from infra.delivery.exits import CHANGES, EXIT_CODES, ExitCode
from infra.delivery.place import Place
from infra.delivery.plan import WORDS
from infra.delivery.release import OnDisk, Packaged, fetch, load, versions
from infra.delivery.release import package as package_release
from infra.delivery.smoke import smoke as run_smoke
from infra.delivery.stack import NEVER_WORKED, find_stack
from infra.delivery.stages import DEFAULT_STAGE, parse_parameters, stage_named
from infra.delivery.store import ArtifactStore, bootstrap_stack, find_store
from millrace.errors import ConflictError, NotFoundError
from millrace_cli.app import JsonGroup
from millrace_cli.console import JsonFlag, out, print_json, reported
from millrace_cli.deploy import BUILD_FOLDER, ask_git, build

PROJECT = Path(__file__).resolve().parents[2]
RELEASE_FOLDER = PROJECT / ".millrace" / "release"
UNASKED = PROJECT / ".millrace" / "release-of-checkout"
_HINT = "in detail: docs/deploying.md"

app = typer.Typer(
    name="python -m infra.delivery",
    cls=JsonGroup,
    help="One build becomes a release; the same bytes are deployed to every stage. Each verb is a make "
    "target: [bold]make deploy STAGE=staging[/]. Variables may be given to make or in the environment; "
    "AWS_REGION, AWS_PROFILE and AWS_ENDPOINT_URL say where.",
    epilog=EXIT_CODES,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StageOption = Annotated[
    str,
    typer.Option(
        "--stage",
        envvar="STAGE",
        help="A stage of samconfig.toml: dev, staging, prod.",
        metavar="NAME",
    ),
]
StackOption = Annotated[
    str | None,
    typer.Option("--stack", envvar="STACK", help="Another stack name than the stage's."),
]
BucketOption = Annotated[
    str | None,
    typer.Option(
        "--bucket",
        envvar="ARTIFACT_BUCKET",
        help="Bucket for artifacts. Default: the bootstrap stack's, else one that is made.",
    ),
]
ReleaseOption = Annotated[
    Path | None,
    typer.Option(
        "--release",
        envvar="RELEASE",
        help="Folder of a release. Default: .millrace/release of `make package`; without one, the checkout "
        "is built and packaged first.",
    ),
]
ParametersOption = Annotated[
    str,
    typer.Option(
        "--parameters",
        envvar="PARAMETERS",
        help="Parameters of template.yaml, Name=value with spaces between; those not named stay as "
        "they are.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="YES", help="Ask nothing.")]
DirtyOption = Annotated[
    bool,
    typer.Option(
        "--allow-dirty", envvar="ALLOW_DIRTY", help="Let prod have what no commit describes."
    ),
]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--version", envvar="RELEASE_VERSION", help="The release's version. Default: git describe."
    ),
]


@app.command("package", epilog="Example: make package ARTIFACT_BUCKET=my-artifacts")
def package_(
    bucket: BucketOption = None,
    folder: ReleaseOption = None,
    version: VersionOption = None,
    built: Annotated[
        Path | None, typer.Option("--build", help="Result of sam build.", hidden=True)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pack what is built, upload what the bucket lacks, write the release's folder."""
    with reported(as_json, hint=_HINT), working("packaging", as_json) as say, _place() as place:
        result = _package(place, bucket, folder, version, built or PROJECT / BUILD_FOLDER, say)
    if as_json:
        print_json(
            result.on_disk.release.as_document()
            | {
                "folder": str(result.on_disk.folder),
                "uploaded": [a.name for a in result.uploaded],
            }
        )
        return
    out.print(screens.packaged(result), soft_wrap=True)
    out.print(Text("next: make plan STAGE=staging", style="dim"))


@app.command(epilog="Example: make plan STAGE=staging PARAMETERS='TrainMemory=5000'")
def plan(
    stage: StageOption = DEFAULT_STAGE,
    folder: ReleaseOption = None,
    bucket: BucketOption = None,
    parameters: ParametersOption = "",
    stack: StackOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say in plain words what a deployment would change; change nothing."""
    with reported(as_json, hint=_HINT), working("planning", as_json) as say, _place() as place:
        delivery, on_disk = _delivery(place, stage, stack, folder, bucket, say)
        prepared = prepare(
            delivery, on_disk, parse_parameters(parameters), bucket=bucket, tidy=True
        )
    if as_json:
        print_json(prepared.plan.as_document())
    else:
        out.print(screens.plan(prepared.plan))
    if not prepared.plan.empty:
        raise typer.Exit(CHANGES)


@app.command(epilog="Example: make deploy STAGE=prod RELEASE=.millrace/release")
def deploy(
    stage: StageOption = DEFAULT_STAGE,
    folder: ReleaseOption = None,
    bucket: BucketOption = None,
    parameters: ParametersOption = "",
    stack: StackOption = None,
    yes: YesOption = False,
    allow_dirty: DirtyOption = False,
    replace_failed_: Annotated[
        bool,
        typer.Option(
            "--replace-failed",
            envvar="REPLACE_FAILED",
            help="First delete the stack if its first deployment failed.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Deploy a release with sam deploy: verified, planned, agreed to, recorded."""
    with reported(as_json, hint=_HINT), working("preparing", as_json) as say, _place() as place:
        delivery, on_disk = _delivery(place, stage, stack, folder, bucket, say)
        found = find_stack(place, delivery.stage.stack)
        if found is not None and found.status in NEVER_WORKED and replace_failed_:
            say(f"deleting {found.name}, whose first deployment failed")
            replace_failed(delivery, found)
        prepared = prepare(
            delivery,
            on_disk,
            parse_parameters(parameters),
            bucket=bucket,
            allow_dirty=allow_dirty,
        )
        _carry_out(delivery, prepared, "deploy", yes=yes, as_json=as_json, say=say)


@app.command(epilog="Example: make rollback STAGE=prod TO=v1.4.0")
def rollback(
    stage: StageOption = DEFAULT_STAGE,
    to: Annotated[
        str | None,
        typer.Option("--to", envvar="TO", help="A release. Default: the one before."),
    ] = None,
    bucket: BucketOption = None,
    parameters: ParametersOption = "",
    stack: StackOption = None,
    yes: YesOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Deploy the release before, with the parameters it had then."""
    with reported(as_json, hint=_HINT), working("preparing", as_json) as say, _place() as place:
        delivery = _on_stage(place, stage, stack, find_store(place, bucket), say)
        told = records.history(delivery.store, delivery.stage.stack)
        line = records.line_of_succession(settled(told, find_stack(place, delivery.stage.stack)))
        current, past = _past(delivery, line, to)
        say(f"fetching release {past.version}")
        on_disk = fetch(
            delivery.store, past.version, PROJECT / ".millrace" / "releases" / past.version
        )
        delivery = replace(delivery, store=ArtifactStore(place, on_disk.release.bucket))
        given = {
            name: value
            for name, value in past.parameters.items()
            if name in on_disk.parameters and name != "CodeVersion"
        }
        prepared = prepare(delivery, on_disk, given | parse_parameters(parameters), bucket=bucket)
        if not as_json:
            pause(say)
            out.print(
                Text.assemble(
                    "rolling back ",
                    (delivery.stage.stack, "bold"),
                    f" from {current} to ",
                    (past.version, "bold"),
                    f", deployed {past.started:%Y-%m-%d %H:%M} UTC by {past.actor or past.by}",
                )
            )
        _carry_out(delivery, prepared, "rollback", yes=yes, as_json=as_json, say=say)


@app.command(epilog="Example: make smoke STAGE=prod FULL=1")
def smoke(
    stage: StageOption = DEFAULT_STAGE,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--quick",
            envvar="FULL",
            help="Train a tiny model and predict with it, or not. Default: on all stages but prod.",
        ),
    ] = None,
    stack: StackOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Look at the deployed stack over HTTPS as its callers do."""
    checks = []
    begun = time.monotonic()
    with reported(as_json, hint=_HINT), _place() as place:
        chosen = stage_named(PROJECT / "samconfig.toml", stage, stack=stack)
        found = find_stack(place, chosen.stack)
        if found is None or not found.exists:
            raise NotFoundError(
                f"there is no stack {chosen.stack} in {place.words}: deploy it "
                f"(`make deploy STAGE={stage}`)"
            )
        training = not chosen.production if full is None else full
        if not as_json:
            api = found.outputs.get("ApiUrl", "")
            out.print(
                Text.assemble("smoke: stack ", (chosen.stack, "bold"), f" {api}"), soft_wrap=True
            )
        with working("asking", as_json) as say:
            say("asking")
            for check in run_smoke(place, chosen, found, training=training):
                checks.append(check)
                if not as_json:
                    out.print(screens.check(check))
    failed = [c for c in checks if c.verdict == "failed"]
    unchecked = [c for c in checks if c.verdict == "not checked"]
    if as_json:
        print_json(
            {
                "stack": chosen.stack,
                "ok": not failed,
                "seconds": round(time.monotonic() - begun, 1),
                "checks": [asdict(c) for c in checks],
            }
        )
    else:
        words = f"{len(checks) - len(failed) - len(unchecked)} of {len(checks)} checks passed"
        words += f", {len(unchecked)} could not be made" if unchecked else ""
        verdict = Text("failed: ", "bold red") if failed else Text("well: ", "green")
        out.print(verdict.append(f"{words}, {time.monotonic() - begun:.0f} s", "default"))
        if not training:
            out.print(Text("with a training and a prediction: FULL=1", style="dim"))
    if failed:
        raise typer.Exit(ExitCode.OUTCOME)


@app.command(epilog="Example: make destroy STAGE=dev DATA=1")
def destroy(
    stage: StageOption = DEFAULT_STAGE,
    stack: StackOption = None,
    bucket: BucketOption = None,
    yes: YesOption = False,
    confirm: Annotated[
        str,
        typer.Option(
            "--confirm", envvar="CONFIRM", help="The stack's name, for prod and DATA=1 with YES=1."
        ),
    ] = "",
    data: Annotated[
        bool,
        typer.Option("--data", envvar="DATA", help="Delete its buckets and table, too."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove a stack: say what goes and what stays, then prove it."""
    with reported(as_json, hint=_HINT), working("looking", as_json) as say, _place() as place:
        chosen = stage_named(PROJECT / "samconfig.toml", stage, stack=stack)
        found = find_stack(place, chosen.stack)
        if found is None:
            raise NotFoundError(f"there is no stack {chosen.stack} in {place.words}")
        if found.busy:
            raise ConflictError(
                f"stack {chosen.stack} is being changed ({found.status}): wait until that is done"
            )
        say("looking at every resource")
        fated = fates(place, found)
        refuse_protected(place, found, fated, data=data)
        try:
            kept = len(versions(find_store(place, bucket)))
        except NotFoundError:
            kept = 0
        pause(say)
        if not as_json:
            out.print(screens.fates(chosen.stack, fated, releases=kept, data=data))
        agree_to_destroy(chosen.stack, chosen.production, yes, confirm, data, as_json)
        say("deleting")
        delete_stack(place, found, say=say)
        if data:
            gone = delete_data(place, fated, say)
            names = {g.resource.name for g in gone}
            fated = [f for f in fated if f.resource.name not in names] + gone
        say("looking for every resource")
        proofs = prove(place, fated)
    wrong = [p for p in proofs if p.wrong]
    if as_json:
        print_json(
            {
                "stack": chosen.stack,
                "proven": not wrong,
                "resources": [
                    {
                        "name": p.resource.name,
                        "type": p.resource.kind,
                        "identifier": p.resource.identifier,
                        "expected": p.expected,
                        "found": p.found,
                        "how": p.how,
                    }
                    for p in proofs
                ],
            }
        )
    else:
        gone_count = sum(p.found == "gone" for p in proofs)
        out.print(Text.assemble(("removed ", "green"), (chosen.stack, "bold"), "; looked again:"))
        out.print(screens.proofs(proofs))
        stays = sum(p.found == "still there" and p.expected == "stays" for p in proofs)
        if wrong:
            out.print(
                Text(
                    f"{len(wrong)} should be otherwise: look at the lines in red", style="bold red"
                )
            )
        else:
            out.print(
                Text.assemble(
                    ("proven: ", "green"), f"{gone_count} gone, {stays} kept as they were to be"
                )
            )
    if wrong:
        raise typer.Exit(ExitCode.OUTCOME)


@app.command(
    epilog="Example: make bootstrap STAGE=staging PARAMETERS='Provider=GITHUB Repository=owner/name'"
)
def bootstrap(
    stage: StageOption = "staging",
    parameters: ParametersOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Deploy infra/ci/bootstrap.yaml, once per stage: deploy role, boundary, bucket for releases."""
    stack = bootstrap_stack(stage)
    with (
        reported(as_json, hint=_HINT),
        working("bootstrapping", as_json) as say,
        _place() as place,
    ):
        given = {"Stage": stage} | parse_parameters(parameters)
        found = deploy_bootstrap(PROJECT, place, stack, given, say)
    if as_json:
        print_json({"stack": stack, "outputs": found})
        return
    out.print(Text.assemble(("ready: ", "green"), "stack ", (stack, "bold"), f" in {place.words}"))
    out.print(screens.all_of(found))
    out.print(
        Text("next: give these to your CI (infra/ci/README.md), or: make package", style="dim")
    )


def main() -> None:
    """Entry point."""
    app()


@contextmanager
def _place() -> Iterator[Place]:
    """Where to; whoever has no credentials hears of it first."""
    place = Place()
    try:
        _ = place.identity
        yield place
    finally:
        place.close()


def _package(
    place: Place,
    bucket: str | None,
    folder: Path | None,
    version: str | None,
    built: Path,
    say: Say,
) -> Packaged:
    store = find_store(place, bucket, make=True, say=lambda words: tell(say, words))
    return package_release(
        project=PROJECT,
        build=built,
        folder=folder or RELEASE_FOLDER,
        place=place,
        store=store,
        version=version,
        say=say,
        now=datetime.now(UTC),
    )


def _on_stage(
    place: Place, stage: str, stack: str | None, store: ArtifactStore, say: Say
) -> Delivery:
    chosen = stage_named(PROJECT / "samconfig.toml", stage, stack=stack)
    return Delivery(project=PROJECT, place=place, stage=chosen, store=store, say=say)


def _delivery(
    place: Place,
    stage: str,
    stack: str | None,
    folder: Path | None,
    bucket: str | None,
    say: Say,
) -> tuple[Delivery, OnDisk]:
    """The stage and the release: the one given, the one packaged last, else packaged now."""
    stage_named(PROJECT / "samconfig.toml", stage, stack=stack)
    if folder is None and not (RELEASE_FOLDER / "release.json").exists():
        say("building: no release was packaged")
        build(PROJECT, say)
        # Not where `make package` leaves its own: the next deployment packages what is there then.
        on_disk = _package(place, bucket, UNASKED, None, PROJECT / BUILD_FOLDER, say).on_disk
    else:
        on_disk = load(folder or RELEASE_FOLDER)
        if folder is None:
            _remark_age(on_disk, say)
    store = ArtifactStore(place, on_disk.release.bucket)
    return _on_stage(place, stage, stack, store, say), on_disk


def _remark_age(on_disk: OnDisk, say: Say) -> None:
    """A release that is not of this checkout is deployed all the same, and never silently."""
    release = on_disk.release
    here = ask_git(PROJECT, "rev-parse", "HEAD")
    changed = bool(ask_git(PROJECT, "status", "--porcelain"))
    if here and (release.commit != here or changed != release.dirty):
        tell(
            say,
            f"note: .millrace/release is {release.version}, packaged "
            f"{release.created:%Y-%m-%d %H:%M} UTC, and the checkout has moved on since; "
            "`make package` takes what is there now",
        )


def _carry_out(
    delivery: Delivery,
    prepared: Prepared,
    kind: Literal["deploy", "rollback"],
    *,
    yes: bool,
    as_json: bool,
    say: Say,
) -> None:
    plan_ = prepared.plan
    pause(say)
    if not as_json:
        out.print(screens.plan(plan_))
    document: dict[str, Any] = {"plan": plan_.as_document()}
    if plan_.empty:
        found = find_stack(delivery.place, plan_.stack)
        outputs = dict(found.outputs) if found else {}
        if as_json:
            print_json(document | {"deployed": False, "outputs": outputs})
        else:
            out.print(screens.outputs(outputs))
        return
    if (delivery.stage.production or plan_.loses_data != "no") and not yes:
        ask(f"{'roll back' if kind == 'rollback' else 'deploy to'} {plan_.stack}?", as_json)
    begun = time.monotonic()
    done, total = 0, len(plan_.changes) + len(plan_.routine)

    def event(happened: StackEvent) -> None:
        nonlocal done
        done += happened.finished
        word = WORDS.get(happened.kind, happened.kind)
        if happened.status.endswith("FAILED") or (happened.finished and not out.is_terminal):
            if not as_json:
                style = "red" if happened.status.endswith("FAILED") else "dim"
                out.print(
                    Text.assemble(
                        (f"  {time.monotonic() - begun:5.0f} s  ", "dim"),
                        (f"{happened.status.lower().replace('_', ' '):<18}", style),
                        f" {word} {happened.name}",
                        (f"  {happened.reason}" if happened.reason else "", "red"),
                    )
                )
        else:
            say(
                f"sam deploy: {done} of {total} done; {happened.status.lower().replace('_', ' ')} {word}"
            )

    say("sam deploy")
    record = carry_out(delivery, prepared, kind=kind, event=event)
    pause(say)
    found = find_stack(delivery.place, plan_.stack)
    outputs = dict(found.outputs) if found else {}
    seconds = time.monotonic() - begun
    if as_json:
        print_json(
            document
            | {
                "deployed": True,
                "seconds": round(seconds, 1),
                "record": record.model_dump(mode="json"),
                "outputs": outputs,
            }
        )
        return
    out.print(
        Text.assemble(
            ("back to " if kind == "rollback" else "deployed ", "green"),
            (record.version, "bold"),
            " on " if kind == "rollback" else " to ",
            (plan_.stack, "bold"),
            f" in {seconds:.0f} s" + (f", over {record.previous}" if record.previous else ""),
        )
    )
    out.print(screens.outputs(outputs))
    out.print(Text(f"next: make smoke STAGE={delivery.stage.name}", style="dim"))


def _past(
    delivery: Delivery, line: list[records.Deployment], to: str | None
) -> tuple[str, records.Deployment]:
    """The version that runs, and the deployment to go back to."""
    stack = delivery.stage.stack
    if not line:
        raise NotFoundError(
            f"no deployment of {stack} is recorded in {delivery.store.bucket}: there is nothing to go "
            "back to; deploy a release by its folder instead"
        )
    current = line[-1].version
    if to is None:
        if len(line) < 2:
            raise NotFoundError(
                f"{stack} has only ever run {current}: there is nothing to go back to"
            )
        return current, line[-2]
    known = [r for r in records.history(delivery.store, stack) if r.outcome == "succeeded"]
    named = [r for r in known if r.version == to]
    if not named:
        names = ", ".join(dict.fromkeys(r.version for r in known))
        raise NotFoundError(f"{stack} never ran {to!r}; it ran {names}")
    return current, named[-1]
