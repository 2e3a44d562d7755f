"""A training run from the driver's side: checked, started on Ray Train, followed, recorded, finished once."""

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.events import Event, read_events, up_to
from finedefics_platform.base.progress import SILENT, Progress, say_reused
from finedefics_platform.base.signals import INTERRUPTED, TERMINATED, Terminated
from finedefics_platform.base.storage import Lease, Location, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.documents import override_by_text
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.assignment import Assignment
from finedefics_platform.training.attempts import Attempt
from finedefics_platform.training.checks import check, check_layout, check_resources
from finedefics_platform.training.identity import Base, base_of, pin, run_key
from finedefics_platform.training.recording import Recorder
from finedefics_platform.training.trained import (
    EXPERIMENT,
    RESULT,
    TOKEN,
    TrainedRun,
    clear,
    events_of,
    find_run,
    open_run,
    starts_over,
    training_to_do,
)

__all__ = ["TrainedRun", "check", "events_of", "open_run", "pin", "resumed_experiment", "run_key", "train"]


def train(
    workspace: Workspace,
    experiment: Experiment,
    *,
    progress: Progress = SILENT,
    tracker: Tracker | None = None,
    force: bool = False,
    resume: bool = False,
    validate: Any = None,
    listen: Callable[[Event], None] | None = None,
) -> TrainedRun:
    """Train an experiment's stages; a finished run is returned at once, an interrupted one goes on.

    Of several drivers that are asked for one run, on whatever machines, one trains; the others say who does,
    wait, and return what it made.

    Args:
        experiment: its dataset and model are resolved here, so the run names one version of each.
        progress: told of every event of the workers.
        tracker: records the run and one child a stage.
        force: start over, whatever was finished or saved. What is finished stays until the new one is.
        resume: go on with a start over that was interrupted, though an older result stands.
        validate: `assignment.Validate`, called every ``evaluation.every`` steps on all ranks.
        listen: gets every event of the run in order, those of before an interruption and of a finished run
            too, in the caller's thread. An exception it raises ends the run.

    Raises:
        FinedeficsError: the experiment does not fit the data or the cluster, the checkpoint was saved by
            workers of another layout, a worker failed, or the run was interrupted (exit code 130 or 143).
    """
    dataset = open_dataset(workspace, experiment.data.dataset)
    base = base_of(workspace, experiment.model)
    experiment = pin(workspace, experiment, dataset, base)
    check(experiment, dataset, validating=validate is not None)
    place = workspace.runs / run_key(workspace, experiment, dataset, base)
    with lease(place / "lease", f"run {place.name}", progress=progress) as held:
        training = training_to_do(place, force=force, resume=resume)
        if training is not None:
            work = _Work(workspace, experiment, dataset, base, place, training, validate)
            work.do(held, progress, tracker, listen)
        clear(place)
    run = open_run(workspace, place.name)
    if training is None:
        _say_skipped(run, experiment, progress, validating=validate is not None)
        for event in run.events() if listen is not None else ():
            listen(event)  # type: ignore[misc]
    return run


