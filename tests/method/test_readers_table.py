"""Tables: columns by name, labels, splits and attributes, pictures as paths and as bytes, and bad rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bird_folder import encoded, put
from native_layouts import pack

from finedefics.data.readers import Entry, Listing, open_source, read_source
from finedefics.errors import FinedeficsError

ROWS = [
    {"path": "pics/1.jpg", "species": "House_Wren", "fold": "train", "crown": "brown", "tail": "short"},
    {"path": "pics/2.jpg", "species": "House_Wren", "fold": "validation", "crown": "", "tail": "short"},
    {"path": "./pics//3.jpg", "species": "Lark", "fold": "Test", "crown": "grey", "tail": ""},
]
NAMED = {"image": "path", "label": "species", "split": "fold", "attributes": "crown+tail"}


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "\t" if file.suffix == ".tsv" else ","
        lines = [mark.join(row.values()) for row in [dict(zip(rows[0], rows[0], strict=True)), *rows]]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return file


def read(place: Path, seed: int = 0, name: str = "auto", **columns: str) -> Listing:
    found, listing = read_source(open_source(place, seed=seed, columns=columns), name)
    assert found == "table"
    return listing


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_columns_are_named_by_the_user(suffix: str, tmp_path: Path) -> None:
    listing = read(write(tmp_path / f"birds{suffix}", ROWS), **NAMED)
    assert listing.entries == (
        Entry("pics/1.jpg", "train", "House Wren", attributes={"crown": "brown", "tail": "short"}),
        Entry("pics/2.jpg", "val", "House Wren", attributes={"tail": "short"}),
        Entry("pics/3.jpg", "test", "Lark", attributes={"crown": "grey"}),
    )
    assert [category.name for category in listing.categories] == ["House Wren", "Lark"]


def test_usual_names_are_found_and_splits_come_by_seed(tmp_path: Path) -> None:
    rows = [
        {"File_Name": f"{n}.jpg", "class": "1" if n % 2 else "2", "caption": f"bird {n}"} for n in range(20)
    ]
    listing = read(write(tmp_path / "birds.csv", rows))
    assert sorted({entry.split for entry in listing.entries}) == ["test", "train", "val"]
    assert listing == read(tmp_path / "birds.csv") != read(tmp_path / "birds.csv", seed=7)
    assert {entry.category for entry in listing.entries} == {"1", "2"}
    assert listing.entries[0].description == "bird 0"


def test_semicolons_mappings_and_super_categories(tmp_path: Path) -> None:
    cell = '"{""crown"": ""red"", ""age"": 2}"'
    file = tmp_path / "birds.csv"
    file.write_text(f"image;label;supercategory;attributes\na.jpg;Wren;bird;{cell}\nb.jpg;Tern;;\n")
    listing = read(file)
    assert listing.entries[0].attributes == {"crown": "red", "age": "2"}
    assert [(c.name, c.super_category) for c in listing.categories] == [("Tern", None), ("Wren", "bird")]


def test_pictures_as_bytes_are_addressed_by_row(tmp_path: Path) -> None:
    pictures = [encoded(number) for number in range(200)]
    rows = [{"image": picture, "label": n % 2} for n, picture in enumerate(pictures)]
    listing = read(write(tmp_path / "birds.parquet", rows))
    tree = open_source(tmp_path / "birds.parquet").tree
    assert listing.entries[7].source == "birds.parquet/0000007"
    for number in (199, 0, 7):
        address = listing.entries[number].address
        assert address is not None
        assert tree.read(address) == pictures[number]
        assert tree.stamp(address) == tree.stamp("birds.parquet")
    for wrong in ("birds.parquet::image::200", "birds.parquet::image::x", "no.parquet::image::0"):
        with pytest.raises(FileNotFoundError):
            tree.read(wrong)
    with pytest.raises(OSError, match="cannot read this column"):
        tree.read("birds.parquet::nothing::0")


def _shard(
    file: Path, pictures: Sequence[tuple[bytes | None, str]], numbers: Sequence[int] | None = None
) -> None:
    """A shard as the Hugging Face libraries write it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": content, "path": path} for content, path in pictures], kind)
    labels = pa.array(numbers or [n % 2 for n in range(len(pictures))], pa.int64())
    features = {
        "label": {"names": ["house_wren", "lark"], "_type": "ClassLabel"},
        "image": {"_type": "Image"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=2)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_shards_of_the_hugging_face_libraries(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    for split, count in (("train", 5), ("validation", 2), ("test", 2)):
        file = root / f"data/{split}-00000-of-00001.parquet"
        _shard(file, [(encoded(10 * count + n), f"{n}.png") for n in range(count)])
    place = root if kind == "folder" else pack(root, kind, "top")
    listing = read(place)
    assert [entry.split for entry in listing.entries] == ["test"] * 2 + ["train"] * 5 + ["val"] * 2
    assert [category.name for category in listing.categories] == ["house wren", "lark"]
    last = listing.entries[-1]
    assert last.source.endswith("validation-00000-of-00001.parquet/0000001-1.png")
    assert last.address is not None
    assert open_source(place).tree.read(last.address) == encoded(21)


@pytest.mark.parametrize("train", ["default/train", "default/partial-train"])
def test_shards_in_folders_of_their_splits(train: str, tmp_path: Path) -> None:
    for folder, count in ((train, 5), ("default/validation", 2), ("default/test", 3)):
        _shard(tmp_path / folder / "0000.parquet", [(encoded(n), f"{n}.png") for n in range(count)])
    splits = [entry.split for entry in read(tmp_path).entries]
    assert sorted(splits) == ["test"] * 3 + ["train"] * 5 + ["val"] * 2


def test_a_secret_label_is_none_and_a_number_without_a_name_is_set_aside(tmp_path: Path) -> None:
    _shard(tmp_path / "a.parquet", [(encoded(n), f"{n}.png") for n in range(4)], [0, -1, 1, 2])
    listing = read(tmp_path / "a.parquet")
    assert [entry.category for entry in listing.entries] == ["house wren", None, "lark"]
    assert [category.name for category in listing.categories] == ["house wren", "lark"]
    assert listing.rejected == (("a.parquet", "row 3: label 2, and the file has names for 2, from 0"),)


def test_pairs_without_bytes_lead_to_files(tmp_path: Path) -> None:
    put(tmp_path, "pics/a.png", encoded(1))
    _shard(tmp_path / "birds.parquet", [(None, "pics/a.png"), (None, "pics/b.png"), (None, "../c.png")])
    listing = read(tmp_path / "birds.parquet")
    assert [(entry.source, entry.address) for entry in listing.entries] == [
        ("pics/a.png", None),
        ("pics/b.png", None),
    ]
    assert listing.rejected == (("birds.parquet", "row 2: '../c.png' lies outside the folder"),)


def test_a_table_and_its_pictures_in_an_archive(tmp_path: Path) -> None:
    root = tmp_path / "source"
    put(root, "images/a.jpg", encoded(1))
    (root / "labels.csv").write_text("image,label\nimages/a.jpg,Wren\n")
    assert [entry.source for entry in read(pack(root, "zip", "top")).entries] == ["images/a.jpg"]
    (root / "more.csv").write_text("image,label\nimages/a.jpg,Lark\n")
    with pytest.raises(
        FinedeficsError, match=r"there are 2 tables; say --columns file=NAME \(labels.csv, more"
    ):
        read(root, name="table")
    assert [entry.category for entry in read(root, name="table", file="more.csv").entries] == ["Lark"]


def test_bad_rows_are_set_aside_with_line_and_reason(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "birds.csv").write_text(
        "image,label,split\n"
        "a.jpg,Wren,train\n"
        ",Wren,train\n"
        "../b.jpg,Wren,train\n"
        "/etc/c.jpg,Wren,train\n"
        f"{root}/d.jpg,Wren,train\n"
        "https://example.org/e.jpg,Wren,train\n"
        "f.jpg,Wren,later\n"
        "g.jpg,???,train\n"
        "h.jpg,Wren\n"
        'i".jpg,Wren,train\n'
        '"j"x.jpg,Wren,train\n'
        "a.jpg,Wren,train\n"
        "d.jpg,Lark,train\n"
        "k.jpg,,train\n"
    )
    listing = read(tmp_path / "birds.csv")
    assert [(entry.source, entry.category) for entry in listing.entries] == [
        ("a.jpg", "Wren"),
        ('i".jpg', "Wren"),
        ("k.jpg", None),
    ]
    assert listing.rejected == (
        ("birds.csv", "line 3: `image` is empty"),
        ("birds.csv", "line 4: '../b.jpg' lies outside the folder"),
        ("birds.csv", "line 5: '/etc/c.jpg' lies outside the folder"),
        ("birds.csv", "line 7: 'https://example.org/e.jpg' is an address; pictures are read from files"),
        ("birds.csv", "line 8: unknown split 'later'"),
        ("birds.csv", "line 9: '???' is no name for a category"),
        ("birds.csv", "line 10: 2 cells, and the header has 3"),
        ("birds.csv", "line 12: no valid CSV (',' expected after '\"')"),
        ("a.jpg", "named twice (birds.csv, line 13)"),
        ("d.jpg", "named as Wren in train, and as Lark in train (birds.csv, line 14)"),
    )


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("stray", ['"a.jpg,Wren', 'a.jpg,"Wren', '"a.jpg"x,Wren'])
def test_a_stray_quote_costs_its_own_line_only(stray: str, quoted: bool, tmp_path: Path) -> None:
    cell = '"Lark, the\nhorned"' if quoted else "Lark"
    rows = [f"{n}.jpg,{cell}" for n in range(5)]
    (tmp_path / "birds.csv").write_text("\n".join(["image,label", *rows[:2], stray, *rows[2:]]) + "\n")
    listing = read(tmp_path / "birds.csv")
    assert [entry.source for entry in listing.entries] == [f"{n}.jpg" for n in range(5)]
    ((_, reason),) = listing.rejected
    assert reason.startswith(f"line {6 if quoted else 4}: ")


def test_lines_that_are_no_objects_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "birds.jsonl").write_text('{"image": "a.jpg", "label": "Wren"}\nx\n[1]\n\n')
    listing = read(tmp_path / "birds.jsonl")
    assert [reason for _, reason in listing.rejected] == ["line 2: no JSON object", "line 3: no JSON object"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "there is no header"),
        ("a.csv", "image,label\n", "there is no row"),
        ("a.csv", "image,label\n,Wren\n", r"no row can be used \(the first: line 2: `image` is empty"),
        (
            "a.csv",
            "picture no,label\n1,Wren\n",
            "no column is known to be the image; say --columns image=NAME",
        ),
        ("a.csv", "image,kind\n1,Wren\n", "no column is known to be the label; say --columns label=NAME"),
        ("a.jsonl", "", "no column is known to be the image"),
        ("a.parquet", "nothing of Parquet", "no Parquet file that can be read"),
        (
            "a.csv",
            "image,label\na.jpg,Wren\nb.jpg,wren\n",
            "'wren' here and 'Wren' of a.jpg cannot be told apart",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_line(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FinedeficsError, match=said):
        read(tmp_path / name)


def test_columns_that_are_not_there_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "birds.csv", ROWS)
    for columns, said in (
        ({"image": "photo"}, r"there is no column 'photo'; it has: path, species, fold, crown, tail"),
        (NAMED | {"attributes": "crown+wing"}, "there is no column 'wing'"),
        ({"picture": "path"}, r"the reader table knows no 'picture'; it takes: image, label"),
    ):
        with pytest.raises(FinedeficsError, match=said) as caught:
            read(file, **columns)
        assert caught.value.exit_code == 2
