"""A model and the categories it answers with: found here, loaded where it is asked.

Where a model has no index of its own, its categories are those of a file, or of the data that it was trained
on. Whoever only says what there is (the command line, the front of a server) needs no more than `Answerable`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.storage import Location, committed, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import open_dataset
from finedefics_platform.models.references import OpenedModel, open_model
from finedefics_platform.training.trained import TrainedRun

if TYPE_CHECKING:
    from finedefics.scoring import Recogniser


@dataclass(frozen=True)
class Answerable:
    """A model that can be asked for categories.

    Attributes:
        opened: the model.
        index: folder of a category index that was stored for it; None where it is built from texts.
        chosen: the categories that compete in place of the index's; None: the index's.
        added: those that compete beside the index's.
    """

    opened: OpenedModel
    index: Path | None
    chosen: tuple[Category, ...] | None = None
    added: tuple[Category, ...] = ()

    @property
    def categories(self) -> tuple[Category, ...]:
        """What competes, in the order of the scores; no embedding is read."""
        if self.chosen is not None:
            return self.chosen
        assert self.index is not None, "a model without an index has chosen categories"
        rows = json.loads((self.index / "categories.json").read_text())
        return (*(Category(**row) for row in rows), *self.added)

    def load(self, dtype: str | None = None, micro_tokens: int | None = None) -> "Recogniser":
        """The model, on the GPUs where this process sees any; raises as `load_recogniser`."""
        return load_recogniser(self.opened.model, self.index, self.chosen, self.added, dtype, micro_tokens)


def find_answerable(
    workspace: Workspace,
    reference: str,
    categories: Sequence[Category] | None = None,
) -> Answerable:
    """What a model answers with.

    Args:
        reference: as `open_model` takes it.
        categories: these compete and no others; default: those of the model's index (of a run that of its
            newest evaluation on the data it was trained on), else those of that data.

    Raises:
        FinedeficsError: there is no such model, or nothing says what it may name.
    """
    opened = open_model(workspace, reference)
    index = opened.index
    if index is None and opened.run is not None:
        index = _evaluated(workspace, opened.run)
    if categories is not None:
        return Answerable(opened, index, tuple(categories))
    if index is not None:
        return Answerable(opened, index)
    if opened.run is not None:
        return Answerable(opened, None, tuple(_of_data(workspace, opened.run)))
    raise FinedeficsError(
        "nothing says what this model may name: it has no category index",
        place=reference,
        cure="give the names: --categories FILE (a name a line)",
    )


def load_recogniser(
    model: Path,
    index: Path | None,
    chosen: Sequence[Category] | None = None,
    added: Sequence[Category] = (),
    dtype: str | None = None,
    micro_tokens: int | None = None,
) -> "Recogniser":
    """The parts of an `Answerable` as one model that can be asked.

    Categories that are chosen are embedded as their texts; the index's templates, calibration and weight of
    the ensemble stay.

    Args:
        dtype, micro_tokens: as `finedefics.placing.load_placed` takes them.

    Raises:
        FinedeficsError: as `load_placed`, or two categories have one name.
    """
    from finedefics.scoring import Recogniser

    if chosen is None:
        assert index is not None
        recogniser = Recogniser.load(model, index, dtype=dtype, micro_tokens=micro_tokens)
        return recogniser.add(added) if added else recogniser
    import torch

    from finedefics.conversation import Templates
    from finedefics.placing import load_placed
    from finedefics.readout import load_readout
    from finedefics.scoring import CategoryIndex

    stored = None if index is None else CategoryIndex.load(index)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    placed = load_placed(model, device, dtype, micro_tokens=micro_tokens)
    return Recogniser(
        placed.backbone,
        chosen,
        templates=stored.templates if stored else Templates.load(model),
        object_readout=stored.object_readout if stored else load_readout(model),
        ensemble=stored.ensemble if stored else None,
        calibration=stored.calibration if stored else None,
        micro_tokens=placed.micro_tokens,
    )


def _evaluated(workspace: Workspace, run: TrainedRun) -> Path | None:
    """The index of the newest evaluation of a run's model on the data it was trained on."""
    data, digest = run.dataset.partition("@")[0], ""
    newest: tuple[float, Location] | None = None
    for place in workspace.evaluations.children():
        there = committed(place)
        try:
            summary = (there / "summary.json").read_json() if there else {}
        except FileNotFoundError:
            continue
        if str(summary.get("dataset", "")).partition("@")[0] != data:
            continue
        digest = digest or model_digest(fetch(run.model))
        age = float(summary.get("finished", 0))
        if summary.get("model_digest") == digest and (newest is None or age > newest[0]):
            newest = age, place
    index = None if newest is None else fetch(newest[1]) / "index"
    return index if index is not None and (index / "asking.json").is_file() else None


def _of_data(workspace: Workspace, run: TrainedRun) -> list[Category]:
    try:
        return open_dataset(workspace, run.dataset).categories()
    except FinedeficsError as error:
        raise FinedeficsError(
            f"it has no category index, and the data it was trained on is not here ({error.thing})",
            place=run.key,
            cure="give the names: --categories FILE, or evaluate it: "
            f"`finedefics evaluate {run.key} --data DATASET`",
        ) from error
