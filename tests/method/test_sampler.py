"""Confusable order: a permutation, reproducible, whose batches keep similar categories together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finedefics.records import Category
from finedefics.sampler import confusable_order, similar_categories

CATEGORIES = st.lists(st.integers(0, 9), max_size=60)
RANKINGS = st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=6), max_size=10)


def families(count: int, size: int) -> dict[int, list[int]]:
    """Every category's siblings: categories of a family are numbered in a row."""
    siblings = [range(f * size, (f + 1) * size) for f in range(count)]
    return {c: [other for other in family if other != c] for family in siblings for c in family}


@given(CATEGORIES, RANKINGS, st.integers(1, 20), st.integers(0, 40), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_every_row_stands_once_and_chance_is_the_seed_alone(
    categories: list[int], nearest: dict[int, list[int]], batch: int, filled: int, seed: int
) -> None:
    orders = [
        confusable_order(categories, nearest, batch, np.random.default_rng(seed), filled=filled)
        for _ in range(2)
    ]
    assert sorted(orders[0]) == list(range(len(categories)))
    assert orders[0] == orders[1]


@given(CATEGORIES, RANKINGS, st.integers(1, 20), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_a_category_repeats_only_where_no_other_is_left(
    categories: list[int], nearest: dict[int, list[int]], batch: int, seed: int
) -> None:
    order = confusable_order(categories, nearest, batch, np.random.default_rng(seed))
    for start in range(0, len(order), batch):
        left = len({categories[row] for row in order[start:]})
        chosen = [categories[row] for row in order[start : start + batch]]
        assert len(set(chosen)) >= min(len(chosen), left)


@pytest.mark.parametrize("filled", [0, 4, 12])
def test_equal_families_stay_whole(filled: int) -> None:
    categories = [c for c in range(40) for _ in range(6)]
    order = confusable_order(categories, families(10, 4), 8, np.random.default_rng(3), filled=filled)
    bounds = [0, *range(8 - filled % 8, len(order), 8), len(order)]
    for first, last in pairwise(bounds):
        chosen = sorted(categories[row] for row in order[first:last])
        assert len(set(chosen)) == len(chosen)
        assert all(c // 4 * 4 + i in chosen for c in chosen for i in range(4))


@given(st.integers(2, 4), st.integers(8, 24), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_batches_hold_more_similar_pairs_than_chance_gives(size: int, batch: int, seed: int) -> None:
    categories = [c for c in range(12 * size) for _ in range(4)]
    nearest, rng = families(12, size), np.random.default_rng(seed)

    def pairs(order: list[int]) -> int:
        batches = [[categories[row] for row in order[at : at + batch]] for at in range(0, len(order), batch)]
        return sum(other in nearest[c] for chosen in batches for c in set(chosen) for other in set(chosen))

    assert pairs(confusable_order(categories, nearest, batch, rng)) > pairs(
        rng.permutation(len(categories)).tolist()
    )


def test_the_more_similar_come_first() -> None:
    ring = {c: [(c + step) % 30 for step in (1, -1, 2, -2, 3, -3)] for c in range(30)}
    order = confusable_order(list(range(30)), ring, 10, np.random.default_rng(0))
    first = sorted(order[:10])
    gaps = [(b - a) % 30 for a, b in zip(first, [*first[1:], first[0]], strict=True)]
    assert sorted(gaps)[:9] == [1] * 9  # ten neighbours on the ring


def test_epochs_differ() -> None:
    categories = [c for c in range(12) for _ in range(3)]
    rng = np.random.default_rng(1)
    first, second = (confusable_order(categories, families(3, 4), 4, rng) for _ in range(2))
    assert first != second


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        confusable_order([1], {}, 0, np.random.default_rng(0))


def test_similar_categories_are_what_pictures_rank_highest_else_what_shares_most_attributes() -> None:
    looks = {"a": "red thin", "b": "red thick", "c": "blue thin", "d": "blue thick"}
    table = [
        Category(name, name, attributes=dict(zip(("colour", "bill"), text.split(), strict=True)))
        for name, text in looks.items()
    ]
    mined = [("a", ("d", "c")), ("a", ("c", "b")), ("a", ("d", "b")), ("b", ())]
    found = similar_categories(table, mined)
    assert found["a"] == ["d", "c", "b"]
    assert found["b"] == ["a", "d", "c"]  # not mined: one shared value first, ties by id
