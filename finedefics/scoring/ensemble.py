"""Names and alignment together: each is right where the other is not, in a proportion that data decides."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from finedefics.errors import FinedeficsError
from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.weighing import combine

PARTS = ("names", "alignment")


@dataclass(frozen=True)
class Ensemble:
    """w · log p(name | picture) + (1 - w) · log softmax(alignment / 0.07), both over all categories.

    Alignment is as the answer `alignment` gives it, calibrated or not; calibrated it rises twice as steeply
    with the cosine, so it is divided by 0.14.
    """

    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """Costs what its parts cost, and computes neither where it was asked for too.

        Raises:
            FinedeficsError: no weight was chosen for this model.
        """
        if model.index.ensemble is None:
            raise FinedeficsError(
                "no weight was chosen for the ensemble of this model",
                place="category index",
                cure="evaluate it with `--answers ensemble`, which chooses one on the split val",
            )
        names, alignment = (pictures.once(part, partial(ANSWERS[part], model, pictures)) for part in PARTS)
        weight = model.index.ensemble.weight
        scores = combine(names.scores, alignment.scores, weight, model.index.slope)
        return Answered(scores, names.forwarded_tokens + alignment.forwarded_tokens)


ANSWERS.register("ensemble")(Ensemble())
