"""Parquet files in the storage: written whole, read through the node's cache."""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics_platform.base.storage import Location, cached


def write_parquet(file: Location, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write a file of one row group a table; a half-written one is never found under its name.

    Args:
        groups: rows of ``schema``; taken one by one, so that only the encoded file is held in memory.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    # Pictures are compressed already, and dictionary pages of them would only be tried and thrown away.
    dictionary = [column for column in schema.names if column in ("category_id", "split")]
    content = io.BytesIO()
    with pq.ParquetWriter(content, schema, use_dictionary=dictionary, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group)
    file.write_bytes(content.getvalue())


def row_groups(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    """A table in pieces of ``size`` rows, the last one smaller."""
    return (rows.slice(start, size) for start in range(0, rows.num_rows, size))


def open_parquet(file: Location) -> pq.ParquetFile:
    """A file that never changes, opened where this node has it, else on the node's copy.

    Raises:
        FileNotFoundError: it is not there.
        OSError, pa.ArrowException: it is damaged.
        FinedeficsError: the store does not answer.
    """
    copy = cached(file)
    try:
        return pq.ParquetFile(copy)
    except (OSError, pa.ArrowException):
        if file.local is not None:
            raise
        copy.unlink(missing_ok=True)  # it may be the copy that is damaged, and not the file
        return pq.ParquetFile(cached(file))
