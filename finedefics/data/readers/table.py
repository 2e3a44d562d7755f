"""The reader "table": a row a picture, in CSV, TSV, JSON lines or Parquet, with columns named by the user."""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from finedefics.data.cells import cell_address
from finedefics.data.names import SPLIT_WORDS, TABLES
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._rows import Rows, open_rows
from finedefics.data.readers._shared import (
    Gathered,
    below,
    categories_of,
    folder_of,
    is_picture,
    sorted_categories,
    split_by_seed,
    split_named,
)
from finedefics.data.readers.folder import BESIDE
from finedefics.data.readers.released import is_released
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category

USUAL = {  # names that a column is looked for by, where the user names none
    "image": ("image", "image_path", "file_name", "filename", "filepath", "path", "img", "picture"),
    "label": ("label", "labels", "category", "class", "species", "class_name", "label_name"),
    "split": ("split", "fold", "subset"),
    "description": ("description", "caption", "text"),
    "super_category": ("super_category", "supercategory"),
    "attributes": ("attributes",),
}
_SHARD = re.compile(rf"(?:{'|'.join(SPLIT_WORDS)})(?=[-_.]|$)")  # train-00000-of-00005.parquet


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that say each thing, None where none does."""

    image: str
    label: str | None
    split: str | None
    description: str | None
    super_category: str | None
    attributes: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        ones = (self.image, self.label, self.split, self.description, self.super_category)
        return list(dict.fromkeys(name for name in (*ones, *self.attributes) if name is not None))


def _recognises(source: Source) -> bool:
    if source.file is not None:
        return source.file.lower().endswith(TABLES) and not is_released(source)
    tables = _tables(source)
    if not tables:
        return False
    # pictures in folders of their own have their categories by them, and a table is beside the point
    folders = {folder_of(path) for path in source.tree.files() if is_picture(path)}
    return len(folders) <= 1 and _are_one(tables)


@reader(
    "table",
    layout="a CSV, TSV, JSON-lines or Parquet file with a row a picture (--columns image=…,label=…)",
    recognises=_recognises,
    takes=(*USUAL, "file"),
)
def read_table(source: Source) -> Listing:
    """List the rows of a table.

    Columns are named by ``columns`` (image, label, split, description, super_category; attributes=a+b for one
    attribute a column, or one column of mappings), or found by their usual names. In a folder or archive,
    ``file`` says which table is meant; all Parquet files together are one table, and so are files that are
    each named by a split. Their splits are the words that their names begin with, or the names of folders
    that they are in (``default/test/0000.parquet``).

    A picture is a path relative to the table's folder, or lies in the Parquet file as bytes or as the Hugging
    Face libraries' ``{bytes, path}``; its source is then the file and the row. Numbers are labels as they
    are, unless the file itself has names for them (the Hugging Face libraries' ClassLabel; there
    -1 is no label). A row without a split gets one by seed. Labels that differ by case only are refused.

    Set aside, each with its line or row: what cannot be parsed, rows without a picture, with one outside the
    folder or on the web, with an unknown split, with a label that is no name, and pictures named twice (once
    more in the same way: taken once; in another split or category: not at all).

    Raises:
        FinedeficsError: a column is not there (exit code 2), there is no row, or none can be used.
    """
    files = _chosen(source)
    gathered = Gathered()
    known: dict[str, Category] = {}
    rows = 0
    for file in files:
        opened = open_rows(source.tree, file)
        columns = _columns(source, file, opened.names)
        split = _shard_split(file) if len(files) > 1 else ""
        for number, (where, row) in enumerate(opened.rows(columns.wanted, columns.image)):
            rows += 1
            if isinstance(row, str):
                gathered.reject(file, f"{where}: {row}")
                continue
            entry = _entry(source, file, opened, columns, number, row, split)
            if isinstance(entry, str):
                gathered.reject(file, f"{where}: {entry}")
                continue
            gathered.add(entry, f"{PurePosixPath(file).name}, {where}")
            if (
                columns.super_category
                and entry.category
                and (above := _text(row.get(columns.super_category)))
            ):
                identifier = category_id(entry.category)
                known.setdefault(identifier, Category(identifier, entry.category, above))
    if not gathered.entries:
        why = f"no row can be used (the first: {gathered.rejected[0][1]})" if rows else "there is no row"
        raise FinedeficsError(why, place=source.place, cure="check the file and --columns")
    entries = sorted(split_by_seed(gathered.entries.values(), source.seed), key=lambda entry: entry.source)
    categories = categories_of(entries, known, source.tree)
    return Listing(tuple(entries), sorted_categories(categories), tuple(gathered.rejected))


def _entry(
    source: Source,
    file: str,
    opened: Rows,
    columns: _Columns,
    number: int,
    row: Mapping[str, Any],
    split: str,
) -> Entry | str:
    """The entry of a row, or why there is none."""
    found = _picture(source, file, opened, columns.image, number, row.get(columns.image))
    if isinstance(found, str):
        return found
    place, address = found
    if columns.split and (said := _text(row.get(columns.split))):
        named = split_named(said)
        if named is None:
            return f"unknown split {said!r}"
        split = named
    label = None
    if columns.label:
        value, names = row.get(columns.label), opened.label_names(columns.label)
        if _is_number(value) and names and not -1 <= value < len(names):
            return f"label {value}, and the file has names for {len(names)}, from 0"
        label = _label(value, names)
    if label is not None and not category_id(label):
        return f"{label!r} is no name for a category"
    return Entry(
        source=place,
        split=split,
        category=label,
        description=_text(row.get(columns.description)) if columns.description else None,
        attributes=_attributes(row, columns.attributes),
        address=address,
    )


def _picture(
    source: Source, file: str, opened: Rows, column: str, number: int, value: Any
) -> tuple[str, str | None] | str:
    """Source and address of a row's picture, or why there is none."""
    if opened.has_bytes(column):
        name = posixpath.basename(str(value)) if value else ""
        place = f"{file}/{number:07}" + (f"-{name}" if name else "")
        return place, cell_address(file, column, number)
    path = _text(value)
    if not path:
        return f"`{column}` is empty"
    if "://" in path:
        return f"{path!r} is an address; pictures are read from files"
    root = source.tree.where(folder_of(file)).rstrip("/") + "/"
    inside = below(folder_of(file), path.removeprefix(root))
    return f"{path!r} lies outside the folder" if inside is None else (source.tree.written(inside), None)


