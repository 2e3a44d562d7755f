"""Calibration of the category index: less to a category whose text lies near whatever is shown (a hub).

The score is that of cross-domain similarity local scaling (CSLS, Conneau et al. 2018),
2·cos(picture, category) - r(category), where r is the category's mean cosine to its nearest fitting pictures.
The paper's term for the picture is the same for all categories and left out.

Fitting pictures are training pictures whose labels, where they have any, are not read. A category that most
of them show would get a large r for being shown, not for being a hub; so of the pictures that plain alignment
takes for one category no more are kept than of the usual one.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

NEAREST = 10  # pictures whose mean similarity is a category's hub term
MOST = 2048  # fitting pictures that are looked at; the index keeps their embeddings
SLOPE = 2.0  # what a calibrated score rises by with the cosine


@dataclass(frozen=True)
class Trial:
    """The alignment answer with and without calibration on a validation split, all categories competing.

    Attributes:
        dataset, split: whose pictures decided.
        pictures: how many.
        plain, calibrated: accuracies.
    """

    dataset: str
    split: str
    pictures: int
    plain: float
    calibrated: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a category index is calibrated with, and whether it is.

    Attributes:
        objects: [pictures, dim], normalised object embeddings of the fitting pictures, by the index's model.
        on: whether the answer `alignment` uses it.
        why: it is on or off, in words.
        dataset, split: where the pictures are from.
        offered: pictures among which they were chosen (`equal_shares`).
        share: most that were taken of a predicted category.
        trial: what was measured on a validation split, where one was asked.
        nearest: pictures of a hub term, at most as many as there are.
    """

    objects: Tensor
    on: bool
    why: str
    dataset: str
    split: str
    offered: int
    share: int
    trial: Trial | None = None
    nearest: int = NEAREST

    def hubs(self, categories: Tensor) -> Tensor:
        """r [categories] of embeddings [categories, dim]: mean cosine to their nearest fitting pictures."""
        similarity = categories @ self.objects.T
        return similarity.topk(min(self.nearest, len(self.objects)), dim=1).values.mean(1)

    def told(self) -> dict[str, Any]:
        """All but the embeddings, JSON-able."""
        told = {name: value for name, value in vars(self).items() if name != "objects"}
        return told | {"trial": asdict(self.trial) if self.trial else None}

    @staticmethod
    def of(told: dict[str, Any], objects: Tensor) -> "Calibration":
        """What `told` told, with the embeddings."""
        trial = told["trial"]
        return Calibration(objects, **{**told, "trial": Trial(**trial) if trial else None})


def calibrated_scores(cosines: Tensor, hubs: Tensor) -> Tensor:
    """2·cos - r: scores [pictures, categories] from cosines of that shape and hub terms [categories]."""
    return SLOPE * cosines - hubs


def equal_shares(plain: Tensor) -> tuple[list[int], int]:
    """Positions of the pictures to fit on, and the most that were taken of a predicted category.

    That many is the median of how often a category is predicted, of those that are: who is predicted more
    often is cut to it, and half of them lose nothing.

    Args:
        plain: scores [pictures, categories] of the plain alignment, at least one picture; of a category's
            pictures the first are taken, so their order should be random.
    """
    predicted = plain.argmax(1)
    counts = predicted.bincount()
    share = int(counts[counts > 0].median())
    taken: Counter[int] = Counter()
    chosen = []
    for position, category in enumerate(predicted.tolist()):
        taken[category] += 1
        if taken[category] <= share:
            chosen.append(position)
    return chosen, share
