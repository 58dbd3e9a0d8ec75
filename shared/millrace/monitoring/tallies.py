"""What a rollout is judged by: counts of its requests, per step and role, in the registry's table.

While a rollout has traffic, every line of the predict function names its rollout, its step, and the
role of the version that answered. The capture function adds up what one delivery of the log says and
adds it to the items ``ROLLOUT#<id>`` / ``TALLY#<step>#<role>``, each delivery once (`counting`).

A request counts once, whatever its number of rows, because rows of one request are not independent
and the tests (`rollout.sequential`) need that: its first captured row gives the score.

Histograms have fixed edges, so that they add up: latencies in quarters of powers of two from a tenth
of a millisecond, probabilities in twenty bins, numbers of a regression in eighths of powers of two.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson

from millrace.aws.table import Item, Key, QueryPage, Update
from millrace.errors import InvalidEventError
from millrace.monitoring.counting import (
    Addition,
    CountingTable,
    add_once,
    digest_of,
    latency_bin,
)
from millrace.serving.capture import of_line

Role = Literal["champion", "challenger"]

TALLY: Final = "TALLY#"
MARKER: Final = "TALLIED#"
SCORE_BINS: Final = 20
_NUMBERS_FROM: Final = 2_000
_NUMBER_BINS: Final = 8
_DIFFERENT: Final = 0.1
_ID: Final = re.compile(r"[a-z][a-z0-9-]{1,99}")
_ROLES: Final = ("champion", "challenger")
_BINARY: Final = 2


@dataclass(slots=True)
class Tally:
    """What was counted of one version at one step.

    Attributes:
        version: The version.
        requests: Requests it answered or failed; of a shadow, requests it was given.
        rows: Rows of them.
        errors: Requests it failed.
        compared: Requests whose two predictions are known (shadow).
        disagreements: Of those, how many differ.
        latency: Requests by `counting.latency_bin`.
        scores: Captured requests by `score_bin`.
    """

    version: int = 0
    requests: int = 0
    rows: int = 0
    errors: int = 0
    compared: int = 0
    disagreements: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)


class Place(NamedTuple):
    """Where something is counted."""

    rollout_id: str
    step: int
    role: Role


class QueriedTable(Protocol):
    """What reading tallies needs of DynamoDB."""

    def query(self, pk: str, *, prefix: str = "") -> QueryPage:
        """Items of one partition in the order of their sort key."""
        ...


# ── Bins ────────────────────────────────────────────────────────────────────────────────────────


def score_bin(outputs: Mapping[str, Any], row: int = 0) -> int | None:
    """The bin of a row's score: bins stand in the order of scores.

    Binary: the probability of the positive class. Multiclass: the greatest probability. Regression:
    the number. None when there is no such row, or its score is none.
    """
    probabilities = outputs.get("probabilities")
    if isinstance(probabilities, list) and len(probabilities) > row:
        classes = probabilities[row]
        if not isinstance(classes, list) or not classes or not all(map(_is_number, classes)):
            return None
        score: float = classes[1] if len(classes) == _BINARY else max(classes)
        return min(SCORE_BINS - 1, max(0, math.floor(score * SCORE_BINS)))
    numbers = outputs.get("prediction")
    if not isinstance(numbers, list) or len(numbers) <= row or not _is_number(numbers[row]):
        return None
    return _number_bin(numbers[row])


def _number_bin(number: float) -> int:
    if not number:
        return 0
    size = min(_NUMBERS_FROM - 1, math.floor(_NUMBER_BINS * math.log2(abs(number))))
    place = _NUMBERS_FROM + max(1 - _NUMBERS_FROM, size)
    return place if number > 0 else -place


def score_text(number: int) -> str:
    """Where a bin begins, for people."""
    if 0 <= number < SCORE_BINS:
        return f"{number / SCORE_BINS:g}"
    size = float(2 ** ((abs(number) - _NUMBERS_FROM) / _NUMBER_BINS))
    return f"{math.copysign(size, number):.3g}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def disagree(one: Mapping[str, Any], other: Mapping[str, Any], row: int = 0) -> bool | None:
    """Whether two versions predict another class for a row, or numbers a tenth apart.

    None when one of them has no such row.
    """
    try:
        if "probabilities" in one:
            first, second = one["probabilities"][row], other["probabilities"][row]
            return bool(first.index(max(first)) != second.index(max(second)))
        a, b = float(one["prediction"][row]), float(other["prediction"][row])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return abs(a - b) > _DIFFERENT * max(abs(a), abs(b))


# ── Counting ────────────────────────────────────────────────────────────────────────────────────


def count_lines(messages: Iterable[str]) -> dict[Place, Tally]:
    """What the lines of one delivery add up to; lines of no rollout count for nothing."""
    tallies: dict[Place, Tally] = defaultdict(Tally)
    for message in messages:
        line = _object(message)
        place = None if line is None else _place(line)
        if line is not None and place is not None:
            _count(line, place, tallies)
    return dict(tallies)


def _object(message: str) -> dict[str, Any] | None:
    try:
        line = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def _place(line: Mapping[str, Any]) -> Place | None:
    named = line.get("rollout")
    role = line.get("role")
    if not isinstance(named, Mapping) or role not in _ROLES:
        return None
    rollout_id, step = named.get("id"), named.get("step")
    if not isinstance(rollout_id, str) or not _ID.fullmatch(rollout_id):
        return None
    if type(step) is not int or not 0 <= step < 1_000 or type(line.get("version")) is not int:
        return None
    return Place(rollout_id, step, role)


def _count(line: Mapping[str, Any], place: Place, tallies: dict[Place, Tally]) -> None:
    tally = tallies[place]
    tally.version = line["version"]
    rows = line.get("row_count")
    tally.requests += 1
    tally.rows += rows if type(rows) is int and rows > 0 else 0
    latency = line.get("PredictionLatency")
    if line.get("error"):
        tally.errors += 1
    elif _is_number(latency):
        tally.latency[latency_bin(float(latency))] += 1  # type: ignore[arg-type]  # a number, as looked at
    part = line.get("capture")
    if not isinstance(part, Mapping):
        return
    try:
        outputs: Mapping[str, Any] = of_line(line).outputs
    except InvalidEventError:
        return
    found = score_bin(outputs)
    if found is not None:
        tally.scores[found] += 1
    shadow = part.get("shadow")
    if isinstance(shadow, Mapping) and type(shadow.get("version")) is int:
        _count_shadow(shadow, outputs, tallies[place._replace(role="challenger")])


def _count_shadow(shadow: Mapping[str, Any], outputs: Mapping[str, Any], tally: Tally) -> None:
    tally.version = shadow["version"]
    tally.requests += 1
    if shadow.get("error"):
        tally.errors += 1
        return
    shadowed = shadow.get("outputs")
    if not isinstance(shadowed, Mapping):
        return
    latency = shadow.get("latency_ms")
    if _is_number(latency):
        tally.latency[latency_bin(float(latency))] += 1  # type: ignore[arg-type]  # a number, as looked at
    found = score_bin(shadowed)
    if found is not None:
        tally.scores[found] += 1
    differ = disagree(outputs, shadowed)
    if differ is not None:
        tally.compared += 1
        tally.disagreements += differ


def add(table: CountingTable, messages: Sequence[str], *, now: datetime) -> int:
    """Adds what one delivery says of rollouts. Idempotent by the delivery's lines.

    Args:
        table: The registry's table.
        messages: The delivery's lines.
        now: Tells when the marker may go.

    Returns:
        Requests that were counted; none when the delivery was counted before.
    """
    tallies = count_lines(messages)
    if not tallies:
        return 0
    additions = [Addition(_update(place, tally)) for place, tally in sorted(tallies.items())]
    added = add_once(table, MARKER, digest_of(messages), lambda _: additions, now=now)
    return sum(one.update.adds.get("requests", 0) for one in added)


def _update(place: Place, tally: Tally) -> Update:
    # nosemgrep: registry-write-without-assumption -- it adds; the delivery's marker carries the condition
    return Update(
        f"tally {place.rollout_id} {place.step} {place.role}",
        tally_key(place),
        {"version": tally.version},
        exists=False,
        adds=_amounts(tally),
    )


def tally_key(place: Place) -> Key:
    """Where a step's counts of a role are."""
    return Key(f"ROLLOUT#{place.rollout_id}", f"{TALLY}{place.step:03d}#{place.role}")


