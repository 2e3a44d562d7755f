"""Near duplicates are found by bands, all of them, and what is too much is said instead of waited for."""

from itertools import combinations

import numpy as np

from finedefics_platform.data.inspection.duplicates import MOST_DISTANCE, NearPairs, near_pairs


def hashes(number: int, seed: int = 0) -> np.ndarray:
    """Random ones, the second half each a few bits beside one of the first half."""
    generator = np.random.default_rng(seed)
    looks = generator.integers(0, 2**64, number, dtype=np.uint64)
    for place in range(number // 2):
        flipped = generator.choice(64, generator.integers(0, 6), replace=False)
        looks[number // 2 + place] = looks[place] ^ np.uint64(sum(1 << int(bit) for bit in flipped))
    return looks


def pairs_of(found: NearPairs) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)}


def test_every_pair_is_found_that_comparing_all_finds() -> None:
    looks = hashes(300)
    splits = (np.arange(300) // 7 % 3).astype(np.int8)
    found = near_pairs(looks, splits)
    all_pairs = {
        (a, b)
        for a, b in combinations(range(300), 2)
        if int(looks[a] ^ looks[b]).bit_count() <= MOST_DISTANCE
    }
    assert len(all_pairs) > 50
    assert (pairs_of(found), found.complete) == (all_pairs, True)
    held_out = {row for pair in all_pairs for row in pair if splits[row] and 0 in splits[list(pair)]}
    within = {row for pair in all_pairs for row in pair if splits[pair[0]] == splits[pair[1]]}
    assert (found.across, found.within) == (len(held_out), len(within))


def test_pairs_of_different_splits_stand_first_and_then_the_closest() -> None:
    looks = hashes(300)
    splits = (np.arange(300) // 7 % 2).astype(np.int8)
    found = near_pairs(looks, splits)
    key = [
        (bool(s), d) for s, d in zip(splits[found.first] == splits[found.second], found.distance, strict=True)
    ]
    assert key == sorted(key)
    assert {False, True} == {same for same, _ in key}


def test_copies_in_a_split_are_counted_and_two_stand_for_all() -> None:
    looks = np.full(50, 0x0123456789ABCDEF, np.uint64)
    splits = np.array([0] * 40 + [2] * 10, np.int8)
    found = near_pairs(looks, splits)
    assert (found.across, found.within) == (10, 50)
    assert len(found.first) == 3
    assert {int(splits[a]) + int(splits[b]) for a, b in pairs_of(found)} == {0, 2, 4}


def test_pictures_without_contrast_are_not_compared() -> None:
    looks = np.array([0, 0, 2**64 - 1, 1], np.uint64)
    found = near_pairs(looks, np.array([0, 2, 0, 2], np.int8))
    assert (found.flat, found.across, len(found.first)) == (4, 0, 0)


def test_nothing_and_one_picture_have_no_pair() -> None:
    for number in (0, 1):
        found = near_pairs(hashes(number), np.zeros(number, np.int8))
        assert (len(found.first), found.complete) == (0, True)


def test_data_that_crowds_in_one_band_is_given_up_and_said() -> None:
    generator = np.random.default_rng(0)
    looks = (generator.integers(0, 2**48, 3000, dtype=np.uint64) << np.uint64(16)) | np.uint64(0xF0F0)
    splits = np.zeros(3000, np.int8)
    assert near_pairs(looks, splits).complete
    assert not near_pairs(looks, splits, comparisons=100_000).complete
    film = np.uint64(0x0F0F0F0F0F0F0F0F) ^ (np.uint64(1) << (np.arange(64, dtype=np.uint64)))
    assert not near_pairs(film, np.zeros(64, np.int8), most=10).complete
