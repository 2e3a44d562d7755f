"""Hard negatives by embeddings: the categories whose embedding lies nearest to the picture's."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from finedefics.mining.attributes import AttributeTable
from finedefics.mining.base import KEEP
from finedefics.mining.topk import Ranked, check_finite, nearest
from finedefics.records import Category


class EmbeddingMiner:
    """Ranks categories by cosine with a picture's embedding.

    A labelled picture's own category is no candidate. For a picture without a label only categories that
    conflict with its description's attributes are, since any other may be the right one: where attributes are
    not known it has none. Equally similar categories stand by id.

    Args:
        categories: sorted by id.
        targets: [categories, dim] float, normalised; a row of zeros where the category has no embedding, and
            is nobody's candidate.
        device: where similarities are computed. The CPU unless a GPU is given: all processes that only see
            one, and reserved none, would use it.

    Raises:
        FinedeficsError: a category's embedding holds NaN or infinity.
    """

    def __init__(
        self, categories: Sequence[Category], targets: npt.NDArray[np.floating], device: str = "cpu"
    ) -> None:
        ids = [category.category_id for category in categories]
        assert ids == sorted(ids), "categories in the order of their ids: ties stand by it"
        self._targets = torch.as_tensor(np.asarray(targets, np.float32), device=device)
        there = (self._targets != 0).any(1)
        check_finite(self._targets[there], [ids[i] for i in there.nonzero()[:, 0].tolist()], "category")
        self._there = None if bool(there.all()) else there
        self._position = {category_id: i for i, category_id in enumerate(ids)}
        self._table = AttributeTable(categories) if any(c.attributes for c in categories) else None

    def rank(
        self,
        embeddings: npt.NDArray[np.floating],
        category_ids: Sequence[str | None],
        attributes: Sequence[Mapping[str, str]] | None = None,
        keep: int = KEEP,
    ) -> Ranked:
        """At most ``keep`` candidates for each of some pictures.

        Args:
            embeddings: [pictures, dim], normalised; zeros where a picture has none, and no candidates then.
            category_ids: of the pictures, None without a label.
            attributes: of the pictures' descriptions; default: none is known.
        """
        rows = torch.as_tensor(embeddings)
        own = torch.tensor([-1 if c is None else self._position.get(c, -1) for c in category_ids])
        found = nearest(rows, self._targets, keep, own=own, allowed=self._there)
        silent = (rows == 0).all(1).numpy()
        unlabelled = np.array([category is None for category in category_ids], dtype=bool)
        found.positions[silent | unlabelled] = -1
        found.similarity[silent | unlabelled] = np.nan
        told = np.flatnonzero(unlabelled & ~silent)
        if self._table is not None and attributes is not None and len(told):
            self._rank_unlabelled(rows, told, attributes, keep, found)
        return found

    def _rank_unlabelled(
        self,
        rows: torch.Tensor,
        told: npt.NDArray[np.intp],
        attributes: Sequence[Mapping[str, str]],
        keep: int,
        found: Ranked,
    ) -> None:
        assert self._table is not None
        step = max(1, 8_000_000 // len(self._targets))  # a mask's bytes
        for start in range(0, len(told), step):
            some = told[start : start + step]
            may = torch.as_tensor(self._table.conflicts([attributes[i] for i in some]))
            may = may.to(self._targets.device)
            if self._there is not None:
                may &= self._there
            best = nearest(rows[some], self._targets, keep, allowed=may)
            found.positions[some], found.similarity[some] = best.positions, best.similarity
