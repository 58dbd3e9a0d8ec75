"""How much two distributions differ: small pure functions on counts per bin, or on samples.

`reference` and `window` are counts over the same bins (`counted` makes them of samples), in the bins'
order where the quantity has one. A result tells how it was made, since a PSI depends on its bins and
a Jensen-Shannon distance on its logarithm.

**What counts cost.** PSI, chi-squared and Jensen-Shannon are defined on bins: of samples they are what
they are of these samples' counts (`bound` 0), and a finer binning gives no less of PSI and
Jensen-Shannon, since both are f-divergences (Csiszár 1967). Kolmogorov-Smirnov and Wasserstein are
defined on samples, and their `bound` says how far the one of the counts may be from it: see `ks_binned`
and `wasserstein_binned`. Values beyond the outer edges count into the outer bins; the bounds then hold
for the samples with these values moved to the edge.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millrace.monitoring.findings import Parameter, StatisticValue
from millrace.monitoring.tails import chi2_tail, fisher_tail, kolmogorov_tail

type Counts = npt.NDArray[np.integer[Any] | np.floating[Any]]
type Samples = npt.NDArray[np.integer[Any] | np.floating[Any]]

FEW: Final = 5.0
"""Least expected count of a bin for which chi-squared's distribution holds (Cochran 1952)."""
_EXACT: Final = 20.0
"""Below this expected count, two shares are compared by Fisher's exact test."""


def counted(samples: Samples, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Samples per bin; bin i is [edges[i], edges[i+1]), the last closed, as in a profile.

    Args:
        samples: Finite numbers.
        edges: Rising, one more than bins; a single edge makes a single bin.
    """
    bins = max(1, len(edges) - 1)
    places = np.searchsorted(edges[1:-1], samples, side="right")
    return np.bincount(places, minlength=bins).astype(np.int64)


def psi(
    reference: Counts, window: Counts, *, smoothing: float = 0.0, floor: float | None = None
) -> StatisticValue:
    """Population stability index: ``Σ (q - p) ln(q / p)`` over the shares of the bins.

    It is Jeffreys' divergence, the sum of both Kullback-Leibler divergences (Jeffreys, Proceedings of
    the Royal Society A 186, 1946); the name and the rule of thumb of 0.1 and 0.25 are of credit
    scoring (Siddiqi, "Credit Risk Scorecards", 2006), and say nothing of the sample: see `psi_by_chance`.

    Args:
        reference: Counts.
        window: Counts over the same bins.
        smoothing: Added to every count, so that an empty bin does not make it infinite.
        floor: Instead, the share that stands for an empty bin's (as Evidently does, with 0.0001).
    """
    p, q = _shares(reference, smoothing), _shares(window, smoothing)
    if floor is not None:
        p, q = np.where(p == 0, floor, p), np.where(q == 0, floor, q)
    parameters: dict[str, Parameter] = {"bins": len(p), "smoothing": smoothing}
    if floor is not None:
        parameters["floor"] = floor
    occupied = (p > 0) | (q > 0)
    p, q = p[occupied], q[occupied]
    with np.errstate(divide="ignore"):
        value = float(np.sum((q - p) * (np.log(q) - np.log(p))))
    return StatisticValue("psi", value, bound=0.0, parameters=parameters)


def psi_by_chance(bins: int, reference_rows: int, window_rows: int) -> float:
    """The mean of PSI when nothing differs: ``(B - 1)(1/n + 1/m)``.

    PSI is then (1/n + 1/m) times a chi-squared variable with B - 1 degrees of freedom, as both rows
    grow (Yurdakul, "Statistical properties of the population stability index", 2018).

    Args:
        bins: How many.
        reference_rows: Rows of the reference.
        window_rows: Rows of the window.
    """
    return (bins - 1) * (1 / reference_rows + 1 / window_rows)


def chi2(reference: Counts, window: Counts) -> StatisticValue:
    """Pearson's chi-squared test of a table of two rows: both are samples.

    The reference is not exact: to hold the window against its shares as if they were the truth (the
    goodness-of-fit form) gives false alarms in a quarter of the windows at a nominal 5 %, when both are
    of the same size (Pearson 1911; Cochran 1952).

    Args:
        reference: Counts.
        window: Counts over the same bins; bins that are empty in both do not count.
    """
    table = np.vstack((reference, window)).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    rows = table.sum(axis=1)
    df = table.shape[1] - 1
    if df < 1 or not rows.all():
        return StatisticValue("chi2", 0.0, 1.0, 0.0, {"df": 0, "form": "contingency"})
    expected = rows[:, None] * (table.sum(axis=0) / rows.sum())
    value = float((np.square(table - expected) / expected).sum())
    parameters: dict[str, Parameter] = {
        "df": df,
        "form": "contingency",
        "least_expected": float(expected.min()),
    }
    return StatisticValue("chi2", value, chi2_tail(value, df), 0.0, parameters)


def merged(
    reference: Counts, window: Counts, *, ordered: bool, least: float = FEW
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts with sparse bins put together, so that chi-squared's distribution holds.

    Which bins are sparse is told by both rows together, so the test stays a test. A bin of an ordered
    quantity joins its neighbour; all sparse categories become one.

    Args:
        reference: Counts.
        window: Counts over the same bins.
        ordered: Whether the bins have an order.
        least: Least count to expect of the smaller of the two in a bin.
    """
    one, two = np.asarray(reference, dtype=np.float64), np.asarray(window, dtype=np.float64)
    smaller = min(one.sum(), two.sum())
    expected = (one + two) * (smaller / max(1.0, one.sum() + two.sum()))
    if not (expected < least).any():
        return one, two
    if not ordered:
        sparse = expected < least
        if expected[sparse].sum() < least and not sparse.all():
            # Too few together as well: they join the least of the others.
            sparse[np.where(sparse, np.inf, expected).argmin()] = True
        return (
            np.append(one[~sparse], one[sparse].sum()),
            np.append(two[~sparse], two[sparse].sum()),
        )
    starts: list[int] = [0]
    filled = 0.0
    for place, part in enumerate(expected.tolist()):
        if filled >= least:
            starts.append(place)
            filled = 0.0
        filled += part
    if filled < least and len(starts) > 1:
        starts.pop()
    return np.add.reduceat(one, starts), np.add.reduceat(two, starts)


