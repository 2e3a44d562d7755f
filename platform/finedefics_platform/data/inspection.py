"""What is in a dataset version, in figures: for `finedefics data inspect` and for a look before training."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from finedefics.records import SPLITS
from finedefics_platform.data.store import Dataset


@dataclass(frozen=True)
class SplitCounts:
    """Pictures of one split."""

    split: str
    labelled: int
    unlabelled: int
    described: int
    categories: int  # with at least one labelled picture in the split


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
    tables: dict[str, int]  # rows
    quarantined: dict[str, int]  # pictures by kind of reason
    provenance: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect(dataset: Dataset) -> Inspection:
    """Count what a version holds; reads no picture."""
    counts: dict[str, dict[str, int]] = dataset.manifest["counts"]
    categories = dataset.categories()
    pictured = {category for split in counts.values() for category in split if category}
    trained = dataset.labelled_category_ids()
    described = _described(dataset)
    splits = tuple(
        SplitCounts(
            split,
            labelled=sum(number for category, number in counts[split].items() if category),
            unlabelled=counts[split].get("", 0),
            described=described[split],
            categories=sum(1 for category in counts[split] if category),
        )
        for split in SPLITS
        if split in counts
    )
    return Inspection(
        dataset=dataset.reference,
        path=str(dataset.root),
        splits=splits,
        categories=len(categories),
        without_text=tuple(c.category_id for c in categories if not c.description and not c.attributes),
        without_pictures=tuple(c.category_id for c in categories if c.category_id not in pictured),
        new=tuple(sorted(pictured - trained)),
        tables={name: table["rows"] for name, table in sorted(dataset.manifest["tables"].items())},
        quarantined=quarantine_reasons(dataset),
        provenance=dataset.manifest["provenance"],
    )


def quarantine_reasons(dataset: Dataset) -> dict[str, int]:
    """How many pictures were refused, by reason without its particulars (the part in brackets)."""
    if not dataset.has("quarantine"):
        return {}
    reasons = dataset.table("quarantine", ["reason"])["reason"].to_pylist()
    return dict(Counter(reason.split(" (")[0] for reason in reasons).most_common())


def _described(dataset: Dataset) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group in dataset.row_groups():
        counts[group.split] += group.described
    return counts
