"""What a collator is given beside its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.batch import ABSENT
from finedefics.collation import Collator
from finedefics.data.generated import make_world, picture
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective, ObjectiveOutput
from finedefics.records import Category, Sample
from finedefics.terms import TERM_FEEDS, ObjectiveSettings, TermSettings

CATEGORIES = [
    Category(s.name, s.name, s.family, s.description, s.attributes) for s in make_world(0).species[:4]
]
SETTINGS = ObjectiveSettings({"attribute_category": TermSettings(1.0, ("text",))})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return untrained_backbone()


def test_texts_contrast_with_the_similar_categories_that_are_given(backbone: Backbone) -> None:
    a, b, c, d = (category.category_id for category in CATEGORIES)
    similar = {a: [d, c, b], b: [a], c: []}
    collate = Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=2, similar=similar)
    found = collate({"text": CATEGORIES}, step=0).negative_category_ids
    assert found.tolist() == [[3, 2], [0, ABSENT], [ABSENT, ABSENT], [ABSENT, ABSENT]]
    usual = Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=2, similar={})
    assert (usual({"text": CATEGORIES}, step=0).negative_category_ids != ABSENT).all()


def test_a_similar_category_that_is_missing_is_named(backbone: Backbone) -> None:
    similar = {CATEGORIES[0].category_id: ["auk"]}
    collate = Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=2, similar=similar)
    with pytest.raises(FinedeficsError, match=r"similar categories of .*: category 'auk' is not in the"):
        collate({"text": CATEGORIES[:1]}, step=0)


EVERY_TERM = ObjectiveSettings({name: TermSettings(1.0, feeds) for name, feeds in TERM_FEEDS.items()})


def sample_of(number: int, category: Category) -> Sample:
    """With all that a row of a contrast has, its own category among its negatives as a miner may name it."""
    image, _ = picture(category.attributes, np.random.default_rng(number))
    wrong = (CATEGORIES[0].category_id, CATEGORIES[1].category_id)
    attributes = {"seen by nobody else": "x", **category.attributes}
    return Sample(f"s{number}", image, category.category_id, category.description, attributes, wrong)


def computed(
    backbone: Backbone, settings: ObjectiveSettings, rows: Mapping[str, Sequence[Sample] | Sequence[Category]]
) -> ObjectiveOutput:
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=2)
    with torch.no_grad():
        return Objective(backbone, settings)(collate(rows, step=0))


def test_a_row_of_an_inferred_label_answers_and_is_no_row_of_a_contrast(backbone: Backbone) -> None:
    inferred = [sample_of(number, category) for number, category in enumerate(CATEGORIES)]
    labelled = [sample_of(number, CATEGORIES[number]) for number in (2, 3)]
    fed: dict[str, Sequence[Sample] | Sequence[Category]] = {"labelled": labelled, "text": CATEGORIES}
    collate = Collator(backbone.processor, CATEGORIES, EVERY_TERM, negatives=2)
    without, with_them = collate(fed, step=0), collate({**fed, "inferred": inferred}, step=0)
    assert len(with_them.images["pixel_values"]) == 6
    assert with_them.size == without.size + 4
    for name in ("objects", "attributes", "categories", "negative_categories", "looks", "feeds"):
        assert torch.equal(getattr(with_them, name), getattr(without, name)), name
    assert torch.equal(with_them.embedded.ids, without.embedded.ids)
    alone = computed(backbone, EVERY_TERM, fed).terms
    both = computed(backbone, EVERY_TERM, {**fed, "inferred": inferred}).terms
    assert float(both["answer"]) != pytest.approx(float(alone["answer"]), rel=1e-5)
    for name in TERM_FEEDS.keys() - {"answer"}:
        assert float(both[name]) == pytest.approx(float(alone[name]), rel=1e-5), name


def test_inferred_labels_are_learned_as_labels_are_in_one_mean(backbone: Backbone) -> None:
    settings = ObjectiveSettings({"answer": TermSettings(1.0, ("labelled", "inferred"))})
    rows = [replace(sample_of(n, category), negatives=()) for n, category in enumerate(CATEGORIES)]
    labelled, mixed, inferred = (
        float(computed(backbone, settings, {"labelled": rows[:cut], "inferred": rows[cut:]}).loss)
        for cut in (4, 1, 0)
    )
    assert mixed == pytest.approx(labelled, rel=1e-5)
    assert inferred == pytest.approx(labelled, rel=1e-5)
    only = ObjectiveSettings({"answer": TermSettings(1.0, ("labelled",))})
    first = float(computed(backbone, only, {"labelled": rows[:1], "inferred": rows[1:]}).loss)
    assert first == pytest.approx(float(computed(backbone, only, {"labelled": rows[:1]}).loss), rel=1e-5)
