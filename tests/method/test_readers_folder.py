"""The folder reader: layouts, annotations, splits, and what it refuses."""

import json
import unicodedata
from pathlib import Path

import pytest
from native_layouts import pack

from finedefics.data.readers import READERS, Entry, Listing, category_id, open_source
from finedefics.errors import FinedeficsError


def touch(root: Path, *sources: str) -> Path:
    for source in sources:
        (root / source).parent.mkdir(parents=True, exist_ok=True)
        (root / source).write_bytes(b"listing decodes nothing")
    return root


def lines(file: Path, *rows: object) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(root: Path, seed: int = 0) -> Listing:
    return READERS["folder"](open_source(root, seed=seed))


def by_source(listing: Listing) -> dict[str, Entry]:
    return {entry.source: entry for entry in listing.entries}


def test_split_folders_and_category_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/Cape_May_Warbler/a.jpg", "test/Cape_May_Warbler/b.png", "val/House Wren/c.jpg")
    touch(tmp_path, "README.md", "train/.DS_Store")
    listing = read(tmp_path)
    found = [(entry.source, entry.split, entry.category) for entry in listing.entries]
    assert found == [
        ("test/Cape_May_Warbler/b.png", "test", "Cape May Warbler"),
        ("train/Cape_May_Warbler/a.jpg", "train", "Cape May Warbler"),
        ("val/House Wren/c.jpg", "val", "House Wren"),
    ]
    assert [c.category_id for c in listing.categories] == ["cape-may-warbler", "house-wren"]
    assert listing.rejected == ()


def test_pictures_out_of_place_are_rejected_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "train/wren/a.jpg", "train/wren/old/b.jpg", "loose.png")
    assert read(tmp_path).rejected == (
        ("loose.png", "lies outside the split folders"),
        ("train/wren/old/b.jpg", "lies deeper than its category's folder"),
    )


def test_split_by_seed_covers_every_split_and_repeats(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("wren", "lark") for i in range(10)), "rare/0.jpg")
    first, again, other = read(tmp_path, seed=1), read(tmp_path, seed=1), read(tmp_path, seed=2)
    assert first == again
    assert first != other
    for name in ("wren", "lark"):
        splits = sorted(entry.split for entry in first.entries if entry.category == name)
        assert splits == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert by_source(first)["rare/0.jpg"].split == "train"


def test_annotations_complete_a_folder_layout(tmp_path: Path) -> None:
    touch(tmp_path, "train/wren/a.jpg", "train/wren/b.jpg", "test/wren/c.jpg")
    note = {"image": "train/wren/a.jpg", "description": "small", "attributes": {"wing bars": 2}}
    lines(tmp_path / "annotations.jsonl", note, {"image": "train/wren/b.jpg", "category": None})
    found = by_source(read(tmp_path))
    a, b = found["train/wren/a.jpg"], found["train/wren/b.jpg"]
    assert (a.split, a.category, a.description, a.attributes) == (
        "train",
        "wren",
        "small",
        {"wing bars": "2"},
    )
    assert (b.split, b.category) == ("train", None)
    assert found["test/wren/c.jpg"].category == "wren"


def test_annotations_stand_alone_and_keep_missing_pictures_in_sight(tmp_path: Path) -> None:
    touch(tmp_path, "images/x.jpg", "images/unnamed.jpg")
    lines(
        tmp_path / "annotations.jsonl",
        {"image": "images/x.jpg", "split": "train", "category": "Wren"},
        {"image": "images/missing.jpg", "split": "test", "category": "Wren"},
    )
    listing = read(tmp_path)
    assert sorted(by_source(listing)) == ["images/missing.jpg", "images/x.jpg"]
    assert listing.rejected == (("images/unnamed.jpg", "not named in annotations.jsonl"),)


