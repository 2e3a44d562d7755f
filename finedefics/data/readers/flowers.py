"""The reader "flowers": Oxford Flowers-102, whose labels are numbers in a Matlab file."""

import json
import posixpath

from finedefics.data.readers._flower_names import FLOWER_NAMES
from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import (
    Gathered,
    benchmark,
    folder_of,
    is_picture,
    named_categories,
    variable,
)
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError

_SUPER = "flower"
_LABELS, _SPLITS, _NAMES = "imagelabels.mat", "setid.mat", "cat_to_name.json"
_IDS = {"train": "trnid", "val": "valid", "test": "tstid"}


def _recognises(source: Source) -> bool:
    return source.file is None and source.tree.find(_LABELS, _SPLITS) is not None


@reader(
    "flowers",
    layout=f"jpg/image_00001.jpg … with {_LABELS} and {_SPLITS} (Oxford Flowers-102)",
    recognises=_recognises,
)
def read_flowers(source: Source) -> Listing:
    """List Oxford Flowers-102.

    The three official splits are kept as ``setid.mat`` names them: ten pictures of a category in train and in
    val, all others in test. Labels are numbers; the names come from ``cat_to_name.json`` where it is there,
    else from the list of 102 that goes with the data set.

    Set aside with the reason: pictures without a label or split, in two splits, or with a number that has no
    name.

    Raises:
        FinedeficsError: a Matlab file is missing or damaged, or no picture is named.
    """
    tree, gathered = source.tree, Gathered()
    labels_file, splits_file = (_needed(source, name) for name in (_LABELS, _SPLITS))
    labels = [int(label) for label in variable(tree, labels_file, "labels")]
    names = _names(tree)
    pictures = {posixpath.basename(path): path for path in tree.files() if is_picture(path)}
    for split, ids in _IDS.items():
        for number in map(int, variable(tree, splits_file, ids)):
            file = f"image_{number:05}.jpg"
            place = pictures.get(file, f"{folder_of(labels_file)}/jpg/{file}".lstrip("/"))
            if not 1 <= number <= len(labels):
                gathered.reject(place, f"{_LABELS} has no label of the picture {number}")
            elif labels[number - 1] not in names:
                gathered.reject(place, f"its label {labels[number - 1]} has no name")
            else:
                gathered.add(Entry(place, split, names[labels[number - 1]]), f"{_SPLITS}, {ids}")
    gathered.reject_unnamed(tree, "", f"in no split of {_SPLITS}")
    categories = named_categories(names.values(), _SUPER, source.place)
    present = {category_id(entry.category) for entry in gathered.entries.values() if entry.category}
    if not present >= set(categories):  # a part of the data set has not all of the flowers
        categories = {identifier: categories[identifier] for identifier in present}
    return benchmark(source, gathered, categories, cut_val=False)


def _needed(source: Source, name: str) -> str:
    found = source.tree.find(name)
    if found is None:
        raise FinedeficsError(
            f"there is no {name}", place=source.place, cure="fetch it from the data set's page"
        )
    return found


def _names(tree: Tree) -> dict[int, str]:
    path = tree.find(_NAMES)
    if path is None:
        return dict(enumerate(FLOWER_NAMES, start=1))
    try:
        return {int(number): spoken(str(name)) for number, name in json.loads(tree.text(path)).items()}
    except (ValueError, AttributeError) as error:
        raise FinedeficsError(
            "no mapping of numbers to names",
            place=tree.where(path),
            cure='write {"1": "pink primrose", …}, or remove it',
        ) from error
