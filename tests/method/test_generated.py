"""Drawn worlds: their names and distances at every size, and what their settings change and leave alone."""

import itertools
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finedefics.base_model import untrained_backbone
from finedefics.data.birds import ATTRIBUTE_VALUES
from finedefics.data.captions import Captions, some
from finedefics.data.generated import (
    FAMILY_DISTANCE,
    WorldPlan,
    distance,
    make_world,
    true_labels,
    write_world,
)
from finedefics.data.generated_names import MOST_SPECIES, names_of
from finedefics.errors import FinedeficsError

PLAN = WorldPlan(labelled=1, captioned=2, val=1, test=1)
BIRD = {name: values[0] for name, values in ATTRIBUTE_VALUES.items()}


def drawn(folder: Path, plan: WorldPlan, **shape: int) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The annotations and the pictures of a small world."""
    write_world(make_world(3, **{"families": 2, **shape}), folder, plan)
    rows = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]
    return rows, {row["image"]: (folder / row["image"]).read_bytes() for row in rows}


@given(st.integers(0, 2**32 - 1), st.integers(25, MOST_SPECIES))
@settings(deadline=None, max_examples=30)
def test_no_word_names_a_species_alone(seed: int, count: int) -> None:
    names = names_of(np.random.default_rng(seed), count)
    assert len(set(names)) == count
    for words in zip(*(name.split() for name in names), strict=True):
        assert min(Counter(words).values()) >= 2


@pytest.mark.parametrize("families", [24, 50])
def test_large_worlds_keep_the_distances(families: int) -> None:
    species = make_world(0, families=families).species
    assert len({each.name for each in species}) == 4 * families
    assert len({tuple(each.attributes.values()) for each in species}) == 4 * families
    kin = [species[i : i + 4] for i in range(0, len(species), 4)]
    for family in kin:
        apart = [distance(a.attributes, b.attributes) for a in family for b in family if a != b]
        assert min(apart) >= 1
        assert max(apart) <= 3
    heads = [family[0].attributes for family in kin]
    assert min(distance(a, b) for a in heads for b in heads if a is not b) >= FAMILY_DISTANCE


def test_words_of_a_larger_world_are_words_of_its_base() -> None:
    species = make_world(0, families=24).species
    tokenizer = untrained_backbone(species=len(species)).processor.tokenizer
    assert {len(tokenizer.tokenize(each.name)) for each in species} == {2}


def test_species_are_the_same_whatever_number_is_new() -> None:
    worlds = [make_world(4, new_per_family=count) for count in range(5)]
    assert len({world.species for world in map(_hashable, worlds)}) == 1
    assert [len(world.new) for world in worlds] == [0, 6, 12, 18, 24]
    assert all(fewer.new < more.new for fewer, more in itertools.pairwise(worlds))


class _hashable:
    def __init__(self, world: Any) -> None:
        self.species = json.dumps([asdict(each) for each in world.species])


@pytest.mark.parametrize(
    "setting",
    [{"caption_attributes": 3}, {"wrong_captions": 0.5}, {"paraphrased": True}],
    ids=lambda setting: next(iter(setting)),
)
def test_captions_change_and_pictures_do_not(tmp_path: Path, setting: dict[str, Any]) -> None:
    rows, pictures = drawn(tmp_path / "plain", PLAN)
    others, other_pictures = drawn(tmp_path / "other", replace(PLAN, **setting))
    assert other_pictures == pictures
    assert [row["category"] for row in others] == [row["category"] for row in rows]
    assert [row["description"] for row in others] != [row["description"] for row in rows]


def test_more_pictures_leave_the_others_as_they_are(tmp_path: Path) -> None:
    _, few = drawn(tmp_path / "few", PLAN)
    plan = replace(PLAN, labelled=3, captioned_known=2, generic_captioned=5)
    rows, many = drawn(tmp_path / "many", plan)
    assert few.items() < many.items()
    assert len(many) == len(few) + 6 * 2 + 6 * 2 + 5
    truth = true_labels(make_world(3, families=2), plan)
    unlabelled = {row["image"] for row in rows if row["category"] is None}
    assert truth.keys() < unlabelled
    assert len(unlabelled - truth.keys()) == 5
    assert all(row["split"] == "train" for row in rows if row["category"] is None)
    named = Counter(truth.values())
    assert set(named.values()) == {2}
    assert len(named) == 8


def test_generic_birds_are_of_no_species(tmp_path: Path) -> None:
    plan = WorldPlan(labelled=0, captioned=0, val=0, test=0, generic_captioned=30)
    rows, _ = drawn(tmp_path, plan)
    looks = [species.attributes for species in make_world(3, families=2).species]
    whole = [row["attributes"] for row in rows if len(row["attributes"]) == len(ATTRIBUTE_VALUES)]
    assert len(rows) == 30
    assert whole
    assert not any(seen in looks for seen in whole)


def test_a_long_tail_falls_off_by_rank(tmp_path: Path) -> None:
    rows, _ = drawn(tmp_path, WorldPlan(labelled=12, captioned=0, val=0, test=0, long_tail=1.0))
    counts = Counter(row["category"] for row in rows)
    assert sorted(counts.values(), reverse=True) == [12, 6, 4, 3, 2, 2]


@given(
    st.sets(st.sampled_from(sorted(BIRD)), min_size=1),
    st.integers(1, 7),
    st.lists(st.integers(0, 99), min_size=1, max_size=3),
)
def test_a_caption_tells_so_many_of_the_visible(names: set[str], count: int, seed: list[int]) -> None:
    seen = {name: value for name, value in BIRD.items() if name in names}
    told = some(seen, count, seed)
    assert len(told) == min(count, len(seen))
    assert told.items() <= seen.items()
    assert told.items() <= some(seen, count + 1, seed).items()
    assert list(told) == [name for name in BIRD if name in told]


def test_wrong_captions_tell_of_a_sibling_in_the_wanted_share() -> None:
    kin = [{**BIRD, "crown": "blue"}, {**BIRD, "tail": "green"}]
    wrong = {
        share: {i for i in range(500) if Captions(wrong=share).of(BIRD, kin, [i])[1] != BIRD}
        for share in (0.0, 0.1, 0.3, 1.0)
    }
    assert len(wrong[0.0]) == 0
    assert len(wrong[1.0]) == 500
    assert 30 < len(wrong[0.1]) < 75
    assert 120 < len(wrong[0.3]) < 180
    assert wrong[0.1] < wrong[0.3]
    assert all(Captions(wrong=1).of(BIRD, kin, [i])[1] in kin for i in range(50))
    assert Captions(wrong=1).of({"crown": "red"}, kin[:1], [0]) == ("blue crown", {"crown": "blue"})
    assert Captions(wrong=1).of(BIRD, [], [0])[1] == BIRD


def test_paraphrases_name_their_attribute_once() -> None:
    texts = [Captions(paraphrased=True).of({"crown": "red"}, [], [i])[0] for i in range(200)]
    assert {"red crown", "a red crown", "crown: red", "crimson crown", "mostly red crown"} <= set(texts)
    assert all(text.count("crown") == 1 for text in texts)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"families": 600}, "names for"),
        ({"families": 0}, "at least one"),
        ({"new_per_family": 5}, "new_per_family is 5"),
        ({"new_per_family": -1}, "new_per_family is -1"),
        ({"families": 1, "species_per_family": 2000}, "no room for 2000"),
        ({"families": 500}, "no family after"),
    ],
)
def test_impossible_worlds_are_refused(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, int], says: str
) -> None:
    monkeypatch.setattr("finedefics.data.generated.TRIES", 300)
    with pytest.raises(FinedeficsError, match=says) as refused:
        make_world(0, **shape)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "plan",
    [
        {"labelled": -1},
        {"caption_attributes": 8},
        {"caption_attributes": 0},
        {"wrong_captions": 1.5},
        {"long_tail": -1.0},
        {"generic_captioned": -2},
    ],
)
def test_impossible_plans_are_refused(plan: dict[str, Any]) -> None:
    with pytest.raises(FinedeficsError, match=next(iter(plan))):
        WorldPlan(**plan)
