"""Parquet files in the storage: written whole, read through the node's cache."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.records import TABLES
from finedefics_platform.base.storage import Location, cached

TABLES_FOLDER = "tables"
# What follows from a picture's bytes, whose hash counts; a decoder's rounding must not make another version.
_FOLLOWING = ("image", "look")


@dataclass(frozen=True)
class Part:
    """A file of a table, named by its content: whoever makes the same content again finds it there.

    Attributes:
        way: from the dataset's folder to the file.
        digest: of its rows and their row groups; a picture counts by its content hash.
    """

    way: str
    digest: str
    rows: int


def plan_part(table: str, groups: Sequence[pa.Table]) -> Part:
    """What a file of these row groups is called, before anything is written; needs no picture bytes."""
    sha = hashlib.sha256(json.dumps([table, [group.num_rows for group in groups]]).encode())
    for group in groups:
        for row in group.select([name for name in group.column_names if name not in _FOLLOWING]).to_pylist():
            sha.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    digest = sha.hexdigest()
    way = f"{TABLES_FOLDER}/{table}/{digest[:32]}.parquet"
    return Part(way, digest, sum(group.num_rows for group in groups))


def write_part(home: Location, table: str, groups: Sequence[pa.Table]) -> Part:
    """Write a file of a table below a dataset's folder, where it is not there yet; for tasks.

    Args:
        home: the dataset's folder, ``datasets/<name>``.
        groups: one table a row group.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    part = plan_part(table, groups)
    write_planned(home, table, part, lambda: groups)
    return part


def write_planned(home: Location, table: str, part: Part, groups: Callable[[], Iterable[pa.Table]]) -> None:
    """Write a part that was planned; ``groups`` is only called where the file is not there yet."""
    file = home / part.way
    if not file.is_file():
        schema = TABLES[table]
        write_parquet(file, schema, (group.select(schema.names).cast(schema) for group in groups()))


def write_parquet(file: Location, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write a file of one row group a table; a half-written one is never found under its name.

    Args:
        groups: rows of ``schema``; taken one by one, so that only the encoded file is held in memory.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    # Pictures are compressed already, and dictionary pages of them would only be tried and thrown away.
    dictionary = [column for column in schema.names if column in ("category_id", "split", "describer_id")]
    content = io.BytesIO()
    with pq.ParquetWriter(content, schema, use_dictionary=dictionary, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
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
