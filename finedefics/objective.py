"""The objective of every stage: one module, one forward, any mix of labelled, captioned and text rows."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.batch import ABSENT, CONTRASTIVE_TERMS, FEEDS, GENERATION_TERMS, Batch, ObjectiveSettings
from finedefics.distributed import gather, total, world_size
from finedefics.losses import info_nce, symmetric_info_nce


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
    """

    def __init__(self, backbone: Backbone, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        # learned in log space, so that a step is relative to the temperature's own size
        start = [settings.object_attribute_temperature, settings.attribute_category_temperature]
        self.log_temperatures = nn.Parameter(
            torch.tensor(start).log(), requires_grad=settings.learnable_temperatures
        )

    def temperatures(self) -> dict[str, float]:
        """Both temperatures, for the record."""
        names = ("object_attribute_temperature", "attribute_category_temperature")
        return dict(zip(names, self.log_temperatures.detach().exp().tolist(), strict=True))

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Compute every term of the stage on one rank's share of a step."""
        images = self.backbone.encode_images(batch.images) if batch.images else []
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        forwarded = useful = 0
        if len(batch.sequences):
            scaled, shown = self._generation(batch, images)
            terms |= shown
            losses += [self._weight(name) * value for name, value in scaled.items()]
            forwarded, useful = batch.sequences.numel(), int(batch.sequence_mask.sum())
        if len(batch.embedded):
            contrast = self._contrast(batch, self._embed(batch, images))
            terms |= {name: value.detach() for name, value in contrast.items()}
            losses += [self._weight(name) * value for name, value in contrast.items()]
            forwarded += batch.embedded.numel()
            useful += int(batch.embedded_mask.sum())
        return ObjectiveOutput(torch.stack(losses).sum(), terms, forwarded, useful)

    def _weight(self, term: str) -> float:
        return self.settings.terms[term].weight

    def _generation(self, batch: Batch, images: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Next-token loss of each generation term: this rank's share, and the global mean to show."""
        used = [images[i] for i in batch.sequence_image.tolist() if i != ABSENT]
        embeddings = self.backbone.embed_tokens(batch.sequences, used)
        hidden = self.backbone.hidden_states(embeddings, batch.sequence_mask)
        targets = batch.labels[:, 1:]
        learned = targets != -100
        # the output head runs only where an answer token stands: it is the widest layer of the model
        losses = F.cross_entropy(
            self.backbone.logits(hidden[:, :-1][learned]).float(), targets[learned], reduction="none"
        )
        owner = batch.sequence_term[:, None].expand_as(targets)[learned]
        share, shown = {}, {}
        for index, name in enumerate(GENERATION_TERMS):
            if self.settings.feeds(name):
                own = losses[owner == index]
                sums = total(
                    torch.stack([own.sum().detach(), torch.tensor(float(len(own)), device=own.device)])
                )
                count = sums[1].clamp(min=1)
                # ranks hold different numbers of answer tokens; their average must be the global mean
                share[name] = own.sum() * world_size() / count
                shown[name] = sums[0] / count
        return share, shown

    def _embed(self, batch: Batch, images: list[Tensor]) -> Tensor:
        """Normalised hidden state at the end-of-sequence token of every unique text and object."""
        used = [images[i] for i in batch.embedded_image.tolist() if i != ABSENT]
        hidden = self.backbone.hidden_states(
            self.backbone.embed_tokens(batch.embedded, used), batch.embedded_mask
        )
        last = batch.embedded_mask.sum(1) - 1
        return F.normalize(hidden[torch.arange(len(last), device=last.device), last].float(), dim=-1)

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
