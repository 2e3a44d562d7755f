"""Where every training row is: arrays over row groups, so that a rank's index does not grow with its data.

A million rows are some fifteen thousand row groups; what each row is like is only kept for the confusable
sampler, four bytes a row. Of a feed that has some rows of a group, as many as have a description or an
inferred label that is sure enough, their number is kept; which they are is seen when the group is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finedefics.errors import FinedeficsError
from finedefics.mining import nearest_categories
from finedefics.records import Category
from finedefics.sampler import NEAR
from finedefics_platform.config.data import Sampler
from finedefics_platform.data.inferred import is_sure
from finedefics_platform.data.store import Dataset, RowGroup
from finedefics_platform.training.stream.order import Alike, Positions

Likes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_COUNTED = ("file", "index", "rows", "bytes", "split", "labelled", "described")


@dataclass(frozen=True, eq=False)
class FeedIndex:
    """The row groups that hold a feed's rows; row i of the feed is in the group before which i rows stand.

    Attributes:
        group: [groups] number of each among all row groups of the dataset version.
        first: [groups + 1] rows of the feed before each group, and in all.
        bytes: [groups] of the encoded pictures in each.
        likes: [rows] category that the confusable sampler takes a row for, -1 where none is known; None where
            the index was made without.
    """

    group: Positions
    first: Positions
    bytes: Positions
    likes: Likes | None = None

    def __len__(self) -> int:
        return int(self.first[-1])

    def place(self, row: int) -> tuple[int, int]:
        """The number of the row's group, and the row's number among the feed's rows in it."""
        at = int(np.searchsorted(self.first, row, side="right")) - 1
        return int(self.group[at]), row - int(self.first[at])


@dataclass(frozen=True)
class InferredLabels:
    """What the dataset's table of labels holds for training.

    Attributes:
        least: probability from which on a label is taken.
        count: training pictures with an inferred label, however probable.
        surest: the highest probability of them, 0 where there is none.
    """

    least: float
    count: int
    surest: float


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """Where every training row is. `text` rows are categories and have no row group on disk.

    Attributes:
        dataset: name and digest of the version.
        file, number, rows: [row groups of the version] the position of the group's file among the samples'
            files, its position in the file, and its rows.
        feeds: by name.
        texts: categories with a description, the rows of the feed `text`.
        nearest: for each category, by its position in the table, the similar ones.
        labelled_described: labelled training pictures with a description.
        inferred: None where the version has no inferred labels.
    """

    dataset: str
    file: Positions
    number: Positions
    rows: Positions
    feeds: Mapping[str, FeedIndex]
    texts: tuple[Category, ...] = ()
    nearest: Mapping[int, Sequence[int]] | None = None
    labelled_described: int = 0
    inferred: InferredLabels | None = None

    @classmethod
    def of(cls, dataset: Dataset, sampler: Sampler = "shuffled", least: float | None = None) -> "SampleIndex":
        """Read the table of row groups; for the confusable sampler also what each row is like.

        Args:
            least: probability from which on an inferred label is taken; default: the dataset's threshold.
        """
        groups = dataset.table("row_groups", _COUNTED)
        columns = {name: groups[name].to_numpy() for name in _COUNTED if name != "split"}
        counted = {name: column.astype(np.int64) for name, column in columns.items() if name != "labelled"}
        labelled = columns["labelled"]
        train = pc.equal(groups["split"], "train").to_numpy()
        described = counted["described"] if dataset.has("descriptions") else np.zeros_like(counted["rows"])
        categories = dataset.categories()
        texts = [place for place, category in enumerate(categories) if category.description]
        inferred, sure = _inferred(dataset, train & ~labelled, least)
        chosen = {
            "labelled": (np.flatnonzero(train & labelled), counted["rows"]),
            "captioned": (np.flatnonzero(train & ~labelled & (described > 0)), described),
            "inferred": (np.flatnonzero(sure), sure),
        }
        alike = sampler == "confusable"

        def likes_of(feed: str, numbers: Positions) -> Likes:
            if feed == "inferred" and inferred is not None:
                return _inferred_likes(dataset, numbers, categories, inferred.least)
            return _likes(dataset, numbers)

        feeds = {
            feed: FeedIndex(
                of_feed,
                _before(rows[of_feed]),
                counted["bytes"][of_feed],
                likes_of(feed, of_feed) if alike else None,
            )
            for feed, (of_feed, rows) in chosen.items()
        }
        whole = np.array([len(texts)] if texts else [], dtype=np.int64)
        likes = np.array(texts, dtype=np.int32) if alike else None
        feeds["text"] = FeedIndex(np.zeros_like(whole), _before(whole), np.zeros_like(whole), likes)
        return cls(
            dataset.reference,
            counted["file"],
            counted["index"],
            counted["rows"],
            feeds,
            tuple(categories[place] for place in texts),
            _nearest(dataset, categories) if alike else None,
            int(described[train & labelled].sum()),
            inferred,
        )

    def require(self, feed: str) -> FeedIndex:
        """The rows of a feed; FinedeficsError where there is none."""
        if not len(self.feeds[feed]):
            thing, cure = self._no_inferred() if feed == "inferred" else _EMPTY_FEED[feed]
            raise FinedeficsError(
                f"feed `{feed}` is empty: {thing}", place=f"dataset {self.dataset}", cure=cure
            )
        return self.feeds[feed]

    def _no_inferred(self) -> tuple[str, str]:
        command = f"finedefics data label {self.dataset.partition('@')[0]} --labeller reading:MODEL"
        if self.inferred is None:
            return "no label was inferred", f"run `{command}`, or leave the feed out of the stage"
        least, count, surest = self.inferred.least, self.inferred.count, self.inferred.surest
        if not count:
            thing = "the labeller inferred none for a training picture without a label"
            return thing, f"take another one (`{command}`), or leave the feed out of the stage"
        thing = f"none of {count} inferred labels has a probability of {least:g}; the surest has {surest:.3g}"
        return thing, f"lower data.inferred_probability, or infer them otherwise (`{command}`)"

    def alike(self, feed: str) -> Alike:
        """What the confusable sampler knows of a feed's rows."""
        likes = self.feeds[feed].likes
        assert likes is not None, "the index was made for another sampler"
        assert self.nearest is not None
        return Alike(likes, self.nearest)


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


