"""The baseline of a model version: what its monitoring compares live windows with.

Training's evaluation writes it beside its report (`layout.baseline_key`), from the held-out test
split as the exported model scored it: how each feature, the scores and the predicted classes were
spread, how well the model did and how much that moves from chunk to chunk, how its scores become
probabilities, and which groups of rows it was judged on. It depends on nothing but the run, so an
evaluation that is repeated writes the same bytes.

Numbers are compared as the capture record tells them: in 32 bits, by their shortest decimal
(`millrace.serving.capture`). Edges are written in the same form, so that a live value that equals
an edge falls where it fell in the baseline.

A private feature is named with its share of missing values and nothing else; of live rows not even
that is known, as private features are never captured.

Imports no NumPy: what counts live rows reads this document too.
"""

from bisect import bisect_right
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace import layout
from millrace.aws.objects import ObjectStore
from millrace.decoding import in_words, wrong_fields
from millrace.errors import ArtifactError
from millrace.spec import ColumnType, Task

SCHEMA: Final = 1
MAX_BYTES: Final = 2_000_000
"""No document is longer: a table too wide for it gets fewer bins and categories."""
CONTENT_TYPE: Final = "application/json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NumericBaseline(_Frozen):
    """Numbers: bin i is [edges[i], edges[i+1]), the last one closed; booleans are 0 and 1."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    std: float

    def bin_of(self, value: float) -> int:
        """The bin that a number counts into; the first or last one when it lies outside."""
        return bin_of(self.edges, value)


class CategoricalBaseline(_Frozen):
    """Texts: the most frequent values; ``other`` counts the rows of the rest."""

    categories: tuple[str, ...]
    counts: tuple[int, ...]
    other: int
    rest: tuple[str, ...] | None = ()
    """The other values that the version was fitted or tested on; None: too many to keep, and then
    an unseen value cannot be told from one of the rest."""

    def unseen(self, value: str) -> bool:
        """Whether a text is surely none that the version was fitted or tested on."""
        return self.rest is not None and value not in self.categories and value not in self.rest


class FeatureBaseline(_Frozen):
    """One feature; neither ``numeric`` nor ``categorical``: private, or never had a value."""

    name: str
    type: ColumnType
    private: bool
    missing: int
    numeric: NumericBaseline | None = None
    categorical: CategoricalBaseline | None = None


class ScoreBaseline(_Frozen):
    """The scores; a score is the probability of the second class of a binary task, that of the
    predicted class of a multiclass task, and the predicted number of a regression.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    std: float
    by_class: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Classification: the counts of the rows of each true class."""

    def bin_of(self, value: float) -> int:
        """The bin that a score counts into."""
        return bin_of(self.edges, value)


class ReferenceMetric(_Frozen):
    """One metric of the gate on the test split, and how it moves from window to window.

    A window of n rows is expected within ``value`` ± z·√(row_deviation²/n + row_deviation²/rows +
    max(0, chunk_std² - row_deviation²/chunk_rows)): its own sampling error, the reference's, and
    what equal chunks of the reference differ beyond their sampling error.
    """

    value: float
    low: float | None
    high: float | None
    row_deviation: float | None
    """The bootstrap's standard deviation times √rows; None where the bootstrap gave none."""
    chunks: int = 0
    """Equal chunks of the reference on which the metric has a value, in the order of time where
    there is one; 0: too few rows to tell."""
    chunk_rows: int = 0
    chunk_std: float | None = None
    estimate_bias: float | None = None
    """Mean of estimate less truth over the chunks, each estimated by a map that was fitted on the
    others; None: not estimated for this task."""
    estimate_std: float | None = None
    """Standard deviation of the same, which holds the sampling error of a chunk."""


class ClassCalibration(_Frozen):
    """How a class's score becomes a probability: linear between the knots, constant beyond."""

    method: Literal["identity", "isotonic"]
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()


class LossTree(_Frozen):
    """A symmetric tree: each question (of which part, from which rank on) is asked of all rows."""

    splits: tuple[tuple[int, int], ...]
    leaves: tuple[float, ...]
    """By the answers, the first question's as the highest bit."""


class Loss(_Frozen):
    """A model of a regression's loss: ``base`` and what each tree adds.

    Parts are the score and then ``features``, each as the number of its bin in this document; after a
    feature's bins come one of other categories, if it has any, and one of missing values.
    """

    loss: Literal["absolute", "squared"]
    base: float
    features: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    """Of each part, the rank of each bin: trees cut between ranks."""
    trees: tuple[LossTree, ...]
    skill: float
    """Share of the loss's variance told on rows that it was not fitted on."""


