"""What a rank holds of a million rows: growth of its process by index and stream, a process each (Linux)."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.registry import Result, benchmark
from finedefics_platform.base.resident import can_be_told, peak, resident

ROWS = 1_000_000
CATEGORIES = 10_000
RANKS = 64
BATCH = 256
STEPS = 200
MIB = 2**20
# one pixel: what pictures take is bounded by the row groups in hand, and not by how many there are
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


@benchmark("stream_rank_memory")
def stream_rank_memory() -> Mapping[str, Result]:
    """MiB that a rank's process grows by, over the samplers."""
    if not can_be_told():
        print("stream_rank_memory: left out, there is no /proc to read peaks from", file=sys.stderr)
        return {}
    from benchmarks.stored import stored
    from finedefics_platform.base.workspace import open_workspace

    with tempfile.TemporaryDirectory() as folder:
        stored(open_workspace(Path(folder)), "million", ROWS, lambda _: PIXEL, categories=CATEGORIES)
        found = {sampler: _measured(folder, sampler) for sampler in ("shuffled", "confusable")}
    grown = {sampler: figures["grown"] for sampler, figures in found.items()}
    how = (
        f"peak resident memory of one of {RANKS} ranks above what it takes before, for the index of {ROWS:,} "
        f"rows and {STEPS} steps of {BATCH} rows: "
        + ", ".join(
            f"{of['grown']:.0f} MiB {sampler} (index {of['index']:.0f} MiB in {of['seconds']:.1f} s)"
            for sampler, of in found.items()
        )
    )
    worst = max(grown.values())
    return {"stream_rank_memory": Result(worst, "MiB", "lower", 300, (min(grown.values()), worst), how)}


def _measured(folder: str, sampler: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stream_memory", folder, sampler],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _rank(folder: str, sampler: str) -> dict[str, float]:
    """One rank's figures: MiB of the index, MiB at the peak, seconds until the index is there."""
    import time

    from finedefics_platform.base.cluster_session import ensure_ray
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.stage import Stage
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.training.stream import SampleIndex, TrainingStream

    ensure_ray()  # a worker is there before its stream is
    dataset = open_dataset(open_workspace(folder), "million")
    stage = Stage(name="one", steps=STEPS, feeds={"labelled": BATCH}, terms={"answer": 1})
    before, started = resident(), time.perf_counter()
    index = SampleIndex.of(dataset, sampler)  # type: ignore[arg-type]
    seconds, held = time.perf_counter() - started, resident() - before
    stream = TrainingStream(dataset, stage, 0, 5, RANKS, index=index, sampler=sampler)  # type: ignore[arg-type]
    rows = sum(len(rows["labelled"]) for _, rows in stream)
    assert rows == STEPS * BATCH // RANKS
    return {"grown": (peak() - before) / MIB, "index": held / MIB, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(_rank(sys.argv[1], sys.argv[2])))
