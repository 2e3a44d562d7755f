"""Writing the samples table: in which order, in which row groups and files, and then the pictures themselves.

Pictures are read again to be written: that is cheap beside decoding, and no process ever holds more of them
than one file.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from finedefics.data.readers import Entry, category_id
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError
from finedefics.records import ANNOTATIONS, ROW_GROUPS, SAMPLES, SPLITS, Category, attributes_to_arrow
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.data.checking import Checked, as_stored
from finedefics_platform.data.parquet import Part, plan_part, write_part, write_planned

# A row group is what training reads at once and holds in memory: bounded in rows and in bytes.
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 4 * 2**20
GROUPS_PER_FILE = 16


def sample_table(kept: Sequence[tuple[Entry, Checked]]) -> pa.Table:
    """Rows of the samples table without their pictures, in the order they are stored.

    Beside the table's own columns: ``bytes`` of the picture, its ``address`` in the source, and the format
    that it was ``recoded`` from (null for one stored as it is). Sections (train with and without label, val,
    test) stand one after the other; inside one, ids order the pictures, which are hashes: any stretch of rows
    is a mixture of categories.
    """
    identities = [f"{outcome.content_hash}\0{entry.source}" for entry, outcome in kept]
    columns = {
        "sample_id": [hashlib.sha256(identity.encode()).hexdigest()[:16] for identity in identities],
        "category_id": pa.array(
            [None if entry.category is None else category_id(entry.category) for entry, _ in kept],
            pa.string(),
        ),
        "split": [entry.split for entry, _ in kept],
        "width": pa.array([outcome.width for _, outcome in kept], pa.int32()),
        "height": pa.array([outcome.height for _, outcome in kept], pa.int32()),
        "content_hash": [outcome.content_hash for _, outcome in kept],
        "source": [entry.source for entry, _ in kept],
        "look": pa.array([outcome.look for _, outcome in kept], pa.uint64()),
        "bytes": pa.array([outcome.bytes for _, outcome in kept], pa.int64()),
        "address": [entry.address or entry.source for entry, _ in kept],
        "recoded": pa.array([outcome.recoded for _, outcome in kept], pa.string()),
        "section": pa.array(
            [2 * SPLITS.index(entry.split) + (entry.category is None) for entry, _ in kept], pa.int8()
        ),
    }
    notes = pa.Table.from_pylist(
        [
            {
                "sample_id": sample_id,
                "description": entry.description,
                "attributes": None if not entry.attributes else attributes_to_arrow(entry.attributes),
                "negatives": list(entry.negatives) or None,
            }
            for sample_id, (entry, _) in zip(columns["sample_id"], kept, strict=True)
        ],
        schema=ANNOTATIONS,
    )
    table = pa.table(columns)
    for name in ANNOTATIONS.names[1:]:
        table = table.append_column(name, notes[name])
    return table.sort_by([("section", "ascending"), ("sample_id", "ascending")]).combine_chunks()


def _label(pair: tuple[Entry, Checked]) -> str | None:
    name = pair[0].category
    return None if name is None else category_id(name)


@dataclass(frozen=True)
class Stretch:
    """Rows ``start`` to ``stop`` of the samples: one row group."""

    start: int
    stop: int


def cut_into_files(rows: pa.Table, row_group_rows: int = ROW_GROUP_ROWS) -> list[list[Stretch]]:
    """Which row groups each file of the samples table holds; no file mixes sections."""
    sections, sizes = rows["section"].to_pylist(), rows["bytes"].to_pylist()
    files: list[list[Stretch]] = []
    start = held = 0
    for stop in range(1, len(sections) + 1):
        held += sizes[stop - 1]
        ends_section = stop == len(sections) or sections[stop] != sections[start]
        if ends_section or stop - start == row_group_rows or held + sizes[stop] > ROW_GROUP_BYTES:
            last = files[-1] if files else []
            if not last or len(last) == GROUPS_PER_FILE or sections[last[0].start] != sections[start]:
                files.append(last := [])
            last.append(Stretch(start, stop))
            start, held = stop, 0
    return files


def row_group_table(
    rows: pa.Table, files: Sequence[Sequence[Stretch]], categories: Sequence[Category]
) -> pa.Table:
    """The table `finedefics.records.ROW_GROUPS` of freshly ingested pictures."""
    place = {category.category_id: i for i, category in enumerate(categories)}
    labels = [-1 if label is None else place[label] for label in rows["category_id"].to_pylist()]
    sizes, splits = rows["bytes"].to_pylist(), rows["split"].to_pylist()
    found = [
        {
            "file": number,
            "index": index,
            "rows": group.stop - group.start,
            "bytes": sum(sizes[group.start : group.stop]),
            "split": splits[group.start],
            "labelled": labels[group.start] >= 0,
            "described": 0,
            "categories": labels[group.start : group.stop],
        }
        for number, file in enumerate(files)
        for index, group in enumerate(file)
    ]
    return pa.Table.from_pylist(found, schema=ROW_GROUPS)


def write_files(
    home: Location, tree: Tree, rows: pa.Table, files: Sequence[Sequence[Stretch]], progress: Progress
) -> list[tuple[Part, Part]]:
    """Write samples and annotations in Ray tasks, a file of each a task; files that are there stay.

    Args:
        tree: where the pictures are read.

    Raises:
        FinedeficsError: a picture changed since it was checked, or a file cannot be written.
    """
    items = []
    for file in files:
        first, last = file[0].start, file[-1].stop
        groups = [(group.start - first, group.stop - group.start) for group in file]
        items.append((home, rows.slice(first, last - first), groups))
    return run_tasks(
        items, partial(_write_files, tree=tree), chunk=1, label="writing samples", progress=progress
    )


def _write_files(
    items: Sequence[tuple[Location, pa.Table, Sequence[tuple[int, int]]]], tree: Tree
) -> list[tuple[Part, Part]]:
    return [_write_file(home, tree, [rows.slice(*group) for group in groups]) for home, rows, groups in items]


def _write_file(home: Location, tree: Tree, groups: Sequence[pa.Table]) -> tuple[Part, Part]:
    stored = [name for name in SAMPLES.names if name != "image"]
    part = plan_part("samples", [group.select(stored) for group in groups])
    write_planned(home, "samples", part, lambda: (_with_pictures(tree, group) for group in groups))
    return part, write_part(home, "annotations", [group.select(ANNOTATIONS.names) for group in groups])


def _with_pictures(tree: Tree, group: pa.Table) -> pa.Table:
    columns = [group[name].to_pylist() for name in ("address", "content_hash", "recoded")]
    pictures = [_read_again(tree, *row) for row in zip(*columns, strict=True)]
    return group.append_column("image", pa.array(pictures, pa.binary()))


def _read_again(tree: Tree, address: str, content_hash: str, recoded: str | None) -> bytes:
    try:
        content = as_stored(tree.read(address), recoded)
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != content_hash:
        raise FinedeficsError(
            "the picture changed while it was ingested",
            place=tree.where(address),
            cure="ingest again when the source is at rest",
        )
    return content
