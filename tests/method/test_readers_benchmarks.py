"""The public benchmarks in their native layouts: what each gives, and what becomes of its oddities."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from native_layouts import (
    BIRDS,
    CARS,
    LAYOUTS,
    lines,
    pack,
    write_aircraft,
    write_cars,
    write_cub,
    write_cub_2010,
    write_dogs,
    write_flowers,
    write_merged_cars,
    write_pets,
)
from scipy.io import savemat

from finedefics.data.readers import Listing, open_source, read_source
from finedefics.errors import FinedeficsError


def read(place: Path, name: str = "auto", seed: int = 0, **columns: str) -> Listing:
    found, listing = read_source(open_source(place, seed=seed, columns=columns), name)
    assert found == name or name == "auto"
    return listing


def splits(listing: Listing) -> dict[tuple[str, str | None], int]:
    return dict(Counter((entry.split, entry.category) for entry in listing.entries))


def reasons(listing: Listing) -> dict[str, str]:
    return {source.rpartition("/")[2]: reason for source, reason in listing.rejected}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_read_alike_from_folder_zip_and_tars(name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path / "source")
    found, folder = read_source(open_source(root))
    assert found == name
    for kind, top in (("zip", "wrapped"), ("tar", ""), ("tar.gz", "./wrapped")):
        source = open_source(pack(root, kind, top))
        found, archive = read_source(source)
        assert found == name
        # a folder that holds all of an archive goes, the archive's own and then the data set's
        tails = [entry.source.rpartition("/")[2] for entry in folder.entries]
        assert [entry.source.rpartition("/")[2] for entry in archive.entries] == tails
        assert [(e.split, e.category, e.attributes) for e in archive.entries] == [
            (e.split, e.category, e.attributes) for e in folder.entries
        ]
        assert archive.categories == folder.categories
        assert [reason for _, reason in archive.rejected] == [reason for _, reason in folder.rejected]
        first = archive.entries[0]
        assert source.tree.read(first.source) == open_source(root).tree.read(folder.entries[0].source)


def test_cub_has_names_splits_attributes_and_texts(tmp_path: Path) -> None:
    listing = read(write_cub(tmp_path), "cub")
    black, laysan = "Black footed Albatross", "Laysan Albatross"
    assert splits(listing) == {
        **{("train", black): 3, ("val", black): 1, ("test", black): 2},
        **{("train", laysan): 3, ("val", laysan): 1, ("test", laysan): 2},
    }
    by_name = {entry.source.rpartition("/")[2]: entry for entry in listing.entries}
    # brown was probable and black definite; the bill was a guess
    assert by_name["Black_footed_Albatross_0000_0.jpg"].attributes == {"wing color": "black"}
    # as certain of both, and more annotators saw brown in the class; the rows have columns too many
    odd = by_name["Black_footed_Albatross_0001_1.jpg"]
    assert odd.attributes == {"wing color": "brown", "bill shape": "hooked seabird"}
    assert by_name["Black_footed_Albatross_0002_2.jpg"].attributes is None
    first, second = listing.categories
    assert (first.name, first.super_category) == (black, "bird")
    assert first.attributes == {"bill shape": "hooked seabird"}  # brown or black: annotators do not agree
    assert first.description == "brown and black wing color, hooked seabird bill shape"
    assert second.attributes == {
        "wing color": "white",
        "bill shape": "hooked seabird",
        "tail shape": "rounded",
    }
    assert second.description is not None
    assert "hooked seabird and curved (up or down) bill shape" in second.description
    assert reasons(listing) == {
        "image_attribute_labels.txt": "line 10: no picture, value, presence and certainty",
        "unlisted.jpg": "not named in images.txt",
    }
    assert listing.notes == {"val": "0.1 of each category's train pictures, by seed"}


def test_the_val_cut_follows_the_seed_and_leaves_test_alone(tmp_path: Path) -> None:
    root = write_cub(tmp_path, per_class=40)
    first, again, other = read(root, seed=1), read(root, seed=1), read(root, seed=2)
    assert first == again != other
    held = [{e.source for e in one.entries if e.split == "test"} for one in (first, other)]
    assert held[0] == held[1]
    assert Counter(entry.split for entry in first.entries) == {"train": 6, "val": 2, "test": 72}


def test_cub_lists_that_disagree_are_set_aside(tmp_path: Path) -> None:
    home = write_cub(tmp_path) / "CUB_200_2011"
    for file, more in (
        ("images.txt", f"1 {BIRDS[0]}/unlisted.jpg"),
        ("image_class_labels.txt", "2 2"),
        ("train_test_split.txt", "3 5"),
    ):
        (home / file).write_text((home / file).read_text() + more + "\n")
    listing = read(tmp_path)
    assert reasons(listing) == {
        "image_attribute_labels.txt": "line 10: no picture, value, presence and certainty",
        "image_class_labels.txt": "2 is 1, and 2 too (image_class_labels.txt, line 13)",
        "train_test_split.txt": "3 is 1, and 5 too (train_test_split.txt, line 13)",
        "unlisted.jpg": "its number 1 is that of CUB_200_2011/images/001.Black_footed_Albatross/"
        "Black_footed_Albatross_0000_0.jpg too (images.txt, line 13)",
        "Black_footed_Albatross_0001_1.jpg": "image_class_labels.txt gives it no class of classes.txt",
        "Black_footed_Albatross_0002_2.jpg": "train_test_split.txt gives it no split",
    }


def test_cub_without_attributes_and_the_release_of_2010(tmp_path: Path) -> None:
    bare = write_cub(tmp_path / "bare")
    (bare / "attributes.txt").unlink()
    assert all(entry.attributes is None for entry in read(bare).entries)
    assert all(not category.attributes for category in read(bare).categories)
    listing = read(write_cub_2010(tmp_path / "old"), "cub")
    assert Counter(entry.split for entry in listing.entries) == {"train": 4, "val": 2, "test": 2}
    assert [category.name for category in listing.categories] == [
        "Black footed Albatross",
        "Laysan Albatross",
    ]


def test_cars_that_share_file_names_are_told_apart_by_folder(tmp_path: Path) -> None:
    listing = read(write_cars(tmp_path), "cars")
    found = {entry.source: (entry.split, entry.category) for entry in listing.entries}
    assert found == {
        "cars_train/00001.jpg": ("train", CARS[1]),
        "cars_train/00002.jpg": ("train", CARS[0]),
        "cars_train/00003.jpg": ("train", CARS[1]),
        "cars_test/00001.jpg": ("test", CARS[0]),
        "cars_test/00002.jpg": ("test", CARS[1]),
    }
    assert listing.rejected == (
        ("cars_train/00004.jpg", "not named in cars_train_annos.mat"),
        (
            "cars_test/00003.jpg",
            "its label is 3, and there are 2 models (cars_test_annos_withlabels.mat, annotation 3)",
        ),
    )
    assert {category.super_category for category in listing.categories} == {"car"}


def test_cars_without_labels_of_the_test_pictures_are_refused(tmp_path: Path) -> None:
    root = write_cars(tmp_path, labels=False)
    with pytest.raises(
        FinedeficsError, match=r"no cars_test_annos_withlabels\.mat, and cars_test_annos\.mat"
    ):
        read(root)


def test_cars_of_the_merged_archive(tmp_path: Path) -> None:
    listing = read(write_merged_cars(tmp_path), "cars")
    assert Counter(entry.split for entry in listing.entries) == {"train": 3, "test": 2}
    assert listing.entries[0].source == "car_ims/000001.jpg"


def test_dogs_keep_the_dashes_of_their_names(tmp_path: Path) -> None:
    listing = read(write_dogs(tmp_path), "dogs")
    assert [(c.category_id, c.name, c.super_category) for c in listing.categories] == [
        ("afghan-hound", "Afghan hound", "dog"),
        ("shih-tzu", "Shih-Tzu", "dog"),
    ]
    assert Counter(entry.split for entry in listing.entries) == {"train": 4, "val": 2, "test": 4}
    assert reasons(listing) == {"n02086240_99.jpg": "not named in train_list.mat or test_list.mat"}


def test_a_dog_in_both_lists_is_taken_from_neither(tmp_path: Path) -> None:
    root = write_dogs(tmp_path)
    test = np.array([["n02086240-Shih-Tzu/n02086240_0.jpg"]], dtype=object)
    savemat(root / "test_list.mat", {"file_list": test, "labels": [[1.0]]})
    listing = read(root)
    assert "n02086240_0.jpg" not in {entry.source.rpartition("/")[2] for entry in listing.entries}
    assert reasons(listing)["n02086240_0.jpg"].startswith(
        "named as Shih-Tzu in train, and as Shih-Tzu in test"
    )


def test_pets_leave_forks_matlab_files_and_unlisted_pictures_out(tmp_path: Path) -> None:
    listing = read(write_pets(tmp_path), "pets")
    assert [(c.name, c.super_category) for c in listing.categories] == [
        ("Abyssinian", "cat"),
        ("American Bulldog", "dog"),
    ]
    assert Counter(entry.split for entry in listing.entries) == {"train": 4, "val": 2, "test": 4}
    assert listing.rejected == (
        ("images/Abyssinian_7.jpg", "in neither trainval.txt nor test.txt (list.txt, line 13)"),
        ("images/Abyssinian_6.jpg", "not named in annotations/list.txt"),
    )


def test_a_pet_that_is_listed_and_not_there_stays_in_sight(tmp_path: Path) -> None:
    root = write_pets(tmp_path)
    (root / "images/Abyssinian_1.jpg").unlink()
    assert "images/Abyssinian_1.jpg" in {entry.source for entry in read(root).entries}  # ingesting says why


def test_flowers_have_names_for_their_numbers(tmp_path: Path) -> None:
    root = write_flowers(tmp_path)
    listing = read(root, "flowers")
    assert [(c.name, c.super_category) for c in listing.categories] == [
        ("colt's foot", "flower"),
        ("passion flower", "flower"),
    ]
    assert Counter(entry.split for entry in listing.entries) == {"train": 2, "val": 2, "test": 4}
    flowers = {entry.source: entry.category for entry in listing.entries}
    assert (flowers["jpg/image_00004.jpg"], flowers["jpg/image_00005.jpg"]) == (
        "passion flower",
        "colt's foot",
    )
    assert listing.rejected == (("jpg/image_00009.jpg", "in no split of setid.mat"),)
    (root / "cat_to_name.json").write_text('{"77": "passiflora", "12": "coltsfoot", "3": "bellflower"}')
    assert [category.name for category in read(root).categories] == ["coltsfoot", "passiflora"]


def test_aircraft_know_their_family_and_manufacturer(tmp_path: Path) -> None:
    root = write_aircraft(tmp_path)
    listing = read(root, "aircraft")
    first, second = listing.categories
    assert (second.name, second.super_category) == ("F-16A/B", "aircraft")
    assert second.attributes == {"family": "F-16", "manufacturer": "Lockheed Martin"}
    assert Counter(entry.split for entry in listing.entries) == {"train": 2, "val": 2, "test": 2}
    assert list(reasons(listing)) == ["0000001.jpg"]
    families = read(root, level="family").categories
    assert [(c.name, dict(c.attributes)) for c in families] == [
        ("Boeing 707", {"manufacturer": "Boeing"}),
        ("F-16", {"manufacturer": "Lockheed Martin"}),
    ]
    with pytest.raises(FinedeficsError, match="unknown level 'engine'; choose one of: variant") as caught:
        read(root, level="engine")
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match="the reader pets knows no 'level'"):
        read(write_pets(tmp_path / "pets"), level="family")
    assert first.name == "707-320"


@pytest.mark.parametrize(
    ("name", "missing", "said"),
    [
        ("cub", "CUB_200_2011/classes.txt", "classes.txt: there is no such file"),
        ("cub", "CUB_200_2011/image_class_labels.txt", "image_class_labels.txt: there is no such file"),
        ("cars", "devkit/cars_meta.mat", "there is no cars_meta.mat"),
        ("cars", "devkit/cars_train_annos.mat", "there is neither cars_train_annos.mat nor cars_annos.mat"),
        ("dogs", "test_list.mat", "there is no test_list.mat"),
        ("pets", "annotations/test.txt", "test.txt: there is no such file"),
        ("flowers", "setid.mat", "there is no setid.mat"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", "val.txt: there is no such file"),
    ],
)
def test_a_missing_list_is_named(name: str, missing: str, said: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path)
    (root / missing).unlink()
    with pytest.raises(FinedeficsError) as caught:
        read_source(open_source(root))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("cub", "CUB_200_2011/images.txt", "its lists name no picture"),
        ("pets", "annotations/trainval.txt", None),
        ("dogs", "train_list.mat", "this Matlab file cannot be read"),
        ("cars", "devkit/cars_train_annos.mat", "this Matlab file cannot be read"),
    ],
)
def test_an_empty_list_gives_one_line(name: str, file: str, said: str | None, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path)
    (root / file).write_bytes(b"")
    if said is None:
        assert {entry.split for entry in read(root).entries} == {"test"}
        return
    with pytest.raises(FinedeficsError, match=said):
        read_source(open_source(root))


def test_damaged_lists_are_named_with_their_lines(tmp_path: Path) -> None:
    home = write_cub(tmp_path) / "CUB_200_2011"
    lines(home, "attributes/class_attribute_labels_continuous.txt", ["1.0 2.0"])
    with pytest.raises(FinedeficsError, match=r"continuous\.txt, line 1: 2 numbers, and .* has 6 values"):
        read(tmp_path)
    (home / "attributes/class_attribute_labels_continuous.txt").unlink()
    lines(home, "images.txt", ["1"])
    with pytest.raises(FinedeficsError, match=r"images\.txt, line 1: 1 words, and 2 are wanted"):
        read(tmp_path)
