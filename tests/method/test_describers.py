"""Describers that ask nobody: the source's words, a category's, a file's."""

import json
from pathlib import Path

import pytest

from finedefics.describers import DESCRIBERS, Description, Given, Subject, write_description
from finedefics.describers.file import FileDescriber
from finedefics.errors import FinedeficsError
from finedefics.records import Category


def test_annotated_text_is_kept_and_attributes_stay_to_be_written_up() -> None:
    describer = DESCRIBERS["annotations"](Given())
    told, written, silent = describer(
        [
            Subject("a", description="a small brown bird", attributes={"tail": "short"}),
            Subject("b", attributes={"crown": "red", "belly": "blue", "wing_bars": "2"}),
            Subject("c"),
        ]
    )
    assert told == Description("a small brown bird", {"tail": "short"})
    assert written == Description("", {"crown": "red", "belly": "blue", "wing_bars": "2"})
    assert silent is None
    assert describer.describer_id == DESCRIBERS["annotations"](Given()).describer_id
    assert describer.describer_id.startswith("annotations-")


def test_writing_descriptions() -> None:
    assert write_description({}) == ""
    assert write_description({"tail": "black"}) == "black tail"
    assert write_description({"tail": "black", "beak": "red"}) == "black tail and red beak"
    three = {"crown": "red", "belly": "blue", "wing_bars": "2"}
    assert write_description(three) == "red crown, blue belly and 2 wing bars"


def test_a_labelled_picture_gets_what_is_known_of_its_category() -> None:
    known = [
        Category("wren", "Wren", description="small", attributes={"tail": "short"}),
        Category("auk", "Auk"),
    ]
    describer = DESCRIBERS["categories"](Given(categories=known))
    subjects = [Subject("a", category_id="wren"), Subject("b", category_id="auk"), Subject("c")]
    assert describer(subjects) == [Description("small", {"tail": "short"}), None, None]
    with pytest.raises(FinedeficsError, match="no category has a text or attributes"):
        DESCRIBERS["categories"](Given(categories=[Category("auk", "Auk")]))


ROWS = [
    {"sample_id": "a", "description": "grey", "attributes": {"crown": "grey", "tail": None}},
    {"source": "x/b.jpg", "attributes": {"crown": "red"}},
    {"image": "x/gone.jpg", "description": "nobody"},
]


@pytest.fixture(params=["jsonl", "csv"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / f"notes.{request.param}"
    if request.param == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        file.write_text(
            '﻿id,image,description,crown,tail\na,,grey,grey,\n,x/b.jpg,,red,\n,x/gone.jpg,"nobody",,\n',
            encoding="utf-8",
        )
    return file


def test_a_file_describes_by_sample_or_source(notes: Path) -> None:
    describer = DESCRIBERS["file"](Given(str(notes)))
    assert isinstance(describer, FileDescriber)
    found = describer([Subject("a", source="x/a.jpg"), Subject("b", source="x/b.jpg"), Subject("c")])
    assert found == [Description("grey", {"crown": "grey"}), Description("", {"crown": "red"}), None]
    assert describer.matches(["a", "b"], ["", "x/b.jpg"]) == [0, 1]
    assert (describer.rows, describer.key(2)) == (3, "x/gone.jpg")


def test_a_csv_may_hold_attributes_as_json_and_lines_in_its_texts(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text('sample_id,description,attributes\na,"two\nlines","{""crown"": ""red""}"\n')
    describer = DESCRIBERS["file"](Given(str(file)))
    assert describer([Subject("a")]) == [Description("two\nlines", {"crown": "red"})]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"line 1: not a JSON object"),
        ('{"sample_id": "a"}\n[1]', r"line 2: not a JSON object"),
        ('{"description": "x"}', r"line 1: this row names no picture"),
        ('{"sample_id": "a", "attributes": "red"}', r"line 1: its attributes are no JSON object"),
        ('{"sample_id": "a"}\n{"sample_id": "a"}', r"1 pictures are described twice, a first"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "notes.jsonl").write_text(content)
    with pytest.raises(FinedeficsError, match=says):
        DESCRIBERS["file"](Given(str(tmp_path / "notes.jsonl")))


@pytest.mark.parametrize("argument", [None, "nowhere.jsonl"])
def test_a_file_that_is_not_there(argument: str | None) -> None:
    with pytest.raises(FinedeficsError) as caught:
        DESCRIBERS["file"](Given(argument))
    assert caught.value.exit_code == 2


def test_describers_are_found_by_name() -> None:
    assert list(DESCRIBERS) == ["annotations", "categories", "file", "names", "openai", "transformers"]
    for name in ("openai", "transformers", "names"):
        with pytest.raises(FinedeficsError, match="no model is named"):
            DESCRIBERS[name](Given())
