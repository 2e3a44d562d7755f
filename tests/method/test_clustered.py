"""Intervals clustered by category: against statsmodels, at the edges, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from finedefics.errors import FinedeficsError
from finedefics.evaluation import clustered_difference, clustered_interval, clustered_mcnemar, interval
from finedefics.evaluation import paired_difference as by_picture
from finedefics.evaluation.clustered import clustered_variance

RNG = np.random.default_rng(5)
OWNER = np.repeat(np.arange(12), RNG.integers(1, 15, 12))
LEFT = RNG.random(len(OWNER)) < RNG.beta(4, 2, 12)[OWNER]
RIGHT = np.where(RNG.random(len(OWNER)) < 0.3, RNG.random(len(OWNER)) < 0.4, LEFT)

items = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=2, max_size=80)


def variance_of_statsmodels(values: NDArray[np.float64]) -> float:
    """Of a regression on a constant, cluster-robust."""
    fitted = OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": OWNER})
    return float(fitted.bse[0]) ** 2


@pytest.mark.parametrize("values", [LEFT.astype(float), LEFT.astype(float) - RIGHT, np.sqrt(OWNER + 1)])
def test_the_variance_is_that_of_statsmodels(values: NDArray[np.float64]) -> None:
    assert clustered_variance(values, OWNER) == pytest.approx(variance_of_statsmodels(values))


def test_one_accuracy_is_wilsons_interval_of_the_effective_pictures() -> None:
    found, share = clustered_interval(LEFT, OWNER), LEFT.mean()
    effect = variance_of_statsmodels(LEFT.astype(float)) / (share * (1 - share) / len(LEFT))
    assert effect > 1.2, "these species are right or wrong together"
    effective = len(LEFT) / effect
    alpha = 2 * norm.sf(t.ppf(0.975, 11))
    expected = proportion_confint(share * effective, effective, alpha=alpha, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.mean, found.n, found.clusters) == (share, len(LEFT), 12)
    assert found.effective == pytest.approx(effective)


def test_a_difference_is_where_its_score_test_refuses() -> None:
    """At zero it is McNemar's statistic over the design effect, on Student's distribution."""
    change = LEFT.astype(float) - RIGHT
    effect = max(1.0, variance_of_statsmodels(change) / (change.var() / len(change)))
    statistic = change.sum() / math.sqrt(np.abs(change).sum() * effect)
    p = clustered_mcnemar(LEFT, RIGHT, OWNER)
    assert p == pytest.approx(2 * t.sf(abs(statistic), 11))
    assert p is not None
    at_zero = clustered_difference(LEFT, RIGHT, OWNER, confidence=1 - p)
    bounds = (at_zero.low, at_zero.high)
    assert min(abs(bound or 0.0) for bound in bounds) == pytest.approx(0, abs=1e-6)


def test_pictures_that_are_alike_within_a_species_are_worth_one_each() -> None:
    owner, right = np.repeat(np.arange(30), 40), np.repeat(np.arange(30) % 3 > 0, 40)
    found = clustered_interval(right, owner)
    assert found.effective == pytest.approx(29, rel=0.01)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low > 5 * (interval(right).high - interval(right).low)


@pytest.mark.parametrize("right", [True, False])
def test_all_alike_is_not_certainty(right: bool) -> None:
    """Nothing shows how alike a species' pictures are: each species counts as one picture."""
    found = clustered_interval(np.full(960, right), np.repeat(np.arange(24), 40))
    quantile = t.ppf(0.975, 23)
    expected = quantile**2 / (24 + quantile**2)
    assert found.effective == pytest.approx(24)
    assert (found.high - found.low) == pytest.approx(expected)  # type: ignore[operator]
    same = clustered_difference(np.full(960, right), np.full(960, right), np.repeat(np.arange(24), 40))
    assert (same.low, same.high) == (pytest.approx(-expected, abs=1e-6), pytest.approx(expected, abs=1e-6))
    assert clustered_mcnemar(np.full(4, right), np.full(4, right), [0, 0, 1, 1]) == 1.0


def test_one_species_says_nothing_of_others() -> None:
    found = clustered_interval([True, False], ["wren", "wren"])
    assert (found.low, found.high, found.effective, found.clusters) == (None, None, None, 1)
    assert clustered_difference([True], [False], ["wren"]).low is None
    assert clustered_mcnemar([True], [False], ["wren"]) is None
    with pytest.raises(FinedeficsError, match="two"):
        clustered_variance([1.0], [0])


