"""What a batch and an objective refuse, by name: never a silent zero, never a wrong negative."""

from typing import Any

import numpy as np
import pytest
import torch

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.contrast import Rows
from finedefics.data.generated import make_world, picture
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.terms import ObjectiveSettings, TermSettings

SPECIES = make_world(0).species[:4]
CATEGORIES = [Category(s.name, s.name, s.family, s.description, s.attributes) for s in SPECIES]
IMAGE = picture(SPECIES[0].attributes, np.random.default_rng(0))[0]
OWN, OTHER = CATEGORIES[0].category_id, CATEGORIES[1].category_id


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return untrained_backbone()


def objective_of(**feeds: tuple[str, ...]) -> ObjectiveSettings:
    return ObjectiveSettings({term: TermSettings(1.0, of) for term, of in feeds.items()})


ANSWER = objective_of(answer=("labelled",))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"labeled": []}, "rows: unknown feed 'labeled'; use labelled, captioned, text, inferred"),
        ({"labelled": []}, "step 3: no feed has a row"),
        ({"labelled": [Sample("a", IMAGE)]}, "sample a: a row of the feed `labelled` has no category"),
        ({"labelled": [Sample("a", IMAGE, "")]}, "sample a: a row of the feed `labelled` has no category"),
        ({"inferred": [Sample("a", IMAGE)]}, "sample a: a row of the feed `inferred` has no category; infer"),
        ({"labelled": [Sample("a", IMAGE, "auk")]}, "sample a: category 'auk' is not in the category table"),
        (
            {"labelled": [Sample("a", IMAGE, OWN, negatives=(OTHER, OWN))]},
            f"sample a: its own category '{OWN}' is among its hard negatives",
        ),
        (
            {"labelled": [Sample("a", IMAGE, OWN, negatives=("auk",))]},
            "hard negatives of sample a: category 'auk' is not in the category table",
        ),
        ({"text": [Category("auk", "auk", None, "x")]}, "feed text: category 'auk' is not in the category"),
        ({"text": [Category(OWN, OWN)]}, f"{OWN}: the category has no description"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(backbone: Backbone, rows: dict[str, Any], said: str) -> None:
    collate = Collator(backbone.processor, CATEGORIES, ANSWER, negatives=2)
    with pytest.raises(FinedeficsError) as caught:
        collate(rows, step=2)
    assert str(caught.value).startswith(said)


def test_a_hard_negative_named_twice_is_one_key(backbone: Backbone) -> None:
    settings = objective_of(category_category=("labelled",))
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=3)
    batch = collate({"labelled": [Sample("a", IMAGE, OWN, negatives=(OTHER, OTHER))]}, step=0)
    assert int((batch.negative_categories >= 0).sum()) == 1


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        (objective_of(caption=("labelled",)), {"labelled": [Sample("a", IMAGE, OWN)]}),
        (ANSWER, {"text": [CATEGORIES[0]]}),
    ],
)
def test_a_step_without_anything_to_learn_is_no_silent_zero(
    backbone: Backbone, settings: ObjectiveSettings, rows: dict[str, Any]
) -> None:
    batch = Collator(backbone.processor, CATEGORIES, settings, negatives=0)(rows, step=4)
    with pytest.raises(FinedeficsError, match=r"step 5: no row has anything that a term of the stage learns"):
        Objective(backbone, settings)(batch)


def test_a_term_that_a_step_has_no_text_for_is_absent_and_not_zero(backbone: Backbone) -> None:
    settings = objective_of(answer=("labelled",), caption=("labelled",))
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=0)
    rows = {"labelled": [Sample("a", IMAGE, OWN), Sample("b", IMAGE, OTHER, "red crown")]}
    both = Objective(backbone, settings)(collate(rows, step=0))
    one = Objective(backbone, settings)(collate({"labelled": rows["labelled"][:1]}, step=0))
    assert set(both.terms) == {"answer", "caption"}
    assert set(one.terms) == {"answer"}
    assert float(one.loss.detach()) == pytest.approx(float(one.terms["answer"]))


def test_captions_that_agree_in_what_no_category_is_known_by_do_not_repel(backbone: Backbone) -> None:
    settings = objective_of(object_attribute=("captioned",))
    table = [Category("a", "a"), Category("b", "b")]
    captions = [("red crown", "red"), ("crown of red", "red"), ("white crown", "white")]
    rows = [Sample(str(i), IMAGE, None, text, {"crown": colour}) for i, (text, colour) in enumerate(captions)]
    for announced in ((), ("crown",)):
        collate = Collator(backbone.processor, table, settings, negatives=0, attributes=announced)
        batch = collate({"captioned": rows}, step=0)
        repels = Rows.gathered(batch, torch.randn(6, 4)).repels()
        assert repels.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"terms": {"object_atribute": TermSettings(1, ("labelled",))}}, "terms: unknown term"),
        ({"terms": {"answer": TermSettings(1, ("labeled",))}}, "term answer: not defined on feed 'labeled'"),
        ({"terms": {"answer": TermSettings(-1, ("labelled",))}}, "term answer: weight -1"),
        ({"terms": {"answer": TermSettings(float("nan"), ("labelled",))}}, "term answer: weight nan"),
        ({"terms": {"answer": TermSettings(0, ("labelled",))}}, "terms: no term has a weight above 0"),
        ({"terms": {}}, "terms: no term has a weight above 0"),
        ({"object_attribute_temperature": -0.07}, "object_attribute_temperature: temperature -0.07"),
        ({"attribute_category_temperature": float("nan")}, "attribute_category_temperature: temperature"),
    ],
)
def test_settings_that_mean_nothing_are_wrong_use(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FinedeficsError) as caught:
        ObjectiveSettings(**{"terms": ANSWER.terms} | settings)
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == 2


def test_a_text_that_outgrows_the_context_is_named(backbone: Backbone) -> None:
    context = backbone.model.config.text_config.max_position_embeddings
    long = " ".join(["crown"] * (context + 1))
    table = [Category("a", "a", None, "red " + long), Category("b", "b", None, "red wing")]
    settings = objective_of(attribute_category=("text",))
    batch = Collator(backbone.processor, table, settings, negatives=0)({"text": table}, step=0)
    with pytest.raises(FinedeficsError, match=rf"does not fit the model's context of {context}") as caught:
        Objective(backbone, settings)(batch)
    assert "'red crown crown" in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([Category("a", "tern"), Category("b", "Tern")], "two categories have the name 'Tern'"),
        ([Category("a", "tern"), Category("a", "auk")], "two categories have the id 'a'"),
        ([Category("a", " ")], "the name is empty"),
    ],
)
def test_a_table_in_which_categories_cannot_be_told_apart_is_refused(
    backbone: Backbone, table: list[Category], said: str
) -> None:
    with pytest.raises(FinedeficsError, match=said):
        Collator(backbone.processor, table, ANSWER, negatives=0)
