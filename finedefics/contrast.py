"""The contrastive batch: rows of every rank, who may repel whom, and the terms over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finedefics.batch import ABSENT, Batch
from finedefics.distributed import gathering
from finedefics.errors import FinedeficsError
from finedefics.flat import sent
from finedefics.losses import (
    TermLoss,
    attribute_category,
    category_category,
    object_attribute,
    object_category,
    once,
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
    nearest_ids: Tensor  # [rows]
    negative_ids: Tensor  # [rows, k]
    looks: Tensor  # [rows, attributes]
    text_ids: Tensor  # [rows]
    negative_text_ids: Tensor  # [rows, k]
    feeds: Tensor  # [rows]

    @staticmethod
    def gathered(batch: Batch, embedded: Tensor) -> "Rows":
        """The rows of every rank, from this rank's normalised embeddings [embedded, dim].

        Raises:
            FinedeficsError: an embedding is not finite; every rank sees it and raises.
        """
        return Rows.gathering(batch, embedded)()

    @staticmethod
    def gathering(batch: Batch, embedded: Tensor) -> "Callable[[], Rows]":
        """Start to gather; called, the result gives what `gathered` does."""
        single = torch.stack([batch.objects, batch.attributes, batch.categories], 1)
        negative = torch.stack([batch.negative_attributes, batch.negative_categories], 2)
        places = torch.cat([single, negative.flatten(1)], 1)  # [rows, 3 + 2k]
        vectors = gathering(embedded[places.clamp(min=0)])
        facts = [places, batch.category_ids[:, None], batch.nearest_ids[:, None], batch.negative_category_ids]
        facts += [batch.looks, batch.text_ids[:, None], batch.negative_text_ids, batch.feeds[:, None]]
        told, widths = gathering(torch.cat(facts, 1)), [f.shape[1] for f in facts]
        return lambda: Rows._arrived(vectors(), told().split(widths, 1), batch.step)

    @staticmethod
    def _arrived(vectors: Tensor, columns: Sequence[Tensor], step: int) -> "Rows":
        places, category, nearest, negatives, looks, texts, negative_texts, feeds = columns
        k = negatives.shape[1]
        _check_finite(vectors, places, step)
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
            nearest[:, 0],
            negatives,
            looks,
            texts[:, 0],
            negative_texts,
            feeds[:, 0],
        )

    def where(self, keep: Tensor) -> "Rows":
        """The rows for which ``keep`` [rows] holds."""
        rows = keep.nonzero()[:, 0]  # one wait for the device, not one a field
        return Rows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def fed(self, feeds: set[str]) -> Tensor:
        """[rows] which of them are of these feeds."""
        wanted = sent(torch.tensor([name in feeds for name in FEEDS]), self.feeds.device)
        return wanted[self.feeds]

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

    def keys(self, kind: int, *, unique: bool = True) -> tuple[Tensor, Tensor]:
        """Hard negatives as keys beside the rows' own: [extras, dim], and which of all keys are negatives of
        which row, [rows, rows + extras].

        Args:
            kind: 0 for descriptions, 1 for names.
            unique: a text counts once for a row, however many rows share it or had it mined.
        """
        vectors, meets, texts = self.extras(kind)
        allowed = torch.cat([self.repels(), meets], 1)
        if unique:
            own = (self.text_ids, self.category_ids)[kind]  # names differ, so a category stands for its own
            allowed = once(allowed, torch.cat([own, texts]), torch.arange(len(own), device=own.device))
        return vectors, allowed

    def extras(self, kind: int) -> tuple[Tensor, Tensor, Tensor]:
        """Hard negatives of every row as keys for all: [extras, dim], the mask [rows, extras], and ids
        [extras] of their texts.

        A row without a label meets only its own hard negatives (they were mined to conflict with it); a
        labelled row meets all that are of another category.
        """
        vectors = (self.negative_attributes, self.negative_categories)[kind].flatten(0, 1)
        present = self.has_negatives[:, :, kind].flatten().nonzero()[:, 0]
        ids = self.negative_ids.flatten()[present]
        k = self.negative_ids.shape[1]
        owner = torch.arange(len(self.feeds), device=ids.device).repeat_interleave(k)[present]
        own = owner[None] == torch.arange(len(self.feeds), device=ids.device)[:, None]
        labelled = (self.category_ids != ABSENT)[:, None]
        met = torch.where(labelled, ids[None] != self.category_ids[:, None], own)
        texts = ids if kind else self.negative_text_ids.flatten()[present]
        return vectors[present], met, texts

    def coverage(self, kind: int) -> Tensor:
        """Share of rows whose nearest other category stands among the keys, of those for which it is known.

        A scalar, NaN where it is known for none. Hard negatives can only bring what is not there without
        them: they matter where this is low. Keys without a label count for no category, so with captioned
        rows the share is a lower bound.

        Args:
            kind: of the keys: 0 for descriptions, 1 for names.
        """
        mined = torch.where(self.has_negatives[:, :, kind], self.negative_ids, ABSENT)
        known = self.nearest_ids != ABSENT
        found = torch.isin(self.nearest_ids, torch.cat([self.category_ids, mined.flatten()]))
        return (found & known).sum() / known.sum()


def _object_attribute(rows: Rows, temperature: Tensor, unique: bool) -> TermLoss:
    extra, allowed = rows.keys(0, unique=unique)
    return object_attribute(
        rows.objects,
        rows.attributes,
        extra,
        allowed_attributes=allowed,
        allowed_objects=rows.repels(),
        temperature=temperature,
    )


def _object_category(rows: Rows, temperature: Tensor, unique: bool) -> TermLoss:
    extra, allowed = rows.keys(1, unique=unique)
    return object_category(
        rows.objects,
        rows.categories,
        extra,
        allowed_categories=allowed,
        allowed_objects=rows.repels(),
        temperature=temperature,
    )


def _attribute_category(rows: Rows, temperature: Tensor, unique: bool) -> TermLoss:
    (attributes, allowed_attributes), (categories, allowed_categories) = (
        rows.keys(kind, unique=unique) for kind in (0, 1)
    )
    return attribute_category(
        rows.attributes,
        rows.categories,
        attributes,
        categories,
        allowed_attributes=allowed_attributes,
        allowed_categories=allowed_categories,
        temperature=temperature,
    )


def _category_category(rows: Rows, temperature: Tensor, unique: bool) -> TermLoss:
    extra, allowed = rows.keys(1, unique=unique)
    return category_category(rows.categories, extra, allowed=allowed, temperature=temperature)


_TERMS = {  # each with what a row must have to take part (object, attribute, category) and its queries' keys
    "object_attribute": (_object_attribute, [0, 1], 0),
    "attribute_category": (_attribute_category, [1, 2], 1),
    "category_category": (_category_category, [2], 1),
    "object_category": (_object_category, [0, 2], 1),
}


def rows_of_term(rows: Rows, name: str, settings: ObjectiveSettings) -> Rows:
    """The rows that take part in a contrastive term: those of its feeds that have what it compares."""
    complete = rows.has[:, _TERMS[name][1]].all(1)
    return rows.where(rows.fed(settings.feeds(name)) & complete)


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
        if settings.feeds(name):
            of_names = name == "attribute_category"
            temperature = attribute_category_temperature if of_names else object_attribute_temperature
            term, *_ = _TERMS[name]
            found[name] = term(rows_of_term(rows, name, settings), temperature, settings.unique_keys)
    counts = torch.stack([term.contrasted for term in found.values()]).tolist()
    for name, count in zip(found, counts, strict=True):
        if count == 0:
            raise FinedeficsError(
                f"no row of the feeds {', '.join(sorted(settings.feeds(name)))} has a negative",
                place=f"term {name}, step {step + 1}",
                cure="give the stage more rows a step or more hard negatives, or leave the term out",
            )
    return found


def coverage(rows: Rows, settings: ObjectiveSettings) -> dict[str, Tensor]:
    """Of every contrastive term, how many of its rows have their nearest category among the keys.

    See `Rows.coverage`; scalars, over the global batch.
    """
    asked = [name for name in CONTRASTIVE_TERMS if settings.feeds(name)]
    return {name: rows_of_term(rows, name, settings).coverage(_TERMS[name][2]) for name in asked}


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
