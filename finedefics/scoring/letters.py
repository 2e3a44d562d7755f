"""Multiple choice as the FOCI protocol asks it: the options are shown, the answer is a letter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from finedefics.conversation import letters, option_order
from finedefics.errors import FinedeficsError
from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.parsing import parse_letter, parse_letter_foci

LIMIT = 16  # tokens of a reply: room for "The answer is B."


@dataclass(frozen=True)
class Letters:
    """The generated letter; a reply that ``parse`` does not understand chooses nothing (all scores -inf)."""

    parse: Callable[[str, str], int | None] = parse_letter
    asks_options: ClassVar[bool] = True
    graded: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """The replies are the answer's ``texts``; both ways of reading them share what was generated."""
        orders, written = pictures.once("replies to the multiple choice", partial(_replies, model, pictures))
        scores = torch.full((len(written.texts), len(model.categories)), -torch.inf)
        for row, (order, reply) in enumerate(zip(orders, written.texts, strict=True)):
            if (place := self.parse(reply, letters(len(order)))) is not None:
                scores[row, order[place]] = 0.0
        return replace(written, scores=scores)


def _replies(model: AskedModel, pictures: Pictures) -> tuple[list[list[int]], Answered]:
    """The options in the order shown, and the replies alone."""
    orders, prompts = _questions(model, pictures)
    replies, generated = model.language.write(prompts, pictures.tokens, limit=LIMIT)
    forwarded = sum(map(len, prompts)) + generated - len(prompts)  # a reply's last token is not forwarded
    return orders, Answered(torch.empty(0), forwarded, generated, tuple(replies))


@dataclass(frozen=True)
class LetterLikelihood:
    """Log-likelihood of each option's letter right after the question: one pass, and always an answer."""

    asks_options: ClassVar[bool] = True

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """-inf for what is not among a picture's options."""
        orders, prompts = _questions(model, pictures)
        tokens = _letter_tokens(model, max(map(len, orders)))
        found = model.language.completion_scores(prompts, tokens, pictures.tokens).cpu()
        scores = torch.full((len(prompts), len(model.categories)), -torch.inf)
        for row, order in enumerate(orders):
            scores[row, torch.tensor(order)] = found[row, : len(order)]
        longer = sum(map(len, tokens)) if max(map(len, tokens)) > 1 else 0
        return Answered(scores, sum(map(len, prompts)) + len(prompts) * longer)


def _questions(model: AskedModel, pictures: Pictures) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """For each picture its options in the order shown (positions in the category table), and the prompt."""
    assert pictures.options is not None, "Recogniser.answer gives options to answers that ask them"
    orders, prompts = [], []
    for block, offered, sample_id in zip(pictures.blocks, pictures.options, pictures.sample_ids, strict=True):
        order = shown(offered, seed=model.seed, sample_id=sample_id, rotation=pictures.rotation)
        question = model.render.templates.multiple_choice([model.categories[i].name for i in order])
        prompt = model.render.prompt(question)
        orders.append(order)
        prompts.append((*prompt.before, *block, *prompt.after))
    _letter_tokens(model, max(map(len, orders)))
    return orders, prompts


def shown(offered: Sequence[int], *, seed: int, sample_id: str, rotation: int = 0) -> list[int]:
    """The options of a picture in the order in which they are shown.

    Args:
        seed: of the recogniser; with the picture's id it decides the ordinary order.
        rotation: how far that is turned: 1 begins with its second option and ends with its first.
    """
    order = option_order(len(offered), seed=seed, sample_id=sample_id)
    first = rotation % len(order)
    return [offered[i] for i in (*order[first:], *order[:first])]


def _letter_tokens(model: AskedModel, count: int) -> list[tuple[int, ...]]:
    tokens = [model.render.answer(letter)[: -len(model.render.end)] for letter in letters(count)]
    unknown = model.render.tokenizer.unk_token_id
    if len(set(tokens)) < count or any(unknown in ids for ids in tokens):
        raise FinedeficsError(
            "the tokenizer does not tell the letters of the options apart",
            place=str(model.render.tokenizer.name_or_path or "tokenizer"),
            cure="use the answer `names`, which compares the options by their names",
        )
    return tokens


ANSWERS.register("letters")(Letters())
ANSWERS.register("letters_foci")(Letters(parse_letter_foci))
ANSWERS.register("letters_likelihood")(LetterLikelihood())
