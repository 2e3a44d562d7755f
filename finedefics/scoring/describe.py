"""Describe, then name: accurate where the model reads attributes well, tens of generated tokens dearer."""

from dataclasses import dataclass
from typing import ClassVar

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures


@dataclass(frozen=True)
class Describe:
    """Write the description, then the likelihood of each name after those words, without the picture."""

    limit: int = 96  # tokens of a description
    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """The descriptions are the answer's ``texts``."""
        templates = model.render.templates
        prompts = model.prompted(pictures, templates.request)
        texts, generated = model.language.write(prompts, pictures.tokens, limit=self.limit)
        prefixes = [model.render.opened(templates.naming_prefix(text)) for text in texts]
        scores = model.name_scores(prefixes, model.completed_names)
        read = sum(map(len, prompts)) + sum(map(len, prefixes))
        names = len(prompts) * sum(map(len, model.completed_names))
        written = generated - len(prompts)  # a description's last token is not forwarded after its prompt
        return Answered(scores.cpu(), read + names + written, generated, tuple(texts))


ANSWERS.register("describe")(Describe())
