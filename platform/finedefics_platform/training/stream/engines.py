"""Who reads: Ray Data's tasks, or threads of this process. Either gives the chunks' rows in order."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from finedefics.errors import FinedeficsError
from finedefics_platform.training.stream.ahead import in_parallel
from finedefics_platform.training.stream.reading import ROWS, Read, read_rows

Chunk = list[Read]  # what one task reads
Engine = Callable[[Iterator[Chunk]], Iterator[pa.Table]]  # rows come in pieces of any size

AT_ONCE = 2  # chunks read at the same time for a rank
CHUNKS_A_PIPELINE = 256
STORE_BYTES = 64 << 20  # of a rank's rows in the object store
_PROBLEM = pa.field("problem", pa.binary())


def in_threads(chunks: Iterator[Chunk]) -> Iterator[pa.Table]:
    """Chunks read in threads of this process: no cluster is needed."""
    return in_parallel(_read_chunk, chunks, AT_ONCE)


def _read_chunk(chunk: Chunk) -> pa.Table:
    return pa.concat_tables([read_rows(read) for read in chunk])


def with_ray_data(chunks: Iterator[Chunk]) -> Iterator[pa.Table]:
    """Chunks read by Ray Data's tasks, on whatever node has room."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    # One pipeline for many chunks, and not one for a long stage: the plan is handed over piece by piece.
    while piece := list(itertools.islice(chunks, CHUNKS_A_PIPELINE)):
        items = [{"chunk": pickle.dumps(chunk)} for chunk in piece]
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _task,
            batch_size=1,
            batch_format="pyarrow",
            # The training workers may hold every CPU of a small cluster; reading must not wait for one.
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(AT_ONCE, len(items))),
        )
        options = rows.context.execution_options
        options.preserve_order = True
        # Each of many ranks would fill half of the object store with what is due much later.
        options.resource_limits = options.resource_limits.copy(object_store_memory=STORE_BYTES)
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(table, pa.Table)
            yield _checked(table)


def _task(batch: pa.Table) -> pa.Table:
    try:
        rows = _read_chunk(pickle.loads(batch["chunk"][0].as_py()))
        return rows.append_column(_PROBLEM, pa.nulls(len(rows), pa.binary()))
    except FinedeficsError as error:
        # Ray Data hands on the text of an exception and not the exception; a row arrives whole.
        empty = {name: pa.nulls(1, ROWS.field(name).type) for name in ROWS.names}
        return pa.table(empty | {"problem": [pickle.dumps(error)]}, schema=ROWS.append(_PROBLEM))


def _checked(table: pa.Table) -> pa.Table:
    problems: list[Any] = table["problem"].drop_null().to_pylist()
    if problems:
        raise pickle.loads(problems[0])
    return table.drop_columns(["problem"])
