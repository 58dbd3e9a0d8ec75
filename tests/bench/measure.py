"""Ratios within one run: subject and reference take turns, so that a noisy machine hurts both."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / ".millrace" / "bench"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Median times of a subject and of its reference.

    Attributes:
        name: What was measured.
        subject: Seconds, median.
        reference: Seconds, median.
        ratio: Median of the rounds' own ratios.
        low: Smallest of them.
        high: Largest of them.
        rounds: How many.
    """

    name: str
    subject: float
    reference: float
    ratio: float
    low: float
    high: float
    rounds: int

    def tell(self) -> None:
        """Prints one line and keeps the figures as JSON."""
        print(
            f"\n{self.name}: {self.ratio:.2f} × the reference [{self.low:.2f}, {self.high:.2f}] "
            f"({self.subject * 1e3:.3f} ms over {self.reference * 1e3:.3f} ms, {self.rounds} rounds)"
        )
        keep(self.name, asdict(self))


def compare(
    name: str,
    subject: Callable[[], object],
    reference: Callable[[], object],
    *,
    rounds: int,
    repeat: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Times both in turns.

    Args:
        name: What is measured.
        subject: The thing of interest.
        reference: What it is compared with.
        rounds: Turns of each, after one turn that does not count.
        repeat: Calls per turn.
        clock: Seconds; the processor's own (`time.process_time`) where nothing waits.
    """
    _time(subject, repeat, clock)
    _time(reference, repeat, clock)
    pairs = [
        (_time(subject, repeat, clock), _time(reference, repeat, clock)) for _ in range(rounds)
    ]
    ratios = [s / r for s, r in pairs]
    return Comparison(
        name=name,
        subject=statistics.median(s for s, _ in pairs),
        reference=statistics.median(r for _, r in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=rounds,
    )


def keep(name: str, figures: dict[str, object]) -> None:
    """Writes figures below ``.millrace/bench``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name.replace(' ', '-').replace('/', '-')}.json"
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def _time(work: Callable[[], object], repeat: int, clock: Callable[[], float]) -> float:
    begun = clock()
    for _ in range(repeat):
        work()
    return (clock() - begun) / repeat
