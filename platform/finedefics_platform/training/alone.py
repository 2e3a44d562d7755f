"""Training in one process without Ray Train: it starts in seconds, and a lost process is not replaced.

For every run Ray Train starts a controller, its helpers and fresh workers, each of which imports for seconds:
on a small machine that takes longer than to train a tiny model. Here a Ray task trains, in a process that is
warm from the run before.
"""

from typing import Any

import ray

from finedefics_platform.training.assignment import Assignment, Rank


class Alone:
    """A run in a task, from its start on; the same in use as Ray Train's."""

    def __init__(self, task: Assignment) -> None:
        resources = task.experiment.resources
        start = ray.remote(
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # not in the placement group of a trial, which has no room for it
        )
        self._result = start(_train).remote(task)
        self.error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for the end at most so long; whether it still runs."""
        ended, _ = ray.wait([self._result], timeout=seconds)
        if ended:
            try:
                ray.get(self._result)
            except Exception as error:
                self.error = error
        return not ended

    def stop(self) -> None:
        """End the process; nothing of it is needed any more."""
        ray.cancel(self._result, force=True)


def _train(task: Assignment) -> None:
    import torch

    from finedefics_platform.training.worker import run_worker

    gpu = torch.cuda.is_available() and task.experiment.resources.gpus_per_worker > 0
    _form_group_of_one("nccl" if gpu else "gloo")
    run_worker(task, Rank(0, 1, torch.device("cuda", 0) if gpu else torch.device("cpu"), saves=False))


def _form_group_of_one(backend: str) -> Any:
    """The process group that the loop and DeepSpeed ask for, kept for the runs that come after.

    DeepSpeed remembers the first group of its process, so it must never be another one.
    """
    import os

    import torch.distributed as dist

    if dist.is_initialized():
        return
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it by this name
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
