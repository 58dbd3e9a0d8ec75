"""Following a batch job: every step is told once, in order, and the end ends it."""

from typing import Any

import pytest
from rich.console import Console

from millrace.errors import NotFoundError, ServiceUnavailableError
from millrace_cli.batches import START_DEADLINE, batch_summary, batches_table, follow_batch

JOB: dict[str, Any] = {
    "batch_id": "churn-batch-1",
    "model": "churn",
    "version": 3,
    "status": "RUNNING",
    "outcome": None,
    "reason": "",
    "error": "",
    "attempt": 1,
    "source": {"key": "batch/churn/scores.csv"},
    "rows": None,
    "problems": [],
    "warnings": [],
    "progress": {"chunks": 0, "scored": 0},
    "created_at": "2026-11-01T10:00:00Z",
}
ROWS = {"read": 1_000_000, "accepted": 999_990, "quarantined": 10}
DONE = {
    **JOB,
    "status": "FINISHED",
    "outcome": "scored",
    "rows": ROWS,
    "progress": {"chunks": 20, "scored": 20},
    "problems": [
        {
            "field": "age",
            "rule": "type",
            "expected": "an integer",
            "count": 10,
            "first_row": 41,
            "example": "old",
        }
    ],
    "warnings": [{"field": "plan", "message": "outside the training contract", "count": 7}],
}


class Api:
    """Answers GET with a scripted sequence; the last answer repeats."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = list(answers)

    def get(self, _path: str, **_params: Any) -> dict[str, Any]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Ticks:
    """A clock that moves when someone pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def told(api: Any, **options: Any) -> list[Any]:
    clock = Ticks()
    return list(follow_batch(api, "churn-batch-1", clock=clock, pause=clock.pause, **options))


def test_a_job_is_told_step_by_step() -> None:
    split = {**JOB, "rows": ROWS, "progress": {"chunks": 20, "scored": 3}}

    *lines, final = told(Api(NotFoundError("not yet"), JOB, split, split, DONE))

    assert lines == [
        "▶ job churn-batch-1: churn@3 scores every row",
        "… reading the file",
        "  ✓ read 1,000,000 rows: 20 chunks to score, 10 rows quarantined",
        "… scored 3 of 20 chunks",
        "… scored 3 of 20 chunks",
        "  ✓ scored 20 of 20 chunks",
    ]
    assert final == DONE


def test_an_upload_that_becomes_no_job_is_an_error() -> None:
    with pytest.raises(NotFoundError, match=f"within {START_DEADLINE:.0f} s"):
        told(Api(NotFoundError("no")))


def test_a_job_that_does_not_end_is_an_error_that_says_it_goes_on() -> None:
    with pytest.raises(ServiceUnavailableError, match="goes on by itself"):
        told(Api(JOB), deadline=3)


def test_an_api_that_stays_away_is_an_error() -> None:
    with pytest.raises(ServiceUnavailableError, match="away"):
        told(Api(ServiceUnavailableError("away")))


def test_a_summary_says_what_a_person_asks_for() -> None:
    console = Console(width=100, record=True)

    console.print(batch_summary(DONE))
    console.print(batches_table([DONE, {**JOB, "status": "FAILED", "outcome": "failed"}]))

    text = console.export_text()
    for said in ("churn@3", "999,990 good, 10 quarantined of 1,000,000 read", "old", "41", "plan"):
        assert said in text
    assert "failed" in text
