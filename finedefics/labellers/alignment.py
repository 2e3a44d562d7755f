"""The labeller "alignment:MODEL": a tuned model's own answer, a picture against the texts of categories."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finedefics.labellers._models import asked_model
from finedefics.labellers.contract import LABELLERS, Given, Inferred, Unnamed, check_finite, needs_argument

if TYPE_CHECKING:
    from finedefics.scoring import AskedModel


@LABELLERS.register("alignment")
class Aligned:
    """Softmax of cosine / 0.07 over the categories, as the answer `ensemble` weighs alignment."""

    reads = ("image",)
    splits = ("val",)  # the model has seen the pictures of train with their labels

    def __init__(self, given: Given) -> None:
        self.model = needs_argument("alignment", given.argument, "path/of/a/model")
        self.categories, self.settings = tuple(given.categories), given.settings

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "categories", "settings")  # weights do not travel
        return {name: value for name, value in vars(self).items() if name in kept}

    @cached_property
    def labeller_id(self) -> str:
        """``alignment:`` with the model's content, and its precision."""
        from finedefics.embedders._models import model_identity

        return f"alignment:{model_identity(self.model)}-{self.settings.of_model(self.model)}"

    def __call__(self, pictures: Sequence[Unnamed]) -> Inferred:
        """One pass over each picture's own tokens."""
        if not pictures:
            return Inferred.nothing(0)
        size = self.settings.batch_size
        batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        found = np.concatenate([self._scores(batch) for batch in batches])
        check_finite(found, pictures, "alignment")
        return Inferred.of_scores(found)

    @torch.no_grad()
    def _scores(self, pictures: Sequence[Unnamed]) -> np.ndarray:
        from finedefics.pictures import decode_image
        from finedefics.scoring import ANSWERS
        from finedefics.scoring.weighing import TEMPERATURE

        opened = [decode_image(one.image or b"", f"sample {one.sample_id}") for one in pictures]
        answered = ANSWERS["alignment"](self._asked, self._asked.encode(opened))
        return (answered.scores.float() / TEMPERATURE).numpy()

    @cached_property
    def _asked(self) -> "AskedModel":
        return asked_model(self.model, self.categories, self.settings)
