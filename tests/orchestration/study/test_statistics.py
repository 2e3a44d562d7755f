"""Figures of a study against the libraries of reference."""

import pytest
from scipy.stats import t, ttest_rel
from statsmodels.stats.multitest import multipletests

from finedefics_platform.study.statistics import harmonic, holm, mean_and_error, paired

LEFT, RIGHT = [0.8, 0.7, 0.9, 0.65, 0.81], [0.7, 0.72, 0.6, 0.5, 0.77]


def test_paired_differences_have_students_interval() -> None:
    found, test = paired(LEFT, RIGHT), ttest_rel(LEFT, RIGHT)
    low, high = test.confidence_interval(0.95)
    assert (found.mean, found.n) == (pytest.approx(0.114), 5)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, test.pvalue))


def test_one_world_has_no_interval() -> None:
    one = paired([0.5], [0.25])
    assert (one.mean, one.low, one.high, one.p, one.n) == (0.25, None, None, None, 1)
    assert mean_and_error([0.5]) == {"mean": 0.5, "se": None, "half": None, "n": 1}


def test_equal_differences_have_no_interval() -> None:
    """A few worlds agree to the last picture by chance; that is no certainty."""
    same, rising, three = [0.5, 0.75], [0.25, 0.5], [0.9, 0.6, 0.3]
    for values, others in ((same, same), (same, rising), (three, [value - 0.3 for value in three])):
        found = paired(values, others)
        assert (found.low, found.high, found.p, found.n) == (None, None, None, len(values))
    assert mean_and_error([0.0, 0.0]) == {"mean": 0.0, "se": None, "half": None, "n": 2}


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.04, 0.001, 0.03, 0.2]
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert holm(p) == pytest.approx([0.09, 0.004, 0.09, 0.2])
    assert holm([]) == []


def test_means_and_the_harmonic_mean() -> None:
    found = mean_and_error([0.1, 0.2, 0.6])
    error = 0.2645751 / 3**0.5
    assert (found["mean"], found["se"]) == (pytest.approx(0.3), pytest.approx(error))
    assert found["half"] == pytest.approx(t.ppf(0.975, 2) * error)
    assert harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic(0.0, 1.0) == harmonic(0.0, 0.0) == 0
