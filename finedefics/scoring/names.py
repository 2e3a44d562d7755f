"""Answers by the category's name: its likelihood, or the name the model says by itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.naming import named, normalised, plain


@dataclass(frozen=True)
class Names:
    """Log-likelihood of each name as the answer to the open question.

    ``corrected``: less the name's log-likelihood without the picture, log p(name | picture) - log p(name), so
    that a name is not preferred for being common or short.
    """

    corrected: bool = False
    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """One pass over each prompt, then one over all names; both kinds of this answer share it."""
        plain = pictures.once("likelihood of names", partial(_plain, model, pictures))
        if self.corrected:
            return replace(plain, scores=plain.scores - model.name_priors.cpu())
        return plain


def _plain(model: AskedModel, pictures: Pictures) -> Answered:
    prompts = model.prompted(pictures, model.render.templates.question)
    scores = model.name_scores(prompts, model.answered_names, pictures.tokens)
    names = len(prompts) * sum(map(len, model.answered_names))
    return Answered(scores.cpu(), sum(map(len, prompts)) + names)


@dataclass(frozen=True)
class FreeNames:
    """The generated answer to the open question, matched to a name: open-set recognition.

    Strict by default: the answer must be the name up to case, spacing and punctuation. ``form`` says what two
    spellings of one name have in common. Anything else chooses nothing; so does an answer that two names
    share, or one without a word.
    """

    form: Callable[[str], str] = plain
    asks_options: ClassVar[bool] = False
    graded: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """Score 0 for the name that was said, -inf for the others; both kinds share what was generated."""
        written = pictures.once("free answers", partial(_written, model, pictures))
        scores = torch.full((len(written.texts), len(model.categories)), -torch.inf)
        names = [category.name for category in model.categories]
        for row, position in enumerate(named(written.texts, names, self.form)):
            if position is not None:
                scores[row, position] = 0.0
        return replace(written, scores=scores)


def _written(model: AskedModel, pictures: Pictures) -> Answered:
    """The texts alone."""
    prompts = model.prompted(pictures, model.render.templates.question)
    # an answer that is still going on a few tokens after the longest name is none
    limit = max(map(len, model.answered_names)) + 4
    texts, generated = model.language.write(prompts, pictures.tokens, limit=limit)
    forwarded = sum(map(len, prompts)) + generated - len(prompts)  # a text's last token is not forwarded
    return Answered(torch.empty(0), forwarded, generated, tuple(texts))


ANSWERS.register("names")(Names())
ANSWERS.register("names_corrected")(Names(corrected=True))
ANSWERS.register("names_free")(FreeNames())
ANSWERS.register("names_open")(FreeNames(normalised))
