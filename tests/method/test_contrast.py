"""Who may repel whom in the contrastive batch, and what happens to a row that meets no one."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finedefics.base_model import untrained_backbone
from finedefics.batch import ABSENT
from finedefics.collation import Collator
from finedefics.contrast import Rows, contrastive_terms, coverage
from finedefics.data.generated import make_world, picture
from finedefics.errors import FinedeficsError
from finedefics.losses import alignment_losses
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.terms import FEEDS, ObjectiveSettings, TermSettings

SPECIES = make_world(0).species[:4]
BIRD = SPECIES[0].attributes
CATEGORIES = [Category(s.name, s.name, s.family, s.description, s.attributes) for s in SPECIES]
LABELLED, CAPTIONED = FEEDS.index("labelled"), FEEDS.index("captioned")
TERMS = {
    "object_attribute": TermSettings(1.0, ("labelled", "captioned")),
    "attribute_category": TermSettings(1.0, ("labelled",)),
    "category_category": TermSettings(1.0, ("labelled",)),
}
OA, AC = torch.tensor(0.07), torch.tensor(0.2)


def rows_of(
    category_ids: list[int],
    *,
    looks: list[list[int]] | None = None,
    negative_ids: list[list[int]] | None = None,
    nearest_ids: list[int] | None = None,
) -> Rows:
    """Rows with random embeddings; category -1 is a captioned row, a hard negative -1 is absent.

    A category has one name and one description, so a hard negative has its category's; a row's own
    description is another.
    """
    generator = torch.Generator().manual_seed(0)
    count, extra = (
        len(category_ids),
        torch.tensor(negative_ids or [[] for _ in category_ids], dtype=torch.long),
    )

    def normal(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 6, generator=generator), dim=-1)

    names, descriptions = normal(9), normal(9)
    ids = torch.tensor(category_ids)
    labelled = ids != ABSENT
    present = (extra != ABSENT)[..., None].expand(-1, -1, 2)
    return Rows(
        objects=normal(count),
        attributes=normal(count),
        categories=names[ids],
        negative_attributes=descriptions[extra],
        negative_categories=names[extra],
        has=torch.stack([torch.ones(count, dtype=torch.bool)] * 2 + [labelled], 1),
        has_negatives=present & torch.stack([torch.ones_like(labelled), labelled], -1)[:, None],
        category_ids=ids,
        nearest_ids=torch.tensor(nearest_ids or [ABSENT] * count),
        negative_ids=extra,
        looks=torch.tensor(looks or [[0]] * count),
        text_ids=torch.arange(count),
        negative_text_ids=extra + 1000,
        feeds=torch.where(labelled, LABELLED, CAPTIONED),
    )


def terms_of(rows: Rows, *, unique_keys: bool = True, **terms: TermSettings) -> dict[str, Any]:
    settings = ObjectiveSettings(terms=terms or TERMS, unique_keys=unique_keys)
    return contrastive_terms(rows, settings, OA, AC, step=6)


def losses_of(rows: Rows, **options: bool) -> dict[str, float]:
    return {name: float(term.loss) for name, term in terms_of(rows, **options).items()}


def test_labelled_rows_give_the_alignment_losses() -> None:
    rows = rows_of([0, 1, 0, 2], negative_ids=[[1, 3], [2, 4], [1, 5], [0, 1]])
    expected = alignment_losses(
        rows.objects,
        rows.attributes,
        rows.categories,
        negative_attributes=rows.negative_attributes.flatten(0, 1),
        negative_categories=rows.negative_categories.flatten(0, 1),
        category_ids=rows.category_ids,
        negative_category_ids=rows.negative_ids,
        object_attribute_temperature=OA,
        attribute_category_temperature=AC,
    )
    for name, term in terms_of(rows, unique_keys=False).items():  # which are given every copy
        assert float(term.loss) == pytest.approx(float(getattr(expected, name)), rel=1e-6)
        assert int(term.left_out) == 0


def test_coverage_is_how_often_the_nearest_category_is_a_key() -> None:
    nearest = [1, 2, 0, 5, ABSENT]  # of 0, 1, 1, 3 and of a caption
    without = rows_of([0, 1, 1, 3, ABSENT], nearest_ids=nearest)
    settings = ObjectiveSettings(terms=TERMS)
    assert {name: float(v) for name, v in coverage(without, settings).items()} == dict.fromkeys(TERMS, 0.5)
    mined = rows_of([0, 1, 1, 3, ABSENT], nearest_ids=nearest, negative_ids=[[2], [ABSENT], [4], [6], [5]])
    found = {name: float(v) for name, v in coverage(mined, settings).items()}
    # the caption's hard negative has a description and no name, as it has no part in the terms of names
    assert found == {"object_attribute": 1.0, "attribute_category": 0.75, "category_category": 0.75}
    assert math.isnan(float(coverage(rows_of([ABSENT, ABSENT]), settings)["object_attribute"]))


def test_a_text_that_was_mined_often_weighs_as_one_that_was_mined_once() -> None:
    often = rows_of([0, 1, 2], negative_ids=[[3, 4], [3, ABSENT], [3, ABSENT]])
    once = rows_of([0, 1, 2], negative_ids=[[3, 4], [ABSENT, ABSENT], [ABSENT, ABSENT]])
    assert losses_of(often) == pytest.approx(losses_of(once), rel=1e-6)
    copies, single = losses_of(often, unique_keys=False), losses_of(once, unique_keys=False)
    assert all(copies[name] > 1.0001 * single[name] for name in single), (copies, single)


def test_a_text_that_rows_share_weighs_once_and_is_not_its_own_negative() -> None:
    rows = rows_of([0, 1, 1, 2], negative_ids=[[1], [0], [2], [0]])
    alone = rows_of([0, 1, 1, 2], negative_ids=[[ABSENT]] * 4)
    shared = category_terms(rows)
    assert shared == pytest.approx(category_terms(alone), rel=1e-6)  # every negative's name is a row's too
    # a caption that says what a hard negative's description says: the same text, whatever it was mined for
    said = replace(
        rows, text_ids=rows.negative_text_ids[0].expand(4), attributes=rows.negative_attributes[:1, 0]
    )
    _, allowed = replace(said, attributes=said.attributes.expand(4, -1)).keys(0)
    assert not allowed[:, :4].any()
    assert allowed.sum(1).tolist() == [1, 2, 2, 1]  # of categories 0 and 2, less their own


def category_terms(rows: Rows) -> float:
    return losses_of(rows)["category_category"]


def test_rows_without_a_label_repel_where_their_looks_conflict() -> None:
    rows = rows_of([ABSENT, ABSENT, ABSENT, 0], looks=[[1, 2], [1, 0], [3, 2], [1, 4]])
    assert rows.repels().tolist() == [
        [False, False, True, True],
        [False, False, True, False],  # what both show agrees; the rest is hidden
        [True, True, False, True],
        [True, False, True, False],
    ]


def test_a_row_without_a_label_meets_only_its_own_hard_negatives() -> None:
    rows = rows_of([ABSENT, 3], negative_ids=[[5, 3], [4, ABSENT]])
    _, meets, _ = rows.extras(0)
    assert meets.tolist() == [[True, True, False], [True, False, True]]


def test_a_caption_that_meets_no_one_is_left_out_and_counted() -> None:
    """Its looks agree with every row's: it is no negative, and its own zero loss does not dilute the mean."""
    rows = rows_of([0, 1, ABSENT], looks=[[1, 2], [1, 3], [1, 0]])
    term = terms_of(rows)["object_attribute"]
    assert int(term.left_out) == 2  # as an object and as a description
    others = rows.where(rows.category_ids != ABSENT)
    expected = terms_of(others)["object_attribute"]
    assert int(expected.left_out) == 0
    assert float(term.loss) == pytest.approx(float(expected.loss), rel=1e-6)


