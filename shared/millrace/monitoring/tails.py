"""How likely a statistic as large is by chance: the tails of a few distributions.

SciPy would bring 170 MB for four functions. Each of these is a sum of positive terms (or one whose terms
fall fast), so that little is lost to rounding: tests hold them to SciPy's within 1e-12.

Sources: DLMF is the NIST Digital Library of Mathematical Functions, https://dlmf.nist.gov.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

_NEGLIGIBLE: Final = 1e-18
_CHANGE: Final = 0.8
"""Where the one series of Kolmogorov's distribution converges as fast as the other."""
_TIE: Final = 1e-7
"""Probabilities that differ by less than this part are equal but for rounding (as in SciPy)."""


def chi2_tail(x: float, df: int) -> float:
    """The probability that a chi-squared variable with `df` degrees of freedom exceeds `x`.

    That is Q(df/2, x/2), the regularized incomplete gamma function, of which df/2 is an integer or a
    half: DLMF 8.8.6 ``Q(a + 1, z) = Q(a, z) + z^a e^-z / Γ(a + 1)``, from ``Q(1, z) = e^-z`` or
    ``Q(1/2, z) = erfc(√z)`` (DLMF 8.4.6). The terms are added from the largest to both sides.

    Args:
        x: The statistic, 0 or more.
        df: Degrees of freedom, 1 or more.
    """
    if x <= 0:
        return 1.0
    z = x / 2
    half = df % 2 / 2
    start = math.erfc(math.sqrt(z)) if half else 0.0
    # Term k is z^(k + half) e^-z / Γ(k + half + 1); for a half, Q begins a term later.
    last = (df - 2) // 2 if not half else (df - 3) // 2
    if last < 0:
        return start
    peak = min(last, max(0, math.floor(z - half)))
    at_peak = math.exp((peak + half) * math.log(z) - z - math.lgamma(peak + half + 1))
    total, term = at_peak, at_peak
    for k in range(peak, 0, -1):
        term *= (k + half) / z
        total += term
        if term < total * _NEGLIGIBLE:
            break
    term = at_peak
    for k in range(peak + 1, last + 1):
        term *= z / (k + half)
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return min(1.0, start + total)


def kolmogorov_tail(x: float) -> float:
    """The probability that Kolmogorov's limit distribution exceeds `x`.

    ``2 Σ (-1)^(k-1) e^(-2 k² x²)`` (Smirnov, "Table for estimating the goodness of fit of empirical
    distributions", Annals of Mathematical Statistics 19, 1948); for small `x`, where it converges
    slowly, its transform by the theta functions' imaginary period (DLMF 20.7.32),
    ``1 - √(2π)/x Σ e^(-(2k-1)² π² / (8 x²))``.

    Args:
        x: √(n m / (n + m)) times the greatest difference of two distribution functions.
    """
    if x <= 0:
        return 1.0
    if x < _CHANGE:
        step = -(math.pi**2) / (8 * x * x)
        terms = (math.exp((2 * k - 1) ** 2 * step) for k in range(1, 6))
        return 1.0 - math.sqrt(2 * math.pi) / x * math.fsum(terms)
    return 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 9))


def normal_tail(z: float) -> float:
    """The probability that a standard normal variable exceeds `z` (DLMF 7.1.2)."""
    return math.erfc(z / math.sqrt(2)) / 2


def fisher_tail(hits: int, rows: int, reference_hits: int, reference_rows: int) -> float:
    """Fisher's exact test of two shares, two-sided.

    The sum of the hypergeometric probabilities that are no greater than that of what was seen (Fisher
    1935; the two-sided form is Irwin's, Metron 12, 1935). The probabilities follow from one another,
    ``p(k+1)/p(k) = (K-k)(n-k) / ((k+1)(N-K-n+k+1))``, and are divided by their sum, so no
    factorial is needed.

    Args:
        hits: Of `rows`.
        rows: Of the window.
        reference_hits: Of `reference_rows`.
        reference_rows: Of the reference.
    """
    total, marked = rows + reference_rows, hits + reference_hits
    low, high = max(0, marked - reference_rows), min(rows, marked)
    if low == high:
        return 1.0
    k = np.arange(low, high, dtype=np.float64)
    ratios = (marked - k) * (rows - k) / ((k + 1) * (total - marked - rows + k + 1))
    # From the mode to both sides: the ratios fall, so what underflows does not matter.
    mode = int(np.searchsorted(-ratios, -1.0))
    up = np.cumprod(ratios[mode:])
    down = np.cumprod(1 / ratios[:mode][::-1])[::-1]
    chances = np.concatenate((down, [1.0], up))
    seen = chances[hits - low]
    return min(1.0, float(chances[chances <= seen * (1 + _TIE)].sum() / chances.sum()))


def adjusted(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """P-values corrected for their number: Benjamini and Hochberg's false discovery rate.

    ``min over j ≥ i of p(j) m / j`` in the order of size. Of all that is called a finding at a level, at
    most that share is expected to be none, as long as the tests are independent or depend on each other
    positively (Benjamini and Hochberg, Journal of the Royal Statistical Society B 57, 1995; Benjamini
    and Yekutieli, Annals of Statistics 29, 2001). Where nothing moved at all it is the probability of
    any finding.

    Args:
        p_values: In any order.

    Returns:
        In the same order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[::-1]
    ranks = len(p) - np.arange(len(p))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * (len(p) / ranks)))
    return corrected


def stepped_down(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """P-values corrected for their number, so that any finding at all is false that rarely.

    ``max over j ≤ i of p(j) (m - j + 1)`` in the order of size (Holm, Scandinavian Journal of Statistics
    6, 1979): Bonferroni's correction for the smallest, and of those that remain for each that is
    larger. It holds however the tests depend on each other, and finds whatever Bonferroni's does.

    Args:
        p_values: In any order.

    Returns:
        In the same order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    left = len(p) - np.arange(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * left))
    return corrected
