"""What a second collating process brings: rows decoded, scaled, tokenised and packed in a second."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.registry import Result, benchmark
from benchmarks.samples import NEGATIVES, SIZES, make_data
from benchmarks.stage_one import STAGE_ONE
from benchmarks.stream import photograph
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics_platform.training.collating import collated, prepare

BATCH, STEPS, REPEATS = 32, 40, 5
WARM = 6  # steps until every process has started and filled its caches


@benchmark("collate_scaling")
def collate_scaling() -> dict[str, Result]:
    """Rows a second with two processes over one, once they run; a ratio is of two runs in turn."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, rng = make_data(), np.random.default_rng(0)
    data.images[:] = [photograph(rng) for _ in range(64)]
    rows = [data.random_batch(BATCH) for _ in range(8)]
    collate = Collator(untrained_backbone(SIZES).processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    prepare(2)
    rates: dict[int, list[float]] = {0: [], 1: [], 2: []}
    starts = []
    for number in range(REPEATS + 1):
        for processes, found in rates.items():
            first, rate = _rate(rows, collate, processes)
            if number:  # the first round warms up
                found.append(rate)
                starts.append(first)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    shown = {processes: statistics.median(found) for processes, found in rates.items()}
    how = (
        f"{STEPS} batches of {BATCH} JPEG pictures (256 x 256) with long descriptions and {NEGATIVES} hard "
        f"negatives: {shown[1]:.0f} rows/s by one process, {shown[2]:.0f} by two, {shown[0]:.0f} by threads "
        f"of this one; the first batch after {statistics.median(starts):.1f} s"
    )
    spread = (min(ratios), max(ratios))
    return {"collate_scaling": Result(statistics.median(ratios), "times", "higher", 1.6, spread, how)}


def _rate(rows: list[Any], collate: Collator, processes: int) -> tuple[float, float]:
    """Seconds to the first batch, and rows a second after the first few."""

    def endless() -> Iterator[Any]:
        for step in range(WARM + STEPS):
            yield step, {"labelled": rows[step % len(rows)]}

    asked = time.perf_counter()
    batches = collated(endless(), collate, processes)
    next(batches)
    first = time.perf_counter() - asked
    for _ in range(WARM - 1):
        next(batches)
    started = time.perf_counter()
    for _, batch in batches:
        assert batch.size == BATCH
    return first, STEPS * BATCH / (time.perf_counter() - started)
