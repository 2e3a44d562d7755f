"""What answering refuses: numbers that are none, texts beyond the context, categories that do not fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from finedefics.backbones import Backbone
from finedefics.errors import FinedeficsError
from finedefics.pictures import decode_image
from finedefics.records import Category
from finedefics.scoring import ANSWERS, Calibration, EnsembleWeight, Recogniser, best_category

CATEGORIES = [
    Category("red", "red wing", description="red wing and white belly"),
    Category("black", "black", description="black crown"),
    Category("white", "white tail wing", description="white tail"),
    Category("belly", "belly", description="black belly"),
]
WEIGHT = EnsembleWeight(0.3, "birds", "val", 10, 0.5)


@pytest.fixture(scope="module")
def model(lettered: Backbone) -> Recogniser:
    torch.set_num_threads(1)
    made = Recogniser(lettered, CATEGORIES, ensemble=WEIGHT)
    fitting = made.index.names.clone()
    calibration = Calibration(fitting, False, "a test", "birds", "train", len(fitting), 1)
    return Recogniser(lettered, CATEGORIES, index=made.index, calibration=calibration)


@pytest.fixture
def config(lettered: Backbone) -> Iterator[Any]:
    """The language model's configuration, its context restored afterwards."""
    text = lettered.model.config.get_text_config()
    before = text.max_position_embeddings
    yield text
    text.max_position_embeddings = before


def spoil(hidden: Tensor) -> Tensor:
    """The same with the last row turned to NaN."""
    spoilt = hidden.clone()
    spoilt[-1] = torch.nan
    return spoilt


