"""A published file of options, matched to the pictures of a dataset: by file name, and told apart by label.

Such files name pictures by a path that need not be the dataset's own, and benchmarks hold different pictures
under one file name. So of the pictures with the item's file name those are taken that share most of the path,
and among them those that carry the item's label; a match is one picture, never the first of several.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from finedefics.errors import FinedeficsError
from finedefics.evaluation.options import OptionItem
from finedefics.records import Category

MOST_UNMATCHED = 0.05  # share of a file's items; with more of them it is not a file of these pictures


@dataclass(frozen=True)
class Picture:
    """A picture of the evaluated split."""

    sample_id: str
    source: str
    category_id: str | None


@dataclass(frozen=True)
class Matched:
    """What a file asks of a dataset.

    Attributes:
        options: for each sample id the ids of its options, the truth first.
        numbers: for each sample id which of the file's questions it is, counted from 0.
        items: questions in the file.
        unmatched: of them without a picture of their own, by reason.
        repeated: questions on a picture that an earlier one asks about; the earlier one counts.
    """

    options: Mapping[str, tuple[str, ...]]
    items: int
    unmatched: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, int | dict[str, int]]:
        """For a summary."""
        return {
            "items": self.items,
            "matched": len(self.options),
            "unmatched": dict(self.unmatched),
            "repeated": self.repeated,
        }


NO_PICTURE = "no picture of this file name is in the split"
AMBIGUOUS = "several pictures have this file name and label"
OTHER_LABEL = "the picture of this file name has another label"
NO_CATEGORY = "an option is no category of the dataset"


def match(
    items: Sequence[OptionItem], pictures: Iterable[Picture], categories: Sequence[Category], *, place: str
) -> Matched:
    """Match the questions of a file to the pictures of a split.

    Args:
        items: the file's questions.
        pictures: of the split that is evaluated; others are never asked.
        categories: of the dataset; a name is matched whatever its case, underscores and spaces.
        place: the file, for messages.

    Raises:
        FinedeficsError: the file is empty, or more than `MOST_UNMATCHED` of it has no picture here.
    """
    by_file: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_file.setdefault(PurePosixPath(picture.source).name, []).append(picture)
    ids = {_spelled(category.name): category.category_id for category in categories}
    options: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, int] = {}
    unmatched: dict[str, int] = {}
    repeated = 0
    for number, item in enumerate(items):
        found = _find(item, by_file, ids)
        if isinstance(found, str):
            unmatched[found] = unmatched.get(found, 0) + 1
        elif found.sample_id in options:
            repeated += 1
        else:
            numbers[found.sample_id] = number
            options[found.sample_id] = tuple(ids[_spelled(name)] for name in item.options)  # truth first
    missing = sum(unmatched.values())
    if missing > MOST_UNMATCHED * len(items) or not options:
        reasons = "; ".join(f"{number}: {reason}" for reason, number in sorted(unmatched.items()))
        raise FinedeficsError(
            f"{missing} of its {len(items)} questions cannot be asked here ({reasons})",
            place=place,
            cure="evaluate on the dataset and split that the file was made for",
        )
    return Matched(options, len(items), dict(sorted(unmatched.items())), repeated, numbers)


def _find(
    item: OptionItem, by_file: Mapping[str, Sequence[Picture]], ids: Mapping[str, str]
) -> Picture | str:
    """The item's picture, or why it has none."""
    if any(_spelled(name) not in ids for name in item.options):
        return NO_CATEGORY
    path = PurePosixPath(item.image.replace("\\", "/"))
    named = by_file.get(path.name, ())
    if not named:
        return NO_PICTURE
    shared = [_shared(path, PurePosixPath(picture.source)) for picture in named]
    closest = [one for one, parts in zip(named, shared, strict=True) if parts == max(shared)]
    right = [one for one in closest if one.category_id == ids[_spelled(item.truth)]]
    if not right:
        return OTHER_LABEL
    return right[0] if len(right) == 1 else AMBIGUOUS


def _shared(one: PurePosixPath, other: PurePosixPath) -> int:
    """How many parts two paths have in common, counted from the end."""
    count = 0
    for a, b in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if a != b:
            break
        count += 1
    return count


def _spelled(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()