def test_few_species_are_said() -> None:
    right = np.tile([True, False, True], 20)
    assert clustered_interval(right, np.arange(60) % 19).few
    assert not clustered_interval(right, np.arange(60) % 20).few


def test_names_in_any_order_are_the_same_species() -> None:
    names = np.array([f"species {number}" for number in OWNER], object)
    order = np.random.default_rng(1).permutation(len(OWNER))
    found, expected = clustered_interval(LEFT[order], names[order]), clustered_interval(LEFT, OWNER)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.clusters == expected.clusters


@given(items)
@settings(max_examples=60)
def test_never_narrower_than_by_picture_and_mirrored_by_exchange(drawn: list[tuple[int, bool, bool]]) -> None:
    owner, left, right = (np.array(column) for column in zip(*drawn, strict=True))
    there, back = clustered_difference(left, right, owner), clustered_difference(right, left, owner)
    if there.low is None or there.high is None or back.high is None:
        assert len(set(owner.tolist())) == 1
        return
    assert there.low == -back.high
    narrow = by_picture(left, right)
    assert -1 <= there.low <= narrow.low + 1e-7
    assert narrow.high - 1e-7 <= there.high <= 1
    alone, tight = clustered_interval(left, owner), interval(left)
    assert 0 <= alone.low <= tight.low + 1e-9  # type: ignore[operator]
    assert tight.high - 1e-9 <= alone.high <= 1  # type: ignore[operator]


def test_lengths_must_agree() -> None:
    with pytest.raises(FinedeficsError, match="2 answers and categories of shape"):
        clustered_interval([True, False], [0])
    with pytest.raises(FinedeficsError, match="2 answers against 1"):
        clustered_difference([True, False], [True], [0, 1])


def coverage(
    species: int, pictures: int, accuracy: float, alike: float, draws: int, seed: int = 11
) -> tuple[float, float]:
    """Share of test sets whose interval holds the accuracy over all species: clustered, and by picture.

    Species' accuracies are beta-distributed, ``alike`` is the correlation of pictures of one species.
    """
    rng = np.random.default_rng(seed)
    owner, size = np.repeat(np.arange(species), pictures), (1 - alike) / alike
    held = np.zeros(2)
    for _ in range(draws):
        own = rng.beta(accuracy * size, (1 - accuracy) * size, species)
        right = rng.random(len(owner)) < own[owner]
        wide, narrow = clustered_interval(right, owner), interval(right)
        assert wide.low is not None
        assert wide.high is not None
        held += [wide.low <= accuracy <= wide.high, narrow.low <= accuracy <= narrow.high]
    return tuple(held / draws)  # type: ignore[return-value]


def test_coverage_over_species_that_nobody_tested() -> None:
    """Where 24 species of 30 pictures differ, the interval by picture holds the truth half the time."""
    clustered, by_picture = coverage(24, 30, 0.75, 0.3, draws=400)
    assert clustered >= 0.93
    assert by_picture < 0.6


def paired_coverage(species: int, pictures: int, gain: float, draws: int, seed: int = 13) -> float:
    """The like of a paired difference: species differ in how often one way alone is right."""
    rng = np.random.default_rng(seed)
    owner, held = np.repeat(np.arange(species), pictures), 0
    for _ in range(draws):
        own = rng.dirichlet([8 * (0.2 + gain), 8 * 0.2, 8 * (0.6 - gain)], species)
        change = np.array([rng.choice([1, -1, 0], pictures, p=share) for share in own]).ravel()
        found = clustered_difference(change > 0, change < 0, owner)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= gain <= found.high
    return held / draws


def test_coverage_of_a_paired_difference() -> None:
    assert paired_coverage(24, 15, 0.1, draws=200) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("species", [5, 10, 24, 100])
@pytest.mark.parametrize(
    ("accuracy", "alike", "least"),
    [(0.25, 0.05, 0.935), (0.5, 0.3, 0.935), (0.9, 0.05, 0.935), (0.9, 0.3, 0.88), (0.97, 0.1, 0.88)],
)
def test_coverage_far_and_wide(species: int, accuracy: float, alike: float, least: float) -> None:
    """The bounds are those of `docs/statistics.md`: near 1, where few species fail, it is short of 95 %."""
    clustered, _ = coverage(species, 20, accuracy, alike, draws=3000)
    assert clustered >= least


@pytest.mark.slow
@pytest.mark.parametrize("species", [5, 24, 100])
@pytest.mark.parametrize("gain", [0.0, 0.1, 0.5])
def test_coverage_of_paired_differences_far_and_wide(species: int, gain: float) -> None:
    assert paired_coverage(species, 20, gain, draws=2000) >= 0.93
