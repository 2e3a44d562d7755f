"""The options of a multiple choice: the most similar first, random ones where too few are mined."""

from collections import Counter

import pytest

from finedefics.errors import FinedeficsError
from finedefics.evaluation.choices import choose_options
from finedefics.records import Sample

NAMES = [f"c{number:02}" for number in range(40)]


def sample(name: str, truth: str | None = "c00", negatives: tuple[str, ...] = ()) -> Sample:
    return Sample(name, b"", truth, negatives=negatives)


def test_mined_ones_are_taken_in_their_order() -> None:
    mined = sample("a", negatives=("c07", "c03", "c09", "c01"))
    (choice,) = choose_options([mined], NAMES, 4)
    assert (choice.options, choice.drawn) == (("c00", "c07", "c03", "c09"), 0)


def test_what_is_no_wrong_category_is_left_out() -> None:
    mined = sample("a", negatives=("c00", "gone", "c07", "c07"))
    (choice,) = choose_options([mined], NAMES, 4)
    assert choice.options[:2] == ("c00", "c07")
    assert (len(set(choice.options)), choice.drawn) == (4, 2)


def test_random_ones_are_of_the_seed_and_the_picture_alone() -> None:
    pictures = [sample(f"p{number}") for number in range(300)]
    choices = choose_options(pictures, NAMES, 4, seed=1)
    assert choose_options(pictures[7:9], NAMES[::-1], 4, seed=1) == choices[7:9]
    assert choose_options(pictures, NAMES, 4, seed=2) != choices
    assert all(one.drawn == 3 and len(set(one.options)) == 4 for one in choices)
    drawn = Counter(option for one in choices for option in one.options[1:])
    assert set(drawn) == set(NAMES[1:]), "every wrong category is drawn"
    assert max(drawn.values()) < 3 * min(drawn.values())


def test_with_fewer_categories_than_options_all_of_them_are_asked() -> None:
    choices = choose_options([sample("a", "c01", ("c02",)), sample("b", "c00")], NAMES[:3], 4)
    assert [one.options for one in choices] == [("c01", "c02", "c00"), ("c00", "c01", "c02")]
    assert [one.drawn for one in choices] == [1, 2]


def test_a_picture_without_a_label_has_no_options() -> None:
    with pytest.raises(FinedeficsError, match="sample a: the picture has no label"):
        choose_options([sample("a", None)], NAMES, 4)
