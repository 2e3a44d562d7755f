"""The platform from Python: what the commands do, as a dozen functions that name things as the commands do.

Everything is kept in a workspace: the one at FINEDEFICS_HOME, or `.finedefics` in the current folder, unless
another is given. What was made before is found again and returned at once, as on the command line. Nothing is
printed; a `progress` of the caller's is told of the way.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Experiment, load_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.store import open_dataset as _open_dataset

if TYPE_CHECKING:
    from PIL.Image import Image

    from finedefics.records import Category
    from finedefics_platform.evaluation.items import Evaluated
    from finedefics_platform.models.registry import ModelVersion
    from finedefics_platform.search.run import SearchResult
    from finedefics_platform.training.trained import TrainedRun

__all__ = [
    "Evaluation",
    "FinedeficsError",
    "Named",
    "add_category",
    "describe",
    "evaluate",
    "ingest",
    "load_experiment",
    "mine",
    "open_dataset",
    "open_workspace",
    "predict",
    "prepare",
    "train",
    "tune",
]

PathLike = str | os.PathLike[str]


class Named(NamedTuple):
    """A category that a picture was named, and how well it fits: higher is better, within one answer."""

    category_id: str
    name: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """What a model showed on a split.

    Attributes:
        evaluated: the finished evaluation: its items, embeddings, category index and summary.
        version: of the registered model, where it was registered.
    """

    evaluated: "Evaluated"
    version: "ModelVersion | None"

    def figures(self, scope: str = "all") -> dict[str, Any]:
        """Accuracy by answer and group, fractions with 95 % intervals.

        Args:
            scope: `all`, every category competes; `options`, the true one and hard ones (multiple choice).

        Returns:
            ``{answer: {group: {"accuracy", "low", "high", "n"}}}``; the groups are `labelled` and `new`:
            categories that had labels in the model's own training, and those that had none.
        """
        from finedefics.evaluation.tables import accuracy_table

        return dict(accuracy_table({"model": self.evaluated.items()}, {}, scope)["model"])


def open_dataset(reference: PathLike, *, workspace: Workspace | None = None) -> Dataset:
    """A dataset by its name (the newest version), ``name@digest``, or the path of a version.

    Raises:
        FinedeficsError: there is no such dataset, or more than one version begins like this.
    """
    return _open_dataset(workspace or open_workspace(), reference)


def prepare(
    source: PathLike,
    *,
    name: str,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
    **how: Any,
) -> Dataset:
    """A described, mined dataset of a folder, an archive or a table of pictures, in one step.

    A step that the data does not allow without a model is left out, as by `finedefics data prepare`.

    Args:
        source: as a path or a URI (``s3://…``).
        name: of the dataset; a version of it is added.
        how: ``describer``, ``miner`` or ``embedder``, where they are to be others than the data suggests.

    Raises:
        FinedeficsError: the source is missing, or too much of it cannot be used.
    """
    from finedefics_platform.data.preparing import prepare as run

    made = run(workspace or open_workspace(), name, _given(source), progress=progress, **how)
    return made.dataset


def ingest(
    source: PathLike,
    *,
    name: str,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
    **how: Any,
) -> Dataset:
    """A dataset version of pictures; ``how`` as `finedefics_platform.data.ingesting.ingest` takes it.

    Raises:
        FinedeficsError: the source is missing, or too much of it cannot be used.
    """
    from finedefics_platform.data.ingesting import ingest as run

    return run(workspace or open_workspace(), name, _given(source), progress=progress, **how)


def describe(
    dataset: Dataset | str,
    describer: str | None = None,
    *,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """The dataset with an attribute description of every picture.

    Args:
        describer: ``openai:MODEL``, ``transformers:MODEL``, ``file:PATH`` …; default: what the data says.

    Raises:
        FinedeficsError: there is no such describer, or too many questions got no usable answer.
    """
    from finedefics_platform.data.describing.run import describe as run

    return run(workspace or open_workspace(), _reference(dataset), describer=describer, progress=progress)


def mine(
    dataset: Dataset | str,
    *,
    miner: str | None = None,
    embedder: str | None = None,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
    **how: Any,
) -> Dataset:
    """The dataset with hard negatives: the most similar wrong categories of every picture.

    Args:
        miner: by name; default, where no embedder is named either: the best that the data allows.
        embedder: in its place, such as ``clip:MODEL``.
        how: as `finedefics_platform.data.mining.mine` takes it (``keep``, …).

    Raises:
        FinedeficsError: there is no such miner or embedder, or it cannot compare these categories.
    """
    from finedefics_platform.data.mining import mine as run

    place = workspace or open_workspace()
    return run(place, _reference(dataset), miner=miner, embedder=embedder, progress=progress, **how)


def train(
    experiment: Experiment | PathLike,
    *,
    overrides: Iterable[str] = (),
    force: bool = False,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
) -> "TrainedRun":
    """Train an experiment's stages, recorded in MLflow; an interrupted run goes on.

    Args:
        experiment: one that was loaded, or its file.
        overrides: ``a.b=c`` assignments, with a file.
        force: start over; what is finished stays until the new one is.

    Returns:
        The run: its ``key``, and ``model``, the place of an ordinary Hugging Face folder.

    Raises:
        FinedeficsError: the experiment does not fit the data or the cluster, or a worker failed.
    """
    from finedefics_platform.evaluation.validation import validate_alignment
    from finedefics_platform.tracking.tracker import Tracker
    from finedefics_platform.training.run import train as run

    place = workspace or open_workspace()
    loaded = (
        experiment if isinstance(experiment, Experiment) else load_experiment(Path(experiment), overrides)
    )
    tracker = Tracker(place, loaded.tracking.experiment)
    return run(place, loaded, tracker=tracker, progress=progress, force=force, validate=validate_alignment)


def tune(
    search: PathLike,
    *,
    overrides: Iterable[str] = (),
    force: bool = False,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
) -> "SearchResult":
    """Search keys of an experiment with Ray Tune; ``best["run"]`` of what it returns is a run's key.

    Args:
        search: a search file.
        overrides: ``a.b=c`` assignments of keys of its experiment or of its own (``trials=20``).

    Raises:
        FinedeficsError: a key or value does not fit, no check reports the metric, or no trial finished.
    """
    from finedefics_platform.search.document import load_search
    from finedefics_platform.search.run import run_search
    from finedefics_platform.tracking.tracker import Tracker

    place = workspace or open_workspace()
    loaded, document = load_search(Path(search), overrides)
    name = (document.get("tracking") or {}).get("experiment", "finedefics")
    return run_search(place, loaded, document, tracker=Tracker(place, name), progress=progress, force=force)


def evaluate(
    model: "TrainedRun | PathLike",
    dataset: Dataset | str,
    *,
    register: str | None = None,
    workspace: Workspace | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Evaluation:
    """Answer every picture of a split, recorded in MLflow; an equal evaluation is found and returned at once.

    Args:
        model: a run, its key, a registered model (``birds@champion``), a folder or a hub name.
        register: register the run under this name, or add to what a version showed.
        settings: ``split``, ``answers``, ``limit``, … as the section `evaluation` of an experiment.

    Raises:
        FinedeficsError: there is no such model, or it cannot be asked about this data.
    """
    from finedefics_platform.config.experiment import Evaluation as Settings
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.evaluation.checks import check_evaluable
    from finedefics_platform.evaluation.recording import record_evaluation
    from finedefics_platform.evaluation.run import evaluate as run
    from finedefics_platform.models.references import open_model, trained_on
    from finedefics_platform.models.registration import check_registrable, made_by, register_evaluated
    from finedefics_platform.models.registry import check_name

    if register is not None:
        check_name(register)

    place = workspace or open_workspace()
    asked = parse_document(Settings, settings, place="evaluate")
    check_evaluable(_open_dataset(place, _reference(dataset)), asked)
    opened = open_model(place, _called(model))
    if register is not None:
        check_registrable(register, opened)
    began = time.time()
    done = run(
        place,
        opened.place,
        _reference(dataset),
        asked,
        labelled=opened.labelled,
        trained_on=trained_on(opened),
        called=opened.called,
        progress=progress,
    )
    called = opened.called or Path(_called(model)).name
    record_evaluation(place, done, called, run=opened.run, run_id=made_by(opened), began=began)
    version = register_evaluated(place, register, opened, done) if register is not None else None
    return Evaluation(done, version)


def predict(
    model: "TrainedRun | ModelVersion | PathLike",
    pictures: "Sequence[PathLike | bytes | Image]",
    *,
    answer: str = "alignment",
    top: int = 5,
    workspace: Workspace | None = None,
) -> list[list[Named]]:
    """What is in pictures: for each at most ``top`` categories, best first.

    Args:
        model: a registered version or its name (``birds@champion``), or another model that knows names.
        pictures: files, encoded bytes, or pictures of Pillow.
        answer: how it is asked: `alignment` (one pass), `names`, `describe`, …

    Raises:
        FinedeficsError: there is no such model or answer, it has no names to give, or a file is no picture.
    """
    from finedefics_platform.models.categories import open_recogniser

    recogniser = open_recogniser(workspace or open_workspace(), _called(model))
    images = [
        _picture(picture) if isinstance(picture, str | os.PathLike) else picture for picture in pictures
    ]
    return [[Named(*one) for one in ranking] for ranking in recogniser.recognise(images, answer, top)]


def add_category(
    model: "ModelVersion | str",
    name: str,
    description: str | None = None,
    *,
    workspace: Workspace | None = None,
) -> "Category":
    """Teach a registered model a category by its text: no picture, no training, and no change to the version.

    Raises:
        FinedeficsError: the model is not a registered one, or knows the name already.
    """
    from finedefics_platform.models.categories import add

    return add(workspace or open_workspace(), _called(model), name, description)


def _given(source: PathLike) -> str:
    return os.path.expanduser(os.fspath(source))


def _reference(dataset: Dataset | str) -> str:
    return dataset.reference if isinstance(dataset, Dataset) else dataset


def _called(model: Any) -> str:
    """A run by its key, a version by its name and number, anything else as it is."""
    for attribute in ("key", "reference"):
        if isinstance(called := getattr(model, attribute, None), str):
            return called
    return os.fspath(model)


def _picture(file: PathLike) -> "Image":
    from finedefics.pictures import read_picture

    path = Path(file).expanduser()
    try:
        return read_picture(path.read_bytes(), place=str(path))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise wrong_use(reason, place=str(path), cure="give the path of a picture") from error
