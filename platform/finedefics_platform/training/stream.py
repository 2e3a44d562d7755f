"""The training stream: a plan of which rows form which batch, and Ray Data tasks that fetch them.

The order of rows is a pure function of (seed, feed, position); nothing about it depends on timing or on the
number of workers. So a batch is the same on one worker and on eight, and resuming at a step is an offset into
the plan. Ray Data reads the row groups that the plan names and carries encoded bytes; pictures are decoded
where the batch is collated.
"""

import json
import queue
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category, Sample, attributes_from_arrow
from finedefics.sampler import confusable_order, similar_categories
from finedefics_platform.base.storage import Location
from finedefics_platform.config.data import Sampler
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.parquet import open_parquet
from finedefics_platform.data.store import Dataset, RowGroup

T = TypeVar("T")
Positions = npt.NDArray[np.int64]
Place = tuple[str, int, int, str]  # id, row group, row in it, category for the confusable sampler
FeedRows = dict[str, list[Sample] | list[Category]]

WINDOW = 4  # row groups whose rows are shuffled together: what has to be at hand for one batch
CHUNK_ROWS = 64  # rows fetched by one Ray task; fewer would be mostly task overhead
CHUNKS_IN_FLIGHT = 512  # chunks planned as one Ray Data pipeline


@dataclass(frozen=True)
class Companions:
    """What other tables say of a picture, by sample id."""

    descriptions: Mapping[str, tuple[str, Mapping[str, str]]]
    negatives: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, dataset: Dataset) -> "Companions":
        descriptions: dict[str, tuple[str, Mapping[str, str]]] = {}
        negatives: dict[str, tuple[str, ...]] = {}
        if dataset.has("descriptions"):
            for row in dataset.table("descriptions").to_pylist():
                if row["description"] is not None:
                    attributes = attributes_from_arrow(row["attributes"])
                    descriptions[row["sample_id"]] = (row["description"], attributes)
        if dataset.has("negatives"):
            for row in dataset.table("negatives").to_pylist():
                negatives[row["sample_id"]] = tuple(c["category_id"] for c in row["candidates"] or ())
        return cls(descriptions, negatives)

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """Join a row of the samples table (at least sample_id, image, category_id)."""
        description, attributes = self.descriptions.get(row["sample_id"], (None, {}))
        return Sample(
            sample_id=row["sample_id"],
            image=row["image"],
            category_id=row["category_id"],
            description=description,
            attributes=attributes,
            negatives=self.negatives.get(row["sample_id"], ()),
        )


@dataclass(frozen=True)
class FeedIndex:
    """Where the rows of one feed are: ``group[i]`` and ``row[i]`` place row i, ordered by group."""

    ids: tuple[str, ...]
    group: Positions  # [rows] position in `SampleIndex.groups`
    row: Positions  # [rows] position inside the row group
    # [rows] what the confusable sampler takes a row for: its category, or the one it is most like
    categories: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)  # compared by identity: it is the key of a cache
class SampleIndex:
    """Where every training row is. `text` rows are categories and have no row group on disk."""

    dataset: str
    groups: tuple[RowGroup, ...]
    feeds: Mapping[str, FeedIndex]
    categories: tuple[Category, ...] = ()
    companions: Companions = field(default_factory=lambda: Companions({}, {}))
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> "SampleIndex":
        """Read ids, labels and splits (no pictures) of a dataset version."""
        groups = dataset.row_groups("train")
        companions = Companions.of(dataset)
        files = [file.uri for file in dataset.files("samples")]
        places: dict[str, list[Place]] = {"labelled": [], "captioned": [], "text": []}
        for number, group in enumerate(groups):
            found = dataset.read(group, {"samples": ["sample_id", "category_id"]}).to_pydict()
            for row, (sample_id, label) in enumerate(zip(*found.values(), strict=True)):
                if group.labelled:
                    places["labelled"].append((sample_id, number, row, label))
                elif sample_id in companions.descriptions:
                    like = (*companions.negatives.get(sample_id, ()), sample_id)[0]
                    places["captioned"].append((sample_id, number, row, like))
        texts = tuple(category for category in dataset.categories() if category.description)
        places["text"] = [(c.category_id, 0, row, c.category_id) for row, c in enumerate(texts)]
        feeds = {feed: _feed_index(found) for feed, found in places.items()}
        return cls(dataset.reference, tuple(groups), feeds, texts, companions, tuple(files))

    @cached_property
    def nearest(self) -> dict[str, list[str]]:
        """For each category its similar ones, as the mined negatives of its labelled pictures have it."""
        labelled, mined = self.feeds["labelled"], self.companions.negatives
        pictures = zip(labelled.ids, labelled.categories, strict=True)
        return similar_categories(self.categories, ((like, mined.get(one, ())) for one, like in pictures))

    @cached_property
    def attributes(self) -> list[str]:
        """Names of the attributes that any description carries."""
        return sorted({name for _, seen in self.companions.descriptions.values() for name in seen})

    def require(self, feed: str) -> FeedIndex:
        """The rows of a feed; FinedeficsError where there is none."""
        if not len(self.feeds[feed]):
            thing, cure = _EMPTY_FEED[feed]
            raise FinedeficsError(
                f"feed `{feed}` is empty: {thing}", place=f"dataset {self.dataset}", cure=cure
            )
        return self.feeds[feed]


