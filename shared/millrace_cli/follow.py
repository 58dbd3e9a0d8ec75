"""Following a run: one line per state and per trial as it happens, with times."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from millrace.errors import NotFoundError, ServiceUnavailableError
from millrace_cli.client import ApiClient

POLL_SECONDS = 1.0
START_DEADLINE = 90.0
"""Seconds an upload may take to become a run: S3 to EventBridge to the trigger function."""
DEFAULT_DEADLINE = 3600.0

_FINISHED = ("FINISHED", "FAILED")

STATE_WORDS = {
    "Ingest": "read, check and clean the upload",
    "RecordRefusal": "record the refusal",
    "RecordDataset": "record the dataset version",
    "Plan": "propose trials",
    "Search": "cross-validate the trials",
    "Fit": "fit the winner, export to ONNX, check parity",
    "Register": "register the model version",
    "Evaluate": "evaluate on the held-out test split",
    "RecordEvaluation": "judge the gates",
    "Approve": "wait for a person's approval",
    "SettleApproval": "read what was decided",
    "ExpireApproval": "nobody answered in time",
    "ReadChampion": "the champion changed meanwhile: compare again",
    "Promote": "promote to champion",
    "StartRollout": "start the rollout",
    "RecordFailure": "record the failure",
}


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened in a run, fit to be printed.

    Attributes:
        kind: ``started``, ``state`` and ``trial`` when they ended, ``now`` for what runs.
        name: The state's name or the trial's algorithm.
        words: What it means.
        seconds: How long it took, where known.
        ok: False when it failed.
    """

    kind: str
    name: str
    words: str
    seconds: float | None = None
    ok: bool = True


def follow_run(
    api: ApiClient,
    run_id: str,
    *,
    deadline: float = DEFAULT_DEADLINE,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Happening | dict[str, Any]]:
    """Polls a run until it ends, or waits for a person.

    Yields:
        `Happening` as they come, and last the finished run's document.

    Raises:
        NotFoundError: The upload never became a run.
        ServiceUnavailableError: The run did not end before the deadline, or the API was
            unreachable for several polls in a row.
    """
    begun = clock()
    seen: set[str] = set()
    started = False
    failures = 0
    current: Happening | None = None
    while True:
        try:
            run = api.get(f"/v1/runs/{run_id}")
            failures = 0
        except NotFoundError as exc:
            if clock() - begun > START_DEADLINE:
                raise NotFoundError(
                    f"no run {run_id} appeared within {START_DEADLINE:.0f} s of the upload: "
                    "is the key incoming/<model>/<file>, and was the spec applied? "
                    "(millrace logs of the trigger function tell)"
                ) from exc
            pause(POLL_SECONDS)
            continue
        except ServiceUnavailableError:
            failures += 1
            if failures > 5:
                raise
            pause(POLL_SECONDS * failures)
            continue
        if not started:
            started = True
            yield Happening("started", "run", f"run {run_id}")
        yield from _news(run, seen)
        if run["status"] in _FINISHED or run.get("awaiting_approval"):
            yield run
            return
        now = _current(run)
        if now is not None and now != current:
            current = now
            yield now
        if clock() - begun > deadline:
            raise ServiceUnavailableError(
                f"run {run_id} has not ended after {deadline:.0f} s; it goes on by itself: "
                f"millrace status {run_id}"
            )
        pause(POLL_SECONDS)


def _current(run: dict[str, Any]) -> Happening | None:
    """What a run is doing, from its last state that has begun and not ended."""
    for step in reversed(run.get("steps", ())):
        name = step["name"]
        if step.get("status") == "running" and name in STATE_WORDS:
            count = step.get("count", 1)
            part = f", {step.get('done', 0)} of {count} done" if count > 1 else ""
            return Happening("now", name, STATE_WORDS[name] + part)
    return None


def _news(run: dict[str, Any], seen: set[str]) -> Iterator[Happening]:
    moments: list[tuple[str, str, Happening]] = []
    for step in run.get("steps", ()):
        name = step["name"]
        if name not in STATE_WORDS or step.get("status") not in ("succeeded", "failed"):
            continue
        key = f"state:{name}:{step.get('started_at')}"
        moments.append(
            (
                str(step.get("ended_at") or ""),
                key,
                Happening(
                    "state",
                    name,
                    STATE_WORDS[name],
                    step.get("seconds"),
                    step["status"] == "succeeded",
                ),
            )
        )
    trials = [
        (
            "",
            f"trial:{trial['trial_id']}",
            Happening(
                "trial",
                str(trial["algorithm"]),
                trial_words(trial),
                trial.get("seconds"),
                trial["status"] == "finished",
            ),
        )
        for trial in run.get("trials", ())
    ]
    search = next((i for i, m in enumerate(moments) if m[2].name == "Search"), len(moments))
    for _, key, happening in [*moments[:search], *trials, *moments[search:]]:
        if key not in seen:
            seen.add(key)
            yield happening


def trial_words(trial: dict[str, Any]) -> str:
    """One trial in words: its score and what was tried."""
    params = ", ".join(f"{k}={_short(v)}" for k, v in sorted(trial.get("params", {}).items()))
    if trial["status"] != "finished":
        return f"failed: {trial.get('error') or 'unknown error'} ({params})"
    spread = f" ± {trial['score_std']:.4f}" if trial.get("score_std") is not None else ""
    return f"{trial['metric']} {trial['score']:.4f}{spread}  {params}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
