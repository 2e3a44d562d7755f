"""The contrastive terms of Finedefics (ICLR 2025, section 3) as functions of embeddings and masks.

Every term is an InfoNCE over explicit boolean masks ``[queries, keys]`` of allowed negatives, so that rows of
one category, or descriptions that do not conflict, never repel each other.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE_RANGE = (0.001, 0.5)
DEFAULT_WEIGHTS = {"object_attribute": 0.5, "attribute_category": 0.5, "category_category": 0.5}


def clamp_temperature(temperature: float | Tensor) -> float | Tensor:
    """A temperature within `TEMPERATURE_RANGE`."""
    low, high = TEMPERATURE_RANGE
    return (
        temperature.clamp(low, high) if isinstance(temperature, Tensor) else min(max(temperature, low), high)
    )


def info_nce(
    queries: Tensor, keys: Tensor, positives: Tensor, allowed: Tensor | None, temperature: float | Tensor
) -> Tensor:
    """Mean over queries of the cross-entropy of the positive key among the allowed ones.

    Args:
        queries: [queries, dim], normalised.
        keys: [keys, dim], normalised.
        positives: [queries] index of each query's positive key.
        allowed: [queries, keys] boolean, True where a key is a negative of the query; None allows all. The
            positive is always kept.
        temperature: clamped to `TEMPERATURE_RANGE`.

    Returns:
        Scalar; 0 without queries.
    """
    if len(queries) == 0:
        return keys.sum() * 0.0
    similarity = queries @ keys.T / clamp_temperature(temperature)
    if allowed is not None:
        keep = allowed.clone()
        keep[torch.arange(len(queries), device=keep.device), positives] = True
        similarity = similarity.masked_fill(~keep, float("-inf"))
    return F.cross_entropy(similarity, positives)


def symmetric_info_nce(
    left: Tensor,
    right: Tensor,
    extra_right: Tensor,
    temperature: float | Tensor,
    allowed_right: Tensor | None,
    allowed_left: Tensor | None,
) -> Tensor:
    """Half the InfoNCE of left over right and its hard negatives, half that of right over left.

    ``left[i]`` and ``right[i]`` are a positive pair; ``extra_right`` [extras, dim] are keys only.
    ``allowed_right`` is [rows, rows + extras], ``allowed_left`` is [rows, rows].
    """
    positives = torch.arange(len(left), device=left.device)
    forward = info_nce(left, torch.cat([right, extra_right]), positives, allowed_right, temperature)
    backward = info_nce(right, left, positives, allowed_left, temperature)
    return (forward + backward) / 2


@dataclass(frozen=True)
class AlignmentLosses:
    """The three contrastive terms of one batch (scalars)."""

    object_attribute: Tensor
    attribute_category: Tensor
    category_category: Tensor

    def total(self, weights: dict[str, float] | None = None) -> Tensor:
        """Weighted sum; by default the paper's 0.5 each."""
        chosen = DEFAULT_WEIGHTS if weights is None else weights
        return torch.stack([weight * getattr(self, term) for term, weight in chosen.items()]).sum()
