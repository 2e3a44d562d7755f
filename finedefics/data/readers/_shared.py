"""What readers have in common: splits by seed, categories of entries, lines of lists, and Matlab's files."""

import hashlib
import io
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from finedefics.data.names import SPLIT_WORDS
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, spoken
from finedefics.data.tree import Tree, is_inside
from finedefics.errors import FinedeficsError, reason_of
from finedefics.records import Category

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
HELD_OUT = {"val": 0.1, "test": 0.2}  # shares of a category where the source has no splits
VAL_SHARE = 0.1  # of a category's train pictures, where a benchmark has no val split


@dataclass
class Gathered:
    """Entries of a list file, each picture once.

    A picture that is named again with the same label and split is told of and taken once; one that is named
    with another label or split is not taken at all, as one of the two is wrong.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    _disputed: dict[str, Entry] = field(default_factory=dict)

    def add(self, entry: Entry, where: str) -> None:
        """Take an entry that stands at ``where`` (a file and line)."""
        before = self.entries.get(entry.source) or self._disputed.get(entry.source)
        if before is None:
            self.entries[entry.source] = entry
        elif (before.category, before.split) == (entry.category, entry.split):
            self.rejected.append((entry.source, f"named twice ({where})"))
        else:
            self._disputed[entry.source] = before
            self.entries.pop(entry.source, None)
            ours, theirs = (f"{one.category} in {one.split or 'no split'}" for one in (before, entry))
            self.rejected.append((entry.source, f"named as {ours}, and as {theirs} ({where})"))

    def reject(self, source: str, reason: str) -> None:
        """Set a picture aside."""
        self.rejected.append((source, reason))

    def reject_unnamed(self, tree: Tree, folder: str, reason: str) -> None:
        """Set aside the pictures below a folder that nothing has been said of; other files are none."""
        named = {*self.entries, *(source for source, _ in self.rejected)}
        for path in tree.files():
            if path.startswith(folder) and path not in named and is_picture(path):
                self.rejected.append((path, reason))


def benchmark(
    source: Source,
    gathered: Gathered,
    categories: Mapping[str, Category],
    *,
    cut_val: bool,
    notes: Mapping[str, str] | None = None,
) -> Listing:
    """The listing of a benchmark; FinedeficsError where its lists name no picture.

    Args:
        categories: by id, those without a picture too.
        cut_val: take a val split of `VAL_SHARE` from train, by the source's seed; test is never touched.
    """
    entries = list(gathered.entries.values())
    if not entries:
        raise FinedeficsError(
            "its lists name no picture",
            place=source.place,
            cure="fetch the data set again, lists and pictures",
        )
    told = dict(notes or {})
    if cut_val:
        entries = val_from_train(entries, source.seed)
        told["val"] = f"{VAL_SHARE:g} of each category's train pictures, by seed"
    entries.sort(key=lambda entry: entry.source)
    return Listing(tuple(entries), sorted_categories(categories), tuple(gathered.rejected), told)


def val_from_train(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Move `VAL_SHARE` of each category's train pictures to val, at least one of three or more."""
    train: dict[str | None, list[Entry]] = {}
    for entry in entries:
        if entry.split == "train" and entry.category is not None:
            train.setdefault(category_id(entry.category), []).append(entry)
    chosen: set[str] = set()
    for members in train.values():
        if len(members) >= 3:
            count = max(1, round(VAL_SHARE * len(members)))
            chosen.update(entry.source for entry in _shuffled(members, seed)[:count])
    return [replace(entry, split="val") if entry.source in chosen else entry for entry in entries]


def split_by_seed(entries: Iterable[Entry], seed: int) -> Iterator[Entry]:
    """Give every picture a split; each category apart, so that three pictures reach all of them."""
    by_category: dict[str | None, list[Entry]] = {}
    for entry in entries:
        if entry.split:
            yield entry
        else:
            key = None if entry.category is None else category_id(entry.category)
            by_category.setdefault(key, []).append(entry)
    for category, members in by_category.items():
        splits: list[str] = []
        if category is not None and len(members) >= 3:  # pictures without a label are only of use in training
            for split, share in HELD_OUT.items():
                splits += [split] * max(1, round(share * len(members)))
        splits += ["train"] * (len(members) - len(splits))
        for entry, split in zip(_shuffled(members, seed), splits, strict=True):
            yield replace(entry, split=split)


def _shuffled(members: Iterable[Entry], seed: int) -> list[Entry]:
    return sorted(members, key=lambda entry: hashlib.sha256(f"{seed}\0{entry.source}".encode()).digest())


