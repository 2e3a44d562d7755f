"""The order of one feed's rows: a pure function of the row groups, the seed and the place in the sequence.

A feed is an endless sequence of places, epoch after epoch of its N rows, cut into global batches of B places:
a batch may end one epoch and begin the next. A batch is cut into L equal *lanes*, and lane l of all batches
is a sequence of its own. For an epoch, row groups are put into a seeded order, rows inside each as well, and
the sequence of rows is cut into one contiguous *stretch* a lane, as long as the epoch has places in that
lane. So every row comes once an epoch, and who needs a lane reads its row groups one after the other: only a
group at a border is read by two. Inside a lane, rows are shuffled within windows of a few row groups.

The confusable sampler wants the rows of all lanes together. It cuts the epoch into blocks of whole batches,
each with as many row groups as may be in hand, a block into lanes as above, and has `confusable_order` choose
each row's batch; every row keeps its lane.

How well that shuffles, beside a shuffle of all rows, for a million rows in groups of 64 and batches of 256:
three of a row's 255 batch mates are of its own row group (by chance none), so two rows that shared a batch
share one in the next epoch about three times as often as by chance (0.08 %); groups that are neighbours in
storage come as far apart as by chance. Rows of one group come within a few steps of each other, so a stored
group has to be a mixture, as an ingest leaves it. Of its category's 16 neighbours among 10,000 categories, a
row meets 4.9 (no families among them) to 8.0 (families of twenty) in a confusable batch, 0.4 in a shuffled
one; where the whole feed is in hand, families come whole.

Nothing here depends on the number of workers, and any place can be asked for first.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from finedefics.sampler import confusable_order, lane_counts

Positions = npt.NDArray[np.int64]
T = TypeVar("T")

POOL_GROUPS = 64  # row groups in hand over all ranks, and at least so many for four rows of a batch each
ROWS_A_GROUP_GIVES_A_BATCH = 4
CONFUSABLE_POOL_GROUPS = 256  # the more in hand, the more of a category's neighbours are
GROUP_BYTES = 4 << 20  # what a row group's pictures take; fewer groups are in hand where they take more

_GROUPS, _ROWS, _WINDOW, _BLOCK = range(4)  # what a seed is for
_KEPT = 4096  # stretches at hand: two for every lane that any process asks for


class Groups(Protocol):
    """A feed's row groups, as arrays over them."""

    @property
    def first(self) -> Positions:
        """[groups + 1] number of the feed's rows before each group, and of all."""
        ...

    @property
    def bytes(self) -> Positions:
        """[groups] of the pictures in each."""
        ...


class Stretch(NamedTuple):
    """Consecutive places of a lane and the rows that take them: what is read together."""

    first: int  # number of the lane's places before
    rows: Positions  # feed rows, one a place

    def has(self, place: int) -> bool:
        """Whether the lane's ``place`` is one of these."""
        return self.first <= place < self.first + len(self.rows)


@dataclass(frozen=True)
class Alike:
    """What the confusable sampler knows: each row's category, and each category's similar ones."""

    categories: npt.NDArray[np.int32]  # [rows] -1 where nothing is known of it
    nearest: Mapping[int, Sequence[int]]


