"""The reader "released": the training files of the Finedefics release, ``pretrain.csv`` and ``finetune.csv``.

A row asks one question about one picture (two in a ``multi-image`` row) and may carry what Stage I needs: the
picture's attribute description, its category, and the hard negatives, joined by tab and newline.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from string import ascii_uppercase

from finedefics.data.readers._csv import records
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader
from finedefics.data.tree import is_inside
from finedefics.errors import FinedeficsError
from finedefics.records import Category

JOINT = re.compile(r"\t\r?\n")  # between the hard negatives of one cell
MULTI_IMAGE = "multi-image"
PICTURE_FOLDERS = (".", "train")  # the release keeps its files in data/ and the pictures in data/train/
# What pandas reads as a missing value by default: the release's own training reads its files so.
_MISSING = frozenset(
    (
        *("nan", "-nan", "NaN", "-NaN", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND"),
        *("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "n/a", "NA", "NULL", "null", "None"),
    )
)
_Name = tuple[str, int]  # a category's name as first written, and in which line
_OUTSIDE = "lies outside the folder"
_CELLS = ("question", "answer", "type", "attribute", "category")


@dataclass(frozen=True)
class ReleasedRow:
    """One row as it stands in the file; cells that are missing, empty or a word like ``nan`` are "".

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


def read_rows(source: Source) -> list[ReleasedRow]:
    """Every row of the released file that a source names, malformed ones with their problem.

    Raises:
        FinedeficsError: no file is named, it is not UTF-8, or its header is no CSV or lacks the picture's
            column.
    """
    if source.file is None:
        raise FinedeficsError(
            "it is no file", place=source.place, cure="give the path of pretrain.csv or finetune.csv"
        )
    text = source.tree.text(source.file)
    return list(_rows(records(text), source.place))


def _rows(found: Iterator[tuple[int, list[str] | str]], place: str) -> Iterator[ReleasedRow]:
    _, header = next(found, (1, []))
    if isinstance(header, str):
        raise FinedeficsError(
            f"the header is {header}",
            place=f"{place}, line 1",
            cure="give a file with the released columns",
        )
    if not {"image_path", "image_path_1"} & set(header):
        raise FinedeficsError(
            "the header has no column `image_path`",
            place=f"{place}, line 1",
            cure="give a file with the released columns",
        )
    for line, cells in found:
        if isinstance(cells, str):
            yield ReleasedRow(line, (), "", "", "", "", (), "", (), problem=cells)
        elif cells:
            yield _row(line, cells, header)


def _row(line: int, cells: Sequence[str], header: Sequence[str]) -> ReleasedRow:
    problem = None
    if len(cells) != len(header):
        problem = f"{len(cells)} cells, and the header has {len(header)}"
    raw = {name: _said(cell) for name, cell in zip(header, cells, strict=False)}
    cell = {name: raw.get(name, "") for name in _CELLS}
    columns = ("image_path_1", "image_path_2") if cell["type"] == MULTI_IMAGE else ("image_path",)
    images = [raw.get(column, "") for column in columns]
    names, attributes = _split(raw.get("neg_category", "")), _split(raw.get("neg_attribute", ""))
    if len(attributes) == len(names):  # a joint behind the last ones as well, or a place without either
        pairs = [pair for pair in zip(names, attributes, strict=True) if any(pair)]
        names, attributes = tuple(name for name, _ in pairs), tuple(text for _, text in pairs)
    else:
        names = tuple(name for name in names if name)
        if len(attributes) == len(names) + 1 and not attributes[-1]:
            attributes = attributes[:-1]
    if problem is None and not all(images):
        problem = f"`{columns[images.index('')]}` is empty"
    if problem is None and "\0" in "".join(images):
        problem = "the picture's path holds a null byte"
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


def _said(cell: str) -> str:
    text = cell.strip()
    return "" if text in _MISSING else text


def _split(cell: str) -> tuple[str, ...]:
    # An empty description between two others keeps its place: descriptions belong to names by position.
    return tuple(map(_said, JOINT.split(cell))) if cell else ()


def _options(question: str) -> dict[str, str]:
    """Lettered options of a question, ``A. name`` a line."""
    lines = [line.strip() for line in question.splitlines()]
    return {
        line[0]: line[2:].strip()
        for line in lines
        if line[1:2] == "." and line[0] in ascii_uppercase and line[2:]
    }


def is_released(source: Source) -> bool:
    """Whether the file that a source names has the released columns."""
    if source.file is None or not source.file.lower().endswith(".csv"):
        return False
    with source.tree.open(source.file) as file:
        head = file.read(4096).decode("utf-8-sig", "replace").partition("\n")[0].strip()
    cells = {cell.strip('"') for cell in head.split(",")}
    return bool(cells & {"image_path", "image_path_1"}) and {"question", "answer"} <= cells


