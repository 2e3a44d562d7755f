"""The released training files: rows as they stand, what enters a dataset, and what is set aside."""

import csv
from pathlib import Path

import pytest

from finedefics.data.readers import READERS, Listing, open_source
from finedefics.data.readers.released import ReleasedRow
from finedefics.data.readers.released import read_rows as read_rows_of
from finedefics.errors import FinedeficsError
from finedefics.mining import MINERS, Confusable
from finedefics.records import Category

COLUMNS = [
    "image_path",
    "question",
    "answer",
    "type",
    "attribute",
    "neg_attribute",
    "category",
    "neg_category",
]
ASKED = "What is it?\nChoices:\nA. Marsh Wren\nB. Winter Wren\nAnswer with the letter."


def write(folder: Path, *rows: dict[str, str], columns: list[str] = COLUMNS) -> Path:
    file = folder / "pretrain.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def read_rows(file: Path) -> list[ReleasedRow]:
    return read_rows_of(open_source(file))


def listed(folder: Path, *rows: dict[str, str]) -> Listing:
    return READERS["released"](open_source(write(folder, *rows)))


def stage_one(image: str = "birds/1.jpg", category: str = "Marsh Wren") -> dict[str, str]:
    return {
        "image_path": image,
        "question": "What is it?",
        "answer": category,
        "attribute": "a small brown bird, with a cocked tail",
        "neg_attribute": "a tiny dark bird\t\na bird with a white brow",
        "category": category,
        "neg_category": "Winter Wren\t\nBewick's Wren",
    }


def test_a_row_of_the_first_stage_gives_picture_description_and_negatives(tmp_path: Path) -> None:
    listing = listed(tmp_path, stage_one())
    (entry,) = listing.entries
    assert (entry.category, entry.split) == ("Marsh Wren", "train")
    assert entry.description == "a small brown bird, with a cocked tail"
    assert entry.negatives == ("winter-wren", "bewick-s-wren")
    assert (entry.source, entry.address) == ("birds/1.jpg", None)
    texts = {category.name: category.description for category in listing.categories}
    assert texts == {
        "Bewick's Wren": "a bird with a white brow",
        "Marsh Wren": None,
        "Winter Wren": "a tiny dark bird",
    }


def test_pictures_may_stand_in_the_folder_train_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "train/birds").mkdir(parents=True)
    (tmp_path / "train/birds/1.jpg").write_bytes(b"listing decodes nothing")
    (entry,) = listed(tmp_path, stage_one()).entries
    assert (entry.source, entry.address) == ("birds/1.jpg", "train/birds/1.jpg")


@pytest.mark.parametrize("kind", ["", "open-set"])
def test_an_open_answer_is_the_category(tmp_path: Path, kind: str) -> None:
    row = {"image_path": "1.jpg", "question": "What is it?", "answer": "Marsh Wren", "type": kind}
    (entry,) = listed(tmp_path, row).entries
    assert (entry.category, entry.description, entry.negatives) == ("Marsh Wren", None, ())


def test_a_letter_is_the_option_it_stands_for(tmp_path: Path) -> None:
    row = {"image_path": "1.jpg", "question": ASKED, "answer": "B.", "type": "closed-set"}
    (entry,) = listed(tmp_path, row).entries
    assert entry.category == "Winter Wren"


def test_rows_of_one_picture_become_one_entry_unless_they_disagree(tmp_path: Path) -> None:
    closed = {"image_path": "birds/1.jpg", "question": ASKED, "answer": "A"}
    wrong = {"image_path": "birds/1.jpg", "question": ASKED, "answer": "B"}
    listing = listed(tmp_path, closed, stage_one(), wrong)
    (entry,) = listing.entries
    assert entry.category == "Marsh Wren"
    assert entry.description
    assert len(entry.negatives) == 2
    ((source, reason),) = listing.rejected
    assert source == "birds/1.jpg"
    # the first row's question takes lines 2 to 6 of the file, the second's negatives one line break each
    assert reason.startswith("line 10: 'Winter Wren' here and 'Marsh Wren' in an earlier row")


