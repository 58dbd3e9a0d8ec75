"""Rows that a model version certainly takes, made of what is kept of it and of no person's data."""

from typing import Final

from millrace.signature import FeatureField, Signature
from millrace.vocabulary import ColumnType

type Value = str | int | float | bool | None

_HALF: Final = 0.5


def known_row(signature: Signature) -> dict[str, Value]:
    """One row that fits a signature, the same whenever it is asked for.

    Values are those of `signature.Reference`, aggregates over the rows of the fit. Where it has none (a
    private feature, or a version made before references were), they come from the contract alone, so
    that no private column's value is ever in the row.
    """
    reference = signature.reference
    typical: dict[str, float | str | None] = {}
    if reference is not None:
        numbers = (f.name for f in signature.numeric)
        texts = (f.name for f in signature.categorical)
        typical |= dict(zip(numbers, reference.numeric, strict=True))
        typical |= {n: v or None for n, v in zip(texts, reference.categorical, strict=True)}
    return {f.name: _of(f, None if f.private else typical.get(f.name)) for f in signature.features}


def usual_value(feature: FeatureField) -> Value:
    """A value within a feature's contract."""
    low = feature.min if feature.min is not None else 0.0
    high = feature.max if feature.max is not None else max(low, 1.0)
    match feature.type:
        case ColumnType.BOOLEAN:
            return True
        case ColumnType.INTEGER:
            return int((low + high) / 2)
        case ColumnType.NUMBER:
            return round((low + high) / 2, 3)
        case _:
            return feature.allowed[0] if feature.allowed else "usual"


def _of(feature: FeatureField, typical: float | str | None) -> Value:
    """A typical value as a caller sends it."""
    if typical is None:
        if feature.nullable:
            return None
        return feature.categories[0] if feature.categories else usual_value(feature)
    match feature.type:
        case ColumnType.BOOLEAN:
            return float(typical) >= _HALF
        case ColumnType.INTEGER:
            return round(float(typical))
        case _:
            return typical
