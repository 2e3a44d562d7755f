"""Near duplicates by difference hashes: pictures whose hashes differ in at most three of 64 bits.

Hashes that differ in three bits agree in one of four bands of sixteen bits at least, so only pictures that
share a band are compared: linear in the number of pictures, not quadratic.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Looks = npt.NDArray[np.uint64]

MOST_DISTANCE = 3  # bits of 64
_BANDS, _BAND_BITS = 4, 16
# A picture whose brightness hardly changes has hardly a bit set, and resembles every other such picture.
_FEWEST_BITS, _MOST_BITS = 5, 59
# Bounds for data that crowds in few bands, as frames of one film do: some seconds, and some ten megabytes.
_COMPARISONS = 300_000_000
_PAIRS = 1_000_000


@dataclass(frozen=True)
class NearPairs:
    """Pairs of rows that look alike.

    Attributes:
        first, second: [pairs] rows, pairs of different splits first, then by distance. Of rows with one hash
            in one split two stand for all.
        distance: [pairs] bits.
        across: held-out rows that look like a row of the split train.
        within: rows that look like another one of their own split.
        flat: rows with too little contrast to be compared.
        complete: whether all that share a band were compared.
    """

    first: Numbers
    second: Numbers
    distance: Numbers
    across: int
    within: int
    flat: int
    complete: bool


def near_pairs(
    looks: Looks, splits: npt.NDArray[np.int8], *, comparisons: int = _COMPARISONS, most: int = _PAIRS
) -> NearPairs:
    """Find pairs among difference hashes.

    Args:
        looks: [rows].
        splits: [rows] 0 for train, higher for what is held out.
        comparisons, most: stop after so many comparisons, or pairs.
    """
    bits = np.bitwise_count(looks)
    usable = np.flatnonzero((bits >= _FEWEST_BITS) & (bits <= _MOST_BITS))
    # rows with one hash in one split are one node of the search
    rows = usable[np.lexsort((usable, looks[usable], splits[usable]))]
    changes = (looks[rows][1:] != looks[rows][:-1]) | (splits[rows][1:] != splits[rows][:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])[: len(rows)].astype(np.int64)
    members = np.diff(np.append(starts, len(rows)))
    node_looks, node_splits = looks[rows[starts]], splits[rows[starts]]
    left, right, complete = _alike(node_looks, comparisons, most)
    twice = np.flatnonzero(members > 1)
    first = np.concatenate([rows[starts[left]], rows[starts[twice]]])
    second = np.concatenate([rows[starts[right]], rows[starts[twice] + 1]])
    distance = np.bitwise_count(looks[first] ^ looks[second]).astype(np.int64)
    order = np.lexsort((second, first, distance, splits[first] == splits[second]))
    held_out, own = np.zeros(len(starts), bool), members > 1
    for one, other in ((left, right), (right, left)):
        held_out[one[(node_splits[one] > 0) & (node_splits[other] == 0)]] = True
        own[one[node_splits[one] == node_splits[other]]] = True
    return NearPairs(
        first[order],
        second[order],
        distance[order],
        across=int(members[held_out].sum()),
        within=int(members[own].sum()),
        flat=len(looks) - len(usable),
        complete=complete,
    )


def _alike(looks: Looks, comparisons: int, most: int) -> tuple[Numbers, Numbers, bool]:
    """Pairs of positions at most `MOST_DISTANCE` bits apart, each once, and whether that is all of them."""
    found: list[tuple[Numbers, Numbers]] = []
    pairs = 0
    for band in range(_BANDS):
        keys = _band(looks, band)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        here, shift = np.arange(len(keys)), 0
        while True:
            shift += 1
            here = here[: np.searchsorted(here, len(keys) - shift)]
            here = here[keys[here] == keys[here + shift]]
            if not len(here):
                break
            comparisons -= len(here)
            left, right = order[here], order[here + shift]
            differ = looks[left] ^ looks[right]
            near = np.bitwise_count(differ) <= MOST_DISTANCE
            for earlier in range(band):  # a pair that shares an earlier band was found there
                near &= _band(differ, earlier) != 0
            if near.any():
                left, right = left[near], right[near]
                found.append((np.minimum(left, right), np.maximum(left, right)))
                pairs += len(left)
            if comparisons < 0 or pairs > most:
                return *_joined(found), False
    return *_joined(found), True


def _band(looks: Looks, number: int) -> Looks:
    return (looks >> np.uint64(number * _BAND_BITS)) & np.uint64(2**_BAND_BITS - 1)


def _joined(found: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second
