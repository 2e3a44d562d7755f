"""The miner "provided": the hard negatives that the source names itself."""

from collections.abc import Sequence

from finedefics.mining.base import KEEP, MINERS, Confusable, Ranking
from finedefics.records import Category


@MINERS.register("provided")
class ProvidedMiner:
    """Takes the hard negatives that the source names, in its order; similarity is 1 / rank, for want of any.

    A picture's own category and ids that the category table lacks are left out.
    """

    miner_id = "provided"

    def __init__(self, categories: Sequence[Category], argument: str | None = None) -> None:
        self._known = {category.category_id for category in categories}

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where the source names none."""
        return [
            [
                (category, 1 / rank)
                for rank, category in enumerate(picture.provided, start=1)
                if category in self._known and category != picture.category_id
            ][:keep]
            for picture in pictures
        ]
