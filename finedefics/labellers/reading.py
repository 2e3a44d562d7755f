"""The labeller "reading:MODEL": a language model names the category from a description alone."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finedefics.labellers._models import asked_model, was_tuned
from finedefics.labellers.contract import LABELLERS, Given, Inferred, Unnamed, check_finite, needs_argument

if TYPE_CHECKING:
    from finedefics.scoring import AskedModel


@LABELLERS.register("reading")
class Reading:
    """The likelihood of each name after the description, in the statement that training teaches.

    It is the second half of the answer `describe`, with words that are there already. Equal descriptions of a
    call are read once.
    """

    reads = ("description",)

    def __init__(self, given: Given) -> None:
        self.model = needs_argument("reading", given.argument, "path/of/a/model")
        self.categories, self.settings = tuple(given.categories), given.settings

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "categories", "settings")  # weights do not travel
        return {name: value for name, value in vars(self).items() if name in kept}

    @property
    def splits(self) -> Sequence[str]:
        """A model that was tuned may have read the descriptions of train with their labels."""
        return ("val",) if was_tuned(self.model) else ("train", "val")

    @cached_property
    def labeller_id(self) -> str:
        """``reading:`` with the model's content, and its precision."""
        from finedefics.embedders._models import model_identity

        return f"reading:{model_identity(self.model)}-{self.settings.of_model(self.model)}"

    def __call__(self, pictures: Sequence[Unnamed]) -> Inferred:
        """One pass over each distinct description, then one over all names."""
        texts = sorted(
            {picture.description or "" for picture in pictures}, key=lambda text: (len(text), text)
        )
        if not texts:
            return Inferred.nothing(0)
        size = self.settings.batch_size
        found = np.concatenate([self._scores(texts[i : i + size]) for i in range(0, len(texts), size)])
        row = {text: number for number, text in enumerate(texts)}
        rows = np.array([row[picture.description or ""] for picture in pictures])
        check_finite(found[rows], pictures, "reading")
        return Inferred.of_scores(found).take(rows)

    @torch.no_grad()
    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        asked = self._asked
        templates = asked.render.templates
        prefixes = [asked.render.opened(templates.naming_prefix(text)) for text in texts]
        scores = asked.name_scores(prefixes, asked.completed_names)
        return scores.float().cpu().numpy()

    @cached_property
    def _asked(self) -> "AskedModel":
        return asked_model(self.model, self.categories, self.settings)
