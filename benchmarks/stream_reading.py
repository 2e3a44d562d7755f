"""What 64 ranks read of a million rows for what they train on."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.registry import Result, benchmark
from benchmarks.stored import stored
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.stream import (
    FeedIndex,
    SampleIndex,
    StagePlan,
    TrainingStream,
    plan_stage,
)
from finedefics_platform.training.stream.engines import Chunk
from finedefics_platform.training.stream.fetch import due
from finedefics_platform.training.stream.order import GROUP_BYTES
from finedefics_platform.training.stream.reading import columns_of, read_rows

MILLION = 1_000_000
RANKS = 64
BATCH = 256
PART = 50_000


@benchmark("stream_amplification")
def stream_amplification() -> Mapping[str, Result]:
    """Bytes decompressed over bytes used in one epoch of a million rows by 64 ranks, as the plan has it.

    That the plan's count is what is decompressed is seen on a stored part: its reads are done, and the files
    say how many bytes each of them takes.
    """
    plan = plan_stage(_million(), {"labelled": BATCH}, MILLION // BATCH, seed=0)
    epoch = _read_over_used(plan, range(RANKS))
    alike = plan_stage(_million(), {"labelled": BATCH}, 640, seed=0, sampler="confusable")
    confusable = _read_over_used(alike, [31])
    with tempfile.TemporaryDirectory() as folder:
        dataset = stored(open_workspace(Path(folder)), "part", PART, lambda row: bytes([row % 251]) * 4096)
        counted, decompressed = _really_read(dataset)
    how = (
        f"rows of the row groups that {RANKS} ranks read in an epoch of {MILLION:,} rows over the rows they "
        f"train on, {BATCH} a batch ({confusable:.2f} with the confusable sampler, one rank); of {PART:,} "
        f"stored rows {decompressed:.3f} times the bytes used were decompressed, {counted:.3f} counted"
    )
    return {"stream_amplification": Result(epoch, "times", "lower", 1.5, (epoch, epoch), how)}


def _million() -> SampleIndex:
    sizes = np.full(MILLION // 64, 64, dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    numbers = np.arange(len(sizes), dtype=np.int64)
    likes = np.random.default_rng(0).integers(10_000, size=MILLION).astype(np.int32)
    near = {c: [(c + step) % 10_000 for step in range(1, 17)] for c in range(10_000)}
    feed = FeedIndex(numbers, first, np.full(len(sizes), GROUP_BYTES), likes)
    return SampleIndex("a million", numbers // 16, numbers % 16, sizes, {"labelled": feed}, nearest=near)


def _read_over_used(plan: StagePlan, ranks: Sequence[int]) -> float:
    sizes = plan.index.rows
    read = sum(int(sizes[one.group]) for rank in ranks for one in due(plan, rank, RANKS))
    return read / (len(ranks) * plan.steps * plan.feeds["labelled"] // RANKS)


def _really_read(dataset: Dataset) -> tuple[float, float]:
    """Of one epoch by all ranks: rows of groups over rows used, and bytes decompressed over bytes used."""
    index = SampleIndex.of(dataset)
    plan = plan_stage(index, {"labelled": BATCH}, PART // BATCH, seed=0)
    decompressed = used = 0.0

    def counting(chunks: Iterator[Chunk]) -> Iterator[pa.Table]:
        nonlocal decompressed, used
        for chunk in chunks:
            for read in chunk:
                table = read_rows(read)
                wanted = columns_of(read.feed).items()
                held = sum(_uncompressed(read.files[t], read.index, c) for t, c in wanted if t in read.files)
                rows = pq.read_metadata(read.files["samples"]).row_group(read.index).num_rows
                decompressed += held
                used += held * len(table) / rows  # rows are of one size here
                yield table

    stage = Stage(name="one", steps=plan.steps, feeds={"labelled": BATCH}, terms={"answer": 1})
    for rank in range(RANKS):
        for _ in TrainingStream(dataset, stage, 0, rank, RANKS, index=index, engine=counting):
            pass
    return _read_over_used(plan, range(RANKS)), decompressed / used


def _uncompressed(file: str, group: int, read: Sequence[str]) -> int:
    """Bytes of the columns that are read of a row group, as the file's footer has them."""
    of = pq.read_metadata(file).row_group(group)
    columns = [of.column(number) for number in range(of.num_columns)]
    wanted = {column.partition(".")[0] for column in read}
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] in wanted)
