"""Intervals over test items: one accuracy, and the paired difference of two.

Both invert a score test (Wilson for one proportion, Tango for the difference of two paired ones). Answers are
right or wrong, so the textbook t-interval over per-item differences has a hole: where every item agrees, its
variance is zero and it reports certainty from a handful of items. A score interval keeps the width that the
number of items allows, stays inside [-1, 1] and needs no special case.
"""

import math
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
    hits = _answers(correct, "interval")
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
    left, right = _answers(a, "paired_difference"), _answers(b, "paired_difference")
    if len(left) != len(right):
        raise FinedeficsError(
            f"{len(left)} answers against {len(right)}",
            place="paired_difference",
            cure="give both the same items in the same order",
        )
    n = len(left)
    gained, lost = int((left & ~right).sum()), int((right & ~left).sum())
    z = float(norm.ppf((1 + confidence) / 2))
    # exchanging the two ways mirrors the interval, so the upper bound is a lower one seen from the other side
    low, high = _tango_low(gained, lost, n, z), -_tango_low(lost, gained, n, z)
    return Estimate((gained - lost) / n, low, high, n)


def _tango_low(gained: int, lost: int, n: int, z: float) -> float:
    """Smallest difference that a two-sided score test at ``z`` does not refuse."""
    if lost == n:
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


def _answers(values: ArrayLike, place: str) -> NDArray[np.bool_]:
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
