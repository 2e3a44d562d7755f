"""A published file of options finds its pictures by name, path and label, and says what it does not find."""

from pathlib import Path

import pytest

from finedefics.errors import FinedeficsError
from finedefics.evaluation.matching import AMBIGUOUS, NO_CATEGORY, NO_PICTURE, OTHER_LABEL, Picture, match
from finedefics.evaluation.options import OptionItem, read_options
from finedefics.records import Category

CATEGORIES = [
    Category("egyptian-mau", "Egyptian Mau"),
    Category("siamese", "Siamese"),
    Category("b", "B"),
    Category("c", "C"),
]
FOCI = Path(__file__).parents[2].parent / "shared" / "reference" / "foci"


def item(image: str, truth: str = "Siamese", *wrong: str) -> OptionItem:
    return OptionItem(image, (truth, *(wrong or ("B", "C"))), truth)


def picture(source: str, label: str | None = "siamese") -> Picture:
    return Picture(f"id of {source}", source, label)


def asked(items: list[OptionItem], pictures: list[Picture], share: float = 1.0) -> dict[str, tuple[str, ...]]:
    return dict(match(items, pictures, CATEGORIES, place="file").options)


def test_names_are_matched_whatever_their_case_and_underscores() -> None:
    found = asked([item("images/x_1.jpg", "egyptian_Mau", "Siamese")], [picture("x_1.jpg", "egyptian-mau")])
    assert found == {"id of x_1.jpg": ("egyptian-mau", "siamese")}


def test_of_equal_file_names_the_longest_common_path_decides_and_then_the_label() -> None:
    pictures = [picture("test/cats/1.jpg"), picture("test/dogs/1.jpg"), picture("old/cats/1.jpg", "b")]
    assert list(asked([item("images/cats/1.jpg")], pictures)) == ["id of test/cats/1.jpg"]
    assert list(asked([item("images/cats/1.jpg", "B", "C")], pictures)) == ["id of old/cats/1.jpg"]


def test_what_has_no_picture_of_its_own_is_counted_with_the_reason() -> None:
    pictures = [picture(f"{number}.jpg") for number in range(96)]
    pictures += [picture("a/twin.jpg"), picture("b/twin.jpg"), picture("other.jpg", "c")]
    items = [item(f"images/{number}.jpg") for number in range(96)]
    bad = ["images/twin.jpg", "images/gone.jpg", "images/other.jpg"]
    found = match(
        [*items, *map(item, bad), item("0.jpg", "Siamese", "Lynx")], pictures, CATEGORIES, place="f"
    )
    assert found.unmatched == {AMBIGUOUS: 1, NO_CATEGORY: 1, NO_PICTURE: 1, OTHER_LABEL: 1}
    assert (len(found.options), found.items) == (96, 100)


def test_a_file_of_other_pictures_is_refused() -> None:
    pictures = [picture(f"{number}.jpg") for number in range(94)]
    with pytest.raises(
        FinedeficsError, match=r"file: 6 of its 100 questions cannot be asked .*6: no picture"
    ):
        asked([item(f"{number}.jpg") for number in range(100)], pictures)


def test_a_picture_is_asked_once() -> None:
    found = match(
        [item("1.jpg"), item("images/1.jpg", "Siamese", "C")], [picture("1.jpg")], CATEGORIES, place="f"
    )
    assert (found.repeated, dict(found.options)) == (1, {"id of 1.jpg": ("siamese", "b", "c")})


@pytest.mark.skipif(not FOCI.is_dir(), reason="the published option files are not on this machine")
@pytest.mark.parametrize(
    ("name", "categories", "items", "repeated"),
    [("pet-37", 37, 3669, 0), ("dog-120", 120, 8580, 1), ("aircraft-102", 100, 3333, 0)],
)
def test_published_files_find_all_of_their_pictures(
    name: str, categories: int, items: int, repeated: int
) -> None:
    file = read_options(FOCI / f"options-{name}.json")
    named = [Category(one.replace("_", "-").lower(), one.replace("_", " ")) for one in file.categories]
    ids = {one.name: one.category_id for one in named}
    sources = {one.image.replace("images/", "Images/"): one.truth.replace("_", " ") for one in file.items}
    pictures = [Picture(source, source, ids[truth]) for source, truth in sources.items()]
    found = match(file.items, pictures, named, place=name)
    assert (len(named), found.items, found.repeated) == (categories, items, repeated)
    assert (len(found.options), found.unmatched) == (items - repeated, {})
