"""Whether labelled predictions can become rows of a training, told by the spec alone."""

from typing import Final

from millrace.spec import Column, ColumnType, ModelSpec, Role

_NUMBERS: Final = (ColumnType.INTEGER, ColumnType.NUMBER)


def why_not_usable(spec: ModelSpec) -> str:
    """Why a model's labelled predictions cannot become rows of its training; empty when they can.

    Args:
        spec: The model's spec.
    """
    if spec.monitor.capture_rate == 0:
        return "no prediction is captured: monitor.capture_rate is 0"
    lacking = sorted(f.name for f in spec.features if f.name in spec.private_columns)
    if lacking:
        return (
            f"predictions are captured without the private {_listed(lacking)}, which the model "
            "needs: upload a file with the labelled rows instead"
        )
    wrong = sorted(column.name for column in spec.data.columns if not _fillable(column))
    if wrong:
        return (
            f"the contract asks for {_listed(wrong)}, which predictions do not carry: upload a "
            "file with the labelled rows instead"
        )
    return ""


def _fillable(column: Column) -> bool:
    match column.role:
        case Role.FEATURE | Role.TARGET:
            return True
        case Role.ID:
            return column.type is ColumnType.STRING or column.type in _NUMBERS
        case Role.TIME:
            return column.type is ColumnType.TIMESTAMP
        case _:
            return not column.required_value


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' if len(names) > 1 else ''} {shown}{more}"
