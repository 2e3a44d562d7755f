"""Intervals clustered by category: for a claim about other categories too, not about other pictures alone.

Pictures of one category are right or wrong together, so they say less of a category that nobody tested than
as many independent pictures would. How much less is the design effect: the cluster-robust variance of the
mean (Liang and Zeger 1986, with the factor G/(G-1) for G clusters) over that of independent pictures. The
counts divided by it are the independent pictures that this test is worth (Rao and Scott 1992). A score
interval of so many, with Student's quantile on G-1 degrees of freedom (Korn and Graubard 1998), is Wilson's
for one accuracy and Tango's for a paired difference.

Not the plain t-interval with the cluster-robust variance: at accuracies near 0 or 1, or with few categories,
it holds the truth far less often than it says, and it has no width where every picture is right.
`docs/statistics.md` has the simulation.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from finedefics.errors import FinedeficsError
from finedefics.evaluation.statistics import CONFIDENCE, answers_of, pair_of, tango, wilson

FEW = 20  # clusters; of fewer the variance between them is itself a guess (Cameron and Miller 2015, VI)


@dataclass(frozen=True)
class ClusteredEstimate:
    """A mean over ``n`` items of so many ``clusters``; fractions, not percent.

    Attributes:
        low, high: interval over draws of clusters and of their items; None of one cluster.
        effective: independent items that the ``n`` are worth; None of one cluster.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    effective: float | None

    @property
    def few(self) -> bool:
        """Whether there are too few clusters to trust the interval's width."""
        return self.clusters < FEW


def clustered_interval(
    correct: ArrayLike, clusters: ArrayLike, *, confidence: float = CONFIDENCE
) -> ClusteredEstimate:
    """Accuracy with an interval that covers other categories of the same kind as well.

    It is never narrower than independent pictures would make it. Where all answers are right, or all wrong,
    nothing shows how alike a category's pictures are, and each category counts as one.

    Args:
        correct: [items] bool, whether each answer was right.
        clusters: [items] which category each is of: ids or numbers.
        confidence: coverage of the interval.

    Raises:
        FinedeficsError: there is no item, a value is neither true nor false, or the lengths differ.
    """
    hits = answers_of(correct, "clustered_interval")
    number, count = _numbered(clusters, len(hits), "clustered_interval")
    mean, n = float(hits.mean()), len(hits)
    if count < 2:
        return ClusteredEstimate(mean, None, None, n, count, None)
    effective = n / _design_effect(hits.astype(float), number, count)
    low, high = wilson(mean, effective, _quantile(confidence, count))
    return ClusteredEstimate(mean, low, high, n, count, effective)


def clustered_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, *, confidence: float = CONFIDENCE
) -> ClusteredEstimate:
    """Accuracy of ``a`` minus accuracy of ``b`` on the same items, clustered by their categories.

    Args:
        a, b: [items] bool, whether each answer of a way was right, the same items in the same order.
        clusters: [items] which category each is of.
        confidence: coverage of the interval.

    Raises:
        FinedeficsError: as `clustered_interval`.
    """
    left, right = pair_of(a, b, "clustered_difference")
    number, count = _numbered(clusters, len(left), "clustered_difference")
    change = left.astype(float) - right
    mean, n = float(change.mean()), len(change)
    if count < 2:
        return ClusteredEstimate(mean, None, None, n, count, None)
    effect = _design_effect(change, number, count)
    gained, lost = float((change > 0).sum()), float((change < 0).sum())
    low, high = tango(gained / effect, lost / effect, n / effect, _quantile(confidence, count))
    return ClusteredEstimate(mean, low, high, n, count, n / effect)


def clustered_mcnemar(a: ArrayLike, b: ArrayLike, clusters: ArrayLike) -> float | None:
    """Two-sided p that neither way is better on categories of this kind; None of one cluster.

    McNemar's statistic with the disagreements divided by the design effect, on Student's distribution with
    G-1 degrees of freedom: it is below 0.05 where `clustered_difference` leaves out zero at 95 %.

    Raises:
        FinedeficsError: as `clustered_interval`.
    """
    left, right = pair_of(a, b, "clustered_mcnemar")
    number, count = _numbered(clusters, len(left), "clustered_mcnemar")
    change = left.astype(float) - right
    if count < 2:
        return None
    if not (apart := float(np.abs(change).sum())):
        return 1.0
    statistic = abs(change.sum()) / math.sqrt(apart * _design_effect(change, number, count))
    return float(2 * t.sf(statistic, count - 1))


def clustered_variance(values: ArrayLike, clusters: ArrayLike) -> float:
    """Variance of the mean of [items] values, robust to any dependence within a cluster.

    With u_g the sum over cluster g of (value - mean): G/(G-1) · Σ u_g² / n². It is what an ordinary
    regression on a constant gives with `cov_type="cluster"` in statsmodels.

    Raises:
        FinedeficsError: there are fewer than two clusters, or not one for each item.
    """
    found = np.asarray(values, float)
    number, count = _numbered(clusters, len(found), "clustered_variance")
    if count < 2:
        raise FinedeficsError(
            "one cluster, and a variance between clusters needs two",
            place="clustered_variance",
            cure="evaluate on at least two categories",
        )
    return _variance(found, number, count)


def _variance(values: NDArray[np.float64], number: NDArray[np.intp], count: int) -> float:
    sums = np.bincount(number, weights=values - values.mean(), minlength=count)
    return float(count / (count - 1) * (sums**2).sum() / len(values) ** 2)


def _design_effect(values: NDArray[np.float64], number: NDArray[np.intp], count: int) -> float:
    """How many dependent items are worth one; at least 1, and at most so many that each cluster is one item
    where the values do not differ at all."""
    independent = float(values.var()) / len(values)
    if math.isclose(independent, 0.0, abs_tol=1e-18):
        return len(values) / count
    return max(1.0, _variance(values, number, count) / independent)


def _quantile(confidence: float, count: int) -> float:
    return float(t.ppf((1 + confidence) / 2, count - 1))


def _numbered(clusters: ArrayLike, n: int, place: str) -> tuple[NDArray[np.intp], int]:
    """Each item's cluster as a number, and how many there are."""
    named = np.asarray(clusters)
    if named.ndim != 1 or len(named) != n:
        raise FinedeficsError(
            f"{n} answers and categories of shape {named.shape}",
            place=place,
            cure="give one category for each answer",
        )
    # categories that are missing (None) cannot be sorted with names: as text they are one of their own
    names, number = np.unique(named.astype(str) if named.dtype == object else named, return_inverse=True)
    return number, len(names)
