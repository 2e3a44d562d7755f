"""What annotators saw in the pictures of a class: shares of values, made into attributes and a text.

Several values of an attribute may have a high share: a wing is brown and black, or annotators do not agree.
An attribute has one value here (the losses take two different values for a conflict), so it is given only
where one value is seen clearly most often; the text tells of the others too.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from finedefics.data.readers._listing import category_id, spoken
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError
from finedefics.records import Category

CLASS_ATTRIBUTES_FILE = "class_attributes.csv"
SEEN = 100 / 3  # per cent: a value that fewer annotators saw says nothing of the class
CLOSE = 0.8  # of the most seen value's share: a second value this near is as true of the class
ALSO = 50.0  # per cent: a value that so many saw belongs into the text beside one that more saw
_MOST_IN_TEXT = 2

Shares = Mapping[str, Mapping[str, float]]  # attribute -> value -> per cent of annotators


def class_category(name: str, shares: Shares, super_category: str | None = None) -> Category:
    """A category with the attributes and the text that shares give."""
    text = class_text(shares)
    return Category(category_id(name), name, super_category, text or None, class_values(shares))


def class_values(shares: Shares) -> dict[str, str]:
    """One value an attribute: the most seen one, where at least `SEEN` saw it and none comes `CLOSE`."""
    values = {}
    for attribute, seen in shares.items():
        ranked = _ranked(seen)
        if len(ranked) == 1 or (len(ranked) > 1 and ranked[1][1] < CLOSE * ranked[0][1]):
            values[attribute] = ranked[0][0]
    return values


def class_text(shares: Shares) -> str:
    """Attributes as a phrase, the most seen value first: "brown and black wing color, solid breast pattern".

    A second value is told of where it is `CLOSE` to the most seen one or more than `ALSO` per cent saw it.
    """
    phrases = []
    for attribute, seen in shares.items():
        ranked = _ranked(seen)
        told = [value for value, share in ranked if share >= min(CLOSE * ranked[0][1], ALSO)][:_MOST_IN_TEXT]
        if told and any(" than " in value or " as " in value for value in told):
            phrases.append(f"{attribute} {' or '.join(told)}")  # bill length shorter than head
        elif told:
            phrases.append(f"{' and '.join(told)} {attribute}")
    return ", ".join(phrases)


def _ranked(seen: Mapping[str, float]) -> list[tuple[str, float]]:
    ranked = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))
    return [pair for pair in ranked if pair[1] >= SEEN]


def attribute_name(raw: str) -> str:
    """The name of an attribute as text: ``has_wing_color`` is "wing color"."""
    return spoken(raw.removeprefix("has_"))


def value_name(raw: str, attribute: str) -> str:
    """A value as text, without the part's name at its end: ``rounded_tail`` of a tail shape is "rounded"."""
    value = spoken(raw)
    part = attribute.partition(" ")[0]
    for ending in (f" {part}", f"-{part}", f"-{part}s", f" {part}s"):
        if value.endswith(ending) and len(value) > len(ending):
            return value.removesuffix(ending)
    return value


def read_class_attributes(tree: Tree, file: str) -> dict[str, Category]:
    """Categories by id of a CSV file with the columns class, attribute, value and percent; {} without one.

    Raises:
        FinedeficsError: a column is missing, or a line is wrong (named by its number).
    """
    if not tree.exists(file):
        return {}
    classes: dict[str, dict[str, dict[str, float]]] = {}
    for place, (name, raw, value, percent) in _rows(tree, file):
        attribute = attribute_name(raw)
        shares = classes.setdefault(spoken(name), {}).setdefault(attribute, {})
        value = value_name(value, attribute)
        try:
            shares[value] = max(float(percent), shares.get(value, 0.0))
        except ValueError as error:
            raise FinedeficsError(
                f"`percent` is {percent!r}, which is no number",
                place=place,
                cure="write a number from 0 to 100",
            ) from error
    return {category_id(name): class_category(name, shares) for name, shares in classes.items()}


def _rows(tree: Tree, file: str) -> Iterator[tuple[str, Sequence[str]]]:
    columns = ("class", "attribute", "value", "percent")
    reader = csv.DictReader(tree.text(file).splitlines())
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise FinedeficsError(
            f"there is no column `{missing[0]}`",
            place=tree.where(file),
            cure=f"begin {PurePosixPath(file).name} with {','.join(columns)}",
        )
    for row in reader:
        cells = [(row[column] or "").strip() for column in columns]
        place = f"{tree.where(file)}, line {reader.line_num}"
        if not all(cells):
            raise FinedeficsError(
                f"`{columns[cells.index('')]}` is empty",
                place=place,
                cure="fill the cell or leave the line out",
            )
        yield place, cells