def test_categories_file_adds_texts_and_categories_without_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "train/house_wren/a.jpg")
    known = {"name": "House Wren", "super_category": "wrens", "description": "brown", "attributes": None}
    lines(tmp_path / "categories.jsonl", known, {"name": "Dodo", "attributes": {"wing": "short"}})
    dodo, wren = read(tmp_path).categories
    assert (dodo.category_id, dodo.attributes) == ("dodo", {"wing": "short"})
    assert (wren.category_id, wren.name, wren.super_category) == ("house-wren", "House Wren", "wrens")


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("{not json", "not valid JSON"),
        ('["x.jpg"]', "not a JSON object"),
        ('{"category": "Wren"}', "`image` is missing"),
        ('{"image": "../x.jpg"}', "outside the folder"),
        ('{"image": "y.jpg", "split": "dev"}', "unknown split 'dev'"),
        ('{"image": "y.jpg", "caption": "x"}', "unknown key `caption`"),
        ('{"image": "y.jpg", "description": 3}', "`description` is not a string"),
        ('{"image": "y.jpg", "attributes": ["red"]}', "no mapping"),
        ('{"image": "./images/x.jpg"}', "named twice"),
    ],
)
def test_a_bad_annotation_names_file_and_line(tmp_path: Path, text: str, thing: str) -> None:
    (tmp_path / "annotations.jsonl").write_text('{"image": "images/x.jpg"}\n\n' + text + "\n")
    with pytest.raises(FinedeficsError, match=r"annotations\.jsonl, line 3") as caught:
        read(tmp_path)
    assert thing in str(caught.value)


def test_two_categories_of_one_id_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/wren/a.jpg")
    lines(tmp_path / "categories.jsonl", {"name": "House Wren"}, {"name": "house-wren"})
    with pytest.raises(FinedeficsError, match=r"categories\.jsonl, line 2.*same id"):
        read(tmp_path)


def test_missing_folder_empty_folder_and_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match="no such folder or file"):
        read(tmp_path / "nowhere")
    with pytest.raises(FinedeficsError, match="no picture in this folder"):
        read(touch(tmp_path, "README.md"))
    with pytest.raises(FinedeficsError, match="unknown split 'more' beside train"):
        read(touch(tmp_path, "train/wren/a.jpg", "more/wren/b.jpg", "notes/todo.txt"))


def test_splits_have_the_names_that_data_sets_give_them(tmp_path: Path) -> None:
    found = read(
        touch(tmp_path / "a", "Train/wren/a.jpg", "valid/wren/b.jpg", "Testing/wren/c.jpg", "x/y.txt")
    )
    assert {entry.source: entry.split for entry in found.entries} == {
        "Testing/wren/c.jpg": "test",
        "Train/wren/a.jpg": "train",
        "valid/wren/b.jpg": "val",
    }
    # without a folder for training it is a name as any other
    found = read(touch(tmp_path / "b", "dev/a.jpg", "wren/b.jpg"))
    assert [category.name for category in found.categories] == ["dev", "wren"]


def test_an_unknown_reader_lists_the_known_ones() -> None:
    with pytest.raises(FinedeficsError, match="folder") as caught:
        READERS["video"]
    assert caught.value.exit_code == 2


def test_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg")
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/wren").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert [entry.source for entry in read(tmp_path / "data").entries] == ["train/wren/a.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Cape_May  Warbler", "cape-may-warbler"), ("家麻雀 2", "家麻雀-2"), ("E\u0301tourneau", "étourneau")],
)
def test_category_ids(name: str, expected: str) -> None:
    assert category_id(name) == expected


def test_folders_that_hold_all_others_and_numbers_before_names_count_for_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "a", "photos/images/001.House_Wren/a.jpg", "photos/images/002.Lark/b.jpg", "README.jpg")
    listing = read(tmp_path / "a")
    assert [entry.category for entry in listing.entries] == ["House Wren", "Lark"]
    assert listing.rejected == (("README.jpg", "lies outside a category's folder"),)
    touch(tmp_path / "b", "images/train/n02085620-Wren/a.jpg", "images/test/n02085936-Sand_lark/b.jpg")
    assert [entry.category for entry in read(tmp_path / "b").entries] == ["Sand lark", "Wren"]
    touch(tmp_path / "c", "001.Wren/a.jpg", "Lark/b.jpg")
    assert [entry.category for entry in read(tmp_path / "c").entries] == ["001.Wren", "Lark"]
    touch(tmp_path / "d", "1.Wren/a.jpg", "2.wren/b.jpg")
    assert [entry.category for entry in read(tmp_path / "d").entries] == ["1.Wren", "2.wren"]
    touch(tmp_path / "e", "wren/a.jpg", "wren/b.jpg")
    assert {entry.category for entry in read(tmp_path / "e").entries} == {"wren"}


