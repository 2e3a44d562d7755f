"""Ray Train: where workers are started, watched and restarted, and how their errors come back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from finedefics.errors import FinedeficsError
from finedefics_platform.config.experiment import Resources
from finedefics_platform.training.worker import Assignment

STORAGE = "checkpoints"


class _StopOnUserError(ray.train.UserCallback):
    """A mistake that the user has to mend is not mended by starting again: it ends the run at once."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if found := _user_error(error):
                raise found


def fit(task: Assignment, folder: Path, callbacks: Sequence[Any] = ()) -> None:
    """Run the training loop on every worker until the model is written; lost workers are replaced.

    Args:
        folder: of the run; its checkpoints are kept there, and an interrupted run goes on from them.

    Raises:
        FinedeficsError: the workers' own error, or that too many of them were lost.
    """
    resources = task.experiment.resources
    watchers: list[Any] = [_StopOnUserError(), *callbacks]  # the library's own annotation names another class
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        scaling_config=_scaling(resources),
        run_config=ray.train.RunConfig(
            name=STORAGE,
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=watchers,
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explained(error, folder) from error


def _work(config: dict[str, Assignment]) -> None:
    from finedefics_platform.training.worker import run_worker

    run_worker(config["task"])


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


def _explained(error: BaseException, folder: Path) -> FinedeficsError:
    if found := _user_error(error):
        return found
    causes = _causes(error)
    lost = next((cause for cause in causes if isinstance(cause, ray.exceptions.RayActorError)), None)
    if lost is not None:
        return FinedeficsError(
            "workers were lost more often than resources.max_failures allows",
            place=f"run {folder.name}",
            cure="look for a lack of memory, then run the same command: it goes on from the last checkpoint",
        )
    reason = (str(causes[-1]).strip().splitlines() or [""])[0]
    return FinedeficsError(
        f"a worker failed ({type(causes[-1]).__name__}: {reason[:200]})",
        place=f"run {folder.name}",
        cure="run again with --debug for the traceback",
    )
