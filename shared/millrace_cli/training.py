"""Verbs on uploads and training runs: `upload`, `status`, `runs`, `retrain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.aws.translate import translated
from millrace.errors import InvalidRequestError
from millrace.layout import SUPPORTED_SUFFIXES, incoming_key, run_id_for_upload
from millrace_cli import render
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    Interrupted,
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    ReasonOption,
    SinceOption,
    UntilOption,
    connect,
    filled_page,
    moment_of,
    out,
    print_json,
    print_link,
    print_page,
    reported,
)
from millrace_cli.exits import ExitCode
from millrace_cli.follow import Happening, follow_run
from millrace_cli.target import Target

app = typer.Typer()


@app.command(epilog="Example: millrace upload churn customers.csv --follow")
def upload(
    context: typer.Context,
    model: ModelArgument,
    file: Annotated[
        Path,
        typer.Argument(help="CSV, CSV.gz, JSON Lines or Parquet.", exists=True, dir_okay=False),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the pipeline to its end.")
    ] = False,
    as_name: Annotated[
        str | None, typer.Option("--as", help="Object name. Default: the file's.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Upload a data file; S3 starts the pipeline."""
    with reported(as_json):
        api = connect(context)
        target = api.target
        name = as_name or file.name
        if not name.lower().endswith(SUPPORTED_SUFFIXES):
            raise InvalidRequestError(
                f"{name}: expected a name ending in {', '.join(SUPPORTED_SUFFIXES)}"
            )
        api.get(f"/v1/models/{model}")
        key, run_id, version_id = upload_file(target, model, file, name)
        if not as_json:
            size = file.stat().st_size / 1e6
            out.print(f"[green]uploaded[/] {file} ({size:,.1f} MB) to s3://{key}", soft_wrap=True)
        if follow:
            _follow(api, run_id, as_json)
            return
        if as_json:
            print_json({"key": key, "version_id": version_id, "run_id": run_id})
        else:
            out.print(f"follow it: millrace status {run_id} --follow")


def upload_file(target: Target, model: str, file: Path, name: str) -> tuple[str, str, str]:
    """Puts a file where the pipeline starts.

    Returns:
        ``bucket/key``, the run's id, and the object's version id.
    """
    bucket = target.outputs.data_bucket
    key = incoming_key(model, name)
    with translated(f"upload to s3://{bucket}/{key}"), file.open("rb") as body:
        answer = target.s3.put_object(Bucket=bucket, Key=key, Body=body)
    version_id = answer.get("VersionId", "")
    return f"{bucket}/{key}", run_id_for_upload(model, bucket, key, version_id), version_id


def _follow(api: ApiClient, run_id: str, as_json: bool) -> None:
    try:
        run = follow_to_end(api, run_id, quiet=as_json)
    except KeyboardInterrupt as exc:
        raise Interrupted(
            f"following stopped, the run goes on: millrace status {run_id} --follow"
        ) from exc
    version = version_of(api, run)
    if as_json:
        print_json({"run": run, "model_version": version})
    else:
        _print_run(run, version)
        name = run["model"]
        if run.get("awaiting_approval"):
            out.print(
                f"next: millrace approve {name}@{run['model_version']};  or millrace reject",
                soft_wrap=True,
            )
        if run.get("outcome") == "promoted":
            out.print(
                f"next: millrace show {name}@champion;  millrace predict {name} --file ROWS.csv",
                soft_wrap=True,
            )
    if run["status"] == "FAILED" or run.get("outcome") in (
        "refused",
        "gates_failed",
        "rejected",
        "expired",
        "failed",
    ):
        raise typer.Exit(ExitCode.OUTCOME)


def _print_run(run: dict[str, Any], version: dict[str, Any] | None) -> None:
    out.print(render.run_summary(run, version))
    print_link("report", run.get("report_url"))


def follow_to_end(api: ApiClient, run_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Follows a run, printing its progress, and returns its final document."""
    final: dict[str, Any] = {}
    with out.status(render.Now("waiting for the pipeline"), spinner="dots") as spinner:
        if quiet:
            spinner.stop()
        for event in follow_run(api, run_id):
            if not isinstance(event, Happening):
                final = event
            elif event.kind == "now":
                spinner.update(render.Now(event.words))
            elif not quiet:
                out.print(render.happening_line(event))
    return final


def version_of(api: ApiClient, run: dict[str, Any]) -> dict[str, Any] | None:
    """The model version a run made, if it made one."""
    if not run.get("model_version"):
        return None
    return api.get(f"/v1/models/{run['model']}/versions/{run['model_version']}")


@app.command(epilog="Examples: millrace status | millrace status churn-3f2a… --follow")
def status(
    context: typer.Context,
    run_id: Annotated[str | None, typer.Argument(help="A run; without it, the stack.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the run.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the stack's health and models, or one run."""
    with reported(as_json):
        api = connect(context)
        target = api.target
        if run_id is not None:
            if follow:
                _follow(api, run_id, as_json)
                return
            run = api.get(f"/v1/runs/{run_id}")
            if as_json:
                print_json(run)
            else:
                _print_run(run, version_of(api, run))
                if run["status"] == "RUNNING":
                    out.print(f"follow it: millrace status {run_id} --follow")
            return
        health = api.get("/v1/health")
        models_page = api.get("/v1/models")
        if as_json:
            print_json({"target": target.where, "health": health, "models": models_page["items"]})
            return
        out.print(f"[bold]millrace[/] {health.get('version', '')} {target.where}")
        out.print(
            f"API {target.outputs.api_url}  authorizer {target.outputs.authorizer}", soft_wrap=True
        )
        out.print(render.models_table(models_page["items"]))


@app.command(epilog="Example: millrace runs churn --limit 5")
def runs(
    context: typer.Context,
    model: ModelArgument,
    status_: Annotated[
        str | None, typer.Option("--status", help="Only these, e.g. FAILED.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", help="Only these, e.g. gates_failed.")
    ] = None,
    cause: Annotated[
        str | None, typer.Option("--cause", help="upload, retrain, drift or schedule.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List a model's training runs, newest first."""
    with reported(as_json):
        page = filled_page(
            connect(context),
            f"/v1/models/{model}/runs",
            limit=limit,
            page_token=page_token,
            status=status_,
            outcome=outcome,
            cause=cause,
            since=moment_of(since, "--since"),
            until=moment_of(until, "--until"),
        )
        print_page(page, render.runs_table(page["items"]), as_json)


@app.command(epilog="Example: millrace retrain churn --labelled --why 'last week was different'")
def retrain(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption = "",
    labelled: Annotated[
        bool,
        typer.Option("--labelled", help="Take predictions in whose labels came since."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the run.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train again on the latest dataset version with the current spec."""
    with reported(as_json):
        api = connect(context)
        answer = api.post(f"/v1/models/{model}/retrain", {"reason": reason, "labelled": labelled})
        if follow:
            _follow(api, answer["run_id"], as_json)
        elif as_json:
            print_json(answer)
        else:
            out.print(f"[green]started[/] {answer['run_id']}")
            out.print(f"follow it: millrace status {answer['run_id']} --follow")