def pool_groups(groups: Groups, batch: int, alike: Alike | None = None) -> int:
    """Row groups in hand over all ranks: more of them mix rows better and take more memory."""
    most = max(POOL_GROUPS, batch // ROWS_A_GROUP_GIVES_A_BATCH)
    if alike is not None:
        most = max(most, CONFUSABLE_POOL_GROUPS)
    mean = max(1.0, float(groups.bytes.mean()))
    return max(1, min(most, int(most * GROUP_BYTES / mean)))


def lanes_of(batch: int, most: int) -> int:
    """The most equal parts of a batch that are not more than ``most``."""
    return max(parts for parts in range(1, min(batch, most) + 1) if batch % parts == 0)


class FeedOrder:
    """Which row of a feed stands at which place.

    Args:
        feed: its name; feeds of one seed have orders of their own.
        groups: where its rows are.
        batch: its places in a global batch (B).
        seed: of the stage.
        alike: given, batches are made of similar categories.
    """

    def __init__(self, feed: str, groups: Groups, batch: int, seed: int, alike: Alike | None = None) -> None:
        self.groups, self.batch, self.alike = groups, batch, alike
        self.total = int(groups.first[-1])
        self.pool = pool_groups(groups, batch, alike)
        whole = alike is not None and len(groups.first) - 1 <= self.pool
        # where everything is in hand, lanes would only keep similar rows apart
        self.lanes = 1 if whole else lanes_of(batch, min(self.pool, max(POOL_GROUPS, batch // 4)))
        self.width = batch // self.lanes  # places of a lane in a batch
        self.window = max(1, self.pool // self.lanes)  # row groups
        self._seed = (seed, zlib.crc32(feed.encode()))
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Positions] = OrderedDict()
        self._stretches: OrderedDict[tuple[int, ...], Stretch] = OrderedDict()

    def part(self, step: int, start: int, stop: int) -> Positions:
        """[stop - start] the rows at places ``start`` to ``stop`` of the batch of ``step``."""
        rows: list[Positions] = []
        while start < stop:
            lane, at = divmod(start, self.width)
            end = min(stop, (lane + 1) * self.width)
            place = step * self.width + at
            stretch = self.stretch(lane, place)
            found = stretch.rows[place - stretch.first :][: end - start]
            rows.append(found)
            start += len(found)
        return np.concatenate(rows)

    def stretch(self, lane: int, place: int) -> Stretch:
        """What is read together with the lane's ``place``."""
        step, at = divmod(place, self.width)
        number = (step * self.batch + lane * self.width + at) // self.total
        epoch = _kept(self._epochs, number, lambda: self._epoch(number), 4)
        if self.alike is None:
            return self._window(epoch, lane, place)
        return self._of_block(epoch, self.alike, lane, place)

    def _epoch(self, number: int) -> "_Epoch":
        order = self._rng(number, _GROUPS).permutation(len(self.groups.first) - 1)
        starts = np.concatenate([[0], np.cumsum(np.diff(self.groups.first)[order])])
        return _Epoch(number, number * self.total, order, starts, {})

    def _window(self, epoch: "_Epoch", lane: int, place: int) -> Stretch:
        first, cuts = epoch.cut(epoch.first, epoch.first + self.total, self.batch, self.lanes)
        row = int(cuts[lane] + place - first[lane])  # in the epoch's sequence
        begins = epoch.group_of(int(cuts[lane]))
        window = (epoch.group_of(row) - begins) // self.window
        start, stop = epoch.bounds(begins + window * self.window, self.window)
        start, stop = max(start, int(cuts[lane])), min(stop, int(cuts[lane + 1]))

        def shuffled() -> Stretch:
            rows = self._rows(epoch, start, stop)
            self._rng(epoch.number, _WINDOW, lane, window).shuffle(rows)
            return Stretch(int(first[lane] + start - cuts[lane]), rows)

        return _kept(self._stretches, (epoch.number, lane, window), shuffled, _KEPT)

    def _of_block(self, epoch: "_Epoch", alike: Alike, lane: int, place: int) -> Stretch:
        step, at = divmod(place, self.width)
        borders = self._borders(epoch)
        block = int(np.searchsorted(borders, step * self.batch + lane * self.width + at, side="right")) - 1
        start, stop = int(borders[block]), int(borders[block + 1])
        first, cuts = epoch.cut(start, stop, self.batch, self.lanes)

        def ordered() -> Positions:
            rows = self._rows(epoch, start - epoch.first, stop - epoch.first)
            like = alike.categories[rows].tolist()
            # two rows of which nothing is known are not of one category for that
            named = [category if category >= 0 else -1 - row for row, category in enumerate(like)]
            rng = self._rng(epoch.number, _BLOCK, block)
            order = confusable_order(
                named, alike.nearest, self.batch, rng, filled=start % self.batch, lanes=self.lanes
            )
            lanes = np.arange(start, stop) % self.batch // self.width
            return rows[order][np.argsort(lanes, kind="stable")]  # lane by lane

        rows = _kept(self._blocks, (epoch.number, block), ordered, 2)
        return Stretch(int(first[lane]), rows[cuts[lane] : cuts[lane + 1]])

    def _borders(self, epoch: "_Epoch") -> Positions:
        """Places at which the epoch's blocks begin, and its end: all but the ends are those of batches."""
        blocks = -(-(len(epoch.starts) - 1) // self.pool)
        begin = -(-epoch.first // self.batch)
        end = max(begin, (epoch.first + self.total) // self.batch)
        steps = begin + (end - begin) * np.arange(1, blocks, dtype=np.int64) // blocks
        inner = np.unique(steps[(steps > begin) & (steps < end)]) * self.batch
        return np.concatenate([[epoch.first], inner, [epoch.first + self.total]]).astype(np.int64)

    def _rows(self, epoch: "_Epoch", start: int, stop: int) -> Positions:
        """Rows [start, stop) of the epoch's sequence; a group cut in two gives each part a random share."""
        pieces = []
        for at in range(epoch.group_of(start), epoch.group_of(stop - 1) + 1):
            group, begins = int(epoch.order[at]), int(epoch.starts[at])
            size = int(epoch.starts[at + 1]) - begins
            rows = self._rng(epoch.number, _ROWS, group).permutation(size) + self.groups.first[group]
            pieces.append(rows[max(0, start - begins) : stop - begins])
        return np.concatenate(pieces).astype(np.int64)

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, *what])


@dataclass(frozen=True)
class _Epoch:
    number: int
    first: int  # places of the feed before it
    order: Positions  # [groups]
    starts: Positions  # [groups + 1] rows of the epoch's sequence before each group of the order
    cuts: dict[tuple[int, int], tuple[Positions, Positions]] = field(compare=False)

    def group_of(self, row: int) -> int:
        """The group, by its number in the order, that holds a row of the sequence; empty groups hold none."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def bounds(self, group: int, count: int) -> tuple[int, int]:
        """First row and end of ``count`` groups of the order."""
        return int(self.starts[group]), int(self.starts[min(group + count, len(self.order))])

    def cut(self, start: int, stop: int, batch: int, lanes: int) -> tuple[Positions, Positions]:
        """Of the places [start, stop): how many places each lane has before, and where its rows are cut."""
        if (start, stop) not in self.cuts:
            before = lane_counts(0, start, batch, lanes)
            ends = np.cumsum(lane_counts(start, stop, batch, lanes))
            self.cuts[start, stop] = before, np.concatenate([[0], ends])
        return self.cuts[start, stop]


K = TypeVar("K")


def _kept(kept: "OrderedDict[K, T]", key: K, make: Callable[[], T], most: int) -> T:
    """The value of a key, made where it is not at hand; what was used longest ago is forgotten."""
    if key in kept:
        kept.move_to_end(key)
    else:
        kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    return kept[key]
