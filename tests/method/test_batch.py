"""What a collator is given beside its rows."""

import pytest
import torch

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.batch import ABSENT, Collator
from finedefics.data.generated import make_world
from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics.terms import ObjectiveSettings, TermSettings

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
