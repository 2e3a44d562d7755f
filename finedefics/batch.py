"""One rank's share of a step as tensors: each picture and each text once, and what each row makes of them."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from finedefics.features import Recalled
from finedefics.flat import sent
from finedefics.packing import Packed

ABSENT = -1


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        step: position in the stage.
        images: the processor's tensors, one picture a row; without those that are ``recalled``.
        sequences: token sequences of which some tokens are learned.
        targets: [rows, width] of ``sequences``: the token to predict there, -100 where nothing is learned.
        target_terms: [rows, width] index into `GENERATION_TERMS`.
        embedded: unique texts and objects, each closed by end of sequence.
        objects, attributes, categories: [rows] position among the reads of ``embedded`` and then of
            ``sequences``, or -1.
        negative_attributes, negative_categories: [rows, hard negatives] position in ``embedded``, or -1.
        category_ids: [rows] position of the row's category in the table, or -1 (not labelled).
        nearest_ids: [rows] position of the category most similar to the row's own, or -1 (not known).
        negative_category_ids: [rows, hard negatives].
        looks: [rows, attributes] code of each visible attribute value, 0 where hidden.
        text_ids: [rows] hash of the description.
        negative_text_ids: [rows, hard negatives] those of the hard negatives' descriptions.
        feeds: [rows] index into `FEEDS`.
        size: samples and texts in the batch.
        recalled: pictures whose features were kept, where there is a store of them.
    """

    step: int
    images: dict[str, Tensor]
    sequences: Packed
    targets: Tensor
    target_terms: Tensor
    embedded: Packed
    objects: Tensor
    attributes: Tensor
    categories: Tensor
    negative_attributes: Tensor
    negative_categories: Tensor
    category_ids: Tensor
    nearest_ids: Tensor
    negative_category_ids: Tensor
    looks: Tensor
    text_ids: Tensor
    negative_text_ids: Tensor
    feeds: Tensor
    size: int
    recalled: Recalled | None = None

    @property
    def forwarded_tokens(self) -> int:
        """Positions the language model computes, padding included."""
        return self.sequences.ids.numel() + self.embedded.ids.numel()

    @property
    def useful_tokens(self) -> int:
        """Those that are not padding."""
        return self.sequences.useful + self.embedded.useful

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; from pinned memory (`finedefics.flat`) nothing waits for the copies."""
        return replace(self, **{f.name: sent(getattr(self, f.name), device) for f in fields(self)})
