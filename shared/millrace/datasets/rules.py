"""The stable words for what can be wrong: refusal codes of a file, rules of a row."""

from enum import StrEnum
from typing import Final, Literal, Protocol

from millrace.spec import Column, Role

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line of a text upload. A longer one is nearly always a file without line breaks."""

MAX_CLASSES: Final = 100
"""Most classes of a classification; more is nearly always an id or a number taken for a label."""

SHOWN_CHARACTERS: Final = 80
"""How much of a bad value a report shows."""

ROW_COLUMN: Final = "(row)"
"""The column of a problem that concerns a whole row."""


class Refusal(StrEnum):
    """Why a whole upload is refused; `IngestResult.code`."""

    EMPTY_FILE = "empty_file"
    HEADER_ONLY = "header_only"
    UNSUPPORTED_FORMAT = "unsupported_format"
    WRONG_DELIMITER = "wrong_delimiter"
    WRONG_ENCODING = "wrong_encoding"
    NOT_GZIP = "not_gzip"
    TRUNCATED_GZIP = "truncated_gzip"
    NOT_PARQUET = "not_parquet"
    JSON_ARRAY = "json_array"
    BROKEN_JSON = "broken_json"
    UNREADABLE_CSV = "unreadable_csv"
    UNCLOSED_QUOTE = "unclosed_quote"
    LINE_TOO_LONG = "line_too_long"
    TOO_LARGE = "too_large"
    TOO_MANY_COLUMNS = "too_many_columns"
    DUPLICATE_COLUMNS = "duplicate_columns"
    MISSING_COLUMNS = "missing_columns"
    NOT_CAPTURED = "not_captured"
    UNKNOWN_COLUMNS = "unknown_columns"
    NESTED_COLUMN = "nested_column"
    TOO_MANY_QUARANTINED = "too_many_quarantined"
    TOO_FEW_ROWS = "too_few_rows"
    NO_GOOD_ROWS = "no_good_rows"
    ONE_CLASS = "one_class"
    NOT_BINARY = "not_binary"
    TOO_MANY_CLASSES = "too_many_classes"
    CONSTANT_TARGET = "constant_target"
    EMPTY_SPLIT = "empty_split"
    CLASS_ABSENT = "class_absent"


class Rule(StrEnum):
    """What a quarantined row broke; `ColumnProblem.rule`."""

    MISSING = "missing"
    TYPE = "type"
    NOT_FINITE = "not_finite"
    BELOW_MIN = "below_min"
    ABOVE_MAX = "above_max"
    NOT_ALLOWED = "not_allowed"
    DUPLICATE_ID = "duplicate_id"
    TOO_FEW_FIELDS = "too_few_fields"
    TOO_MANY_FIELDS = "too_many_fields"
    ENCODING = "encoding"
    QUOTING = "quoting"
    OVERSIZE = "oversize"
    UNPARSABLE = "unparsable"
    BROKEN_JSON = "broken_json"


CELL_RULES: Final = (
    Rule.MISSING,
    Rule.TYPE,
    Rule.NOT_FINITE,
    Rule.BELOW_MIN,
    Rule.ABOVE_MAX,
    Rule.NOT_ALLOWED,
    Rule.DUPLICATE_ID,
)
"""Rules of one cell in the order of their numeric code, which begins at 1; 0 is a good cell."""

CODE: Final = {rule: number for number, rule in enumerate(CELL_RULES, start=1)}


class ContractData(Protocol):
    """What is asked of a file's columns; `spec.DataSection` is one."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that must be there."""
        ...

    @property
    def null_values(self) -> tuple[str, ...]:
        """Texts that mean "no value"."""
        ...

    @property
    def unknown_columns(self) -> Literal["refuse", "drop"]:
        """What to do with columns that are not named."""
        ...


class Contract(Protocol):
    """What a file is checked against: a spec's for training, a signature's for scoring."""

    @property
    def data(self) -> ContractData:
        """The columns."""
        ...

    def columns_with(self, role: Role) -> tuple[Column, ...]:
        """The columns of a role, in order."""
        ...
