"""The reader "folder": pictures in ``<split>/<category>/`` or ``<category>/``, and what is said beside them.

``annotations.jsonl`` completes or replaces the folders, ``categories.jsonl`` tells what is known of a
category, and ``class_attributes.csv`` what annotators saw in its pictures.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from finedefics.data.names import SPLIT_WORDS, TABLES
from finedefics.data.readers._class_attributes import CLASS_ATTRIBUTES_FILE, read_class_attributes
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import (
    categories_of,
    folder_of,
    is_picture,
    sorted_categories,
    split_by_seed,
)
from finedefics.data.tree import Tree, is_inside, is_text
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import SPLITS, Category

ANNOTATIONS_FILE, CATEGORIES_FILE = "annotations.jsonl", "categories.jsonl"
BESIDE = (ANNOTATIONS_FILE, CATEGORIES_FILE, CLASS_ATTRIBUTES_FILE)
# 001.Black_footed_Albatross, n02085620-Chihuahua: a number that orders the categories, or ImageNet's
_PREFIX = re.compile(r"(?:\d+\.|n\d{8}-)(?=.)")


def _recognises(source: Source) -> bool:
    if source.file is not None:
        return False
    files = list(source.tree.files())
    if ANNOTATIONS_FILE in files:
        return True
    folders = {folder_of(path) for path in files if is_picture(path) and "/" in path}
    tables = [path for path in files if path.lower().endswith(TABLES) and path not in BESIDE]
    if len(folders) == 1 and tables:  # one category of that name is not what anybody means
        raise wrong_use(
            f"all pictures are in {min(folders)}/, and tables lie beside it ({', '.join(tables[:3])})",
            place=source.place,
            cure=f"say --reader table --columns file={tables[0]}, or --reader folder for a single category",
        )
    return bool(folders)


@reader(
    "folder",
    layout=f"<split>/<category>/<picture> or <category>/<picture>, or pictures named in {ANNOTATIONS_FILE}",
    recognises=_recognises,
)
def read_folder(source: Source) -> Listing:
    """List a folder of pictures.

    A file in ``<split>/<category>/`` or ``<category>/`` is a picture of that category; splits are also called
    ``training``, ``valid``, ``validation``, ``dev`` and ``testing``, in any case. Folders that hold all
    of the others (``images/``) count for nothing. Where all folders of categories have a number before their
    name (``001.Wren``, ``n02085620-Wren``), the name goes without it. Two folders whose names differ by case
    only, or by a dash, are refused: nobody knows whether they are one category.

    A line of ``annotations.jsonl`` names a picture and may give split, category (null: no label), description
    and attributes; what it leaves out comes from the picture's place. Where every line has a ``category`` and
    the folder has no split folders, the file stands alone and pictures that it does not name are rejected.

    ``class_attributes.csv`` (see `read_class_attributes`) gives categories attributes and a text, unless
    ``categories.jsonl`` does.

    Raises:
        FinedeficsError: the tree holds no picture, a line is wrong (named by file and number), a split is
            unknown, or two categories have the same id.
    """
    tree = source.tree
    files = [path for path in tree.files() if path not in BESIDE]
    notes = _read_annotations(tree, ANNOTATIONS_FILE)
    known = _read_categories(tree, CATEGORIES_FILE)
    home = "" if notes else _wrapper(files)
    pictures = [path.removeprefix(home) for path in files if is_picture(path)]
    top = {path.partition("/")[0] for path in pictures if "/" in path}
    split_folders = _splits_among(top)
    stands_alone = bool(notes) and not split_folders and all("category" in note for note in notes.values())
    if split_folders and (strangers := top - split_folders.keys()) and not notes:
        raise FinedeficsError(
            f"unknown split {sorted(strangers)[0]!r} beside {', '.join(sorted(split_folders))}",
            place=tree.where(home),
            cure=f"name the split folders {', '.join(SPLITS)}",
        )
    entries, rejected = _list_entries({*files, *notes}, home, notes, split_folders, stands_alone)
    if not entries:
        raise FinedeficsError(
            "there is no picture in this folder",
            place=source.place,
            cure=f"lay pictures out as <split>/<category>/<picture>, or name them in {ANNOTATIONS_FILE}",
        )
    classes = read_class_attributes(tree, CLASS_ATTRIBUTES_FILE)
    entries, classes = _without_prefixes(entries, classes)
    both = {i: _completed(known[i], category) if i in known else category for i, category in classes.items()}
    entries = sorted(split_by_seed(entries, source.seed), key=lambda entry: entry.source)
    categories = categories_of(entries, known | both, tree, settled=known)
    return Listing(tuple(entries), sorted_categories(categories), tuple(rejected))


def _wrapper(files: Iterable[str]) -> str:
    """The folders (``images/``) that hold every folder of pictures, "" where there are none."""
    placed = [path.split("/")[:-1] for path in files if is_picture(path) and "/" in path]
    home: list[str] = []
    while placed:
        depth = len(home)
        tops = {folders[depth] for folders in placed}
        if len(tops) > 1 or _splits_among(tops) or any(len(folders) < depth + 2 for folders in placed):
            break
        home += tops
    return "".join(f"{folder}/" for folder in home)


def _splits_among(folders: Iterable[str]) -> dict[str, str]:
    """Which folders are splits, by their names; "valid" or "Testing" only beside a folder for training."""
    named = {folder: SPLIT_WORDS[folder.lower()] for folder in folders if folder.lower() in SPLIT_WORDS}
    exact = {folder: folder for folder in named if folder in SPLITS}
    return named if "train" in named.values() else exact


def _list_entries(
    sources: Iterable[str],
    home: str,
    notes: Mapping[str, dict[str, Any]],
    splits: Mapping[str, str],
    stands_alone: bool,
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Pictures (split "" where the source gives none) and what could not be placed, with the reason."""
    entries: list[Entry] = []
    rejected: list[tuple[str, str]] = []
    for source in sorted(sources):
        note = notes.get(source)
        split, category, problem = _place(source, home, splits)
        if note is None and stands_alone:
            problem = f"not named in {ANNOTATIONS_FILE}"
        if note is None and problem:
            # Other files (a licence, a list of classes) are no pictures that someone could miss.
            if is_picture(source):
                rejected.append((source, problem))
            continue
        note = note or {}
        category = note.get("category", category)
        entries.append(
            Entry(
                source=source,
                split=note.get("split") or split or "",
                category=None if category is None else spoken(category),
                description=note.get("description"),
                attributes=note.get("attributes"),
            )
        )
    return entries, rejected


