"""The verb `predict`: rows from the command line or a file to the HTTPS API."""

import csv
import io
import json
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.errors import InvalidRequestError
from millrace_cli import render
from millrace_cli.client import ApiClient
from millrace_cli.console import JsonFlag, ModelArgument, connect, out, print_json, reported

app = typer.Typer()

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@app.command(
    epilog="Examples: millrace predict churn --row '{\"age\": 41}' | "
    "millrace predict churn --file rows.csv --limit 5"
)
def predict(
    context: typer.Context,
    model: ModelArgument,
    row: Annotated[
        list[str] | None, typer.Option("--row", help="One row as a JSON object; repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="Rows as .json (a list), .jsonl or .csv.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the file's first rows.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the champion over HTTPS."""
    with reported(as_json):
        rows = [parse_row(text, i) for i, text in enumerate(row or ())]
        if not rows and file is None:
            raise InvalidRequestError("nothing to predict: pass --row or --file")
        api = connect(context)
        if file is not None:
            rows += read_rows(file, api, model)[:limit]
        if not rows:
            raise InvalidRequestError(f"{file} has no rows")
        answer = api.post(f"/v1/models/{model}/predict", {"rows": rows})
        if as_json:
            print_json(answer)
        else:
            out.print(render.prediction_table(answer))


def parse_row(text: str, index: int) -> dict[str, Any]:
    """One ``--row``.

    Raises:
        InvalidRequestError: It is no JSON object.
    """
    return _object(f"--row {index}", text)


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidRequestError(
            f"{where}: expected a JSON object such as '{{\"age\": 41}}' ({exc})"
        ) from exc
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def _objects(file: Path, text: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidRequestError(f"{file}: expected a JSON list of objects ({exc})") from exc
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidRequestError(f"{file}: expected a JSON list of objects")
    return rows


def read_rows(file: Path, api: ApiClient, model: str) -> list[dict[str, Any]]:
    """Rows of a file; CSV cells are read as the champion's signature and the spec say.

    Raises:
        InvalidRequestError: The file's format is not known or its content is wrong.
    """
    suffix = file.suffix.lower()
    if suffix not in (".json", ".jsonl", ".ndjson", ".csv"):
        raise InvalidRequestError(f"{file}: expected .json, .jsonl or .csv, got {suffix!r}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"{file}: expected UTF-8 text ({exc.reason})") from exc
    if suffix == ".json":
        return _objects(file, text)
    if suffix == ".csv":
        signature = api.get(f"/v1/models/{model}/versions/champion").get("signature") or {}
        data = api.get(f"/v1/specs/{model}")["spec"].get("data", {})
        return csv_rows(file, text, signature, data.get("delimiter") or ",")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_object(f"{file}, line {i}", line) for i, line in lines]


def csv_rows(
    file: Path, text: str, signature: dict[str, Any], delimiter: str
) -> list[dict[str, Any]]:
    """Rows of a CSV text; columns that are no features are left out.

    Raises:
        InvalidRequestError: Features are missing in the header, or it is no CSV.
    """
    types = {f["name"]: f["type"] for f in signature.get("features", ())}
    nulls = frozenset(n.strip() for n in signature.get("null_values", ())) | {""}
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = reader.fieldnames or ()
        missing = [name for name in types if name not in header]
        if missing:
            raise InvalidRequestError(
                f"{file}: the header lacks {', '.join(missing[:10])}"
                f"{f' and {len(missing) - 10} more' if len(missing) > 10 else ''}; "
                f"it has {len(header)} columns separated by {delimiter!r}"
            )
        return [
            {name: typed(line[name] or "", kind, nulls) for name, kind in types.items()}
            for line in reader
        ]
    except csv.Error as exc:
        raise InvalidRequestError(f"{file}, line {reader.line_num}: {exc}") from exc


def typed(cell: str, kind: str, nulls: Container[str]) -> Any:
    """A cell as its column's type, as ingest reads it; one that does not fit stays text."""
    text = cell.strip()
    if text in nulls:
        return None
    try:
        match kind:
            case "integer":
                whole, _, fraction = text.partition(".")
                return int(whole) if not fraction.strip("0") else text
            case "number":
                return float(text)
            case "boolean":
                return _BOOLEANS[text.lower()]
            case _:
                return text
    except (ValueError, KeyError):
        return text
