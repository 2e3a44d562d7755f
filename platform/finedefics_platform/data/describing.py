"""Describe: what is visible in every picture, as a table beside the samples."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from finedefics.attributes import DESCRIBERS, Describer, Description, Subject
from finedefics.records import DESCRIPTIONS, attributes_from_arrow, attributes_to_arrow
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import Part, write_part
from finedefics_platform.data.steps import step_digest, step_of
from finedefics_platform.data.store import Dataset, RowGroup, open_dataset
from finedefics_platform.data.versions import new_version


@dataclass(frozen=True)
class Described:
    """What a task wrote: a file of descriptions.

    Attributes:
        described: of each of its row groups, rows with a description.
        values: how often each attribute was seen.
    """

    part: Part
    described: tuple[int, ...]
    seen: Mapping[str, int] = field(default_factory=dict)


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
    step = step_digest("describe", dataset, ("samples", "annotations"), describer_id)
    with step_of(workspace, dataset.name, step, "describe", progress) as done:
        if done:
            return done
        work = partial(_describe_files, dataset=dataset, make=make)
        found: list[Described] = run_tasks(
            dataset.groups_of_file(), work, chunk=1, label="describing pictures", progress=progress
        )
        described = [count for file in found for count in file.described]
        total = dataset.manifest["tables"]["samples"]["rows"]
        seen: Counter[str] = Counter()
        for file in found:
            seen.update(file.seen)
        provenance = {
            "step": "describe",
            "describer": describer_id,
            "without_description": total - sum(described),
            "attributes": sorted(seen),
        }
        draft = new_version(workspace, dataset.name)
        # Negatives mined before were mined from other descriptions: they are left out, and mined again.
        made_anew = ("descriptions", "row_groups", "negatives", "neighbours")
        draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
        draft.parts("descriptions", [file.part for file in found], provenance)
        draft.write("row_groups", _with_counts(dataset, described), provenance)
        return draft.publish(step)


def _with_counts(dataset: Dataset, described: Sequence[int]) -> pa.Table:
    groups = dataset.table("row_groups")
    place = groups.schema.get_field_index("described")
    counted = groups.set_column(place, groups.schema.field("described"), pa.array(described, pa.int32()))
    # what a picture without a label is most like comes from negatives, which are mined again
    place = groups.schema.get_field_index("likes")
    return counted.set_column(place, "likes", pa.nulls(len(groups), groups.schema.field("likes").type))


def _describe_files(
    files: Sequence[Sequence[RowGroup]], *, dataset: Dataset, make: Callable[[], Describer]
) -> list[Described]:
    describer = make()
    return [_describe_file(dataset, groups, describer) for groups in files]


def _describe_file(dataset: Dataset, groups: Sequence[RowGroup], describer: Describer) -> Described:
    tables, described = [], []
    seen: Counter[str] = Counter()
    for group in groups:
        subjects = _subjects(dataset, group, describer.reads_images)
        pairs = zip(subjects, describer(subjects), strict=True)
        rows = [_row(subject, found, describer.describer_id) for subject, found in pairs]
        described.append(sum(row["description"] is not None for row in rows))
        seen.update(pair["name"] for row in rows for pair in row["attributes"] or ())
        tables.append(pa.Table.from_pylist(rows, schema=DESCRIPTIONS))
    part = write_part(dataset.root.parent, "descriptions", tables)
    return Described(part, tuple(described), dict(seen))


def _subjects(dataset: Dataset, group: RowGroup, with_images: bool) -> list[Subject]:
    columns = {
        "samples": ["sample_id", *(["image"] if with_images else [])],
        "annotations": ["description", "attributes"],
    }
    return [
        Subject(
            row["sample_id"],
            row.get("image"),
            row["description"],
            attributes_from_arrow(row["attributes"]),
        )
        for row in dataset.read(group, columns).to_pylist()
    ]


def _row(subject: Subject, found: Description | None, describer_id: str) -> dict[str, Any]:
    return {
        "sample_id": subject.sample_id,
        "attributes": attributes_to_arrow(found.attributes) if found else None,
        "description": found.text if found else None,
        "describer_id": describer_id,
    }
