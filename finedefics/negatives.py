"""Hard negatives: for each picture the wrong categories that are most easily taken for the right one.

A miner ranks categories once; a search over the number of negatives takes a prefix of the ranking.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics.registry import Registry

KEEP = 16
# Sample x category pairs compared at once; bounds a task's memory to some tens of megabytes.
_PAIRS_AT_ONCE = 2_000_000

Ranking = list[tuple[str, float]]  # (category id, similarity), most similar first


@dataclass(frozen=True)
class Confusable:
    """A picture whose confusable categories are sought."""

    sample_id: str
    category_id: str | None
    attributes: Mapping[str, str] = field(default_factory=dict)  # of its description; empty where it has none
    provided: tuple[str, ...] = ()  # ids that the source names as hard negatives, hardest first


class Miner(Protocol):
    """Ranks wrong categories for pictures."""

    @property
    def miner_id(self) -> str:
        """Name of the miner and of what determines its similarities."""
        ...

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where nothing is known of it."""
        ...


MINERS: Registry[Callable[[Sequence[Category]], Miner]] = Registry("miner")


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

    def __init__(self, categories: Sequence[Category]) -> None:
        if not any(category.attributes for category in categories):
            raise FinedeficsError(
                "no category has attributes to compare",
                place="miner 'attributes'",
                cure="describe the categories with attributes in categories.jsonl, or choose another miner",
            )
        self._categories = sorted(categories, key=lambda category: category.category_id)
        self._position = {c.category_id: i for i, c in enumerate(self._categories)}
        names = sorted({name for category in categories for name in category.attributes})
        self._column = {name: i for i, name in enumerate(names)}
        self._codes: dict[tuple[str, str], int] = {}
        self._table = self._encode([category.attributes for category in self._categories])

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where it has neither description nor attributes."""
        rows = max(1, _PAIRS_AT_ONCE // len(self._categories))
        rankings: list[Ranking] = []
        for start in range(0, len(pictures), rows):
            rankings += self._rank(pictures[start : start + rows], keep)
        return rankings

    def _rank(self, pictures: Sequence[Confusable], keep: int) -> list[Ranking]:
        visible = self._encode([self._attributes(picture) for picture in pictures])
        equal, shared = _compare(visible, self._table)
        similarity = (equal / np.maximum(shared, 1)).astype(np.float32)
        allowed = np.broadcast_to((visible >= 0).any(axis=1, keepdims=True), similarity.shape).copy()
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

    def _encode(self, rows: Sequence[Mapping[str, str]]) -> npt.NDArray[np.int32]:
        """Values as codes, [rows, attributes]; -1 where the attribute is not visible."""
        table = np.full((len(rows), len(self._column)), -1, dtype=np.int32)
        for row, attributes in enumerate(rows):
            for name, value in attributes.items():
                if name in self._column:  # an attribute of no category says nothing of similarity
                    table[row, self._column[name]] = self._codes.setdefault((name, value), len(self._codes))
        return table


@MINERS.register("provided")
class ProvidedMiner:
    """Takes the hard negatives that the source names, in its order; similarity is 1 / rank, for want of any.

    A picture's own category and ids that the category table lacks are left out.
    """

    miner_id = "provided"

    def __init__(self, categories: Sequence[Category]) -> None:
        self._known = {category.category_id for category in categories}

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where the source names none."""
        return [
            [
                (category, 1 / rank)
                for rank, category in enumerate(picture.provided, start=1)
                if category in self._known and category != picture.category_id
            ][:keep]
            for picture in pictures
        ]


def _compare(
    left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Numbers of equal and of shared attributes, both [left rows, right rows]."""
    equal = np.zeros((len(left), len(right)), dtype=np.int32)
    shared = np.zeros_like(equal)
    for column in range(left.shape[1]):
        a, b = left[:, column, None], right[None, :, column]
        both = (a >= 0) & (b >= 0)
        shared += both
        equal += both & (a == b)
    return equal, shared


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
