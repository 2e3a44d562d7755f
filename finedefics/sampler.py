"""Order of rows in an epoch: batches whose categories are easily taken for each other.

In a batch of such rows each row's hard negatives are other rows. They cost no extra text, and they come with
pictures, so the object terms meet them as well.
"""

import heapq
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from finedefics.mining.attributes import nearest_categories
from finedefics.records import Category

C = TypeVar("C", bound=Hashable)

NEAR = 16  # entries of a category's ranking that pull others into its batch


def confusable_order(
    categories: Sequence[C],
    nearest: Mapping[C, Sequence[C]],
    batch: int,
    rng: np.random.Generator,
    *,
    filled: int = 0,
) -> list[int]:
    """A permutation of rows whose consecutive batches hold mutually similar categories.

    A batch grows from a random row: next comes the category that those inside rank highest, each with one
    row, because rows of one category cannot repel each other. Where nobody inside ranks a category that has
    rows left, another random row starts the next cluster; a category's second row waits until every category
    with rows left is inside.

    Args:
        categories: [rows] the category of every row.
        nearest: for each category the similar ones, most similar first; the first `NEAR` count, categories
            without rows are passed over, and a category may be missing.
        batch: rows of a batch.
        rng: the only source of chance.
        filled: rows that the first batch holds already; the order then ends it first.

    Raises:
        ValueError: the batch is not positive.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    rows = rng.permutation(len(categories)).tolist()
    pools: dict[C, deque[int]] = {}
    for row in rows:
        pools.setdefault(categories[row], deque()).append(row)
    chance = {category: place for place, category in enumerate(pools)}
    order: list[int] = []
    placed = [False] * len(rows)
    inside: set[C] = set()
    room, start = batch - filled % batch, 0
    while len(order) < len(rows):
        while placed[rows[start]]:
            start += 1
        seeds = (categories[r] for r in rows[start:] if not placed[r] and categories[r] not in inside)
        seed = next(seeds, None) if len(inside & pools.keys()) < len(pools) else None
        if seed is None:
            inside.clear()
            continue
        for category in _cluster(seed, pools.keys() - inside, nearest, room, chance):
            row = pools[category].popleft()
            placed[row] = True
            order.append(row)
            inside.add(category)
            room -= 1
            if not pools[category]:
                del pools[category]
        if room == 0:
            room = batch
            inside.clear()
    return order


def _cluster(
    seed: C, free: Collection[C], nearest: Mapping[C, Sequence[C]], size: int, chance: Mapping[C, int]
) -> list[C]:
    """At most ``size`` of the free categories, grown from ``seed`` by how high those inside rank them."""
    found, scores = [seed], dict[C, float]()
    queue: list[tuple[float, int, C]] = []
    while len(found) < size:
        for rank, category in enumerate(nearest.get(found[-1], ())[:NEAR]):
            if category in free:
                scores[category] = scores.get(category, 0.0) + 1 / (1 + rank)
                # an entry that is outbid stays behind its successor; equal scores fall by the epoch's chance
                heapq.heappush(queue, (-scores[category], chance[category], category))
        while queue and queue[0][2] in found:
            heapq.heappop(queue)
        if not queue:
            break
        found.append(heapq.heappop(queue)[2])
    return found


def similar_categories(
    table: Sequence[Category], mined: Iterable[tuple[str, Sequence[str]]]
) -> dict[str, list[str]]:
    """For each category its similar ones, most similar first: the ``nearest`` of `confusable_order`.

    Args:
        table: categories; those without a mined picture are compared by their attributes.
        mined: for every labelled picture its category and its hard negatives, hardest first. A category's
            similar ones are those that its pictures rank highest (summed reciprocal rank, ties by id).
    """
    scores: dict[str, dict[str, float]] = {}
    for category, negatives in mined:
        own = scores.setdefault(category, {})
        for rank, other in enumerate(negatives):
            own[other] = own.get(other, 0.0) + 1 / (1 + rank)
    ranked = {
        category: [other for _, other in sorted((-score, other) for other, score in own.items())]
        for category, own in scores.items()
        if own
    }
    return nearest_categories(table, NEAR) | ranked
