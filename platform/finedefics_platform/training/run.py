"""A training run from the driver's side: checked, started on Ray Train, followed, recorded, finished once."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.terms import CONTRASTIVE_TERMS
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.events import Event, EventChannel, drained, read_events
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.recording import Recorder

if TYPE_CHECKING:
    from finedefics_platform.training.stream import SampleIndex


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        key: ``<experiment>-<digest>``; equal configuration and data give an equal key.
        place: the run's folder in the workspace.
        model: the tuned model as an ordinary Hugging Face folder.
        dataset: the version it was trained on, ``name@digest``.
        config_digest, dataset_digest: what went in.
        labelled: categories that had labels in its own training.
        base: the model it was tuned from, by its content.
        parent_run_id: the MLflow run of the pipeline, None where nothing tracked it.
        metrics: of the last recorded step.
    """

    key: str
    place: Location
    model: Location
    dataset: str
    dataset_digest: str
    config_digest: str
    parent_run_id: str | None
    metrics: dict[str, float]
    labelled: tuple[str, ...]
    base: str

    @property
    def folder(self) -> Path:
        """The run's folder on this machine's disk."""
        assert self.place.local is not None
        return self.place.local

    def experiment(self) -> Experiment:
        """The experiment it was trained with."""
        stored = self.place / "experiment.json"
        return parse_experiment(stored.read_json(), place=stored.uri)

    def events(self) -> list[Event]:
        """Everything the workers reported, in order."""
        return read_events(self.folder / "events.jsonl")


def train(
    workspace: Workspace,
    experiment: Experiment,
    *,
    progress: Progress = SILENT,
    tracker: Tracker | None = None,
    force: bool = False,
    validate: Any = None,
    callbacks: Sequence[Any] = (),
) -> TrainedRun:
    """Train an experiment's stages; a finished run is returned at once, an interrupted one goes on.

    Args:
        experiment: its dataset reference is resolved here, so the run names one version.
        progress: told of every event of the workers.
        tracker: records the run and one child a stage.
        force: start over, whatever was finished or saved.
        validate: `worker.Validate`, called every ``evaluation.every`` steps on all ranks.
        callbacks: Ray Train callbacks; inside a Ray Tune trial its ``TuneReportCallback``.

    Raises:
        FinedeficsError: the experiment does not fit the data or the cluster, or a worker failed.
    """
    dataset = open_dataset(workspace, experiment.data.dataset)
    experiment = pin(experiment, dataset)
    check(experiment, dataset)
    key = run_key(experiment, dataset)
    folder = workspace.local.runs / key
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if force:
            _empty(folder)
        if (folder / "result.json").is_file():
            progress.event("skipped", run=key, reason="finished before")
        else:
            _run(workspace, experiment, dataset, folder, progress, tracker, force, validate, callbacks)
    return open_run(workspace, key)


def open_run(workspace: Workspace, key: str) -> TrainedRun:
    """A finished run by its key; FinedeficsError where it is not finished."""
    folder = workspace.local.runs / key
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise FinedeficsError(
            "this run is not finished",
            place=str(folder),
            cure="run `finedefics train` on its experiment again",
        ) from error
    return TrainedRun(
        key=folder.name,
        place=workspace.runs / key,
        model=workspace.runs / key / "model",
        dataset=result["dataset"],
        dataset_digest=result["dataset_digest"],
        config_digest=result["config_digest"],
        parent_run_id=result["parent_run_id"],
        metrics=result["metrics"],
        labelled=tuple(result["labelled"]),
        base=result["base"],
    )


def run_key(experiment: Experiment, dataset: Dataset) -> str:
    """``<experiment>-<digest>`` of the configuration and the content of its data."""
    content = experiment.model_copy(update={"data": experiment.data.model_copy(update={"dataset": ""})})
    return f"{experiment.name}-{digest_of([content.digest(), dataset.digest])}"


def pin(experiment: Experiment, dataset: Dataset) -> Experiment:
    """The experiment with its dataset named by digest and its model, where a folder, by absolute path."""
    path = Path(experiment.model.path).expanduser()
    model = {"path": str(path.resolve())} if path.is_dir() else {}
    return experiment.model_copy(
        update={
            "data": experiment.data.model_copy(update={"dataset": dataset.reference}),
            "model": experiment.model.model_copy(update=model),
        }
    )