def _place(source: str, home: str, splits: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    """Split and category by a picture's place, and why it has none."""
    *folders, _ = source.removeprefix(home).split("/")
    if not source.startswith(home):
        folders = []
    split = splits[folders.pop(0)] if folders and folders[0] in splits else None
    if splits and split is None:
        return None, None, "lies outside the split folders"
    if len(folders) != 1:
        where = "outside a category's folder" if not folders else "deeper than its category's folder"
        return split, None, f"lies {where}"
    return split, folders[0], None


def _without_prefixes(
    entries: list[Entry], classes: dict[str, Category]
) -> tuple[list[Entry], dict[str, Category]]:
    """Names without the numbers before them, where every category has one; in both, or in neither."""
    names = {entry.category for entry in entries if entry.category is not None}
    if names and all(_PREFIX.match(name) for name in names):
        bare = {name: _PREFIX.sub("", name, count=1).strip() for name in names}
        if len({category_id(name) for name in bare.values()} - {""}) == len(names):
            entries = [
                replace(entry, category=None if entry.category is None else bare[entry.category])
                for entry in entries
            ]
            classes = {category_id(c.name): c for c in map(_without_prefix, classes.values())}
    return entries, classes


def _without_prefix(category: Category) -> Category:
    name = _PREFIX.sub("", category.name, count=1).strip()
    return replace(category, category_id=category_id(name), name=name)


def _completed(told: Category, seen: Category) -> Category:
    """What the user wrote of a category goes before what annotators saw."""
    if told.attributes or told.description:
        return told
    return replace(told, attributes=seen.attributes, description=seen.description)


def _read_annotations(tree: Tree, file: str) -> dict[str, dict[str, Any]]:
    notes: dict[str, dict[str, Any]] = {}
    for place, line in _read_lines(tree, file, {"image", "split", "category", "description", "attributes"}):
        image = line.get("image")
        if not isinstance(image, str) or not image:
            raise _bad_line(place, "`image` is missing", "name the picture relative to the folder")
        if not is_inside(image):
            raise _bad_line(place, f"{image!r} lies outside the folder", "name a picture inside the folder")
        if line.get("split") not in (None, *SPLITS):
            raise _bad_line(place, f"unknown split {line['split']!r}", f"use one of: {', '.join(SPLITS)}")
        source = str(PurePosixPath(image))
        if source in notes:
            raise _bad_line(place, f"{image!r} is named twice", "keep one line a picture")
        notes[source] = line
    return _as_written(tree, notes)


def _as_written(tree: Tree, notes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Notes by the names that the tree has: a name may be the same text in another form of Unicode."""
    return {tree.written(source): note for source, note in notes.items()}


def _read_categories(tree: Tree, file: str) -> dict[str, Category]:
    categories: dict[str, Category] = {}
    for place, line in _read_lines(tree, file, {"name", "super_category", "description", "attributes"}):
        name = spoken(line.get("name") or "")
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


def _read_lines(tree: Tree, file: str, keys: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checked objects of a JSON-lines file with their places; nothing where there is no such file."""
    if not tree.exists(file):
        return
    for number, text in enumerate(tree.text(file).split("\n"), start=1):
        if text.strip():
            place = f"{tree.where(file)}, line {number}"
            yield place, _check_line(text, keys, place)


def _check_line(text: str, keys: set[str], place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise _bad_line(place, "not valid JSON", "write one JSON object a line") from error
    if not isinstance(line, dict):
        raise _bad_line(place, "not a JSON object", "write one JSON object a line")
    if not is_text(json.dumps(line, ensure_ascii=False)):
        raise _bad_line(place, "it holds half a character (\\ud800 to \\udfff)", "save it again as UTF-8")
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
