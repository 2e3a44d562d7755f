"""The reader "cub": Caltech-UCSD Birds, the release of 2011 with its attributes, and that of 2010.

The release of 2011 has 312 values of 28 attributes for every picture, each with how certain the annotator
was, and for every class the share of annotators who saw each value. Both become what the method reads:
attributes with one value each, and a text.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finedefics.data.readers._class_attributes import Shares, attribute_name, class_category, value_name
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import Gathered, benchmark, folder_of, listed, named_categories
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError
from finedefics.records import Category

_SUPER = "bird"
_NUMBER = re.compile(r"^\d+\.")
_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
PROBABLY = 3  # of 1 not visible, 2 guessing, 3 probably, 4 definitely


@dataclass(frozen=True)
class _Value:
    """One of the 312: an attribute and a value of it."""

    attribute: str
    value: str


def _recognises(source: Source) -> bool:
    return source.file is None and _home(source.tree) is not None


def _home(tree: Tree) -> str | None:
    """The folder of the lists ("" or ending in a slash), whichever release it is; one list may be missing."""
    for name in (*_LISTS, "lists/train.txt"):
        if (found := tree.find(name)) is None:
            continue
        home = found.removesuffix(name)
        if sum(tree.exists(home + one) for one in _LISTS) > 1:
            return home
        if name not in _LISTS and tree.exists(home + "lists/test.txt"):
            first = tree.text(found).partition("\n")[0]
            return home if _NUMBER.match(first) and "/" in first else None
    return None


@reader(
    "cub",
    layout="images/ with images.txt, image_class_labels.txt and train_test_split.txt (CUB-200-2011), "
    "or with lists/train.txt and lists/test.txt (2010)",
    recognises=_recognises,
)
def read_cub(source: Source) -> Listing:
    """List Caltech-UCSD Birds.

    The official split is kept; a tenth of each class's train pictures, by seed, becomes val, for there is
    none. A class's number is no part of its name.

    A picture has, of each attribute, the value that its annotator saw most certainly, at least "probably";
    of several as certain, the one that more annotators saw in the class. What is guessed or not visible is
    left out. A class has attributes and a text by `class_values` and `class_text`. Rows of
    ``image_attribute_labels.txt`` have more columns than they should for a few pictures: the first four are
    right; a row whose four are no numbers is set aside. Where the attribute files are missing, pictures and
    classes have no attributes; ``attributes.txt`` may lie beside the folder, as the archive has it.

    A picture that a list names twice is taken once (with another class: not at all), one without a class or
    split, and pictures that no list names are set aside, each with the reason.

    Raises:
        FinedeficsError: a list is missing or damaged, or no picture is named.
    """
    home = _home(source.tree)
    if home is None:
        raise FinedeficsError(
            "there are neither images.txt and image_class_labels.txt nor lists/train.txt",
            place=source.place,
            cure="give the folder or archive of CUB-200-2011",
        )
    if any(source.tree.exists(home + name) for name in _LISTS):
        return _read_2011(source, home)
    return _read_2010(source, home)


def _read_2011(source: Source, home: str) -> Listing:
    tree, gathered = source.tree, Gathered()
    names = _by_number(tree, home + "classes.txt", gathered)
    classes = {number: _class_name(name) for number, name in names.items()}
    labels = _by_number(tree, home + "image_class_labels.txt", gathered)
    train = _by_number(tree, home + "train_test_split.txt", gathered)
    values = _values(tree, home)
    shares = _class_shares(tree, home, values, list(classes))
    seen = _seen(tree, home, values, labels, shares, gathered)
    ids: dict[str, str] = {}
    for where, (picture, path) in listed(tree, home + "images.txt", 2, last_takes_rest=True):
        place = f"{home}images/{path}"
        if ids.setdefault(picture, place) != place:
            gathered.reject(place, f"its number {picture} is that of {ids[picture]} too ({where})")
        elif labels.get(picture) not in classes:
            gathered.reject(place, "image_class_labels.txt gives it no class of classes.txt")
        elif train.get(picture) not in ("0", "1"):
            gathered.reject(place, "train_test_split.txt gives it no split")
        else:
            split = "train" if train[picture] == "1" else "test"
            attributes = seen.get(picture) or None
            gathered.add(Entry(place, split, classes[labels[picture]], attributes=attributes), where)
    gathered.reject_unnamed(tree, f"{home}images/", "not named in images.txt")
    categories = named_categories(classes.values(), _SUPER, tree.where(home + "classes.txt"))
    for number, of_class in shares.items():
        name = classes[number]
        categories[category_id(name)] = class_category(name, of_class, _SUPER)
    return benchmark(source, gathered, categories, cut_val=True)


def _read_2010(source: Source, home: str) -> Listing:
    tree, gathered = source.tree, Gathered()
    categories: dict[str, Category] = {}
    for split in ("train", "test"):
        for where, (path,) in listed(tree, f"{home}lists/{split}.txt", 1, last_takes_rest=True):
            name = _class_name(folder_of(path))
            categories.setdefault(category_id(name), Category(category_id(name), name, _SUPER))
            gathered.add(Entry(f"{home}images/{path}", split, name), where)
    gathered.reject_unnamed(tree, f"{home}images/", "not named in lists/train.txt or lists/test.txt")
    return benchmark(source, gathered, categories, cut_val=True)


def _by_number(tree: Tree, path: str, gathered: Gathered) -> dict[str, str]:
    """What a list says of each number; of a number with two different lines it says nothing."""
    found: dict[str, str] = {}
    disputed = set()
    for where, (number, text) in listed(tree, path, 2, last_takes_rest=True):
        if found.setdefault(number, text) != text:
            gathered.reject(path, f"{number} is {found[number]}, and {text} too ({where})")
            disputed.add(number)
    return {number: text for number, text in found.items() if number not in disputed}


def _class_name(name: str) -> str:
    return spoken(_NUMBER.sub("", name))


def _values(tree: Tree, home: str) -> dict[str, _Value]:
    """The attributes' values by their numbers; none where the file is missing."""
    above = folder_of(home.rstrip("/"))
    for path in (
        f"{home}attributes/attributes.txt",
        f"{home}attributes.txt",
        f"{above}/attributes.txt".strip("/"),
    ):
        if tree.exists(path):
            values = {}
            for _, (number, text) in listed(tree, path, 2, last_takes_rest=True):
                raw, _, value = text.partition("::")
                attribute = attribute_name(raw)
                values[number] = _Value(attribute, value_name(value, attribute))
            return values
    return {}


