"""Reading one row group of samples and of what belongs to them, by range and only what training needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError
from finedefics.records import ATTRIBUTES, Sample, attributes_from_arrow
from finedefics_platform.base.storage import Location
from finedefics_platform.data.store import Dataset

COLUMNS = {
    "samples": ("sample_id", "image", "category_id"),
    "descriptions": ("description", "attributes"),
    "negatives": ("candidates.list.element.category_id",),  # similarities are not read
}
ROWS = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("category_id", pa.string()),
        pa.field("description", pa.string()),
        pa.field("attributes", ATTRIBUTES),
        pa.field("negatives", pa.list_(pa.string())),
    ]
)
_FOOTERS = 512  # at hand in a process; each takes some tens of kilobytes


@dataclass(frozen=True)
class Read:
    """Rows of one row group.

    Attributes:
        files: URI of the file with the samples, with their descriptions and with their negatives; the latter
            "" where the version has none.
        index: of the row group, the same in all of them.
        rows: which rows, in the order in which they are wanted.
        described: ``rows`` counts those that have a description, and not all.
    """

    files: tuple[str, str, str]
    index: int
    rows: tuple[int, ...]
    described: bool


def files_of(dataset: Dataset) -> list[tuple[str, str, str]]:
    """For each file of the samples, its URI and those of its companions, "" where the version has none."""
    samples = [file.uri for file in dataset.files("samples")]
    none = [""] * len(samples)
    descriptions, negatives = (
        [file.uri for file in dataset.files(table)] if dataset.has(table) else none
        for table in ("descriptions", "negatives")
    )
    return list(zip(samples, descriptions, negatives, strict=True))


def read_rows(read: Read) -> pa.Table:
    """The rows with the columns of `ROWS`; the row group is decompressed once, pictures stay encoded.

    Raises:
        FinedeficsError: a file is missing or damaged, or the store does not answer.
    """
    found: dict[str, pa.Array] = {}
    for uri, (table, columns) in zip(read.files, COLUMNS.items(), strict=True):
        if uri:
            found |= _columns(Location(uri), read.index, columns)
        elif table == "descriptions":
            found |= {name: pa.nulls(len(found["sample_id"]), ROWS.field(name).type) for name in columns}
    found["negatives"] = _negatives(found.pop("candidates", None), len(found["sample_id"]))
    if len({len(column) for column in found.values()}) > 1:
        raise _damaged(read.files[0])
    chosen = np.asarray(read.rows, dtype=np.int64)
    if read.described:
        chosen = np.flatnonzero(found["description"].is_valid())[chosen]
    rows = pa.table([found[name] for name in ROWS.names], schema=ROWS)
    return rows.take(pa.array(chosen))


def samples_of(rows: pa.Table) -> list[Sample]:
    """Rows with the columns of `ROWS`."""
    return [
        Sample(
            sample_id=row["sample_id"],
            image=row["image"],
            category_id=row["category_id"],
            description=row["description"],
            attributes=attributes_from_arrow(row["attributes"]),
            negatives=tuple(row["negatives"] or ()),
        )
        for row in rows.to_pylist()
    ]


def _columns(file: Location, index: int, columns: Sequence[str]) -> dict[str, Any]:
    try:
        # of a file in an object store only these columns' bytes are asked for, in few requests
        stored = pq.ParquetFile(
            file.path,
            filesystem=file.filesystem,
            metadata=_footer(file),
            pre_buffer=file.local is None,
        )
        with stored:
            table = stored.read_row_group(index, columns=list(columns), use_threads=False)
    except (KeyError, IndexError, OSError, pa.ArrowException) as error:
        _footer.cache_clear()  # the file may be mended, and then it is another one
        raise _damaged(file.uri) from error
    return {name: table[name].combine_chunks() for name in table.column_names}


@lru_cache(maxsize=_FOOTERS)
def _footer(file: Location) -> pq.FileMetaData:
    return pq.read_metadata(file.path, filesystem=file.filesystem)


def _negatives(candidates: pa.ListArray | None, rows: int) -> pa.Array:
    if candidates is None:
        return pa.nulls(rows, ROWS.field("negatives").type)
    names = pc.struct_field(candidates.values, "category_id")
    lists = pa.ListArray.from_arrays(candidates.offsets, names, mask=candidates.is_null())
    return lists.cast(ROWS.field("negatives").type)


def _damaged(uri: str) -> FinedeficsError:
    return FinedeficsError(
        "this file of the dataset is missing or damaged",
        place=uri,
        cure="remove it and run the same `finedefics data` commands again: what is missing is made again",
    )
