"""The verb `feedback`: the truth about predictions, from the command line or a file."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from millrace.errors import InvalidRequestError
from millrace_cli.client import ApiClient
from millrace_cli.console import JsonFlag, ModelArgument, connect, out, print_json, reported

app = typer.Typer()

LABELS_PER_REQUEST = 1_000
_COUNTED = ("received", "accepted", "duplicate", "corrected", "outdated")
_CSV = "text/csv"
_NDJSON = "application/x-ndjson"


@app.command(
    epilog="Examples: millrace feedback churn --prediction-id 019aa7d1-… --label true | "
    "millrace feedback churn --file labels.csv"
)
def feedback(
    context: typer.Context,
    model: ModelArgument,
    prediction_id: Annotated[
        str | None, typer.Option("--prediction-id", help="As the answer named it.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The truth: a class, or a number.")
    ] = None,
    row: Annotated[
        int, typer.Option("--row", min=0, help="Which row of the prediction's request.")
    ] = 0,
    observed_at: Annotated[
        str | None, typer.Option("--observed-at", help="When it was so, e.g. 2026-11-21T18:20:00Z.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="Labels as .csv (prediction_id, label, and perhaps row, observed_at) or .jsonl.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell the truth about predictions that were made."""
    with reported(as_json):
        single = prediction_id is not None and label is not None
        if (file is None) != single or (file is not None and (prediction_id or label)):
            raise InvalidRequestError("pass --prediction-id and --label, or --file")
        if file is None:
            header = ["prediction_id", "row", "label", "observed_at"]
            line = [str(prediction_id), str(row), str(label), observed_at or ""]
            chunks = iter([(_as_csv(header, [line]), _CSV, 1)])
        else:
            chunks = read_labels(file)
        taken = send_labels(connect(context), model, chunks, None if file is None else file.name)
        if as_json:
            print_json(taken)
        else:
            out.print(Text(in_words(taken)))


type Chunk = tuple[bytes, str, int]
"""A request's body, its content type, and how many labels it carries."""


def read_labels(file: Path) -> Iterator[Chunk]:
    """A file's labels in requests of a size that the API takes.

    Raises:
        InvalidRequestError: The file's format is not known, or it is no CSV.
    """
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".ndjson"):
        raise InvalidRequestError(f"{file}: expected .csv or .jsonl, got {suffix!r}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"{file}: expected UTF-8 text ({exc.reason})") from exc
    if suffix != ".csv":
        lines = [line for line in text.splitlines() if line.strip()]
        for some in batched(lines, LABELS_PER_REQUEST, strict=False):
            yield "\n".join(some).encode(), _NDJSON, len(some)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for rows in batched(filter(None, reader), LABELS_PER_REQUEST, strict=False):
            yield _as_csv(header, rows), _CSV, len(rows)
    except csv.Error as exc:
        raise InvalidRequestError(f"{file}, line {reader.line_num}: {exc}") from exc


def _as_csv(header: list[str], rows: Any) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return written.getvalue().encode()


def send_labels(
    api: ApiClient, model: str, chunks: Iterator[Chunk], name: str | None = None
) -> dict[str, Any]:
    """Sends labels request after request; what they came to, together.

    Args:
        api: The API.
        model: The model.
        chunks: From `read_labels`.
        name: The file's name, for errors.

    Raises:
        InvalidRequestError: An entry is wrong; says which, and that those before its request were
            taken.
    """
    total: dict[str, Any] = {"model": model} | dict.fromkeys(_COUNTED, 0)
    for body, kind, labels in chunks:
        before = total["received"]
        try:
            answer = api.post_bytes(f"/v1/models/{model}/feedback", body, kind)
        except InvalidRequestError as exc:
            if name is None:
                raise
            problems = [
                replace(p, row=None if p.row is None else p.row + before) for p in exc.problems
            ]
            raise InvalidRequestError(
                f"{name}: labels {before + 1:,} to {before + labels:,} were not taken, those before "
                f"were; the first wrong one is below. Mend the file and send it again: a label sent "
                f"twice is one",
                problems,
            ) from exc
        for count in _COUNTED:
            total[count] += answer[count]
    if not total["received"]:
        raise InvalidRequestError(f"{name} has no labels")
    return total


def in_words(taken: dict[str, Any]) -> str:
    """What came of labels, as a sentence."""
    parts = [f"{taken[count]:,} {count}" for count in _COUNTED[1:] if taken[count]]
    labels = "label" if taken["received"] == 1 else "labels"
    return f"{taken['model']}: {taken['received']:,} {labels}: {', '.join(parts)}"