def _class_shares(
    tree: Tree, home: str, values: Mapping[str, _Value], classes: Sequence[str]
) -> dict[str, Shares]:
    """By the class's number, the share of annotators by attribute and value; a line a class, in order."""
    path = f"{home}attributes/class_attribute_labels_continuous.txt"
    if not values or not tree.exists(path):
        return {}
    rows: list[Shares] = []
    for number, line in enumerate(tree.text(path).splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.split()
        try:
            shares = [float(cell) for cell in cells]
        except ValueError:
            shares = []
        if len(shares) != len(values):
            raise FinedeficsError(
                f"{len(cells)} numbers, and attributes.txt has {len(values)} values",
                place=f"{tree.where(path)}, line {number}",
                cure="fetch the file again, or leave it out",
            )
        row: dict[str, dict[str, float]] = {}
        for value, share in zip(values.values(), shares, strict=True):
            row.setdefault(value.attribute, {})[value.value] = share
        rows.append(row)
    if len(rows) != len(classes):
        raise FinedeficsError(
            f"{len(rows)} lines, and classes.txt has {len(classes)} classes",
            place=tree.where(path),
            cure="fetch the file again, or leave it out",
        )
    return dict(zip(classes, rows, strict=True))


def _seen(
    tree: Tree,
    home: str,
    values: Mapping[str, _Value],
    labels: Mapping[str, str],
    shares: Mapping[str, Shares],
    gathered: Gathered,
) -> dict[str, dict[str, str]]:
    """Attributes by the number of the picture."""
    path = f"{home}attributes/image_attribute_labels.txt"
    if not values or not tree.exists(path):
        return {}
    best: dict[str, dict[str, tuple[int, float, str]]] = {}
    for picture, number, certainty in _present(tree.text(path), path, gathered):
        value = values.get(number)
        if value is None or certainty < PROBABLY:
            continue
        of_class = shares.get(labels.get(picture, ""), {})
        share = of_class.get(value.attribute, {}).get(value.value, 0.0)
        of_picture = best.setdefault(picture, {})
        known = of_picture.get(value.attribute)
        if known is None or (certainty, share) > known[:2]:
            of_picture[value.attribute] = (certainty, share, value.value)
    return {
        picture: {attribute: value for attribute, (*_, value) in of_picture.items()}
        for picture, of_picture in best.items()
    }


def _present(text: str, path: str, gathered: Gathered) -> Iterator[tuple[str, str, int]]:
    """Picture, value and certainty of what was seen; millions of rows, most of them of what was not."""
    for number, line in enumerate(io.StringIO(text), start=1):
        cells = line.split(None, 4)
        if len(cells) >= 4 and cells[2] == "0":
            continue
        if len(cells) < 4 or cells[2] != "1" or not all(cell.isdecimal() for cell in cells[:4]):
            if cells:
                gathered.reject(path, f"line {number}: no picture, value, presence and certainty")
            continue
        yield cells[0], cells[1], int(cells[3])
