"""Sizes of pictures and what their descriptions say, counted file by file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finedefics.records import SPLITS
from finedefics_platform.base.progress import Progress
from finedefics_platform.data.store import Dataset

QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
_MOST_VALUES = 5000  # different values of an attribute that are counted one by one
_SHOWN_VALUES = 50


@dataclass(frozen=True)
class Sizes:
    """Width and height in pixels at the quantiles `QUANTILES`, and bytes of the encoded pictures."""

    width: dict[str, int]
    height: dict[str, int]
    bytes: int
    bytes_a_picture: int


@dataclass(frozen=True)
class Attribute:
    """What the descriptions say of one attribute.

    Attributes:
        pictures: that have a value of it.
        coverage: their share of the described pictures.
        distinct: different values; at least so many where they are too many to be told apart.
        values: the most frequent ones with their numbers of pictures.
    """

    name: str
    pictures: int
    coverage: float
    distinct: int
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Columns:
    """Some numbers of each picture in file order; ``split`` is its position in `SPLITS`."""

    split: npt.NDArray[np.int8]
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    look: npt.NDArray[np.uint64]


def read_columns(dataset: Dataset, progress: Progress) -> Columns:
    """17 bytes a picture."""
    names = ["split", "width", "height", "look"]
    parts: list[list[npt.NDArray[np.generic]]] = [[] for _ in names]
    with progress.progress("reading sizes", len(dataset.files("samples"))) as advance:
        for table in dataset.tables("samples", names):
            codes = pc.index_in(table["split"], pa.array(SPLITS)).to_numpy().astype(np.int8)
            columns = [codes, *(table[name].to_numpy() for name in names[1:])]
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
            advance(1)
    split, width, height, look = (np.concatenate(part) for part in parts)
    return Columns(split, width, height, look)


def sizes_of(dataset: Dataset, columns: Columns) -> Sizes:
    """Of all pictures of a version; at least one is there."""
    total = sum(group.bytes for group in dataset.row_groups())

    def at(values: npt.NDArray[np.int32]) -> dict[str, int]:
        # the nearest picture's own size, never one in between that no picture has
        found = np.quantile(values, list(QUANTILES.values()), method="nearest")
        return {name: int(value) for name, value in zip(QUANTILES, found, strict=True)}

    return Sizes(at(columns.width), at(columns.height), total, round(total / len(columns.width)))


def attributes_of(dataset: Dataset, progress: Progress) -> tuple[Attribute, ...]:
    """Of every attribute that a description has, the most covered first; none before describing."""
    if not dataset.has("descriptions"):
        return ()
    described = 0
    values: dict[str, Counter[str]] = {}
    pictures: Counter[str] = Counter()
    with progress.progress("counting attributes", len(dataset.files("descriptions"))) as advance:
        for table in dataset.tables("descriptions", ["description", "attributes"]):
            described += table.num_rows - table["description"].null_count
            for name, value, number in _pairs(table["attributes"]):
                pictures[name] += number
                known = values.setdefault(name, Counter())
                if value in known or len(known) < _MOST_VALUES:
                    known[value] += number
            advance(1)
    found = [
        Attribute(
            name,
            number,
            number / max(described, 1),
            len(values[name]),
            tuple(values[name].most_common(_SHOWN_VALUES)),
        )
        for name, number in pictures.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.pictures, one.name)))


def _pairs(attributes: pa.ChunkedArray) -> Iterator[tuple[str, str, int]]:
    """Name, value and number of pictures of the pairs in a column of attributes."""
    flat = pc.list_flatten(attributes).combine_chunks()
    pairs = pa.table({"name": pc.struct_field(flat, "name"), "value": pc.struct_field(flat, "value")})
    counted = pairs.group_by(["name", "value"]).aggregate([([], "count_all")])
    for row in counted.to_pylist():
        yield row["name"], row["value"], row["count_all"]
