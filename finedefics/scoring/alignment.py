"""The answer the contrastive stage is for: the nearest category in the index, in one forward pass."""

from dataclasses import dataclass
from typing import ClassVar

from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.index import Variant


@dataclass(frozen=True)
class Alignment:
    """Cosine of the object's embedding with names, descriptions, or the direction of their sum."""

    variant: Variant = "sum"
    asks_options: ClassVar[bool] = False

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """One pass over each picture's own tokens."""
        objects, tokens = model.embed_objects(pictures)
        index = model.index.embeddings(self.variant).to(objects.device)
        return Answered((objects @ index.T).cpu(), tokens)


ANSWERS.register("alignment")(Alignment())
ANSWERS.register("alignment_names")(Alignment("names"))
ANSWERS.register("alignment_descriptions")(Alignment("descriptions"))
