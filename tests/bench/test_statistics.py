"""How far every statistic of monitoring is from SciPy's or scikit-learn's: one table.

Each is computed on cases drawn anew, of few rows and many, alike and unlike; the figure is the greatest
difference, in units of the other's value where that is over 1. PSI against Evidently's, and whatever
needs its environment, is in `test_drift`; estimates without labels are in `test_performance_monitoring`.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
import scipy.integrate
import scipy.spatial.distance
import scipy.stats
from sklearn.decomposition import PCA
from sklearn.isotonic import IsotonicRegression

from millrace.evaluation.metrics import Outcome, compute
from millrace.monitoring import drift, tails
from millrace.monitoring.baseline import EncodedColumn, PrincipalComponents
from millrace.monitoring.encoding import reconstruction_errors
from millrace.monitoring.estimation import calibrated, fit_calibration
from millrace.monitoring.multivariate import reconstruction
from millrace.spec import Task
from tests.bench.measure import keep
from tests.unit.evaluation.test_metrics import BINARY, MULTICLASS, REGRESSION

CASES: Final = 300
EXACT: Final = 1e-12

type Dice = np.random.Generator
type Pairs = Iterator[tuple[Any, Any]]
"""Ours, and the other's."""


def rows_of(draw: Dice, least: int = 2) -> int:
    """Few, or many."""
    return int(least * 10 ** draw.uniform(0, 3))


def counts(draw: Dice) -> tuple[Any, Any]:
    """Two counts over the same bins, none of which is empty in both."""
    bins = int(draw.integers(2, 60))
    shares = draw.dirichlet(np.full(bins, 2.0))
    other = shares if draw.random() < 0.5 else draw.dirichlet(np.full(bins, 2.0))
    one, two = (draw.multinomial(rows_of(draw, 50), s) for s in (shares, other))
    seen = one + two > 0
    one[np.flatnonzero(seen)[0]] += 1
    return one[seen], two[seen]


def samples(draw: Dice) -> tuple[Any, Any]:
    """Two samples, with ties and without, moved and not."""
    digits = int(draw.integers(0, 15))
    one, two = (draw.normal(m, 1, rows_of(draw)) for m in (0.0, draw.choice([0.0, 0.1, 2.0])))
    return one.round(digits), two.round(digits)


def psi(draw: Dice) -> Pairs:
    """Against both relative entropies."""
    one, two = (c + 1 for c in counts(draw))
    p, q = one / one.sum(), two / two.sum()
    yield drift.psi(one, two).value, scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p)


def chi2(draw: Dice) -> Pairs:
    """Against the contingency test."""
    one, two = counts(draw)
    theirs = scipy.stats.chi2_contingency([one, two], correction=False)
    yield drift.chi2(one, two).value, theirs.statistic


def chi2_p(draw: Dice) -> Pairs:
    """Its p-value."""
    one, two = counts(draw)
    yield (
        drift.chi2(one, two).p_value,
        scipy.stats.chi2_contingency([one, two], correction=False).pvalue,
    )


def jensen_shannon(draw: Dice) -> Pairs:
    """In bits, in nats and in tens."""
    one, two = counts(draw)
    for base in (2.0, math.e, 10.0):
        theirs = scipy.spatial.distance.jensenshannon(one, two, base)
        # The squares: near zero, a root makes much of what rounding leaves.
        yield drift.jensen_shannon(one, two, base=base).value ** 2, theirs**2


def ks(draw: Dice) -> Pairs:
    """The statistic, of samples and of counts: to be in a bin is to be its number."""
    one, two = samples(draw)
    yield drift.ks(one, two).value, scipy.stats.ks_2samp(one, two, method="asymp").statistic
    one, two = counts(draw)
    two[0] += 1
    binned = (np.repeat(np.arange(len(c)), c) for c in (one, two))
    yield drift.ks_binned(one, two).value, scipy.stats.ks_2samp(*binned, method="asymp").statistic


