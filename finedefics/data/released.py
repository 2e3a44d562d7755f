"""The reader "released": the training files of the Finedefics release, ``pretrain.csv`` and ``finetune.csv``.

A row asks one question about one picture (two in a ``multi-image`` row) and may carry what Stage I needs: the
picture's attribute description, its category, and the hard negatives, joined by tab and newline.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics.conversation import LETTERS
from finedefics.data.readers import READERS, Entry, Listing, category_id
from finedefics.errors import FinedeficsError
from finedefics.records import Category

JOINT = re.compile(r"\t\r?\n")  # between the hard negatives of one cell
MULTI_IMAGE = "multi-image"
PICTURE_FOLDERS = (".", "train")  # the release keeps its files in data/ and the pictures in data/train/
_CELLS = ("question", "answer", "type", "attribute", "category")


@dataclass(frozen=True)
class ReleasedRow:
    """One row as it stands in the file; cells that are missing or empty are "".

    Attributes:
        line: where the row starts in the file, counted from 1 (the header).
        images: paths of its picture, or of the two of a multi-image row.
        negative_attributes, negative_categories: hard negatives in the file's order.
        problem: why the row cannot be used; None where it can.
    """

    line: int
    images: tuple[str, ...]
    question: str
    answer: str
    type: str
    attribute: str
    negative_attributes: tuple[str, ...]
    category: str
    negative_categories: tuple[str, ...]
    problem: str | None = None

    @property
    def label(self) -> str | None:
        """The category's name: its own cell, else what the row's answer says; None where neither does.

        An open-set answer is the name; a multiple choice's answer is a letter, read in the question's lines.
        """
        if self.category:
            return self.category
        options = _options(self.question)
        if options:
            return options.get(self.answer.strip(" .()").upper())
        return self.answer or None if self.type in ("", "open-set") else None


def read_rows(file: str | Path) -> list[ReleasedRow]:
    """Every row of a released file, malformed ones with their problem.

    Raises:
        FinedeficsError: there is no such file, it is not UTF-8, or its header lacks the picture's column.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FinedeficsError(
            "there is no such file", place=str(file), cure="give the path of pretrain.csv or finetune.csv"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return list(_rows(csv.reader(stream, strict=True), str(file)))
    except UnicodeDecodeError as error:
        raise FinedeficsError(
            "the file is not UTF-8", place=str(file), cure="save it as UTF-8 text"
        ) from error


def _rows(reader: Any, place: str) -> Iterator[ReleasedRow]:
    header: list[str] = next(reader, [])
    if not {"image_path", "image_path_1"} & set(header):
        raise FinedeficsError(
            "the header has no column `image_path`",
            place=f"{place}, line 1",
            cure="give a file with the released columns",
        )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield ReleasedRow(line, (), "", "", "", "", (), "", (), problem=f"no valid CSV ({error})")
            continue
        if cells is None:
            return
        if cells:
            yield _row(line, cells, header)


def _row(line: int, cells: Sequence[str], header: Sequence[str]) -> ReleasedRow:
    problem = None
    if len(cells) != len(header):
        problem = f"{len(cells)} cells, and the header has {len(header)}"
    raw = dict(zip(header, cells, strict=False))
    cell = {name: raw.get(name, "").strip() for name in _CELLS}
    columns = ("image_path_1", "image_path_2") if cell["type"] == MULTI_IMAGE else ("image_path",)
    images = [raw.get(column, "").strip() for column in columns]
    names = tuple(name for name in _split(raw.get("neg_category", "")) if name)
    attributes = _split(raw.get("neg_attribute", ""))
    if len(attributes) == len(names) + 1 and not attributes[-1]:
        attributes = attributes[:-1]  # a joint behind the last one as well
    if problem is None and not all(images):
        problem = f"`{columns[images.index('')]}` is empty"
    if problem is None and attributes and len(attributes) != len(names):
        problem = f"{len(attributes)} negative descriptions for {len(names)} negative categories"
    return ReleasedRow(
        line=line,
        images=tuple(images),
        **{name: cell[name] for name in _CELLS},
        negative_attributes=attributes,
        negative_categories=names,
        problem=problem,
    )


