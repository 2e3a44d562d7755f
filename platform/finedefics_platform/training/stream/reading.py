"""Reading one row group of samples and of what belongs to them, by range and only what training needs."""

from collections.abc import Mapping, Sequence
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
from finedefics_platform.data.inferred import is_sure
from finedefics_platform.data.store import Dataset

_TOLD: dict[str, tuple[str, ...]] = {
    "samples": ("sample_id", "image", "category_id"),
    "descriptions": ("description", "attributes"),
    "negatives": ("candidates.list.element.category_id",),  # similarities are not read
}
# Of a picture whose label is inferred, that is its category, and no term learns anything else from it.
_INFERRED: dict[str, tuple[str, ...]] = {
    "samples": ("sample_id", "image"),
    "labels": ("category_id", "probability"),
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
        files: URI of the file with the samples and of each companion that the version has, by table.
        index: of the row group, the same in all of them.
        feed: whose rows they are: of a group that holds the feed ``labelled`` all rows are, of ``captioned``
            those with a description, of ``inferred`` those whose inferred label is sure enough.
        rows: which of the feed's rows in the group, in the order in which they are wanted.
        least: probability from which on an inferred label is sure enough; of the feed ``inferred`` only.
    """

    files: Mapping[str, str]
    index: int
    feed: str
    rows: tuple[int, ...]
    least: float | None = None


def files_of(dataset: Dataset) -> list[dict[str, str]]:
    """For each file of the samples, its URI and those of the companions that training reads, by table."""
    tables = [table for table in (*_TOLD, "labels") if table == "samples" or dataset.has(table)]
    found = zip(*(dataset.files(table) for table in tables), strict=True)
    return [{table: file.uri for table, file in zip(tables, files, strict=True)} for files in found]


def columns_of(feed: str) -> dict[str, tuple[str, ...]]:
    """What is read of a feed's rows, by table."""
    return _INFERRED if feed == "inferred" else _TOLD


def read_rows(read: Read) -> pa.Table:
    """The rows with the columns of `ROWS`; the row group is decompressed once, pictures stay encoded.

    Raises:
        FinedeficsError: a file is missing or damaged, or the store does not answer.
    """
    found: dict[str, pa.Array] = {}
    for table, columns in columns_of(read.feed).items():
        if table in read.files:
            found |= _columns(Location(read.files[table]), read.index, columns)
    if "candidates" in found:
        found["negatives"] = _negatives(found.pop("candidates"))
    count = len(found["sample_id"])
    if any(len(column) != count for column in found.values()):
        raise _damaged(read.files["samples"])
    chosen = np.asarray(read.rows, dtype=np.int64)
    if read.feed == "captioned":
        chosen = np.flatnonzero(found["description"].is_valid())[chosen]
    if read.least is not None:
        probability = pc.fill_null(found["probability"], -1).to_numpy()
        chosen = np.flatnonzero(is_sure(probability, read.least))[chosen]
    columns_there = [found[f.name] if f.name in found else pa.nulls(count, f.type) for f in ROWS]
    return pa.table(columns_there, schema=ROWS).take(pa.array(chosen))


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


def _negatives(candidates: pa.ListArray) -> pa.Array:
    names = pc.struct_field(candidates.values, "category_id")
    lists = pa.ListArray.from_arrays(candidates.offsets, names, mask=candidates.is_null())
    return lists.cast(ROWS.field("negatives").type)


def _damaged(uri: str) -> FinedeficsError:
    return FinedeficsError(
        "this file of the dataset is missing or damaged",
        place=uri,
        cure="remove it and run the same `finedefics data` commands again: what is missing is made again",
    )
