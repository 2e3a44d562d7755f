"""Runs as they lie in the workspace: the place of a run, what is being trained there, and what is finished.

``runs/<key>/`` holds ``experiment.json``, ``lease/`` and a folder for each training from scratch:
``training-1``, after ``--force`` ``training-2`` and so on, with its ``checkpoints/``, ``events/``,
``model/`` and ``attempts/`` (one record a driver's start). ``result.json`` comes last and names the training
that counts; until it is replaced, an older one stands.
"""

from dataclasses import dataclass
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.events import Event, read_events
from finedefics_platform.base.names import meant
from finedefics_platform.base.storage import Location, discard
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment

EXPERIMENT, RESULT, CHECKPOINTS, ADAPTERS = "experiment.json", "result.json", "checkpoints", "adapters"
STOPPED = "stopped"  # the event of workers that were asked to end and have saved
TOKEN = "token"  # by which a worker knows that it sees the driver's storage
_TRAINING = "training-"
_SHOWN = 12  # names in an error's one line


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        key: ``<experiment>-<digest>``; equal settings, data and model give an equal key.
        place: the run's folder in the workspace.
        model: the tuned model, a committed folder in the form of an ordinary Hugging Face one.
        dataset: ``name@digest`` of the data it was trained on.
        dataset_digest, config_digest: what went in.
        base: the model that was tuned: digest of its content, or ``hub name@commit``.
        labelled: ids of the categories with labelled pictures in its own training.
        parent_run_id: the MLflow run of the pipeline, None where nothing tracked it.
        metrics: of the last recorded step.
    """

    key: str
    place: Location
    model: Location
    dataset: str
    dataset_digest: str
    config_digest: str
    base: str
    labelled: tuple[str, ...]
    parent_run_id: str | None
    metrics: dict[str, float]

    def events(self) -> list[Event]:
        """What happened, in order; steps that were done again count once, as they were done last."""
        return read_events(self.model.parent / "events")

    def experiment(self) -> Experiment:
        """The experiment as it was trained, with data and model pinned."""
        return parse_experiment((self.place / RESULT).read_json()["experiment"], place=self.key)

    def attempts(self) -> list[dict[str, Any]]:
        """One record for each start of a driver: who, when, on what topology and versions, the outcome."""
        return [record.read_json() for record in (self.model.parent / "attempts").children()]


def open_run(workspace: Workspace, key: str) -> TrainedRun:
    """A finished run by its key or the beginning of it.

    Raises:
        FinedeficsError: there is no such run, more than one begins like this, or it is not finished.
    """
    place = find_run(workspace, key)
    result = finished(place)
    if result is None:
        raise FinedeficsError(
            "this run is not finished",
            place=place.name,
            cure=f"finedefics train --resume {place.name} goes on with it",
        )
    return TrainedRun(
        key=place.name,
        place=place,
        model=place / result["model"],
        labelled=tuple(result["labelled"]),
        **{
            name: result[name]
            for name in ("dataset", "dataset_digest", "config_digest", "base", "parent_run_id", "metrics")
        },
    )


def events_of(workspace: Workspace, key: str) -> list[Event]:
    """What happened in a run so far, finished or not, as `TrainedRun.events`; empty where it never began."""
    place = workspace.runs / key
    result, there = finished(place), _trainings(place)
    training = result["training"] if result else f"{_TRAINING}{there[-1] if there else 1}"
    return read_events(place / training / "events")


def find_run(workspace: Workspace, key: str) -> Location:
    """The place of a run, finished or not, by its key or the beginning of it; raises as `open_run`."""
    exact = workspace.runs / key
    if key and (exact / EXPERIMENT).is_file():
        return exact
    there = [place for place in workspace.runs.children() if (place / EXPERIMENT).is_file()]
    matches = [place for place in there if key and place.name.startswith(key)]
    if len(matches) == 1:
        return matches[0]
    names = [place.name for place in matches or there]
    known = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    raise wrong_use(
        "more than one run begins like this" if matches else "there is no such run",
        place=key,
        cure=f"{meant(key, [place.name for place in there]) if not matches else ''}choose one of: {known}"
        if known
        else f"train one with `finedefics train` (looked in {workspace.runs})",
    )


def finished(place: Location) -> dict[str, Any] | None:
    """What a run's ``result.json`` says, None where it has none."""
    try:
        return dict((place / RESULT).read_json())
    except FileNotFoundError:
        return None


def training_to_do(place: Location, *, force: bool, resume: bool) -> Location | None:
    """Which training of a run is to be done: the newest unfinished one, a new one, or none.

    A run that is finished is not trained again, unless by ``force``, which begins a new training beside it;
    ``resume`` goes on with such a one that was interrupted.
    """
    there, result = _trainings(place), finished(place)
    last = there[-1] if there else 0
    if force or not last:
        return place / f"{_TRAINING}{last + 1}"
    if result is not None and not (resume and last > _number(result["training"])):
        return None
    return place / f"{_TRAINING}{last}"


def starts_over(training: Location) -> bool:
    """Whether a training is not the first one of its run."""
    return _number(training.name) > 1


def clear(place: Location) -> None:
    """Remove what a finished run no longer needs (`left_over`)."""
    assert finished(place) is not None, "nothing goes before the result stands"
    for left in left_over(place):
        if left.name.startswith(_TRAINING):
            discard(left)
        else:
            left.delete()


def left_over(place: Location) -> list[Location]:
    """What a finished run no longer needs: shards, merged adapters, trainings given up or replaced.

    Empty of a run that is not finished; a training begun after the one that counts is none of it.
    """
    result = finished(place)
    if result is None:
        return []
    training = place / result["training"]
    # with optimizer state the checkpoints dwarf the model
    own = [training / name for name in (CHECKPOINTS, ADAPTERS, TOKEN) if (training / name).exists()]
    older = [number for number in _trainings(place) if number < _number(result["training"])]
    return own + [place / f"{_TRAINING}{number}" for number in older]


def _trainings(place: Location) -> list[int]:
    return sorted(_number(child.name) for child in place.children() if child.name.startswith(_TRAINING))


def _number(training: str) -> int:
    return int(training.removeprefix(_TRAINING))
