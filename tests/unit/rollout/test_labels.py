"""Wrong predictions of champion and challenger, joined from labels and captured predictions."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from millrace.errors import InvalidSpecError
from millrace.monitoring.labels import Assertion, Label, RowKey
from millrace.registry.rollout_records import Rollout, RolloutStep
from millrace.registry.rollout_states import RolloutStatus
from millrace.rollout import labels
from millrace.rollout.labels import count_wrong
from millrace.rollout.sequential import Counts
from millrace.serving.capture import CapturedPrediction
from millrace.spec import RolloutSection
from tests.fakes import cases

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
NOW = BEGAN + timedelta(hours=1)
SURE, UNSURE = [0.2, 0.8], [0.6, 0.4]
"""Of ``no`` and ``yes``: the first says yes, the second no."""


def rollout(**changes: object) -> Rollout:
    return Rollout.model_validate(
        {
            "rollout_id": "r",
            "model": "churn",
            "version": 2,
            "plan": RolloutSection.model_validate({"strategy": "canary"}),
            "created_by": "ann",
            "created_at": BEGAN - timedelta(hours=1),
            "status": RolloutStatus.RUNNING,
            "champion": 1,
            "step": 0,
            "steps": (RolloutStep(step=0, weight=5.0, at=BEGAN, sequence=7),),
            **changes,
        }
    )


def captured(
    prediction_id: str,
    version: int,
    *probabilities: list[float],
    rows: tuple[int, ...] | None = None,
) -> CapturedPrediction:
    return CapturedPrediction(
        model="churn",
        version=version,
        prediction_id=prediction_id,
        row_count=len(probabilities) if rows is None else 10,
        latency_ms=1.0,
        rate=1.0,
        process="p",
        sequence=1,
        inputs={},
        outputs={"probabilities": list(probabilities)},
        rows=rows,
        warnings={},
    )


def label(prediction_id: str, *values: str, row: int = 0) -> tuple[RowKey, Label]:
    said = tuple(Assertion(label=v, received_at=NOW, observed_at=None) for v in values)
    return RowKey(prediction_id, row), Label(said)


def counted(
    known: Iterable[tuple[RowKey, Label]],
    seen: Iterable[CapturedPrediction],
    of: Rollout | None = None,
) -> tuple[Counts, Counts] | None:
    asked: list[tuple[str, datetime, datetime]] = []

    def ask[T](found: T) -> object:
        def answer(model: str, since: datetime, until: datetime) -> T:
            asked.append((model, since, until))
            return found

        return answer

    answer = count_wrong(
        of or rollout(),
        classes=lambda _: ("no", "yes"),
        labels=ask(known),  # type: ignore[arg-type]
        captured=ask(seen),  # type: ignore[arg-type]
        until=NOW,
    )
    assert set(asked) <= {("churn", BEGAN, NOW)}, "only the step's own time counts"
    return answer


def test_each_version_is_counted_by_its_own_labelled_predictions() -> None:
    known = [label("a", "yes"), label("b", "yes"), label("c", "no"), label("d", "no")]
    seen = [
        captured("a", 1, SURE),
        captured("b", 1, UNSURE),
        captured("c", 2, SURE),
        captured("d", 2, UNSURE),
        captured("nobody labelled it", 2, SURE),
        captured("c", 9, SURE),
    ]

    assert counted(known, seen) == (Counts(2, 1), Counts(2, 1))


def test_a_corrected_label_wins() -> None:
    assert counted([label("a", "no", "yes")], [captured("a", 2, SURE)]) == (
        Counts(0, 0),
        Counts(1, 0),
    )


def test_a_request_counts_once_by_its_first_row_with_a_label() -> None:
    known = [label("a", "yes", row=4), label("a", "yes", row=7)]
    seen = [captured("a", 2, SURE, UNSURE, SURE, rows=(1, 4, 7))]

    assert counted(known, seen) == (Counts(0, 0), Counts(1, 1))


def test_a_row_whose_label_is_known_and_whose_capture_is_not_counts_nothing() -> None:
    assert counted([label("a", "yes", row=3)], [captured("a", 2, SURE, rows=(1,))]) == (
        Counts(0, 0),
        Counts(0, 0),
    )


def test_there_is_nothing_to_say_without_labels_or_before_the_first_step() -> None:
    assert counted([], [captured("a", 2, SURE)]) is None
    assert counted([label("a", "yes")], [], rollout(step=None, steps=())) is None
    assert counted([label("a", "yes")], [], rollout(champion=None)) is None


def test_a_look_reads_a_bounded_number_of_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MOST", 3)
    seen = [captured("a", 2, SURE) for _ in range(10)]

    assert counted([label("a", "yes")], seen) == (Counts(0, 0), Counts(3, 0))


def test_a_regression_cannot_be_judged_by_feedback() -> None:
    columns = [
        {"name": "age", "type": "number"},
        {"name": "left", "type": "number", "role": "target"},
    ]
    with pytest.raises(InvalidSpecError, match=r"rollout\.health\.feedback: of a regression"):
        cases.spec(
            task="regression",
            data={"columns": columns},
            rollout={"strategy": "canary", "health": {"feedback": {"max_increase": 0.05}}},
        )
