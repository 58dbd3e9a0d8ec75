"""What a prediction request and its answer look like.

The hot path reads and writes them by hand, in bulk; the models are their documentation, and tests
hold the two together. Apart from the other API models, so that the predict function loads only
these.
"""

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """Base of request bodies: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Value = int | float | bool | str | None


class PredictRows(Request):
    """Rows as JSON objects; every feature of the signature, and nothing else."""

    rows: list[dict[str, Value]] = Field(min_length=1)


class PredictColumns(Request):
    """Columns as JSON arrays of one length; the faster form for many rows."""

    columns: dict[str, list[Value]]


class Classified(Answer):
    """The answer to one row of a classification."""

    label: int | bool | str = Field(description="The most probable class, in the target's type.")
    probabilities: dict[str, float] = Field(description="Probability of each class.")


class Estimated(Answer):
    """The answer to one row of a regression."""

    value: float


class OutsideContract(Answer):
    """A feature with values outside what the model was trained on; they are answered all the same.

    The contract's `min`, `max` and `allowed` are facts about the training data.
    """

    field: str
    message: str
    count: int = Field(description="Rows with such a value.")
    first_row: int = Field(description="The first of them, 0-based.")


class Predictions(Answer):
    """The answer to a prediction request; `predictions` stand in the order of the rows."""

    model: str
    version: int
    prediction_id: str
    predictions: list[Classified] | list[Estimated]
    warnings: list[OutsideContract]
