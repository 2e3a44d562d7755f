"""The objective of every stage: one module, one forward, any mix of labelled, captioned and text rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finedefics.backbones import Backbone
from finedefics.batch import ABSENT, CONTRASTIVE_TERMS, FEEDS, GENERATION_TERMS, Batch, ObjectiveSettings
from finedefics.distributed import gather, total, world_size
from finedefics.losses import TEMPERATURE_RANGE, info_nce, symmetric_info_nce
from finedefics.packing import Packed

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectiveOutput:
    """What a step yields.

    Attributes:
        loss: scalar; averaging its parameter gradients over ranks gives the gradient of the global loss.
        terms: every term's value over the global batch, detached, equal on every rank.
        forwarded_tokens: positions this rank's language model computed, padding included.
        useful_tokens: those that were not padding.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    forwarded_tokens: int
    useful_tokens: int


class Objective(nn.Module):
    """Weighted sum of generation and contrastive terms (Finedefics, ICLR 2025, equations of both stages).

    Args:
        backbone: the multimodal model.
        settings: terms, their weights and feeds, and the temperatures.
        micro_batch: rows whose activations are held at a time. The contrastive batch stays whole: every piece
            is run forward without keeping activations, and again in the backward pass (GradCache, Gao et al.
            2021, by way of activation checkpointing), so the gradient is that of the undivided batch.
    """

    def __init__(
        self, backbone: Backbone, settings: ObjectiveSettings, *, micro_batch: int | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.micro_batch = micro_batch
        # learned in log space, so that a step is relative to the temperature's own size
        start = [settings.object_attribute_temperature, settings.attribute_category_temperature]
        self.log_temperatures = nn.Parameter(
            torch.tensor(start).log(), requires_grad=settings.learnable_temperatures
        )

    def temperatures(self) -> dict[str, float]:
        """Both temperatures, for the record."""
        names = ("object_attribute_temperature", "attribute_category_temperature")
        low, high = TEMPERATURE_RANGE
        values = self.log_temperatures.detach().exp().clamp(low, high)
        return dict(zip(names, values.tolist(), strict=True))

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Compute every term of the stage on one rank's share of a step."""
        pieces = math.ceil(batch.size / self.micro_batch) if self.micro_batch else 1
        images = self._encode_images(batch.images, pieces)
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        read: list[Tensor] = []
        if len(batch.embedded):
            read.append(self._embed(batch.embedded, images, pieces))
        if len(batch.sequences):
            share, shown, objects = self._generation(batch, images, pieces)
            terms |= shown
            losses += [self._weight(name) * value for name, value in share.items()]
            read.append(objects)
        if len(batch.feeds):
            contrast = self._contrast(batch, F.normalize(torch.cat(read), dim=-1))
            terms |= {name: value.detach() for name, value in contrast.items()}
            losses += [self._weight(name) * value for name, value in contrast.items()]
        passes = (batch.sequences, batch.embedded)
        return ObjectiveOutput(
            torch.stack(losses).sum(),
            terms,
            sum(each.ids.numel() for each in passes),
            sum(each.useful for each in passes),
        )

    def _weight(self, term: str) -> float:
        return self.settings.terms[term].weight

    def _piecewise(self, function: Callable[..., T], *inputs: Any, pieces: int) -> T:
        """Call a function, keeping its activations only where the batch is not divided."""
        if pieces == 1 or not torch.is_grad_enabled():
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False)

    def _encode_images(self, images: dict[str, Tensor], pieces: int) -> list[Tensor]:
        if not images:
            return []
        count = len(next(iter(images.values())))
        tokens: list[Tensor] = []
        for piece in range(pieces):
            first, last = piece * count // pieces, (piece + 1) * count // pieces
            if first == last:  # a piece of text rows only
                continue
            part = {name: tensor[first:last] for name, tensor in images.items()}
            lengths: list[int] = []

            def encode(part: dict[str, Tensor] = part, lengths: list[int] = lengths) -> Tensor:
                found = self.backbone.encode_images(part)
                lengths[:] = map(len, found)
                return torch.cat(found)

            tokens += self._piecewise(encode, pieces=pieces).split(lengths)
        return tokens

    def _hidden(self, piece: Packed, images: list[Tensor]) -> Tensor:
        used = [images[i] for i in piece.images.tolist()]
        embeddings = self.backbone.embed_tokens(piece.ids, used)
        return self.backbone.hidden_states(
            embeddings, piece.attention(embeddings.dtype), position_ids=piece.positions
        )

    def _generation(
        self, batch: Batch, images: list[Tensor], pieces: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Next-token loss of each generation term: this rank's share, the global mean to show, and the
        hidden states that were to be read on the way, [reads, dim]."""

        def run(piece: Packed, targets: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self._hidden(piece, images)
            learned = targets != -100
            # the output head runs only where an answer token stands: it is the model's widest layer
            logits = self.backbone.logits(hidden[learned]).float()
            losses = F.cross_entropy(logits, targets[learned], reduction="none")
            sums = losses.new_zeros(len(GENERATION_TERMS)).index_add(0, terms[learned], losses)
            return sums, hidden[piece.reads[:, 0], piece.reads[:, 1]].float()

        parts, reads = [], []
        bounds = batch.sequences.bounds(pieces)
        for (first, last), piece in zip(bounds, batch.sequences.split(pieces), strict=True):
            targets, terms = batch.targets[first:last], batch.target_terms[first:last]
            if first == last:  # a row that only keeps this rank in step with the others
                targets, terms = torch.full_like(piece.ids, -100), torch.zeros_like(piece.ids)
            sums, read = self._piecewise(run, piece, targets, terms, pieces=pieces)
            parts.append(sums)
            reads.append(read)
        own = torch.stack(parts).sum(0)
        learned = batch.targets != -100
        counts = torch.bincount(batch.target_terms[learned], minlength=len(GENERATION_TERMS)).to(own.dtype)
        everywhere = total(torch.stack([own.detach(), counts]))
        count = everywhere[1].clamp(min=1)
        asked = [i for i, name in enumerate(GENERATION_TERMS) if self.settings.feeds(name)]
        # ranks hold different numbers of answer tokens; their average must be the global mean
        share = {GENERATION_TERMS[i]: own[i] * world_size() / count[i] for i in asked}
        shown = {GENERATION_TERMS[i]: everywhere[0, i] / count[i] for i in asked}
        return share, shown, torch.cat(reads)[batch.sequences.in_given_order(pieces)]

    def _embed(self, embedded: Packed, images: list[Tensor], pieces: int) -> Tensor:
        """Hidden state at the end of every unique text and object, [embedded, dim]."""

        def ends(piece: Packed) -> Tensor:
            return self._hidden(piece, images)[piece.reads[:, 0], piece.reads[:, 1]].float()

        found = [self._piecewise(ends, piece, pieces=pieces) for piece in embedded.split(pieces)]
        return torch.cat(found)[embedded.in_given_order(pieces)]

    def _contrast(self, batch: Batch, embedded: Tensor) -> dict[str, Tensor]:
        rows = _Rows.gathered(batch, embedded)
        oa, ac = self.log_temperatures.exp()
        losses: dict[str, Tensor] = {}
        for name in CONTRASTIVE_TERMS:
            feeds = self.settings.feeds(name)
            if feeds:
                temperature = ac if name == "attribute_category" else oa
                losses[name] = _TERMS[name](rows.of_feeds(feeds), temperature)
        return losses


@dataclass(frozen=True)
class _Rows:
    """Rows of the global batch with their embeddings; a mask says which of the three each row has."""

    objects: Tensor  # [rows, dim]
    attributes: Tensor  # [rows, dim]
    categories: Tensor  # [rows, dim]
    negative_attributes: Tensor  # [rows, k, dim]
    negative_categories: Tensor  # [rows, k, dim]
    has: Tensor  # [rows, 3] object, attribute, category
    has_negatives: Tensor  # [rows, k, 2] attribute, category
    category_ids: Tensor  # [rows]
    negative_ids: Tensor  # [rows, k]
    looks: Tensor  # [rows, attributes]
    text_ids: Tensor  # [rows]
    feeds: Tensor  # [rows]

    @staticmethod
    def gathered(batch: Batch, embedded: Tensor) -> "_Rows":
        k = batch.negative_attributes.shape[1]
        single = torch.stack([batch.objects, batch.attributes, batch.categories], 1)
        negative = torch.stack([batch.negative_attributes, batch.negative_categories], 2)
        places = torch.cat([single, negative.flatten(1)], 1)  # [rows, 3 + 2k]
        vectors = gather(embedded[places.clamp(min=0)])
        facts = [places, batch.category_ids[:, None], batch.negative_category_ids]
        facts += [batch.looks, batch.text_ids[:, None], batch.feeds[:, None]]
        widths = [f.shape[1] for f in facts]
        places, category, negatives, looks, texts, feeds = gather(torch.cat(facts, 1)).split(widths, 1)
        negative_vectors = vectors[:, 3:].unflatten(1, (k, 2))
        return _Rows(
            vectors[:, 0],
            vectors[:, 1],
            vectors[:, 2],
            negative_vectors[:, :, 0],
            negative_vectors[:, :, 1],
            places[:, :3] != ABSENT,
            (places[:, 3:] != ABSENT).unflatten(1, (k, 2)),
            category[:, 0],
            negatives,
            looks,
            texts[:, 0],
            feeds[:, 0],
        )

    def where(self, keep: Tensor) -> "_Rows":
        """The rows for which ``keep`` [rows] holds."""
        return _Rows(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def of_feeds(self, feeds: set[str]) -> "_Rows":
        wanted = torch.tensor([name in feeds for name in FEEDS], device=self.feeds.device)
        return self.where(wanted[self.feeds])

    def repels(self) -> Tensor:
        """[rows, rows] which rows may be negatives of each other.

        Two labelled rows: where their categories differ. A row without a label: where its description
        conflicts with the other's in an attribute visible in both, or, without attributes, is another text.
        """
        left, right = self.category_ids[:, None], self.category_ids[None]
        both_labelled = (left != ABSENT) & (right != ABSENT)
        a, b = self.looks[:, None], self.looks[None]
        conflict = ((a != b) & (a != 0) & (b != 0)).any(-1)
        described = (self.looks != 0).any(-1)
        unlike = torch.where(
            described[:, None] & described[None], conflict, self.text_ids[:, None] != self.text_ids[None]
        )
        return torch.where(both_labelled, left != right, unlike)

    def extras(self, kind: int) -> tuple[Tensor, Tensor]:
        """Hard negatives of every row as keys for all: [extras, dim] and the mask [rows, extras].

        A row without a label meets only its own hard negatives (they were mined to conflict with it); a
        labelled row meets all that are of another category.
        """
        vectors = (self.negative_attributes, self.negative_categories)[kind].flatten(0, 1)
        present = self.has_negatives[:, :, kind].flatten()
        ids = self.negative_ids.flatten()[present]
        k = self.negative_ids.shape[1]
        owner = torch.arange(len(self.feeds), device=ids.device).repeat_interleave(k)[present]
        own = owner[None] == torch.arange(len(self.feeds), device=ids.device)[:, None]
        labelled = (self.category_ids != ABSENT)[:, None]
        return vectors[present], torch.where(labelled, ids[None] != self.category_ids[:, None], own)


def _pairs(rows: _Rows, left: Tensor, right: Tensor, kind: int, temperature: Tensor) -> Tensor:
    repels = rows.repels()
    extra, extra_allowed = rows.extras(kind)
    return symmetric_info_nce(left, right, extra, temperature, torch.cat([repels, extra_allowed], 1), repels)


def _object_attribute(rows: _Rows, temperature: Tensor) -> Tensor:
    rows = rows.where(rows.has[:, 0] & rows.has[:, 1])
    return _pairs(rows, rows.objects, rows.attributes, 0, temperature)


def _object_category(rows: _Rows, temperature: Tensor) -> Tensor:
    rows = rows.where(rows.has[:, 0] & rows.has[:, 2])
    return _pairs(rows, rows.objects, rows.categories, 1, temperature)


def _attribute_category(rows: _Rows, temperature: Tensor) -> Tensor:
    rows = rows.where(rows.has[:, 1] & rows.has[:, 2])
    repels = rows.repels()
    categories, categories_allowed = rows.extras(1)
    attributes, attributes_allowed = rows.extras(0)
    positives = torch.arange(len(rows.feeds), device=repels.device)
    forward = info_nce(
        rows.attributes,
        torch.cat([rows.categories, categories]),
        positives,
        torch.cat([repels, categories_allowed], 1),
        temperature,
    )
    backward = info_nce(
        rows.categories,
        torch.cat([rows.attributes, attributes]),
        positives,
        torch.cat([repels, attributes_allowed], 1),
        temperature,
    )
    return (forward + backward) / 2


def _category_category(rows: _Rows, temperature: Tensor) -> Tensor:
    rows = rows.where(rows.has[:, 2])
    extra, extra_allowed = rows.extras(1)
    positives = torch.arange(len(rows.feeds), device=rows.feeds.device)
    allowed = torch.cat([rows.repels(), extra_allowed], 1)
    return info_nce(rows.categories, torch.cat([rows.categories, extra]), positives, allowed, temperature)


_TERMS = {
    "object_attribute": _object_attribute,
    "attribute_category": _attribute_category,
    "category_category": _category_category,
    "object_category": _object_category,
}


def finite(output: ObjectiveOutput) -> str | None:
    """Name of the first term that is not a finite number, None where all are."""
    return next((name for name, value in output.terms.items() if not math.isfinite(value.item())), None)
