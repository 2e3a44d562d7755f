"""Describe, then name: accurate where the model reads attributes well, tens of generated tokens dearer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures


@dataclass(frozen=True)
class Describe:
    """Write the description, then the likelihood of each name after those words, without the picture.

    ``draws`` > 0: so many descriptions are drawn from the model's own distribution (temperature 1) in place
    of the likeliest one. The probability of a name among all is then its mean over them, so that an attribute
    which the model is not sure of counts by how sure it is. What is drawn for a picture depends on its id and
    the recogniser's seed, not on what else is in the batch.
    """

    limit: int = 96  # tokens of a description
    draws: int = 0
    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """The descriptions are the answer's ``texts``; several drawn ones, a line each."""
        if not self.draws:
            return self._named(model, pictures, None)
        each = [
            self._named(model, pictures, [_source(model.seed, draw, one) for one in pictures.sample_ids])
            for draw in range(self.draws)
        ]
        shares = torch.stack([one.scores.log_softmax(-1) for one in each])
        return Answered(
            shares.logsumexp(0) - math.log(self.draws),
            sum(one.forwarded_tokens for one in each),
            sum(one.generated_tokens for one in each),
            tuple(
                "\n".join(map(_in_a_line, texts)) for texts in zip(*(one.texts for one in each), strict=True)
            ),
        )

    def _named(
        self, model: AskedModel, pictures: Pictures, sources: Sequence[np.random.Generator] | None
    ) -> Answered:
        templates = model.render.templates
        prompts = model.prompted(pictures, templates.request)
        texts, generated = model.language.write(prompts, pictures.tokens, limit=self.limit, sources=sources)
        prefixes = [model.render.opened(templates.naming_prefix(text)) for text in texts]
        scores = model.name_scores(prefixes, model.completed_names)
        read = sum(map(len, prompts)) + sum(map(len, prefixes))
        names = len(prompts) * sum(map(len, model.completed_names))
        written = generated - len(prompts)  # a description's last token is not forwarded after its prompt
        return Answered(scores.cpu(), read + names + written, generated, tuple(texts))


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _source(seed: int, draw: int, sample_id: str) -> np.random.Generator:
    return np.random.default_rng([seed, draw, *sample_id.encode()])


ANSWERS.register("describe")(Describe())
ANSWERS.register("describe_sampled")(Describe(draws=8))
