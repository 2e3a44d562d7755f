"""Order of rows in an epoch: batches whose categories are easily taken for each other.

In a batch of such rows each row's hard negatives are other rows. They cost no extra text, and they come with
pictures, so the object terms meet them as well.
"""

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from finedefics.mining.attributes import nearest_categories
from finedefics.records import Category

C = TypeVar("C", bound=Hashable)

NEAR = 16  # entries of a category's ranking that pull others into its batch


def lane_counts(start: int, stop: int, batch: int, lanes: int) -> npt.NDArray[np.int64]:
    """How many of the places [start, stop) of a sequence lie in each lane.

    The sequence is cut into batches of ``batch`` places, and a batch into ``lanes`` equal parts: lane l is
    the l-th part of every batch.

    Returns:
        [lanes] numbers that add up to ``stop - start``.
    """
    width = batch // lanes
    first = np.arange(lanes, dtype=np.int64) * width

    def before(place: int) -> npt.NDArray[np.int64]:
        return place // batch * width + np.clip(place % batch - first, 0, width)

    return before(stop) - before(start)


def confusable_order(
    categories: Sequence[C],
    nearest: Mapping[C, Sequence[C]],
    batch: int,
    rng: np.random.Generator,
    *,
    filled: int = 0,
    lanes: int = 1,
) -> list[int]:
    """A permutation of rows whose consecutive batches hold mutually similar categories.

    A batch grows from a random row: next comes the category that those inside rank highest, each with one
    row, because rows of one category cannot repel each other. Where nobody inside ranks a category that has
    rows left, another random row starts the next cluster; a category's second row waits until every category
    with rows left is inside.

    With ``lanes``, every row keeps to a place in its own lane (see `lane_counts`), so that who reads the
    lanes' rows one after the other has them when they are due. Rows are then given lane by lane.

    Args:
        categories: [rows] the category of every row.
        nearest: for each category the similar ones, most similar first; the first `NEAR` count, categories
            without rows are passed over, and a category may be missing.
        batch: rows of a batch.
        rng: the only source of chance.
        filled: rows that the first batch holds already; the order then ends it first.
        lanes: equal parts of a batch, each with rows of its own.

    Raises:
        ValueError: the batch is not positive, or its parts are not equal.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one row, not {batch}")
    if lanes < 1 or batch % lanes:
        raise ValueError(f"a batch of {batch} rows has no {lanes} equal parts")
    start = filled % batch
    stop = start + len(categories)
    pool = _Pool(categories, lane_counts(start, stop, batch, lanes).tolist(), rng)
    order: list[int] = []
    for place in range(0, stop, batch):
        room = lane_counts(max(place, start), min(place + batch, stop), batch, lanes).tolist()
        order += pool.take(room, nearest)
    return order


class _Pool(Generic[C]):
    """Rows that are in no batch yet."""

    def __init__(self, categories: Sequence[C], sizes: Sequence[int], rng: np.random.Generator) -> None:
        self.categories = categories
        self.lane = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.placed = [False] * len(categories)
        self.waiting: list[list[int]] = [[] for _ in sizes]  # by lane
        self.rows: dict[C, list[int]] = {}  # by category
        for row in rng.permutation(len(categories)).tolist():
            self.waiting[self.lane[row]].append(row)
            self.rows.setdefault(categories[row], []).append(row)
        # equal scores fall by the order's chance
        self.chance = {category: place for place, category in enumerate(self.rows)}

    def take(self, room: list[int], nearest: Mapping[C, Sequence[C]]) -> list[int]:
        """The rows of the next batch, lane by lane; ``room`` says how many of each lane it takes."""
        self.waiting = [[row for row in rows if not self.placed[row]] for rows in self.waiting]
        chosen: list[list[int]] = [[] for _ in room]
        inside: set[C] = set()
        scores: dict[C, float] = {}
        queue: list[tuple[float, int, C]] = []
        for _ in range(sum(room)):
            row = self._similar(queue, scores, inside, room)
            if row is None:
                row = self._other(inside, room)
            if row is None:  # every category that has rows here is inside: each may come once more
                inside.clear()
                scores.clear()
                row = self._other(inside, room)
            assert row is not None
            self._place(row, room, chosen)
            category = self.categories[row]
            inside.add(category)
            for rank, other in enumerate(nearest.get(category, ())[:NEAR]):
                if other in self.rows and other not in inside:
                    scores[other] = scores.get(other, 0.0) + 1 / (1 + rank)
                    # an entry that is outbid stays behind its successor
                    heapq.heappush(queue, (-scores[other], self.chance[other], other))
        return [row for rows in chosen for row in rows]

    def _similar(
        self, queue: list[tuple[float, int, C]], scores: dict[C, float], inside: set[C], room: list[int]
    ) -> int | None:
        """A row of the category that those inside rank highest, of those with a row in a lane with room."""
        while queue:
            score, _, category = heapq.heappop(queue)
            if category in inside or scores.get(category) != -score:
                continue
            if (row := self._open_row(category, room)) is not None:
                return row
        return None

    def _open_row(self, category: C, room: list[int]) -> int | None:
        """The category's row in the lane that has the most room, None where it has none in an open lane."""
        rows = self.rows.get(category, ())
        best = max(rows, key=lambda row: room[self.lane[row]], default=None)
        return best if best is not None and room[self.lane[best]] else None

    def _other(self, inside: set[C], room: list[int]) -> int | None:
        """A random row of a category that is not inside, from the lane with the most room that has one."""
        if len(inside) >= len(self.rows) and self.rows.keys() <= inside:
            return None
        for lane in sorted(range(len(room)), key=lambda lane: -room[lane]):
            if not room[lane]:
                break
            for row in self.waiting[lane]:
                if not self.placed[row] and self.categories[row] not in inside:
                    return row
        return None

    def _place(self, row: int, room: list[int], chosen: list[list[int]]) -> None:
        lane, category = self.lane[row], self.categories[row]
        room[lane] -= 1
        chosen[lane].append(row)
        self.placed[row] = True
        self.rows[category].remove(row)
        if not self.rows[category]:
            del self.rows[category]


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
