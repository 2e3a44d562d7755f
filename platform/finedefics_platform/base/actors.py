"""Work that is dear to begin (a model is loaded first), spread over a pool of Ray actors."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from finedefics.errors import FinedeficsError
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.user_code import let_user_code_travel

Item = TypeVar("Item")
Result = TypeVar("Result")

_CPUS = 4  # of an actor without a GPU: more processes with fewer threads each would hold more models
_RESTARTS = 2


def run_in_actors(
    items: Sequence[Item],
    make: Callable[[], Callable[[Item], Result]],
    *,
    label: str,
    progress: Progress,
    gpus_per_worker: float | None = None,
    sizes: Sequence[int] | None = None,
) -> list[Result]:
    """Call what ``make`` returns on every item; one result an item, in their order.

    An item whose process is lost is given to a new one, twice.

    Args:
        make: called once in every process of the pool, which is as large as the cluster allows.
        gpus_per_worker: default: 1 where the cluster has a GPU, else 0.
        sizes: what the progress counts of each item; default: 1.

    Raises:
        FinedeficsError: as raised by ``make`` or its work.
    """
    if not items:
        return []
    ensure_ray(progress=progress)
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    let_user_code_travel()
    options, workers = _pool(ray.cluster_resources(), gpus_per_worker)
    actors: list[Any] = [
        ray.remote(_Actor).options(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **options).remote(make)
        for _ in range(min(workers, len(items)))
    ]
    results: list[Any] = [None] * len(items)
    sizes = sizes or [1] * len(items)
    running = {actor.call.remote(items[n]): (n, actor) for n, actor in enumerate(actors)}
    pending = deque(range(len(actors), len(items)))
    try:
        with progress.progress(label, sum(sizes)) as advance:
            while running:
                (reference,), _ = ray.wait(list(running), num_returns=1)
                number, actor = running.pop(reference)
                results[number] = ray.get(reference)
                advance(sizes[number])
                if pending:
                    following = pending.popleft()
                    running[actor.call.remote(items[following])] = (following, actor)
    except RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (error.cause if isinstance(error.cause, FinedeficsError) else cause) from None
    except RayActorError as error:
        raise FinedeficsError(
            f"a process was lost again and again ({str(error).strip().splitlines()[0][:160]})",
            place=label,
            cure="look for memory that ran out; what is finished is kept, run it again",
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)
    return results


class _Actor:
    """Makes its work at the first call, so that what goes wrong there arrives as a result does."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def call(self, item: Any) -> Any:
        if self._work is None:
            import os

            import torch

            torch.set_num_threads(max(1, min(_CPUS, (os.cpu_count() or 1) // 2)))
            self._work = self._make()
        return self._work(item)


def _pool(resources: dict[str, float], gpus_per_worker: float | None) -> tuple[dict[str, Any], int]:
    """Options of an actor, and how many of them the cluster has room for."""
    there = resources.get("GPU", 0)
    gpus = (1.0 if there >= 1 else 0.0) if gpus_per_worker is None else gpus_per_worker
    cpus = min(_CPUS, resources.get("CPU", 1)) if gpus == 0 else 1
    if gpus > there:
        raise FinedeficsError(
            f"{gpus:g} GPUs a worker, and the cluster has {there:g}",
            place="gpus_per_worker",
            cure="give fewer, or 0 for none",
        )
    room = there // gpus if gpus else resources.get("CPU", 1) // cpus
    return {"num_cpus": cpus, "num_gpus": gpus}, max(1, int(room))
