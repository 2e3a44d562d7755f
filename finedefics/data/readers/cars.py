"""The reader "cars": Stanford Cars, by its development kit or by the later archive of one folder."""

from collections.abc import Iterator
from typing import Any

from finedefics.data.readers._listing import Entry, Listing, Source, reader, spoken
from finedefics.data.readers._shared import Gathered, benchmark, folder_of, named_categories, variable
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError

_SUPER = "car"
_TRAIN, _TEST, _BARE = "cars_train_annos.mat", "cars_test_annos_withlabels.mat", "cars_test_annos.mat"
_META, _MERGED = "cars_meta.mat", "cars_annos.mat"


def _recognises(source: Source) -> bool:
    return source.file is None and source.tree.find(_TRAIN, _META, _MERGED) is not None


@reader(
    "cars",
    layout=f"cars_train/ and cars_test/ with {_TRAIN}, {_TEST} and {_META}, or car_ims/ with {_MERGED} "
    "(Stanford Cars)",
    recognises=_recognises,
)
def read_cars(source: Source) -> Listing:
    """List Stanford Cars.

    Train and test pictures have the same file names (``00001.jpg``) in their two folders: each is named by
    its folder. The official split is kept; a tenth of each model's train pictures, by seed, becomes val. The
    labels of the test pictures are in a file of their own (``cars_test_annos_withlabels.mat``): where test
    pictures are there and it is not, that is an error, for without it nothing could be evaluated.

    A picture that is named twice is taken once (with another label: not at all), one with a label that there
    is not, and pictures that no list names are set aside, each with the reason.

    Raises:
        FinedeficsError: a Matlab file is missing or damaged, or no picture is named.
    """
    merged = source.tree.find(_MERGED)
    train = source.tree.find(_TRAIN)
    if train is not None:
        return _read_kit(source, train)
    if merged is not None:
        return _read_merged(source, merged)
    raise FinedeficsError(
        f"there is neither {_TRAIN} nor {_MERGED}", place=source.place, cure="add the development kit"
    )


def _read_kit(source: Source, train: str) -> Listing:
    tree, gathered = source.tree, Gathered()
    meta = _needed(tree, _META)
    names = [spoken(str(name)) for name in variable(tree, meta, "class_names")]
    splits = {"train": train}
    if (test := tree.find(_TEST)) is not None:
        splits["test"] = test
    elif any("cars_test/" in f"/{path}" for path in tree.files()):
        raise FinedeficsError(
            f"there is no {_TEST}, and {_BARE} has no labels",
            place=source.place,
            cure="fetch it from the data set's page, or leave cars_test/ out",
        )
    for split, path in splits.items():
        folder = _pictures(tree, f"cars_{split}", path)
        for where, row in _rows(tree, path):
            _add(gathered, f"{folder}{row['fname']}", split, int(row["class"]), names, where)
        gathered.reject_unnamed(tree, folder, f"not named in {path.rpartition('/')[2]}")
    return benchmark(source, gathered, named_categories(names, _SUPER, tree.where(meta)), cut_val=True)


def _read_merged(source: Source, path: str) -> Listing:
    tree, gathered = source.tree, Gathered()
    names = [spoken(str(name)) for name in variable(tree, path, "class_names")]
    home = f"{folder_of(path)}/".lstrip("/")
    for where, row in _rows(tree, path):
        split = "test" if int(row["test"]) else "train"
        _add(gathered, f"{home}{row['relative_im_path']}", split, int(row["class"]), names, where)
    gathered.reject_unnamed(tree, f"{home}car_ims/", f"not named in {_MERGED}")
    return benchmark(source, gathered, named_categories(names, _SUPER, tree.where(path)), cut_val=True)


def _add(gathered: Gathered, place: str, split: str, label: int, names: list[str], where: str) -> None:
    if 1 <= label <= len(names):
        gathered.add(Entry(place, split, names[label - 1]), where)
    else:
        gathered.reject(place, f"its label is {label}, and there are {len(names)} models ({where})")


def _rows(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    annotations = variable(tree, path, "annotations")
    wanted = {"class", "relative_im_path", "test"} if path.endswith(_MERGED) else {"class", "fname"}
    if missing := sorted(wanted - set(annotations.dtype.names or ())):
        raise FinedeficsError(
            f"its annotations have no field `{missing[0]}`",
            place=tree.where(path),
            cure="fetch the file again",
        )
    for number, row in enumerate(annotations, start=1):
        yield f"{path.rpartition('/')[2]}, annotation {number}", row


def _needed(tree: Tree, name: str) -> str:
    found = tree.find(name)
    if found is None:
        raise FinedeficsError(f"there is no {name}", place=tree.where(), cure="add the development kit")
    return found


def _pictures(tree: Tree, folder: str, annotations: str) -> str:
    """The folder of a split: archives of the data set hold it once more in itself, or beside the kit."""
    for path in tree.files():
        parts = path.split("/")
        if folder in parts[:-1] and path.lower().endswith((".jpg", ".jpeg")):
            return path[: -len(parts[-1])]
    return f"{folder_of(folder_of(annotations))}/{folder}/".lstrip("/")
