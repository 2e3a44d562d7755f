"""The miner "attributes": similar is what shares attribute values, and conflicting what differs in one."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError
from finedefics.mining.base import KEEP, MINERS, Confusable, Ranking
from finedefics.records import Category

# Sample x category pairs compared at once; bounds a task's memory to some tens of megabytes.
_PAIRS_AT_ONCE = 2_000_000


class AttributeTable:
    """The attributes of categories as codes, to compare those of pictures with.

    Args:
        categories: in the order of the columns of what is compared.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        names = sorted({name for category in categories for name in category.attributes})
        self._column = {name: i for i, name in enumerate(names)}
        self._codes: dict[tuple[str, str], int] = {}
        self._table = self._encode([category.attributes for category in categories])

    def compare(
        self, pictures: Sequence[Mapping[str, str]]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Numbers of equal and of shared attributes [pictures, categories], and who has any at all."""
        visible = self._encode(pictures)
        equal = np.zeros((len(visible), len(self._table)), dtype=np.int32)
        shared = np.zeros_like(equal)
        for column in range(visible.shape[1]):
            a, b = visible[:, column, None], self._table[None, :, column]
            both = (a >= 0) & (b >= 0)
            shared += both
            equal += both & (a == b)
        known: npt.NDArray[np.bool_] = np.any(visible >= 0, axis=1)
        return equal, shared, known

    def conflicts(self, pictures: Sequence[Mapping[str, str]]) -> npt.NDArray[np.bool_]:
        """Whether a visible attribute differs, [pictures, categories]: then it is surely another category."""
        equal, shared, _ = self.compare(pictures)
        return equal < shared

    def _encode(self, rows: Sequence[Mapping[str, str]]) -> npt.NDArray[np.int32]:
        """Values as codes, [rows, attributes]; -1 where the attribute is not visible."""
        table = np.full((len(rows), len(self._column)), -1, dtype=np.int32)
        for row, attributes in enumerate(rows):
            for name, value in attributes.items():
                if name in self._column:  # an attribute of no category says nothing of similarity
                    table[row, self._column[name]] = self._codes.setdefault((name, value), len(self._codes))
        return table


@MINERS.register("attributes")
class AttributeMiner:
    """Similarity = share of equal values among the attributes visible in picture and category.

    A picture without a description is compared by its category's attributes. A labelled picture's own
    category is no candidate; for a picture without a label only categories that conflict with its
    description are, since any other may be the right one. Equally similar categories stand by id.

    Raises:
        FinedeficsError: no category has attributes.
    """

    miner_id = "attributes-equal-share"

    def __init__(self, categories: Sequence[Category], argument: str | None = None) -> None:
        if not any(category.attributes for category in categories):
            raise FinedeficsError(
                "no category has attributes to compare",
                place="miner 'attributes'",
                cure="describe the categories with attributes in categories.jsonl, or choose another miner",
            )
        self._categories = sorted(categories, key=lambda category: category.category_id)
        self._position = {c.category_id: i for i, c in enumerate(self._categories)}
        self._table = AttributeTable(self._categories)

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where it has neither description nor attributes."""
        rows = max(1, _PAIRS_AT_ONCE // len(self._categories))
        rankings: list[Ranking] = []
        for start in range(0, len(pictures), rows):
            rankings += self._rank(pictures[start : start + rows], keep)
        return rankings

    def _rank(self, pictures: Sequence[Confusable], keep: int) -> list[Ranking]:
        equal, shared, known = self._table.compare([self._attributes(picture) for picture in pictures])
        similarity = (equal / np.maximum(shared, 1)).astype(np.float32)
        allowed = np.broadcast_to(known[:, None], similarity.shape).copy()
        for row, picture in enumerate(pictures):
            if picture.category_id is None:
                allowed[row] &= equal[row] < shared[row]  # conflicting: a visible attribute differs
            elif picture.category_id in self._position:
                allowed[row, self._position[picture.category_id]] = False
        # A stable sort leaves ties in the order of the columns, which is that of the ids.
        order = np.argsort(np.where(allowed, -similarity, np.inf), axis=1, kind="stable")[:, :keep]
        return [
            [(self._categories[c].category_id, float(similarity[row, c])) for c in best if allowed[row, c]]
            for row, best in enumerate(order)
        ]

    def _attributes(self, picture: Confusable) -> Mapping[str, str]:
        if picture.attributes or picture.category_id not in self._position:
            return picture.attributes
        return self._categories[self._position[picture.category_id]].attributes


def nearest_categories(categories: Sequence[Category], keep: int = KEEP) -> dict[str, list[str]]:
    """For each category at most ``keep`` that conflict with its attributes, most similar first (ties by id).

    Without attributes there is nothing to compare, and every list is empty.
    """
    if keep == 0 or not any(category.attributes for category in categories):
        return {category.category_id: [] for category in categories}
    # as a caption without a label: only what conflicts with the text is surely another category
    texts = [Confusable(category.category_id, None, category.attributes) for category in categories]
    rankings = AttributeMiner(categories)(texts, keep)
    return {t.sample_id: [other for other, _ in r] for t, r in zip(texts, rankings, strict=True)}
