"""Readers list what a source holds, without decoding a picture; ingesting does the rest.

The reader "folder" understands ``<split>/<category>/<picture>`` and ``<category>/<picture>`` (split by seed),
completed or replaced by ``annotations.jsonl``, with ``categories.jsonl`` for what is known of a category.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics.records import SPLITS, Category
from finedefics.registry import Registry

ANNOTATIONS_FILE, CATEGORIES_FILE = "annotations.jsonl", "categories.jsonl"
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
HELD_OUT = {"val": 0.1, "test": 0.2}  # shares of a category where the source has no splits


@dataclass(frozen=True)
class Entry:
    """One picture of a source and what the source says of it."""

    source: str  # path relative to the source's folder, with forward slashes
    path: str  # absolute
    split: str
    category: str | None  # the category's name; None: a picture without a label
    description: str | None = None
    attributes: Mapping[str, str] | None = None
    negatives: tuple[str, ...] = ()  # ids of hard negatives that the source names, hardest first


@dataclass(frozen=True)
class Listing:
    """A source's content: pictures sorted by source, categories sorted by id, what could not be placed."""

    entries: tuple[Entry, ...]
    categories: tuple[Category, ...]
    rejected: tuple[tuple[str, str], ...] = ()  # (source, reason)


READERS: Registry[Callable[..., Listing]] = Registry("reader")


def category_id(name: str) -> str:
    """The id of a category: its name in lower case, words joined by dashes."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


@READERS.register("folder")
def read_folder(folder: str | Path, *, seed: int = 0) -> Listing:
    """List a folder of pictures.

    A file in ``<split>/<category>/`` or ``<category>/`` is a picture of that category. A line of
    ``annotations.jsonl`` names a picture and may give split, category (null: no label), description and
    attributes; what it leaves out comes from the picture's place. Where every line has a ``category`` and
    the folder has no split folders, the file stands alone and pictures that it does not name are rejected.

    Args:
        seed: decides the split of pictures whose source has none.

    Raises:
        FinedeficsError: the folder is missing or holds no picture, a line is wrong (named by file and
            number), a split is unknown, or two categories have the same id.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise FinedeficsError(
            "there is no such folder", place=str(folder), cure="give the path of a folder of pictures"
        )
    notes = _read_annotations(root / ANNOTATIONS_FILE)
    known = _read_categories(root / CATEGORIES_FILE)
    top = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    split_folders = top & set(SPLITS)
    stands_alone = bool(notes) and not split_folders and all("category" in note for note in notes.values())
    if split_folders and (strangers := top - set(SPLITS)) and not notes:
        raise FinedeficsError(
            f"unknown split {sorted(strangers)[0]!r} beside {', '.join(sorted(split_folders))}",
            place=str(root),
            cure=f"name the split folders {', '.join(SPLITS)}",
        )
    entries, rejected = _list_entries(root, notes, bool(split_folders), stands_alone)
    if not entries:
        raise FinedeficsError(
            "there is no picture in this folder",
            place=str(folder),
            cure=f"lay pictures out as <split>/<category>/<picture>, or name them in {ANNOTATIONS_FILE}",
        )
    entries = sorted(_split_by_seed(entries, seed), key=lambda entry: entry.source)
    return Listing(tuple(entries), _all_categories(entries, known, root), tuple(rejected))


