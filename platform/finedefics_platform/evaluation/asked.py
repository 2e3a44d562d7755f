"""What is asked: pictures of a split, each with its options, mined or out of a published file."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

from finedefics.evaluation.choices import choose_options
from finedefics.evaluation.matching import Matched, Picture, match
from finedefics.evaluation.options import read_options
from finedefics.records import Category, Sample
from finedefics_platform.base.digest import digest_of
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset, Place
from finedefics_platform.evaluation.checks import labelled_pictures

_IDS = {"samples": ("sample_id",)}


@dataclass(frozen=True)
class Published:
    """A file of options: its name and the digest of its questions, and what of it can be asked here."""

    name: str
    digest: str
    matched: Matched

    @property
    def reference(self) -> str:
        """``name@digest``; the digest decides."""
        return f"{self.name}@{self.digest}"

    @property
    def most(self) -> int:
        """Options of its largest question."""
        return max(map(len, self.matched.options.values()))


@dataclass(frozen=True)
class Asked:
    """Pictures, without their bytes, and their options.

    Attributes:
        choices: for each picture the ids of its options, the truth first.
        drawn: pictures with random options, for want of mined ones.
    """

    samples: list[Sample]
    choices: list[tuple[str, ...]]
    drawn: int = 0

    def told(self, categories: int) -> dict[str, Any]:
        """For a summary, as `told` says it."""
        return told(categories, self.drawn, Counter(map(len, self.choices)))


def told(categories: int, drawn: int, sizes: Mapping[int, int]) -> dict[str, Any]:
    """For a summary: how many categories compete, random options, and what guessing would give.

    Args:
        sizes: pictures by how many options they were asked on.
    """
    guessed = sum(count / size for size, count in sorted(sizes.items())) / sum(sizes.values())
    return {
        "categories": categories,
        "options_random": drawn,
        "chance": {"all": 1 / categories, "options": guessed},
    }


def published(
    file: str | os.PathLike[str], dataset: Dataset, split: str, categories: Sequence[Category]
) -> Published:
    """The questions of a file that have their picture in the split.

    Raises:
        FinedeficsError: the file cannot be read, or too many of its questions have no picture here.
    """
    read = read_options(os.fspath(file))
    rows = dataset.table("samples", ["sample_id", "source", "category_id", "split"])
    pictures = (
        Picture(row["sample_id"], row["source"], row["category_id"])
        for batch in rows.to_batches()
        for row in batch.to_pylist()
        if row["split"] == split
    )
    matched = match(read.items, pictures, categories, place=str(file))
    digest = digest_of([asdict(item) for item in read.items])
    return Published(PurePath(file).name, digest, matched)


def ask(
    dataset: Dataset, settings: Settings, categories: Sequence[Category], file: Published | None = None
) -> Asked:
    """Read what is known of the pictures of the split, at most ``limit``, and choose their options.

    Args:
        settings: ``options`` is what there can be (`effective`).
        file: asks its own pictures and options only.
    """
    there = dataset.labelled(settings.split)
    if file is not None:
        options = file.matched.options
        samples = list(islice((one for one in there if one.sample_id in options), settings.limit))
        return Asked(samples, [options[sample.sample_id] for sample in samples])
    samples = list(islice(there, settings.limit))
    choices, drawn = choose(samples, settings, categories)
    return Asked(samples, choices, drawn)


def choose(
    samples: Sequence[Sample], settings: Settings, categories: Sequence[Category]
) -> tuple[list[tuple[str, ...]], int]:
    """Options of pictures, and on how many of them some are random; no other pictures bear on them."""
    ids = [category.category_id for category in categories]
    choices = choose_options(samples, ids, settings.options, seed=settings.seed)
    return [one.options for one in choices], sum(one.drawn > 0 for one in choices)


def asked_places(dataset: Dataset, settings: Settings, file: Published | None) -> list[Place]:
    """Where the pictures that `ask` asks lie; without a file from counts alone."""
    if file is None:
        count = labelled_pictures(dataset, settings.split)
        return dataset.labelled_places(settings.split, range(min(count, settings.limit or count)))
    groups = [group for group in dataset.row_groups(settings.split) if group.labelled]
    there = (
        Place(group, row)
        for group in groups
        for row, sample_id in enumerate(dataset.read(group, _IDS)["sample_id"].to_pylist())
        if sample_id in file.matched.options
    )
    return list(islice(there, settings.limit))


def effective(settings: Settings, categories: Sequence[Category], file: Published | None) -> Settings:
    """The settings with as many options as are asked, and as many orders of them.

    Of fewer categories than options all are asked, of a file its own; in no more orders than there are.
    """
    options = file.most if file is not None else min(settings.options, len(categories))
    rotations = settings.rotations
    if rotations is not None:
        rotations = options if rotations == "all" else min(rotations, options)
    return settings.model_copy(update={"options": options, "rotations": rotations})
