"""The reader "dogs": Stanford Dogs, by its Matlab lists."""

import re

from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import Gathered, benchmark, folder_of, variable
from finedefics.errors import FinedeficsError
from finedefics.records import Category

_SUPER = "dog"
_LISTS = {"train": "train_list.mat", "test": "test_list.mat"}
_FOLDERS = ("Images/", "images/")
_WORDNET = re.compile(r"^n\d{8}-")  # the synset; breeds have dashes of their own (Shih-Tzu)


def _recognises(source: Source) -> bool:
    return source.file is None and source.tree.find(*_LISTS.values()) is not None


@reader(
    "dogs",
    layout="Images/nXXXXXXXX-Breed/ with train_list.mat and test_list.mat (Stanford Dogs)",
    recognises=_recognises,
)
def read_dogs(source: Source) -> Listing:
    """List Stanford Dogs.

    A breed is the name of its folder without the synset in front. The official split is kept; a tenth of each
    breed's train pictures, by seed, becomes val. A picture that is named twice is taken once (in another
    split or breed: not at all), and pictures that no list names are set aside, each with the reason.

    Raises:
        FinedeficsError: a list is missing or damaged, or names no picture.
    """
    tree, gathered = source.tree, Gathered()
    categories: dict[str, Category] = {}
    images = ""
    for split, name in _LISTS.items():
        if (path := tree.find(name)) is None:
            raise FinedeficsError(
                f"there is no {name}", place=source.place, cure="add the lists of the data set (lists.tar)"
            )
        images = images or _images(source, path)
        for number, file in enumerate(variable(tree, path, "file_list"), start=1):
            breed = spoken(_WORDNET.sub("", folder_of(str(file)).rpartition("/")[2]))
            if not category_id(breed):
                gathered.reject(f"{images}{file}", f"{breed!r} is no name for a category ({name}, {number})")
                continue
            categories.setdefault(category_id(breed), Category(category_id(breed), breed, _SUPER))
            gathered.add(Entry(f"{images}{file}", split, breed), f"{name}, picture {number}")
    gathered.reject_unnamed(tree, images, "not named in train_list.mat or test_list.mat")
    return benchmark(source, gathered, categories, cut_val=True)


def _images(source: Source, listed_in: str) -> str:
    """The folder of the pictures, beside the lists or in a folder beside theirs."""
    for path in source.tree.files():
        for folder in _FOLDERS:
            before, found, _ = path.partition(folder)
            if found and (not before or before.endswith("/")):
                return f"{before}{folder}"
    return f"{folder_of(listed_in)}/{_FOLDERS[0]}".lstrip("/")
