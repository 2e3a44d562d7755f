"""Answers by the category's name: its likelihood, or the name the model says by itself."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures


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

    Strict: the answer must be the name up to case, spacing and punctuation. Anything else chooses nothing;
    so does an answer that two names share, or one without a word.
    """

    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """Score 0 for the name that was said, -inf for the others."""
        prompts = model.prompted(pictures, model.render.templates.question)
        # an answer that is still going on a few tokens after the longest name is none
        limit = max(map(len, model.answered_names)) + 4
        texts, generated = model.language.write(prompts, pictures.tokens, limit=limit)
        said = [plain(category.name) for category in model.categories]
        times = Counter(said)
        known = {words: i for i, words in enumerate(said) if words and times[words] == 1}
        scores = torch.full((len(texts), len(model.categories)), -torch.inf)
        for row, text in enumerate(texts):
            if plain(text) in known:
                scores[row, known[plain(text)]] = 0.0
        forwarded = sum(map(len, prompts)) + generated - len(prompts)  # a text's last token is not forwarded
        return Answered(scores, forwarded, generated, tuple(texts))


def plain(text: str) -> str:
    """A name's words in lower case, one space between them."""
    return " ".join(re.findall(r"\w+", text.casefold()))


ANSWERS.register("names")(Names())
ANSWERS.register("names_corrected")(Names(corrected=True))
ANSWERS.register("names_free")(FreeNames())
