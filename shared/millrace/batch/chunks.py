"""A batch job's chunks and what a model said to them, in NumPy's own format, without objects.

A chunk is one uncompressed ``.npz``: ``row`` (int64, the 0-based numbers of its rows in the file)
and per feature of the signature, by its position ``i``:

* ``n<i>``: integers and numbers, float64, missing as NaN (integers lie within 2^53);
* ``b<i>``: booleans, int8, missing as -1;
* ``s<i>``: strings, int32 codes into the distinct texts, missing as -1; the texts are UTF-8 in
  ``t<i>``, each ending where ``e<i>`` says.

Scores are another: ``row``, ``output`` (float32: probabilities [rows, classes] or predictions
[rows]), and ``notes``, JSON in UTF-8: warnings, and rows that the signature refuses.
Imports NumPy only, so that it fits in every artifact.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from millrace.errors import ArtifactError

MEDIA_TYPE: Final = "application/octet-stream"

type Arrays = Mapping[str, npt.NDArray[Any]]


class RefusedRow(BaseModel):
    """A row that could be read and that the signature refuses.

    Attributes:
        row: 0-based number in the file.
        field: The feature.
        message: What was expected and what came, without the value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: int
    field: str
    message: str


class Notes(BaseModel):
    """What is said of a chunk besides the scores.

    Attributes:
        warnings: Feature and what its values were bound to, to how many rows lie outside.
        refused: Rows that were not scored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warnings: tuple[tuple[str, str, int], ...] = ()
    refused: tuple[RefusedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model said to a chunk.

    Attributes:
        row: int64, the rows that were scored.
        output: float32, probabilities [rows, classes] or predictions [rows].
        notes: Warnings and refused rows.
    """

    row: npt.NDArray[np.int64]
    output: npt.NDArray[np.float32]
    notes: Notes

    def to_bytes(self) -> bytes:
        """The scores as ``.npz``."""
        notes = np.frombuffer(self.notes.model_dump_json().encode(), dtype=np.uint8)
        return pack({"row": self.row, "output": self.output, "notes": notes})

    @classmethod
    def from_bytes(cls, body: bytes, where: str) -> "Scores":
        """Reads stored scores.

        Raises:
            ArtifactError: The bytes are none.
        """
        arrays = unpack(body, where)
        try:
            notes = Notes.model_validate_json(arrays["notes"].tobytes())
            return cls(arrays["row"], arrays["output"], notes)
        except (KeyError, ValueError):
            raise ArtifactError(f"{where} holds no scores") from None


def pack(arrays: Arrays) -> bytes:
    """Arrays as ``.npz``; the bytes are a function of the content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            # A fixed date, so that the same chunk has the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(body: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays of an ``.npz``; objects are never unpickled.

    Raises:
        ArtifactError: The bytes are no such archive.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{where} cannot be read: {exc}") from exc


def encode_strings(position: int, values: Sequence[str | None]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a string feature.

    Args:
        position: Of the feature in the signature.
        values: Python strings, None where there is no value.
    """
    known: dict[str | None, int] = {None: -1}
    codes = np.fromiter(
        (known.setdefault(value, len(known) - 1) for value in values), np.int32, len(values)
    )
    texts = [text.encode() for text in known if text is not None]
    return {
        f"s{position}": codes,
        f"t{position}": np.frombuffer(b"".join(texts), dtype=np.uint8),
        f"e{position}": np.cumsum([len(text) for text in texts], dtype=np.int64),
    }


def decode_strings(arrays: Arrays, position: int) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Codes of a string feature, -1 where there is no value, and the texts they stand for."""
    body = arrays[f"t{position}"].tobytes()
    ends = arrays[f"e{position}"].tolist()
    begins = [0, *ends[:-1]] if ends else []
    texts = [body[a:b].decode() for a, b in zip(begins, ends, strict=True)]
    return arrays[f"s{position}"], texts
