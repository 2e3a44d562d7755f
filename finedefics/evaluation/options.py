"""Published multiple-choice items: which options a picture is asked with, as others asked them.

Three shapes are read: the FOCI benchmark's option files, ``{category: [{image, options, groundtruth}]}``; a
file of FOCI predictions, ``{"predictions": [{image, options, correct}]}``; and JSON lines of ``{image_path,
options, ground_truth}``, as Fine-R1 publishes them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use

_CURE = "give an option file as FOCI writes it: {category: [{image, options, groundtruth}]}"
_IMAGE = ("image", "image_path")
_TRUTH = ("groundtruth", "ground_truth", "correct")


@dataclass(frozen=True)
class OptionItem:
    """One picture and the names it may be told from.

    Attributes:
        image: path as the file writes it; its folders are those of whoever made the file.
        options: at least two different names, the truth first (whoever asks shuffles them).
        truth: the right one, also ``options[0]``.
    """

    image: str
    options: tuple[str, ...]
    truth: str


@dataclass(frozen=True)
class OptionsFile:
    """An option file: items in its order, and every name that is a truth or an option, sorted."""

    items: tuple[OptionItem, ...]
    categories: tuple[str, ...]


def read_options(file: str | Path) -> OptionsFile:
    """Read an option file of one of the shapes above.

    A picture may stand in two items (the published file of dogs has one). An item with fewer options than
    the others is kept as it is.

    Raises:
        FinedeficsError: there is no such file (exit code 2), it is no JSON or of another shape, it has no
            item, or an item (named by its number) has no picture, fewer than two options, an option twice,
            or a truth that is none of its options.
    """
    path = Path(file).expanduser()
    items: list[OptionItem] = []
    names: set[str] = set()
    for place, category, row in _rows(_content(path), str(path)):
        if category is not None:
            names.add(category)
        if row is not None:
            item = _item(row, category, place)
            items.append(item)
            names.update(item.options)
    if not items:
        raise FinedeficsError("there is no item in this file", place=str(path), cure=_CURE)
    return OptionsFile(tuple(items), tuple(sorted(names)))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise wrong_use(
            f"cannot be read ({error.strerror})", place=str(path), cure="give the path of an option file"
        ) from error
    except UnicodeDecodeError as error:
        raise FinedeficsError("the file is not UTF-8", place=str(path), cure=_CURE) from error


def _rows(text: str, place: str) -> Iterator[tuple[str, str | None, Any]]:
    """Every item with its place and the category it stands under; a category without items with None."""
    whole = _parsed(text)
    predictions = whole.get("predictions") if isinstance(whole, dict) else None
    if isinstance(predictions, list):
        for number, row in enumerate(predictions, start=1):
            yield f"{place}, prediction {number}", None, row
    elif isinstance(whole, dict) and all(isinstance(rows, list) for rows in whole.values()):
        for category, rows in whole.items():
            if not rows:
                yield place, category, None
            for number, row in enumerate(rows, start=1):
                yield f"{place}, {category!r}, item {number}", category, row
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                if (row := _parsed(line)) is None:
                    raise FinedeficsError("not valid JSON", place=f"{place}, line {number}", cure=_CURE)
                yield f"{place}, line {number}", None, row


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _item(row: Any, category: str | None, place: str) -> OptionItem:
    def refused(thing: str) -> FinedeficsError:
        return FinedeficsError(thing, place=place, cure=_CURE)

    if not isinstance(row, dict):
        raise refused("not an item")
    image, truth, options = _first(row, _IMAGE), _first(row, _TRUTH) or category, row.get("options")
    if not isinstance(image, str) or not image:
        raise refused("no `image`")
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise refused("`options` is no list of names")
    if len(options) < 2:
        raise refused(f"{len(options)} options, and two are the fewest that can be told apart")
    if len({option.casefold() for option in options}) < len(options):
        raise refused("an option stands there twice")
    if not isinstance(truth, str) or truth not in options:
        raise refused(f"the truth {truth!r} is none of the options")
    if category is not None and truth != category:
        raise refused(f"the truth is {truth!r}, and the item stands under {category!r}")
    wrong = [option for option in options if option != truth]
    return OptionItem(image, (truth, *wrong), truth)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
