"""The contrastive terms of Finedefics (ICLR 2025, section 3): every formula stands here and nowhere else.

A term is one or two InfoNCE over boolean masks ``[queries, keys]`` of allowed negatives, so that rows of one
category, or descriptions that do not conflict, never repel each other. `alignment_losses` makes the masks
from category ids, normalises and checks; the functions named after the terms take masks as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finedefics.embeddings import Ids, check_shapes, codes, normalised
from finedefics.errors import FinedeficsError

TEMPERATURE_RANGE = (0.001, 0.5)
DEFAULT_WEIGHTS = {"object_attribute": 0.5, "attribute_category": 0.5, "category_category": 0.5}


def clamp_temperature(temperature: float | Tensor) -> float | Tensor:
    """A temperature within `TEMPERATURE_RANGE`."""
    low, high = TEMPERATURE_RANGE
    return (
        temperature.clamp(low, high) if isinstance(temperature, Tensor) else min(max(temperature, low), high)
    )


@dataclass(frozen=True)
class Half:
    """One InfoNCE: who asks, who answers, and what came out.

    Attributes:
        name: "object to attribute" and the like.
        loss: scalar, the mean over the queries that have a negative; 0 where none has.
        contrasted: [queries] boolean, whether a query has any allowed negative.
    """

    name: str
    loss: Tensor
    contrasted: Tensor


@dataclass(frozen=True)
class TermLoss:
    """A contrastive term and the halves it is the mean of."""

    halves: tuple[Half, ...]

    @property
    def loss(self) -> Tensor:
        """Mean of the halves, a scalar."""
        return torch.stack([half.loss for half in self.halves]).mean()

    @property
    def contrasted(self) -> Tensor:
        """Queries of all halves that have any allowed negative, counted; a scalar."""
        return torch.stack([half.contrasted.sum() for half in self.halves]).sum()

    @property
    def left_out(self) -> Tensor:
        """Queries of all halves that were left out of their mean, counted; a scalar."""
        return torch.stack([(~half.contrasted).sum() for half in self.halves]).sum()


def info_nce(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor,
    allowed: Tensor | None,
    temperature: float | Tensor,
    *,
    name: str = "query to key",
) -> Half:
    """Cross-entropy of each query's positive key among the allowed ones.

    A query without any allowed negative has nothing to tell apart: it is left out of the mean.

    Args:
        queries: [queries, dim], normalised.
        keys: [keys, dim], normalised.
        positives: [queries] index of each query's positive key.
        allowed: [queries, keys] boolean, True where a key is a negative of the query; None allows all. The
            positive is always kept.
        temperature: clamped to `TEMPERATURE_RANGE`.
        name: of the half.
    """
    similarity = queries @ keys.T / clamp_temperature(temperature)
    positive = positives[:, None] == torch.arange(len(keys), device=positives.device)
    negative = ~positive if allowed is None else allowed & ~positive
    contrasted = negative.any(1)
    losses = F.cross_entropy(
        similarity.masked_fill(~(negative | positive), float("-inf")), positives, reduction="none"
    )
    return Half(name, (losses * contrasted).sum() / contrasted.sum().clamp(min=1), contrasted)


def once(allowed: Tensor | None, texts: Tensor, positives: Tensor) -> Tensor:
    """The mask in which each text is a negative at most once: its first allowed copy stands for all.

    A copy of a query's positive is none of its negatives. Equal texts have equal embeddings, so which copy
    stands for them changes neither the loss nor any parameter's gradient.

    Args:
        allowed: [queries, keys] boolean; None allows all.
        texts: [keys] ids, equal where the texts are.
        positives: [queries] index of each query's positive key.
    """
    kinds, text = texts.unique(return_inverse=True)
    place = torch.arange(len(text), device=text.device).expand(len(positives), -1)
    same = text.expand_as(place)
    places = place if allowed is None else torch.where(allowed, place, len(text))
    first = places.new_full((len(places), len(kinds)), len(text)).scatter_reduce(1, same, places, "amin")
    return (place == first.gather(1, same)) & (text != text[positives][:, None])


def _symmetric(
    left: Tensor,
    right: Tensor,
    extra_left: Tensor,
    extra_right: Tensor,
    allowed_left: Tensor | None,
    allowed_right: Tensor | None,
    temperature: float | Tensor,
    names: tuple[str, str],
) -> TermLoss:
    """Each side over the other and its hard negatives; row i of both sides is a positive pair."""
    rows = torch.arange(len(left), device=left.device)
    there, back = torch.cat([right, extra_right]), torch.cat([left, extra_left])
    one, other = names
    return TermLoss(
        (
            info_nce(left, there, rows, allowed_right, temperature, name=f"{one} to {other}"),
            info_nce(right, back, rows, allowed_left, temperature, name=f"{other} to {one}"),
        )
    )


def object_attribute(
    objects: Tensor,
    attributes: Tensor,
    negative_attributes: Tensor,
    *,
    allowed_attributes: Tensor | None,
    allowed_objects: Tensor | None,
    temperature: float | Tensor,
) -> TermLoss:
    """OAC: half InfoNCE(o_i over A), half InfoNCE(a_i over {o_j}), A = {a_j} and the hard negatives.

    Args:
        objects, attributes: [rows, dim], normalised; equal rows are positive pairs.
        negative_attributes: [extras, dim], keys only.
        allowed_attributes: [rows, rows + extras] allowed negatives of the objects; None allows all.
        allowed_objects: [rows, rows] allowed negatives of the attributes.
        temperature: τ_oa.
    """
    masks = (allowed_objects, allowed_attributes)
    sides = ("object", "attribute")
    return _symmetric(objects, attributes, objects[:0], negative_attributes, *masks, temperature, sides)


def object_category(
    objects: Tensor,
    categories: Tensor,
    negative_categories: Tensor,
    *,
    allowed_categories: Tensor | None,
    allowed_objects: Tensor | None,
    temperature: float | Tensor,
) -> TermLoss:
    """The ablation without attributes: `object_attribute` with names in the place of descriptions."""
    masks = (allowed_objects, allowed_categories)
    sides = ("object", "category")
    return _symmetric(objects, categories, objects[:0], negative_categories, *masks, temperature, sides)


def attribute_category(
    attributes: Tensor,
    categories: Tensor,
    negative_attributes: Tensor,
    negative_categories: Tensor,
    *,
    allowed_attributes: Tensor | None,
    allowed_categories: Tensor | None,
    temperature: float | Tensor,
) -> TermLoss:
    """ACC: half InfoNCE(a_i over C), half InfoNCE(c_i over A), each with its hard negatives.

    Args:
        attributes, categories: [rows, dim], normalised; equal rows are positive pairs.
        negative_attributes, negative_categories: [extras, dim], keys only.
        allowed_attributes: [rows, rows + extras] allowed negatives of the categories; None allows all.
        allowed_categories: [rows, rows + extras] allowed negatives of the attributes.
        temperature: τ_ac.
    """
    extras, masks = (negative_attributes, negative_categories), (allowed_attributes, allowed_categories)
    return _symmetric(attributes, categories, *extras, *masks, temperature, ("attribute", "category"))


def category_category(
    categories: Tensor,
    negative_categories: Tensor,
    *,
    allowed: Tensor | None,
    temperature: float | Tensor,
    released_variant: bool = False,
) -> TermLoss:
    """CCC: InfoNCE(c_i over C), which keeps the names of siblings apart.

    Args:
        categories: [rows, dim], normalised.
        negative_categories: [extras, dim], keys only.
        allowed: [rows, rows + extras] allowed negatives; None allows all.
        temperature: τ_oa, as released.
        released_variant: the positive of every row is column 0, as in the released code, not the diagonal.
    """
    positives = torch.arange(len(categories), device=categories.device)
    if released_variant:
        positives = torch.zeros_like(positives)
    keys = torch.cat([categories, negative_categories])
    return TermLoss(
        (info_nce(categories, keys, positives, allowed, temperature, name="category to category"),)
    )


@dataclass(frozen=True)
class AlignmentLosses:
    """The three contrastive terms of one batch (scalars), and every half by its name."""

    object_attribute: Tensor
    attribute_category: Tensor
    category_category: Tensor
    halves: Mapping[str, Tensor]

    def total(self, weights: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum; by default the paper's 0.5 each. A term that ``weights`` leaves out counts 0.

        Raises:
            ValueError: an unknown term, or no term at all.
        """
        chosen = DEFAULT_WEIGHTS if weights is None else weights
        if not chosen or set(chosen) - set(DEFAULT_WEIGHTS):
            raise ValueError(f"weights {dict(chosen)} are not of the terms {', '.join(DEFAULT_WEIGHTS)}")
        return torch.stack([weight * getattr(self, term) for term, weight in chosen.items()]).sum()


