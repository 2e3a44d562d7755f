"""Which rows form which batch of a stage, and which of them are a rank's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from finedefics.errors import wrong_use
from finedefics_platform.config.data import Sampler
from finedefics_platform.config.stage import Stage
from finedefics_platform.training.stream.index import SampleIndex
from finedefics_platform.training.stream.order import Alike, FeedOrder, Positions


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The rows of every global batch of a stage, as numbers of the feeds' rows."""

    index: SampleIndex
    feeds: Mapping[str, int]  # rows of each feed in a global batch
    steps: int
    seed: int
    sampler: Sampler = "shuffled"

    @cached_property
    def orders(self) -> dict[str, FeedOrder]:
        """The order of each feed."""
        return {
            feed: FeedOrder(feed, self.index.feeds[feed], rows, self.seed, self._alike(feed))
            for feed, rows in self.feeds.items()
        }

    def batch(self, step: int) -> dict[str, Positions]:
        """The global batch of ``step``: rows at places [step·B, (step+1)·B) of each feed's sequence."""
        return self.shard(step, 0, 1)

    def shard(self, step: int, rank: int, world_size: int) -> dict[str, Positions]:
        """The contiguous equal part of `batch` that belongs to ``rank``."""
        return {
            feed: order.part(step, *share(order.batch, rank, world_size))
            for feed, order in self.orders.items()
        }

    def batches(self, start_step: int = 0) -> Iterator[tuple[int, dict[str, Positions]]]:
        """Global batches from ``start_step`` to the end of the stage."""
        return ((step, self.batch(step)) for step in range(start_step, self.steps))

    def _alike(self, feed: str) -> Alike | None:
        return self.index.alike(feed) if self.sampler == "confusable" else None


def share(batch: int, rank: int, world_size: int) -> tuple[int, int]:
    """First place and end of a rank's part of a batch."""
    rows = batch // world_size
    return rank * rows, (rank + 1) * rows


def plan_stage(
    index: SampleIndex, feeds: Mapping[str, int], steps: int, seed: int, sampler: Sampler = "shuffled"
) -> StagePlan:
    """Plan a stage of ``steps`` global batches with ``feeds[feed]`` rows of each feed.

    The sampler ``confusable`` makes batches of similar categories out of the rows that are in hand together.

    Raises:
        FinedeficsError: a feed has no rows.
    """
    for feed in feeds:
        index.require(feed)
    return StagePlan(index, dict(feeds), steps, seed, sampler)


def check_divides(stage: Stage, world_size: int) -> None:
    """FinedeficsError (exit code 2) where a feed's rows cannot be shared equally among the workers.

    Equal parts are what lets gathered embeddings have one shape and every rank make the same calls.
    """
    for feed, rows in stage.feeds.items():
        if rows % world_size:
            raise wrong_use(
                f"{rows} rows cannot be shared equally by {world_size} workers",
                place=f"stages.{stage.name}.feeds.{feed}",
                cure=f"use a multiple of {world_size}, or change resources.workers",
            )
