"""The verbs `batch` and `batches`: a file of rows to the state machine, and its results back."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from millrace.errors import (
    ConflictError,
    DigestMismatchError,
    FinalError,
    InvalidRequestError,
    NotFoundError,
    ServiceUnavailableError,
)
from millrace_cli.client import ApiClient
from millrace_cli.console import (
    Interrupted,
    JsonFlag,
    LimitOption,
    ModelArgument,
    PageTokenOption,
    connect,
    out,
    print_json,
    print_link,
    print_page,
    reported,
)
from millrace_cli.exits import ExitCode
from millrace_cli.render import Now, facts_grid

app = typer.Typer()

POLL_SECONDS: Final = 0.5
START_DEADLINE: Final = 90.0
"""Seconds an upload may take to become a job: S3 to EventBridge to the trigger function."""
DEADLINE: Final = 12 * 3600.0
_TRANSFER: Final = httpx.Timeout(600.0, connect=5.0)
_BLOCK: Final = 1024 * 1024
_OUTCOMES: Final = {
    "scored": ("scored", "green"),
    "refused": ("the file was refused", "red"),
    "failed": ("failed", "red"),
}


@app.command(
    epilog="Examples: millrace batch churn scores.csv --follow --output predictions.csv | "
    "millrace batch churn --resume churn-batch-3f2a…"
)
def batch(
    context: typer.Context,
    model: ModelArgument,
    file: Annotated[
        Path | None,
        typer.Argument(help="CSV, CSV.gz, JSON Lines or Parquet.", exists=True, dir_okay=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the job.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to put the predictions; follows the job."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="A failed job to go on with.")
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", help="A job to look at, or to fetch the results of.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a file of rows: upload it, follow the job, fetch the predictions."""
    with reported(as_json):
        if sum(given is not None for given in (file, resume, job)) != 1:
            raise InvalidRequestError("give a FILE to score, or --resume JOB, or --job JOB")
        api = connect(context)
        if file is not None:
            batch_id = _upload(api, model, file, as_json)
        elif resume is not None:
            batch_id = _resume(api, model, resume, as_json)
        else:
            batch_id = str(job)
        if follow or output is not None:
            _follow(api, batch_id, output, as_json)
        elif job is not None:
            _show(api.get(f"/v1/batches/{batch_id}"), as_json)
        elif as_json:
            print_json({"batch_id": batch_id})
        else:
            out.print(f"follow it: millrace batch {model} --job {batch_id} --follow")


