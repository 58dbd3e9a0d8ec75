"""Score: one chunk goes through the model, once.

The result lies under a name that job and chunk decide and is written only if there is none, so a
chunk that comes again, by a retry, a redrive or a job that is resumed, is recognised and skipped.
The codec is the one that reads requests: a row is answered here as ``POST …/predict`` answers it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace import layout
from millrace.attestation import Attestation
from millrace.aws.objects import ObjectStore
from millrace.batch.chunks import (
    MEDIA_TYPE,
    Arrays,
    Notes,
    RefusedRow,
    Scores,
    decode_strings,
    unpack,
)
from millrace.documents import read_signature
from millrace.errors import ArtifactError, InvalidRequestError
from millrace.messages import BatchInput, ScoreResult, ScoreTask
from millrace.serving.codec import Limits, SignatureCodec
from millrace.serving.columns import Coded, Column
from millrace.serving.features import Batch
from millrace.serving.model import load_model
from millrace.signature import Signature
from millrace.spec import ColumnType

_LIMITS: Final = Limits(rows=10_000_000)
"""A chunk is bounded where it is made."""

type Run = Callable[[Batch], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """One model version, ready to score.

    Attributes:
        signature: What it takes and gives.
        codec: Reads columns.
        run: Gives the model's output.
    """

    signature: Signature
    codec: SignatureCodec
    run: Run


def load_scorer(
    task: BatchInput,
    store: ObjectStore,
    artifact_bucket: str,
    attestation: Attestation | None = None,
) -> Scorer:
    """Loads the version a job is pinned to, verified.

    Args:
        task: The job.
        store: Objects.
        artifact_bucket: Where the version lies.
        attestation: Checks who signed it; none where nobody need have.

    Raises:
        NotFoundError: An artifact is not there.
        ArtifactError: It is not the one that was registered, not signed, or cannot be used.
    """
    what = f"{task.model}@{task.version}"
    if attestation is not None:
        attestation.check(task)
    signature = read_signature(
        store, artifact_bucket, task.signature_key, task.signature_sha256, what
    )
    body = store.read(artifact_bucket, task.model_key)
    model = load_model(body, task.sha256, what, signature)
    return Scorer(signature, SignatureCodec(signature, _LIMITS), model.run)


def score(
    task: ScoreTask,
    *,
    store: ObjectStore,
    data_bucket: str,
    scorer: Callable[[BatchInput], Scorer],
) -> ScoreResult:
    """Scores one chunk, unless it was scored before.

    Args:
        task: Which chunk of which job, and with which version.
        store: Objects.
        data_bucket: Where chunks lie and scores go.
        scorer: Gives the version.

    Raises:
        NotFoundError: There is no such chunk.
        ArtifactError: The chunk or the version cannot be used.
    """
    key = layout.batch_scores_key(task.model, task.batch_id, task.chunk)
    if store.exists(data_bucket, key):
        return ScoreResult(rows=0, skipped=True)
    chunk_key = layout.batch_chunk_key(task.model, task.batch_id, task.chunk)
    where = f"s3://{data_bucket}/{chunk_key}"
    made = score_arrays(unpack(store.read(data_bucket, chunk_key), where), scorer(task), where)
    first = store.write_once(data_bucket, key, made.to_bytes(), content_type=MEDIA_TYPE)
    return ScoreResult(rows=len(made.row), skipped=not first)


def score_arrays(arrays: Arrays, scorer: Scorer, where: str) -> Scores:
    """What the model says to a chunk.

    Raises:
        ArtifactError: The chunk was made for another signature.
    """
    columns = columns_of(arrays, scorer.signature, where)
    row = arrays["row"]
    refused: list[RefusedRow] = []
    outputs: list[npt.NDArray[np.float32]] = []
    scored: list[npt.NDArray[np.int64]] = []
    warnings: dict[tuple[str, str], int] = {}
    for start, stop, batch in _readable(columns, len(row), scorer.codec, row, refused):
        outputs.append(scorer.run(batch))
        scored.append(row[start:stop])
        for warning in batch.warnings:
            about = (warning.field, warning.message)
            warnings[about] = warnings.get(about, 0) + warning.count
    width = () if not scorer.signature.classes else (len(scorer.signature.classes),)
    notes = Notes(
        warnings=tuple((field, message, n) for (field, message), n in warnings.items()),
        refused=tuple(refused),
    )
    return Scores(
        np.concatenate(scored) if scored else np.empty(0, dtype=np.int64),
        np.concatenate(outputs) if outputs else np.empty((0, *width), dtype=np.float32),
        notes,
    )


def _readable(
    columns: dict[str, Column],
    rows: int,
    codec: SignatureCodec,
    number: npt.NDArray[np.int64],
    refused: list[RefusedRow],
) -> Iterator[tuple[int, int, Batch]]:
    """Runs of rows that the signature accepts; the others are noted.

    The file's contract was checked when it was split, so there is nearly always one run. What the
    codec refuses beyond it is found by halving.
    """
    pending = [(0, rows)]
    while pending:
        start, stop = pending.pop()
        try:
            batch = codec.decode_columns(_part(columns, start, stop))
        except InvalidRequestError as exc:
            if stop - start > 1:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
                continue
            refused.extend(
                RefusedRow(row=int(number[start]), field=p.field, message=p.message)
                for p in exc.problems
            )
        else:
            yield start, stop, batch


def _part(columns: dict[str, Column], start: int, stop: int) -> dict[str, Column]:
    return {
        name: Coded(column.codes[start:stop], column.values)
        if isinstance(column, Coded)
        else column[start:stop]
        for name, column in columns.items()
    }


def columns_of(arrays: Arrays, signature: Signature, where: str) -> dict[str, Column]:
    """The features of a chunk by name, as `SignatureCodec.decode_columns` takes them.

    Raises:
        ArtifactError: The chunk was made for another signature.
    """
    columns: dict[str, Any] = {}
    try:
        for position, feature in enumerate(signature.features):
            match feature.type:
                case ColumnType.STRING:
                    codes, texts = decode_strings(arrays, position)
                    columns[feature.name] = Coded(codes, texts)
                case ColumnType.BOOLEAN:
                    flags = arrays[f"b{position}"]
                    columns[feature.name] = np.ma.MaskedArray(flags == 1, mask=flags < 0)
                case _:
                    columns[feature.name] = arrays[f"n{position}"]
    except KeyError as exc:
        raise ArtifactError(
            f"{where} lacks {exc.args[0]}: it was made for another signature"
        ) from None
    return columns