def ks_p(draw: Dice) -> Pairs:
    """Its p-value, of the limit distribution."""
    one, two = samples(draw)
    found = drift.ks(one, two)
    root = math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    yield found.p_value, scipy.stats.kstwobign.sf(root * found.value)


def wasserstein(draw: Dice) -> Pairs:
    """Of samples."""
    one, two = samples(draw)
    yield drift.wasserstein(one, two).value, scipy.stats.wasserstein_distance(one, two)


def wasserstein_binned(draw: Dice) -> Pairs:
    """Of counts, against the area between both functions, integrated numerically."""
    one, two = counts(draw)
    two[0] += 1
    edges = np.cumsum(np.concatenate(([draw.normal()], draw.gamma(2, 1, len(one)))))
    apart = np.concatenate(([0.0], np.cumsum(one / one.sum() - two / two.sum())))
    area = 0.0
    for place in range(len(one)):
        begin, end, width = apart[place], apart[place + 1], edges[place + 1] - edges[place]
        roots = [begin / (begin - end)] if begin * end < 0 else None
        area += width * float(
            scipy.integrate.quad(
                lambda x, b=begin, e=end: abs(b + (e - b) * x), 0, 1, points=roots
            )[0]
        )
    yield drift.wasserstein_binned(one, two, edges).value, area


def shares(draw: Dice) -> Pairs:
    """The test of two shares, exact where they are small."""
    rows, others = rows_of(draw, 20), rows_of(draw, 20)
    hits = int(draw.binomial(rows, 0.02))
    other = int(draw.binomial(others, draw.choice([0.02, 0.05])))
    found = drift.share_difference(hits, rows, other, others)
    table = [[hits, rows - hits], [other, others - other]]
    if found.parameters["test"] == "fisher":
        # In whole numbers: of many rows SciPy's own sum is some 1e-11 off.
        marked = hits + other
        ways = {
            k: math.comb(rows, k) * math.comb(others, marked - k)
            for k in range(max(0, marked - others), min(rows, marked) + 1)
        }
        rare = sum(way for way in ways.values() if way <= ways[hits])
        yield found.p_value, float(Fraction(rare, sum(ways.values())))
        yield found.p_value, scipy.stats.fisher_exact(table)[1]
    else:
        yield found.p_value, scipy.stats.chi2_contingency(table, correction=False).pvalue


def corrections(draw: Dice) -> Pairs:
    """Benjamini's and Hochberg's."""
    p_values = draw.random(int(draw.integers(1, 80))) ** draw.integers(1, 6)
    theirs = scipy.stats.false_discovery_control(p_values)
    yield from zip(tails.adjusted(p_values.tolist()), theirs, strict=True)


def rebuilt(draw: Dice) -> Pairs:
    """Distances of rows from principal components."""
    columns = int(draw.integers(3, 12))
    rows = draw.normal(size=(int(draw.integers(50, 500)), columns)) @ draw.normal(
        size=(columns, columns)
    )
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    standard = (rows - mean) / std
    fitted = PCA(n_components=columns // 2 or 1).fit(standard)
    names = [f"n{i}" for i in range(columns)]
    components = PrincipalComponents(
        columns=tuple(
            EncodedColumn(feature=n, category=None, mean=float(m), scale=float(s))
            for n, m, s in zip(names, mean, std, strict=True)
        ),
        components=tuple(tuple(axis) for axis in fitted.components_.tolist()),
        explained=float(fitted.explained_variance_ratio_.sum()),
        rows=len(rows),
        error_mean=1.0,
        error_std=1.0,
    )
    ours = reconstruction_errors(components, {n: rows[:, i].tolist() for i, n in enumerate(names)})
    theirs = np.linalg.norm(standard - fitted.inverse_transform(fitted.transform(standard)), axis=1)
    yield from zip(ours, theirs, strict=True)


def welch(draw: Dice) -> Pairs:
    """The statistic of two means, by its p-value."""
    before, now = draw.gamma(4, 1, 2_000), draw.gamma(4, draw.choice([1.0, 1.05]), 500)
    found = reconstruction(
        now, mean=float(before.mean()), std=float(before.std(ddof=1)), rows=len(before)
    )
    theirs = scipy.stats.ttest_ind(now, before, equal_var=False).statistic
    yield found.p_value, 2 * scipy.stats.norm.sf(abs(theirs))


def isotonic(draw: Dice) -> Pairs:
    """The map from scores to probabilities, which the baseline keeps in nine digits."""
    scores = np.repeat(np.linspace(0.02, 0.98, 60), 50)
    hits = draw.random(len(scores)) < scores**2
    ours = calibrated((fit_calibration(scores, hits),), np.column_stack([1 - scores, scores]))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, hits.astype(float))
    yield from zip(ours[:, 1], theirs.predict(scores), strict=True)


