"""Ingest: a dataset version from a source of pictures."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from finedefics import __version__
from finedefics.data.readers import READERS, Listing, Source, read_source
from finedefics.data.tree import ArchiveTree, Tree
from finedefics.describers import write_description
from finedefics.errors import FinedeficsError
from finedefics.records import CATEGORIES, QUARANTINE, Category, attributes_to_arrow
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.checking import UNREADABLE
from finedefics_platform.data.ingestion import Rejected, admit, check_pictures, kind_of
from finedefics_platform.data.samples import (
    GROUPS_PER_FILE,
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    cut_into_files,
    row_group_table,
    sample_table,
    write_files,
)
from finedefics_platform.data.sources import open_source
from finedefics_platform.data.steps import step_of
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import check_name, new_version

ALLOW_REJECTED = 0.5  # more says that the source is not what it is taken for


def ingest(
    workspace: Workspace,
    name: str,
    source: str | os.PathLike[str] | Location,
    *,
    reader: str = "auto",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    allow_rejected: float = ALLOW_REJECTED,
    row_group_rows: int = ROW_GROUP_ROWS,
    progress: Progress = SILENT,
) -> Dataset:
    """Make a dataset version from a source; what cannot be used is quarantined with its reason.

    Args:
        name: of the dataset; a version of it is added.
        source: a folder, an archive or a table, as a path or a URI.
        reader: how it is laid out; "auto" asks the readers, and a ``.py`` file brings its own.
        columns: what the reader is told of a table's columns.
        seed: decides the split where the source has none.
        allow_rejected: share of the pictures beyond which what cannot be used stops the ingest.
        row_group_rows: most rows of a row group, the unit in which training shuffles and reads.

    Raises:
        FinedeficsError: the source is missing or wrong, too many of its pictures or all of them cannot be
            used, or a write failed.
    """
    check_name(name)  # before a large source is listed
    opened = open_source(source, seed=seed, columns=columns)
    found, listing = read_source(opened, reader)
    reader = READERS.identity(found)
    step = _ingest_digest(listing, opened.tree, reader, seed, row_group_rows)
    named = workspace.name_of(Location.of(source))
    provenance: dict[str, Any] = {"step": "ingest", "reader": reader, "source": named, "seed": seed}
    provenance |= listing.notes
    if columns:
        provenance["columns"] = dict(columns)
    with step_of(workspace, name, step, "ingest", progress) as done:
        if done:
            return done
        kept, rejected = admit(listing.entries, check_pictures(opened.tree, listing.entries, progress))
        rejected += [Rejected(path, None, reason) for path, reason in listing.rejected]
        _check_share(len(kept), rejected, allow_rejected, opened)
        rows = sample_table(kept)
        files = cut_into_files(rows, row_group_rows)
        draft = new_version(workspace, name)
        written = write_files(draft.home, opened.tree, rows, files, progress)
        layout = {
            "row_group_rows": row_group_rows,
            "row_group_bytes": ROW_GROUP_BYTES,
            "row_groups_per_file": GROUPS_PER_FILE,
        }
        told = {**provenance, "layout": layout}
        if recoded := Counter(outcome.recoded for _, outcome in kept if outcome.recoded):
            told["stored as PNG"] = dict(sorted(recoded.items()))  # by the format that they were in
        draft.parts("samples", [samples for samples, _ in written], told)
        draft.parts("annotations", [annotations for _, annotations in written], provenance)
        draft.count(_counts(rows))
        draft.write("row_groups", row_group_table(rows, files, listing.categories), provenance)
        draft.write("categories", _category_rows(listing.categories), provenance)
        quarantine = sorted((asdict(row) for row in rejected), key=lambda row: row["source"])
        draft.write("quarantine", pa.Table.from_pylist(quarantine, schema=QUARANTINE), provenance)
        return draft.publish(_address(step, rejected, opened.tree))


def _address(step: str, rejected: list[Rejected], tree: Tree) -> str:
    """Of a finished step; of another where files are there and could not be read, for they may be mended.

    Neither rights nor a disk that failed for once change what a step is addressed by.
    """
    unread = [row.source for row in rejected if row.reason.startswith(UNREADABLE)]
    mendable = not isinstance(tree, ArchiveTree) and any(map(tree.exists, unread))
    return f"{step}-incomplete" if mendable else step


def _check_share(kept: int, rejected: list[Rejected], most: float, source: Source) -> None:
    if not kept and not rejected:
        raise FinedeficsError("no picture is listed", place=source.place, cure="mend it or its reader")
    if not kept:
        raise FinedeficsError(
            f"none of the {len(rejected)} pictures can be used (the first: {rejected[0].reason})",
            place=source.tree.where(rejected[0].source),
            cure="give pictures that open",
        )
    if len(rejected) > most * (kept + len(rejected)):
        kind, number = Counter(kind_of(row.reason) for row in rejected).most_common(1)[0]
        first = next(row for row in rejected if kind_of(row.reason) == kind)
        raise FinedeficsError(
            f"{len(rejected)} of the {kept + len(rejected)} pictures cannot be used, "
            f"{number} of them like {first.source}: {first.reason}",
            place=source.place,
            cure=f"mend the source, or allow more than {most:.0%} with --allow-rejected",
        )


def _counts(rows: pa.Table) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows.group_by(["split", "category_id"]).aggregate([([], "count_all")]).to_pylist():
        counts.setdefault(row["split"], {})[row["category_id"] or ""] = row["count_all"]
    return counts


def _category_rows(categories: tuple[Category, ...]) -> pa.Table:
    rows = [
        {
            **vars(category),
            # A category is learned from its text as well, so attributes alone are put into words.
            "description": category.description or write_description(category.attributes) or None,
            "attributes": attributes_to_arrow(category.attributes),
        }
        for category in categories
    ]
    return pa.Table.from_pylist(rows, schema=CATEGORIES)


def _ingest_digest(listing: Listing, tree: Tree, reader: str, seed: int, row_group_rows: int) -> str:
    # Like make, by size and time of change: hashing every picture would be most of the work to be saved.
    files = [[asdict(entry), *_stamp(tree, entry.address or entry.source)] for entry in listing.entries]
    known = [asdict(category) for category in listing.categories]
    return digest_of([__version__, "ingest", reader, seed, row_group_rows, files, known, listing.rejected])


def _stamp(tree: Tree, address: str) -> tuple[int, int]:
    try:
        return tree.stamp(address)
    except OSError:
        return -1, -1
