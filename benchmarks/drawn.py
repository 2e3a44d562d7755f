"""A drawn world's samples, and a model taught on them in one process: what comes with accuracies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finedefics.backbones import load_backbone
from finedefics.collation import Collator
from finedefics.conversation import Templates
from finedefics.data.birds import describe
from finedefics.data.generated import Species, World, picture
from finedefics.mining import AttributeMiner, Confusable
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.scoring import Recogniser
from finedefics.terms import ObjectiveSettings, TermSettings

LABELLED, CAPTIONED, TEXT = "labelled", "captioned", "text"
Row = Sample | Category
Orders = Mapping[str, Callable[[], Sequence[int]]]  # of each feed: an epoch's order, drawn anew


@dataclass(frozen=True)
class Taught:
    """A model after its steps.

    Attributes:
        model: with all categories to name.
        forwarded_tokens: positions that its language model computed in a step, padding included; mean.
    """

    model: Recogniser
    forwarded_tokens: float


def joint(*, captioned: bool, shared: bool = True, **changes: object) -> ObjectiveSettings:
    """The joint recipe: every feed in every step, contrast kept alive beside instruction tuning.

    Args:
        captioned: there is that feed.
        shared: labelled rows take part in the contrast; without them captioned pictures alone feed that of
            objects and texts alone that of names.
    """
    shown = (LABELLED, CAPTIONED) if captioned else (LABELLED,)
    objects, names = (shown, (LABELLED, TEXT)) if shared else ((CAPTIONED,), (TEXT,))
    terms = {
        "answer": TermSettings(1.0, (LABELLED,)),
        "caption": TermSettings(1.0, shown),
        "text": TermSettings(1.0, (TEXT,)),
        "object_attribute": TermSettings(1.0, objects),
        "attribute_category": TermSettings(1.0, names),
        "category_category": TermSettings(0.5, names),
    }
    return ObjectiveSettings(terms, **changes)  # type: ignore[arg-type]


def category_of(species: Species) -> Category:
    """A species as a row of the category table."""
    return Category(species.name, species.name, species.family, species.description, species.attributes)


def draw_samples(
    world: World, species: Sequence[Species], each: int, *, split: int, labelled: bool = True
) -> list[Sample]:
    """``each`` described pictures of every given species, hard negatives mined by attributes."""
    found = []
    for one in species:
        number = world.species.index(one)
        for i in range(each):
            image, seen = picture(one.attributes, np.random.default_rng([world.seed, 11, split, number, i]))
            found.append(
                (Confusable(f"{one.name}/{split}-{i}", one.name if labelled else None, seen), image, seen)
            )
    rankings = AttributeMiner([category_of(one) for one in world.species])([f[0] for f in found])
    return [
        Sample(
            asked.sample_id, image, asked.category_id, describe(seen), seen, tuple(other for other, _ in best)
        )
        for (asked, image, seen), best in zip(found, rankings, strict=True)
    ]


def teach(
    base: str,
    world: World,
    settings: ObjectiveSettings,
    rows: Mapping[str, Sequence[Row]],
    *,
    batch: int,
    steps: int,
    negatives: int,
    orders: Orders,
    templates: Templates | None = None,
) -> Taught:
    """Train a base model for some steps, as the demo's arms are trained: AdamW, warm-up, linear decay.

    Args:
        base: folder of the model to start from.
        rows: of each feed.
        batch: rows of each feed in a step.
        negatives: hard negatives a row.
        orders: of each feed, how an epoch is ordered.
        templates: what is said to the model.
    """
    torch.manual_seed(0)
    categories = [category_of(species) for species in world.species]
    backbone = load_backbone(base)
    objective = Objective(backbone, settings)
    collate = Collator(backbone.processor, categories, settings, negatives=negatives, templates=templates)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 10, 1 - 0.9 * step / steps)
    )
    endless = {feed: _epochs(orders[feed]) for feed in rows}
    forwarded = 0
    for step in range(steps):
        chosen = {feed: [rows[feed][next(endless[feed])] for _ in range(batch)] for feed in rows}
        made = collate(chosen, step=step)  # type: ignore[arg-type]
        out = objective(made)
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        forwarded += made.forwarded_tokens
    model = Recogniser(backbone, categories, templates=templates, object_readout=settings.object_readout)
    return Taught(model, forwarded / steps)


def shuffled(count: int, *seed: int) -> Callable[[], Sequence[int]]:
    """An order at random, anew at every call."""
    rng = np.random.default_rng(seed)
    return lambda: rng.permutation(count).tolist()


def right(model: Recogniser, samples: Sequence[Sample], answer: str) -> float:
    """Share of pictures that the answer names rightly, all categories competing."""
    best = model.recognise([sample.image for sample in samples], answer, top=1)
    return float(np.mean([b[0][0] == s.category_id for b, s in zip(best, samples, strict=True)]))


def _epochs(order: Callable[[], Sequence[int]]) -> Iterator[int]:
    while True:
        yield from order()