def outcome(task: Task, draw: Dice) -> Outcome:
    """Rows of a task, with ties."""
    rows = rows_of(draw, 20)
    if task is Task.REGRESSION:
        truth = draw.normal(100, 20, rows)
        return Outcome(task, truth, truth + draw.normal(0, 5, rows))
    classes = 2 if task is Task.BINARY else int(draw.integers(3, 7))
    output = draw.dirichlet(np.full(classes, 0.7), rows).round(int(draw.integers(2, 9))) + 1e-3
    output /= output.sum(axis=1, keepdims=True)
    truth = (output.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1).clip(0, classes - 1)
    truth[:classes] = np.arange(classes)
    return Outcome(task, truth.astype(np.int64), output)


def metric(task: Task, name: str, theirs: Callable[..., float]) -> Callable[[Dice], Pairs]:
    """One metric of the gates, plain and weighted."""

    def compared(draw: Dice) -> Pairs:
        made = outcome(task, draw)
        yield compute(name, made), theirs(made, None)
        weights = draw.integers(1, 5, made.rows).astype(np.float64)
        yield compute(name, made, weights), theirs(made, weights)

    return compared


COMPARED: Final[dict[str, tuple[Callable[[Dice], Pairs], float]]] = {
    "psi": (psi, EXACT),
    "chi-squared": (chi2, EXACT),
    "chi-squared, p": (chi2_p, EXACT),
    "jensen-shannon, squared": (jensen_shannon, EXACT),
    "kolmogorov-smirnov": (ks, EXACT),
    "kolmogorov-smirnov, p": (ks_p, EXACT),
    "wasserstein": (wasserstein, EXACT),
    "wasserstein of counts": (wasserstein_binned, EXACT),
    "two shares, p": (shares, EXACT),
    "benjamini-hochberg": (corrections, EXACT),
    "reconstruction error": (rebuilt, EXACT),
    "reconstruction error, p": (welch, EXACT),
    # Knots are kept in nine digits, so that the baseline's bytes are the same on every machine.
    "isotonic calibration": (isotonic, 1e-8),
} | {
    f"{name}, {task.value}": (metric(task, name, theirs), EXACT)
    for task, oracles in (
        (Task.BINARY, BINARY),
        (Task.MULTICLASS, MULTICLASS),
        (Task.REGRESSION, REGRESSION),
    )
    for name, theirs in oracles.items()
}


@pytest.mark.filterwarnings("ignore::scipy.stats.DegenerateDataWarning")
@pytest.mark.parametrize("name", COMPARED)
def test_a_statistic_is_scipys_or_scikit_learns(name: str) -> None:
    compared, most = COMPARED[name]
    draw = np.random.default_rng(17)
    pairs = np.array([pair for _ in range(CASES) for pair in compared(draw)], dtype=np.float64)

    ours, theirs = pairs.T
    apart = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
    print(f"\n{name}: {apart.max():.1e} at most, of {len(pairs):,} values", end="")
    keep(f"statistic {name}", {"greatest": float(apart.max()), "values": len(pairs)})

    assert np.ptp(theirs) > 0, "cases of one value alone show nothing"
    assert apart.max() <= most
