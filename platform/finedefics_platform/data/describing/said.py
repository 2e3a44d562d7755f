"""What was said of every picture, before it is put into a vocabulary: one file beside each samples file.

A vocabulary needs all values, so describing goes over the pictures twice. What the first pass found lies in
these files until the second has written the table; no process holds more than one of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from finedefics.describers import Description, Subject
from finedefics.describers.vocabulary import Counts, count_values
from finedefics.records import ATTRIBUTES, attributes_from_arrow, attributes_to_arrow
from finedefics_platform.base.storage import Location
from finedefics_platform.data.parquet import open_parquet, write_parquet
from finedefics_platform.data.store import Dataset, RowGroup

_SAID = pa.schema(
    [
        ("sample_id", pa.string()),
        ("category_id", pa.string()),
        (
            "description",
            pa.string(),
        ),  # words that were said; written from the attributes where there are none
        ("attributes", ATTRIBUTES),
        ("reason", pa.string()),  # why nothing is said
    ]
)


@dataclass(frozen=True)
class Said:
    """What is said of one picture: a description, or the reason why there is none."""

    description: Description | None
    reason: str | None = None


@dataclass(frozen=True)
class SaidFile:
    """What the first pass made of one samples file.

    Attributes:
        counts: values of each attribute, with the pictures they were said of.
        seen: the tasks' and the driver's own figures (names that were said, rows of a file that matched).
    """

    place: Location
    counts: Counts
    seen: Mapping[str, int] = field(default_factory=dict)


def subjects_of(dataset: Dataset, group: RowGroup, *, with_images: bool = False) -> list[Subject]:
    """The pictures of a row group as a describer is shown them."""
    columns = ["sample_id", "category_id", "source", "content_hash", *(["image"] if with_images else [])]
    rows = dataset.read(group, {"samples": columns, "annotations": ["description", "attributes"]})
    return [
        Subject(
            row["sample_id"],
            row.get("image"),
            row["description"],
            attributes_from_arrow(row["attributes"]),
            row["category_id"],
            row["source"],
            row["content_hash"],
        )
        for row in rows.to_pylist()
    ]


def write_said(
    place: Location, groups: Iterable[tuple[Sequence[Subject], Sequence[Said]]], seen: Mapping[str, int]
) -> SaidFile:
    """Keep what was said, one row group beside each of the samples."""
    tables, told = [], []
    for subjects, said in groups:
        rows = [_row(subject, one) for subject, one in zip(subjects, said, strict=True)]
        tables.append(pa.Table.from_pylist(rows, schema=_SAID))
        told += [one.description.attributes for one in said if one.description]
    write_parquet(place, _SAID, tables)
    return SaidFile(place, count_values(told), dict(seen))


def read_said(place: Location) -> Iterator[list[tuple[Subject, Said]]]:
    """What was said, a row group at a time."""
    stored = open_parquet(place)
    for index in range(stored.num_row_groups):
        yield [_said(row) for row in stored.read_row_group(index).to_pylist()]


def _row(subject: Subject, said: Said) -> dict[str, object]:
    found = said.description
    return {
        "sample_id": subject.sample_id,
        "category_id": subject.category_id,
        "description": found.text if found else None,
        "attributes": attributes_to_arrow(found.attributes) if found else None,
        "reason": said.reason,
    }


def _said(row: Mapping[str, object]) -> tuple[Subject, Said]:
    subject = Subject(str(row["sample_id"]), category_id=row["category_id"])  # type: ignore[arg-type]
    if row["description"] is None:
        return subject, Said(None, row["reason"])  # type: ignore[arg-type]
    attributes = attributes_from_arrow(row["attributes"])  # type: ignore[arg-type]
    return subject, Said(Description(str(row["description"]), attributes), None)
