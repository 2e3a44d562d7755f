"""Mining by embeddings against a bare blocked product and top-k in torch, on the same parts on the disk.

`python -m benchmarks.mining 1000000` measures any number of pictures, and prints the peak memory as well.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.registry import Result, benchmark
from finedefics_platform.base.resident import can_be_told, peak

PICTURES, CATEGORIES, DIM, KEEP = 65_536, 10_000, 512, 16
PART_ROWS = 1024  # of a samples file: 16 row groups of 64


@benchmark("mining_vs_bare_torch")
def mining_vs_bare_torch() -> dict[str, Result]:
    """What mining takes beside the product and the top-k: reading, labels, ties, and writing the table."""
    found = _in_a_process(PICTURES)
    how = (
        f"pictures a second, {PICTURES:,} x {CATEGORIES:,} of dim {DIM}, part by part in turn: "
        f"{found['ours']:,.0f} with own categories left out, ties by id and the table of {KEEP} negatives "
        f"written, {found['bare']:,.0f} bare; peak memory {found['peak_mib']:,.0f} MiB"
    )
    low, high = found["spread"]
    ratio = found["ours"] / found["bare"]
    return {"mining_vs_bare_torch": Result(ratio, "times", "higher", 0.6, (low, high), how)}


def _in_a_process(pictures: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mining", str(pictures)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(pictures: int) -> dict:
    """Rates of both, timed part by part in turn so that a busy moment hits both alike."""
    from finedefics.mining import EmbeddingMiner
    from finedefics.records import Category

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = _rows(CATEGORIES, 0)
        categories = [Category(f"category-{i:05}", f"category {i}") for i in range(CATEGORIES)]
        parts = [_write(folder, number, pictures) for number in range(-(-pictures // PART_ROWS))]
        bare_targets = torch.from_numpy(targets).T.contiguous()
        started = time.perf_counter()
        miner = EmbeddingMiner(categories, targets)
        making = time.perf_counter() - started
        rng = np.random.default_rng(1)
        ids = [category.category_id for category in categories]
        ours, bare = [], []
        for number, part in enumerate(parts):
            rows = min(PART_ROWS, pictures - number * PART_ROWS)
            labels = [ids[i] for i in rng.integers(CATEGORIES, size=rows)]
            for run in ((_bare, _ours), (_ours, _bare))[number % 2]:
                started = time.perf_counter()
                if run is _bare:
                    _bare(part, bare_targets)
                else:
                    _ours(part, miner, labels, ids, folder, number)
                (bare if run is _bare else ours).append(time.perf_counter() - started)
    # the first part warms up
    ratios = [b / a for a, b in zip(ours[1:], bare[1:], strict=True)]
    counted = pictures - PART_ROWS
    low, high = np.quantile(ratios, [0.05, 0.95])
    return {
        "pictures": pictures,
        "ours": counted / (sum(ours[1:]) + making),
        "bare": counted / sum(bare[1:]),
        "seconds": [sum(ours) + making, sum(bare)],
        "spread": [float(low), float(high)],
        "peak_mib": _peak(),
    }


def _bare(part: Path, targets: torch.Tensor) -> None:
    (torch.from_numpy(np.load(part)) @ targets).topk(KEEP, dim=1)


def _ours(part: Path, miner, labels: list[str], ids: list[str], folder: Path, number: int) -> None:  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from finedefics.mining import Ranked
    from finedefics.records import NEGATIVES
    from finedefics_platform.base.storage import Location
    from finedefics_platform.data.mined_files import candidates
    from finedefics_platform.data.parquet import write_parquet

    ranked = miner.rank(np.load(part), labels, keep=KEEP)
    tables = []
    for start in range(0, len(labels), 64):
        some = slice(start, start + 64)
        found = Ranked(ranked.positions[some], ranked.similarity[some])
        names = pa.array([f"picture-{number}-{i}" for i in range(start, start + len(found.positions))])
        column = candidates(found, ids)
        tables.append(pa.table([names, column, pa.array(["miner"] * len(names))], NEGATIVES.names))
    file = Location(str(folder / f"negatives-{number}.parquet"))
    write_parquet(file, NEGATIVES, (table.cast(NEGATIVES) for table in tables))


def _write(folder: Path, number: int, pictures: int) -> Path:
    file = folder / f"part-{number:06}.npy"
    np.save(file, _rows(min(PART_ROWS, pictures - number * PART_ROWS), 1 + number))
    return file


def _rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng([7, seed]).standard_normal((count, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _peak() -> float:
    """MiB that this process held at its peak, and NaN where there is no /proc to tell."""
    return peak() / 2**20 if can_be_told() else float("nan")


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]))))