def test_a_row_of_two_pictures_loads_whole_and_is_set_aside(tmp_path: Path) -> None:
    columns = ["image_path", "image_path_1", "image_path_2", *COLUMNS[1:]]
    pair = {
        "image_path_1": "1.jpg",
        "image_path_2": "2.jpg",
        "type": "multi-image",
        "question": "The same?",
        "answer": "No",
    }
    file = write(tmp_path, pair, stage_one(), columns=columns)
    first, second = read_rows(file)
    assert (first.images, first.type, first.problem) == (("1.jpg", "2.jpg"), "multi-image", None)
    assert (first.question, first.answer) == ("The same?", "No")
    assert second.images == ("birds/1.jpg",)
    listing = READERS["released"](open_source(file))
    assert [entry.source for entry in listing.entries] == ["birds/1.jpg"]
    assert listing.rejected[0][1].startswith("line 2: two pictures and one label")


def test_malformed_rows_are_set_aside_with_line_and_reason(tmp_path: Path) -> None:
    uneven = {**stage_one("2.jpg"), "neg_attribute": "only one"}
    silent = {"image_path": "3.jpg", "question": "Why?", "answer": "So", "type": "reasoning"}
    file = write(tmp_path, stage_one(""), uneven, silent, stage_one("4.jpg", "???"), stage_one("5.jpg"))
    with file.open("a") as stream:
        stream.write("6.jpg,What?,Wren\n")
        stream.write('7.jpg,"What"?,Wren,,,,,\n')
        stream.write("8.jpg,What?,Crow,,,,,\n")
    listing = READERS["released"](open_source(file))
    assert [entry.source for entry in listing.entries] == ["5.jpg", "8.jpg"]
    assert [reason.split(": ", 1)[1].split(" (")[0] for _, reason in listing.rejected] == [
        "`image_path` is empty",
        "1 negative descriptions for 2 negative categories",
        "neither a category nor a description",
        "'???' is no name for a category",
        "3 cells, and the header has 8",
        "no valid CSV",
    ]
    lines = file.read_text().splitlines()
    for source, reason in listing.rejected:
        number = int(reason.split(":")[0].removeprefix("line "))
        assert lines[number - 1].startswith(source if source != "pretrain.csv" else ("7.jpg", ",What"))


