"""The verb `serve`: bundles behind HTTP on this machine, without a cloud."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from millrace.bundle import Bundle, Shelf
from millrace.errors import ConfigurationError
from millrace.public_key import attestation_by
from millrace_cli.console import err, reported

app = typer.Typer()

NEEDED: Final = {
    "aws_lambda_powertools": "aws-lambda-powertools",
    "fastapi": "fastapi",
    "httptools": "httptools",
    "msgspec": "msgspec",
    "onnxruntime": "onnxruntime",
    "orjson": "orjson",
    "prometheus_client": "prometheus-client",
    "pybase64": "pybase64",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
}
"""Modules of the extra `serve`, and the packages they come from."""

_PLACE = "Where it listens"
_WORK = "How it works"
_BOUNDS = "Bounds and access"


@app.command(
    epilog="Examples: millrace serve churn-3.bundle | millrace serve bundles/ --workers 4 "
    "--host 0.0.0.0 --api-key-file keys.txt --capture requests.jsonl"
)
def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            help="Bundles that `millrace export` wrote, or folders of them. Of several versions of "
            "a model the highest is its champion.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option("--host", rich_help_panel=_PLACE, help="Address; 0.0.0.0 for every one."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65_535, rich_help_panel=_PLACE, help="0 for any free."),
    ] = 8080,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=256, rich_help_panel=_WORK, help="Processes."),
    ] = 1,
    refresh: Annotated[
        float,
        typer.Option(
            "--refresh",
            min=0.1,
            max=86_400,
            rich_help_panel=_WORK,
            help="Seconds between looks at the files: a bundle that is replaced, added to a folder "
            "or removed is taken up while the server runs.",
        ),
    ] = 5.0,
    capture: Annotated[
        str,
        typer.Option(
            "--capture",
            rich_help_panel=_WORK,
            metavar="-|off|FILE",
            help="Where one JSON line per request goes: standard output, nowhere, or a file.",
        ),
    ] = "-",
    cache: Annotated[
        int,
        typer.Option(
            "--model-cache-mb",
            min=1,
            rich_help_panel=_WORK,
            help="Memory for models, per worker; the least recently used goes first.",
        ),
    ] = 1_024,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            rich_help_panel=_BOUNDS,
            exists=True,
            dir_okay=False,
            help="Ask for one of these keys (one per line) in the header x-api-key.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key",
            rich_help_panel=_BOUNDS,
            exists=True,
            dir_okay=False,
            help="Serve only versions that this key signed (PEM or DER; docs/security.md).",
        ),
    ] = None,
    max_rows: Annotated[
        int,
        typer.Option("--max-rows", min=1, rich_help_panel=_BOUNDS, help="Rows of one request."),
    ] = 5_000,
    max_body: Annotated[
        float,
        typer.Option(
            "--max-body-mb", min=0.001, max=1_024, rich_help_panel=_BOUNDS, help="Of one request."
        ),
    ] = 6.0,
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections", min=1, rich_help_panel=_BOUNDS, help="Per worker; then 503."
        ),
    ] = 1_000,
    request_timeout: Annotated[
        float,
        typer.Option(
            "--request-timeout",
            min=0.1,
            max=3_600,
            rich_help_panel=_BOUNDS,
            help="Seconds that a request's body may take to arrive.",
        ),
    ] = 30.0,
    stop_timeout: Annotated[
        int,
        typer.Option(
            "--stop-timeout",
            min=0,
            max=3_600,
            rich_help_panel=_BOUNDS,
            help="Seconds that running requests may take to end after SIGTERM or Ctrl-C.",
        ),
    ] = 20,
) -> None:
    """Serve bundles over HTTP on this machine, as the cloud serves them.

    The routes are those of the API: POST /v1/models/MODEL/predict, the Open Inference Protocol
    under /v2, /v1/health, /v1/openapi.json; and /metrics for Prometheus. Needs no network.
    """
    with reported(False, hint="docs/on-premises.md says more"):
        require_packages()
        # Imported here: the rest of the command line does without the extra's packages.
        from millrace.server.settings import ServerSettings

        settings = ServerSettings(
            bundles=tuple(path.absolute() for path in bundles),
            host=host,
            port=port,
            workers=workers,
            refresh_seconds=refresh,
            capture=capture,
            api_key_file=None if api_key_file is None else api_key_file.absolute(),
            public_key=None if public_key is None else public_key.absolute(),
            max_rows=max_rows,
            max_body_mb=max_body,
            max_connections=max_connections,
            request_seconds=request_timeout,
            stop_seconds=stop_timeout,
            model_cache_mb=cache,
        )
        shelf = Shelf(settings.bundles, on_damage=lambda *_: None)
        shelf.open()
        if public_key is not None:
            check_signatures(shelf.bundles(), public_key)
        _announce(
            shelf.bundles(),
            settings.workers,
            asks_for_keys=api_key_file is not None,
            signed_by=public_key,
        )
        # A process of its own kind: neither it nor its workers carry the command line's packages.
        sys.stdout.flush()
        os.execve(  # noqa: S606 - this interpreter, this package, a list of arguments
            sys.executable,
            [sys.executable, "-m", "millrace.server"],
            {**os.environ, **settings.as_environment()},
        )


def require_packages(needed: Mapping[str, str] = NEEDED) -> None:
    """Checks that the extra `serve` is installed.

    Args:
        needed: Modules, and the packages they come from.

    Raises:
        ConfigurationError: Names the packages that are missing.
    """
    missing = sorted(package for module, package in needed.items() if find_spec(module) is None)
    if missing:
        raise ConfigurationError(
            f"serving needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'millrace[serve]'"
        )


def check_signatures(bundles: Sequence[Bundle], public_key: Path) -> None:
    """Checks that a key signed every bundle, before anything is served.

    The server checks each version again when it loads it, also one that is added later.

    Raises:
        ArtifactSignatureError: One is not signed by it.
        ConfigurationError: The file is no public key.
    """
    attestation = attestation_by(public_key)
    for bundle in bundles:
        attestation.check(bundle.manifest.serving)


def _announce(
    bundles: Sequence[Bundle], workers: int, *, asks_for_keys: bool, signed_by: Path | None
) -> None:
    for bundle in bundles:
        m = bundle.manifest
        err.print(
            "[green]✓[/]",
            Text(f"{m.model}@{m.version}", style="bold"),
            Text(f"{m.task} · {m.algorithm} · trained {m.trained_at:%Y-%m-%d} · {bundle.path}"),
            soft_wrap=True,
        )
    how = "1 worker" if workers == 1 else f"{workers} workers"
    keys = "an API key is asked for" if asks_for_keys else "anybody who reaches it may ask"
    signed = "" if signed_by is None else f"; signed by {signed_by}"
    err.print(Text(f"  {how}; {keys}{signed}; Ctrl-C stops it", style="dim"))
