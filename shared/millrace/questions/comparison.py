"""Two versions of a model side by side: what they are, how good, from what, and made with what.

Everything is read from the record: nothing is measured anew. So a metric's difference has an
interval only where the pipeline compared the two on the same rows; otherwise both values stand
beside each other, with the rows they were measured on.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from millrace import layout
from millrace.aws.objects import ObjectReader
from millrace.documents import read_spec
from millrace.errors import ArtifactError, InvalidRequestError, NotFoundError
from millrace.messages import MetricValue, RowCounts, SourceObject
from millrace.questions.differences import Changes, changes_between
from millrace.registry.records import DatasetVersion, ModelVersion, Record
from millrace.registry.registry import Registry

NEW_VALUES: Final = 20
"""Values of a column that came or went, named at most."""

_ENVIRONMENT: Final = ("python", "machine", "packages", "opset", "ml_opset", "ir_version")
"""What of an environment document tells of the environment; the rest tells of the version."""


class Side(Record):
    """One of the two versions."""

    version: int
    status: str
    aliases: tuple[str, ...]
    algorithm: str
    run_id: str
    dataset_version: str
    spec_version: int
    code_version: str
    seed: int
    sha256: str
    size_bytes: int
    cv_metric: str
    cv_score: float
    verdict: str
    created_at: datetime


class MetricPair(Record):
    """A metric of both."""

    metric: str
    before: MetricValue | None
    after: MetricValue | None
    difference: MetricValue | None = None
    """After minus before, positive is better; only of a comparison on the same rows."""


class GatePair(Record):
    """A gate of both."""

    gate: str
    before: str
    """``passed``, ``failed``, or nothing where it was not asked."""
    after: str
    before_actual: str = ""
    after_actual: str = ""


class DatasetSide(Record):
    """What one of the two was trained on."""

    dataset_version: str
    rows: RowCounts
    split_rows: dict[str, int]
    source: SourceObject
    created_at: datetime


class DatasetDifference(Record):
    """What the two were trained on."""

    same: bool
    before: DatasetSide | None
    after: DatasetSide | None
    columns: Changes | None
    """By column; none when a profile is not there to compare."""


class Comparison(Record):
    """Two versions side by side; ``before`` is the one compared from."""

    model: str
    before: Side
    after: Side
    params: Changes
    metrics: tuple[MetricPair, ...]
    measured: str
    """On which rows the metrics were measured, in words."""
    paired: bool
    """Whether both were measured on the same rows, in one comparison."""
    gates: tuple[GatePair, ...]
    spec: Changes | None
    dataset: DatasetDifference
    environment: Changes | None
    missing: tuple[str, ...] = ()
    """What is not stored, or not as it was registered, and so could not be compared."""


def compare(
    model: str,
    before: int | str,
    after: int | str,
    *,
    registry: Registry,
    objects: ObjectReader,
    artifact_bucket: str,
    data_bucket: str,
) -> Comparison:
    """Compares two versions of a model.

    A fixed number of requests: 8 of the table and 7 of the buckets at most.

    Args:
        model: The model.
        before: A version's number or alias.
        after: Another's.
        registry: The registry.
        objects: Reads the buckets.
        artifact_bucket: Where specs, environments and evaluations lie.
        data_bucket: Where profiles lie.

    Raises:
        NotFoundError: There is no such model, version or alias.
        InvalidRequestError: Both are the same version.
    """
    one, two = registry.get_version(model, before), registry.get_version(model, after)
    if one.version == two.version:
        raise InvalidRequestError(
            f"expected two versions of {model}, got {model}@{one.version} twice"
        )
    read = _Documents(objects)
    specs = [
        read.spec(artifact_bucket, model, v)
        for v in ((one,) if one.spec_digest == two.spec_digest else (one, two))
    ]
    spec = _both(specs[0], specs[-1])
    environments = [
        read.json(artifact_bucket, v.environment_key, f"environment of {model}@{v.version}")
        for v in (one, two)
    ]
    datasets = _datasets(model, one, two, registry, read, data_bucket)
    stored = read.comparison(artifact_bucket, one, two)
    same_rows = one.dataset_version == two.dataset_version and _same_split(specs[0], specs[-1])
    return Comparison(
        model=model,
        before=_side(one),
        after=_side(two),
        params=changes_between(one.params, two.params),
        metrics=_metrics(one, two, stored),
        measured=_measured(one, two, stored, same_rows),
        paired=stored is not None,
        gates=_gates(one, two),
        spec=spec,
        dataset=datasets,
        environment=_both(*(_environment(e) for e in environments)),
        missing=tuple(read.missing),
    )


class _Documents:
    """Reads what may be gone: whoever compares must see the rest."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self.missing: list[str] = []

    def json(self, bucket: str, key: str, what: str) -> dict[str, Any] | None:
        if not key:
            self.missing.append(f"{what}: none was recorded")
            return None
        try:
            document = json.loads(self._objects.read(bucket, key))
        except NotFoundError:
            self.missing.append(f"{what}: it is not stored any more")
            return None
        except ValueError:
            self.missing.append(f"{what}: what is stored is no JSON")
            return None
        if not isinstance(document, dict):
            self.missing.append(f"{what}: what is stored is no object")
            return None
        return document

    def spec(self, bucket: str, model: str, version: ModelVersion) -> dict[str, Any] | None:
        key = layout.spec_key(model, version.spec_digest)
        try:
            stored = read_spec(self._objects, bucket, key, version.spec_digest)
        except (NotFoundError, ArtifactError):
            self.missing.append(
                f"spec {model}/{version.spec_version}: it is not stored as it was registered"
            )
            return None
        return stored.model_dump(mode="json")

    def comparison(
        self, bucket: str, one: ModelVersion, two: ModelVersion
    ) -> dict[str, tuple[MetricValue | None, MetricValue | None, MetricValue | None]] | None:
        """Both versions' metrics and their difference, where the pipeline compared the two."""
        judged, other = (two, one) if two.compared_with == one.version else (one, two)
        if judged.compared_with != other.version:
            return None
        what = f"evaluation of {judged.model}@{judged.version}"
        document = self.json(bucket, judged.evaluation_key, what)
        if document is None:
            return None
        comparison = document.get("comparison") or {}
        if comparison.get("version") != other.version or not comparison.get("comparable"):
            return None
        try:
            mine = _values(document.get("metrics"))
            theirs = _values(comparison.get("metrics"))
            gained = _values(comparison.get("differences"))
        except (ValidationError, AttributeError, KeyError, TypeError):
            self.missing.append(f"{what}: its metrics cannot be read")
            return None
        if judged is two:
            return {m: (theirs.get(m), mine[m], gained.get(m)) for m in mine}
        return {m: (mine[m], theirs.get(m), _turned(gained.get(m))) for m in mine}


