"""What a miner takes and gives, and the registry it is found in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finedefics.records import Category
from finedefics.registry import Registry

KEEP = 16

Ranking = list[tuple[str, float]]  # (category id, similarity), most similar first


@dataclass(frozen=True)
class Confusable:
    """A picture whose confusable categories are sought."""

    sample_id: str
    category_id: str | None
    attributes: Mapping[str, str] = field(default_factory=dict)  # of its description; empty where it has none
    provided: tuple[str, ...] = ()  # ids that the source names as hard negatives, hardest first


class Miner(Protocol):
    """Ranks wrong categories for pictures; made of the category table and what follows its name's colon."""

    @property
    def miner_id(self) -> str:
        """Name of the miner and of what determines its similarities."""
        ...

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none where nothing is known of it."""
        ...


MINERS: Registry[Callable[[Sequence[Category], str | None], Miner]] = Registry(
    "miner", package="finedefics.mining", group="finedefics.miners"
)
