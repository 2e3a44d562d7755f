"""The contrastive batch: rows of every rank, who may repel whom, and the terms over them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from finedefics.batch import ABSENT, Batch
from finedefics.distributed import gather
from finedefics.errors import FinedeficsError
from finedefics.losses import (
    TermLoss,
    attribute_category,
    category_category,
    object_attribute,
    object_category,
)
from finedefics.terms import CONTRASTIVE_TERMS, FEEDS, ObjectiveSettings


@dataclass(frozen=True)
class Rows:
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
    def gathered(batch: Batch, embedded: Tensor) -> "Rows":
        """The rows of every rank, from this rank's normalised embeddings [embedded, dim].

        Raises:
            FinedeficsError: an embedding is not finite; every rank sees it and raises.
        """
        k = batch.negative_attributes.shape[1]
        single = torch.stack([batch.objects, batch.attributes, batch.categories], 1)
        negative = torch.stack([batch.negative_attributes, batch.negative_categories], 2)
        places = torch.cat([single, negative.flatten(1)], 1)  # [rows, 3 + 2k]
        vectors = gather(embedded[places.clamp(min=0)])
        facts = [places, batch.category_ids[:, None], batch.negative_category_ids]
        facts += [batch.looks, batch.text_ids[:, None], batch.feeds[:, None]]
        widths = [f.shape[1] for f in facts]
        places, category, negatives, looks, texts, feeds = gather(torch.cat(facts, 1)).split(widths, 1)
        _check_finite(vectors, places, batch.step)
        negative_vectors = vectors[:, 3:].unflatten(1, (k, 2))
        return Rows(
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

    def where(self, keep: Tensor) -> "Rows":
        """The rows for which ``keep`` [rows] holds."""
        return Rows(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def of_feeds(self, feeds: set[str]) -> "Rows":
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


def _object_attribute(rows: Rows, temperature: Tensor) -> TermLoss:
    rows = rows.where(rows.has[:, 0] & rows.has[:, 1])
    extra, meets = rows.extras(0)
    repels = rows.repels()
    return object_attribute(
        rows.objects,
        rows.attributes,
        extra,
        allowed_attributes=torch.cat([repels, meets], 1),
        allowed_objects=repels,
        temperature=temperature,
    )


def _object_category(rows: Rows, temperature: Tensor) -> TermLoss:
    rows = rows.where(rows.has[:, 0] & rows.has[:, 2])
    extra, meets = rows.extras(1)
    repels = rows.repels()
    return object_category(
        rows.objects,
        rows.categories,
        extra,
        allowed_categories=torch.cat([repels, meets], 1),
        allowed_objects=repels,
        temperature=temperature,
    )


def _attribute_category(rows: Rows, temperature: Tensor) -> TermLoss:
    rows = rows.where(rows.has[:, 1] & rows.has[:, 2])
    (attributes, meets_attributes), (categories, meets_categories) = rows.extras(0), rows.extras(1)
    repels = rows.repels()
    return attribute_category(
        rows.attributes,
        rows.categories,
        attributes,
        categories,
        allowed_attributes=torch.cat([repels, meets_attributes], 1),
        allowed_categories=torch.cat([repels, meets_categories], 1),
        temperature=temperature,
    )


def _category_category(rows: Rows, temperature: Tensor) -> TermLoss:
    rows = rows.where(rows.has[:, 2])
    extra, meets = rows.extras(1)
    allowed = torch.cat([rows.repels(), meets], 1)
    return category_category(rows.categories, extra, allowed=allowed, temperature=temperature)


_TERMS = {
    "object_attribute": _object_attribute,
    "attribute_category": _attribute_category,
    "category_category": _category_category,
    "object_category": _object_category,
}


def contrastive_terms(
    rows: Rows,
    settings: ObjectiveSettings,
    object_attribute_temperature: Tensor,
    attribute_category_temperature: Tensor,
    *,
    step: int,
) -> dict[str, TermLoss]:
    """Every contrastive term the settings ask for, over the rows of its feeds.

    A row without any allowed negative (a caption that conflicts with no other, say) is left out of its mean
    and counted in `TermLoss.left_out`.

    Raises:
        FinedeficsError: no row of a term has a negative. Rows are gathered, so all ranks stop together.
    """
    found: dict[str, TermLoss] = {}
    for name in CONTRASTIVE_TERMS:
        feeds = settings.feeds(name)
        if feeds:
            of_names = name == "attribute_category"
            temperature = attribute_category_temperature if of_names else object_attribute_temperature
            found[name] = _TERMS[name](rows.of_feeds(feeds), temperature)
    counts = torch.stack([term.contrasted for term in found.values()]).tolist()
    for name, count in zip(found, counts, strict=True):
        if count == 0:
            raise FinedeficsError(
                f"no row of the feeds {', '.join(sorted(settings.feeds(name)))} has a negative",
                place=f"term {name}, step {step + 1}",
                cure="give the stage more rows a step or more hard negatives, or leave the term out",
            )
    return found


def _check_finite(vectors: Tensor, places: Tensor, step: int) -> None:
    bad = (~vectors.detach().isfinite().all(-1) & (places != ABSENT)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        kind = ("object", "attribute", "category")[column] if column < 3 else "hard negative"
        raise FinedeficsError(
            f"the {kind} embedding of row {row} of the global batch is not finite",
            place=f"step {step + 1}",
            cure="lower the learning_rate or gradient_clip, or look at `finedefics data inspect`",
        )