def _split(cell: str) -> tuple[str, ...]:
    # An empty description between two others keeps its place: descriptions belong to names by position.
    return tuple(part.strip() for part in JOINT.split(cell)) if cell.strip() else ()


def _options(question: str) -> dict[str, str]:
    """Lettered options of a question, ``A. name`` a line."""
    lines = [line.strip() for line in question.splitlines()]
    return {
        line[0]: line[2:].strip() for line in lines if line[1:2] == "." and line[0] in LETTERS and line[2:]
    }


@READERS.register("released")
def read_released(file: str | Path, *, seed: int = 0) -> Listing:
    """List the pictures of a released file; the rows of one picture become one entry, all in ``train``.

    The first description and the first hard negatives of a picture are kept. A category's own description is
    that of its first row as a negative, for only those describe a category rather than a picture. Paths are
    taken relative to the file's folder, or to ``train/`` beside it. Two pictures with one label say not which
    of them it names, so multi-image rows are set aside, as are malformed ones, each with its line.

    Args:
        seed: of no use here: a released file is all training data.

    Raises:
        FinedeficsError: no row can be used, or the file itself is wrong (see `read_rows`).
    """
    root = Path(file).expanduser().absolute().parent
    entries: dict[str, Entry] = {}
    categories: dict[str, Category] = {}
    rejected: list[tuple[str, str]] = []
    for row in read_rows(file):
        problem = row.problem or _unusable(row) or _conflict(row, entries)
        if problem:
            source = row.images[0] if row.images and row.images[0] else Path(file).name
            rejected.append((source, f"line {row.line}: {problem}"))
        else:
            entries[row.images[0]] = _merged(entries.get(row.images[0]), row, root)
            _add_categories(categories, row)
    if not entries:
        why = f" (the first: {rejected[0][1]})" if rejected else ""
        raise FinedeficsError(
            f"no row can be used{why}", place=str(file), cure="give a file with the released columns"
        )
    listed = tuple(entries[source] for source in sorted(entries))
    return Listing(listed, tuple(categories[i] for i in sorted(categories)), tuple(rejected))


def _unusable(row: ReleasedRow) -> str | None:
    if len(row.images) > 1:
        return "two pictures and one label, which does not say which of them it names"
    if row.label is None and not row.attribute:
        return "neither a category nor a description"
    for name in (row.label, *row.negative_categories):
        if name is not None and not category_id(name):
            return f"{name!r} is no name for a category"
    return None


def _conflict(row: ReleasedRow, entries: Mapping[str, Entry]) -> str | None:
    before, label = entries.get(row.images[0]), row.label
    if before and before.category and label and category_id(before.category) != category_id(label):
        return f"{label!r} here and {before.category!r} in an earlier row of the same picture"
    return None


def _merged(before: Entry | None, row: ReleasedRow, root: Path) -> Entry:
    source = row.images[0]
    places = [root / folder / source for folder in PICTURE_FOLDERS]
    label = row.label or (before.category if before else None)
    negatives = tuple(dict.fromkeys(map(category_id, row.negative_categories)))
    return Entry(
        source=source,
        path=str(next((place for place in places if place.is_file()), places[0]).resolve()),
        split="train",
        category=label,
        description=(before.description if before else None) or row.attribute or None,
        negatives=(before.negatives if before else ()) or negatives,
    )


def _add_categories(categories: dict[str, Category], row: ReleasedRow) -> None:
    if row.label:
        categories.setdefault(category_id(row.label), Category(category_id(row.label), row.label))
    texts = row.negative_attributes or ("",) * len(row.negative_categories)
    for name, text in zip(row.negative_categories, texts, strict=True):
        known = categories.setdefault(category_id(name), Category(category_id(name), name))
        if text and not known.description:
            categories[known.category_id] = Category(known.category_id, known.name, description=text)
