"""A closed vocabulary: which wordings are one value, which are not, and what is rare."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finedefics.describers.normal_form import is_unseen, normal_form
from finedefics.describers.vocabulary import (
    ANNOTATED,
    ASKED,
    Closing,
    Vocabulary,
    count_values,
    merge_counts,
)

ONE = [
    "grey Greyish gray GREY grey. mostly-grey",
    "red reddish",
    "white whitish",
    "blue bluish",
    "spots spotted spotty spot",
    "striped stripes stripy striping",
    "2 two",
    "none no zero 0",
    "café cafe",
    "yellow-brown brown,yellow yellowish-brown brownish/yellow",
]
OTHERS = [
    "red green",
    "grey green",
    "black blue",
    "spotted unspotted",
    "one two",
    "plain striped",
    "747-300 747-400",
    "pink pine",
]


@pytest.mark.parametrize("wordings", ONE)
def test_wordings_of_one_form(wordings: str) -> None:
    assert len({normal_form(word) for word in wordings.split()}) == 1


def test_what_says_nothing_new_is_left_out() -> None:
    assert normal_form("a grey crown", "crown") == normal_form("grey")
    assert normal_form("it has no wing bars", "wing bars") == normal_form("none")
    assert normal_form("crest", "crest") == normal_form("crest"), "unless it is all that was said"


@pytest.mark.parametrize("pair", OTHERS)
def test_values_that_stay_apart(pair: str) -> None:
    left, right = pair.split()
    made = Vocabulary.of({"part": {left: 30, right: 30}})
    assert made.value("part", left) != made.value("part", right)
    rare = Vocabulary.of({"part": {left: 300, right: 1}})
    assert rare.value("part", right) is None, "and a rare one is not taken for the other"


@pytest.mark.parametrize(
    "text",
    [
        "not visible",
        "N/A",
        "unknown",
        "cannot be determined",
        "",
        "hidden by a leaf",
        "Not clearly visible",
        "can't be seen",
        "unclear",
    ],
)
def test_what_is_not_seen(text: str) -> None:
    assert is_unseen(text)
    assert normal_form(text) == ()


@pytest.mark.parametrize("text", ["none", "no", "clear", "plain", "sunken", "known"])
def test_what_only_sounds_like_it(text: str) -> None:
    assert not is_unseen(text)


def test_a_vocabulary_of_what_a_model_said() -> None:
    said = {
        "grey": 40,
        "greyish": 10,
        "a gray crown": 5,
        "red": 50,
        "bright red": 1,
        "bloody": 1,
        "yelow": 1,
    }
    made = Vocabulary.of({"crown": {**said, "yellow": 30}})
    assert made.counts["crown"] == {"grey": 55, "red": 51, "yellow": 31}
    assert made.said["crown"]["grey"] == ["grey", "greyish", "a gray crown"]
    assert made.dropped == {"crown": 1}
    told = {"crown": "Greyish", "tail": "long"}
    assert made.attributes(told) == {"crown": "grey"}, "an attribute that was never counted says nothing"
    assert made.value("crown", "bloody") is None
    assert made.value("crown", "lilac") is None
    assert made.attributes(made.attributes({"crown": "a gray crown"})) == {"crown": "grey"}
    assert {row["value"]: row["pictures"] for row in made.rows()} == made.counts["crown"]


def test_a_shade_is_a_value_where_it_is_no_exception() -> None:
    said = {
        "blue": 100,
        "dark blue": 60,
        "red": 100,
        "dark red": 10,
        "dark": 30,
        "pale green": 30,
        "navy": 24,
    }
    made = Vocabulary.of({"back": said})
    assert made.counts["back"] == {"blue": 124, "red": 110, "dark blue": 60, "dark": 30, "pale green": 30}
    assert made.value("back", "crimson") is None, "what nobody said means nothing"


def test_an_error_is_a_value_where_it_is_no_exception() -> None:
    said = {"green": 100, "gren": 10, "black": 100, "blak": 60}
    made = Vocabulary.of({"back": said})
    assert made.counts["back"] == {"green": 110, "black": 100, "blak": 60}


def test_an_embedder_finds_values_of_like_meaning() -> None:
    places = {"red": [1, 0], "bloody": [0.9, 0.4359], "yellow": [0, 1], "lilac": [-0.7071, -0.7071]}

    def embed(texts: object) -> np.ndarray:
        return np.array([places[text] for text in texts], dtype=np.float32)  # type: ignore[attr-defined]

    counts = {"crown": {"red": 50, "yellow": 30, "bloody": 1, "lilac": 1}}
    made = Vocabulary.of(counts, embed=embed)
    assert made.counts["crown"] == {"red": 51, "yellow": 30}
    assert made.value("crown", "bloody") == "red"


def test_values_of_categories_stand_and_pictures_join_them() -> None:
    said = {"crown": {"Buffy": 60, "red": 60}}
    made = Vocabulary.of(said, known={"crown": ["buff", "rufous"], "bill": ["hooked"]})
    assert made.value("crown", "buffy") == "buff"
    assert made.value("crown", "rufous") == "rufous", "however rare"
    assert made.value("bill", "hooked") == "hooked"
    assert made.counts["crown"] == {"red": 60, "buff": 60, "rufous": 0}


def test_what_people_annotated_is_meant_as_it_stands() -> None:
    counts = {"size": {"small": 50, "very small": 1, "Small": 2, "smal": 1, "unknown": 3}}
    made = Vocabulary.of(counts, ANNOTATED)
    assert made.counts["size"] == {"small": 52, "smal": 1, "very small": 1}
    assert made.dropped == {}


@pytest.mark.parametrize(("seen", "rare"), [(5, 1), (19, 1), (20, 2), (1000, 5), (100_000, 20)])
def test_how_few_pictures_are_few(seen: int, rare: int) -> None:
    assert Closing().rare_below(seen) == rare


SAMPLE = "red reddish grey greyish spotted spots un-spotted not visible bright dark 1 2 plain"
WORDS = st.sampled_from(SAMPLE.split())
VALUES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@given(st.dictionaries(VALUES, st.integers(1, 60), max_size=12), st.permutations(range(12)))
def test_one_vocabulary_whatever_the_order_and_the_tasks(said: dict[str, int], order: list[int]) -> None:
    items = list(said.items())
    shuffled = dict(items[i] for i in order if i < len(items))
    for closing in (ASKED, ANNOTATED):
        made = Vocabulary.of({"part": said}, closing)
        assert made == Vocabulary.of({"part": shuffled}, closing)
        for value in said:
            meant = made.value("part", value)
            assert meant is None or made.value("part", meant) == meant, "closing again changes nothing"


def test_counts_of_parts_are_the_counts_of_all() -> None:
    rows = [{"crown": "red"}, {"crown": "red", "tail": "long"}, {}, {"tail": "short"}]
    parts = merge_counts([count_values(rows[:2]), count_values(rows[2:])])
    assert parts == count_values(rows) == {"crown": {"red": 2}, "tail": {"long": 1, "short": 1}}