_EMPTY_FEED = {
    "labelled": (
        "no training picture has a category",
        "ingest a folder with labelled training pictures, or leave the feed out of the stage",
    ),
    "captioned": (
        "no training picture has a description and no category",
        "run `finedefics data describe` on pictures without a label, or leave the feed out of the stage",
    ),
    "text": (
        "no category has a description",
        "give `categories.jsonl` descriptions or run `finedefics data describe`, or leave the feed out",
    ),
}


@dataclass(frozen=True)
class StagePlan:
    """The rows of every global batch of a stage, as positions in the feeds' indexes."""

    index: SampleIndex
    feeds: Mapping[str, int]  # rows of each feed in a global batch
    steps: int
    seed: int
    window: int = WINDOW
    sampler: Sampler = "shuffled"

    def batch(self, step: int) -> dict[str, Positions]:
        """Positions of the global batch of ``step``: rows [step·B, (step+1)·B) of each feed's sequence."""
        return {
            feed: self._sequence(feed, step * rows, (step + 1) * rows) for feed, rows in self.feeds.items()
        }

    def shard(self, step: int, rank: int, world_size: int) -> dict[str, Positions]:
        """The contiguous equal part of `batch` that belongs to ``rank``."""
        return {feed: np.split(positions, world_size)[rank] for feed, positions in self.batch(step).items()}

    def batches(self, start_step: int = 0) -> Iterator[tuple[int, dict[str, Positions]]]:
        """Global batches from ``start_step`` to the end of the stage."""
        return ((step, self.batch(step)) for step in range(start_step, self.steps))

    def _sequence(self, feed: str, start: int, stop: int) -> Positions:
        rows = len(self.index.feeds[feed])
        epochs = range(start // rows, (stop - 1) // rows + 1)
        together = self.feeds[feed] if self.sampler == "confusable" else None
        joined = np.concatenate(
            [_epoch_order(self.index, feed, epoch, self.seed, self.window, together) for epoch in epochs]
        )
        offset = start - epochs.start * rows
        return joined[offset : offset + stop - start]


def plan_stage(
    index: SampleIndex,
    feeds: Mapping[str, int],
    steps: int,
    seed: int,
    window: int = WINDOW,
    sampler: Sampler = "shuffled",
) -> StagePlan:
    """Plan a stage of ``steps`` global batches with ``feeds[feed]`` rows of each feed.

    The sampler ``confusable`` makes batches of similar categories out of the rows of each window.

    Raises:
        FinedeficsError: a feed has no rows.
    """
    for feed in feeds:
        index.require(feed)
    return StagePlan(index, dict(feeds), steps, seed, window, sampler)


def check_divides(stage: Stage, world_size: int) -> None:
    """FinedeficsError (exit code 2) where a feed's rows cannot be shared equally among the workers.

    Equal parts are what lets gathered embeddings have one shape and every rank make the same calls.
    """
    for feed, rows in stage.feeds.items():
        if rows % world_size:
            raise wrong_use(
                f"{rows} rows cannot be shared equally by {world_size} workers",
                place=f"stages.{stage.name}.feeds.{feed}",
                cure=f"use a multiple of {world_size}, or change resources.workers",
            )


class TrainingStream:
    """One rank's share of a stage, in the order of the plan.

    Iterating gives ``(step, {feed: rows})`` with rows a list of `Sample` (joined with description and
    negatives) or, for the feed ``text``, of `Category`.
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
    ) -> None:
        check_divides(stage, world_size)
        self.index = index or SampleIndex.of(dataset)
        feeds = dict[str, int](stage.feeds.items())
        self.plan = plan_stage(self.index, feeds, stage.steps, seed, sampler=sampler)
        self.rank, self.world_size, self.start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[tuple[int, FeedRows]]:
        shards = {
            step: self.plan.shard(step, self.rank, self.world_size)
            for step in range(self.start_step, self.plan.steps)
        }
        fetched = self._fetch(shards)
        for step, shard in shards.items():
            rows: FeedRows = {}
            for feed, positions in shard.items():
                if feed == "text":
                    rows[feed] = [self.index.categories[position] for position in positions]
                else:
                    rows[feed] = [self.index.companions.sample(next(fetched)) for _ in positions]
            yield step, rows

    def _fetch(self, shards: Mapping[int, Mapping[str, Positions]]) -> Iterator[dict[str, Any]]:
        """Rows with pictures, in the order in which steps and feeds ask for them."""
        wanted = [
            (int(place.group[position]), int(place.row[position]))
            for shard in shards.values()
            for feed, positions in shard.items()
            if feed != "text"
            for place in [self.index.feeds[feed]]
            for position in positions
        ]
        if not wanted:
            return iter(())
        chunks = [wanted[start : start + CHUNK_ROWS] for start in range(0, len(wanted), CHUNK_ROWS)]
        return _read_in_order([_descriptor(chunk, self.index) for chunk in chunks])


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in order, made up to ``count`` ahead in a thread that starts now; errors are raised here."""
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=count)

    def make() -> None:
        try:
            for item in items:
                made.put((True, item))
            made.put((False, None))
        except BaseException as error:  # of whatever kind, it belongs to the consumer
            made.put((False, error))

    def taken() -> Iterator[T]:
        while True:
            more, item = made.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item

    threading.Thread(target=make, name="stream", daemon=True).start()
    return taken()


