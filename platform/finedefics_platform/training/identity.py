"""What a run is: its key follows what determines the trained weights, and nothing else.

That is the content of the data and of the base model, and the settings of `Experiment.digest`. Where the
model lies, how many workers train, with which ZeRO stage or token budget, what is measured meanwhile: none of
it makes another run, so an interrupted one is found again under other circumstances.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.model_paths import CURE, is_path
from finedefics_platform.base.content import model_digest, model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.model import Model
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.refresh import pinned

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model is loaded from; the same weights in other frameworks' formats are left where they are.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class Base:
    """The model that is tuned.

    Attributes:
        path: as it is written down: a name in the workspace, a path, a URI or a hub name.
        revision: the commit of a model on the hub, None of a folder.
        identity: digest of a folder's content, or ``hub name@commit``.
    """

    path: str
    revision: str | None
    identity: str


def base_of(workspace: Workspace, model: Model) -> Base:
    """Find out which model an experiment means.

    Raises:
        FinedeficsError: no model is there, or the hub does not know it (or does not answer, and no copy of it
            is on this machine).
    """
    place = model_place(workspace, model.path)
    if place is None:
        commit = _commit(model.path, model.revision)
        return Base(model.path, commit, f"{model.path}@{commit}")
    if model.revision is not None:
        raise wrong_use(
            "a folder has no revision", place="model.revision", cure="leave it out, or give a hub name"
        )
    return Base(workspace.name_of(place), None, model_digest(model_folder(place)))


def base_folder(workspace: Workspace, model: Model) -> Path:
    """The local folder of a model whose revision is pinned; brought to this node where it is elsewhere.

    Raises:
        FinedeficsError: it cannot be had on this node.
    """
    place = model_place(workspace, model.path)
    if place is not None:
        return model_folder(place)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=[*_FILES]))
    except (OSError, ValueError) as error:
        raise _not_had(model.path, model.revision, error) from error


def run_key(workspace: Workspace, experiment: Experiment, dataset: Dataset, base: Base | None = None) -> str:
    """``<experiment>-<digest>``: equal data, model and determining settings give an equal key.

    Args:
        base: the experiment's model, where it was looked up already.

    Raises:
        FinedeficsError: as `base_of`.
    """
    base = base or base_of(workspace, experiment.model)
    experiment = _settled(workspace, experiment, dataset)
    return f"{experiment.name}-{digest_of([experiment.digest(), dataset.digest, base.identity])}"


def pin(
    workspace: Workspace, experiment: Experiment, dataset: Dataset, base: Base | None = None
) -> Experiment:
    """The experiment with its dataset, and versions that negatives come from, named by digest, its model by
    commit and by a name that moves with the workspace, and the threshold of inferred labels where they feed a
    stage; arguments and errors as of `run_key`."""
    base = base or base_of(workspace, experiment.model)
    experiment = _settled(workspace, experiment, dataset)
    data = experiment.data.model_copy(update={"dataset": dataset.reference})
    model = experiment.model.model_copy(update={"path": base.path, "revision": base.revision})
    return experiment.model_copy(update={"data": data, "model": model})


def _settled(workspace: Workspace, experiment: Experiment, dataset: Dataset) -> Experiment:
    """What the experiment leaves to its dataset is said: whose negatives, how sure inferred labels are."""
    stages = tuple(pinned(workspace, stage, dataset) for stage in experiment.stages)
    data = experiment.data
    if experiment.has_feed("inferred") and data.inferred_probability is None:
        data = data.model_copy(update={"inferred_probability": dataset.inferred_threshold()})
    return experiment.model_copy(update={"stages": stages, "data": data})


def model_place(workspace: Workspace, path: str) -> Location | None:
    """The place of a model folder; None where the text is a hub name."""
    if path.startswith(INSIDE) or "://" in path:
        return workspace.place_of(path)
    return Location.of(Path(path).expanduser()) if is_path(path) else None


def _commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub model is now; offline, what the copy on this machine is."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    try:
        commit = None if constants.is_offline_mode() else HfApi().model_info(name, revision=revision).sha
        failure: Exception = OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _not_had(name, revision, error, exit_code=2) from error
    except (OSError, ValueError) as error:  # no network, or a server that is ill: a copy may be here
        commit, failure = None, error
    if commit:
        return commit
    copies = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    noted = copies / "refs" / (revision or "main")
    if noted.is_file():
        return noted.read_text().strip()
    raise _not_had(name, revision, failure) from failure


def _not_had(name: str, revision: str | None, error: Exception, exit_code: int = 1) -> FinedeficsError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return FinedeficsError(
        f"no such model can be had ({reason})",
        place=f"{name}@{revision}" if revision else name,
        cure=CURE,
        exit_code=exit_code,
    )
