"""Where a run's events go besides its log: the person or machine watching, whoever listens, and MLflow."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from finedefics_platform.base.events import Event
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.times import in_words
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.tracking.notes import training_note
from finedefics_platform.tracking.tracker import Status, Tracker
from finedefics_platform.training.pace import Pace


class Recorder:
    """Takes the events of one run, in order, on the driver. Leaving it closes what it opened.

    Args:
        key: of the run.
        listen: gets every event.
        fresh: record a new parent run although one of the same key exists.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        key: str,
        progress: Progress,
        tracker: Tracker | None,
        listen: Callable[[Event], None] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self._experiment, self._dataset, self._key = experiment, dataset, key
        self._progress, self._tracker, self._listen, self._fresh = progress, tracker, listen, fresh
        self._bar = ExitStack()
        self._advance: Any = None
        self._step = 0
        self._pace = Pace(sum(stage.steps for stage in experiment.stages))
        self._stage_run: str | None = None
        self.parent_run_id: str | None = None
        self.last_metrics: dict[str, float] = {}

    def __enter__(self) -> "Recorder":
        workers = self._experiment.resources.processes
        label = "starting a worker" if workers == 1 else f"starting {workers} workers"
        self._bar.enter_context(self._progress.progress(label, None))
        if self._tracker is not None:
            self.parent_run_id = self._tracker.parent(
                self._experiment.name,
                key=self._key,
                tags={"config_digest": self._experiment.digest(), "dataset": self._dataset.reference},
                params=self._experiment.model_dump(mode="json", exclude={"stages"}),
                fresh=self._fresh,
            )
            data = self._dataset.reference
            self._tracker.inputs(self.parent_run_id, data, "training", pictures=_pictures(self._dataset))
            self._tracker.describe(self.parent_run_id, training_note(self._key, self._experiment, data))
            self._progress.event("recording", run=self._key, mlflow_run=self.parent_run_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._tracker is not None:
            for run in (self._stage_run, self.parent_run_id):
                if run is not None:
                    self._tracker.finish(run, _status(error), why=error)

    def replay(self, events: Iterable[Event]) -> None:
        """Record and pass on what happened before this driver started; a person watching saw it then."""
        for event in events:
            self._record(event)

    def handle(self, event: Event) -> None:
        """Pass an event on, and act on those that open, advance or close a stage."""
        fields = {key: value for key, value in event.items() if key != "event"}
        left = None
        if event["event"] == "step":  # flat, as machines that read --json expect
            left = self._pace.left(event)
            fields |= {**fields.pop("metrics"), "seconds_left": left}
        self._progress.event(event["event"], run=self._key, **fields)
        if event["event"] == "stage":
            self._open_bar(event)
        elif event["event"] in ("step", "validation"):
            self._move_to(event["step"])
            if event["event"] == "step":
                self._progress.note(event["stage"], beside_the_bar(event["metrics"], left))
        self._record(event)

    def _record(self, event: Event) -> None:
        """To MLflow, with the time at which it happened; what it has already, it recognises."""
        tracker, parent, when = self._tracker, self.parent_run_id, event["time"]
        name = event["event"]
        if name == "step":
            self.last_metrics = event["metrics"]
        if tracker is not None and parent is not None:
            if name == "configuration":
                tracker.tags(parent, {"worker_digests": event["digests"]})
            elif name == "stage":
                settings = self._experiment.stages[event["number"]].model_dump(mode="json")
                self._stage_run = tracker.child(parent, event["stage"], params=settings, time=when)
            elif self._stage_run is not None and name in ("step", "validation"):
                tracker.metrics(self._stage_run, event["step"], event["metrics"], time=when)
            elif self._stage_run is not None and name == "stage_done":
                tracker.finish(self._stage_run, time=when)
                self._stage_run = None
        if self._listen is not None:
            self._listen(event)

    def _open_bar(self, event: Event) -> None:
        self._bar.close()
        self._bar = ExitStack()
        self._advance = self._bar.enter_context(self._progress.progress(event["stage"], event["steps"]))
        self._step = 0
        self._move_to(event["step"])

    def _move_to(self, step: int) -> None:
        if self._advance is not None and step > self._step:
            self._advance(step - self._step)
            self._step = step


def beside_the_bar(metrics: Mapping[str, float], left: float | None) -> str:
    """What a person who watches wants to know: the loss, when it will be over, and what a step costs."""
    loss = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""
    over = "" if left is None else f"{in_words(left)} left"
    return " · ".join(part for part in (loss, over, cost(metrics)) if part)


def cost(metrics: Mapping[str, float]) -> str:
    """What a step costs, for the line that a person watches: speed, utilisation where known, memory, wait."""
    shown: list[tuple[str, float, str]] = [
        ("samples_per_second", 1, "{:.3g} samples/s"),
        ("mfu", 100, "MFU {:.0f} %"),
        ("memory_mib", 1 / 1024, "{:.1f} GiB"),
        ("data_wait_share", 100, "{:.0f} % waiting for data"),
    ]
    return " · ".join(text.format(metrics[name] * by) for name, by, text in shown if name in metrics)


def _pictures(dataset: Dataset) -> int:
    """Of the split train, by what the version says of itself."""
    return sum(dataset.manifest["counts"].get("train", {}).values())


def _status(error: BaseException | None) -> Status:
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"