class EncodedColumn(_Frozen):
    """One dimension of the multivariate view: a number, or whether a text is this category."""

    feature: str
    category: str | None = None
    mean: float
    scale: float


class PrincipalComponents(_Frozen):
    """Principal components of the encoded rows, and how far rows lie from their span.

    A row is encoded column by column as (value - mean) / scale, a missing value as 0; its
    reconstruction error is the Euclidean distance to its projection.
    """

    columns: tuple[EncodedColumn, ...]
    components: tuple[tuple[float, ...], ...]
    """Orthonormal, [components, columns]."""
    explained: float
    """Share of the variance that the components hold."""
    rows: int
    error_mean: float
    error_std: float


class SegmentGroup(_Frozen):
    """One group of a segment on the test split."""

    name: str
    rows: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    facts: dict[str, float | None] = Field(default_factory=dict)


class Segment(_Frozen):
    """A captured feature by whose values live rows are cut into the groups of the test split.

    Texts, booleans and numbers of few values: a group each, by ``values``. Other numbers: by
    ``cuts``, group i being [cuts[i-1], cuts[i]).
    """

    column: str
    type: ColumnType
    metric: str
    min_rows: int
    min: float | None = None
    max: float | None = None
    max_gap: float | None = None
    gate: bool
    """Whether the spec has a gate on it; else it is one of the model's important features."""
    values: tuple[str, ...] | tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()
    groups: tuple[SegmentGroup, ...]


class Baseline(_Frozen):
    """Everything; read it with `read_baseline`."""

    schema_: Literal[1] = Field(SCHEMA, alias="schema")
    model: str
    version: int
    run_id: str
    dataset_version: str
    task: Task
    rows: int
    metric: str
    """The training metric: what performance is judged by first."""
    confidence: float
    classes: tuple[str, ...] = ()
    """In the order of the probabilities; classes of the data that the model lacks come last."""
    features: tuple[FeatureBaseline, ...]
    scores: ScoreBaseline
    predicted: tuple[int, ...] = ()
    """Rows of each predicted class, in the order of ``classes``."""
    actual: tuple[int, ...] = ()
    calibration: tuple[ClassCalibration, ...] = ()
    """By class, for a binary task of the second class alone; empty for a regression, and for more
    classes than are calibrated: their scores are taken as they are."""
    losses: tuple[Loss, ...] = ()
    losses_refused: str = ""
    """Why a regression's error cannot be estimated without labels, in words."""
    performance: dict[str, ReferenceMetric]
    components: PrincipalComponents | None = None
    """None: fewer than two captured columns that vary."""
    segments: tuple[Segment, ...] = ()
    uncaptured_segments: tuple[str, ...] = ()
    """Columns that the gates looked at and that live rows do not tell: private, or no feature."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    def feature(self, name: str) -> FeatureBaseline | None:
        """A feature by its name."""
        return next((one for one in self.features if one.name == name), None)

    def to_bytes(self) -> bytes:
        """The document as JSON."""
        return self.model_dump_json(exclude_defaults=False).encode()

    @classmethod
    def from_bytes(cls, body: bytes, where: str) -> "Baseline":
        """Reads a stored document.

        Args:
            body: JSON.
            where: What it is called in an error.

        Raises:
            ArtifactError: It is none, or of a schema that this version does not read.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as exc:
            # The chain is cut: pydantic shows what it read, and categories are people's data.
            message = f"{where} is no baseline: {in_words(wrong_fields(exc))}"
            raise ArtifactError(message) from None


def read_baseline(store: ObjectStore, bucket: str, model: str, run_id: str) -> Baseline:
    """The baseline of the version that a run made.

    Args:
        store: Objects.
        bucket: The artifact bucket.
        model: The model.
        run_id: The version's run, as its registry record names it.

    Raises:
        NotFoundError: The run made none: it is older than baselines, or an import.
        ArtifactError: What is stored is no baseline.
    """
    key = layout.baseline_key(model, run_id)
    return Baseline.from_bytes(store.read(bucket, key), f"s3://{bucket}/{key}")


def bin_of(edges: tuple[float, ...], value: float) -> int:
    """Which bin of these edges a number counts into: outside them, the first or the last.

    Args:
        edges: Ascending, one more than there are bins.
        value: A number, not NaN.
    """
    return min(max(bisect_right(edges, value) - 1, 0), max(len(edges) - 2, 0))
