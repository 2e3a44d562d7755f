"""Replies that others wrote as items of a dataset of ours, to be compared with evaluations of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.errors import wrong_use
from finedefics.evaluation.matching import Picture, match
from finedefics.evaluation.options import OptionItem
from finedefics_platform.base.storage import committed, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset

if TYPE_CHECKING:
    from finedefics.evaluation.scored import Scored

_ITEMS = "items.parquet"


def items_of(dataset: Dataset, split: str, scored: "Scored") -> tuple[pa.Table, Mapping[str, Any]]:
    """The item table with sample and category ids of the dataset, and how much of the file it has.

    Categories with labelled training pictures in the dataset are the group ``labelled``, the others ``new``.

    Raises:
        FinedeficsError: more than a few of the questions have no picture in the split.
    """
    from finedefics.evaluation.items import LABELLED, NEW
    from finedefics.evaluation.scored import items_table

    asked = [_question(item.image, item.options, item.truth) for item in scored.items]
    rows = dataset.table("samples", ["sample_id", "source", "category_id", "split"])
    own = rows.filter(pc.equal(rows["split"], split)).drop_columns("split").to_pylist()
    categories = dataset.categories()
    found = match(asked, (Picture(**row) for row in own), categories, place=scored.file.name)
    labelled, shown = dataset.labelled_category_ids(), items_table(scored).to_pylist()
    made = []
    for sample_id, options in found.options.items():
        item, row = asked[found.numbers[sample_id]], shown[found.numbers[sample_id]]
        ids = dict(zip(item.options, options, strict=True))
        truth = ids[item.truth]
        row |= {"sample_id": sample_id, "category_id": truth, "predicted": ids.get(row["predicted"])}
        row |= {"group": LABELLED if truth in labelled else NEW, "options": [ids[n] for n in row["options"]]}
        made.append(row)
    return pa.Table.from_pylist(made, items_table(scored).schema), found.told()


def _question(image: str, options: tuple[str, ...], truth: str) -> OptionItem:
    return OptionItem(image, (truth, *(option for option in options if option != truth)), truth)


def is_evaluation(workspace: Workspace, reference: str) -> bool:
    """Whether it names an evaluation: its digest, its folder, or an item table (Parquet)."""
    path = Path(reference).expanduser()
    if path.suffix == ".parquet" or (path / _ITEMS).is_file():
        return True
    return "/" not in reference and committed(workspace.evaluations / reference) is not None


def evaluated_items(workspace: Workspace, reference: str, answer: str | None, usual: str) -> pa.Table:
    """An evaluation's answers among options.

    Args:
        reference: what `is_evaluation` takes.
        answer: whose; default: ``usual`` where it was asked, or the only one.

    Raises:
        FinedeficsError: the answer was not asked among options, or several were (exit code 2), or the table
            cannot be read.
    """
    path = Path(reference).expanduser()
    if path.suffix != ".parquet":
        folder = path if path.is_dir() else fetch(workspace.evaluations / reference)
        path = folder / _ITEMS
    try:
        items = pq.read_table(path)
        items = items.filter(pc.equal(items["scope"], "options"))
        items = items.filter(pc.equal(items["rotation"].fill_null(0), 0))
        there = sorted(pc.unique(items["answer"]).to_pylist())
    except (KeyError, OSError, pa.ArrowException) as error:
        raise wrong_use(
            "no item table can be read here", place=str(path), cure="give an evaluation or its items.parquet"
        ) from error
    chosen = answer or (usual if usual in there else there[0] if len(there) == 1 else None)
    if chosen not in there:
        thing = f"{chosen} was not asked among options" if chosen else "several answers were asked"
        raise wrong_use(
            thing, place=reference, cure=f"choose one by --answers: {', '.join(there) or 'there is none'}"
        )
    return items.filter(pc.equal(items["answer"], chosen))
