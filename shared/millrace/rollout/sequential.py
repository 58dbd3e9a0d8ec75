"""Tests that may be looked at as often as one likes.

Each hypothesis "the challenger is worse by no more than a margin" gets an *e-process*: a number that
starts at one, and that, as long as the hypothesis holds, is expected not to grow. By Ville's inequality
it then exceeds 1/alpha, at any of ever so many looks, with probability alpha at most. So a breach is "the
e-process reached 1/alpha", whenever somebody looked.

For one block of data (what came since the last look) and an alternative (θ_a, θ_b) chosen before it, the
factor is the likelihood ratio ``P(data | θ_a, θ_b) / P(data | θ°_a, θ°_b)``, where θ° is the point of
the hypothesis {θ_b ≤ θ_a + margin} nearest to the alternative: least Kullback-Leibler divergence,
weighted with the block's sizes. Its expectation is at most one under *every* point of the hypothesis:
the logarithm of the expectation is concave in (θ_a, θ_b), is zero at θ°, and its gradient there is that
of the divergence, so a convex hypothesis lies on its falling side. This is Theorem 1 of Turner, Ly and
Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping"
(arXiv:2106.02693; Journal of Statistical Planning and Inference 230, 2024), for the margins of Turner
and Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond"
(arXiv:2203.09785; Statistics & Probability Letters 198, 2023).

How much worse the challenger is, nobody knows: the e-process is the mean of one for each of
`EFFECTS`, which is an e-process again and costs at most ln(len(EFFECTS)) of evidence (Robbins'
method of mixtures, "Statistical methods related to the law of the iterated logarithm", Annals of
Mathematical Statistics 41, 1970; as in the mSPRT of Johari et al., "Always valid inference",
Operations Research 70, 2022). θ_a is what was seen of the champion before the block.

What is assumed: requests are independent given their version, and who answers a request is not
decided by what comes of it. Rows of one request are not independent, so a request counts once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

EFFECTS: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""By how much the challenger may be worse than the margin allows; one e-process each."""

_LEAST: Final = 1e-6
_FLAT: Final = 1e-10
_PRIOR: Final = 0.18
"""Turner, Ly and Grünwald's pseudo-count: regret stays small at rates near zero and one."""


class Counts(NamedTuple):
    """How many of how many."""

    trials: int
    hits: int

    def __sub__(self, other: "Counts") -> "Counts":  # the block between two totals
        return Counts(self.trials - other.trials, self.hits - other.hits)

    @property
    def share(self) -> float:
        """The share of hits; 0 of nothing."""
        return self.hits / self.trials if self.trials else 0.0


NOTHING: Final = Counts(0, 0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """An e-process after some looks, ready to be kept between them.

    Attributes:
        logs: Logarithm of the e-process of each effect.
        champion: Totals at the last look.
        challenger: Totals at the last look.
    """

    logs: tuple[float, ...] = (0.0,) * len(EFFECTS)
    champion: Counts = NOTHING
    challenger: Counts = NOTHING

    @property
    def log(self) -> float:
        """Logarithm of the e-process: of the mean over the effects."""
        return log_mean(self.logs)

    def compared(self, champion: Counts, challenger: Counts, margin: float) -> "Evidence":
        """After one more look at two versions: is the challenger's share above the champion's?

        The first block with the champion in it only teaches its share.

        Args:
            champion: Totals now.
            challenger: Totals now.
            margin: How much higher the challenger's share may be.
        """
        block_a, block_b = champion - self.champion, challenger - self.challenger
        if not self.champion.trials:
            return Evidence(self.logs, champion, challenger) if champion.trials else self
        parts = (*block_a, *block_b)
        if not block_a.trials or not block_b.trials or min(parts) < 0:
            # Nothing to compare, or a total that was corrected downwards: it waits for the next.
            return self
        known = (self.champion.hits + _PRIOR) / (self.champion.trials + 2 * _PRIOR)
        logs = tuple(
            log + _factor(block_a, block_b, _inside(known), _inside(known + margin + d), margin)
            for log, d in zip(self.logs, EFFECTS, strict=True)
        )
        return Evidence(logs, champion, challenger)

    def bounded(self, challenger: Counts, most: float) -> "Evidence":
        """After one more look at one version: is its share above a bound?

        Args:
            challenger: Totals now.
            most: The highest share that is tolerated.
        """
        block = challenger - self.challenger
        null = _inside(most)
        logs = tuple(
            log + _log_ratio(block, _inside(most + d), null)
            for log, d in zip(self.logs, EFFECTS, strict=True)
        )
        return Evidence(logs, self.champion, challenger)


def log_mean(logs: Sequence[float]) -> float:
    """Logarithm of the mean of what the logarithms are of."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))


def nearest(n_a: int, n_b: int, a: float, b: float, margin: float) -> float:
    """The θ°_a of the point (θ°_a, θ°_a + margin) that is nearest to (a, b).

    Least ``n_a KL(a ‖ θ) + n_b KL(b ‖ θ + margin)``; the divergence is convex, so its
    slope has one zero. Without a margin it is the weighted mean.

    Args:
        n_a: Size of the champion's block.
        n_b: Size of the challenger's block.
        a: The champion's share under the alternative.
        b: The challenger's; above ``a + margin``.
        margin: The hypothesis.
    """
    if not margin:
        return (n_a * a + n_b * b) / (n_a + n_b)

    def slope(at: float) -> float:
        shifted = at + margin
        of_a = n_a * (at - a) / (at * (1 - at))
        return of_a + n_b * (shifted - b) / (shifted * (1 - shifted))

    # Illinois' variant of regula falsi: the slope rises from below zero at a to above it at b.
    low, high = a, b - margin
    at_low, at_high = slope(low), slope(high)
    for _ in range(40):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        at_middle = slope(middle)
        if abs(at_middle) <= _FLAT * (n_a + n_b) or high - low <= _FLAT:
            return middle
        if at_middle < 0:
            low, at_low, at_high = middle, at_middle, at_high / 2
        else:
            high, at_high, at_low = middle, at_middle, at_low / 2
    return (low + high) / 2


def _factor(block_a: Counts, block_b: Counts, a: float, b: float, margin: float) -> float:
    """Logarithm of one block's factor for the alternative (a, b)."""
    if b <= a + margin:
        return 0.0
    null = nearest(block_a.trials, block_b.trials, a, b, margin)
    return _log_ratio(block_a, a, null) + _log_ratio(block_b, b, null + margin)


def _log_ratio(block: Counts, theta: float, null: float) -> float:
    misses = block.trials - block.hits
    return block.hits * math.log(theta / null) + misses * math.log((1 - theta) / (1 - null))


def _inside(share: float) -> float:
    return min(max(share, _LEAST), 1 - _LEAST)
