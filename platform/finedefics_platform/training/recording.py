"""Where a run's events go: the run folder's log, the person or machine watching, and MLflow."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from finedefics_platform.base.events import Event, EventLog
from finedefics_platform.base.progress import Progress
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.tracking.tracker import Tracker


class Recorder:
    """Takes the events of one run, in order, on the driver. Leaving it closes what it opened.

    Args:
        fresh: record a new parent run although one of the same key exists.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        folder: Path,
        progress: Progress,
        tracker: Tracker | None,
        *,
        fresh: bool = False,
    ) -> None:
        self._experiment, self._dataset, self._folder = experiment, dataset, folder
        self._progress, self._tracker, self._fresh = progress, tracker, fresh
        self._log = EventLog(folder / "events.jsonl")
        self._bar = ExitStack()
        self._advance: Any = None
        self._step = 0
        self._stage_run: str | None = None
        self.parent_run_id: str | None = None
        self.last_metrics: dict[str, float] = {}

    def __enter__(self) -> "Recorder":
        workers = self._experiment.resources.workers
        self._bar.enter_context(self._progress.progress(f"starting {workers} workers", None))
        if self._tracker is not None:
            self.parent_run_id = self._tracker.parent(
                self._experiment.name,
                key=self._folder.name,
                tags={"config_digest": self._experiment.digest(), "dataset": self._dataset.reference},
                params=self._experiment.model_dump(mode="json", exclude={"stages"}),
                fresh=self._fresh,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._log.close()
        if self._tracker is not None:
            status = "FAILED" if error is not None else "FINISHED"
            for run in (self._stage_run, self.parent_run_id):
                if run is not None:
                    self._tracker.finish(run, status)  # type: ignore[arg-type]

    def handle(self, event: Event) -> None:
        """Log an event, pass it on, and act on those that open, advance or close a stage."""
        self._log.write(event)
        fields = {key: value for key, value in event.items() if key != "event"}
        metrics = fields.get("metrics", {})
        if event["event"] == "step":  # flat, as machines that read --json expect
            fields = {**{key: value for key, value in fields.items() if key != "metrics"}, **metrics}
            self.last_metrics = metrics
        self._progress.event(event["event"], run=self._folder.name, **fields)
        match event["event"]:
            case "configuration" if self._tracker is not None and self.parent_run_id is not None:
                self._tracker.tags(self.parent_run_id, {"worker_digests": event["digests"]})
            case "stage":
                self._open_stage(event)
            case "step" | "validation":
                self._record(event["step"], metrics)
            case "stage_done" if self._tracker is not None and self._stage_run is not None:
                self._tracker.finish(self._stage_run)
                self._stage_run = None

    def _open_stage(self, event: Event) -> None:
        self._bar.close()
        self._bar = ExitStack()
        self._advance = self._bar.enter_context(self._progress.progress(event["stage"], event["steps"]))
        self._step = 0
        self._move_to(event["step"])
        if self._tracker is not None and self.parent_run_id is not None:
            settings = self._experiment.stages[event["number"]].model_dump(mode="json")
            self._stage_run = self._tracker.child(self.parent_run_id, event["stage"], params=settings)

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        self._move_to(step)
        if self._tracker is not None and self._stage_run is not None:
            self._tracker.metrics(self._stage_run, step, metrics)

    def _move_to(self, step: int) -> None:
        if self._advance is not None and step > self._step:
            self._advance(step - self._step)
            self._step = step