@app.command(epilog="Example: millrace batches churn --limit 5")
def batches(
    context: typer.Context,
    model: ModelArgument,
    limit: LimitOption = 20,
    page_token: PageTokenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List a model's batch jobs, newest first."""
    with reported(as_json):
        page = connect(context).get(
            f"/v1/models/{model}/batches", limit=limit, page_token=page_token
        )
        print_page(page, batches_table(page["items"]), as_json)


# ── There and back ──────────────────────────────────────────────────────────────────────────────


def _upload(api: ApiClient, model: str, file: Path, as_json: bool) -> str:
    accepted = api.post(f"/v1/models/{model}/batch", {"filename": file.name})
    upload = accepted["upload"]
    size = file.stat().st_size
    try:
        with file.open("rb") as body:
            answer = httpx.put(
                upload["url"],
                content=iter(lambda: body.read(_BLOCK), b""),
                headers={**upload["headers"], "content-length": str(size)},
                timeout=_TRANSFER,
            )
    except httpx.HTTPError as exc:
        raise ServiceUnavailableError(f"{file} could not be uploaded: {exc}") from exc
    if not answer.is_success:
        raise FinalError(f"S3 answered {answer.status_code} to the upload of {file}")
    if not as_json:
        out.print(
            f"[green]uploaded[/] {file} ({size / 1e6:,.1f} MB) for job {accepted['batch_id']}",
            soft_wrap=True,
        )
    return str(accepted["batch_id"])


def _resume(api: ApiClient, model: str, batch_id: str, as_json: bool) -> str:
    source = api.get(f"/v1/batches/{batch_id}")["source"]
    accepted = api.post(
        f"/v1/models/{model}/batch",
        {"key": source["key"], "version_id": source["version_id"] or None},
    )
    if not accepted["started"]:
        status = api.get(f"/v1/batches/{batch_id}")["status"]
        raise ConflictError(f"job {batch_id} is {status.lower()}: only a failed job is resumed")
    if not as_json:
        out.print(f"[green]resumed[/] {batch_id}")
    return str(accepted["batch_id"])


def download(url: str, path: Path) -> str:
    """Streams an object into a file beside its name, then renames it; returns its SHA-256."""
    digest = hashlib.sha256()
    partial = path.with_name(path.name + ".part")
    try:
        with httpx.stream("GET", url, timeout=_TRANSFER) as answer, partial.open("wb") as target:
            if not answer.is_success:
                raise FinalError(f"S3 answered {answer.status_code} to the download of {path.name}")
            for block in answer.iter_bytes(_BLOCK):
                digest.update(block)
                target.write(block)
    except httpx.HTTPError as exc:
        raise ServiceUnavailableError(f"{path.name} could not be downloaded: {exc}") from exc
    partial.replace(path)
    return digest.hexdigest()


def _fetch(document: dict[str, Any], output: Path, as_json: bool) -> None:
    try:
        manifest = httpx.get(document["manifest_url"], timeout=_TRANSFER).raise_for_status().json()
    except httpx.HTTPError as exc:
        raise ServiceUnavailableError(f"the manifest could not be downloaded: {exc}") from exc
    [expected] = [f for f in manifest["files"] if f["name"].startswith("predictions.")]
    digest = download(document["predictions_url"], output)
    if digest != expected["sha256"]:
        raise DigestMismatchError(
            f"{output}: expected sha256 {expected['sha256']} of the manifest, got {digest}"
        )
    if not as_json:
        out.print(f"[green]saved[/] {output} ({expected['bytes'] / 1e6:,.1f} MB, digest verified)")


# ── Following ───────────────────────────────────────────────────────────────────────────────────


def _follow(api: ApiClient, batch_id: str, output: Path | None, as_json: bool) -> None:
    try:
        document = follow_to_end(api, batch_id, quiet=as_json)
    except KeyboardInterrupt as exc:
        raise Interrupted(
            f"following stopped, the job goes on: millrace batch MODEL --job {batch_id} --follow"
        ) from exc
    if output is not None and document["outcome"] == "scored":
        _fetch(document, output, as_json)
    _show(document, as_json)
    if document["outcome"] != "scored":
        raise typer.Exit(ExitCode.OUTCOME)


def follow_to_end(api: ApiClient, batch_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Follows a job, printing its progress, and returns its final document."""
    final: dict[str, Any] = {}
    with out.status(Now("waiting for the job"), spinner="dots") as spinner:
        if quiet:
            spinner.stop()
        for event in follow_batch(api, batch_id):
            if isinstance(event, dict):
                final = event
            elif quiet:
                continue
            elif event.startswith("…"):
                spinner.update(Now(event.removeprefix("… ")))
            else:
                out.print(Text(event))
    return final


def follow_batch(
    api: ApiClient,
    batch_id: str,
    *,
    deadline: float = DEADLINE,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[str | dict[str, Any]]:
    """Polls a job until it ends.

    Yields:
        What happened, once each; what goes on, beginning with ``…``; last the job's document.

    Raises:
        NotFoundError: The upload never became a job.
        ServiceUnavailableError: The job did not end before the deadline, or the API was
            unreachable for several polls in a row.
    """
    begun = clock()
    told: set[str] = set()
    failures = 0
    while True:
        try:
            document = api.get(f"/v1/batches/{batch_id}")
            failures = 0
        except NotFoundError as exc:
            if clock() - begun > START_DEADLINE:
                raise NotFoundError(
                    f"no batch job {batch_id} appeared within {START_DEADLINE:.0f} s of the upload "
                    "(millrace local logs, or the trigger function's log, tell)"
                ) from exc
            pause(POLL_SECONDS)
            continue
        except ServiceUnavailableError:
            failures += 1
            if failures > 5:
                raise
            pause(POLL_SECONDS * failures)
            continue
        for line in _news(document):
            if line.startswith("…") or line not in told:
                told.add(line)
                yield line
        if document["status"] in ("FINISHED", "FAILED"):
            yield document
            return
        if clock() - begun > deadline:
            raise ServiceUnavailableError(
                f"job {batch_id} has not ended after {deadline:.0f} s; it goes on by itself"
            )
        pause(POLL_SECONDS)


def _news(document: dict[str, Any]) -> Iterator[str]:
    version = document["version"]
    if version is not None:
        attempt = f", attempt {document['attempt']}" if document["attempt"] > 1 else ""
        yield f"▶ job {document['batch_id']}: {document['model']}@{version} scores every row{attempt}"
    rows, progress = document["rows"], document["progress"]
    ended = document["status"] in ("FINISHED", "FAILED")
    if rows and progress["chunks"]:
        yield (
            f"  ✓ read {rows['read']:,} rows: {progress['chunks']} "
            f"chunk{'s' if progress['chunks'] > 1 else ''} to score, "
            f"{document['rows']['quarantined']:,} rows quarantined"
        )
        if progress["scored"] == progress["chunks"]:
            yield f"  ✓ scored {progress['chunks']} of {progress['chunks']} chunks"
    if not ended:
        if not rows:
            yield "… reading the file"
        elif progress["scored"] < progress["chunks"]:
            yield f"… scored {progress['scored']} of {progress['chunks']} chunks"
        else:
            yield "… putting the results in order"


# ── Showing ─────────────────────────────────────────────────────────────────────────────────────


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    out.print(batch_summary(document))
    for name in ("predictions", "quarantine", "summary", "manifest", "report"):
        print_link(name, document.get(f"{name}_url"))
    if document["outcome"] == "failed":
        out.print(
            f"go on where it stopped: millrace batch {document['model']} "
            f"--resume {document['batch_id']}",
            soft_wrap=True,
        )


def batch_summary(document: dict[str, Any]) -> RenderableType:
    """What became of a job, in terms a person cares about."""
    facts = facts_grid({})
    words, style = _OUTCOMES.get(
        str(document["outcome"]), (str(document["status"]).lower(), "cyan")
    )
    facts.add_row("outcome", Text(words, style=f"bold {style}"))
    for name in ("reason", "error"):
        if document[name]:
            facts.add_row(name, Text(str(document[name])))
    if document["version"] is not None:
        facts.add_row("scored by", f"{document['model']}@{document['version']}")
    rows = document["rows"]
    if rows:
        facts.add_row(
            "rows",
            f"{rows['accepted']:,} good, {rows['quarantined']:,} quarantined "
            f"of {rows['read']:,} read",
        )
    if document["status"] == "RUNNING" and document["progress"]["chunks"]:
        progress = document["progress"]
        facts.add_row("progress", f"{progress['scored']} of {progress['chunks']} chunks")
    facts.add_row("file", Text(str(document["source"]["key"])))
    parts: list[RenderableType] = [facts]
    if document["problems"]:
        parts.append(_faults(document["problems"]))
    if document["warnings"]:
        parts.append(_warnings(document["warnings"]))
    return Panel(Group(*parts), title=f"[bold]{document['batch_id']}", title_align="left")


def _faults(problems: list[dict[str, Any]]) -> Table:
    table = Table(title="rows that cannot be scored", title_justify="left", box=None)
    for name in ("field", "rule", "rows", "first row", "expected", "came"):
        table.add_column(name, justify="right" if name in ("rows", "first row") else "left")
    for p in problems:
        table.add_row(
            Text(p["field"]),
            p["rule"],
            f"{p['count']:,}",
            f"{p['first_row']:,}",
            Text(p["expected"]),
            Text(p["example"]),
        )
    return table


def _warnings(warnings: list[dict[str, Any]]) -> Table:
    table = Table(title="values the model was not trained on", title_justify="left", box=None)
    for name in ("field", "rows", "what"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for w in warnings:
        table.add_row(Text(w["field"]), f"{w['count']:,}", Text(w["message"]))
    return table


def batches_table(jobs: list[dict[str, Any]]) -> Table:
    """A page of jobs."""
    table = Table(box=None)
    for name in ("job", "outcome", "version", "rows", "quarantined", "file", "created"):
        table.add_column(name, justify="right" if name in ("rows", "quarantined") else "left")
    for job in jobs:
        rows = job["rows"] or {}
        words, style = _OUTCOMES.get(str(job["outcome"]), (job["status"].lower(), "cyan"))
        table.add_row(
            job["batch_id"],
            Text(words, style=style),
            "" if job["version"] is None else f"@{job['version']}",
            f"{rows['read']:,}" if rows else "",
            f"{rows['quarantined']:,}" if rows else "",
            Text(str(job["source"]["key"]).rsplit("/", 1)[-1]),
            str(job["created_at"])[:19],
        )
    return table
