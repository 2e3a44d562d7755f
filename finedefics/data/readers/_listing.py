"""What a reader is given and what it gives; which reader reads a source."""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from finedefics.data.archives import is_archive
from finedefics.data.keeping import Keep, keep_for_now
from finedefics.data.opening import open_tree
from finedefics.data.tree import UNLISTED, Tree
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import SPLITS, Category
from finedefics.registry import Registry

AUTO = "auto"
_LAST = "folder"  # takes nearly everything, so it is asked when no other reader knows the layout


@dataclass(frozen=True)
class Source:
    """What is to be read.

    Attributes:
        tree: the files; entries are named by their paths in it.
        file: the one file that was named, None for a whole tree.
        seed: decides splits where the source has none.
        columns: what the user said of a table's columns (and other choices that a reader documents).
    """

    tree: Tree
    file: str | None = None
    seed: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.tree.where(self.file or "")


@dataclass(frozen=True)
class Entry:
    """One picture of a source and what the source says of it."""

    source: str  # unique; the path in the tree, with forward slashes
    split: str
    category: str | None  # the category's name; None: a picture without a label
    description: str | None = None
    attributes: Mapping[str, str] | None = None
    negatives: tuple[str, ...] = ()  # ids of hard negatives that the source names, hardest first
    address: str | None = None  # where `Tree.read` finds the bytes when not at ``source``


@dataclass(frozen=True)
class Listing:
    """A source's content: pictures sorted by source, categories sorted by id, what could not be placed."""

    entries: tuple[Entry, ...]
    categories: tuple[Category, ...]
    rejected: tuple[tuple[str, str], ...] = ()  # (source, reason)
    notes: Mapping[str, str] = field(default_factory=dict)  # what the reader decided, for the provenance


@dataclass(frozen=True)
class Reader:
    """A function that lists a source, and how its layout is known.

    Attributes:
        read: raises FinedeficsError where the source as a whole cannot be used.
        recognises: whether a source is laid out so; never reads pictures.
        layout: the layout in one phrase, for the message about an unknown one.
        takes: the keys of `Source.columns` that it understands.
    """

    read: Callable[[Source], Listing]
    recognises: Callable[[Source], bool] = lambda source: False
    layout: str = ""
    takes: tuple[str, ...] = ()

    def __call__(self, source: Source) -> Listing:
        return self.read(source)


READERS: Registry[Callable[[Source], Listing]] = Registry(
    "reader", package="finedefics.data.readers", group="finedefics.readers"
)


def reader(
    name: str, *, layout: str, recognises: Callable[[Source], bool], takes: tuple[str, ...] = ()
) -> Callable[[Callable[[Source], Listing]], Reader]:
    """Decorator: register a function as a reader."""

    def add(function: Callable[[Source], Listing]) -> Reader:
        made = Reader(function, recognises, layout, takes)
        READERS.register(name)(made)
        return made

    return add


@lru_cache(maxsize=65536)  # a source names its categories once a picture
def category_id(name: str) -> str:
    """The id of a category: its name in lower case, words joined by dashes.

    Signs that are parts of letters (vowels of Hindi or Thai) count as letters, and é is one letter however
    it is written.
    """
    signs = unicodedata.normalize("NFC", name.lower())
    words = (sign if unicodedata.category(sign)[0] in "LNM" else "-" for sign in signs)
    return re.sub("-+", "-", "".join(words)).strip("-")


def spoken(name: str) -> str:
    """A name as text: names become what a language model reads, and files write spaces as underscores."""
    return unicodedata.normalize("NFC", " ".join(name.replace("_", " ").split()))


