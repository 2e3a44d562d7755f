"""From a source to a dataset that can be trained on: ingest, describe, mine and inspect, one after the other.

Each step is skipped where it was done before, so a preparation that was cut off goes on. Where nothing is
known to describe or mine from, it goes on with what there is, and says what is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.describing import best_describer, describe, described_by
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.inspection import Inspection, inspect
from finedefics_platform.data.mining import choose, mine
from finedefics_platform.data.store import Dataset, open_dataset

if TYPE_CHECKING:
    from finedefics.embedders import Settings as EmbedderSettings
    from finedefics_platform.data.describing import Settings as DescriberSettings

_OF_CATEGORIES = "names:"  # describers that give categories their texts, and pictures nothing


@dataclass(frozen=True)
class Prepared:
    """What was made, and what could not be.

    Attributes:
        undescribed, unmined: why nobody described the pictures, or mined negatives, with what would help;
            None where it was done.
    """

    dataset: Dataset
    inspection: Inspection
    undescribed: FinedeficsError | None
    unmined: FinedeficsError | None


def prepare(
    workspace: Workspace,
    name: str,
    source: str,
    *,
    reading: dict[str, Any] | None = None,
    describer: str | None = None,
    describing: "DescriberSettings | None" = None,
    miner: str | None = None,
    embedder: str | None = None,
    embedding: "EmbedderSettings | None" = None,
    progress: Progress = SILENT,
) -> Prepared:
    """Make a described, mined dataset of a source.

    Args:
        source: what `ingest` reads; ``reading`` are its settings.
        describer, miner, embedder: by name; default: the best that the data allows without a model.

    Raises:
        FinedeficsError: of a step that was asked for, or that went wrong.
    """
    dataset = ingest(workspace, name, source, **(reading or {}), progress=progress)
    if describer is None:
        dataset = _asked_about(workspace, dataset) or dataset
    dataset, undescribed = _described(workspace, dataset, describer, describing, progress)
    unmined = None
    if miner is None and embedder is None:
        unmined = _refused(lambda: choose(dataset))
    if unmined is None:
        dataset = mine(
            workspace,
            dataset.reference,
            miner=miner,
            embedder=embedder,
            settings=embedding,
            progress=progress,
        )
    return Prepared(dataset, inspect(dataset, progress), undescribed, unmined)


def _described(
    workspace: Workspace,
    dataset: Dataset,
    describer: str | None,
    settings: "DescriberSettings | None",
    progress: Progress,
) -> tuple[Dataset, FinedeficsError | None]:
    """The described version, or the same one and why it is not described."""
    if describer is not None:
        dataset = describe(
            workspace, dataset.reference, describer=describer, settings=settings, progress=progress
        )
        if not describer.startswith(_OF_CATEGORIES):
            return dataset, None
        describer = None  # categories have texts now, which may be said of their pictures
    if described_by(dataset) is None and (reason := _refused(lambda: best_describer(dataset))):
        return dataset, reason
    return describe(workspace, dataset.reference, settings=settings, progress=progress), None


def _asked_about(workspace: Workspace, ingested: Dataset) -> Dataset | None:
    """The newest version, where a model or a user's file has described the very pictures that were ingested.

    What was asked for, and perhaps paid for, is not replaced by what the data says itself.
    """
    newest = open_dataset(workspace, ingested.name)
    tables = (newest.manifest["tables"], ingested.manifest["tables"])
    same = all(len({table[name]["digest"] for table in tables}) == 1 for name in ("samples", "annotations"))
    return newest if same and described_by(newest) is not None else None


def _refused(choosing: Callable[[], object]) -> FinedeficsError | None:
    """Why nothing can be chosen."""
    try:
        choosing()
    except FinedeficsError as reason:
        return reason
    return None
