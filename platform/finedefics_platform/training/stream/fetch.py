"""Fetching a rank's rows: row groups are read in tasks, in the order in which their rows are due."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from finedefics.records import Category, Sample
from finedefics_platform.config.data import Sampler
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.stream.ahead import ahead
from finedefics_platform.training.stream.engines import Chunk, Engine, with_ray_data
from finedefics_platform.training.stream.index import SampleIndex
from finedefics_platform.training.stream.order import Stretch
from finedefics_platform.training.stream.plan import StagePlan, check_divides, plan_stage, share
from finedefics_platform.training.stream.reading import Read, files_of, samples_of

FeedRows = dict[str, list[Sample] | list[Category]]
Place = tuple[str, int]  # feed, and place in its sequence

CHUNK_ROWS = 256  # rows fetched by one task where as many are light; fewer would be mostly task overhead
CHUNK_BYTES = 8 << 20


class Due(NamedTuple):
    """Rows of one row group, and the places in the feed's sequence that they take."""

    feed: str
    group: int  # among all row groups of the version
    bytes: int  # of the pictures in the group
    rows: np.ndarray[Any, np.dtype[np.int64]]  # numbers of the feed's rows in the group
    places: np.ndarray[Any, np.dtype[np.int64]]


def due(plan: StagePlan, rank: int, world_size: int, start_step: int = 0) -> Iterator[Due]:
    """What a rank reads from ``start_step`` on: a group once a stretch, in the order of first places."""
    ends: dict[tuple[str, int], int] = {}
    for step in range(start_step, plan.steps):
        for feed, order in plan.orders.items():
            if feed == "text":
                continue
            start, stop = share(order.batch, rank, world_size)
            for lane in range(start // order.width, -(-stop // order.width)):
                place = max(ends.get((feed, lane), 0), step * order.width)
                while place < (step + 1) * order.width:
                    stretch = order.stretch(lane, place)
                    yield from _of_stretch(plan, feed, lane, stretch, (start, stop), start_step)
                    place = stretch.first + len(stretch.rows)
                ends[feed, lane] = place


def _of_stretch(
    plan: StagePlan, feed: str, lane: int, stretch: Stretch, part: tuple[int, int], start_step: int
) -> Iterator[Due]:
    order, index = plan.orders[feed], plan.index.feeds[feed]
    steps, at = np.divmod(stretch.first + np.arange(len(stretch.rows)), order.width)
    slots = lane * order.width + at
    own = (slots >= part[0]) & (slots < part[1]) & (steps >= start_step) & (steps < plan.steps)
    rows, places = stretch.rows[own], (steps * order.batch + slots)[own]
    groups = np.searchsorted(index.first, rows, side="right") - 1
    found, first = np.unique(groups, return_index=True)
    for group in found[np.argsort(first)]:
        mine = groups == group
        yield Due(
            feed,
            int(index.group[group]),
            int(index.bytes[group]),
            rows[mine] - index.first[group],
            places[mine],
        )


class TrainingStream:
    """One rank's share of a stage, in the order of the plan.

    Iterating gives ``(step, {feed: rows})`` with rows a list of `Sample` (with description and negatives) or,
    for the feed ``text``, of `Category`. A sample of the feed ``inferred`` has the inferred category as its
    own, and neither description nor negatives. In memory are the rows of the row groups in hand, once more as
    many that are read ahead, and nothing that grows with the data.

    Args:
        index: default: one with the dataset's own threshold of inferred labels.
        engine: reads chunks; by default Ray Data's tasks.
    """

    def __init__(
        self,
        dataset: Dataset,
        stage: Stage,
        seed: int,
        rank: int,
        world_size: int,
        start_step: int = 0,
        index: SampleIndex | None = None,
        sampler: Sampler = "shuffled",
        engine: Engine | None = None,
    ) -> None:
        check_divides(stage, world_size)
        self.index = index or SampleIndex.of(dataset, sampler)
        feeds = dict[str, int](stage.feeds.items())
        self.plan = plan_stage(self.index, feeds, stage.steps, seed, sampler=sampler)
        self.rank, self.world_size, self.start_step = rank, world_size, start_step
        self._files = files_of(dataset)
        self._engine = engine or with_ray_data

    def __iter__(self) -> Iterator[tuple[int, FeedRows]]:
        arriving = ahead(self._fetch(), self._ahead())
        hand: dict[Place, Sample] = {}
        for step in range(self.start_step, self.plan.steps):
            rows: FeedRows = {}
            for feed, order in self.plan.orders.items():
                start, stop = share(order.batch, self.rank, self.world_size)
                if feed == "text":
                    rows[feed] = [self.index.texts[row] for row in order.part(step, start, stop)]
                    continue
                places = [(feed, step * order.batch + slot) for slot in range(start, stop)]
                rows[feed] = [self._taken(place, hand, arriving) for place in places]
            yield step, rows

    def _taken(
        self, place: Place, hand: dict[Place, Sample], arriving: Iterator[dict[Place, Sample]]
    ) -> Sample:
        while place not in hand:
            hand |= next(arriving)
        return hand.pop(place)

    def _ahead(self) -> int:
        """Row groups read ahead: lanes may all come to their next ones in the same step."""
        orders = (order for feed, order in self.plan.orders.items() if feed != "text")
        return sum(-(-min(o.pool, len(o.groups.bytes)) // self.world_size) for o in orders) + 1

    def _fetch(self) -> Iterator[dict[Place, Sample]]:
        """Samples by place, a row group's together, in the order in which they are first due."""
        asked: deque[Due] = deque()

        def chunks() -> Iterator[Chunk]:
            chunk: Chunk = []
            rows = size = 0
            for one in due(self.plan, self.rank, self.world_size, self.start_step):
                asked.append(one)
                chunk.append(self._read(one))
                rows += len(one.rows)
                size += one.bytes
                if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
                    yield chunk
                    chunk, rows, size = [], 0, 0
            if chunk:
                yield chunk

        samples: deque[Sample] = deque()
        for table in self._engine(chunks()):
            samples.extend(samples_of(table))
            while asked and len(asked[0].places) <= len(samples):
                one = asked.popleft()
                yield {(one.feed, place): samples.popleft() for place in one.places.tolist()}

    def _read(self, one: Due) -> Read:
        index, inferred = self.index, self.index.inferred
        files = self._files[int(index.file[one.group])]
        least = inferred.least if inferred and one.feed == "inferred" else None
        return Read(files, int(index.number[one.group]), one.feed, tuple(one.rows.tolist()), least)