@lru_cache(maxsize=16)
def _epoch_order(
    index: SampleIndex, feed: str, epoch: int, seed: int, window: int, together: int | None
) -> Positions:
    """One epoch: row groups in a seeded order, rows shuffled within windows of row groups.

    With ``together``, rows of a global batch, a window's rows are then ordered into batches of similar
    categories; a batch that a window or an epoch leaves open is filled by the next one first.
    """
    place = index.feeds[feed]
    rng = np.random.default_rng([seed, zlib.crc32(feed.encode()), epoch])
    numbers, starts = np.unique(place.group, return_index=True)
    members = np.split(np.arange(len(place)), starts[1:])
    order = rng.permutation(len(numbers))
    windows = [
        rng.permutation(np.concatenate([members[group] for group in order[start : start + window]]))
        for start in range(0, len(order), window)
    ]
    if together is not None:
        filled = epoch * len(place)
        for number, rows in enumerate(windows):
            categories = [place.categories[row] for row in rows]
            windows[number] = rows[confusable_order(categories, index.nearest, together, rng, filled=filled)]
            filled += len(rows)
    return np.concatenate(windows).astype(np.int64)


def _feed_index(places: list[Place]) -> FeedIndex:
    ids, groups, rows, categories = zip(*places, strict=True) if places else ((), (), (), ())
    places_of = (np.array(groups, dtype=np.int64), np.array(rows, dtype=np.int64))
    return FeedIndex(tuple(ids), *places_of, tuple(categories))


def _descriptor(chunk: list[tuple[int, int]], index: SampleIndex) -> dict[str, str]:
    """What one read task needs: row groups with their rows, and the slot of each row in the output."""
    reads: dict[int, tuple[list[int], list[int]]] = {}
    for slot, (group, row) in enumerate(chunk):
        rows, slots = reads.setdefault(group, ([], []))
        rows.append(row)
        slots.append(slot)
    return {
        "reads": json.dumps(
            [
                (index.files[index.groups[g].file], index.groups[g].index, *placed)
                for g, placed in reads.items()
            ]
        )
    }


def _read_chunk(batch: dict[str, Any]) -> pa.Table:
    """Ray Data task: fetch one descriptor's rows, in the order of their slots."""
    tables, order = [], []
    for path, group, rows, slots in json.loads(batch["reads"][0]):
        file = open_parquet(Location(path))
        tables.append(file.read_row_group(group, columns=["sample_id", "image", "category_id"]).take(rows))
        order.extend(slots)
    return pa.concat_tables(tables).take(np.argsort(order))


def _read_in_order(descriptors: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # One pipeline for many chunks, and not one for a long stage: the plan is handed over piece by piece.
    for start in range(0, len(descriptors), CHUNKS_IN_FLIGHT):
        piece = descriptors[start : start + CHUNKS_IN_FLIGHT]
        rows = ray.data.from_items(piece, override_num_blocks=len(piece)).map_batches(
            _read_chunk,
            batch_size=1,
            # The training workers may hold every CPU of a small cluster; reading must not wait for one.
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(2, len(piece))),
        )
        yield from rows.iter_rows()
