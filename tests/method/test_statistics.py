"""Intervals: published values, the edges where a t-interval lies, and coverage by simulation."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binom, norm, t
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from finedefics.errors import FinedeficsError
from finedefics.evaluation.statistics import (
    Estimate,
    Seeds,
    better_than_chance,
    holm,
    interval,
    mcnemar,
    over_seeds,
    paired_difference,
    wilson,
)

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def of_counts(gained: int, lost: int, n: int, both: int = 0) -> Estimate:
    left = np.zeros(n, bool)
    right = np.zeros(n, bool)
    left[:gained] = True
    right[gained : gained + lost] = True
    left[gained + lost : gained + lost + both] = right[gained + lost : gained + lost + both] = True
    return paired_difference(left, right)


def test_one_proportion_is_wilsons() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263
    estimate = interval([True] * 81 + [False] * 182)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (0.2553, 0.3662)
    assert (estimate.mean, estimate.n) == (81 / 263, 263)


def test_nothing_right_is_not_certainty() -> None:
    estimate = interval(np.zeros(96, bool))
    assert estimate.low == 0.0
    assert 0.03 < estimate.high < 0.05


def test_paired_difference_is_tangos() -> None:
    # Fagerland, Lydersen and Laake (2014), airway reactivity: 1 gained, 7 lost among 21 pairs
    estimate = of_counts(1, 7, 21, both=1)
    assert (round(estimate.low, 3), round(estimate.high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (0, 0, 96), (5, 0, 40), (73, 1, 96)])
def test_bounds_are_where_the_score_test_just_refuses(gained: int, lost: int, n: int) -> None:
    """With the likelihood maximised by search, not in closed form, the statistic is 1.96 there."""
    estimate = of_counts(gained, lost, n)
    for bound in (estimate.low, estimate.high):

        def cost(loss: float, bound: float = bound) -> float:
            shares = np.array([loss + bound, loss, 1 - 2 * loss - bound])
            counts = np.array([gained, lost, n - gained - lost])
            return -float(xlogy(counts, np.maximum(shares, 1e-300)).sum())

        limits = (max(0.0, -bound), (1 - bound) / 2)
        loss = minimize_scalar(cost, bounds=limits, method="bounded", options={"xatol": 1e-10}).x
        spread = math.sqrt((2 * loss + bound - bound**2) / n)
        assert abs((gained - lost) / n - bound) / spread == pytest.approx(1.959964, rel=1e-3)


@pytest.mark.parametrize("both", [0, 48, 96])
def test_full_agreement_keeps_the_width_of_its_items(both: int) -> None:
    estimate = of_counts(0, 0, 96, both=both)
    z = 1.959964
    assert estimate.mean == 0.0
    assert estimate.high == pytest.approx(z**2 / (96 + z**2), abs=1e-6)
    assert estimate.low == -estimate.high


def test_a_difference_on_every_item_is_not_certainty() -> None:
    estimate = of_counts(96, 0, 96)
    assert estimate.mean == estimate.high == 1.0
    assert 0.9 < estimate.low < 1.0
    assert of_counts(0, 96, 96).high == -estimate.low


@given(pairs)
def test_interval_holds_the_mean_and_stays_in_range(items: list[tuple[bool, bool]]) -> None:
    left, right = np.array(items).T
    estimate = paired_difference(left, right)
    assert estimate.mean == pytest.approx(left.mean() - right.mean())
    assert -1 <= estimate.low <= estimate.mean + 1e-9
    assert estimate.mean - 1e-9 <= estimate.high <= 1
    assert estimate.high - estimate.low > 1 / (len(items) + 4)  # never certain
    alone = interval(left)
    assert 0 <= alone.low <= alone.mean + 1e-9
    assert alone.mean - 1e-9 <= alone.high <= 1


@given(pairs)
def test_exchange_mirrors_and_order_does_not_matter(items: list[tuple[bool, bool]]) -> None:
    left, right = np.array(items).T
    there, back = paired_difference(left, right), paired_difference(right, left)
    assert (there.low, there.high) == (-back.high, -back.low)
    order = np.random.default_rng(len(items)).permutation(len(items))
    assert paired_difference(left[order], right[order]) == there


@given(st.integers(1, 60), st.integers(0, 60))
@settings(max_examples=40)
def test_more_of_the_same_items_narrow_the_interval(gained: int, lost: int) -> None:
    once, twice = of_counts(gained, lost, 130), of_counts(2 * gained, 2 * lost, 260)
    assert twice.high - twice.low < once.high - once.low


def test_higher_confidence_is_wider() -> None:
    left, right = np.array([True, True, False] * 20), np.array([True, False, False] * 20)
    usual, sure = paired_difference(left, right), paired_difference(left, right, confidence=0.99)
    assert sure.low < usual.low
    assert usual.high < sure.high


@pytest.mark.parametrize(("gain", "loss"), [(0.0, 0.0), (0.02, 0.01), (0.1, 0.1), (0.3, 0.05), (0.9, 0.0)])
def test_coverage_over_test_sets_of_a_demo(gain: float, loss: float) -> None:
    """About 95 of 100 intervals of 96 items hold the truth; a t-interval falls to 90 in the second case."""
    rng = np.random.default_rng(7)
    bounds = cache(lambda gained, lost: of_counts(gained, lost, 96))
    draws = rng.multinomial(96, [gain, loss, 1 - gain - loss], size=4000)
    estimates = [bounds(int(gained), int(lost)) for gained, lost, _ in draws]
    covered = np.mean([one.low <= gain - loss <= one.high for one in estimates])
    assert covered >= 0.94


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.97])
def test_coverage_of_one_accuracy(share: float) -> None:
    bounds = cache(lambda hits: interval([True] * hits + [False] * (96 - hits)))
    hits = np.random.default_rng(3).binomial(96, share, size=4000)
    estimates = [bounds(int(one)) for one in hits]
    assert np.mean([one.low <= share <= one.high for one in estimates]) >= 0.93


def test_lengths_must_agree() -> None:
    with pytest.raises(FinedeficsError, match="3 answers against 2"):
        paired_difference([True, False, True], [True, False])


@pytest.mark.parametrize("values", [[], [[True]], [0.4, 0.6], [math.nan]])
def test_what_are_no_answers_is_refused(values: list[object]) -> None:
    with pytest.raises(FinedeficsError):
        interval(values)
    with pytest.raises(FinedeficsError):
        paired_difference(values, values)


@pytest.mark.parametrize(("share", "n"), [(0.0, 3.7), (0.9, 41.3), (0.5, 8041.0), (1.0, 12.0)])
def test_wilson_of_parts_of_an_item_is_that_of_statsmodels(share: float, n: float) -> None:
    quantile = float(t.ppf(0.975, 9))
    expected = proportion_confint(share * n, n, alpha=2 * norm.sf(quantile), method="wilson")
    assert wilson(share, n, quantile) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(1, 7), (12, 2), (0, 5), (40, 31), (3, 3)])
def test_mcnemar_is_the_exact_one_of_statsmodels(gained: int, lost: int) -> None:
    left = np.array([True] * gained + [False] * lost + [True, False] * 8)
    right = np.array([False] * gained + [True] * lost + [True, False] * 8)
    found = mcnemar(left, right)
    expected = statsmodels_mcnemar([[8, gained], [lost, 8]], exact=True).pvalue
    assert (found.gained, found.lost, found.p) == (gained, lost, pytest.approx(expected))


def test_two_that_never_disagree_are_not_told_apart() -> None:
    assert mcnemar([True, False], [True, False]).p == 1.0
    with pytest.raises(FinedeficsError, match="2 answers against 1"):
        mcnemar([True, False], [True])


def test_chance_is_left_behind_by_the_upper_tail() -> None:
    hits = np.array([True] * 40 + [False] * 80)
    assert better_than_chance(hits, 0.25) == pytest.approx(binom.sf(39, 120, 0.25))
    assert better_than_chance(hits[:60], 0.25) < better_than_chance(hits, 0.25) < 0.05
    assert better_than_chance(~hits, 0.9) > 0.99


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.04, 0.001, 0.03, 0.2]
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert holm([]) == []


def test_seeds_have_students_interval_of_their_mean() -> None:
    values = [0.81, 0.78, 0.84, 0.80]
    found = over_seeds(values)
    half = t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    assert (found.mean, found.n, found.spread) == (pytest.approx(0.8075), 4, pytest.approx(0.025))
    assert (found.low, found.high) == pytest.approx((0.8075 - half, 0.8075 + half))


def test_seeds_that_agree_and_one_seed_have_no_interval() -> None:
    assert over_seeds([0.5]) == Seeds(0.5, None, None, None, 1)
    assert over_seeds([0.5, 0.5]) == Seeds(0.5, None, None, 0.0, 2)
    for wrong in ([], [math.nan], [[0.5]]):
        with pytest.raises(FinedeficsError, match="one finite figure a seed"):
            over_seeds(wrong)  # type: ignore[arg-type]
