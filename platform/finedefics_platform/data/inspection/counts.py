"""A dataset version in figures: for `finedefics data inspect` and for a look before training."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finedefics.records import SPLITS
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.data.ingestion import kind_of
from finedefics_platform.data.inspection.duplicates import near_pairs
from finedefics_platform.data.inspection.figures import (
    Attribute,
    Columns,
    Sizes,
    attributes_of,
    read_columns,
    sizes_of,
)
from finedefics_platform.data.inspection.rows import Rows
from finedefics_platform.data.store import Dataset

MOST_PAIRS = 100  # of near duplicates that are named
_NEAREST = 3  # of a category's neighbours
_EXAMPLES = 3  # of pictures refused for one reason


@dataclass(frozen=True)
class SplitCounts:
    """Pictures of one split."""

    split: str
    labelled: int
    unlabelled: int
    inferred: int  # of the unlabelled, those with an inferred label, whatever its probability
    described: int
    categories: int  # with at least one labelled picture in the split


@dataclass(frozen=True)
class Looked:
    """One of two pictures that look alike; ``row`` is its number in file order."""

    row: int
    source: str
    split: str
    category_id: str | None


@dataclass(frozen=True)
class NearPair:
    """Two pictures whose difference hashes differ in ``distance`` bits; ``equal``: byte for byte."""

    first: Looked
    second: Looked
    distance: int
    equal: bool


@dataclass(frozen=True)
class NearDuplicates:
    """Pictures that look alike: candidates, to be looked at.

    Attributes:
        held_out_like_train: pictures of val and test that look like one of train.
        within_a_split: pictures that look like another one of their split.
        not_compared: pictures with too little contrast.
        complete: whether all that could be alike were compared.
        pairs: some of them, those of different splits first.
    """

    held_out_like_train: int
    within_a_split: int
    not_compared: int
    complete: bool
    pairs: tuple[NearPair, ...]


@dataclass(frozen=True)
class Inspection:
    """A dataset version in figures."""

    dataset: str
    path: str
    splits: tuple[SplitCounts, ...]
    categories: int
    without_text: tuple[str, ...]  # category ids with neither description nor attributes
    without_pictures: tuple[str, ...]  # category ids without a labelled picture in any split
    new: tuple[str, ...]  # category ids with labelled pictures, none of them in train
    sizes: Sizes
    attributes: tuple[Attribute, ...]
    nearest: dict[str, tuple[str, ...]]  # ids of a category's most similar others, where mined
    near_duplicates: NearDuplicates
    tables: dict[str, int]  # rows
    quarantined: dict[str, int]  # pictures by kind of reason
    quarantined_examples: dict[str, tuple[str, ...]]  # sources of some of them
    provenance: dict[str, dict[str, Any]]

    @property
    def pictures(self) -> int:
        """All of them, labelled or not."""
        return sum(split.labelled + split.unlabelled for split in self.splits)

    @property
    def described(self) -> int:
        """Pictures with a description."""
        return sum(split.described for split in self.splits)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect(dataset: Dataset, progress: Progress = SILENT) -> Inspection:
    """Count what a version holds; reads no picture, and holds some numbers of each."""
    counts: dict[str, dict[str, int]] = dataset.manifest["counts"]
    categories = dataset.categories()
    pictured = {category for split in counts.values() for category in split if category}
    columns = read_columns(dataset, progress)
    reasons, examples = _quarantine(dataset)
    return Inspection(
        dataset=dataset.reference,
        path=str(dataset.root),
        splits=_splits(dataset),
        categories=len(categories),
        without_text=tuple(c.category_id for c in categories if not c.description and not c.attributes),
        without_pictures=tuple(c.category_id for c in categories if c.category_id not in pictured),
        new=tuple(sorted(pictured - dataset.labelled_category_ids())),
        sizes=sizes_of(dataset, columns),
        attributes=attributes_of(dataset, progress),
        nearest=_nearest(dataset),
        near_duplicates=_near_duplicates(dataset, columns),
        tables={name: table["rows"] for name, table in sorted(dataset.manifest["tables"].items())},
        quarantined=reasons,
        quarantined_examples=examples,
        provenance=dataset.manifest["provenance"],
    )


def quarantine_reasons(dataset: Dataset) -> dict[str, int]:
    """How many pictures were refused, by reason without its particulars (the part in brackets)."""
    return _quarantine(dataset)[0]


def _quarantine(dataset: Dataset) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Refused pictures by kind of reason, the most frequent first: how many, and some of their sources."""
    numbers: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    for table in dataset.tables("quarantine", ["source", "reason"]) if dataset.has("quarantine") else ():
        for row in table.to_pylist():
            kind = kind_of(row["reason"])
            numbers[kind] += 1
            if len(examples[kind]) < _EXAMPLES:
                examples[kind].append(row["source"])
    ordered = dict(numbers.most_common())
    return ordered, {kind: tuple(examples[kind]) for kind in ordered}


def _splits(dataset: Dataset) -> tuple[SplitCounts, ...]:
    counts: dict[str, dict[str, int]] = dataset.manifest["counts"]
    described: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    probabilities = dataset.table("row_groups", ["inferred"])["inferred"].to_pylist()
    for group in dataset.row_groups():
        described[group.split] += group.described
        inferred[group.split] += sum(probability >= 0 for probability in probabilities[group.number] or ())
    return tuple(
        SplitCounts(
            split,
            labelled=sum(number for category, number in counts[split].items() if category),
            unlabelled=counts[split].get("", 0),
            inferred=inferred[split],
            described=described[split],
            categories=sum(1 for category in counts[split] if category),
        )
        for split in SPLITS
        if split in counts
    )


def _nearest(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    found = sorted(dataset.neighbours().items())
    return {category: tuple(others[:_NEAREST]) for category, others in found}


def _near_duplicates(dataset: Dataset, columns: Columns) -> NearDuplicates:
    found = near_pairs(columns.look, columns.split)
    first, second = found.first[:MOST_PAIRS].tolist(), found.second[:MOST_PAIRS].tolist()
    named = ["source", "split", "category_id", "content_hash"]
    wanted = np.unique([*first, *second]).astype(int).tolist()
    rows = dict(zip(wanted, Rows(dataset).read(wanted, {"samples": named}), strict=True))

    def looked(row: int) -> Looked:
        told = rows[row]
        return Looked(row, told["source"], told["split"], told["category_id"])

    pairs = tuple(
        NearPair(looked(a), looked(b), int(distance), rows[a]["content_hash"] == rows[b]["content_hash"])
        for a, b, distance in zip(first, second, found.distance.tolist(), strict=False)
    )
    return NearDuplicates(found.across, found.within, found.flat, found.complete, pairs)