def _amounts(tally: Tally) -> dict[str, int]:
    amounts = {name: getattr(tally, name) for name in _NUMBERS}
    amounts |= {f"l{number}": n for number, n in tally.latency.items()}
    amounts |= {f"s{number}": n for number, n in tally.scores.items()}
    return {name: n for name, n in amounts.items() if n}


_NUMBERS: Final = ("requests", "rows", "errors", "compared", "disagreements")


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


def read(table: QueriedTable, rollout_id: str, step: int) -> tuple[Tally, Tally]:
    """What was counted at a step of the champion and of the challenger: one query."""
    page = table.query(f"ROLLOUT#{rollout_id}", prefix=f"{TALLY}{step:03d}#")
    found = {str(item["SK"]).rpartition("#")[2]: _tally(item) for item in page.items}
    return found.get("champion", Tally()), found.get("challenger", Tally())


def _tally(item: Item) -> Tally:
    return Tally(
        version=item.get("version", 0),
        **{name: item.get(name, 0) for name in _NUMBERS},
        latency=_histogram(item, "l"),
        scores=_histogram(item, "s"),
    )


def _histogram(item: Item, letter: str) -> Counter[int]:
    named = (name for name in item if re.fullmatch(rf"{letter}-?\d+", name))
    return Counter({int(name[1:]): item[name] for name in named})