def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match="there is no such folder or file"):
        read_rows(tmp_path / "missing.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FinedeficsError, match=r"other.csv, line 1: the header has no column `image_path`"):
        read_rows(tmp_path / "other.csv")
    (tmp_path / "latin.csv").write_bytes("image_path\n\xe9".encode("latin-1"))
    with pytest.raises(FinedeficsError, match="save it as UTF-8 text"):
        read_rows(tmp_path / "latin.csv")
    with pytest.raises(FinedeficsError, match=r"no row can be used \(the first: line 2: `image_path`"):
        listed(tmp_path, stage_one(""))


def test_the_miner_takes_provided_negatives_in_their_order() -> None:
    miner = MINERS["provided"]([Category(name, name) for name in ("crow", "lark", "wren")])
    given = ("lark", "dodo", "wren", "crow")
    ranked = miner([Confusable("x", "wren", provided=given), Confusable("y", "wren")], keep=2)
    assert ranked == [[("lark", 1.0), ("crow", 0.25)], []]


@pytest.mark.parametrize("header", ['"image_path"x,question', '"image_path,question'])
def test_a_header_that_is_no_csv_is_refused_with_file_and_line(tmp_path: Path, header: str) -> None:
    (tmp_path / "pretrain.csv").write_text(f"{header},answer\n1.jpg,What?,Wren\n")
    with pytest.raises(FinedeficsError, match=r"pretrain.csv, line 1: the header is no valid CSV \("):
        read_rows(tmp_path / "pretrain.csv")


@pytest.mark.parametrize("missing", ["nan", "NaN", "NULL", " nan "])
def test_a_missing_value_of_pandas_is_an_empty_cell(tmp_path: Path, missing: str) -> None:
    plain = {"image_path": "1.jpg", "answer": "Wren"}
    file = write(tmp_path, dict.fromkeys(COLUMNS, missing) | plain, {**plain, "image_path": missing})
    listing = READERS["released"](open_source(file))
    (entry,) = listing.entries
    assert (entry.category, entry.description, entry.negatives) == ("Wren", None, ())
    assert listing.categories == (Category("wren", "Wren"),)
    assert [reason for _, reason in listing.rejected] == ["line 3: `image_path` is empty"]


def test_a_missing_value_among_negatives_keeps_the_others_in_their_places(tmp_path: Path) -> None:
    joined = {"neg_category": "Lark\t\nnan\t\nCrow", "neg_attribute": "nan\t\nnan\t\nblack"}
    listing = listed(tmp_path, {**stage_one(), **joined})
    assert listing.entries[0].negatives == ("lark", "crow")
    texts = {category.name: category.description for category in listing.categories}
    assert texts == {"Crow": "black", "Lark": None, "Marsh Wren": None}


def test_pictures_outside_the_folder_are_set_aside(tmp_path: Path) -> None:
    outside = ["a\0.jpg", "../a.jpg", "x/../../a.jpg", "/etc/hostname", f"{tmp_path}-other/a.jpg"]
    inside = str(tmp_path / "birds/2.jpg")
    long = "x" * 5000  # ingesting says that it cannot be read
    rows = [stage_one(image) for image in (*outside, inside, long)]
    listing = listed(tmp_path, *rows)
    assert [entry.source for entry in listing.entries] == ["birds/2.jpg", long]
    assert [source for source, _ in listing.rejected] == outside
    reasons = [reason.split(": ", 1)[1] for _, reason in listing.rejected]
    assert reasons[0] == "the picture's path holds a null byte"
    assert reasons[1:] == [f"{path!r} lies outside the folder" for path in outside[1:]]


def test_two_ways_to_write_a_path_are_one_picture(tmp_path: Path) -> None:
    wrong = stage_one("birds//1.jpg", "Crow")
    listing = listed(tmp_path, stage_one("./birds/1.jpg"), stage_one(), stage_one("birds/./1.jpg"), wrong)
    assert [entry.source for entry in listing.entries] == ["birds/1.jpg"]
    ((source, reason),) = listing.rejected
    assert source == "birds/1.jpg"
    assert "'Crow' here and 'Marsh Wren' in an earlier row" in reason


def test_two_names_of_one_id_are_told_and_never_merged(tmp_path: Path) -> None:
    plain = {"question": "What is it?", "type": "open-set"}
    listing = listed(
        tmp_path,
        {**plain, "image_path": "1.jpg", "answer": "C-30"},
        {**plain, "image_path": "2.jpg", "answer": "C 30"},
        {**plain, "image_path": "3.jpg", "answer": "Crow", "neg_category": "C 30\t\nLark"},
        {**plain, "image_path": "4.jpg", "answer": "c-30"},
        {**plain, "image_path": "5.jpg", "answer": "Lark", "neg_category": "DC-9\t\nCrow"},
        {**plain, "image_path": "6.jpg", "answer": "Lark", "neg_category": "DC 9"},
    )
    assert [(entry.source, entry.negatives) for entry in listing.entries] == [
        ("1.jpg", ()),
        ("3.jpg", ("lark",)),
        ("4.jpg", ()),
        ("5.jpg", ("dc-9", "crow")),
        ("6.jpg", ()),
    ]
    # the negatives of the rows 3 and 5 take two lines each
    assert listing.rejected == (
        ("2.jpg", "line 3: 'C 30' and 'C-30' (line 2) have the same id 'c-30'"),
        ("3.jpg", "line 4: the hard negative 'C 30' and 'C-30' (line 2) have the same id 'c-30'"),
        ("6.jpg", "line 9: the hard negative 'DC 9' and 'DC-9' (line 7) have the same id 'dc-9'"),
    )


@pytest.mark.parametrize("label_in", ["the same row", "a later row"])
def test_a_hard_negative_that_is_the_own_category_is_told_and_left_out(tmp_path: Path, label_in: str) -> None:
    negatives = {"neg_category": "Tern\t\nGull", "neg_attribute": "not a tern\t\na white bird"}
    row = {**stage_one(category="Tern"), **negatives}
    first = {**row, "category": "", "answer": "It is.", "type": "caption"}
    listing = listed(tmp_path, row) if label_in == "the same row" else listed(tmp_path, first, row)
    (entry,) = listing.entries
    assert (entry.category, entry.negatives) == ("Tern", ("gull",))
    texts = {category.name: category.description for category in listing.categories}
    assert texts == {"Gull": "a white bird", "Tern": None}
    reason = "the hard negative 'Tern' is the picture's own category"
    assert listing.rejected[0] == ("birds/1.jpg", f"line 2: {reason}")
    assert all(reason in told for _, told in listing.rejected)


def test_a_stray_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    file = write(tmp_path, *(stage_one(f"birds/{n}.jpg") for n in range(3)))
    head, *rows = file.read_bytes().decode().split("\r\n")
    file.write_text("\r\n".join([head, '"birds/x.jpg,What is it?,,,,,Wren,', *rows]), newline="")
    listing = READERS["released"](open_source(file))
    assert [entry.source for entry in listing.entries] == [f"birds/{n}.jpg" for n in range(3)]
    ((_, reason),) = listing.rejected
    assert reason.startswith("line 2: no valid CSV")
