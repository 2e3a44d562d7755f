"""Pictures that lie in the cells of a Parquet file: addressed by row, and unpacked once to be read at random.

A row of Parquet cannot be read alone: its whole row group is decompressed. Ingesting reads rows in the order
of their hashes, so the column is first written out, one content behind the other, with the places of all.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.data.keeping import Keep
from finedefics.errors import FinedeficsError, reason_of

CELL = "::"
_ROWS_AT_ONCE = 64


class Files(Protocol):
    """What is asked of a tree."""

    place: str

    def exists(self, path: str) -> bool: ...

    def stamp(self, path: str) -> tuple[int, int]: ...

    def open(self, path: str) -> BinaryIO: ...

    def where(self, path: str = "") -> str: ...


def cell_address(file: str, column: str, row: int) -> str:
    """The address of the picture in a row (counted from 0) of a column."""
    return f"{file}{CELL}{column}{CELL}{row}"


def read_cell(tree: Files, address: str, keep: Keep) -> bytes:
    """The content at an address; empty where the cell is.

    Raises:
        FileNotFoundError: there is no such file, column or row.
        OSError: the file is damaged.
        FinedeficsError: there is no space to unpack it.
    """
    file, column, row = address.rsplit(CELL, 2) if address.count(CELL) >= 2 else (address, "", "")
    if not row.isdecimal() or not tree.exists(file):
        raise FileNotFoundError(2, "there is no such file", address)
    identity = f"{tree.place}\0{file}\0{column}\0{tree.stamp(file)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    try:
        cells = keep(f"files/{key}/cells", lambda aside: _unpack(tree, file, column, aside))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FinedeficsError(  # of the node, and not of the pictures
            f"the pictures in it cannot be unpacked ({error.strerror})",
            place=tree.where(file),
            cure="free space",
        ) from error
    except (LookupError, pa.ArrowException) as error:
        raise OSError(5, f"cannot read this column ({reason_of(error)})", address) from error
    return _content(cells, int(row), address)


def _unpack(tree: Files, file: str, column: str, target: Path) -> None:
    """Contents, then where each begins and the last ends, then how many there are; all numbers int64."""
    places = [0]
    with tree.open(file) as stream, target.open("wb") as out:
        for batch in pq.ParquetFile(stream).iter_batches(_ROWS_AT_ONCE, columns=[column]):
            for cell in batch.column(0):
                content = _bytes(cell.as_py())
                out.write(content)
                places.append(places[-1] + len(content))
        out.write(np.asarray(places, dtype="<i8").tobytes())
        out.write(np.asarray([len(places) - 1], dtype="<i8").tobytes())


def _bytes(cell: Any) -> bytes:
    if isinstance(cell, dict):  # the Hugging Face libraries' way: {bytes, path}
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""


def _content(cells: Path, row: int, address: str) -> bytes:
    descriptor = os.open(cells, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        (count,) = np.frombuffer(os.pread(descriptor, 8, size - 8), "<i8").tolist()
        if row >= count:
            raise FileNotFoundError(2, "there is no such row", address)
        table = size - 8 * (count + 2)
        begin, end = np.frombuffer(os.pread(descriptor, 16, table + 8 * row), "<i8").tolist()
        return os.pread(descriptor, end - begin, begin)
    finally:
        os.close(descriptor)
