"""Evaluations are made in parts, each written by the process that made it: whoever is cut off goes on.

A part is some pictures, by where they lie in the dataset, so that neither the driver nor a message holds one.
While an evaluation is made, its folder ``evaluations/.parts/<digest>/`` holds

- ``about.json``: what it is (model, data, split, answers), when it was begun, and by whom,
- ``placed.json``: where the model stands (device, cards of a process) and how many tokens it takes at a time,
- ``fitting-<number>.npz``, ``deciding-<number>.npz``: what calibration and the ensemble's weight come from,
- ``plain/`` and ``index/``: the category index, as the texts give it and with what was decided,
- ``items-<number>.parquet`` and then ``asked-<number>.npz``: the answers; a part is there with the latter.
"""

import io
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finedefics_platform.base.storage import Location, cached
from finedefics_platform.base.user import user
from finedefics_platform.data.store import Place

PART = 64  # pictures: two batches, so that little is lost and processes end together
DRAWN_PART = 256  # of pictures from all over the dataset, of which each part reads most row groups
FITTING, DECIDING, ASKED = "fitting", "deciding", "asked"
ABOUT, PLACED = "about.json", "placed.json"


@dataclass(frozen=True)
class Part:
    """Some pictures of an evaluation.

    Attributes:
        kind: what they are for: `FITTING`, `DECIDING` or `ASKED`.
        options: of a published file, each picture's ids of categories by its own id.
    """

    kind: str
    number: int
    places: tuple[Place, ...]
    options: Mapping[str, tuple[str, ...]] | None = None

    @property
    def name(self) -> str:
        """Of the file that says what came of it."""
        return f"{self.kind}-{self.number:06}.npz"

    @property
    def items(self) -> str:
        """Of the file with the rows of its answers."""
        return f"items-{self.number:06}.parquet"


def begin(folder: Location, about: Mapping[str, Any]) -> None:
    """Say in an evaluation's folder what it is; one that goes on has been begun before.

    Args:
        about: of the evaluation: ``model``, ``dataset``, ``split``, ``limit`` and ``protocol``.
    """
    if (folder / ABOUT).is_file():
        return
    told = {key: about[key] for key in ("model", "dataset", "split", "limit")}
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    by = f"{user()}@{socket.gethostname()}"
    answers = list(about["protocol"]["answers"])
    (folder / ABOUT).write_json({**told, "answers": answers, "begun": begun, "by": by})


def in_parts(
    kind: str, places: Sequence[Place], size: int, options: Mapping[str, tuple[str, ...]] | None = None
) -> list[Part]:
    """Pictures in parts of a size, in their order."""
    pieces = [tuple(places[start : start + size]) for start in range(0, len(places), size)]
    return [Part(kind, number, piece, options) for number, piece in enumerate(pieces)]


def missing(folder: Location, parts: Sequence[Part]) -> list[Part]:
    """The parts that nobody has finished."""
    there = {file.name for file in folder.children()}
    return [part for part in parts if part.name not in there]


def write_arrays(file: Location, **arrays: Any) -> None:
    """Write arrays whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    file.write_bytes(content.getvalue())


def read_arrays(folder: Location, parts: Sequence[Part]) -> Iterator[dict[str, np.ndarray]]:
    """What `write_arrays` wrote of parts, one after the other."""
    for part in parts:
        with np.load(cached(folder / part.name), allow_pickle=False) as stored:
            yield {name: stored[name] for name in stored.files}


def write_rows(file: Location, rows: pa.Table) -> None:
    """Write rows of answers whole or not at all."""
    content = io.BytesIO()
    pq.write_table(rows, content)
    file.write_bytes(content.getvalue())


def read_rows(folder: Location, parts: Sequence[Part]) -> pa.Table:
    """The rows of parts, in the order of the parts."""
    return pa.concat_tables([pq.read_table(cached(folder / part.items)) for part in parts])
