"""What a user calls a model, in one place: a run's key, a registered version, a folder or a hub name."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location, commit, committed, fetch
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.config.model import Model
from finedefics_platform.models.decisions import named_version
from finedefics_platform.models.packaging import model_place, open_package
from finedefics_platform.models.registry import ModelVersion, is_registered
from finedefics_platform.training.identity import base_folder, base_of
from finedefics_platform.training.trained import TrainedRun, open_run

MLFLOW = "models:/"  # how MLflow writes what is registered
_ON_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>\S+))?")


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
        hub: ``name@commit`` of a model on the Hugging Face hub.
    """

    reference: str
    model: Path
    place: Location
    index: Path | None = None
    version: ModelVersion | None = None
    run: TrainedRun | None = None
    labelled: tuple[str, ...] | None = None
    hub: str | None = None

    @property
    def called(self) -> str | None:
        """What it is called wherever it lies, pinned: a run, a version or a hub name; None of a folder."""
        if self.version is not None:
            return self.version.reference
        return self.run.key if self.run is not None else self.hub


def open_model(workspace: Workspace, reference: str) -> OpenedModel:
    """Open a model by what it is called.

    Args:
        workspace: has the runs, names the registry, and keeps downloaded versions.
        reference: ``birds@champion``, ``birds/3`` or ``birds`` (its champion), also as MLflow writes them
            (``models:/birds/3``); a run's key or the beginning of one; a Hugging Face folder, or one that has
            such a folder as ``model/``; a model on the hub, ``owner/name`` or ``owner/name@revision``, which
            is brought here at the commit that this is now.

    Raises:
        FinedeficsError: nothing has this name, or it is ``@champion`` and that was moved around the gate.
    """
    if reference.startswith(MLFLOW):
        return _registered(workspace, reference.removeprefix(MLFLOW))
    if "://" in reference or reference.startswith(INSIDE):
        place = workspace.place_of(reference)
        return OpenedModel(reference, model_folder(place), place)
    folder = Path(reference).expanduser()
    if folder.is_absolute() or reference.startswith((".", "~")) or folder.as_posix().count("/") > 1:
        return _in_folder(reference, folder)
    if "/" not in reference and (workspace.runs / reference / "experiment.json").is_file():
        return _of_run(reference, open_run(workspace, reference))
    if is_registered(workspace, reference):
        return _registered(workspace, reference)
    if folder.is_dir():
        return _in_folder(reference, folder)
    if "/" not in reference and any(run.name.startswith(reference) for run in workspace.runs.children()):
        return _of_run(reference, open_run(workspace, reference))
    if (there := _ON_HUB.fullmatch(reference)) and not _is_version(workspace, there["name"]):
        return _on_hub(workspace, reference, there["name"], there["revision"])
    return _registered(workspace, reference)  # says what there is


def trained_on(opened: OpenedModel) -> str | None:
    """The dataset that a model was trained on, ``name@digest``; None where that is not known."""
    if opened.run is not None:
        return opened.run.dataset
    return opened.version.tags.get("dataset") if opened.version is not None else None


def base_of_model(workspace: Workspace, opened: OpenedModel) -> OpenedModel:
    """The model that a run tuned, of a run or of a version that one made.

    Raises:
        FinedeficsError: nothing says from what it was tuned (exit code 2), or that is not to be had.
    """
    run, key = opened.run, opened.version.tags.get("run") if opened.version else None
    if run is None and key and (workspace.runs / key / "experiment.json").is_file():
        run = open_run(workspace, key)
    if run is None:
        raise wrong_use(
            "nothing here says what this model was tuned from",
            place=opened.reference,
            cure="give a run of this workspace, or a version that one made",
        )
    base = base_folder(workspace, run.experiment().model)
    return OpenedModel(f"base of {run.key}", base, Location.of(base), labelled=run.labelled)


def _of_run(reference: str, run: TrainedRun) -> OpenedModel:
    return OpenedModel(reference, fetch(run.model), run.model, run=run, labelled=run.labelled)


def _registered(workspace: Workspace, reference: str) -> OpenedModel:
    version = named_version(workspace, reference)
    package = open_package(workspace, version)
    labelled = tuple(json.loads((package / "training.json").read_text())["labelled"])
    model = package / "model"
    place = model_place(workspace, version)
    return OpenedModel(reference, model, place, _index(package), version, labelled=labelled)


def _is_version(workspace: Workspace, reference: str) -> bool:
    """Whether it is meant for the registry: a version's number, or whatever stands behind a model's name."""
    name, _, number = reference.partition("/")
    return number.isdigit() or is_registered(workspace, name)


def _on_hub(workspace: Workspace, reference: str, name: str, revision: str | None) -> OpenedModel:
    """The model at a commit, in the workspace where other machines could not see this one's disk."""
    try:
        base = base_of(workspace, Model(path=name, revision=revision))
        folder = base_folder(workspace, Model(path=name, revision=base.revision))
    except FinedeficsError as error:
        raise wrong_use(
            f"neither a run, a registered model nor a folder, and on the hub {error.thing}",
            place=reference,
            cure="see `finedefics runs list` and `finedefics models list`, or give a folder with config.json",
        ) from error
    place = Location.of(folder)
    if workspace.root.local is None:
        place = workspace.models / "hub" / digest_of(base.identity)
        if committed(place) is None:
            with commit(place) as draft:
                shutil.copytree(folder, draft, dirs_exist_ok=True)  # follows the links of the hub's cache
    return OpenedModel(reference, folder, place, hub=base.identity)


def _in_folder(reference: str, folder: Path) -> OpenedModel:
    if not folder.is_dir():
        raise wrong_use("there is no such folder", place=reference, cure="give a folder or name@alias")
    folder = folder.resolve()
    if (folder / "config.json").is_file():
        _check_weights(reference, folder)
        return OpenedModel(reference, folder, Location.of(folder), _index(folder))
    if not (folder / "model" / "config.json").is_file():
        raise wrong_use(
            "the folder has no model in it", place=reference, cure="give a model's folder or a run's"
        )
    model = folder / "model"
    _check_weights(reference, model)
    return OpenedModel(reference, model, Location.of(model), _index(folder))


def _check_weights(reference: str, model: Path) -> None:
    """Now, rather than by each process that is to load it."""
    if not any(model.glob("*.safetensors")):
        raise wrong_use(
            "the folder has no weights in it",
            place=reference,
            cure="give one with config.json and *.safetensors",
        )


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