def categories_of(
    entries: Iterable[Entry],
    known: Mapping[str, Category],
    where: Tree,
    *,
    super_category: str | None = None,
    settled: Collection[str] = (),
) -> dict[str, Category]:
    """Categories by id: the known ones, and those that entries name.

    Args:
        settled: ids of known categories whose names hold for all entries of the id, however they write it.

    Raises:
        FinedeficsError: a name has no letter, or two names (that differ by case, say) have one id.
    """
    categories, first = dict(known), dict[str, Entry]()
    for entry in entries:
        if entry.category is None:
            continue
        identifier = category_id(entry.category)
        if not identifier:
            raise FinedeficsError(
                f"{entry.category!r} is no name for a category",
                place=where.where(entry.source),
                cure="use a name with letters or digits",
            )
        other = first.setdefault(identifier, entry)
        if identifier not in settled and other.category != entry.category:
            raise FinedeficsError(
                f"{entry.category!r} here and {other.category!r} of {other.source} cannot be told apart",
                place=where.where(entry.source),
                cure="write the name of a category in one way, or rename one of the two",
            )
        categories.setdefault(identifier, Category(identifier, entry.category, super_category))
    return categories


def sorted_categories(categories: Mapping[str, Category]) -> tuple[Category, ...]:
    """Categories by id."""
    return tuple(categories[identifier] for identifier in sorted(categories))


def named_categories(names: Iterable[str], super_category: str | None, place: str) -> dict[str, Category]:
    """Categories by id, of names as a list file has them; FinedeficsError where two have one id."""
    categories: dict[str, Category] = {}
    for raw in names:
        name = spoken(raw)
        if not (identifier := category_id(name)) or identifier in categories:
            raise FinedeficsError(
                f"{name!r} is no name for a category, or stands there twice",
                place=place,
                cure="mend the list",
            )
        categories[identifier] = Category(identifier, name, super_category)
    return categories


def is_picture(path: str) -> bool:
    """Whether a file's name is that of a picture."""
    return posixpath.splitext(path)[1].lower() in PICTURE_SUFFIXES


def below(base: str, path: str) -> str | None:
    """The path in the tree of what a file in the folder ``base`` names; None where it leaves the tree."""
    if not is_inside(path):
        return None
    return str(PurePosixPath(base) / path) if base else str(PurePosixPath(path))


def folder_of(path: str) -> str:
    """The folder that a file of a tree is in; "" at the top."""
    return path.rpartition("/")[0]


def split_named(text: str) -> str | None:
    """The split that a word stands for, None for an unknown word."""
    return SPLIT_WORDS.get(text.strip().lower())


def listed(
    tree: Tree, path: str, cells: int, *, last_takes_rest: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Lines of a list of words as (where, words); empty lines and those after ``#`` are left out.

    Raises:
        FinedeficsError: the file is missing, or a line has fewer words than ``cells``.
    """
    for number, line in enumerate(tree.text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=cells - 1) if last_takes_rest else line.split()
        if len(words) < cells:
            raise FinedeficsError(
                f"{len(words)} words, and {cells} are wanted",
                place=f"{tree.where(path)}, line {number}",
                cure="fetch the file again",
            )
        yield f"{path.rpartition('/')[2]}, line {number}", [word.strip() for word in words]


def read_mat(tree: Tree, path: str) -> dict[str, Any]:
    """Variables of a Matlab file, arrays of one element as that element, structs as records.

    Raises:
        FinedeficsError: it is missing, or cannot be read.
    """
    from scipy.io import loadmat

    try:
        content = tree.read(path)
        variables: dict[str, Any] = loadmat(io.BytesIO(content), squeeze_me=True, chars_as_strings=True)
    except FileNotFoundError as error:
        raise FinedeficsError(
            "there is no such file", place=tree.where(path), cure="add it to the data set"
        ) from error
    except Exception as error:  # scipy's reader raises whatever a damaged file leads it to
        raise FinedeficsError(
            f"this Matlab file cannot be read ({reason_of(error)})",
            place=tree.where(path),
            cure="fetch it again",
        ) from error
    return variables


def variable(tree: Tree, path: str, name: str) -> Any:
    """One variable of a Matlab file; FinedeficsError where it has none of that name."""
    import numpy as np

    variables = read_mat(tree, path)
    if name not in variables:
        raise FinedeficsError(
            f"there is no variable `{name}` in this file", place=tree.where(path), cure="fetch it again"
        )
    return np.atleast_1d(variables[name])
