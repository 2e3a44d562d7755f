"""Paired differences over worlds with Student's intervals, and Holm's correction of the planned ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finedefics.evaluation.statistics import CONFIDENCE, holm, over_seeds

__all__ = ["Difference", "harmonic", "holm", "mean_and_error", "paired"]


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences over ``n`` worlds; no interval and no p where their spread is not known.

    Of one world there is none. Where all differences are equal they have none either: shares of few pictures
    come in steps, so a few worlds agree to the last picture by chance, and an interval of no width would say
    that there is nothing left to know.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def paired(values: Sequence[float], others: Sequence[float]) -> Difference:
    """What the mean of the pairs' differences is, with its 95 % t-interval and two-sided p.

    Args:
        values, others: one figure a world each, in the same order; at least one.
    """
    from scipy.stats import ttest_rel

    differences = np.subtract(values, others)
    n, mean = len(differences), float(np.mean(differences))
    if n < 2 or np.allclose(differences, mean, rtol=0, atol=1e-12):
        return Difference(mean, None, None, None, n)
    test = ttest_rel(values, others)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue), n)


def mean_and_error(values: Sequence[float]) -> dict[str, float | int | None]:
    """``mean``, standard error ``se`` and ``half`` of the 95 % interval (None without spread), and ``n``."""
    found = over_seeds(values, confidence=CONFIDENCE)
    if found.low is None or found.high is None or found.spread is None:
        return {"mean": found.mean, "se": None, "half": None, "n": found.n}
    error = found.spread / math.sqrt(found.n)
    return {"mean": found.mean, "se": error, "half": (found.high - found.low) / 2, "n": found.n}


def harmonic(left: float, right: float) -> float:
    """Harmonic mean of two shares: near the smaller one; 0 where either is."""
    return 2 * left * right / (left + right) if left + right else 0.0