def jensen_shannon(reference: Counts, window: Counts, *, base: float = 2.0) -> StatisticValue:
    """Jensen-Shannon distance: the root of the mean divergence of both from their mean.

    A metric (Endres and Schindelin, IEEE Transactions on Information Theory 49, 2003; the divergence is
    Lin's, ibid. 37, 1991). With base 2 it is 1 for distributions that have nothing in common; with
    base e the same difference reads 0.83 times as large.

    Args:
        reference: Counts.
        window: Counts over the same bins.
        base: Of the logarithm; recorded.
    """
    p, q = _shares(reference), _shares(window)
    middle = (p + q) / 2
    divergence = (_kullback(p, middle) + _kullback(q, middle)) / 2
    value = math.sqrt(max(0.0, divergence / math.log(base)))
    parameters: dict[str, Parameter] = {"bins": len(p), "base": base, "form": "distance"}
    return StatisticValue("jensen_shannon", value, bound=0.0, parameters=parameters)


def ks(reference: Samples, window: Samples) -> StatisticValue:
    """Kolmogorov-Smirnov: the greatest difference of two samples' distribution functions.

    The p-value is the limit distribution's (Smirnov 1948); of small samples it is somewhat too large,
    that is, careful.

    Args:
        reference: Finite numbers.
        window: Finite numbers.
    """
    one, two = np.sort(reference), np.sort(window)
    both = np.concatenate((one, two))
    below = np.searchsorted(one, both, side="right") / len(one)
    value = float(np.abs(below - np.searchsorted(two, both, side="right") / len(two)).max())
    p_value = kolmogorov_tail(math.sqrt(_effective(len(one), len(two))) * value)
    return StatisticValue("ks", value, p_value, parameters={"of": "samples"})