def check(experiment: Experiment, dataset: Dataset) -> None:
    """Find on the driver, before anything starts, what would fail in every worker.

    Raises:
        FinedeficsError: a feed is empty or cannot be shared equally, hard negatives were never mined, no
            picture of a term that learns descriptions has one, DeepSpeed cannot do what is asked, or what the
            adapters need is not installed.
    """
    from finedefics.adapters import quantization
    from finedefics_platform.training.sharding import deepspeed_settings
    from finedefics_platform.training.stream import SampleIndex, check_divides

    quantization(experiment.adapters.as_settings(), experiment.model.dtype)
    index = SampleIndex.of(dataset)
    for stage in experiment.stages:
        check_divides(stage, experiment.resources.workers)
        for feed in stage.feeds:
            index.require(feed)
        _check_descriptions(stage, index)
        deepspeed_settings(experiment, stage, experiment.resources.workers)
        if _needs_mined_negatives(experiment, stage):
            dataset.files("negatives")


def _check_descriptions(stage: Stage, index: "SampleIndex") -> None:
    for name in ("caption", "object_attribute", "attribute_category"):
        asked = name in stage.terms and stage.terms[name].weight > 0
        if not asked or set(stage.term_feeds(name)) & set(stage.feeds) != {"labelled"}:
            continue  # the other feeds have descriptions by their definition
        if index.companions.descriptions.keys().isdisjoint(index.feeds["labelled"].ids):
            raise FinedeficsError(
                f"term {name} learns from descriptions, and no labelled training picture has one",
                place=f"dataset {index.dataset}",
                cure="run `finedefics data describe`, or leave the term out",
            )


def _needs_mined_negatives(experiment: Experiment, stage: Stage) -> bool:
    contrasted = {
        feed
        for name, setting in stage.terms.items()
        if name in CONTRASTIVE_TERMS and setting.weight > 0
        for feed in stage.term_feeds(name)
        if feed in stage.feeds
    }
    return experiment.data.negatives > 0 and bool(contrasted & {"labelled", "captioned"})


def _run(
    workspace: Workspace,
    experiment: Experiment,
    dataset: Dataset,
    folder: Path,
    progress: Progress,
    tracker: Tracker | None,
    force: bool,
    validate: Any,
    callbacks: Sequence[Any],
) -> None:
    started = time.time()
    ensure_ray()
    _check_resources(experiment)
    from finedefics_platform.training.launch import fit
    from finedefics_platform.training.worker import Assignment

    _write(folder / "experiment.json", experiment.model_dump(mode="json"))
    channel = EventChannel.open()
    task = Assignment(experiment, workspace, dataset.root, folder / "model", channel, validate)
    with (
        Recorder(experiment, dataset, folder, progress, tracker, fresh=force) as recorder,
        drained(channel, recorder.handle),
    ):
        fit(task, folder, callbacks)
    # Shards of a finished run have no further use, and with optimizer state they dwarf the model.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    result = {
        "key": folder.name,
        "config_digest": experiment.digest(),
        "dataset": dataset.reference,
        "dataset_digest": dataset.digest,
        "labelled": sorted(dataset.labelled_category_ids()),
        "base": model_digest(Path(experiment.model.path)),
        "parent_run_id": recorder.parent_run_id,
        "metrics": recorder.last_metrics,
        "seconds": time.time() - started,
    }
    _write(folder / "result.json", result)


def _check_resources(experiment: Experiment) -> None:
    """Refuse what a cluster of this machine will never have; another cluster may still grow."""
    import ray

    if os.environ.get("RAY_ADDRESS"):
        return
    wanted, there = experiment.resources, ray.cluster_resources()
    for kind, each in (("CPU", wanted.cpus_per_worker), ("GPU", wanted.gpus_per_worker)):
        if wanted.workers * each > there.get(kind, 0):
            raise wrong_use(
                f"{wanted.workers} workers ask for {wanted.workers * each:g} {kind}s, "
                f"this machine has {there.get(kind, 0):g}",
                place=f"resources.{kind.lower()}s_per_worker",
                cure="lower resources.workers, or set RAY_ADDRESS to a larger cluster",
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a run's folder; a second one waits and finds the run finished."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _write(path: Path, value: Any) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    aside.replace(path)
