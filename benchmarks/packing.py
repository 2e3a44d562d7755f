"""What it costs to lay a large batch's sequences out in rows."""

import statistics

import numpy as np

from benchmarks.registry import Result, benchmark, in_turn
from finedefics.packing import pack

ROWS, NEGATIVES, REPEATS = 1024, 3, 9
OBJECT, DESCRIPTION, NAME = (18, 19), (60, 100), (3, 6)  # tokens, from and to (exclusive)


@benchmark("packing_ms_1024", "packing_vs_sorting")
def packing() -> dict[str, Result]:
    """1,024 rows with three hard negatives, no text of which is shared: the most there can be to pack."""
    rng = np.random.default_rng(0)
    counts = {OBJECT: ROWS, DESCRIPTION: ROWS * (1 + NEGATIVES), NAME: ROWS * (1 + NEGATIVES)}
    lengths = np.concatenate([rng.integers(*bounds, size=count) for bounds, count in counts.items()])
    sequences = [tuple(range(length)) for length in lengths.tolist()]
    images = [-1] * len(sequences)
    layout, _ = pack(sequences, images, pad=0)
    padding = 1 - layout.useful / layout.ids.numel()
    taken = in_turn(
        {
            "packing": lambda: pack(sequences, images, pad=0),
            "sorting": lambda: sorted(range(len(sequences)), key=lambda i: -len(sequences[i])),
        },
        REPEATS,
    )
    ratios = [a / b for a, b in zip(taken["packing"], taken["sorting"], strict=True)]
    spent = [1000 * seconds for seconds in taken["packing"]]
    what = (
        f"{len(sequences)} sequences of {ROWS} rows with {NEGATIVES} hard negatives, no text shared, laid "
        f"out in {len(layout)} rows, {100 * padding:.1f} % of them padding"
    )
    return {
        "packing_ms_1024": Result(
            statistics.median(spent), "ms", "lower", 100, (min(spent), max(spent)), what
        ),
        "packing_vs_sorting": Result(
            statistics.median(ratios),
            "times",
            "lower",
            50,
            (min(ratios), max(ratios)),
            "the same over sorting the sequences by their lengths",
        ),
    }