def open_source(
    place: str | os.PathLike[str],
    *,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    keep: Keep = keep_for_now,
) -> Source:
    """A source by its place: a folder, an archive, an address of an object store, or one file of a table.

    Raises:
        FinedeficsError: nothing is there (exit code 2), or the archive is damaged.
    """
    text = os.fspath(place)
    if "://" in text and not text.startswith("file://"):
        folder, _, name = text.rstrip("/").rpartition("/")
        if posixpath.splitext(name)[1] and not folder.endswith(":/"):
            above = open_tree(folder, keep=keep)
            if above.exists(name):
                return Source(above, name, seed, columns or {})
    path = os.path.abspath(os.path.expanduser(text.removeprefix("file://")))
    if os.path.isfile(path) and not is_archive(path):
        above = open_tree(os.path.dirname(path), keep=keep)
        return Source(above, os.path.basename(path), seed, columns or {})
    return Source(open_tree(text, keep=keep), None, seed, columns or {})


def read_source(source: Source, name: str = AUTO) -> tuple[str, Listing]:
    """The reader's name and what it lists; ``auto`` takes the one that knows the layout.

    What the tree itself refuses (members that leave an archive, names that are no text) is among the
    rejected.

    Raises:
        FinedeficsError: the layout is unknown or more than one reader's (exit code 2), the source is wrong,
            or the reader gives a picture twice or in a split that there is not.
    """
    if name == AUTO:
        name = _recognised(source)
    component = READERS[name]
    if isinstance(component, Reader) and (unknown := sorted(set(source.columns) - set(component.takes))):
        known = f"it takes: {', '.join(component.takes)}" if component.takes else "leave --columns out"
        raise wrong_use(f"the reader {name} knows no {unknown[0]!r}", place="--columns", cure=known)
    listing = component(source)
    refused = source.tree.refused if source.file is None else ()
    _check(listing, name, source)
    return name, replace(listing, rejected=(*listing.rejected, *refused))


def _recognised(source: Source) -> str:
    found = []
    known = []
    for name in READERS:
        try:
            component = READERS[name]
        except FinedeficsError:  # what an installed package brings may be broken; that is its own matter
            continue
        known.append((name, str(getattr(component, "layout", ""))))
        asked = getattr(component, "recognises", None)
        if name != _LAST and asked is not None and asked(source):
            found.append(name)
    if not found and READERS[_LAST].recognises(source):  # type: ignore[attr-defined]
        found = [_LAST]
    if len(found) == 1:
        return found[0]
    if found:
        raise wrong_use(
            f"it is laid out as {' and '.join(found)} read it",
            place=source.place,
            cure=f"say which with --reader {'|'.join(found)}",
        )
    if source.file is not None and source.tree.exists(source.file):
        raise wrong_use(
            "this file is neither an archive nor a table of pictures",
            place=source.place,
            cure="give a folder of pictures, a .zip or .tar, or a table: .csv, .tsv, .jsonl or .parquet",
        )
    if source.file is None and not any(source.tree.files()):
        for path, reason in source.tree.refused:
            if reason.startswith(UNLISTED):  # nothing is seen in it, which does not make it empty
                raise FinedeficsError(reason, place=source.tree.where(path), cure="check its rights")
    layouts = "; ".join(f"{name}: {layout}" for name, layout in known if layout)
    raise wrong_use(
        "the layout is none that is known", place=source.place, cure=f"lay it out as one of {layouts}"
    )


def _check(listing: Listing, name: str, source: Source) -> None:
    """What every later step takes for granted, whoever wrote the reader."""
    cure = f"mend the reader {name}"
    for entry in listing.entries:
        if entry.split not in SPLITS:
            raise FinedeficsError(
                f"{entry.source!r} is in the split {entry.split!r}, which there is not",
                place=source.place,
                cure=cure,
            )
    twice = [one for one, count in Counter(entry.source for entry in listing.entries).items() if count > 1]
    if twice:
        raise FinedeficsError(f"{twice[0]!r} is listed twice", place=source.place, cure=cure)
    known = {category.category_id for category in listing.categories}
    for entry in listing.entries:
        if entry.category is not None and category_id(entry.category) not in known:
            raise FinedeficsError(
                f"the category {entry.category!r} of {entry.source!r} is not listed",
                place=source.place,
                cure=cure,
            )