@pytest.mark.parametrize("name", ["object_attribute", "attribute_category", "category_category"])
def test_a_term_in_which_no_row_has_a_negative_is_an_error(name: str) -> None:
    rows = rows_of([0, 0])
    with pytest.raises(
        FinedeficsError, match=rf"^term {name}, step 7: no row of the feeds .*labelled"
    ) as caught:
        terms_of(rows, **{name: TERMS[name]})
    assert "more rows a step" in caught.value.cure


def test_a_term_without_any_row_is_an_error() -> None:
    settings = {"category_category": TERMS["category_category"]}
    with pytest.raises(FinedeficsError, match="no row of the feeds labelled has a negative"):
        terms_of(rows_of([ABSENT, ABSENT], looks=[[1], [2]]), **settings)


def test_a_rank_without_a_caption_still_makes_the_call_that_others_make() -> None:
    backbone = untrained_backbone()
    settings = ObjectiveSettings({"caption": TermSettings(1.0, ("labelled",))})
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=0)
    image = picture(BIRD, np.random.default_rng(0))[0]
    without = Sample("a", image, CATEGORIES[0].category_id)
    batch = collate({"labelled": [without]}, step=0)
    assert len(batch.sequences) == 1
    assert (batch.targets == -100).all()
    # where no other rank has a caption either, nothing would be learned: never a silent zero
    with pytest.raises(FinedeficsError, match="caption, step 1: no row has anything that a term"):
        Objective(backbone, settings)(batch)


def test_a_learned_temperature_finds_back_into_its_range() -> None:
    backbone = untrained_backbone()
    settings = ObjectiveSettings(
        {"category_category": TermSettings(1.0, ("text",))},
        object_attribute_temperature=0.9,
        learnable_temperatures=True,
    )
    objective = Objective(backbone, settings)
    batch = Collator(backbone.processor, CATEGORIES, settings, negatives=0)({"text": CATEGORIES}, step=0)
    objective(batch).loss.backward()
    assert objective.temperatures()["object_attribute_temperature"] == pytest.approx(0.5)
    gradient = objective.log_temperatures.grad
    assert gradient is not None
    assert gradient[0] != 0