@reader(
    "released",
    layout="pretrain.csv or finetune.csv of the Finedefics release (columns image_path, question, answer, …)",
    recognises=is_released,
)
def read_released(source: Source) -> Listing:
    """List the pictures of a released file; the rows of one picture become one entry, all in ``train``.

    The first description and the first hard negatives of a picture are kept. A category's own description is
    that of its first row as a negative, for only those describe a category rather than a picture. Paths are
    taken relative to the file's folder, or to ``train/`` beside it, and stay inside the file's folder.

    Set aside, each with its line: malformed rows; multi-image rows, for two pictures with one label say not
    which of them it names; rows whose category has the id of another name ("C-30" and "C 30"; letters' case,
    spaces and underscores make no other name). A hard negative that is its picture's own category, or has
    the id of another name, is set aside alone and the rest of its row is kept.

    Raises:
        FinedeficsError: no row can be used, or the file itself is wrong (see `read_rows`).
    """
    root = PurePosixPath(source.tree.place)
    labels: dict[str, str] = {}  # of pictures
    names: dict[str, _Name] = {}
    accepted: list[ReleasedRow] = []
    set_aside: list[tuple[int, str, str]] = []
    # Labels first: which names are taken, and which category a picture is of, may stand in a later row.
    for row in (_located(row, root) for row in read_rows(source)):
        problem = row.problem or _unusable(row) or _conflict(row, labels) or _clash(row.label, names)
        if problem:
            image = row.images[0] if row.images and row.images[0] else source.file or ""
            set_aside.append((row.line, image, problem))
            continue
        accepted.append(row)
        if row.label:
            labels.setdefault(row.images[0], row.label)
            names.setdefault(category_id(row.label), (row.label, row.line))
    entries: dict[str, Entry] = {}
    categories: dict[str, Category] = {}
    for row in accepted:
        kept, problems = _true_negatives(row, labels.get(row.images[0]), names)
        set_aside += [(row.line, row.images[0], problem) for problem in problems]
        entries[row.images[0]] = _merged(entries.get(row.images[0]), kept, source)
        _add_categories(categories, kept)
    rejected = tuple((image, f"line {line}: {problem}") for line, image, problem in sorted(set_aside))
    if not entries:
        why = f" (the first: {rejected[0][1]})" if rejected else ""
        cure = "give a file with the released columns"
        if why.endswith(f"{_OUTSIDE})"):
            cure = "move the file to the pictures' folder, and name them relative to it"
        raise FinedeficsError(f"no row can be used{why}", place=source.place, cure=cure)
    listed = tuple(entries[image] for image in sorted(entries))
    return Listing(listed, tuple(categories[i] for i in sorted(categories)), rejected)


def _located(row: ReleasedRow, root: PurePosixPath) -> ReleasedRow:
    """The row with each path written in one way, relative to the folder; a problem where one leaves it."""
    if row.problem:
        return row
    images = []
    for image in row.images:
        path = PurePosixPath(image)
        # The release's paths are relative to data/train; absolute ones come from a local rewrite of the file.
        for base in (root, PurePosixPath(os.path.realpath(root))):
            if path.is_absolute() and path.is_relative_to(base):
                path = path.relative_to(base)
        if not is_inside(str(path)):
            return replace(row, problem=f"{image!r} {_OUTSIDE}")
        images.append(str(path))
    return replace(row, images=tuple(images))


def _unusable(row: ReleasedRow) -> str | None:
    if len(row.images) > 1:
        return "two pictures and one label, which does not say which of them it names"
    if row.label is None and not row.attribute:
        return "neither a category nor a description"
    for name in (row.label, *row.negative_categories):
        if name is not None and not category_id(name):
            return f"{name!r} is no name for a category"
    return None


def _conflict(row: ReleasedRow, labels: Mapping[str, str]) -> str | None:
    before, label = labels.get(row.images[0]), row.label
    if before and label and category_id(before) != category_id(label):
        return f"{label!r} here and {before!r} in an earlier row of the same picture"
    return None


def _clash(name: str | None, names: Mapping[str, _Name]) -> str | None:
    """Why a name cannot be told from one that has its id; None for the same name."""
    if name is None or category_id(name) not in names:
        return None
    known, line = names[category_id(name)]
    if _spoken(name) == _spoken(known):
        return None
    return f"{name!r} and {known!r} (line {line}) have the same id {category_id(name)!r}"


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _true_negatives(
    row: ReleasedRow, label: str | None, names: dict[str, _Name]
) -> tuple[ReleasedRow, list[str]]:
    """The row without the hard negatives that are none, and why each is none; adds new ones to ``names``."""
    pairs, problems = [], []
    texts = row.negative_attributes or ("",) * len(row.negative_categories)
    for name, text in zip(row.negative_categories, texts, strict=True):
        if label is not None and category_id(name) == category_id(label):
            problems.append(f"the hard negative {name!r} is the picture's own category")
        elif problem := _clash(name, names):
            problems.append(f"the hard negative {problem}")
        else:
            pairs.append((name, text))
            names.setdefault(category_id(name), (name, row.line))
    kept = replace(
        row,
        negative_categories=tuple(name for name, _ in pairs),
        negative_attributes=tuple(text for _, text in pairs),
    )
    return kept, problems


def _merged(before: Entry | None, row: ReleasedRow, source: Source) -> Entry:
    image = row.images[0]
    places = [str(PurePosixPath(folder) / image) for folder in PICTURE_FOLDERS]
    place = next(filter(source.tree.exists, places), places[0])
    label = row.label or (before.category if before else None)
    negatives = tuple(dict.fromkeys(map(category_id, row.negative_categories)))
    return Entry(
        source=image,
        split="train",
        category=label,
        description=(before.description if before else None) or row.attribute or None,
        negatives=(before.negatives if before else ()) or negatives,
        address=place if place != image else None,
    )


def _add_categories(categories: dict[str, Category], row: ReleasedRow) -> None:
    if row.label:
        categories.setdefault(category_id(row.label), Category(category_id(row.label), row.label))
    for name, text in zip(row.negative_categories, row.negative_attributes, strict=True):
        known = categories.setdefault(category_id(name), Category(category_id(name), name))
        if text and not known.description:
            categories[known.category_id] = Category(known.category_id, known.name, description=text)