def ks_binned(reference: Counts, window: Counts) -> StatisticValue:
    """Kolmogorov-Smirnov of counts: the greatest difference at the bins' edges.

    Within a bin the functions F and G only rise, so that of the samples is at least this, and at most
    ``max over bins of max(F(end) - G(begin), G(end) - F(begin))``: `bound` is what is between.
    The p-value is thus too large rather than too small.

    Args:
        reference: Counts in the bins' order.
        window: Counts over the same bins.
    """
    f, g = np.cumsum(_shares(reference)), np.cumsum(_shares(window))
    f_before, g_before = np.concatenate(([0.0], f[:-1])), np.concatenate(([0.0], g[:-1]))
    value = float(np.abs(f - g).max())
    most = float(np.maximum(f - g_before, g - f_before).max())
    rows = float(np.sum(reference)), float(np.sum(window))
    return StatisticValue(
        "ks",
        value,
        kolmogorov_tail(math.sqrt(_effective(*rows)) * value),
        max(0.0, most - value),
        {"of": "counts", "bins": len(f)},
    )


def wasserstein(reference: Samples, window: Samples, *, scale: float = 1.0) -> StatisticValue:
    """Wasserstein-1 distance: the area between two samples' distribution functions.

    In one dimension the least cost of moving the one to the other (Vallender, Theory of Probability
    and Its Applications 18, 1974).

    Args:
        reference: Finite numbers.
        window: Finite numbers.
        scale: Divides it; the reference's standard deviation makes it free of units. Recorded.
    """
    one, two = np.sort(reference), np.sort(window)
    both = np.sort(np.concatenate((one, two)))
    begins = both[:-1]
    f = np.searchsorted(one, begins, side="right") / len(one)
    g = np.searchsorted(two, begins, side="right") / len(two)
    value = float(np.sum(np.abs(f - g) * np.diff(both))) / scale
    return StatisticValue("wasserstein", value, parameters={"of": "samples", "scale": scale})


def wasserstein_binned(
    reference: Counts, window: Counts, edges: npt.NDArray[np.float64], *, scale: float = 1.0
) -> StatisticValue:
    """Wasserstein-1 distance of counts, spread evenly within each bin.

    To spread the share p of a bin of width w costs at most p w / 2, so that of the samples is within
    ``Σ (p + q) w / 2`` of this (the triangle inequality, twice): `bound`.

    Args:
        reference: Counts in the bins' order.
        window: Counts over the same bins.
        edges: Of the bins, one more than bins.
        scale: As for `wasserstein`.
    """
    p, q = _shares(reference), _shares(window)
    widths = np.diff(edges)
    end = np.cumsum(p - q)
    begin = np.concatenate(([0.0], end[:-1]))
    # Between two edges the difference is a straight line, which may cross zero.
    same = begin * end >= 0
    sizes = np.abs(begin) + np.abs(end)
    crossing = (begin**2 + end**2) / np.where(sizes > 0, sizes, 1.0)
    value = float(np.sum(widths * np.where(same, sizes, crossing)) / 2) / scale
    bound = float(np.sum((p + q) * widths) / 2) / scale
    parameters: dict[str, Parameter] = {"of": "counts", "bins": len(p), "scale": scale}
    return StatisticValue("wasserstein", value, bound=bound, parameters=parameters)


def share_difference(
    hits: int, rows: int, reference_hits: int, reference_rows: int
) -> StatisticValue:
    """The difference of two shares, the window's less the reference's.

    By chi-squared, or by Fisher's exact test where some count to expect is small: a reference without
    any missing value says less than that there never is one.

    Args:
        hits: Of the window's rows.
        rows: The window's.
        reference_hits: Of the reference's rows.
        reference_rows: The reference's.
    """
    value = hits / rows - reference_hits / reference_rows
    total, marked = rows + reference_rows, hits + reference_hits
    least = min(rows, reference_rows) * min(marked, total - marked) / total
    if least < _EXACT:
        p_value = fisher_tail(hits, rows, reference_hits, reference_rows)
        return StatisticValue("share", value, p_value, 0.0, {"test": "fisher"})
    tested = chi2(
        np.array([reference_hits, reference_rows - reference_hits]), np.array([hits, rows - hits])
    )
    return StatisticValue("share", value, tested.p_value, 0.0, {"test": "chi2"})


def _effective(n: float, m: float) -> float:
    return n * m / (n + m)


def _shares(counts: Counts, smoothing: float = 0.0) -> npt.NDArray[np.float64]:
    smoothed = np.asarray(counts, dtype=np.float64) + smoothing
    return smoothed / smoothed.sum()


def _kullback(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))
