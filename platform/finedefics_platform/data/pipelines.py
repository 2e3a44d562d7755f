"""Ingest, describe, mine: each makes a new dataset version from what went before.

A step is addressed by the digest of all that goes into it. Done once, it is not done again; done again
elsewhere, on whatever cluster, it gives the same version. Of several drivers one does it and the others wait.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from finedefics import __version__
from finedefics.attributes import DESCRIBERS, Description, Subject, write_description
from finedefics.data.readers import READERS, Entry, Listing
from finedefics.errors import FinedeficsError
from finedefics.mining import KEEP, MINERS, Confusable, Ranking
from finedefics.records import (
    CATEGORIES,
    DESCRIPTIONS,
    NEGATIVES,
    QUARANTINE,
    SAMPLES,
    Category,
    attributes_from_arrow,
    attributes_to_arrow,
)
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.ingestion import (
    GROUPS_PER_FILE,
    ROW_GROUP_ROWS,
    Rejected,
    admit,
    check_pictures,
    sample_files,
    sample_rows,
    write_samples,
)
from finedefics_platform.data.store import ANNOTATIONS, Dataset, RowGroup, open_dataset, read_row_group
from finedefics_platform.data.versions import finished_step, lease_of, new_version

_DESCRIBED_AT_ONCE = 4  # row groups
_MINED_AT_ONCE = 2048  # samples


def ingest(
    workspace: Workspace,
    name: str,
    folder: str | Path,
    *,
    reader: str = "folder",
    seed: int = 0,
    row_group_rows: int = ROW_GROUP_ROWS,
    progress: Progress = SILENT,
) -> Dataset:
    """Make a dataset version from a source; what cannot be used is quarantined with its reason.

    Args:
        name: of the dataset; a version of it is added.
        folder: the source, as ``reader`` understands it.
        seed: decides the split where the source has none.
        row_group_rows: rows of a row group, the unit in which training shuffles and reads.

    Raises:
        FinedeficsError: the source is missing or wrong, no picture of it can be used, or a write failed.
    """
    listing = READERS[reader](folder, seed=seed)
    step = _ingest_digest(listing, reader, seed, row_group_rows)
    named = workspace.name_of(Location.of(folder))
    provenance = {"step": "ingest", "reader": reader, "folder": named, "seed": seed}
    with _step(workspace, name, step, "ingest", progress) as done:
        if done:
            return done
        kept, rejected = admit(listing.entries, check_pictures(listing.entries, progress))
        rejected += [Rejected(source, None, reason) for source, reason in listing.rejected]
        if not kept:
            raise FinedeficsError(
                f"none of the {len(rejected)} pictures can be used (the first: {rejected[0].reason})",
                place=str(Path(folder) / rejected[0].source),
                cure="give JPEG or PNG pictures that open",
            )
        rows, by_id = sample_rows(kept)
        files = sample_files(rows, row_group_rows)
        draft = new_version(workspace, name)
        stored = pa.Table.from_pylist(rows, schema=SAMPLES.remove(SAMPLES.get_field_index("image")))
        layout = {"row_group_rows": row_group_rows, "row_groups_per_file": GROUPS_PER_FILE}
        pictures = {**provenance, "pictures": len(kept), "layout": layout}
        place = draft.declare("samples", stored, pictures, list(files))
        write_samples(files, by_id, place, row_group_rows=row_group_rows, progress=progress)
        draft.write("categories", _category_rows(listing.categories), provenance)
        draft.write("annotations", _annotation_rows(rows, by_id), provenance)
        quarantine = sorted((asdict(row) for row in rejected), key=lambda row: row["source"])
        draft.write("quarantine", pa.Table.from_pylist(quarantine, schema=QUARANTINE), provenance)
        return draft.publish(step)


def describe(
    workspace: Workspace,
    reference: str,
    *,
    describer: str = "annotations",
    progress: Progress = SILENT,
) -> Dataset:
    """Add the descriptions table; pictures that the describer has nothing to say of are counted.

    Raises:
        FinedeficsError: there is no such dataset or describer.
    """
    make = DESCRIBERS[describer]
    dataset = open_dataset(workspace, reference)
    describer_id = make().describer_id
    step = _step_digest("describe", dataset, ("samples", "annotations"), describer_id)
    with _step(workspace, dataset.name, step, "describe", progress) as done:
        if done:
            return done
        notes = {row["sample_id"]: row for row in dataset.table("annotations").to_pylist()}
        subjects = []
        for group in dataset.row_groups():
            ids = read_row_group(group, ["sample_id"])["sample_id"].to_pylist()
            subjects.append((group, [_subject(sample_id, notes.get(sample_id)) for sample_id in ids]))
        work = partial(_describe_groups, describer=describer)
        found = run_tasks(
            subjects, work, chunk=_DESCRIBED_AT_ONCE, label="describing pictures", progress=progress
        )
        rows = [
            {
                "sample_id": subject.sample_id,
                "attributes": attributes_to_arrow(description.attributes),
                "description": description.text,
                "describer_id": describer_id,
            }
            for (_, group), descriptions in zip(subjects, found, strict=True)
            for subject, description in zip(group, descriptions, strict=True)
            if description is not None
        ]
        total = dataset.manifest["tables"]["samples"]["rows"]
        provenance = {"step": "describe", "describer": describer_id, "without_description": total - len(rows)}
        draft = new_version(workspace, dataset.name)
        # Negatives mined before were mined from other descriptions: they are left out, and mined again.
        draft.keep(dataset, [t for t in dataset.manifest["tables"] if t not in ("descriptions", "negatives")])
        draft.write("descriptions", pa.Table.from_pylist(rows, schema=DESCRIPTIONS), provenance)
        return draft.publish(step)


def mine(
    workspace: Workspace,
    reference: str,
    *,
    miner: str = "attributes",
    keep: int = KEEP,
    progress: Progress = SILENT,
) -> Dataset:
    """Add the negatives table: for every picture the ``keep`` most similar wrong categories.

    Raises:
        FinedeficsError: there is no such dataset or miner, or the miner cannot compare these categories.
    """
    dataset = open_dataset(workspace, reference)
    categories = dataset.categories()
    made = MINERS[miner](categories, None)
    tables = ("samples", "categories", "descriptions", "annotations")
    step = _step_digest("mine", dataset, tables, [made.miner_id, keep])
    with _step(workspace, dataset.name, step, "mine", progress) as done:
        if done:
            return done
        described: dict[str, dict[str, str]] = {}
        if dataset.has("descriptions"):
            for row in dataset.table("descriptions", ["sample_id", "attributes"]).to_pylist():
                described[row["sample_id"]] = attributes_from_arrow(row["attributes"])
        provided = _provided(dataset) if miner == "provided" else {}
        pictures = [
            Confusable(
                row["sample_id"],
                row["category_id"],
                described.get(row["sample_id"], {}),
                provided.get(row["sample_id"], ()),
            )
            for row in dataset.table("samples", ["sample_id", "category_id"]).to_pylist()
        ]
        work = partial(_mine_some, miner=miner, categories=categories, keep=keep)
        rankings = run_tasks(
            pictures, work, chunk=_MINED_AT_ONCE, label="mining negatives", progress=progress
        )
        rows = [
            {
                "sample_id": picture.sample_id,
                "candidates": [{"category_id": name, "similarity": value} for name, value in ranking],
                "miner_id": made.miner_id,
            }
            for picture, ranking in zip(pictures, rankings, strict=True)
        ]
        without = sum(not ranking for ranking in rankings)
        provenance = {"step": "mine", "miner": made.miner_id, "keep": keep, "without_candidates": without}
        draft = new_version(workspace, dataset.name)
        draft.keep(dataset, [t for t in dataset.manifest["tables"] if t != "negatives"])
        draft.write("negatives", pa.Table.from_pylist(rows, schema=NEGATIVES), provenance)
        return draft.publish(step)


def _describe_groups(
    groups: Sequence[tuple[RowGroup, list[Subject]]], *, describer: str
) -> list[list[Description | None]]:
    ask = DESCRIBERS[describer]()
    found = []
    for group, subjects in groups:
        if ask.reads_images:
            images = read_row_group(group, ["image"])["image"].to_pylist()
            subjects = [replace(s, image=image) for s, image in zip(subjects, images, strict=True)]
        found.append(ask(subjects))
    return found


def _mine_some(
    pictures: Sequence[Confusable], *, miner: str, categories: Sequence[Category], keep: int
) -> list[Ranking]:
    return MINERS[miner](categories, None)(pictures, keep)


def _provided(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    rows = dataset.table("annotations", ["sample_id", "negatives"]).to_pylist()
    return {row["sample_id"]: tuple(row["negatives"] or ()) for row in rows}


def _subject(sample_id: str, note: Mapping[str, Any] | None) -> Subject:
    if note is None:
        return Subject(sample_id)
    return Subject(sample_id, None, note["description"], attributes_from_arrow(note["attributes"]))


def _annotation_rows(rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, Entry]) -> pa.Table:
    notes = [
        {
            "sample_id": row["sample_id"],
            "description": entry.description,
            "attributes": None if entry.attributes is None else attributes_to_arrow(entry.attributes),
            "negatives": list(entry.negatives) or None,
        }
        for row in rows
        if (entry := by_id[row["sample_id"]]).description or entry.attributes or entry.negatives
    ]
    return pa.Table.from_pylist(notes, schema=ANNOTATIONS)


def _category_rows(categories: Sequence[Category]) -> pa.Table:
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


@contextmanager
def _step(
    workspace: Workspace, name: str, step: str, verb: str, progress: Progress
) -> Iterator[Dataset | None]:
    """What the step made before, else None: then the block makes it, and nobody else does meanwhile.

    Whoever is cut off and goes on without its lease does no harm: content decides what is written where.
    """
    if done := _finished(workspace, name, step, verb, progress):
        yield done
        return
    with lease(lease_of(workspace, name, step), f"{verb} of {name}", progress=progress):
        yield _finished(workspace, name, step, verb, progress)  # whoever was waited for has made it


def _finished(workspace: Workspace, name: str, step: str, verb: str, progress: Progress) -> Dataset | None:
    made = finished_step(workspace, name, step)
    if made is not None:
        progress.event("skipped", step=verb, dataset=made.reference)
        progress.say(f"{verb}: done before, {made.reference} is reused")
    return made


def _ingest_digest(listing: Listing, reader: str, seed: int, row_group_rows: int) -> str:
    # Like make, by size and time of change: hashing every picture would be most of the work to be saved.
    files = [[asdict(entry), *_size_and_time(entry.path)] for entry in listing.entries]
    known = [asdict(category) for category in listing.categories]
    return digest_of([__version__, "ingest", reader, seed, row_group_rows, files, known, listing.rejected])


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _step_digest(verb: str, dataset: Dataset, tables: Sequence[str], settings: Any) -> str:
    digests = {table: dataset.manifest["tables"].get(table, {}).get("digest") for table in tables}
    return digest_of([__version__, verb, digests, settings])
