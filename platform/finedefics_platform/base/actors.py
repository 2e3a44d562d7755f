"""Work that is dear to begin (a model is loaded first), spread over a pool of Ray actors."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    options, workers = _pool(nodes, gpus_per_worker)
    actors: list[Any] = [
        ray.remote(_Actor).options(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **options).remote(make)
        for _ in range(min(workers, len(items)))
    ]
    results: list[Any] = [None] * len(items)
    sizes = sizes or [1] * len(items)
    # An item is only given to a process that has begun: one that finds no room, as others hold what was
    # counted on, would keep its item waiting for ever.
    starting = {actor.ready.remote(): actor for actor in actors}
    running: dict[Any, tuple[int, Any]] = {}
    pending = deque(range(len(items)))
    try:
        with progress.progress(label, sum(sizes)) as advance:
            while running or pending:
                (reference,), _ = ray.wait([*running, *starting], num_returns=1)
                if reference in starting:
                    actor = starting.pop(reference)
                    ray.get(reference)
                else:
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

    def ready(self) -> None:
        """Returns once the process runs."""

    def call(self, item: Any) -> Any:
        if self._work is None:
            import os

            import torch

            torch.set_num_threads(max(1, min(_CPUS, (os.cpu_count() or 1) // 2)))
            self._work = self._make()
        return self._work(item)


def reserved_device() -> str:
    """``cuda`` in a process that asked Ray for a GPU and has one, else ``cpu``.

    A process that asked for none may see them all, and all such would then use the first.
    """
    import ray
    import torch

    return "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"


def _pool(nodes: Sequence[Mapping[str, float]], gpus_per_worker: float | None) -> tuple[dict[str, Any], int]:
    """Options of an actor, and how many of them the nodes have room for: none spans two nodes or GPUs."""
    most_gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    most_cpus = max((node.get("CPU", 0) for node in nodes), default=1)
    gpus = (1.0 if most_gpus >= 1 else 0.0) if gpus_per_worker is None else gpus_per_worker
    cpus = max(1, min(_CPUS, most_cpus)) if gpus == 0 else 1
    if gpus > most_gpus:
        raise FinedeficsError(
            f"{gpus:g} GPUs a worker, and no node of the cluster has more than {most_gpus:g}",
            place="gpus_per_worker",
            cure="give fewer, or 0 for none",
        )
    room = sum(min(node.get("CPU", 0) // cpus, _on_gpus(node.get("GPU", 0), gpus)) for node in nodes)
    return {"num_cpus": cpus, "num_gpus": gpus}, max(1, int(room))


def _on_gpus(there: float, each: float) -> float:
    """How many processes these GPUs hold; a part of one GPU and a part of another are no GPU."""
    if each == 0:
        return math.inf
    return there // each if each >= 1 else int(there) * int(1 / each + 1e-9)
