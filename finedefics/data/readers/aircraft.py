"""The reader "aircraft": FGVC-Aircraft, by variant, family or manufacturer."""

from finedefics.data.readers._listing import Entry, Listing, Source, category_id, reader, spoken
from finedefics.data.readers._shared import Gathered, benchmark, listed, named_categories
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import SPLITS, Category

_SUPER = "aircraft"
LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
_MARKERS = tuple(f"images_{level}_{split}.txt" for level in LEVELS for split in ("train", "trainval", "test"))


def _recognises(source: Source) -> bool:
    return source.file is None and source.tree.find(*_MARKERS) is not None


@reader(
    "aircraft",
    layout="data/images/ with data/images_variant_train.txt, …_val.txt and …_test.txt (FGVC-Aircraft)",
    recognises=_recognises,
    takes=("level",),
)
def read_aircraft(source: Source) -> Listing:
    """List FGVC-Aircraft.

    Categories are variants, or what the column ``level`` says (``--columns level=family``). All three
    official splits are kept. A variant's family and manufacturer are its attributes, where their lists are
    there and agree; the super-category is "aircraft". A picture that is named twice is taken once (in another
    split or variant: not at all), and pictures that no list names are set aside, each with the reason.

    Raises:
        FinedeficsError: a list of the level is missing or damaged, no picture is named, or the level is
            unknown (exit code 2).
    """
    tree, gathered = source.tree, Gathered()
    level = source.columns.get("level", "variant")
    if level not in LEVELS:
        raise wrong_use(
            f"unknown level {level!r}", place="--columns", cure=f"choose one of: {', '.join(LEVELS)}"
        )
    found = tree.find(*_MARKERS)
    if found is None:
        raise FinedeficsError(
            "there is no images_variant_train.txt",
            place=source.place,
            cure="give the folder or archive of it",
        )
    home = found[: found.rindex("images_")]
    labels = _labels(tree, home, level)
    for place, split, name, where in labels:
        gathered.add(Entry(place, split, name), where)
    gathered.reject_unnamed(tree, f"{home}images/", f"not named in images_{level}_train, _val or _test.txt")
    categories = {category_id(name): Category(category_id(name), name, _SUPER) for *_, name, _ in labels}
    names = f"{home}{LEVELS[level]}"
    if tree.exists(names):
        lines = [line for line in tree.text(names).splitlines() if line.strip()]
        categories |= named_categories(lines, _SUPER, tree.where(names))
    above = list(LEVELS)[list(LEVELS).index(level) + 1 :]
    return benchmark(source, gathered, _with_levels(tree, home, labels, categories, above), cut_val=False)


def _labels(tree: Tree, home: str, level: str) -> list[tuple[str, str, str, str]]:
    """(path, split, name, where) of every line of the level's lists."""
    labels = []
    for split in SPLITS:
        for where, (picture, name) in listed(
            tree, f"{home}images_{level}_{split}.txt", 2, last_takes_rest=True
        ):
            labels.append((f"{home}images/{picture}.jpg", split, spoken(name), where))
    return labels


def _with_levels(
    tree: Tree,
    home: str,
    labels: list[tuple[str, str, str, str]],
    categories: dict[str, Category],
    levels: list[str],
) -> dict[str, Category]:
    """Categories with the one family and manufacturer that all of their pictures have."""
    attributes: dict[str, dict[str, str]] = {identifier: {} for identifier in categories}
    for level in levels:
        if not all(tree.exists(f"{home}images_{level}_{split}.txt") for split in SPLITS):
            continue
        of_picture = {place: name for place, _, name, _ in _labels(tree, home, level)}
        names: dict[str, set[str]] = {}
        for place, _, name, _ in labels:
            if place in of_picture:
                names.setdefault(category_id(name), set()).add(of_picture[place])
        for identifier, those in names.items():
            if len(those) == 1:
                attributes[identifier][level] = those.pop()
    return {
        identifier: Category(identifier, category.name, _SUPER, None, attributes[identifier])
        for identifier, category in categories.items()
    }