@pytest.mark.parametrize("second", ["house_wren", "House-Wren", "HOUSE WREN"])
def test_two_folders_that_may_be_one_category_are_refused(tmp_path: Path, second: str) -> None:
    touch(tmp_path, "House_Wren/a.jpg", f"{second}/b.jpg", "Lark/c.jpg")
    with pytest.raises(
        FinedeficsError, match=r"cannot be told apart; write the name of a category in one way"
    ):
        read(tmp_path)
    lines(tmp_path / "categories.jsonl", {"name": "House Wren"})
    names = {category.name for category in read(tmp_path).categories}
    assert names == {"House Wren", "Lark"}, "who writes the name down has said that they are one"


def test_names_in_other_scripts_and_forms_of_unicode(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "Étourneau")
    touch(tmp_path, f"train/{nfd}/a.jpg", "train/家麻雀/b.jpg", "train/कि/c.jpg", "train/का/d.jpg")
    note = {"image": "train/Étourneau/a.jpg", "description": "speckled\u2028and dark"}
    (tmp_path / "annotations.jsonl").write_text(json.dumps(note, ensure_ascii=False) + "\r\n")
    listing = read(tmp_path)
    assert [category.category_id for category in listing.categories] == ["étourneau", "का", "कि", "家麻雀"]
    assert [entry.description for entry in listing.entries if entry.category == "Étourneau"] == [
        "speckled\u2028and dark"
    ]
    assert len(listing.entries) == 4


def test_what_annotators_saw_becomes_attributes_and_a_text(tmp_path: Path) -> None:
    touch(tmp_path, "images/001.Tern/a.jpg", "images/002.Gull/b.jpg")
    rows = [
        "class,attribute,value,percent",
        "001.Tern,has_wing_color,white,90",
        "001.Tern,has_wing_color,grey,55",  # also seen by most
        "001.Tern,has_crown_color,black,50",
        "001.Tern,has_crown_color,brown,40",  # nearly as often
        "001.Tern,has_tail_shape,forked_tail,33",  # by too few
        "002.Gull,has_tail_shape,rounded_tail,34",
        "003.Auk,has_size,medium_(9_-_16_in),80",  # no picture
        "003.Auk,has_bill_length,shorter_than_head,70",
    ]
    (tmp_path / "class_attributes.csv").write_text("\n".join(rows) + "\n")
    auk, gull, tern = read(tmp_path).categories
    assert (tern.name, tern.attributes) == ("Tern", {"wing color": "white"})
    assert tern.description == "white and grey wing color, black and brown crown color"
    assert (gull.attributes, gull.description) == ({"tail shape": "rounded"}, "rounded tail shape")
    assert (auk.category_id, auk.attributes) == (
        "auk",
        {"size": "medium (9 - 16 in)", "bill length": "shorter than head"},
    )
    assert auk.description == "medium (9 - 16 in) size, bill length shorter than head"
    lines(tmp_path / "categories.jsonl", {"name": "Tern", "description": "told by the user"})
    assert read(tmp_path).categories[2].description == "told by the user"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class,attribute,value\n", r"class_attributes\.csv: there is no column `percent`; begin"),
        ("class,attribute,value,percent\nTern,wing,white,most\n", r"csv, line 2: `percent` is 'most'"),
        ("class,attribute,value,percent\nTern,wing,,5\n", r"csv, line 2: `value` is empty"),
    ],
)
def test_a_bad_line_of_class_attributes_is_named(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "Tern/a.jpg")
    (tmp_path / "class_attributes.csv").write_text(text)
    with pytest.raises(FinedeficsError, match=said):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("top", ["train", "Test", "val", "wren"])
def test_an_archive_of_one_folder_is_listed_as_the_folder(top: str, kind: str, tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(4)]
    names = names if top == "wren" else [f"{one}/{name}" for one in ("wren", "lark") for name in names]
    root = touch(tmp_path / "source", *(f"{top}/{name}" for name in names))
    assert read(pack(root, kind)).entries == read(root).entries
    assert len(read(root).entries) == len(names)


def test_a_folder_called_like_a_split_may_hold_the_splits(tmp_path: Path) -> None:
    touch(tmp_path / "source", "test/train/wren/a.jpg", "test/val/wren/b.jpg")
    assert [entry.split for entry in read(pack(tmp_path / "source", "zip")).entries] == ["train", "val"]


def test_half_a_character_is_refused_by_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "annotations.jsonl").write_text('{"image": "a.jpg", "description": "red \\ud83d"}\n')
    with pytest.raises(FinedeficsError, match="line 1: it holds half a character"):
        read(tmp_path)
