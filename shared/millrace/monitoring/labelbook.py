"""Where labels are kept: small items in the registry's table, filed by the day of the prediction.

``LABELS#<model>#<day>#<shard>`` holds the labels of predictions made on that day; the shard is the
last digit of the prediction's id, sixteen for each day. The sort key begins with the id, which
begins with the time. So the labels of one prediction are one read, those of an hour sixteen
queries, and nothing is ever scanned; a day takes sixteen thousand writes a second.

A write assumes the revision that was read, so two requests at once lose nothing. Items expire.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from millrace.aws.table import SK, Item, Key, Put, QueryPage, Update
from millrace.errors import ConcurrentWriteError, ConditionFailedError
from millrace.monitoring.labels import Assertion, Counts, Label, Outcome, RowKey, Told, merge
from millrace.monitoring.windows import labels_told
from millrace.serving.identity import predicted_at

SHARDS: Final = "0123456789abcdef"
_PAGE: Final = 1_000
_DAY: Final = timedelta(days=1)
_ATTEMPTS: Final = 6


class LabelTable(Protocol):
    """What the book needs of DynamoDB: `aws.dynamodb.DynamoTable` is one."""

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Those of the items that are there, as they are now."""
        ...

    def put(self, write: Put) -> None:
        """Writes one item.

        Raises:
            ConditionFailedError: Its condition did not hold.
        """
        ...

    def update(self, write: Update) -> None:
        """Updates one item."""
        ...

    def query(
        self,
        pk: str,
        *,
        prefix: str = "",
        since: str = "",
        limit: int | None = None,
        start: Item | None = None,
    ) -> QueryPage:
        """Items of one partition in the order of their sort key."""
        ...


