"""A server from beginning to end: find the model, start replicas, answer, and end without a trace."""

import asyncio
import errno
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.models.answerable import Answerable
from finedefics_platform.models.unknown import threshold_of
from finedefics_platform.serving.application import Front, application
from finedefics_platform.serving.deployment import Deployed, Held, deployed
from finedefics_platform.serving.nearest import TrainingPictures, choose, in_chunks, kept_at, thumbnail

TOKEN = "FINEDEFICS_SERVE_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST_TOKEN = 16  # characters
GRACE_SECONDS = 20  # for what is being answered when the server is asked to end
_CHUNK = 8  # training pictures that go through the model between two batches


@dataclass(frozen=True)
class Settings:
    """What a user decides of a server; `finedefics serve --help` says what each is."""

    host: str = "127.0.0.1"
    port: int = 8000
    answer: str = "alignment"
    unknown: bool = False
    replicas: int = 1
    batch: int = 16
    queue: int = 128
    most_bytes: int = 20 * 2**20
    nearest: int = 8
    data: str | None = None
    dtype: str | None = None
    micro_tokens: int | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        url: of the page.
        token: that whoever asks has to send.
        generated: whether it was made for this start, and stands nowhere else.
        device: where each replica holds the model.
        front: what it knows.
    """

    url: str
    token: str
    generated: bool
    device: str
    front: Front
    server: uvicorn.Server
    sockets: tuple[socket.socket, ...]

    def until_ended(self) -> None:
        """Answer until SIGTERM or Ctrl-C, and what is being answered then to its end."""
        self.server.run(sockets=list(self.sockets))


@contextmanager
def serving(
    workspace: Workspace, found: Answerable, settings: Settings, progress: Progress = SILENT
) -> Iterator[Serving]:
    """A model behind an address while the block runs; it answers in `Serving.until_ended`.

    Args:
        workspace: has the training pictures that are shown, and keeps their embeddings.
        found: the model.

    Raises:
        FinedeficsError: the token is too short, the address cannot be listened on, there is no threshold for
            `unknown`, or the model cannot be started.
    """
    from finedefics.scoring import ANSWERS

    ANSWERS[settings.answer]
    token, generated = _token()
    reference = found.opened.reference
    threshold = threshold_of(reference, found.index, settings.answer) if settings.unknown else None
    listening = _listen(settings.host, settings.port)
    with listening:
        dataset, note = _dataset(workspace, found, settings)
        held = _held(found, settings, embeds=dataset is not None)
        with deployed(
            held, replicas=settings.replicas, queue=settings.queue, gpus=settings.gpus, progress=progress
        ) as replicas:
            front = Front(
                model=reference,
                answer=settings.answer,
                categories=found.categories,
                ask=replicas.ask,
                token=token,
                most_bytes=settings.most_bytes,
                queue=settings.queue,
                threshold=threshold,
                training=TrainingPictures(note=note),
            )
            gathers = None
            if dataset is not None:
                gathers = partial(_gathering, front, workspace, found, dataset, settings.nearest, replicas)
            config = uvicorn.Config(
                application(front, gathers),
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            url = _url(settings.host, listening.getsockname()[1])
            yield Serving(url, token, generated, replicas.device, front, uvicorn.Server(config), (listening,))


def _token() -> tuple[str, bool]:
    given = os.environ.pop(TOKEN, None)  # so that no process that is started here inherits it
    if given is None:
        return secrets.token_urlsafe(24), True
    if len(given) < LEAST_TOKEN or not given.isascii() or any(sign.isspace() for sign in given):
        raise wrong_use(
            f"the token has to be {LEAST_TOKEN} or more letters, digits and signs, without blanks",
            place=TOKEN,
            cure="unset it to have one made, or give a longer one",
        )
    return given, False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            cure = "give an address of this machine, such as 127.0.0.1"
            thing = f"no address of this machine ({reason})"
            raise wrong_use(thing, place=f"--host {host}", cure=cure) from error
        raise FinedeficsError(
            f"port {port} cannot be taken ({reason})",
            place=f"{host}:{port}",
            cure="choose another with --port, or --port 0 for a free one",
        ) from error
    return listening


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _held(found: Answerable, settings: Settings, *, embeds: bool) -> Held:
    index = None
    if found.index is not None:
        index = {file.name: file.read_bytes() for file in found.index.iterdir() if file.is_file()}
    cores = os.cpu_count() or 1
    return Held(
        model=Location.of(found.opened.place),
        index=index,
        chosen=found.chosen,
        added=found.added,
        answer=settings.answer,
        embeds=embeds,
        batch=settings.batch,
        threads=max(1, cores // settings.replicas),
        dtype=settings.dtype,
        micro_tokens=settings.micro_tokens,
    )


def _dataset(
    workspace: Workspace, found: Answerable, settings: Settings
) -> tuple[Dataset | None, str | None]:
    """The data whose training pictures are shown, or why there are none."""
    if settings.nearest == 0:
        return None, "not wanted (--nearest 0)"
    if settings.data is not None:
        return open_dataset(workspace, settings.data), None
    name = _trained_on(found)
    if name is None:
        return None, "nothing says what this model was trained on; give its data: --data DATASET"
    try:
        return open_dataset(workspace, name), None
    except FinedeficsError as error:
        return None, f"the data it was trained on ({name}) is not here: {error.thing}"


def _trained_on(found: Answerable) -> str | None:
    opened = found.opened
    if opened.run is not None:
        return opened.run.dataset
    return None if opened.version is None else opened.version.tags.get("dataset")


@asynccontextmanager
async def _gathering(
    front: Front,
    workspace: Workspace,
    found: Answerable,
    dataset: Dataset,
    each: int,
    replicas: Deployed,
) -> AsyncIterator[None]:
    """Training pictures are embedded while the server answers already."""
    task = asyncio.create_task(_gather(front, workspace, found.opened.model, dataset, each, replicas))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _gather(
    front: Front, workspace: Workspace, model: Path, dataset: Dataset, each: int, replicas: Deployed
) -> None:
    try:
        digest = await asyncio.to_thread(model_digest, model)
        place = kept_at(workspace, digest, dataset, each)
        kept = await asyncio.to_thread(TrainingPictures.load, place)
        if kept is not None:
            front.training = kept
            return
        places = await asyncio.to_thread(choose, dataset, each)
        training = front.training = TrainingPictures(len(places), note="still being embedded")
        for chunk in in_chunks(places, _CHUNK):
            samples = await asyncio.to_thread(dataset.samples_at, chunk)
            pictures = [sample.image for sample in samples]
            small = await asyncio.to_thread(list, map(thumbnail, pictures))
            replies = await replicas.embed(pictures)
            for sample, shown, reply in zip(samples, small, replies, strict=True):
                if reply.objects is not None:
                    training.add(sample.sample_id, sample.category_id or "", shown, reply.objects)
        training.note = None if len(training) else f"{dataset.name} has no labelled training picture"
        if len(training):
            await asyncio.to_thread(training.save, place)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # pictures to look at are no reason not to answer
        front.training.note = f"training pictures could not be embedded ({reason_of(error)})"