def _label(value: Any, names: Sequence[str]) -> str | None:
    if names and _is_number(value):  # the Hugging Face libraries write a label that is kept secret as -1
        return spoken(names[value]) if value >= 0 else None
    text = _text(value)
    return spoken(text) if text else None


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty, or a number that is none."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers with an empty cell is one of floats
    return str(value).strip() or None


def _attributes(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for column in columns:
        value = row.get(column)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)  # Arrow's maps
        if isinstance(value, dict):
            found |= {spoken(str(name)): text for name, one in value.items() if (text := _text(one))}
        elif text := _text(value):
            found[spoken(column)] = text
    return found or None


def _columns(source: Source, file: str, names: Sequence[str]) -> _Columns:
    asked = {key: name for key, name in source.columns.items() if key != "file"}
    attributes = tuple(asked["attributes"].split("+")) if "attributes" in asked else None
    for key, name in asked.items():
        for one in attributes or () if key == "attributes" else (name,):
            if one not in names:
                raise wrong_use(
                    f"there is no column {one!r}",
                    place=source.tree.where(file),
                    cure=f"it has: {', '.join(names)}",
                )
    lower = {name.lower(): name for name in reversed(names)}

    def column(key: str) -> str | None:
        usual = (lower[name] for name in USUAL[key] if name in lower)
        return asked.get(key) or next(usual, None)

    if (image := column("image")) is None:
        raise _unnamed(source, file, "image", names)
    if (label := column("label")) is None and column("description") is None:
        raise _unnamed(source, file, "label", names)
    if attributes is None:
        attributes = tuple(filter(None, [column("attributes")]))
    return _Columns(
        image, label, column("split"), column("description"), column("super_category"), attributes
    )


def _unnamed(source: Source, file: str, key: str, names: Sequence[str]) -> FinedeficsError:
    return wrong_use(
        f"no column is known to be the {key}",
        place=source.tree.where(file),
        cure=f"say --columns {key}=NAME; it has: {', '.join(names)}",
    )


def _chosen(source: Source) -> list[str]:
    """The files of the table: the one that was named, the only one, or all Parquet files."""
    if source.file is not None:
        return [source.file]
    tables = _tables(source)
    if (asked := source.columns.get("file")) is not None:
        if not source.tree.exists(asked):
            raise wrong_use(
                "there is no such file", place=source.tree.where(asked), cure="name a table in it"
            )
        return [asked]
    if _are_one(tables):
        return tables
    what = f"there are {len(tables)} tables" if tables else "there is no table"
    some = ", ".join(tables[:5])
    raise wrong_use(what, place=source.place, cure=f"say --columns file=NAME{f' ({some})' if some else ''}")


def _tables(source: Source) -> list[str]:
    return [
        path
        for path in source.tree.files()
        if path.lower().endswith(TABLES) and posixpath.basename(path) not in BESIDE
    ]


def _are_one(tables: Sequence[str]) -> bool:
    """Whether files are parts of one table: shards, or a file for each split (train.csv, test.csv)."""
    return len(tables) == 1 or (
        bool(tables) and (all(path.endswith(".parquet") for path in tables) or all(map(_shard_split, tables)))
    )


def _shard_split(file: str) -> str:
    """The split that a file is of by its name, or by that of the nearest folder it is in; "" by neither."""
    *folders, name = file.lower().split("/")
    if match := _SHARD.match(name):
        return SPLIT_WORDS[match.group()]
    # default/partial-train/0000.parquet: the hub's own conversion of a large data set
    words = (folder.removeprefix("partial-") for folder in reversed(folders))
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