def _values(metrics: Any) -> dict[str, MetricValue]:
    return {
        name: MetricValue(value=m["value"], low=m.get("low"), high=m.get("high"))
        for name, m in (metrics or {}).items()
    }


def _turned(difference: MetricValue | None) -> MetricValue | None:
    """The difference the other way round."""
    if difference is None:
        return None
    return MetricValue(
        value=-difference.value,
        low=None if difference.high is None else -difference.high,
        high=None if difference.low is None else -difference.low,
    )


def _side(version: ModelVersion) -> Side:
    return Side.model_validate({n: getattr(version, n) for n in Side.model_fields})


def _both(before: Any, after: Any) -> Changes | None:
    return None if before is None or after is None else changes_between(before, after)


def _environment(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if document is None:
        return None
    return {name: document[name] for name in _ENVIRONMENT if name in document}


def _metrics(
    one: ModelVersion,
    two: ModelVersion,
    stored: Mapping[str, tuple[MetricValue | None, ...]] | None,
) -> tuple[MetricPair, ...]:
    if stored is not None:
        return tuple(
            MetricPair(metric=name, before=before, after=after, difference=difference)
            for name, (before, after, difference) in stored.items()
        )
    names = (*two.metrics, *(m for m in one.metrics if m not in two.metrics))
    return tuple(
        MetricPair(metric=m, before=one.metrics.get(m), after=two.metrics.get(m)) for m in names
    )


def _measured(one: ModelVersion, two: ModelVersion, stored: object, same_rows: bool) -> str:
    if not one.metrics or not two.metrics:
        unjudged = " and ".join(f"{v.model}@{v.version}" for v in (one, two) if not v.metrics)
        return f"no evaluation was recorded of {unjudged}"
    if stored is not None:
        judged = two if two.compared_with == one.version else one
        return (
            f"both on the test rows of {judged.model}@{judged.version}, when it was judged; the "
            "difference is after minus before, positive is better"
        )
    if same_rows:
        return "each when it was judged, on the same test rows; no interval of the difference"
    return (
        "each on the test rows of its own dataset version: the two columns were not measured on "
        "the same rows"
    )


def _same_split(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None) -> bool:
    return one is not None and two is not None and one.get("split") == two.get("split")


def _gates(one: ModelVersion, two: ModelVersion) -> tuple[GatePair, ...]:
    before = {g.gate: g for g in one.gates}
    after = {g.gate: g for g in two.gates}
    return tuple(
        GatePair(
            gate=name,
            before=_passed(before.get(name)),
            after=_passed(after.get(name)),
            before_actual=before[name].actual if name in before else "",
            after_actual=after[name].actual if name in after else "",
        )
        for name in (*after, *(g for g in before if g not in after))
    )


def _passed(gate: Any) -> str:
    return "" if gate is None else "passed" if gate.passed else "failed"


def _datasets(
    model: str,
    one: ModelVersion,
    two: ModelVersion,
    registry: Registry,
    read: _Documents,
    bucket: str,
) -> DatasetDifference:
    same = one.dataset_version == two.dataset_version
    recorded: list[DatasetVersion | None] = []
    for version in (one,) if same else (one, two):
        try:
            recorded.append(registry.get_dataset(model, version.dataset_version))
        except NotFoundError:
            recorded.append(None)
            read.missing.append(f"dataset version {version.dataset_version}: it is not recorded")
    before, after = recorded[0], recorded[-1]
    if same:
        columns: Changes | None = Changes(same=True)
    else:
        profiles = [
            None
            if d is None
            else read.json(bucket, d.profile_key, f"profile of dataset version {d.dataset_version}")
            for d in (before, after)
        ]
        columns = _both(*(_columns(p) for p in profiles))
    return DatasetDifference(
        same=same, before=_dataset(before), after=_dataset(after), columns=columns
    )


def _dataset(record: DatasetVersion | None) -> DatasetSide | None:
    if record is None:
        return None
    return DatasetSide.model_validate({n: getattr(record, n) for n in DatasetSide.model_fields})


def _columns(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What of a profile is worth comparing, by column; a private one's values are not in it."""
    if profile is None:
        return None
    columns = profile.get("columns", ())
    return {str(c.get("name")): _column(c) for c in columns if isinstance(c, Mapping)}


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    total = column.get("count", 0) + column.get("missing", 0)
    facts: dict[str, Any] = {"type": column.get("type"), "role": column.get("role")}
    if total:
        facts["missing_share"] = round(column.get("missing", 0) / total, 6)
    facts["distinct"] = column.get("distinct")
    numeric = column.get("numeric")
    if isinstance(numeric, Mapping):
        facts |= {name: numeric.get(name) for name in ("min", "mean", "max", "std")}
    categories = column.get("categories")
    if isinstance(categories, list) and total:
        shown = categories[:NEW_VALUES]
        facts["share"] = {
            str(c.get("value")): round(c.get("count", 0) / total, 6)
            for c in shown
            if isinstance(c, Mapping)
        }
    return facts
