"""The rows of one request as a model takes them, and what is remarkable about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millrace.serving.columns import Coded

type TextColumns = Sequence[Sequence[str]]
"""Of each text feature its values, missing the empty string."""


@dataclass(frozen=True, slots=True)
class ContractWarning:
    """Values of one feature that lie outside what the model was trained on.

    Attributes:
        field: The feature.
        message: What the training data was bound to.
        count: How many rows are outside.
        first_row: The first of them, 0-based.
    """

    field: str
    message: str
    count: int
    first_row: int


class Batch:
    """The rows of one request, ready for the model.

    Texts come in whatever form the request had them, and take another when somebody asks for it.

    Args:
        rows: Number of rows.
        numeric: See the attribute.
        categorical: Texts, object [rows, m].
        texts: Or of each text feature its values.
        coded: Or all of them, row by row.
        warnings: See the attribute.
        unknown_categories: See the attribute.

    Attributes:
        rows: Number of rows.
        numeric: float32 [rows, k], missing NaN.
        coded: The texts row by row, when that is how they came; none of them None.
        warnings: Features with values outside the training contract.
        unknown_categories: Values that the model was not trained on.
    """

    __slots__ = (
        "_categorical",
        "_texts",
        "coded",
        "numeric",
        "rows",
        "unknown_categories",
        "warnings",
    )

    def __init__(
        self,
        rows: int,
        numeric: npt.NDArray[np.float32],
        categorical: npt.NDArray[np.object_] | None = None,
        warnings: tuple[ContractWarning, ...] = (),
        unknown_categories: int = 0,
        *,
        texts: TextColumns | None = None,
        coded: Coded | None = None,
    ) -> None:
        self.rows = rows
        self.numeric = numeric
        self._categorical = categorical
        self._texts = texts
        self.coded = coded
        self.warnings = warnings
        self.unknown_categories = unknown_categories

    def of_rows(self, kept: npt.NDArray[np.intp]) -> "Batch":
        """Some of the rows, with nothing of what was remarkable about all."""
        numeric = self.numeric[kept]
        if self.coded is None:
            return Batch(len(kept), numeric, self.categorical[kept])
        codes = self.coded.codes.reshape(self.rows, -1)[kept].reshape(-1)
        return Batch(len(kept), numeric, coded=Coded(codes, self.coded.values))

    @property
    def texts(self) -> TextColumns:
        """Of each text feature its values, missing the empty string."""
        if self._texts is None:
            self._texts = self.categorical.T.tolist()
        return self._texts

    @property
    def categorical(self) -> npt.NDArray[np.object_]:
        """The texts as object [rows, m] of str, missing the empty string."""
        if self._categorical is None:
            self._categorical = self._as_array()
        return self._categorical

    def _as_array(self) -> npt.NDArray[np.object_]:
        if self.coded is not None:
            lookup = np.empty(len(self.coded.values), dtype=object)
            lookup[:] = self.coded.values
            taken: npt.NDArray[np.object_] = lookup.take(self.coded.codes).reshape(self.rows, -1)
            return taken
        texts = self._texts or ()
        made = np.empty((self.rows, len(texts)), dtype=object)
        for position, column in enumerate(texts):
            made[:, position] = column
        return made
