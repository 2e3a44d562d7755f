"""The table of inferred labels, and what the table of row groups says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from finedefics.records import LABELS
from finedefics_platform.base.storage import Location
from finedefics_platform.data.labelling.inferring import Inferences, Sought
from finedefics_platform.data.parquet import Part, write_part
from finedefics_platform.data.store import Dataset, RowGroup


@dataclass(frozen=True)
class LabelledFile:
    """What a task wrote: a file of labels.

    Attributes:
        probabilities: of each of its row groups, of each row, that of its inferred label; -1 where none is.
    """

    part: Part
    probabilities: tuple[tuple[float, ...], ...]


def write_labels(
    files: Sequence[tuple[Sequence[RowGroup], Sequence[Sought]]],
    *,
    dataset: Dataset,
    inferences: Inferences,
    ids: Sequence[str],
    labeller_id: str,
    home: Location,
) -> list[LabelledFile]:
    """Write files of labels, in a task: each with the row groups of a samples file and what was inferred.

    Args:
        ids: of the categories, by position.
    """
    written = []
    for groups, sought in files:
        found = {
            one.group.number: (inferred.positions, inferred.probability, inferred.margin)
            for one, inferred in inferences.of(sought)
        }
        tables, probabilities = [], []
        for group in groups:
            positions, probability, margin = found.get(group.number, ([-1] * group.rows,) * 3)
            there = [int(position) >= 0 for position in positions]
            columns = {
                "sample_id": dataset.read(group, {"samples": ["sample_id"]})["sample_id"],
                "category_id": [ids[p] if ok else None for p, ok in zip(positions, there, strict=True)],
                "probability": [float(p) if ok else None for p, ok in zip(probability, there, strict=True)],
                "margin": [float(m) if ok else None for m, ok in zip(margin, there, strict=True)],
                "labeller_id": [labeller_id] * group.rows,
            }
            tables.append(pa.table(columns, schema=LABELS))
            probabilities.append(
                tuple(float(p) if ok else -1.0 for p, ok in zip(probability, there, strict=True))
            )
        written.append(LabelledFile(write_part(home, "labels", tables), tuple(probabilities)))
    return written


def with_inferred(dataset: Dataset, written: Sequence[LabelledFile]) -> pa.Table:
    """The table of row groups with the probability of each row's inferred label."""
    groups = dataset.table("row_groups")
    field = groups.schema.field("inferred")
    found = [list(row) for file in written for row in file.probabilities]
    place = groups.schema.get_field_index("inferred")
    return groups.set_column(place, field, pa.array(found, field.type))


def told(point: Mapping[str, float] | None) -> str:
    """A point of a curve in words: ``0.62 takes 48 pictures (40 %) at 91.7 %``."""
    if point is None:
        return "none"
    share, precision = 100 * point["coverage"], 100 * point["precision"]
    return f"{point['threshold']:.3f} takes {point['pictures']} pictures ({share:.0f} %) at {precision:.1f} %"