def _list_entries(
    root: Path, notes: Mapping[str, dict[str, Any]], has_splits: bool, stands_alone: bool
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Pictures (split "" where the source gives none) and what could not be placed, with the reason."""
    entries: list[Entry] = []
    rejected: list[tuple[str, str]] = []
    for source in sorted(set(_walk(root)) | set(notes)):
        note = notes.get(source)
        split, category, problem = _place(source, has_splits)
        if note is None and stands_alone:
            problem = f"not named in {ANNOTATIONS_FILE}"
        if note is None and problem:
            # Other files (a licence, a list of classes) are no pictures that someone could miss.
            if PurePosixPath(source).suffix.lower() in PICTURE_SUFFIXES:
                rejected.append((source, problem))
            continue
        note = note or {}
        entries.append(
            Entry(
                source=source,
                path=str(root / source),
                split=note.get("split") or split or "",
                category=_spoken(note.get("category", category)),
                description=note.get("description"),
                attributes=note.get("attributes"),
            )
        )
    return entries, rejected


def _walk(root: Path) -> Iterator[str]:
    """Every visible file as a relative path; folders that are links are followed, each once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            relative = (Path(folder) / name).relative_to(root).as_posix()
            if not name.startswith(".") and relative not in (ANNOTATIONS_FILE, CATEGORIES_FILE):
                yield relative


def _place(source: str, has_splits: bool) -> tuple[str | None, str | None, str | None]:
    """Split and category by a picture's place, and why it has none."""
    *folders, _ = source.split("/")
    split = folders.pop(0) if has_splits and folders and folders[0] in SPLITS else None
    if has_splits and split is None:
        return None, None, "lies outside the split folders"
    if len(folders) != 1:
        where = "outside a category's folder" if not folders else "deeper than its category's folder"
        return split, None, f"lies {where}"
    return split, folders[0], None


def _spoken(name: str | None) -> str | None:
    # Names become text that a language model reads, and folder names write spaces as underscores.
    return None if name is None else " ".join(name.replace("_", " ").split())


def _split_by_seed(entries: list[Entry], seed: int) -> Iterator[Entry]:
    """Give every picture a split; each category apart, so that three pictures reach all of them."""
    by_category: dict[str | None, list[Entry]] = {}
    for entry in entries:
        if entry.split:
            yield entry
        else:
            key = None if entry.category is None else category_id(entry.category)
            by_category.setdefault(key, []).append(entry)
    for category, members in by_category.items():
        members.sort(key=lambda entry: hashlib.sha256(f"{seed}\0{entry.source}".encode()).digest())
        splits: list[str] = []
        if category is not None and len(members) >= 3:  # pictures without a label are only of use in training
            for split, share in HELD_OUT.items():
                splits += [split] * max(1, round(share * len(members)))
        splits += ["train"] * (len(members) - len(splits))
        for entry, split in zip(members, splits, strict=True):
            yield replace(entry, split=split)


def _all_categories(entries: Sequence[Entry], known: dict[str, Category], root: Path) -> tuple[Category, ...]:
    categories = dict(known)
    for entry in entries:
        if entry.category is not None:
            identifier = category_id(entry.category)
            if not identifier:
                raise FinedeficsError(
                    f"{entry.category!r} is no name for a category",
                    place=str(root / entry.source),
                    cure="use a name with letters or digits",
                )
            categories.setdefault(identifier, Category(identifier, entry.category))
    return tuple(categories[identifier] for identifier in sorted(categories))


def _read_annotations(file: Path) -> dict[str, dict[str, Any]]:
    notes: dict[str, dict[str, Any]] = {}
    for place, line in _read_lines(file, {"image", "split", "category", "description", "attributes"}):
        image = line.get("image")
        if not isinstance(image, str) or not image:
            raise _bad_line(place, "`image` is missing", "name the picture relative to the folder")
        source = PurePosixPath(image)
        if source.is_absolute() or ".." in source.parts:
            raise _bad_line(place, f"{image!r} lies outside the folder", "name a picture inside the folder")
        if line.get("split") not in (None, *SPLITS):
            raise _bad_line(place, f"unknown split {line['split']!r}", f"use one of: {', '.join(SPLITS)}")
        if str(source) in notes:
            raise _bad_line(place, f"{image!r} is named twice", "keep one line a picture")
        notes[str(source)] = line
    return notes


def _read_categories(file: Path) -> dict[str, Category]:
    categories: dict[str, Category] = {}
    for place, line in _read_lines(file, {"name", "super_category", "description", "attributes"}):
        name = _spoken(line.get("name")) or ""
        identifier = category_id(name)
        if not identifier:
            raise _bad_line(place, "`name` is missing or empty", "name the category")
        if identifier in categories:
            taken = categories[identifier].name
            raise _bad_line(place, f"{name!r} and {taken!r} have the same id", "rename one of them")
        categories[identifier] = Category(
            identifier,
            name,
            line.get("super_category"),
            line.get("description"),
            line.get("attributes") or {},
        )
    return categories


def _read_lines(file: Path, keys: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checked objects of a JSON-lines file with their places; nothing where there is no such file."""
    if not file.is_file():
        return
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FinedeficsError(
            "cannot read this file", place=str(file), cure="save it as UTF-8 text"
        ) from error
    for number, text in enumerate(lines, start=1):
        if text.strip():
            place = f"{file}, line {number}"
            yield place, _check_line(text, keys, place)


def _check_line(text: str, keys: set[str], place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise _bad_line(place, "not valid JSON", "write one JSON object a line") from error
    if not isinstance(line, dict):
        raise _bad_line(place, "not a JSON object", "write one JSON object a line")
    if unknown := sorted(set(line) - keys):
        raise _bad_line(place, f"unknown key `{unknown[0]}`", f"use: {', '.join(sorted(keys))}")
    for key in keys - {"attributes"}:
        if not isinstance(line.get(key), str | None):
            raise _bad_line(place, f"`{key}` is not a string", "write a string or null")
    attributes = line.get("attributes")
    if attributes is not None:
        if not isinstance(attributes, dict) or not all(
            isinstance(value, str | int | float) for value in attributes.values()
        ):
            raise _bad_line(place, "`attributes` is no mapping of names to values", 'write {"name": "value"}')
        line["attributes"] = {name: str(value) for name, value in attributes.items()}
    return line


def _bad_line(place: str, thing: str, cure: str) -> FinedeficsError:
    return FinedeficsError(thing, place=place, cure=cure)
