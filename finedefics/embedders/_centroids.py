"""Categories as the mean direction of their labelled training pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finedefics.embedders._base import Array, normalised


class Centroids:
    """Sums embeddings as they come, so that no more than a sum a category is held.

    Args:
        categories: ids, in the order of the rows.
        dim: width of the embeddings.
    """

    def __init__(self, categories: Sequence[str], dim: int) -> None:
        self._place = {category: row for row, category in enumerate(categories)}
        self._sums = np.zeros((len(categories), dim))  # float64: the order of adding must not show

    def add(self, embeddings: npt.NDArray[np.floating], categories: Sequence[str]) -> None:
        """Count labelled pictures of the train split: of no other, or an evaluation would see itself.

        Args:
            embeddings: [pictures, dim], normalised.
            categories: their ids; those that the table lacks are passed over.
        """
        rows = np.array([self._place.get(category, -1) for category in categories], dtype=np.intp)
        known = rows >= 0
        np.add.at(self._sums, rows[known], np.asarray(embeddings, np.float64)[known])

    def rows(self) -> Array:
        """Centroids [categories, dim], normalised; zeros for a category without a picture."""
        return normalised(self._sums)