def alignment_losses(
    objects: Tensor,
    attributes: Tensor,
    categories: Tensor,
    *,
    negative_attributes: Tensor | None = None,
    negative_categories: Tensor | None = None,
    category_ids: Ids | None = None,
    negative_category_ids: Ids | None = None,
    object_attribute_temperature: float | Tensor,
    attribute_category_temperature: float | Tensor,
    released_variant: bool = False,
) -> AlignmentLosses:
    """All three contrastive terms of a batch of labelled rows.

    Args:
        objects, attributes, categories: [batch, dim], not normalised.
        negative_attributes, negative_categories: [batch * k, dim]; every row meets those of all rows, so
            their order means nothing.
        category_ids: [batch]; rows of one category are then never each other's negatives, in any term.
        negative_category_ids: [batch * k]; wanted where there are ids and hard negatives. A hard negative is
            not a negative of the rows of its own category.
            Keys count as they are given: of copies of one text, give one (`once`).
        object_attribute_temperature, attribute_category_temperature: clamped to `TEMPERATURE_RANGE`; a
            tensor may be learned.
        released_variant: the numbers of the released code, where CCC's positive is column 0 for every row.

    Raises:
        FinedeficsError: an embedding is not finite or zero, a row has no category id, or a query has no
            negative left; the message names the input and the row.
        ValueError: fewer than two rows, shapes that do not fit each other, hard negatives without the ids
            their rows have, a temperature that is not finite, or ids together with ``released_variant``,
            which masks nothing.
    """
    single = {"objects": objects, "attributes": attributes, "categories": categories}
    hard = {"negative_attributes": negative_attributes, "negative_categories": negative_categories}
    temperatures = (object_attribute_temperature, attribute_category_temperature)
    check_shapes(single, hard)
    if released_variant and category_ids is not None:
        raise ValueError("released_variant masks nothing: leave category_ids out")
    shown = [float(torch.as_tensor(value).detach()) for value in temperatures]
    if not all(map(math.isfinite, shown)):
        raise ValueError(f"temperatures must be finite numbers, not {shown}")
    o, a, c = (normalised(name, value) for name, value in single.items())
    extra_a, extra_c = (o[:0] if value is None else normalised(name, value) for name, value in hard.items())
    ids, extra_ids = codes(category_ids, negative_category_ids, len(o), max(len(extra_a), len(extra_c)))

    def allowed(extras: Tensor) -> Tensor | None:
        if ids is None:
            return None
        return (ids[:, None] != torch.cat([ids, extra_ids[: len(extras)]])).to(o.device)

    oa, ac = temperatures
    with_a, with_c, rows = allowed(extra_a), allowed(extra_c), allowed(o[:0])
    terms = {
        "object_attribute": object_attribute(
            o, a, extra_a, allowed_attributes=with_a, allowed_objects=rows, temperature=oa
        ),
        "attribute_category": attribute_category(
            a, c, extra_a, extra_c, allowed_attributes=with_a, allowed_categories=with_c, temperature=ac
        ),
        "category_category": category_category(
            c, extra_c, allowed=with_c, temperature=oa, released_variant=released_variant
        ),
    }
    _check_contrast(terms)
    return AlignmentLosses(
        **{name: term.loss for name, term in terms.items()},
        halves={half.name: half.loss for term in terms.values() for half in term.halves},
    )


def _check_contrast(terms: Mapping[str, TermLoss]) -> None:
    for term, found in terms.items():
        for half in found.halves:
            if half.contrasted.all():
                continue
            raise FinedeficsError(
                f"the query {half.name} has no negative left, nothing to contrast",
                place=f"{term}, row {int((~half.contrasted).nonzero()[0])}",
                cure="give a batch with rows of another category, or hard negatives of other categories",
            )
