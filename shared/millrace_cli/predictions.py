"""The verb `predict`: rows from the command line or a file to the HTTPS API."""

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from millrace.errors import InvalidRequestError
from millrace_cli import render
from millrace_cli.client import ApiClient
from millrace_cli.console import JsonFlag, ModelArgument, connect, out, print_json, reported

app = typer.Typer()


@app.command(
    epilog="Examples: millrace predict churn --row '{\"age\": 41}' | "
    "millrace predict churn --file rows.csv"
)
def predict(
    context: typer.Context,
    model: ModelArgument,
    row: Annotated[
        list[str] | None, typer.Option("--row", help="One row as a JSON object; repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Rows as .json (a list), .jsonl or .csv.", exists=True),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the champion over HTTPS."""
    with reported(as_json):
        api = connect(context)
        rows = [parse_row(text, i) for i, text in enumerate(row or ())]
        if file is not None:
            rows += read_rows(file, api, model)
        if not rows:
            raise InvalidRequestError("nothing to predict: pass --row or --file")
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
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidRequestError(
            f"--row {index}: expected a JSON object such as '{{\"age\": 41}}', got {text!r}"
        ) from exc
    if not isinstance(value, dict):
        raise InvalidRequestError(f"--row {index}: expected a JSON object, got {text!r}")
    return value


def read_rows(file: Path, api: ApiClient, model: str) -> list[dict[str, Any]]:
    """Rows of a file; CSV cells take the types of the champion's signature.

    Raises:
        InvalidRequestError: The file's format is not known or a line is wrong.
    """
    text = file.read_text(encoding="utf-8-sig")
    match file.suffix:
        case ".json":
            value = json.loads(text)
            if not isinstance(value, list):
                raise InvalidRequestError(f"{file}: expected a JSON list of objects")
            return value
        case ".jsonl" | ".ndjson":
            lines = [line for line in text.splitlines() if line.strip()]
            return [parse_row(line, i) for i, line in enumerate(lines)]
        case ".csv":
            signature = api.get(f"/v1/models/{model}/versions/champion").get("signature") or {}
            types = {f["name"]: f["type"] for f in signature.get("features", ())}
            return [
                {name: _typed(cell, types[name]) for name, cell in line.items() if name in types}
                for line in csv.DictReader(text.splitlines())
            ]
        case other:
            raise InvalidRequestError(f"{file}: expected .json, .jsonl or .csv, got {other!r}")


def _typed(cell: str, kind: str) -> Any:
    if cell == "":
        return None
    try:
        match kind:
            case "integer":
                return int(cell)
            case "number":
                return float(cell)
            case "boolean":
                return {"true": True, "1": True, "false": False, "0": False}[cell.lower()]
            case _:
                return cell
    except (ValueError, KeyError):
        return cell
