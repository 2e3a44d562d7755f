"""Figures of test items: one accuracy, the paired difference of two, tests of both, several seeds.

Both intervals invert a score test (Wilson for one proportion, Tango for the difference of two paired ones).
Answers are right or wrong, so the textbook t-interval over per-item differences has a hole: where every item
agrees, its variance is zero and it reports certainty from a handful of items. A score interval keeps the
width that the number of items allows, stays inside [-1, 1] and needs no special case.

They cover other pictures of the same categories; `finedefics.evaluation.clustered` covers other categories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from finedefics.errors import FinedeficsError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` items, with its interval; fractions, not percent."""

    mean: float
    low: float
    high: float
    n: int


def interval(correct: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """Accuracy with its Wilson score interval.

    Args:
        correct: [items] bool, whether each answer was right.
        confidence: coverage of the interval.

    Raises:
        FinedeficsError: there is no item, or a value is neither true nor false.
    """
    hits = answers_of(correct, "interval")
    test = binomtest(int(hits.sum()), len(hits))
    bounds = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Estimate(float(test.statistic), float(bounds.low), float(bounds.high), len(hits))


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """Accuracy of ``a`` minus accuracy of ``b`` on the same items, with Tango's score interval (1998).

    Only items on which the two disagree move the difference; those on which they agree narrow the interval.
    With no disagreement at all among n items it is ± z²/(n + z²): ± 3.8 points for 96 items, never zero.

    Args:
        a: [items] bool, whether each answer of one way was right.
        b: [items] bool, of the other way, the same items in the same order.
        confidence: coverage of the interval.

    Raises:
        FinedeficsError: there is no item, the lengths differ, or a value is neither true nor false.
    """
    left, right = pair_of(a, b, "paired_difference")
    n = len(left)
    gained, lost = int((left & ~right).sum()), int((right & ~left).sum())
    z = float(norm.ppf((1 + confidence) / 2))
    low, high = tango(gained, lost, n, z)
    return Estimate((gained - lost) / n, low, high, n)


@dataclass(frozen=True)
class McNemar:
    """Items that only one of two ways got right, and how likely so uneven a share of them is by chance.

    Attributes:
        gained: right by the first way alone.
        lost: right by the second way alone.
        p: two-sided; 1 where the two never disagree.
    """

    gained: int
    lost: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test (1947): were gains and losses equally likely, so many of either would be binomial.

    Args:
        a, b: [items] bool, whether each answer of a way was right, the same items in the same order.

    Raises:
        FinedeficsError: as `paired_difference`.
    """
    left, right = pair_of(a, b, "mcnemar")
    gained, lost = int((left & ~right).sum()), int((right & ~left).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p)


def better_than_chance(correct: ArrayLike, chance: float) -> float:
    """One-sided p of the exact binomial test: how likely guessing is right so often, or more often.

    Where items are guessed with different chances, the test with their mean errs less often than it says: of
    all chances with one mean, equal ones spread most (Hoeffding 1956).

    Args:
        correct: [items] bool.
        chance: mean share that guessing gets right, between 0 and 1.

    Raises:
        FinedeficsError: there is no item, or a value is neither true nor false.
    """
    hits = answers_of(correct, "better_than_chance")
    return float(binomtest(int(hits.sum()), len(hits), chance, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p of comparisons that were planned together, in their order.

    Calling those below 0.05 shown errs in any of them with a probability of 5 % at most, however they depend.
    """
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


@dataclass(frozen=True)
class Seeds:
    """A figure over trainings that differ in their seed alone.

    Attributes:
        low, high: Student's interval of the mean; None of one seed, and where all agree to the last item:
            shares of few items come in steps, so that a few seeds agree by chance.
        spread: standard deviation over the seeds (n-1); None of one seed.
        n: seeds.
    """

    mean: float
    low: float | None
    high: float | None
    spread: float | None
    n: int


def over_seeds(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Seeds:
    """Mean over seeds with its t-interval: what another seed would give on these very test items.

    Args:
        values: one figure a seed, at least one, of the same data and the same test items.
        confidence: coverage of the interval.

    Raises:
        FinedeficsError: there is no value, or one is not finite.
    """
    from scipy.stats import ttest_1samp

    found = np.asarray(values, float)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise FinedeficsError(
            f"figures of seeds {list(values)}", place="over_seeds", cure="give one finite figure a seed"
        )
    mean, n = float(found.mean()), len(found)
    spread = float(found.std(ddof=1)) if n > 1 else None
    if n < 2 or np.allclose(found, mean, rtol=0, atol=1e-12):
        return Seeds(mean, None, None, spread, n)
    bounds = ttest_1samp(found, 0.0).confidence_interval(confidence)
    return Seeds(mean, float(bounds.low), float(bounds.high), spread, n)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share of ``n`` items, which need not be whole, at a two-sided quantile."""
    square = quantile**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def tango(gained: float, lost: float, n: float, quantile: float) -> tuple[float, float]:
    """Tango's score interval of (gained - lost) / n; counts need not be whole."""
    # exchanging the two ways mirrors the interval, so the upper bound is a lower one seen from the other side
    return _tango_low(gained, lost, n, quantile), -_tango_low(lost, gained, n, quantile)


def _tango_low(gained: float, lost: float, n: float, z: float) -> float:
    """Smallest difference that a two-sided score test at ``z`` does not refuse."""
    if math.isclose(lost, n):
        return -1.0

    def excess(difference: float) -> float:
        # Tango (1998), eq. 7: the probability of "lost" that is likeliest under this difference
        linear = -gained - lost + (2 * n - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        loss = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * max(2 * loss + difference * (1 - difference), 0.0)
        return gained - lost - n * difference - z * math.sqrt(variance)

    # At the estimate itself the excess may be zero (no disagreement): a root, but not the one that is sought.
    return float(brentq(excess, -1.0, (gained - lost) / n - 1e-9))


def pair_of(a: ArrayLike, b: ArrayLike, place: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two ways' [items] answers as booleans; raises as `paired_difference`."""
    left, right = answers_of(a, place), answers_of(b, place)
    if len(left) != len(right):
        raise FinedeficsError(
            f"{len(left)} answers against {len(right)}",
            place=place,
            cure="give both the same items in the same order",
        )
    return left, right


def answers_of(values: ArrayLike, place: str) -> NDArray[np.bool_]:
    """[items] answers as booleans; raises as `interval`."""
    answers = np.asarray(values)
    if answers.ndim != 1 or not len(answers):
        raise FinedeficsError(
            f"answers of shape {answers.shape}",
            place=place,
            cure="give one answer for each of one or more items",
        )
    if answers.dtype != np.bool_ and not np.isin(answers, (0, 1)).all():
        raise FinedeficsError(
            "an answer is neither right nor wrong", place=place, cure="give booleans, not scores"
        )
    return answers.astype(np.bool_)
