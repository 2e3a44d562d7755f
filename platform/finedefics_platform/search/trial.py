"""One trial of a search: an ordinary training run, driven from a Ray Tune actor and recorded by it."""

import math
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import Event
from finedefics_platform.base.signals import Dismissed
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.search.recording import TrialTracker
from finedefics_platform.search.space import trial_experiment
from finedefics_platform.training.run import train

STEP = "step"  # of all stages together: what the scheduler counts in
RUN = "run"  # only a trial that ran to its end says it: what it left can be opened by it
_SECONDS_TO_STOP = 120.0


@dataclass(frozen=True)
class TrialTask:
    """What every trial of a search is given."""

    workspace: Workspace
    document: Mapping[str, Any]  # the experiment
    search: str  # the search's name
    metric: str
    begun: Location | None  # where trials that start over note that they did; None: they go on
    tracking: str | None  # the tracking experiment; None: nothing is recorded
    search_run: str | None  # the search's own run there


class Trial(tune.Trainable):
    """Trains in a thread of its own; Tune's thread takes the figures of each validation check from a queue.

    The last figures are handed over when the run is finished, and say so. Any earlier, and Tune would take a
    trial that has reached its last step for one that may be ended, before its model is written. An error,
    too, is handed over by a run that has ended.
    """

    def setup(self, config: dict[str, Any], *, task: TrialTask) -> None:  # type: ignore[override]
        """Tune's constructor."""
        self._task = task
        self._experiment = trial_experiment(task.document, config, task.search)
        self._steps = sum(stage.steps for stage in self._experiment.stages)
        self._figures: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self._last: Event | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)

    def step(self) -> dict[str, Any]:
        """The figures of the next validation check; raises what ended the run."""
        if self._thread.ident is None:
            self._thread.start()
        figures = self._figures.get()
        if isinstance(figures, BaseException):
            raise figures
        return figures

    def cleanup(self) -> None:
        """Tune's last call; a trial that failed or was interrupted may still train."""
        self.end()

    def end(self) -> None:
        """End training, its workers with it: an actor of Tune's that goes away would leave them behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_SECONDS_TO_STOP)

    def _train(self) -> None:
        try:
            key = self._run()
            assert self._last is not None  # the last step is always checked
            self._figures.put({**self._reported(self._last), RUN: key, "done": True})
        except BaseException as error:  # carried over to Tune's thread
            self._figures.put(error)

    def _run(self) -> str:
        from finedefics_platform.evaluation.validation import validate_alignment

        task, tracker = self._task, None
        if task.tracking is not None and task.search_run is not None:
            tags = {"trial": self.trial_id, "sampled": self.config}
            tracker = TrialTracker(task.workspace, task.tracking, task.search_run, tags)
        try:
            return train(
                task.workspace,
                self._experiment,
                tracker=tracker,
                validate=validate_alignment,
                listen=self._heard,
                force=self._starts_over(),
                resume=task.begun is not None,
            ).key
        finally:
            if tracker is not None and self._stop.is_set():
                tracker.stopped()

    def _heard(self, event: Event) -> None:
        if self._stop.is_set():
            raise Dismissed  # its run could be gone on with, from its last checkpoint
        if event["event"] != "validation":
            return
        if event["total_step"] < self._steps:
            self._figures.put(self._reported(event))
        else:
            self._last = event

    def _reported(self, event: Event) -> dict[str, Any]:
        """The figures as Tune takes them; a check that did not measure the metric ends this trial alone."""
        metrics = event["metrics"]
        if not math.isfinite(metrics.get(self._task.metric, math.nan)):
            raise FinedeficsError(
                f"the check at step {event['total_step']} did not report {self._task.metric} "
                f"(it has {', '.join(sorted(metrics))})",
                place=f"trial {self.trial_id}",
                cure="choose a metric that every trial reports, or leave this value out of the space",
            )
        return {**metrics, STEP: event["total_step"]}

    def _starts_over(self) -> bool:
        """Once for each trial of a search that starts over: interrupted, it goes on from there."""
        if self._task.begun is None:
            return False
        note = self._task.begun / self.trial_id
        if note.is_file():
            return False
        note.write_text("")
        return True
