"""Rows and a collator for tests; run by itself, it collates in two processes until it is killed."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.data.generated import make_world, picture
from finedefics.records import Category, Sample
from finedefics.terms import TERM_FEEDS, ObjectiveSettings, TermSettings
from finedefics_platform.training.collating import collated, prepare

CATEGORIES = [
    Category(s.name, s.name, s.family, s.description, s.attributes) for s in make_world(0).species[:4]
]


def small_collator() -> Collator:
    torch.manual_seed(0)
    settings = ObjectiveSettings({name: TermSettings(1.0, feeds) for name, feeds in TERM_FEEDS.items()})
    return Collator(untrained_backbone().processor, CATEGORIES, settings, negatives=2, seed=3)


def rows_of(steps: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Two pictures and a text a step."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        shown = [CATEGORIES[(step + i) % 4] for i in range(2)]
        wrong = [tuple(c.category_id for c in CATEGORIES if c is not each)[:2] for each in shown]
        samples = [
            Sample(
                f"{step}-{i}", picture(c.attributes, rng)[0], c.category_id, c.description, c.attributes, w
            )
            for i, (c, w) in enumerate(zip(shown, wrong, strict=True))
        ]
        yield step, {"labelled": samples, "text": [CATEGORIES[step % 4]]}


if __name__ == "__main__":
    prepare(2)
    batches = collated(rows_of(10_000), small_collator(), 2)
    next(batches), next(batches)
    print("collating", flush=True)
    time.sleep(600)
