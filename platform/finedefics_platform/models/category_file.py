"""Categories that a user wrote down in a file: names, with a description where there is one.

Plain text has a name a line, and behind a tab a description; a line that begins with ``#`` is a comment. CSV
and TSV have a first line that names the columns. JSON lines have an object a line. Columns and keys are
``name``, ``description`` and ``super_category``; others are left alone, so that the ``categories.jsonl`` of a
dataset is such a file too.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finedefics.data.readers import category_id
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category, check_distinct

_SHAPES = "a name a line, a CSV with the column `name`, or JSON lines with the key `name`"


def read_categories(file: Path) -> list[Category]:
    """The categories of a file, in its order.

    Raises:
        FinedeficsError: there is no such file, it holds no category or two of one name, or a line is wrong,
            named by its number (exit code 2).
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong_use("the file is not UTF-8 text", place=str(file), cure=f"give {_SHAPES}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FinedeficsError(
            f"the categories cannot be read ({reason.lower()})",
            place=str(file),
            cure="give a file of names",
            exit_code=2,
        ) from error
    read = {".csv": _separated, ".tsv": _separated, ".jsonl": _objects, ".ndjson": _objects}
    rows = read.get(file.suffix.lower(), _lines)(file, text)
    found = [_category(row, f"{file}, line {number}") for number, row in rows]
    if not found:
        raise wrong_use("there is no category in it", place=str(file), cure=f"give {_SHAPES}")
    check_distinct(found)
    return found


def _category(row: Mapping[str, Any], place: str) -> Category:
    name = _text(row.get("name"), "name", place)
    if not name or not category_id(name):
        thing = f"{name or ''!r} is no name for a category"
        raise wrong_use(thing, place=place, cure="use letters or digits")
    return Category(
        category_id(name),
        name,
        super_category=_text(row.get("super_category"), "super_category", place),
        description=_text(row.get("description"), "description", place),
    )


def _text(value: Any, key: str, place: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise wrong_use(f"`{key}` is no text but {value!r}", place=place, cure=f"give {_SHAPES}")
    return " ".join(value.split()) or None


def _lines(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            name, _, description = line.partition("\t")
            yield number, {"name": name, "description": description}


def _separated(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    if "name" not in (rows.fieldnames or ()):
        there = ", ".join(rows.fieldnames or ()) or "none"
        raise wrong_use(
            f"no column `name`; the columns are: {there}", place=str(file), cure="name it in the first line"
        )
    for row in rows:
        yield rows.line_num, row


def _objects(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise wrong_use(
                f"no JSON ({error})", place=f"{file}, line {number}", cure='write {"name": "…"} a line'
            ) from error
        if not isinstance(row, dict):
            raise wrong_use("no object", place=f"{file}, line {number}", cure='write {"name": "…"} a line')
        yield number, row
