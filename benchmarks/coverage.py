"""How often a row's nearest other category stands among its keys: counted in the batches that were formed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from benchmarks.drawn import Row, true_category
from finedefics.batch import Batch
from finedefics.contrast import Rows, rows_of_term
from finedefics.mining.attributes import nearest_categories
from finedefics.records import Category
from finedefics.terms import CONTRASTIVE_TERMS, FEEDS, ObjectiveSettings

TERMS = {"object_attribute": 0, "attribute_category": 1}  # each with the kind of its first half's keys


class Coverage:
    """Watches batches: for every row of both terms, whether a key that it repels is of the category that
    looks most like its own.

    Args:
        categories: the category table.
        settings: of the objective that meets the batches.
    """

    def __init__(self, categories: Sequence[Category], settings: ObjectiveSettings) -> None:
        self.settings = settings
        self.position = {category.category_id: i for i, category in enumerate(categories)}
        nearest = nearest_categories(categories, keep=1)
        self.nearest = torch.tensor([self.position[nearest[c.category_id][0]] for c in categories])
        self.asked = self.found = 0

    @property
    def share(self) -> float:
        """Of the rows seen so far."""
        return self.found / self.asked

    def __call__(self, chosen: Mapping[str, Sequence[Row]], batch: Batch) -> None:
        """Count one step's batch, made of the rows chosen for each feed."""
        fed = [feed for feed in FEEDS if feed in self.settings.feeds(*CONTRASTIVE_TERMS)]
        truth = [self.position[true_category(row)] for feed in fed for row in chosen.get(feed, ())]
        count = len(batch.embedded.reads) + len(batch.sequences.reads)
        rows = Rows.gathered(batch, torch.zeros(count, 1))  # who meets whom, whatever the embeddings are
        rows = replace(rows, objects=torch.tensor(truth, dtype=torch.float)[:, None])  # rides along
        for term, kind in TERMS.items():
            mine = rows_of_term(rows, term, self.settings)
            own = mine.objects[:, 0].long()
            mined = mine.negative_ids.flatten()[mine.has_negatives[:, :, kind].flatten()]
            _, repelling = mine.keys(kind, unique=False)
            nearest = torch.cat([own, mined]) == self.nearest[own][:, None]
            self.asked += len(own)
            self.found += int((nearest & repelling).any(1).sum())
