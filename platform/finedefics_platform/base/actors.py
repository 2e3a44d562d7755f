"""Work that is dear to begin (a model is loaded first), spread over processes of the cluster.

`run_in_actors` gives each process the next item when it is free. `run_in_shares` deals the items beforehand,
to Ray's own processes, which are warm from earlier work: it begins seconds sooner, which is what counts where
there is little to do, and much of it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from finedefics.errors import FinedeficsError
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.user_code import let_user_code_travel

Item = TypeVar("Item")
Result = TypeVar("Result")

_CPUS = 4  # of an actor without a GPU: more processes with fewer threads each would hold more models
_RESTARTS = 2
_WITHOUT_GPUS = 2  # processes that share work where nobody says how many


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
        raise _cause(error) from None
    except RayActorError as error:
        raise _lost(label, error) from error
    finally:
        for actor in actors:
            ray.kill(actor)
    return results


def run_in_shares(
    items: Sequence[Item],
    make: Callable[[], Callable[[Item], Result]],
    *,
    label: str,
    progress: Progress,
    gpus_per_worker: float | None = None,
    most: int | None = None,
    sizes: Sequence[int] | None = None,
) -> list[Result]:
    """Call what ``make`` returns on every item; one result an item, in their order.

    A process that is lost is replaced, twice, and its share is begun anew: work that keeps what it did looks
    first whether it is there.

    Args:
        make: called once in every process, beside one CPU.
        gpus_per_worker: default: 1 where the cluster has a GPU, else 0.
        most: processes; default: what the GPUs have room for, two without any.
        sizes: what the progress counts of each item; default: 1.

    Raises:
        FinedeficsError: as raised by ``make`` or its work, or no node has so many GPUs.
    """
    if not items:
        return []
    ensure_ray(progress=progress)
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    let_user_code_travel()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    options, count = _processes(nodes, gpus_per_worker, most)
    share = ray.remote(_share).options(max_retries=_RESTARTS, num_returns="streaming", **options)
    numbered = list(enumerate(items))
    running: list[Any] = [share.remote(make, numbered[part::count]) for part in range(min(count, len(items)))]
    results: list[Any] = [None] * len(items)
    sizes = sizes or [1] * len(items)
    try:
        with progress.progress(label, sum(sizes)) as advance:
            while running:
                ready: Any = ray.wait(running, num_returns=1, fetch_local=False)[0][0]
                try:
                    number, result = ray.get(next(ready))
                except StopIteration:
                    running.remove(ready)
                    continue
                results[number] = result
                advance(sizes[number])
    except RayTaskError as error:
        raise _cause(error) from None
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise _lost(label, error) from error
    finally:
        for left in running:
            ray.cancel(left, force=True)
    return results


def _share(
    make: Callable[[], Callable[[Any], Any]], share: Sequence[tuple[int, Any]]
) -> Iterator[tuple[int, Any]]:
    work = make()
    for number, item in share:
        yield number, work(item)


def _cause(error: Any) -> BaseException:
    """What was raised in a process: what a user can mend as it is, anything else with its traceback there."""
    cause: BaseException = error.as_instanceof_cause()
    return error.cause if isinstance(error.cause, FinedeficsError) else cause


def _lost(label: str, error: Exception) -> FinedeficsError:
    return FinedeficsError(
        f"a process was lost again and again ({str(error).strip().splitlines()[0][:160]})",
        place=label,
        cure="look for memory that ran out; what is finished is kept, run it again",
    )


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


def _processes(
    nodes: Sequence[Mapping[str, float]], gpus_per_worker: float | None, most: int | None
) -> tuple[dict[str, Any], int]:
    """Options of a process that works off a share, and how many of them there are."""
    options, room = _pool(nodes, gpus_per_worker, most_cpus_each=1)
    wanted = most or (room if options["num_gpus"] else _WITHOUT_GPUS)
    return options, min(wanted, room)


def _pool(
    nodes: Sequence[Mapping[str, float]], gpus_per_worker: float | None, most_cpus_each: int = _CPUS
) -> tuple[dict[str, Any], int]:
    """Options of a process, and how many of them the nodes have room for: none spans two nodes or GPUs."""
    most_gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    most_cpus = max((node.get("CPU", 0) for node in nodes), default=1)
    gpus = (1.0 if most_gpus >= 1 else 0.0) if gpus_per_worker is None else gpus_per_worker
    cpus = max(1, min(most_cpus_each, most_cpus)) if gpus == 0 else 1
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