@dataclass(frozen=True, slots=True)
class LabelBook:
    """The labels of all models.

    Attributes:
        table: Where they are kept.
        keep: How long after they were received.
        writers: Writes at a time.
    """

    table: LabelTable
    keep: timedelta
    writers: int = 8

    def record(self, model: str, told: Sequence[Told]) -> Counts:
        """Adds what was told to what is known.

        Args:
            model: The model.
            told: Assertions; several may be about one row.

        Raises:
            ConcurrentWriteError: Others kept writing the same labels; the same call may succeed.
        """
        by_row: dict[RowKey, list[Assertion]] = defaultdict(list)
        for one in told:
            by_row[one.key].append(one.assertion)
        outcomes: list[Outcome] = []
        pending = by_row
        for _ in range(_ATTEMPTS):
            pending = self._attempt(model, pending, outcomes)
            if not pending:
                self._tell_days(model, told)
                return Counts.of(outcomes)
        raise ConcurrentWriteError(
            f"{len(pending)} labels of {model} are being written by others; send them again"
        )

    def _tell_days(self, model: str, told: Sequence[Told]) -> None:
        """Says of which days more is known, so that monitoring judges them again.

        Last, and of labels that were known too: a request that is repeated after a failure says it.
        """
        days = Counter(
            predicted_at(one.key.prediction_id).replace(hour=0, minute=0, second=0, microsecond=0)
            for one in told
        )
        for write in labels_told(model, days, self.keep):
            self.table.update(write)

    def _attempt(
        self,
        model: str,
        by_row: dict[RowKey, list[Assertion]],
        outcomes: list[Outcome],
    ) -> dict[RowKey, list[Assertion]]:
        """Reads, merges, writes; returns the rows that somebody else wrote meanwhile."""
        places = {row: _key(model, row) for row in by_row}
        held = self.table.get_many(list(places.values()))
        writes: list[tuple[RowKey, list[Outcome], Put]] = []
        for row, assertions in by_row.items():
            item = held.get(places[row])
            known = None if item is None else _label(item)
            label, came = known, []
            for assertion in assertions:
                outcome, label = merge(label, assertion)
                came.append(outcome)
            if label is known or label is None:
                outcomes += came
                continue
            writes.append((row, came, self._put(places[row], label, item)))
        lost: dict[RowKey, list[Assertion]] = {}
        with ThreadPoolExecutor(min(self.writers, len(writes) or 1)) as pool:
            written = pool.map(self._written, (put for _, _, put in writes))
            for (row, came, _), done in zip(writes, written, strict=True):
                if done:
                    outcomes += came
                else:
                    lost[row] = by_row[row]
        return lost

    def _written(self, put: Put) -> bool:
        try:
            self.table.put(put)
        except ConditionFailedError:
            return False
        return True

    def _put(self, key: Key, label: Label, item: Item | None) -> Put:
        revision = None if item is None else int(item["revision"])
        received = max(one.received_at for one in label.assertions)
        values = {
            "label": label.value,
            "revision": (revision or 0) + 1,
            "assertions": [_stored(one) for one in label.assertions],
            "expires_at": int((received + self.keep).timestamp()),
        }
        return Put("label", key, values, {"revision": revision})

    def of_prediction(self, model: str, prediction_id: str) -> dict[int, Label]:
        """Labels of one prediction, by row."""
        key = _key(model, RowKey(prediction_id, 0))
        page = self.table.query(key.pk, prefix=f"{prediction_id}#")
        return {_row(item).row: _label(item) for item in page.items}

    def of_rows(self, model: str, rows: Sequence[RowKey]) -> dict[RowKey, Label]:
        """Labels of those of the rows that have one."""
        places = {_key(model, row): row for row in rows}
        held = self.table.get_many(list(places))
        return {places[key]: _label(item) for key, item in held.items()}

    def of_span(
        self, model: str, since: datetime, until: datetime
    ) -> Iterator[tuple[RowKey, Label]]:
        """Labels of every prediction that was made in a span of time, day by day.

        Args:
            model: The model.
            since: From this moment on.
            until: Before this moment.
        """
        day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        while day < until:
            for shard in SHARDS:
                yield from self._of_shard(_pk(model, day, shard), max(since, day), until)
            day += _DAY

    def _of_shard(
        self, pk: str, since: datetime, until: datetime
    ) -> Iterator[tuple[RowKey, Label]]:
        first, end = _sort_prefix(since), _sort_prefix(until)
        last: Item | None = None
        while True:
            page = self.table.query(pk, since=first, limit=_PAGE, start=last)
            for item in page.items:
                if item[SK] >= end:
                    return
                yield _row(item), _label(item)
            last = page.last
            if last is None:
                return


# ── Items ───────────────────────────────────────────────────────────────────────────────────────


def _pk(model: str, day: datetime, shard: str) -> str:
    return f"LABELS#{model}#{day:%Y-%m-%d}#{shard}"


def _key(model: str, row: RowKey) -> Key:
    made = predicted_at(row.prediction_id)
    return Key(_pk(model, made, row.prediction_id[-1]), f"{row.prediction_id}#{row.row:06d}")


def _sort_prefix(moment: datetime) -> str:
    """How ids of a moment and of all later ones begin; the rest sorts after it."""
    digits = f"{-(-int(moment.timestamp() * 1_000_000) // 1_000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _row(item: Item) -> RowKey:
    prediction_id, _, row = str(item[SK]).partition("#")
    return RowKey(prediction_id, int(row))


def _stored(one: Assertion) -> dict[str, str]:
    stored = {"label": one.label, "received_at": one.received_at.isoformat()}
    if one.observed_at is not None:
        stored["observed_at"] = one.observed_at.isoformat()
    return stored


def _label(item: Item) -> Label:
    return Label(tuple([_assertion(one) for one in item["assertions"]]))


def _assertion(stored: Mapping[str, Any]) -> Assertion:
    observed = stored.get("observed_at")
    return Assertion(
        stored["label"],
        datetime.fromisoformat(stored["received_at"]),
        None if observed is None else datetime.fromisoformat(observed),
    )
