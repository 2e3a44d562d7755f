"""Paired differences over worlds with Student's intervals, and Holm's correction of the planned ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p of comparisons that were planned together, in their order."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def mean_and_error(values: Sequence[float]) -> dict[str, float | int | None]:
    """``mean``, standard error ``se`` and ``half`` of the 95 % interval (None without spread), and ``n``."""
    from scipy.stats import t

    n = len(values)
    if n < 2 or np.allclose(values, values[0], rtol=0, atol=1e-12):
        return {"mean": float(np.mean(values)), "se": None, "half": None, "n": n}
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return {"mean": float(np.mean(values)), "se": error, "half": half, "n": n}


def harmonic(left: float, right: float) -> float:
    """Harmonic mean of two shares: near the smaller one; 0 where either is."""
    return 2 * left * right / (left + right) if left + right else 0.0
