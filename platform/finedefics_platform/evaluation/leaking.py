"""Whether pictures that are evaluated were trained on: by content hashes of datasets, no picture's bytes."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError
from finedefics.evaluation.leaks import leaks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset, Place, RowGroup, open_dataset

_TRAINED = "train"


def leaked(dataset: Dataset, places: Sequence[Place], trained: Dataset | None = None) -> dict[str, Any]:
    """For a summary: how many pictures of an evaluation are training pictures too.

    Args:
        dataset: what is evaluated on; its own split train counts as trained on.
        places: of the pictures that are asked.
        trained: another version or dataset that the model was trained on.

    Returns:
        ``{"pictures": n, "of": all, "against": [references]}``.

    Raises:
        FinedeficsError: a file of a dataset is missing or damaged.
    """
    rows: dict[RowGroup, list[int]] = {}
    for place in places:
        rows.setdefault(place.group, []).append(place.row)
    asked = [_hashes(dataset, group).take(sorted(own)) for group, own in rows.items()]
    datasets = [dataset] if trained is None or trained.digest == dataset.digest else [dataset, trained]
    tested = pa.chunked_array(asked, pa.string())
    found = leaks(tested, (part for one in datasets for part in _trained(one)))
    return {**found, "against": [one.reference for one in datasets]}


def with_training(
    workspace: Workspace, found: dict[str, Any], dataset: Dataset, places: Sequence[Place], trained_on: str
) -> dict[str, Any]:
    """What `leaked` found, with the training pictures of the dataset that the model was trained on.

    One that is not to be had in this workspace is named under ``unchecked``.
    """
    try:
        trained = open_dataset(workspace, trained_on)
        return found if trained.digest == dataset.digest else leaked(dataset, places, trained)
    except FinedeficsError:
        return {**found, "unchecked": [trained_on]}


def _trained(dataset: Dataset) -> Iterator[pa.ChunkedArray]:
    return (_hashes(dataset, group) for group in dataset.row_groups(_TRAINED))


def _hashes(dataset: Dataset, group: RowGroup) -> pa.ChunkedArray:
    """Of a row group's pictures; read in place, since a copy on this node would hold all their bytes."""
    file = dataset.files("samples")[group.file]
    try:
        with pq.ParquetFile(file.path, filesystem=file.filesystem) as stored:
            return stored.read_row_group(group.index, columns=["content_hash"])["content_hash"]
    except (KeyError, OSError, pa.ArrowException) as error:
        raise FinedeficsError(
            "this file of the dataset is missing or damaged",
            place=str(file),
            cure="remove it and run the same `finedefics data` commands again: what is missing is made again",
        ) from error
