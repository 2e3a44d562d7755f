"""The reader "pets": Oxford-IIIT Pet, cats and dogs in one flat folder."""

from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import Gathered, benchmark, is_picture, listed
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError
from finedefics.records import Category

_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_SPECIES = {"1": "cat", "2": "dog"}
_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG")


def _recognises(source: Source) -> bool:
    return (
        source.file is None
        and source.tree.find("annotations/trainval.txt", "annotations/list.txt") is not None
    )


@reader(
    "pets",
    layout="images/ with annotations/list.txt, trainval.txt and test.txt (Oxford-IIIT Pet)",
    recognises=_recognises,
)
def read_pets(source: Source) -> Listing:
    """List Oxford-IIIT Pet.

    A picture's breed is its name without the number; a breed written in small letters gets capitals. The
    species is the super-category. The official test split is kept; a tenth of each breed's trainval pictures,
    by seed, becomes val and the others train. Matlab files and forks among the pictures are no pictures.

    Set aside with the reason: pictures that no list names, those of list.txt that are in no split, and a
    picture that is named twice (once more in the same way: taken once; in another: not at all).

    Raises:
        FinedeficsError: a list is missing or damaged, or no picture is named.
    """
    tree, gathered = source.tree, Gathered()
    home = _home(source)
    pictures = _by_name(tree, f"{home}images/")
    categories: dict[str, Category] = {}
    for split, file in _LISTS.items():
        for where, (name, _, species, *_) in listed(tree, f"{home}annotations/{file}", 3):
            place = pictures.get(name, f"{home}images/{name}.jpg")
            breed = _breed(name)
            if species not in _SPECIES or not category_id(breed):
                gathered.reject(place, f"no breed of a known species ({where})")
                continue
            super_category = _SPECIES[species]
            categories.setdefault(category_id(breed), Category(category_id(breed), breed, super_category))
            gathered.add(Entry(place, split, breed), where)
    if tree.exists(every := f"{home}annotations/list.txt"):
        for where, (name, *_) in listed(tree, every, 3):
            place = pictures.get(name, f"{home}images/{name}.jpg")
            if place not in gathered.entries and place not in {source for source, _ in gathered.rejected}:
                gathered.reject(place, f"in neither trainval.txt nor test.txt ({where})")
    gathered.reject_unnamed(tree, f"{home}images/", "not named in annotations/list.txt")
    return benchmark(source, gathered, categories, cut_val=True)


def _home(source: Source) -> str:
    for marker in ("annotations/trainval.txt", "annotations/test.txt", "annotations/list.txt"):
        if (found := source.tree.find(marker)) is not None:
            return found.removesuffix(marker)
    raise FinedeficsError(
        "there is no annotations/trainval.txt",
        place=source.place,
        cure="unpack annotations.tar.gz beside images/",
    )


def _by_name(tree: Tree, folder: str) -> dict[str, str]:
    """Pictures by their names without ending."""
    found = {}
    for path in tree.files():
        if path.startswith(folder) and is_picture(path):
            found[path.removeprefix(folder).rpartition(".")[0]] = path
    return found


def _breed(name: str) -> str:
    breed = spoken(name.rpartition("_")[0])
    return breed.title() if breed.islower() else breed