def resumed_experiment(workspace: Workspace, key: str, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment of a run by its key (or the beginning of it), to go on with it.

    Args:
        overrides: ``a.b=c`` assignments of what does not make it another run: topology, tracking, evaluation.

    Raises:
        FinedeficsError: there is no such run, or the overrides, or data or a model that changed since, make
            it another (exit code 2).
    """
    place = find_run(workspace, key)
    document = (place / EXPERIMENT).read_json()
    stored = parse_experiment(document, place=place.name)
    for assignment in overrides:
        override_by_text(document, assignment)
        changed = parse_experiment(document, place=f"--set {assignment}")
        if (changed.name, changed.digest(), changed.data.dataset) != (
            stored.name,
            stored.digest(),
            stored.data.dataset,
        ):
            raise wrong_use(
                f"with this setting it would be another run than {place.name}",
                place=f"--set {assignment}",
                cure="leave it out (resources, deepspeed, evaluation and tracking may change), "
                "or train an experiment file",
            )
    experiment = parse_experiment(document, place=place.name)
    dataset = open_dataset(workspace, experiment.data.dataset)
    if run_key(workspace, experiment, dataset) != place.name:
        raise wrong_use(
            "its base model is not the one it was started from",
            place=f"run {place.name}, {experiment.model.path}",
            cure="put that model back, or train an experiment file",
        )
    return experiment


class _Work:
    """One driver's attempt at one training of a run, under the run's lease."""

    def __init__(
        self,
        workspace: Workspace,
        experiment: Experiment,
        dataset: Dataset,
        base: Base,
        place: Location,
        training: Location,
        validate: Any,
    ) -> None:
        self.workspace, self.experiment, self.dataset, self.base = workspace, experiment, dataset, base
        self.place, self.training, self.validate = place, training, validate

    def do(
        self,
        held: Lease,
        progress: Progress,
        tracker: Tracker | None,
        listen: Callable[[Event], None] | None,
    ) -> None:
        """Train to the end and write the result."""
        from finedefics_platform.training.checkpoints import saved_position

        started = time.time()
        ensure_ray(progress=progress)
        check_resources(self.experiment)
        if self.experiment.resources.gpus_per_worker:  # what it takes to know it is not imported otherwise
            from finedefics_platform.training.forecast import refuse_what_fits_nowhere

            refuse_what_fits_nowhere(self.workspace, self.experiment)
        saved = saved_position(self.training)
        check_layout(self.experiment, saved, self.place)
        (self.place / EXPERIMENT).write_json(self.experiment.model_dump(mode="json"))
        attempt = Attempt(self.training, self.experiment)
        # What stands of earlier attempts is recorded again: some of it may have been lost with its driver.
        done = saved.total_step(self.experiment) if saved else 0
        earlier = up_to(read_events(self.training / "events"), done)
        recorder = Recorder(
            self.experiment,
            self.dataset,
            self.place.name,
            progress,
            tracker,
            listen,
            fresh=attempt.number == 1 and starts_over(self.training),
        )
        try:
            with recorder:
                recorder.replay(earlier)
                self._fit(attempt.number, recorder, progress)
        except (KeyboardInterrupt, Terminated) as stop:
            attempt.end("interrupted")
            raise self._interrupted(stop) from stop
        except Exception as error:
            attempt.end(f"failed: {error}")
            raise
        held.check()
        (self.place / RESULT).write_json(self._result(recorder, time.time() - started))
        attempt.end("finished")

    def _fit(self, attempt: int, recorder: Recorder, progress: Progress) -> None:
        from finedefics_platform.training.gauges import RunGauges
        from finedefics_platform.training.launch import fit

        def handle(event: Event) -> None:
            gauges.handle(event)
            recorder.handle(event)

        token = secrets.token_hex(8)
        (self.training / TOKEN).write_text(token)
        task = Assignment(
            self.experiment,
            self.workspace,
            self.dataset.root,
            self.training,
            attempt,
            token,
            self.validate,
        )
        with RunGauges(self.place.name) as gauges:
            fit(task, handle, progress.say)

    def _result(self, recorder: Recorder, seconds: float) -> dict[str, Any]:
        learns_labels = self.experiment.has_feed("labelled")  # what was inferred makes no category labelled
        return {
            "key": self.place.name,
            "training": self.training.name,
            "model": f"{self.training.name}/model",
            "dataset": self.dataset.reference,
            "dataset_digest": self.dataset.digest,
            "config_digest": self.experiment.digest(),
            "base": self.base.identity,
            "labelled": sorted(self.dataset.labelled_category_ids()) if learns_labels else [],
            "parent_run_id": recorder.parent_run_id,
            "metrics": recorder.last_metrics,
            "seconds": seconds,
            "experiment": self.experiment.model_dump(mode="json"),
        }

    def _interrupted(self, stop: BaseException) -> FinedeficsError:
        from finedefics_platform.training.checkpoints import saved_position

        saved = saved_position(self.training)
        done = saved.total_step(self.experiment) if saved else 0
        ended = isinstance(stop, Terminated)
        return FinedeficsError(
            "terminated" if ended else "interrupted",
            place=f"run {self.place.name}",
            cure=f"run again, or finedefics train --resume {self.place.name}: it goes on from step {done}",
            exit_code=TERMINATED if ended else INTERRUPTED,
        )


def _say_skipped(run: TrainedRun, experiment: Experiment, progress: Progress, *, validating: bool) -> None:
    """A finished run is reused as it is; where it was measured otherwise than asked now, that is said."""
    then = run.experiment().evaluation
    differing = {
        name: getattr(then, name)
        for name in ("every", "limit")
        if validating and getattr(then, name) != getattr(experiment.evaluation, name)
    }
    trained_with = {f"evaluation.{name}": value for name, value in differing.items()}
    more = {"trained_with": trained_with} if trained_with else {}
    was = ", ".join(f"{name}={value}" for name, value in trained_with.items())
    how = "--force trains it again" if not was else f"trained with {was}; --force trains it as asked now"
    say_reused(progress, "run", run.key, how=how, **more)
