"""The attribute miner against a plain reading of its definition, and its rules for labels and captions."""

import random

import pytest

import finedefics.mining.attributes
from finedefics.errors import FinedeficsError
from finedefics.mining import MINERS, Confusable, nearest_categories
from finedefics.records import Category


def conflicting(left: dict[str, str], right: dict[str, str]) -> bool:
    """The definition: an attribute visible in both differs."""
    return any(name in right and right[name] != value for name, value in left.items())


CATEGORIES = [
    Category("wren", "wren", attributes={"crown": "brown", "tail": "short", "beak": "thin"}),
    Category("lark", "lark", attributes={"crown": "brown", "tail": "short", "beak": "thick"}),
    Category("crow", "crow", attributes={"crown": "black", "tail": "long", "beak": "thick"}),
    Category("dodo", "dodo", description="known from a text only"),
]


def ids(ranking: list[tuple[str, float]]) -> list[str]:
    return [category for category, _ in ranking]


def test_the_own_category_is_no_candidate_and_the_nearest_stands_first() -> None:
    (ranking,) = MINERS["attributes"](CATEGORIES)([Confusable("x", "wren")])
    assert ranking == [("lark", pytest.approx(2 / 3)), ("crow", 0.0), ("dodo", 0.0)]


def test_the_pictures_own_attributes_go_before_its_categorys() -> None:
    (ranking,) = MINERS["attributes"](CATEGORIES)([Confusable("x", "wren", {"beak": "thick"})])
    assert ranking == [("crow", 1.0), ("lark", 1.0), ("dodo", 0.0)]


def test_a_caption_has_only_conflicting_candidates() -> None:
    (ranking,) = MINERS["attributes"](CATEGORIES)(
        [Confusable("x", None, {"crown": "brown", "tail": "short"})]
    )
    assert ids(ranking) == ["crow"]


def test_nothing_known_means_no_candidates() -> None:
    unlabelled, textual = MINERS["attributes"](CATEGORIES)([Confusable("x", None), Confusable("y", "dodo")])
    assert (unlabelled, textual) == ([], [])


def test_keep_takes_a_prefix_of_the_same_ranking() -> None:
    miner = MINERS["attributes"](CATEGORIES)
    (whole,), (two,) = miner([Confusable("x", "lark")]), miner([Confusable("x", "lark")], keep=2)
    assert two == whole[:2]


def test_categories_without_attributes_are_refused_with_a_cure() -> None:
    with pytest.raises(FinedeficsError, match="another miner"):
        MINERS["attributes"]([Category("a", "a", description="text"), Category("b", "b")])


@pytest.mark.parametrize("pairs_at_once", [1, 50, 10**6])
def test_ranking_equals_the_definition_however_it_is_chunked(
    pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finedefics.mining.attributes, "_PAIRS_AT_ONCE", pairs_at_once)
    rng = random.Random(5)
    categories = [Category(f"c{i:02}", f"c{i}", attributes=drawn(rng, 0.8)) for i in range(23)]
    pictures = [
        Confusable(str(i), rng.choice([None, f"c{rng.randrange(23):02}"]), drawn(rng, 0.6)) for i in range(40)
    ]
    rng.shuffle(categories)
    for picture, ranking in zip(pictures, MINERS["attributes"](categories)(pictures, 9), strict=True):
        expected = by_definition(picture, categories)[:9]
        assert ids(ranking) == ids(expected)
        assert [s for _, s in ranking] == pytest.approx([s for _, s in expected])


def drawn(rng: random.Random, visible: float) -> dict[str, str]:
    return {f"part {n}": rng.choice("abc") for n in range(6) if rng.random() < visible}


def by_definition(picture: Confusable, categories: list[Category]) -> list[tuple[str, float]]:
    own = {c.category_id: c.attributes for c in categories}.get(picture.category_id or "", {})
    attributes = picture.attributes or own
    candidates = []
    for category in categories:
        shared = [name for name in attributes if name in category.attributes]
        equal = [name for name in shared if attributes[name] == category.attributes[name]]
        right = category.category_id == picture.category_id
        if picture.category_id is None:
            right = not conflicting(attributes, category.attributes)
        if attributes and not right:
            candidates.append((category.category_id, len(equal) / max(1, len(shared))))
    return sorted(candidates, key=lambda pair: (-pair[1], pair[0]))


def test_nearest_categories_are_those_that_conflict_and_share_most() -> None:
    looks = {
        "a": {"crown": "red", "belly": "white", "wing": "blue"},
        "b": {"crown": "red", "belly": "white", "wing": "green"},
        "c": {"crown": "red", "belly": "black", "wing": "green"},
        "same as a": {"crown": "red", "belly": "white", "wing": "blue"},
    }
    table = [Category(name, name, attributes=values) for name, values in looks.items()]
    assert nearest_categories(table)["a"] == ["b", "c"]
    assert nearest_categories(table, keep=1)["c"] == ["b"]
    assert nearest_categories(table, keep=0) == {name: [] for name in looks}
    assert nearest_categories([Category("x", "x"), Category("y", "y")]) == {"x": [], "y": []}
