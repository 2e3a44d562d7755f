"""Made-up data in a dataset store, written as an ingest, a describer and a miner would leave it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finedefics.data.generated_names import FIRST_WORDS, SECOND_WORDS
from finedefics.records import ATTRIBUTES, CANDIDATES, TABLES, attributes_to_arrow
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import Part, write_planned
from finedefics_platform.data.samples import GROUPS_PER_FILE, ROW_GROUP_ROWS
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import new_version

WORDS = (*FIRST_WORDS, *SECOND_WORDS)
NEGATIVES = 16


def stored(
    workspace: Workspace,
    name: str,
    rows: int,
    picture: Callable[[int], bytes],
    *,
    categories: int = 100,
    words: int = 60,
) -> Dataset:
    """A labelled, described and mined training set.

    Args:
        picture: the encoded picture of a row.
        categories: a picture's category is drawn; its negatives are the next ones.
        words: of a description.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(categories, size=rows)
    draft = new_version(workspace, name)
    table = [
        {
            "category_id": _category(number),
            "name": f"{WORDS[number % len(WORDS)]} {WORDS[number // len(WORDS) % len(WORDS)]} {number}",
            "description": _text(rng, words),
            "attributes": attributes_to_arrow({"crown": f"value {number % 7}"}),
        }
        for number in range(categories)
    ]
    draft.write("categories", pa.Table.from_pylist(table, TABLES["categories"]), {})
    known = _Known(
        pa.array([_category(number) for number in range(categories)]),
        pa.array([row["attributes"] for row in table], ATTRIBUTES),
        pa.array([_near(number, categories) for number in range(categories)], CANDIDATES),
    )
    parts: dict[str, list[Part]] = {"samples": [], "descriptions": [], "negatives": []}
    groups: list[dict[str, Any]] = []
    per_file = ROW_GROUP_ROWS * GROUPS_PER_FILE
    for file, first in enumerate(range(0, rows, per_file)):
        tables: dict[str, list[pa.Table]] = {table: [] for table in parts}
        end = min(first + per_file, rows)
        for index, start in enumerate(range(first, end, ROW_GROUP_ROWS)):
            own = range(start, min(start + ROW_GROUP_ROWS, end))
            images = [picture(row) for row in own]
            for name_of, found in _rows(own, labels, known, images, _text(rng, words)).items():
                tables[name_of].append(found)
            groups.append(
                {
                    "file": file,
                    "index": index,
                    "rows": len(own),
                    "bytes": sum(map(len, images)),
                    "split": "train",
                    "labelled": True,
                    "described": len(own),
                    "categories": labels[own.start : own.stop].tolist(),
                    "likes": labels[own.start : own.stop].tolist(),
                }
            )
        for name_of, pieces in tables.items():
            # named by its number: hashing a million rows would be most of the work
            part = Part(f"tables/{name_of}/{file:05d}.parquet", f"{name_of}-{file}", end - first)
            write_planned(draft.home, name_of, part, lambda pieces=pieces: pieces)  # type: ignore[misc]
            parts[name_of].append(part)
    about = {"descriptions": {"attributes": ["crown"]}, "negatives": {"most": NEGATIVES}}
    for name_of, written in parts.items():
        draft.parts(name_of, written, about.get(name_of, {}))
    draft.write("row_groups", pa.Table.from_pylist(groups, TABLES["row_groups"]), {})
    near = pa.table([known.ids, known.near], TABLES["neighbours"])
    draft.write("neighbours", near, {})
    counts = np.bincount(labels, minlength=categories).tolist()
    draft.count({"train": {_category(c): count for c, count in enumerate(counts)}})
    return draft.publish(name)


@dataclass(frozen=True)
class _Known:
    """Of each category its id, its attributes and its negatives."""

    ids: pa.Array
    attributes: pa.Array
    near: pa.Array


def _rows(
    own: range, labels: npt.NDArray[np.int64], known: _Known, images: list[bytes], text: str
) -> dict[str, pa.Table]:
    ids = [f"{row:016x}" for row in own]
    size, of = len(own), pa.array(labels[own.start : own.stop])
    columns = {
        "samples": {
            "sample_id": ids,
            "image": images,
            "category_id": known.ids.take(of),
            "split": ["train"] * size,
            "width": [0] * size,
            "height": [0] * size,
            "content_hash": ids,
            "source": [f"{one}.jpg" for one in ids],
            "look": list(own),
        },
        "descriptions": {
            "sample_id": ids,
            "attributes": known.attributes.take(of),
            # a row's own words: texts that are equal would be embedded once
            "description": [f"{text} {one}" for one in ids],
            "describer_id": ["made up"] * size,
        },
        "negatives": {
            "sample_id": ids,
            "candidates": known.near.take(of),
            "miner_id": ["made up"] * size,
        },
    }
    return {table: pa.table(found, TABLES[table]) for table, found in columns.items()}


def _near(category: int, categories: int) -> list[dict[str, Any]]:
    others = [(category + step) % categories for step in range(1, min(NEGATIVES, categories - 1) + 1)]
    return [
        {"category_id": _category(other), "similarity": 1 / rank}
        for rank, other in enumerate(others, start=1)
    ]


def _category(number: int) -> str:
    return f"c{number:05}"


def _text(rng: np.random.Generator, words: int) -> str:
    return " ".join(str(word) for word in rng.choice(WORDS, words))