def _inferred(
    dataset: Dataset, without_label: Mask, least: float | None
) -> tuple[InferredLabels | None, Positions]:
    """What the table of labels holds, and in how many rows of each of all row groups it is sure enough."""
    sure = np.zeros(len(without_label), dtype=np.int64)
    threshold = dataset.inferred_threshold()
    if threshold is None:
        return None, sure
    least = threshold if least is None else least
    count, surest = 0, 0.0
    lists = dataset.table("row_groups", ["inferred"])["inferred"].combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    for group in np.flatnonzero(without_label).tolist():
        own = values[offsets[group] : offsets[group + 1]]
        sure[group] = np.count_nonzero(is_sure(own, least))
        count += int(np.count_nonzero(own >= 0))
        surest = max(surest, float(own.max(initial=0)))
    return InferredLabels(least, count, surest), sure


def _before(rows: Positions) -> Positions:
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def _likes(dataset: Dataset, numbers: Positions) -> Likes:
    """What the feed's rows in these groups are like, in order; of unlabelled rows, the described ones."""
    found = [np.empty(0, dtype=np.int32)]
    groups = {group.number: group for group in dataset.row_groups("train")}
    table = dataset.table("row_groups", ["categories", "likes"])
    labels, likes = (table[name].combine_chunks() for name in ("categories", "likes"))
    for number in numbers.tolist():
        group = groups[number]
        own = likes[number].values if likes[number].is_valid else pa.nulls(group.rows, pa.int32())
        if group.labelled:
            own = labels[number].values
        elif group.described < group.rows:
            own = own.filter(_described(dataset, group))
        found.append(pc.fill_null(own, -1).to_numpy().astype(np.int32))
    return np.concatenate(found)


def _inferred_likes(
    dataset: Dataset, numbers: Positions, categories: Sequence[Category], least: float
) -> Likes:
    """The inferred categories of the rows in these groups that are sure enough, in order."""
    found = [np.empty(0, dtype=np.int32)]
    groups = {group.number: group for group in dataset.row_groups("train")}
    ids = pa.array([category.category_id for category in categories], pa.string())
    for number in numbers.tolist():
        rows = dataset.read(groups[number], {"labels": ["category_id", "probability"]})
        sure = is_sure(pc.fill_null(rows["probability"], -1).to_numpy(), least)
        own = pc.index_in(rows["category_id"].combine_chunks().filter(pa.array(sure)), value_set=ids)
        found.append(pc.fill_null(own, -1).to_numpy().astype(np.int32))
    return np.concatenate(found)


def _described(dataset: Dataset, group: RowGroup) -> pa.ChunkedArray:
    return dataset.read(group, {"descriptions": ["description"]})["description"].is_valid()


def _nearest(dataset: Dataset, categories: Sequence[Category]) -> dict[int, list[int]]:
    """By positions in the table; where nothing is mined, categories are compared by their attributes."""
    found = dataset.neighbours() or nearest_categories(categories, NEAR)
    position = {category.category_id: place for place, category in enumerate(categories)}
    return {
        position[category]: [position[other] for other in others if other in position]
        for category, others in found.items()
        if category in position
    }
