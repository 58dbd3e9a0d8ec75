"""What a prediction request and its answer look like.

The hot path reads and writes them by hand, in bulk; the models are their documentation, and tests
hold the two together. Apart from the other API models, so that the predict function loads only
these.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema


class Request(BaseModel):
    """Base of request bodies: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Value = int | float | bool | str | None
Label = int | bool | str


def _not_null(schema: dict[str, Any]) -> None:
    """What is left out is absent, never null."""
    schema.pop("default", None)


Sometimes = Field(default=None, json_schema_extra=_not_null)


class _Options(Request):
    """What the answer shall tell; each may be a parameter of the query instead."""

    outputs: Annotated[
        Annotated[
            list[Literal["labels", "probabilities", "contributions", "intervals"]],
            Field(min_length=1),
        ]
        | SkipJsonSchema[None],
        Field(
            description="What to tell of each row; labels and probabilities by default. A "
            "regression always tells its value.",
            json_schema_extra=_not_null,
        ),
    ] = None
    coverage: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | SkipJsonSchema[None],
        Field(
            description="Share of rows whose truth an interval promises to hold; 0.9 by default. "
            "One of the levels that the version can promise.",
            json_schema_extra=_not_null,
        ),
    ] = None
    form: Annotated[
        Literal["rows", "columns"] | SkipJsonSchema[None],
        Field(
            description="JSON by row, the default, or by column, the faster form of many rows.",
            json_schema_extra=_not_null,
        ),
    ] = None


class PredictRows(_Options):
    """Rows as JSON objects; every feature of the signature, and nothing else."""

    rows: list[dict[str, Value]] = Field(min_length=1)


class PredictColumns(_Options):
    """Columns as JSON arrays of one length; the faster form for many rows."""

    columns: dict[str, list[Value]]


class Contribution(Answer):
    """How far each feature's own value moved the answer from that to a typical row.

    `base` and all `values` add up to what is explained: the value of a regression, the probability
    of the second of two classes, that of the most probable one of more.
    """

    label: Label | SkipJsonSchema[None] = Field(
        default=None,
        description="The class whose probability is explained.",
        json_schema_extra=_not_null,
    )
    base: float = Field(description="The answer to the typical row.")
    values: dict[str, float] = Field(description="By feature.")


class Between(Answer):
    """An interval around the value of a regression."""

    coverage: float
    lower: float
    upper: float


class Among(Answer):
    """The classes among which the truth is, as often as promised."""

    coverage: float
    labels: list[Label]


class Classified(Answer):
    """The answer to one row of a classification."""

    label: Label | SkipJsonSchema[None] = Field(
        default=None,
        description="The most probable class, in the target's type.",
        json_schema_extra=_not_null,
    )
    probabilities: dict[str, float] | SkipJsonSchema[None] = Field(
        default=None, description="Probability of each class.", json_schema_extra=_not_null
    )
    contributions: Contribution | SkipJsonSchema[None] = Sometimes
    interval: Among | SkipJsonSchema[None] = Sometimes


class Estimated(Answer):
    """The answer to one row of a regression."""

    value: float
    contributions: Contribution | SkipJsonSchema[None] = Sometimes
    interval: Between | SkipJsonSchema[None] = Sometimes


class OutsideContract(Answer):
    """A feature with values outside what the model was trained on; they are answered all the same.

    The contract's `min`, `max` and `allowed`, and the categories, are facts about the training data.
    """

    field: str
    message: str
    count: int = Field(description="Rows with such a value.")
    first_row: int = Field(description="The first of them, 0-based.")


class _Answered(Answer):
    model: str
    version: int
    prediction_id: str
    warnings: list[OutsideContract]


class Predictions(_Answered):
    """The answer to a prediction request; `predictions` stand in the order of the rows."""

    predictions: list[Classified] | list[Estimated]


class ContributionColumns(Answer):
    """Contributions by column; as `Contribution`."""

    label: list[Label] | SkipJsonSchema[None] = Sometimes
    base: list[float]
    values: dict[str, list[float]]


class BetweenColumns(Answer):
    """Intervals by column; as `Between`."""

    coverage: float
    lower: list[float]
    upper: list[float]


class AmongColumns(Answer):
    """Sets of classes by column; as `Among`."""

    coverage: float
    labels: list[list[Label]]


class AnswerColumns(Answer):
    """What is told of all rows, each as an array in the order of the rows."""

    value: list[float] | SkipJsonSchema[None] = Sometimes
    label: list[Label] | SkipJsonSchema[None] = Sometimes
    probabilities: dict[str, list[float]] | SkipJsonSchema[None] = Sometimes
    contributions: ContributionColumns | SkipJsonSchema[None] = Sometimes
    interval: BetweenColumns | AmongColumns | SkipJsonSchema[None] = Sometimes


class PredictionColumns(_Answered):
    """The answer by column."""

    columns: AnswerColumns
