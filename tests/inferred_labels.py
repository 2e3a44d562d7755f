"""A version of a dataset with inferred labels, written as the label step writes them."""

from collections.abc import Mapping

import pyarrow as pa

from finedefics.records import TABLES
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import new_version

Inferred = Mapping[str, tuple[str, float]]  # sample id -> category id and its probability


def with_labels(workspace: Workspace, dataset: Dataset, inferred: Inferred, threshold: float) -> Dataset:
    """The version with these inferred labels, in place of others where it has some."""
    draft = new_version(workspace, dataset.name)
    draft.keep(dataset, [t for t in dataset.manifest["tables"] if t not in ("labels", "row_groups")])
    parts, probabilities = [], []
    for groups in dataset.groups_of_file():
        tables = []
        for group in groups:
            ids = dataset.read(group, {"samples": ["sample_id"]})["sample_id"].to_pylist()
            found = [inferred.get(one, (None, None)) for one in ids]
            rows = [
                {
                    "sample_id": one,
                    "category_id": category,
                    "probability": probability,
                    "margin": probability,
                    "labeller_id": f"by hand, {threshold}",
                }
                for one, (category, probability) in zip(ids, found, strict=True)
            ]
            tables.append(pa.Table.from_pylist(rows, TABLES["labels"]))
            probabilities.append([-1.0 if p is None else p for _, p in found])
        parts.append(write_part(draft.home, "labels", tables))
    accepted = sum(probability >= threshold for _, probability in inferred.values())
    about = {"step": "label", "threshold": threshold, "inferred": len(inferred), "accepted": accepted}
    draft.parts("labels", parts, about)
    groups_table = dataset.table("row_groups")
    field = groups_table.schema.field("inferred")
    column = pa.array(probabilities, field.type)
    at = groups_table.schema.get_field_index("inferred")
    draft.write("row_groups", groups_table.set_column(at, field, column), about)
    return draft.publish(f"labelled-{digest_of([dict(inferred), threshold])}")
