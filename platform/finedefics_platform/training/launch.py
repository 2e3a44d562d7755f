"""Where workers are started, watched and restarted by Ray Train, and how their errors come back."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import Event, EventReader
from finedefics_platform.base.signals import Dismissed, Terminated
from finedefics_platform.config.experiment import Resources
from finedefics_platform.training.alone import Alone
from finedefics_platform.training.assignment import Assignment, Rank
from finedefics_platform.training.lost import LostProcess
from finedefics_platform.training.stopping import request_of
from finedefics_platform.training.trained import CHECKPOINTS, STOPPED

SAVE_SECONDS = 600.0  # for interrupted workers to end their step and save it
STOP_SECONDS = 20.0  # for workers to end; they are busy with a step or a checkpoint


class _StopOnUserError(ray.train.UserCallback):
    """A mistake that the user has to mend is not mended by starting again: it ends the run at once."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if (found := _user_error(error)) and not isinstance(found, LostProcess):
                raise found


class _StopWhenAsked(WorkerGroupCallback):
    """Ends the run when a file of the driver's appears; Ray Train's controller runs on the driver's node.

    Ray Train has no public way to end a run from outside; this is called whenever it looks at its workers.
    """

    def __init__(self, sign: Path) -> None:
        self._sign = sign

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        if self._sign.exists():
            raise FinedeficsError("stopped", place="training", cure="run again: it goes on")


def fit(
    task: Assignment, handle: Callable[[Event], None], say: Callable[[str], None] = lambda line: None
) -> None:
    """Run the training loop on every worker until the model is written; lost workers are replaced.

    An interrupt (Ctrl-C, SIGTERM) lets the workers save where they stand first; a second one does not.

    Checkpoints are kept with the training, and an interrupted one goes on from them; not so in a single
    process without Ray Train (``resources.workers`` 0).

    Args:
        handle: gets the events of this attempt in order, in the caller's thread.
        say: is told what a person should know while an interrupted run is saved.

    Raises:
        FinedeficsError: the workers' own error, or that too many of them were lost.
        BaseException: as raised by ``handle``, or an interrupt; the workers are ended then.
    """
    with tempfile.TemporaryDirectory(prefix="finedefics-") as name:
        sign = Path(name) / "stop"
        # In a thread of its own, so that this one can be interrupted, and Ray leaves its signals alone.
        running = _Running(_trainer(task, sign), sign) if task.experiment.resources.workers else Alone(task)
        following = _Following(task, running, handle)
        try:
            following.to_the_end()
        except (KeyboardInterrupt, Terminated) as stop:
            try:
                if following.steps and not isinstance(stop, Dismissed) and isinstance(running, _Running):
                    following.until_saved(say)
            finally:
                running.stop()
            raise
        except BaseException:
            running.stop()
            raise
    if running.error is not None:
        raise _explained(running.error, task.run.parent.name) from running.error


class _Following:
    """The driver's look at workers that train: their events, in order, each handed on once."""

    def __init__(
        self, task: Assignment, running: "_Running | Alone", handle: Callable[[Event], None]
    ) -> None:
        self._task, self._running, self._handle = task, running, handle
        self._reader = EventReader(task.events, task.attempt)
        self.steps = 0  # told by the workers since they stand
        self._saved: int | None = None  # steps after which workers that were asked to end have saved

    def to_the_end(self) -> None:
        """Until the workers have ended."""
        while self._running.wait(self._reader.seconds):
            self._hand_on(_taken(self._reader))
        self._hand_on(self._reader.take())

    def until_saved(self, say: Callable[[str], None]) -> None:
        """Ask the workers to save where they stand, and wait until they have, or have ended."""
        say("stopping: it saves where it stands (again: at once, from the last checkpoint)")
        request = request_of(self._task.run, self._task.attempt)
        request.write_text("")
        try:
            deadline = time.monotonic() + SAVE_SECONDS
            while time.monotonic() < deadline and self._running.wait(self._reader.seconds):
                self._hand_on(_taken(self._reader))
                if self._saved is not None and self._is_kept(self._saved):
                    return
        finally:
            request.delete()

    def _is_kept(self, done: int) -> bool:
        """Whether Ray Train counts the checkpoint as saved; workers are through with theirs before."""
        from finedefics_platform.training.checkpoints import saved_position

        position = saved_position(self._task.run)
        return position is not None and position.total_step(self._task.experiment) == done

    def _hand_on(self, events: list[Event]) -> None:
        for event in events:
            if event["event"] == "configuration":  # a group of workers starts
                self.steps = 0
            self.steps += event["event"] == "step"
            if event["event"] == STOPPED:
                self._saved = event["total_step"]
            self._handle(event)


class _Running:
    """A trainer that runs in a thread; ``sign``: the file at whose sight it ends."""

    def __init__(self, trainer: TorchTrainer, sign: Path) -> None:
        self._trainer, self._sign = trainer, sign
        self.error: BaseException | None = None
        # Not the thread is waited for: Python 3.11 takes it for ended where an interrupt breaks a join.
        self._ended = threading.Event()
        threading.Thread(target=self._fit, name="training", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end at most so long; whether it still runs."""
        return not self._ended.wait(seconds)

    def stop(self) -> None:
        """Ask it to end, and give it the time."""
        self._sign.touch()
        self.wait(STOP_SECONDS)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # of whatever kind, it belongs to the caller's thread
            self.error = error
        finally:
            self._ended.set()


def _taken(reader: EventReader) -> list[Event]:
    try:
        return reader.take()
    except FinedeficsError:  # a store that is away for a moment must not end a run that trains
        return []


def _trainer(task: Assignment, sign: Path) -> TorchTrainer:
    resources = task.experiment.resources
    watchers: list[Any] = [_StopOnUserError(), _StopWhenAsked(sign)]
    return TorchTrainer(
        _work,
        train_loop_config={"task": task},
        scaling_config=_scaling(resources),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=task.run.path,
            storage_filesystem=task.run.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=watchers,
        ),
    )


def _work(config: dict[str, Assignment]) -> None:
    import ray.train.torch

    from finedefics_platform.training.worker import run_worker

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    run_worker(config["task"], rank)


def _scaling(resources: Resources) -> ray.train.ScalingConfig:
    each = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        each["GPU"] = resources.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=resources.workers, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=each
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error, what Ray wrapped in it and what it came from, outermost first."""
    if error is None:
        return []
    inner = [getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause")]
    inner += list(getattr(error, "worker_failures", {}).values())
    found = [error]
    for each in (*inner, error.__cause__):
        if isinstance(each, BaseException) and each is not error:
            found += _causes(each)
    return found


def _user_error(error: BaseException) -> FinedeficsError | None:
    return next((cause for cause in _causes(error) if isinstance(cause, FinedeficsError)), None)


def _explained(error: BaseException, run: str) -> FinedeficsError:
    if found := _user_error(error):
        return found
    causes = _causes(error)
    gone = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    lost = next((cause for cause in causes if isinstance(cause, gone)), None)
    if lost is not None:
        return FinedeficsError(
            "workers were lost more often than resources.max_failures allows",
            place=f"run {run}",
            cure="look for a lack of memory, then run the same command: it goes on from the last checkpoint",
        )
    reason = (str(causes[-1]).strip().splitlines() or [""])[0]
    return FinedeficsError(
        f"a worker failed ({type(causes[-1]).__name__}: {reason[:200]})",
        place=f"run {run}",
        cure="run again with --debug for the traceback",
    )
