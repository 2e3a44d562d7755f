"""Token ids are those of the method's released collator, written here from what is known of it.

Known are the conversation as Idefics2's public template writes it, with the last line break stripped; a
picture's place spelled out between two boundary tokens; the beginning of sequence that the tokenizer puts
before every text; the end of sequence behind texts that are embedded, and behind a picture's own tokens.
Nothing of `Renderer` is used to write it down.
"""

from dataclasses import replace

import pytest
import tiny_models
import torch
import torch.nn.functional as F

from finedefics.backbones import Backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.conversation import Templates
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.terms import CONTRASTIVE_TERMS, ObjectiveSettings, TermSettings

QUESTION = "What is the species of this bird?"
PLACES = 4  # image tokens a picture
PICTURE = f"<fake_token_around_image>{'<image>' * PLACES}<fake_token_around_image>"
TABLE = [
    Category("tern", "Arctic tern", None, "a white bird, with a red bill"),
    Category("wren", "House wren", None, "a brown bird; its tail is short"),
    Category("auk", "Great auk", None, "A black and white bird."),
]
SEEN = "A small white bird with a black crown, and long red wings."


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    corpus = [QUESTION, SEEN, "User:\nAssistant:", *(f"{c.name} {c.description}" for c in TABLE)]
    return Backbone(*tiny_models.idefics2_like_the_release(corpus))


def collated(backbone: Backbone, birds: list[bytes], *, learn_prompt: bool = False) -> Batch:
    """Two samples in Stage I, every sequence in a row of its own."""
    labelled = ("labelled",)
    terms = {name: TermSettings(1.0, labelled) for name in ("answer", *CONTRASTIVE_TERMS[:3])}
    collate = Collator(
        backbone.processor,
        TABLE,
        ObjectiveSettings(terms, learn_prompt=learn_prompt),
        negatives=2,
        templates=Templates(question=QUESTION),
        packed=False,
    )
    samples = [
        Sample("1", birds[0], "tern", SEEN, negatives=("wren", "auk")),
        Sample("2", birds[1], "auk", TABLE[2].description, negatives=("tern", "wren")),
    ]
    return collate({"labelled": samples}, step=0)


def row(batch: Batch, number: int, of: str) -> list[int]:
    """A sequence of the batch without its padding."""
    packed = getattr(batch, of)
    return packed.ids[number][packed.segments[number] > 0].tolist()


def conversation(backbone: Backbone, name: str) -> list[int]:
    """Question and answer as the release gives them to the model."""
    said = f"User:{PICTURE}{QUESTION}<end_of_utterance>\nAssistant: {name}<end_of_utterance>"
    return backbone.processor.tokenizer(said).input_ids


def test_the_tokenizer_is_one_on_which_a_mistake_shows(backbone: Backbone) -> None:
    """It begins every text, knows the line break, and has another token for a word that follows no blank."""
    words = backbone.processor.tokenizer
    assert words("bird").input_ids[0] == words.bos_token_id
    assert words("bird").input_ids[1:] == words("a bird").input_ids[2:]
    assert words("bird").input_ids[-1] != words(":bird").input_ids[-1]
    assert words.unk_token_id not in conversation(backbone, "Arctic tern")


def test_question_answer_and_turn_ends(backbone: Backbone, birds: list[bytes]) -> None:
    batch = collated(backbone, birds)
    for number, name in enumerate(("Arctic tern", "Great auk")):
        assert row(batch, number, "sequences") == conversation(backbone, name)


def test_attributes_categories_and_objects(backbone: Backbone, birds: list[bytes]) -> None:
    batch = collated(backbone, birds)
    words = backbone.processor.tokenizer

    def embedded(text: str | None) -> list[int]:
        return [*words(text).input_ids, words.eos_token_id]

    def rows(positions: list[int]) -> list[list[int]]:
        return [row(batch, position, "embedded") for position in positions]

    tern, wren, auk = TABLE
    assert rows(batch.attributes.tolist()) == [embedded(SEEN), embedded(auk.description)]
    assert rows(batch.categories.tolist()) == [embedded(tern.name), embedded(auk.name)]
    wrong = [wren, auk, tern, wren]
    assert rows(batch.negative_attributes.flatten().tolist()) == [embedded(c.description) for c in wrong]
    assert rows(batch.negative_categories.flatten().tolist()) == [embedded(c.name) for c in wrong]
    shown = [*[backbone.image_token_id] * PLACES, words.eos_token_id]
    assert rows(batch.objects.tolist()) == [shown, shown]
    assert shown[0] == words.convert_tokens_to_ids("<image>")


@pytest.mark.parametrize("learn_prompt", [False, True])
def test_what_is_learned(backbone: Backbone, birds: list[bytes], learn_prompt: bool) -> None:
    """Every token that follows another, as in the release; or of those the answer's and its turn's end."""
    batch = collated(backbone, birds, learn_prompt=learn_prompt)
    words = backbone.processor.tokenizer
    for number, name in enumerate(("Arctic tern", "Great auk")):
        answer = words(f"{name}<end_of_utterance>", add_special_tokens=False).input_ids
        targets = batch.targets[number]
        learned = targets[targets != -100].tolist()
        assert learned == (conversation(backbone, name)[1:] if learn_prompt else answer)


def test_the_loss_with_prompts_is_the_mean_over_all_that_follows(
    backbone: Backbone, birds: list[bytes]
) -> None:
    batch = collated(backbone, birds, learn_prompt=True)
    settings = ObjectiveSettings({"answer": TermSettings(1.0, ("labelled",))}, learn_prompt=True)
    with torch.no_grad():
        found = Objective(backbone, settings)(replace(batch, feeds=batch.feeds[:0])).terms["answer"]
        losses = []
        for number, name in enumerate(("Arctic tern", "Great auk")):
            ids = torch.tensor([conversation(backbone, name)])
            picture = {key: tensor[number : number + 1] for key, tensor in batch.images.items()}
            logits = backbone.model(input_ids=ids, **picture).logits
            losses.append(F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none"))
    assert float(found) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_a_model_that_cannot_predict_a_pictures_token_does_not_learn_prompts(backbone: Backbone) -> None:
    settings = ObjectiveSettings({"answer": TermSettings(1.0, ("labelled",))}, learn_prompt=True)
    Objective(backbone, settings)
    own, backbone.image_token_id = backbone.image_token_id, 10**6
    try:
        with pytest.raises(FinedeficsError, match="no output for the token that stands for a picture"):
            Objective(backbone, settings)
    finally:
        backbone.image_token_id = own
