"""The released training files: rows as they stand, what enters a dataset, and what is set aside."""

import csv
from pathlib import Path

import pytest

from finedefics.data.readers import READERS, Listing
from finedefics.data.released import read_rows
from finedefics.errors import FinedeficsError
from finedefics.negatives import MINERS, Confusable
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


def listed(folder: Path, *rows: dict[str, str]) -> Listing:
    return READERS["released"](write(folder, *rows))


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
    assert entry.path == str(tmp_path.resolve() / "birds/1.jpg")
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
    assert entry.path == str((tmp_path / "train/birds/1.jpg").resolve())


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
    listing = READERS["released"](file)
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
    listing = READERS["released"](file)
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
    with pytest.raises(FinedeficsError, match="there is no such file"):
        read_rows(tmp_path / "missing.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FinedeficsError, match=r"other.csv, line 1: the header has no column `image_path`"):
        read_rows(tmp_path / "other.csv")
    (tmp_path / "latin.csv").write_bytes("image_path\n\xe9".encode("latin-1"))
    with pytest.raises(FinedeficsError, match="not UTF-8"):
        read_rows(tmp_path / "latin.csv")
    with pytest.raises(FinedeficsError, match=r"no row can be used \(the first: line 2: `image_path`"):
        listed(tmp_path, stage_one(""))


def test_the_miner_takes_provided_negatives_in_their_order() -> None:
    miner = MINERS["provided"]([Category(name, name) for name in ("crow", "lark", "wren")])
    given = ("lark", "dodo", "wren", "crow")
    ranked = miner([Confusable("x", "wren", provided=given), Confusable("y", "wren")], keep=2)
    assert ranked == [[("lark", 1.0), ("crow", 0.25)], []]
