"""The second pass: what was said, in the vocabulary's values and one wording, as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from finedefics.describers import Describer, Description, Vocabulary, write_description
from finedefics.records import DESCRIPTIONS, attributes_to_arrow
from finedefics_platform.base.storage import Location
from finedefics_platform.data.describing.said import Said, SaidFile, read_said, subjects_of, write_said
from finedefics_platform.data.parquet import Part, write_part
from finedefics_platform.data.store import Dataset, RowGroup

NOTHING_SAID = "the describer has nothing to say of it"
NOTHING_COMMON = "nothing that was said of it is in the vocabulary"


@dataclass(frozen=True)
class Described:
    """What a task wrote: a file of descriptions.

    Attributes:
        described: of each of its row groups, rows with a description.
        seen: pictures in which each attribute is seen.
        reasons: pictures without a description, by reason.
    """

    part: Part
    described: tuple[int, ...]
    seen: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)


def say_files(
    files: Sequence[tuple[int, Sequence[RowGroup]]],
    *,
    dataset: Dataset,
    describer: Describer,
    place: Location,
) -> list[SaidFile]:
    """The first pass of a describer that asks nobody, in a task: files of the samples with their numbers."""
    made = []
    for number, groups in files:
        rows = []
        for group in groups:
            subjects = subjects_of(dataset, group, with_images=describer.reads_images)
            found = describer(subjects)
            rows.append((subjects, [Said(one, None if one else NOTHING_SAID) for one in found]))
        made.append(write_said(place / f"{number:06}.parquet", rows, {}))
    return made


def write_files(
    files: Sequence[SaidFile], *, home: Location, vocabulary: Vocabulary, describer_id: str
) -> list[Described]:
    """The second pass, in a task."""
    return [_write_file(file, home, vocabulary, describer_id) for file in files]


def _write_file(file: SaidFile, home: Location, vocabulary: Vocabulary, describer_id: str) -> Described:
    tables, described = [], []
    seen: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for group in read_said(file.place):
        rows: list[dict[str, Any]] = []
        for subject, said in group:
            found = _in_words(said.description, vocabulary)
            if found is None:
                reasons[said.reason or NOTHING_COMMON] += 1
            else:
                seen.update(found.attributes.keys())
            rows.append(
                {
                    "sample_id": subject.sample_id,
                    "attributes": attributes_to_arrow(found.attributes) if found else None,
                    "description": found.text if found else None,
                    "describer_id": describer_id,
                }
            )
        described.append(sum(row["description"] is not None for row in rows))
        tables.append(pa.Table.from_pylist(rows, schema=DESCRIPTIONS))
    part = write_part(home, "descriptions", tables)
    return Described(part, tuple(described), dict(seen), dict(reasons))


def _in_words(found: Description | None, vocabulary: Vocabulary) -> Description | None:
    """Somebody's own words stay; otherwise equal attributes, whatever their order, have equal text."""
    if found is None:
        return None
    attributes = vocabulary.attributes(found.attributes)
    text = found.text or write_description({name: attributes[name] for name in sorted(attributes)})
    return Description(text, attributes) if text else None


def counted_groups(dataset: Dataset, described: Sequence[int]) -> pa.Table:
    """The table of row groups with their numbers of descriptions."""
    groups = without_following(dataset)
    place = groups.schema.get_field_index("described")
    return groups.set_column(place, groups.schema.field("described"), pa.array(described, pa.int32()))


def without_following(dataset: Dataset) -> pa.Table:
    """The table of row groups without what came from negatives and labels, which are made again."""
    groups = dataset.table("row_groups")
    for name in ("likes", "inferred"):
        field = groups.schema.field(name)
        groups = groups.set_column(
            groups.schema.get_field_index(name), field, pa.nulls(len(groups), field.type)
        )
    return groups
