"""A model as it answers requests: one version's session, given rows in the form it takes.

Where a model ranks its categories, the ranks are looked up here, in the texts that a request was just
read into, and the session is given numbers alone. That spares a run the making of its own strings, a
table look-up of its own for each, and a handful of small steps: a tenth of a run of a hundred trees.
"""

import struct
from collections.abc import Mapping, Sequence
from math import nan
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from millrace import onnx_session
from millrace.errors import ArtifactError
from millrace.serving.columns import Coded
from millrace.serving.features import Batch
from millrace.signature import MISSING_CATEGORY, Signature

_FEW: Final = 8
"""Rows up to which NumPy reads their ranks from lists sooner than from packed columns."""


class Model:
    """A model.

    Args:
        signature: What it takes and gives.
        session: From `onnx_session`.
        ranks: Of each text feature the ranks of its categories; None for the whole model's session.
    """

    def __init__(
        self,
        signature: Signature,
        session: onnxruntime.InferenceSession,
        ranks: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self.signature = signature
        self._session = session
        self._ranks = ranks
        self._width = len(signature.numeric)
        self._lasting: tuple[Sequence[str | None], npt.NDArray[np.float32]] | None = None
        """Values of codes that come again, and their ranks."""

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Probabilities [rows, classes], or predictions [rows] of a regression.

        Raises:
            ArtifactError: Model and signature do not fit each other.
        """
        if self._ranks is None:
            return onnx_session.predict(
                self._session, self.signature, batch.numeric, batch.categorical
            )
        return onnx_session.predict_ranked(
            self._session, self.signature, self._features(batch, self._ranks)
        )

    def _features(
        self, batch: Batch, ranks: Sequence[Mapping[str, float]]
    ) -> npt.NDArray[np.float32]:
        if not ranks:
            return np.ascontiguousarray(batch.numeric, dtype=np.float32)
        rows, width = batch.rows, self._width
        features = np.empty((rows, width + len(ranks)), dtype=np.float32)
        features[:, :width] = batch.numeric
        coded = batch.coded
        if coded is not None and (coded.lasting or rows > len(coded.values)):
            features[:, width:] = self._of_codes(coded, ranks)
        elif rows <= _FEW:
            for row, values in zip(features, zip(*batch.texts, strict=True), strict=True):
                row[width:] = [r.get(text, nan) for r, text in zip(ranks, values, strict=True)]
        else:
            pack = struct.Struct(f"{rows}f").pack
            columns = zip(ranks, batch.texts, strict=True)
            packed = b"".join([pack(*_ranked(table, texts)) for table, texts in columns])
            features[:, width:] = np.frombuffer(packed, np.float32).reshape(-1, rows).T
        return features

    def _of_codes(
        self, coded: Coded, ranks: Sequence[Mapping[str, float]]
    ) -> npt.NDArray[np.float32]:
        """The ranks [rows, m] of texts that stand row by row."""
        if self._lasting is not None and self._lasting[0] is coded.values:
            table = self._lasting[1]
        else:
            texts = [text or MISSING_CATEGORY for text in coded.values]
            table = np.array(
                [[r.get(text, nan) for text in texts] for r in ranks], dtype=np.float32
            )
            if coded.lasting:
                self._lasting = coded.values, table
        places = coded.codes.reshape(-1, len(ranks)) + np.arange(len(ranks)) * len(coded.values)
        found: npt.NDArray[np.float32] = table.take(places)
        return found


def load_model(body: bytes, sha256: str, what: str, signature: Signature) -> Model:
    """Loads a model from memory.

    Args:
        body: The ONNX file.
        sha256: The digest that was registered, in hexadecimal.
        what: What the model is called in an error, e.g. ``churn@3``.
        signature: The model's.

    Raises:
        DigestMismatchError: The bytes are not those registered.
        ArtifactError: The bytes are no model, one that needs other files, or another signature's.
    """
    session, ranks = onnx_session.load_ranked(body, sha256, what)
    if ranks is not None and len(ranks) != len(signature.categorical):
        raise ArtifactError(
            f"{what}: the signature has {len(signature.categorical)} features that are texts, and the "
            f"model {len(ranks)}"
        )
    return Model(signature, session, ranks)


def _ranked(ranks: Mapping[str, float], texts: Sequence[str]) -> list[float]:
    try:
        return [ranks[text] for text in texts]
    except KeyError:
        return [ranks.get(text, nan) for text in texts]
