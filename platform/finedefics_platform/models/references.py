"""What a user calls a model, in one place: a run's key, a registered version, or a folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage import Location, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.decisions import named_version
from finedefics_platform.models.packaging import model_place, open_package
from finedefics_platform.models.registry import ModelVersion, is_registered
from finedefics_platform.training.trained import TrainedRun, open_run


@dataclass(frozen=True)
class OpenedModel:
    """A model that can be read on this machine.

    Attributes:
        reference: what it was called.
        model: its Hugging Face folder.
        place: of that folder, as processes on other machines find it where they can.
        index: its category index, where it has one.
        version: the registered version, where it is one.
        run: the run that made it, where a run was asked for.
        labelled: categories that had labels in its own training, where that is known.
    """

    reference: str
    model: Path
    place: Location
    index: Path | None = None
    version: ModelVersion | None = None
    run: TrainedRun | None = None
    labelled: tuple[str, ...] | None = None


def open_model(workspace: Workspace, reference: str) -> OpenedModel:
    """Open a model by what it is called.

    Args:
        workspace: has the runs, names the registry, and keeps downloaded versions.
        reference: ``birds@champion``, ``birds/3`` or ``birds`` (its champion); a run's key or the beginning
            of one; a Hugging Face folder, or one that has such a folder as ``model/``.

    Raises:
        FinedeficsError: nothing has this name, or it is ``@champion`` and that was moved around the gate.
    """
    folder = Path(reference).expanduser()
    if folder.is_absolute() or reference.startswith((".", "~")):
        return _in_folder(reference, folder)
    if "/" not in reference and (workspace.runs / reference / "experiment.json").is_file():
        return _of_run(reference, open_run(workspace, reference))
    if is_registered(workspace, reference):
        return _registered(workspace, reference)
    if folder.is_dir():
        return _in_folder(reference, folder)
    if "/" not in reference and any(run.name.startswith(reference) for run in workspace.runs.children()):
        return _of_run(reference, open_run(workspace, reference))
    return _registered(workspace, reference)  # says what there is


def _of_run(reference: str, run: TrainedRun) -> OpenedModel:
    return OpenedModel(reference, fetch(run.model), run.model, run=run, labelled=run.labelled)


def _registered(workspace: Workspace, reference: str) -> OpenedModel:
    version = named_version(workspace, reference)
    package = open_package(workspace, version)
    labelled = tuple(json.loads((package / "training.json").read_text())["labelled"])
    model = package / "model"
    place = model_place(workspace, version)
    return OpenedModel(reference, model, place, _index(package), version, labelled=labelled)


def _in_folder(reference: str, folder: Path) -> OpenedModel:
    if not folder.is_dir():
        raise wrong_use("there is no such folder", place=reference, cure="give a folder or name@alias")
    folder = folder.resolve()
    if (folder / "config.json").is_file():
        return OpenedModel(reference, folder, Location.of(folder), _index(folder))
    if not (folder / "model" / "config.json").is_file():
        raise wrong_use(
            "the folder has no model in it", place=reference, cure="give a model's folder or a run's"
        )
    model = folder / "model"
    return OpenedModel(reference, model, Location.of(model), _index(folder))


def _index(folder: Path) -> Path | None:
    return folder / "index" if (folder / "index").is_dir() else None


def index_of(opened: OpenedModel) -> Path:
    """The model's category index; FinedeficsError where it has none."""
    if opened.index is None:
        raise FinedeficsError(
            "the model has no category index, so it has no names to give",
            place=opened.reference,
            cure="register its run: `finedefics evaluate RUN --data DATASET --register NAME`",
        )
    return opened.index
