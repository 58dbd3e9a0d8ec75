"""What is read of a window's captured rows and labels, and how much of it."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from millrace.evaluation.reference import describe
from millrace.monitoring import captures
from millrace.monitoring import sample as reading
from millrace.monitoring.baseline import Baseline
from millrace.monitoring.labels import Assertion, Label, RowKey
from millrace.monitoring.sample import Sample, read_sample
from millrace.spec import Task
from tests.fakes.store import FakeStore
from tests.samples import capture_line
from tests.unit.monitoring.judged import judged

BUCKET = "data-bucket"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Objects(FakeStore):
    """A store that lists, and counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """See `ListedObjects.keys`."""
        yield from sorted(k for b, k in self.objects if b == bucket and k.startswith(prefix))

    def read(self, bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """See `ListedObjects.read`."""
        self.reads += 1
        return super().read(bucket, key, version_id=version_id)


class Known(dict[RowKey, Label]):
    """Labels in memory, and how they were asked for."""

    asked: Sequence[RowKey] = ()

    def of_span(
        self, model: str, since: datetime, until: datetime
    ) -> Iterator[tuple[RowKey, Label]]:
        """See `Labels.of_span`."""
        yield from self.items()

    def of_rows(self, model: str, rows: Sequence[RowKey]) -> dict[RowKey, Label]:
        """See `Labels.of_rows`."""
        self.asked = rows
        return {row: self[row] for row in rows if row in self}


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    rng = np.random.default_rng(1)
    scores = rng.random(400)
    columns = {
        "age": rng.normal(40, 10, 400),
        "plan": rng.choice(np.asarray(["basic", "pro"], dtype=object), 400),
    }
    truth = (rng.random(400) < scores).astype(np.int64)
    return describe(judged(Task.BINARY, columns, truth, np.column_stack([1 - scores, scores])))


def stored(deliveries: int, each: int = 5) -> tuple[Objects, list[str]]:
    """Captured requests of two rows, by delivery; the ids in order."""
    objects, ids = Objects(), []
    for delivery in range(deliveries):
        lines = []
        for number in range(each):
            at = NOON + timedelta(seconds=delivery * 10 + number)
            at_ms = int(at.timestamp() * 1000)
            line = capture_line(model="churn", at_ms=at_ms, sequence=delivery * each + number + 1)
            line["version"] = 1
            part = line["capture"]
            part["inputs"] = {"age": [41.5, None], "plan": ["basic", None]}
            part["outputs"] = {"probabilities": [[0.75, 0.25], [0.5, 0.5]]}
            ids.append(line["prediction_id"])
            lines.append(json.dumps(line))
        delivered = captures.read(lines)
        captures.keep(delivered, objects=objects, bucket=BUCKET, logged=NOON)
    return objects, ids


def known(ids: Sequence[str], row: int = 0) -> Known:
    return Known({RowKey(one, row): Label((Assertion("yes", NOON),)) for one in ids})


def read(objects: Objects, labels: Known, baseline: Baseline, **more: Any) -> Sample:
    rows = 2 * 5 * len(objects.objects)
    asked: dict[str, Any] = {"expected": rows, "until": NOON + timedelta(hours=1)}
    return read_sample(
        objects=objects,
        bucket=BUCKET,
        labels=labels,
        baseline=baseline,
        since=NOON,
        **(asked | more),
    )


def test_a_window_is_read_whole_where_it_is_small(baseline: Baseline) -> None:
    objects, ids = stored(3)

    found = read(objects, known(ids[:4]), baseline)

    assert (found.rows, found.share, found.objects) == (30, 1.0, 3)
    assert found.even.all()
    assert found.inputs == {"age": [41.5, None] * 15, "plan": ["basic", ""] * 15}
    assert found.output.tolist() == [[0.75, 0.25], [0.5, 0.5]] * 15
    assert found.labels == ["yes", None] * 4 + [None] * 22


def test_an_object_that_is_put_together_with_others_meanwhile_is_read_there(
    baseline: Baseline,
) -> None:
    objects, ids = stored(2)
    before = list(objects.objects)
    read_as_ever = objects.read

    def vanish(bucket: str, key: str, *, version_id: str | None = None) -> bytes:
        """Puts both deliveries together before the first is read."""
        objects.read = read_as_ever  # type: ignore[method-assign]
        bodies = [read_as_ever(*place) for place in before]
        for place in before:
            del objects.objects[place]
        together = before[0][1].replace(".jsonl.gz", "-10.jsonl.gz")
        objects.write(bucket, together, b"".join(bodies), content_type=captures.CONTENT_TYPE)
        return objects.read(bucket, key, version_id=version_id)

    objects.read = vanish  # type: ignore[method-assign]

    found = read(objects, known(ids), baseline, expected=20)

    assert (found.rows, found.objects) == (20, 1)


@pytest.mark.parametrize("limit", ["MAX_OBJECTS", "MAX_READ"])
def test_what_is_too_much_to_read_is_left_out_of_every_hour(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(reading, limit, 32)
    objects = Objects()
    for hour in range(4):
        for number in range(60):
            at = NOON + timedelta(hours=hour, seconds=number)
            line = capture_line(
                model="churn", at_ms=int(at.timestamp() * 1000), sequence=number + 1
            )
            line |= {"version": 1, "row_count": 1}
            line["capture"]["inputs"] = {"age": [float(hour)], "plan": ["basic"]}
            line["capture"]["outputs"] = {"probabilities": [[0.5, 0.5]]}
            delivered = captures.read([json.dumps(line)])
            captures.keep(delivered, objects=objects, bucket=BUCKET, logged=NOON)

    found = read(objects, Known(), baseline, until=NOON + timedelta(hours=4), expected=32)

    by_hour = Counter(found.inputs["age"])
    assert found.rows < 240
    assert set(by_hour) == {0.0, 1.0, 2.0, 3.0}
    assert max(by_hour.values()) - min(by_hour.values()) <= 8


def test_rows_of_other_versions_and_times_are_left_out(baseline: Baseline) -> None:
    objects, ids = stored(3)

    later = read_sample(
        objects=objects,
        bucket=BUCKET,
        labels=known(ids),
        baseline=baseline,
        since=NOON + timedelta(seconds=12),
        until=NOON + timedelta(seconds=22),
        expected=30,
    )
    other = read(objects, known(ids), baseline.model_copy(update={"version": 2}))

    assert later.rows == 2 * 5
    assert other.rows == 0


def test_of_much_traffic_the_same_part_is_read_each_time(baseline: Baseline) -> None:
    objects, ids = stored(60)

    first = read(objects, known([]), baseline, expected=60 * 50_000)
    reads = objects.reads
    second = read(objects, known([]), baseline, expected=60 * 50_000)

    assert reads < 20
    assert 0 < first.rows < 2 * len(ids)
    assert first.inputs == second.inputs
    assert first.share == pytest.approx(reading.MAX_READ / (60 * 50_000))


def test_of_many_rows_an_even_part_is_kept_and_all_that_are_labelled(baseline: Baseline) -> None:
    objects, ids = stored(60)

    found = read(objects, known(ids[::5]), baseline, most=200)

    told = [label is not None for label in found.labels]
    assert found.even.sum() == pytest.approx(200, abs=60)
    assert sum(told) == len(ids[::5]) == 60
    assert found.rows == (found.even | told).sum()


def test_where_labels_are_too_many_those_of_the_kept_rows_are_asked_for(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, ids = stored(20)
    monkeypatch.setattr(reading, "MAX_LABELS", 50)
    labels = known(ids)

    found = read(objects, labels, baseline, most=40)

    assert len(labels.asked) == found.rows == found.even.sum() < 100
    assert sum(label is not None for label in found.labels) > 0


@pytest.mark.parametrize(
    "output",
    [["no", [0.5, 0.5]], [[0.1, 0.2, 0.7], [0.5, 0.5]], [[], [0.5, 0.5]], [[None, 1], [0.5, 0.5]]],
)
def test_a_row_without_an_answer_of_the_version_is_left_out(
    baseline: Baseline, output: list[Any]
) -> None:
    at_ms = int((NOON + timedelta(minutes=9)).timestamp() * 1000)
    line = capture_line(model="churn", at_ms=at_ms, sequence=1) | {"version": 1}
    line["capture"]["inputs"] = {"age": ["forty", 2], "plan": [7, "pro"]}
    line["capture"]["outputs"] = {"probabilities": output}
    objects, _ = stored(1)
    delivered = captures.read([json.dumps(line)])
    captures.keep(delivered, objects=objects, bucket=BUCKET, logged=NOON)

    found = read(objects, Known(), baseline)

    assert found.rows == 11
    assert found.output[-1].tolist() == [0.5, 0.5]
    assert (found.inputs["age"][-1], found.inputs["plan"][-1]) == (2, "pro")