@pytest.mark.parametrize("answer", [a for a in ANSWERS if not a.startswith("alignment")])
def test_logits_that_are_no_numbers_are_no_answer(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    own = model.backbone.logits
    assert model.name_priors.isfinite().all()
    monkeypatch.setattr(model.backbone, "logits", lambda hidden: spoil(own(hidden)))
    with pytest.raises(FinedeficsError, match=rf"picture 1: .*`{answer}`.*not numbers"):
        model.answer(birds[:2], answer)


def test_an_embedding_that_is_no_number_is_no_answer(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model.language.embed
    monkeypatch.setattr(model.language, "embed", lambda *inputs: spoil(own(*inputs)))
    with pytest.raises(FinedeficsError, match=r"picture 2: .*embedding of the picture is not finite"):
        model.recognise(birds[:3])
    with pytest.raises(AssertionError):
        best_category(torch.tensor([[0.0, torch.nan]]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_picture_tokens_that_are_not_finite_are_refused(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    own = model.encode

    def encode(pictures):  # type: ignore[no-untyped-def]
        found = own(pictures)
        found.tokens[1][0, 0] = value
        return found

    monkeypatch.setattr(model, "encode", encode)
    with torch.no_grad(), pytest.raises(FinedeficsError, match=r"picture 1: .*not finite.*`names_free`"):
        model.answer(birds[:2], "names_free")


def test_an_index_names_the_category_it_cannot_embed(
    lettered: Backbone, model: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = lettered.model.get_input_embeddings().weight
    belly = model.render.tokens("belly")[0]
    before = rows.data[belly].clone()
    rows.data[belly] = torch.nan
    try:
        with pytest.raises(FinedeficsError, match=r"category belly: .*'belly'.*not finite"):
            Recogniser(lettered, CATEGORIES)
        with pytest.raises(FinedeficsError, match=r"category x: .*description of 'crown'.*not finite"):
            model.add([Category("x", "crown", description="belly crown")])
    finally:
        rows.data[belly] = before


def prompts(model: Recogniser, birds: list[bytes]) -> list[tuple[int, ...]]:
    pictures = model.encode([decode_image(bird, "") for bird in birds])
    return model.prompted(pictures, model.render.templates.question)


@pytest.mark.parametrize("answer", ["names", "names_corrected", "describe"])
def test_a_name_beyond_the_context_is_named(
    model: Recogniser, birds: list[bytes], config: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(model.language, "write", lambda prompts, tokens, **_: (["red"], 1))
    assert model.name_priors.isfinite().all()
    before = len(prompts(model, birds[:1])[0])
    if answer == "describe":
        before = len(model.render.tokens(model.render.templates.naming_prefix("red")))
    config.max_position_embeddings = before + 4
    assert model.answer(birds[:1], answer).scores.isfinite().all()
    config.max_position_embeddings = before + 3
    with pytest.raises(
        FinedeficsError, match=rf"'white tail wing' has 4 tokens .* {before}, .* context of {before + 3};"
    ):
        model.answer(birds[:1], answer)


def test_writing_stops_at_the_context(model: Recogniser, birds: list[bytes], config: Any) -> None:
    asked = [model.render.tokens("red"), model.render.tokens("red wing white belly tail")]
    with torch.no_grad():
        alone = [model.language.write([row], limit=n) for row, n in zip(asked, (7, 3), strict=True)]
        assert [generated for _, generated in alone] == [7, 3]
        config.max_position_embeddings = 8
        texts, generated = model.language.write(asked, limit=16)
        assert (texts, generated) == ([text for (text,), _ in alone], 7 + 3)
        config.max_position_embeddings = 5
        with pytest.raises(
            FinedeficsError, match=r"picture 1: a prompt of 5 tokens .* context of 5; shorten"
        ):
            model.language.write(asked, limit=16)


def test_an_index_belongs_to_the_categories_it_was_built_for(model: Recogniser) -> None:
    others = {
        r"4 categories, and 3 were given": CATEGORIES[:3],
        r"category 0 .*'red'.*'black'": [CATEGORIES[1], CATEGORIES[0], *CATEGORIES[2:]],
    }
    for message, categories in others.items():
        with pytest.raises(FinedeficsError, match=message) as refused:
            Recogniser(model.backbone, categories, index=model.index)
        assert refused.value.exit_code == 2
    assert Recogniser(model.backbone, CATEGORIES, index=model.index).index is model.index


@pytest.mark.parametrize("name", ["", "  "])
def test_a_category_has_a_name(model: Recogniser, name: str) -> None:
    blank = [*CATEGORIES, Category("blank", name)]
    with pytest.raises(FinedeficsError, match="category blank: the name is empty"):
        Recogniser(model.backbone, blank)
    with pytest.raises(FinedeficsError, match="category blank: the name is empty"):
        Recogniser(model.backbone, blank, index=replace(model.index, categories=tuple(blank)))


def test_a_free_answer_that_means_two_names_or_none_is_no_answer(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [
        Category("a", "red-wing"),
        Category("b", "red wing"),
        Category("c", "?!"),
        Category("d", "crown"),
    ]
    alike = Recogniser(model.backbone, named)
    replies = ["red wing", "red-wing", "", "?!", "crown"]
    monkeypatch.setattr(alike.language, "write", lambda prompts, tokens, **_: (replies, 5))
    assert best_category(alike.answer(birds[:5], "names_free").scores) == [None, None, None, None, 3]


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_pictures_have_no_answers(model: Recogniser, answer: str) -> None:
    assert model.recognise([], answer) == []
    assert model.answer([], answer).scores.shape == (0, 4)
    with pytest.raises(FinedeficsError, match="unknown answer"):
        model.recognise([], "guess")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([[0, 1], [2, 4]], r"picture 1: .*position 4 .* 4 categories"),
        ([[0, -1], [2, 3]], r"picture 0: .*position -1 "),
        ([[0, 1], []], r"picture 1: no option"),
        ([[0, 1]], r"options for 1 pictures, 2 were given"),
    ],
)
def test_options_are_positions_of_categories(
    model: Recogniser, birds: list[bytes], options: list[list[int]], message: str
) -> None:
    for answer in ("letters", "letters_likelihood"):
        with pytest.raises(FinedeficsError, match=message) as refused:
            model.answer(birds[:2], answer, options=options)
        assert refused.value.exit_code == 2


@pytest.mark.usefixtures("short_descriptions")
@pytest.mark.parametrize("answer", [a for a in ANSWERS if a != "names_corrected"])
def test_forwarded_tokens_are_those_the_language_model_computed(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    own, computed = model.backbone.language_model, 0

    def counted(embeddings: Tensor, mask: Tensor, **options: Any) -> Any:
        nonlocal computed
        computed += int(mask[:, -embeddings.shape[1] :].sum())
        return own(embeddings, mask, **options)

    monkeypatch.setattr(model.backbone, "language_model", counted)
    for bird in birds[:3]:
        computed = 0
        assert model.answer([bird], answer).forwarded_tokens == computed > 0
