"""Following a run: everything that happens is told once, in order, and the end ends it."""

from collections.abc import Iterator
from typing import Any

import pytest

from millrace.errors import NotFoundError, ServiceUnavailableError
from millrace_cli.follow import START_DEADLINE, Happening, follow_run, trial_words


class FakeApi:
    """Answers GET with a scripted sequence; the last answer repeats."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = list(answers)

    def get(self, path: str, **params: str | int | None) -> dict[str, Any]:
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


def _run(status: str, *states: str, trials: int = 0) -> dict[str, Any]:
    return {
        "run_id": "churn-1",
        "status": status,
        "steps": [
            {
                "name": name,
                "status": "succeeded",
                "started_at": f"2026-01-01T00:00:{i:02d}Z",
                "ended_at": f"2026-01-01T00:00:{i + 1:02d}Z",
                "seconds": 1.0,
            }
            for i, name in enumerate(states)
        ],
        "trials": [
            {
                "trial_id": i,
                "algorithm": "linear",
                "status": "finished",
                "metric": "roc_auc",
                "score": 0.9,
                "score_std": 0.01,
                "seconds": 0.5,
                "params": {},
            }
            for i in range(trials)
        ],
    }


def _follow(api: FakeApi, **options: Any) -> Iterator[Happening | dict[str, Any]]:
    ticks = Ticks()
    return follow_run(api, "churn-1", clock=ticks, pause=ticks.pause, **options)  # type: ignore[arg-type]


def test_states_and_trials_are_told_once_and_trials_before_the_search_ends() -> None:
    api = FakeApi(
        _run("RUNNING", "Ingest"),
        _run("RUNNING", "Ingest", "Plan", trials=1),
        _run("FINISHED", "Ingest", "Plan", "Search", "Fit", trials=2),
    )

    *happenings, final = _follow(api)

    told = [(h.kind, h.name) for h in happenings if isinstance(h, Happening)]
    assert told == [
        ("started", "run"),
        ("state", "Ingest"),
        ("state", "Plan"),
        ("trial", "linear"),
        ("trial", "linear"),
        ("state", "Search"),
        ("state", "Fit"),
    ]
    assert isinstance(final, dict)
    assert final["status"] == "FINISHED"


def test_a_run_that_appears_late_is_waited_for() -> None:
    api = FakeApi(NotFoundError("no run"), NotFoundError("no run"), _run("FINISHED"))

    *_, final = _follow(api)

    assert isinstance(final, dict)


def test_a_run_that_never_appears_is_reported_with_advice() -> None:
    api = FakeApi(NotFoundError("no run"))

    with pytest.raises(NotFoundError, match=f"within {START_DEADLINE:.0f} s.*spec applied"):
        list(_follow(api))


def test_a_short_outage_of_the_api_is_survived_and_a_long_one_is_not() -> None:
    outage = ServiceUnavailableError("503")

    *_, final = _follow(FakeApi(outage, outage, _run("FINISHED")))
    with pytest.raises(ServiceUnavailableError, match="503"):
        list(_follow(FakeApi(outage)))

    assert isinstance(final, dict)


def test_the_deadline_ends_the_following_and_says_how_to_go_on() -> None:
    with pytest.raises(ServiceUnavailableError, match="millrace status churn-1"):
        list(_follow(FakeApi(_run("RUNNING")), deadline=5))


def test_a_failed_trial_is_told_with_its_error() -> None:
    words = trial_words(
        {"status": "failed", "error": "TrainingError", "params": {"C": 0.1}, "metric": "roc_auc"}
    )

    assert words == "failed: TrainingError (C=0.1)"


def test_what_runs_now_is_told_when_it_changes() -> None:
    running = {**_run("RUNNING", "Ingest", "Plan")}
    search = {"name": "Search", "status": "running", "count": 6, "done": 2}
    running["steps"] = [*running["steps"], search]
    ticks = Ticks()
    api = FakeApi(running, running, _run("FINISHED", "Ingest", "Plan", "Search"))

    events = list(follow_run(api, "churn-1", clock=ticks, pause=ticks.pause))  # type: ignore[arg-type]

    now = [e for e in events if isinstance(e, Happening) and e.kind == "now"]
    assert [e.words for e in now] == ["cross-validate the trials, 2 of 6 done"]
