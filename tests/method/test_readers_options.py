"""Option files as FOCI and Fine-R1 publish them: what is read of them, and what is refused."""

import json
from pathlib import Path

import pytest

from finedefics.errors import FinedeficsError
from finedefics.evaluation.options import OptionItem, read_options

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
ITEM = {"image": "images/a.jpg", "options": ["Wren", "Lark"], "groundtruth": "Wren"}
WREN = OptionItem("images/a.jpg", ("Wren", "Lark"), "Wren")


def write(folder: Path, content: object) -> Path:
    file = folder / "options.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_the_shape_of_foci(tmp_path: Path) -> None:
    read = read_options(write(tmp_path, {"Wren": [ITEM, ITEM], "Dodo": []}))
    assert read.items == (WREN, WREN)
    assert read.categories == ("Dodo", "Lark", "Wren")


def test_the_shape_of_predictions_puts_the_truth_first(tmp_path: Path) -> None:
    row = {"image": "images/a.jpg", "options": ["Lark", "Wren"], "correct": "Wren", "predicted": "Lark"}
    assert read_options(write(tmp_path, {"metrics": {}, "predictions": [row]})).items == (WREN,)


def test_the_shape_of_json_lines(tmp_path: Path) -> None:
    row = {"image_path": "images/a.jpg", "question": "?", "options": ["Wren", "Lark"], "ground_truth": "Wren"}
    for lines in (1, 2):
        read = read_options(write(tmp_path, "\n".join([json.dumps(row)] * lines) + "\n\n"))
        assert read.items == (WREN,) * lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "there is no item in this file"),
        ("[1, 2", "line 1: not valid JSON"),
        ("", "there is no item in this file"),
        ({"Wren": [7]}, "'Wren', item 1: not an item"),
        ({"Wren": [ITEM, ITEM | {"image": ""}]}, "'Wren', item 2: no `image`"),
        ({"Wren": [ITEM | {"options": "Wren"}]}, "`options` is no list of names"),
        ({"Wren": [ITEM | {"options": ["Wren"]}]}, "1 options, and two are the fewest"),
        ({"Wren": [ITEM | {"options": ["Wren", "wren"]}]}, "an option stands there twice"),
        ({"Wren": [ITEM | {"groundtruth": "Crow"}]}, "the truth 'Crow' is none of the options"),
        ({"Lark": [ITEM]}, "the truth is 'Wren', and the item stands under 'Lark'"),
    ],
)
def test_what_is_no_option_file_is_refused(tmp_path: Path, content: object, said: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(FinedeficsError) as caught:
        read_options(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match="cannot be read") as caught:
        read_options(tmp_path / "missing.json")
    assert caught.value.exit_code == 2
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": []}')
    with pytest.raises(FinedeficsError, match="not UTF-8"):
        read_options(tmp_path / "latin.json")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"the published files are not at {REFERENCE}")
@pytest.mark.parametrize(
    ("name", "categories", "items"),
    [
        ("foci/options-pet-37.json", 37, 3669),
        ("foci/options-dog-120.json", 120, 8580),
        ("foci/options-aircraft-102.json", 100, 3333),
        ("foci/predictions-car-196.json", 196, 8041),
        ("fine-r1/pet_unseen.jsonl", 36, 1493),
        ("fine-r1/aircraft_seen.jsonl", 97, 2002),
    ],
)
def test_the_published_files(name: str, categories: int, items: int) -> None:
    read = read_options(REFERENCE / name)
    assert (len(read.categories), len(read.items)) == (categories, items)
    assert all(item.options[0] == item.truth and len(item.options) == 4 for item in read.items)
