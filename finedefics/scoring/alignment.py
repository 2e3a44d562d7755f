"""The answer the contrastive stage is for: the nearest category in the index, in one forward pass."""

from dataclasses import dataclass
from typing import ClassVar

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.index import Variant


@dataclass(frozen=True)
class Alignment:
    """Similarity of the object's embedding with names, descriptions, or the direction of their sum.

    ``calibrated``: with the index's calibration, without, or as the index says (None).
    """

    variant: Variant = "sum"
    calibrated: bool | None = None
    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """One pass over each picture's own tokens.

        Raises:
            FinedeficsError: calibration is asked for, and the index has none.
        """
        objects, tokens = model.embed_objects(pictures)
        return Answered(model.index.scores(objects, self.variant, self.calibrated).cpu(), tokens)


ANSWERS.register("alignment")(Alignment())
ANSWERS.register("alignment_plain")(Alignment(calibrated=False))
ANSWERS.register("alignment_calibrated")(Alignment(calibrated=True))
ANSWERS.register("alignment_names")(Alignment("names"))
ANSWERS.register("alignment_descriptions")(Alignment("descriptions"))
