"""How names and alignment weigh in the ensemble: pure figures, which know neither model nor picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURE = 0.07  # what cosines are divided by: the temperature that contrast starts with
_GRID = 20


@dataclass(frozen=True)
class EnsembleWeight:
    """A weight and what it was chosen on.

    Attributes:
        weight: share of the names' log-probability; the rest is the alignment's.
        dataset, split: whose pictures decided.
        pictures: how many.
        accuracy: of the ensemble on them, all categories competing (optimistic: it was maximised there).
    """

    weight: float
    dataset: str
    split: str
    pictures: int
    accuracy: float


def combine(names: Tensor, alignment: Tensor, weight: float, slope: float = 1.0) -> Tensor:
    """The ensemble's scores [pictures, categories] from log-likelihoods and alignment of the same shape.

    Args:
        slope: what the alignment's scores rise by with the cosine (`CategoryIndex.slope`); the temperature is
            one of cosines.
    """
    temperature = slope * TEMPERATURE
    return weight * names.log_softmax(1) + (1 - weight) * (alignment / temperature).log_softmax(1)


def choose_weight(
    names: Tensor,
    alignment: Tensor,
    truth: Sequence[int],
    *,
    dataset: str,
    split: str,
    slope: float = 1.0,
) -> EnsembleWeight:
    """The weight of highest accuracy on a split; among equals the one that finds the truth likeliest.

    Args:
        names, alignment, slope: as `combine` takes them.
        truth: position of each picture's category.
        dataset, split: recorded with the weight.
    """
    target = torch.tensor(truth)
    found: list[tuple[float, float, float]] = []
    for step in range(_GRID + 1):
        scores = combine(names, alignment, step / _GRID, slope)
        accuracy = (scores.argmax(1) == target).double().mean().item()
        likelihood = scores.log_softmax(1).gather(1, target[:, None]).double().mean().item()
        found.append((accuracy, likelihood, step / _GRID))
    accuracy, _, weight = max(found)
    return EnsembleWeight(weight, dataset, split, len(truth), accuracy)
