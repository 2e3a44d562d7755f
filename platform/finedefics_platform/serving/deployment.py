"""Replicas of a model under Ray Serve: each a process that holds it and answers in batches.

Serve's own proxies are off: the front asks replicas by a handle, so no other port is opened.
"""

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve

from finedefics.errors import FinedeficsError, reason_of
from finedefics.records import Category
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.serving.answering import Answerer, Reply
from finedefics_platform.serving.application import Busy

_CONTROLLER, _NAMESPACE = "SERVE_CONTROLLER_ACTOR", "serve"
_QUIET = {"log_level": "ERROR", "enable_access_log": False}


@dataclass(frozen=True)
class Held:
    """What a replica holds; travels pickled.

    Attributes:
        model: its folder, as the replica's machine finds it.
        index: the files of its category index by name, where it has one.
        chosen, added: as in `finedefics_platform.models.answerable.Answerable`.
        answer, top, embeds: as `Answerer` takes them.
        batch: pictures that go through together at most.
        wait: seconds that the first of a batch waits for others.
        threads: of a replica without a GPU; None: the cores of its machine.
        dtype, micro_tokens: as `finedefics.placing.load_placed` takes them.
    """

    model: Location
    index: Mapping[str, bytes] | None
    chosen: tuple[Category, ...] | None
    added: tuple[Category, ...]
    answer: str = "alignment"
    top: int = 50
    embeds: bool = True
    batch: int = 16
    wait: float = 0.004
    threads: int | None = None
    dtype: str | None = None
    micro_tokens: int | None = None


class Replica:
    """One process with the model; it answers while other pictures arrive, one batch at a time."""

    def __init__(self, held: Held) -> None:
        self._one = ThreadPoolExecutor(1)
        self._batched.set_max_batch_size(held.batch)  # type: ignore[attr-defined]
        self._batched.set_batch_wait_timeout_s(held.wait)  # type: ignore[attr-defined]
        self._failed: Exception | None = None
        try:
            self._answerer = _answerer(held)
        except Exception as error:  # Serve would try again, and tell a traceback
            self._failed = error

    async def ready(self) -> str:
        """Where the model stands; raises what kept it from being loaded."""
        if self._failed is not None:
            raise self._failed
        return str(self._answerer.recogniser.backbone.device)

    async def answer(self, picture: bytes) -> Reply:
        """`Answerer.replies` of one, together with others that are asked for meanwhile."""
        reply: Reply = await self._batched(picture)
        return reply

    async def embed(self, pictures: Sequence[bytes]) -> list[Reply]:
        """`Answerer.embedded`, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._one, self._answerer.embedded, pictures)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.004)
    async def _batched(self, pictures: list[bytes]) -> list[Reply]:
        return await asyncio.get_running_loop().run_in_executor(self._one, self._answerer.replies, pictures)


def _answerer(held: Held) -> Answerer:
    import torch

    from finedefics_platform.models.answerable import load_recogniser

    torch.set_num_threads(held.threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        for file, content in (held.index or {}).items():
            (Path(name) / file).write_bytes(content)
        recogniser = load_recogniser(
            model_folder(held.model),
            None if held.index is None else Path(name),
            held.chosen,
            held.added,
            held.dtype,
            held.micro_tokens,
        )
    return Answerer(recogniser, held.answer, held.top, embeds=held.embeds)


@dataclass
class Deployed:
    """Replicas that run; asked by the front.

    Attributes:
        device: where each holds the model.
        handle: Serve's.
    """

    device: str
    handle: Any = field(repr=False)

    async def ask(self, picture: bytes) -> Reply:
        """One picture's answer; raises `Busy` where too many wait."""
        from ray.serve.exceptions import BackPressureError

        try:
            reply: Reply = await self.handle.answer.remote(picture)
        except BackPressureError as error:
            raise Busy from error
        return reply

    async def embed(self, pictures: Sequence[bytes]) -> list[Reply]:
        """Embeddings of some pictures."""
        replies: list[Reply] = await self.handle.embed.remote(list(pictures))
        return replies


@contextmanager
def deployed(
    held: Held,
    *,
    replicas: int,
    queue: int,
    gpus: float | None = None,
    progress: Progress = SILENT,
) -> Iterator[Deployed]:
    """Replicas of a model while the block runs; afterwards they are gone, and Ray where it was started.

    Args:
        replicas: processes that hold the model.
        queue: pictures that wait for a replica, at most.
        gpus: of each; default: 1 where there is one, else 0.

    Raises:
        FinedeficsError: Ray cannot start, or the model cannot be loaded.
    """
    import ray

    ours = not ray.is_initialized()
    # Ray starts its workers at niceness 15: beside the front and its clients the model would wait for both
    os.environ.setdefault("RAY_worker_niceness", "0")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        ensure_ray(progress=progress)
        served_before = _is_serving()
        app = f"finedefics-{secrets.token_hex(4)}"
        try:
            yield _start(held, app, replicas, queue, gpus, progress)
        finally:
            if served_before:  # somebody else's cluster serves other things
                serve.delete(app)
            else:
                serve.shutdown()
    finally:
        if ours:
            ray.shutdown()


def _is_serving() -> bool:
    import ray

    try:
        ray.get_actor(_CONTROLLER, namespace=_NAMESPACE)
    except ValueError:
        return False
    return True


def _start(
    held: Held, app: str, replicas: int, queue: int, gpus: float | None, progress: Progress
) -> Deployed:
    import ray

    if gpus is None:
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
    with progress.progress("loading the model", 1) as advance:
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        deployment: Any = serve.deployment(Replica)
        made = deployment.options(
            name="Replica",
            num_replicas=replicas,
            # all that the front takes in: what Serve itself would hold back, it asks about again ever later
            max_ongoing_requests=max(queue, 2 * held.batch),
            max_queued_requests=queue,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            graceful_shutdown_timeout_s=20,
            max_constructor_retry_count=1,
        )
        try:
            handle = serve.run(made.bind(held), name=app, route_prefix=None, logging_config=_QUIET)
            device = handle.ready.remote().result()
        except FinedeficsError:
            raise
        except Exception as error:
            raise _not_loaded(error) from error
        advance(1)
    return Deployed(device, handle)


def _not_loaded(error: Exception) -> FinedeficsError:
    """The replica's own error, which Ray has wrapped."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FinedeficsError):
        return cause
    return FinedeficsError(
        f"the model could not be started ({reason_of(cause if isinstance(cause, Exception) else error)})",
        place="finedefics serve",
        cure="see what `finedefics doctor` says, and the log of Ray Serve",
    )
