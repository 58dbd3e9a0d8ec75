"""How often a rollout is rolled back by mistake, and how much traffic a degradation takes to be caught.

By simulation of the judgement itself (`millrace.rollout.health.look`), look after look, on counts drawn
at random: no cloud. The reference in the same run is a test of fixed horizon repeated naively: at each
look the pooled two-sample z-test of everything so far, at the same level, as if it were the only one.

The simulations are long: ``ROLLOUT_RUNS`` says how many rollouts are simulated for each figure
(40 by default); the figures of docs/rollouts.md name theirs.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any, Final

import numpy as np
import pytest

from millrace.monitoring.tallies import Tally
from millrace.rollout.health import Document, Seen, look, statistical
from millrace.spec import RolloutSection
from tests.bench.measure import keep

RUNS: Final = int(os.environ.get("ROLLOUT_RUNS", "40"))
PLAN: Final = RolloutSection.model_validate({"strategy": "canary", "steps": [10], "alpha": 0.01})
CHAMPION: Final = 900
CHALLENGER: Final = 100
"""Requests of each between two looks: a canary at ten percent."""
LOOKS: Final = 60
_FAST, _SLOW = 10, 40
_Z: Final = NormalDist()

type Numbers = np.random.Generator


@dataclass(frozen=True, slots=True)
class World:
    """What a version's requests are like.

    Attributes:
        errors: The share that fails.
        slow: The share that is slower than the champion's 95th percentile.
        shift: How far scores, which are evenly spread, are pushed up.
    """

    errors: float = 0.01
    slow: float = 0.05
    shift: float = 0.0

    def add(self, tally: Tally, requests: int, draw: Numbers) -> None:
        """Adds requests to what was counted."""
        errors = int(draw.binomial(requests, self.errors))
        answered = requests - errors
        slow = int(draw.binomial(answered, self.slow))
        scores = np.minimum(19, (draw.random(answered) * (1 - self.shift) + self.shift) * 20)
        tally.requests += requests
        tally.errors += errors
        tally.latency.update({_FAST: answered - slow, _SLOW: slow})
        tally.scores.update(Counter(scores.astype(int).tolist()))


def until_breach(
    champion: World, challenger: World, draw: Numbers, found: Callable[[Seen], bool]
) -> int | None:
    """Looks until a breach is found; None when none is."""
    seen = Seen(Tally(), Tally())
    for number in range(1, LOOKS + 1):
        champion.add(seen.champion, CHAMPION, draw)
        challenger.add(seen.challenger, CHALLENGER, draw)
        if found(seen):
            return number
    return None


class Sequential:
    """Millrace's own judgement."""

    def __init__(self, plan: RolloutSection = PLAN) -> None:
        self._plan = plan
        self._document: Document = {}

    def __call__(self, seen: Seen) -> bool:
        """Whether this look finds a breach."""
        findings, document = look(self._plan, seen, self._document)
        self._document = json.loads(json.dumps(document))
        return any(f.found == "breach" for f in findings)


class Naive:
    """A z-test of everything so far at every look, as if it were the only one."""

    def __init__(self, plan: RolloutSection = PLAN) -> None:
        level = plan.alpha / len(statistical(plan))
        self._critical = _Z.inv_cdf(1 - level)

    def __call__(self, seen: Seen) -> bool:
        """Whether this look finds a breach."""
        a, b = seen.champion, seen.challenger
        pairs = [
            (a.requests, a.errors, b.requests, b.errors),
            (a.latency.total(), a.latency[_SLOW], b.latency.total(), b.latency[_SLOW]),
        ]
        below = [sum(n for k, n in t.scores.items() if k < 10) for t in (a, b)]
        pairs.append((a.scores.total(), below[0], b.scores.total(), below[1]))
        return any(self._differs(*pair) for pair in pairs)

    def _differs(self, n_a: int, hits_a: int, n_b: int, hits_b: int) -> bool:
        pooled = (hits_a + hits_b) / (n_a + n_b)
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / n_a + 1 / n_b))
        return bool((hits_b / n_b - hits_a / n_a) / error > self._critical)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z = _Z.inv_cdf(0.975)
    share = hits / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), (middle + spread) / scale


def told(name: str, **figures: Any) -> None:
    """Prints a figure and keeps it."""
    print(json.dumps({"figure": name, "runs": RUNS, **figures}))
    keep(f"rollouts {name}", {"runs": RUNS, **figures})


EQUAL: Final = World()
AT_MARGIN: Final = World(errors=0.02, slow=0.10)
"""As bad as the plan's defaults tolerate: the hardest of what must not be rolled back."""


@pytest.mark.parametrize("world", [EQUAL, AT_MARGIN], ids=["equal", "at the margins"])
def test_false_rollbacks_stay_below_alpha_however_often_one_looks(world: World) -> None:
    rates: dict[str, tuple[int, float, float]] = {}
    for name, kind in (("sequential", Sequential), ("naive", Naive)):
        draw = np.random.default_rng(11)
        hits = sum(until_breach(EQUAL, world, draw, kind()) is not None for _ in range(RUNS))
        rates[name] = (hits, *wilson(hits, RUNS))

    told(f"false rollbacks at {world.errors:.0%} errors", looks=LOOKS, **rates)
    # The interval's lower end above alpha would say, with 97.5 % confidence, that it is exceeded.
    assert rates["sequential"][1] <= PLAN.alpha
    assert rates["naive"][0] >= 4 * max(1, rates["sequential"][0])


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("errors 1 % to 3 %", World(errors=0.03)),
        ("errors 1 % to 5 %", World(errors=0.05)),
        ("errors 1 % to 10 %", World(errors=0.10)),
        ("errors 1 % to 50 %", World(errors=0.50)),
        ("slow 5 % to 15 %", World(slow=0.15)),
        ("slow 5 % to 25 %", World(slow=0.25)),
        ("slow 5 % to 50 %", World(slow=0.50)),
        ("scores by 0.15", World(shift=0.15)),
        ("scores by 0.20", World(shift=0.20)),
        ("scores by 0.40", World(shift=0.40)),
    ],
)
def test_a_degradation_is_caught(name: str, world: World) -> None:
    runs = max(20, RUNS // 4)
    draw = np.random.default_rng(13)
    found = [until_breach(EQUAL, world, draw, Sequential()) for _ in range(runs)]
    caught = [n * CHALLENGER for n in found if n is not None]
    traffic = sorted(n * CHALLENGER if n is not None else math.inf for n in found)

    p90 = traffic[math.ceil(0.9 * runs) - 1]
    told(
        f"traffic: {name}",
        simulated=runs,
        caught=len(caught) / runs,
        median_requests=median(traffic),
        p90_requests=None if math.isinf(p90) else p90,
    )
    if name != "errors 1 % to 3 %" and name != "scores by 0.15":
        assert len(caught) >= 0.9 * runs
