"""What the model is asked: templates as checked data, and options in an order of their own."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finedefics.backbones import Backbone
from finedefics.collation import Collator
from finedefics.conversation import Renderer, Templates, letters, option_order
from finedefics.errors import FinedeficsError
from finedefics.records import Category, Sample
from finedefics.terms import ObjectiveSettings, TermSettings


def test_the_order_of_options_depends_on_seed_and_sample_alone() -> None:
    assert option_order(4, seed=3, sample_id="wren-1") == option_order(4, seed=3, sample_id="wren-1")
    orders = {
        (seed, i): tuple(option_order(4, seed=seed, sample_id=str(i))) for seed in (0, 1) for i in range(99)
    }
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.values())
    assert any(orders[0, i] != orders[1, i] for i in range(99))
    # written down, because a change would ask every stored question anew
    assert option_order(4, seed=0, sample_id="wren-1") == [1, 0, 2, 3]


def test_the_truth_stands_everywhere_equally_often() -> None:
    places = Counter(option_order(4, seed=0, sample_id=str(i)).index(0) for i in range(4000))
    assert sum((count - 1000) ** 2 / 1000 for count in places.values()) < 16.3  # chi-square, p = 0.001


def test_a_multiple_choice_lists_one_lettered_option_a_line() -> None:
    lines = Templates(question="Which bird is this?").multiple_choice(["Wren", "Auk", "Tern"]).splitlines()
    assert lines[:5] == ["Which bird is this?", "Choices:", "A. Wren", "B. Auk", "C. Tern"]
    assert "letter" in lines[5]
    with pytest.raises(FinedeficsError, match="27 options have no letters"):
        letters(27)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"question": " "}, "question is empty"),
        ({"choices": "{question} what?"}, "lacks {options}"),
        ({"choices": "{question} {options} {name}"}, "a place other than {question} and {options}"),
        ({"statements": ()}, "statements are empty"),
        ({"statements": ("{name} is {description}",)}, "must end with {name}"),
        ({"statements": ("{name}: {description} is {name}",)}, "its only one"),
        ({"statements": ("it is {name}",)}, "lacks {description}"),
    ],
)
def test_templates_without_their_places_are_refused(texts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        Templates(**texts)


def test_templates_travel_with_a_model(tmp_path: Path) -> None:
    assert Templates.load(tmp_path) == Templates()
    said = Templates(
        question="Which bird?", statements=("{name}: {description}", "{description} makes a {name}")
    )
    said.save(tmp_path)
    assert Templates.load(tmp_path) == said
    assert said.naming_prefix("a red crown") == "a red crown makes a"
    stored = json.loads((tmp_path / "templates.json").read_text())
    del stored["begin_texts"]  # as they were stored before there was a choice
    (tmp_path / "templates.json").write_text(json.dumps(stored))
    assert Templates.load(tmp_path) == replace(said, begin_texts=False)
    (tmp_path / "templates.json").write_text('{"question": "x"}')
    with pytest.raises(FinedeficsError, match="no templates that can be used"):
        Templates.load(tmp_path)


def test_a_choice_is_asked_through_the_chat_template_and_its_letter_learned(
    lettered: Backbone, birds: list[bytes]
) -> None:
    processor, image = lettered.processor, birds[0]
    render = Renderer(processor)
    categories = [Category(name, name) for name in ("wren", "auk", "tern", "gull", "rail")]
    settings = ObjectiveSettings({"choice": TermSettings(1.0, ("labelled",))})
    collate = Collator(processor, categories, settings, negatives=1, seed=5)
    sample = Sample("s", image, "auk", negatives=("tern", "gull", "rail", "wren"))
    batch = collate({"labelled": [sample]}, step=0)
    question, letter = render.choice("auk", ["tern", "gull", "rail"], seed=5, sample_id="s", step=0)
    assert f"{letter}. auk" in question
    learned = batch.targets != -100
    assert batch.targets[learned].tolist() == [*render.tokens(letter), *render.end]
    first = int(learned[0].nonzero()[0]) + 1  # the target at a position is the token after it
    asked = render.prompt(question).after
    assert batch.sequences.ids[0, first - len(asked) : first].tolist() == list(asked)
    with pytest.raises(FinedeficsError, match="no hard negative"):
        collate({"labelled": [Sample("s", image, "auk")]}, step=0)


def test_a_choice_is_asked_in_another_order_at_another_step(lettered: Backbone, birds: list[bytes]) -> None:
    names = ("wren", "auk", "tern", "gull", "rail")
    settings = ObjectiveSettings({"choice": TermSettings(1.0, ("labelled",))})
    collate = Collator(
        lettered.processor, [Category(name, name) for name in names], settings, negatives=1, seed=5
    )
    sample = Sample("s", birds[0], "auk", negatives=("tern", "gull", "rail"))
    asked = [collate({"labelled": [sample]}, step=step) for step in [*range(12), 0]]
    said = [batch.targets[batch.targets != -100].tolist() for batch in asked]
    assert len({tuple(letter) for letter in said}) == 4  # the truth stands everywhere in turn
    assert torch.equal(asked[0].sequences.ids, asked[-1].sequences.ids)  # and again where a step is repeated
    places = Counter(option_order(4, seed=0, sample_id="s", step=i).index(0) for i in range(4000))
    assert sum((count - 1000) ** 2 / 1000 for count in places.values()) < 16.3  # chi-square, p = 0.001


def test_two_options_of_one_name_are_refused(lettered: Backbone) -> None:
    with pytest.raises(FinedeficsError, match="two of the options tern, Tern, wren are the same") as caught:
        Renderer(lettered.processor).choice("tern", ["Tern", "wren"], seed=0, sample_id="s1")
    assert "sample s1" in str(caught.value)
