"""Which option a reply means: what both parses read, and where they differ."""

import json
import re
from pathlib import Path

import pytest

from finedefics.scoring import parse_letter, parse_letter_foci

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "foci" / "predictions-car-196.json"

UNDERSTOOD = [
    ("B", "B"),
    ("b", "B"),
    (" B\n", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("(B)", "B"),
    ("[b]", "B"),
    ("**B**", "B"),
    ('"B".', "B"),
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("Answer is (C).", "C"),
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("The correct answer is **D**, a gull.", "D"),
    ("The answer is B because of its crown", "B"),
    ("The answer is A.", "A"),
    ("Option C", "C"),
    ("My choice would be D!", "D"),
    ("B. House Finch", "B"),
    ("b) House Finch", "B"),
    ("(B) House Finch", "B"),
    ("B: Mercedes-Benz C-Class Sedan 2012", "B"),
    ("C. Washington D.C. gull", "C"),
    ("B. House Finch. The answer is B.", "B"),
    ("Answer: B\nThe crown is red.", "B"),
]
UNCLEAR = [
    "",
    "   ",
    ".",
    "Bird",
    "A bird",
    "a finch",
    "Audi A4",
    "House Finch",
    "I do not know",
    "E",
    "Answer: E",
    "Answer: a bird",
    "The answer is A bird",
    "A or B",
    "A. or B.",
    "Answer: A or B",
    "B. The answer is C.",
    "The answer is B. No, the answer is C.",
    "AB",
    "Better: none",
]


@pytest.mark.parametrize(("reply", "letter"), UNDERSTOOD)
def test_clear_replies_are_read(reply: str, letter: str) -> None:
    assert parse_letter(reply, "ABCD") == "ABCD".index(letter)


@pytest.mark.parametrize("reply", UNCLEAR)
def test_unclear_replies_are_no_answer(reply: str) -> None:
    assert parse_letter(reply, "ABCD") is None


def test_only_offered_letters_count() -> None:
    assert parse_letter("C", "AB") is None
    assert parse_letter("F", "ABCDEF") == 5


def test_the_foci_parse_reads_the_first_character() -> None:
    read = {reply: parse_letter_foci(reply, "ABCD") for reply in ("Answer: B", "b", "(B)", "Bird", "", "E")}
    assert read == {"Answer: B": 0, "b": 1, "(B)": None, "Bird": 1, "": None, "E": None}
    assert parse_letter("Answer: B", "ABCD") == 1


DOCUMENTED = re.compile(
    r"^\| `(?P<reply>[^`]*)`(?: \([^)]*\))? \| (?P<strict>[A-D–]) \| (?P<foci>[A-D–]) \|$"
)


def test_the_replies_of_the_documentation_are_read_as_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
    rows = [found for line in page.splitlines() if (found := DOCUMENTED.match(line))]
    assert {"Answer: B", "b)", "The answer is C", " ", "AB"} <= {row["reply"] for row in rows}
    for row in rows:
        for parse, column in ((parse_letter, "strict"), (parse_letter_foci, "foci")):
            expected = None if row[column] == "–" else "ABCD".index(row[column])
            assert parse(row["reply"], "ABCD") == expected, (row["reply"], column)
    assert parse_letter("", "ABCD") is parse_letter_foci("", "ABCD") is None


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published predictions are not here")
@pytest.mark.parametrize("parse", [parse_letter_foci, parse_letter])
def test_published_replies_give_the_published_accuracy(parse) -> None:  # type: ignore[no-untyped-def]
    stored = json.loads(PUBLISHED.read_text())
    read = [parse(item["predicted_raw"], "ABCD") for item in stored["predictions"]]
    right = [
        place is not None and item["options"][place] == item["correct"]
        for place, item in zip(read, stored["predictions"], strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(stored["metrics"]["accuracy"], abs=1e-12)
    assert stored["metrics"]["accuracy"] == pytest.approx(0.2387, abs=5e-5)
    assert sum(place is None for place in read) == 0
