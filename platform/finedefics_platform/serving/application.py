"""The front of a server: who may ask, what may be sent, and what is told. An ASGI application without Ray.

``GET /`` is the page and ``GET /health`` says that the server lives; both are open, and tell nothing of the
model. ``GET /model`` and ``POST /predict`` want the token. Every error is ``{"error": one line}``.
"""

import base64
import hmac
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from finedefics.errors import reason_of
from finedefics.records import Category
from finedefics_platform.models.unknown import UNKNOWN, Threshold
from finedefics_platform.serving.answering import Reply
from finedefics_platform.serving.nearest import TrainingPictures
from finedefics_platform.serving.page import page
from finedefics_platform.serving.uploads import Refused, read_upload

TOP, NEAREST = 5, 6  # told where a request does not say how many
MOST = 50  # of either
RETRY_SECONDS = 1
_JSON = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Ask = Callable[[bytes], Awaitable[Reply]]


class Busy(Exception):
    """The model has as many pictures waiting as it may."""


@dataclass
class Front:
    """What a server knows without the model.

    Attributes:
        model: what it is called.
        answer: by which pictures are named.
        categories: that compete.
        ask: has a picture answered; raises `Busy`.
        token: who asks has to know it.
        most_bytes: of a picture.
        queue: pictures that are taken in, answered or waiting, at most.
        threshold: below it a picture shows something unknown; None: everything is named.
        training: pictures to show beside an answer.
    """

    model: str
    answer: str
    categories: tuple[Category, ...]
    ask: Ask
    token: str
    most_bytes: int = 20 * 2**20
    queue: int = 128
    threshold: Threshold | None = None
    training: TrainingPictures = field(default_factory=TrainingPictures)
    inside: int = 0

    def __post_init__(self) -> None:
        self.by_id = {category.category_id: category for category in self.categories}


def application(
    front: Front, background: Callable[[], AbstractAsyncContextManager[None]] | None = None
) -> Starlette:
    """The ASGI application of a front.

    Args:
        background: is entered while the server runs.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if background is None:
            yield
        else:
            async with background():
                yield

    async def health(request: Request) -> Response:
        return _told({"status": "ok"})

    async def model(request: Request) -> Response:
        _let_in(front, request)
        return _told(_about(front))

    async def predict(request: Request) -> Response:
        _let_in(front, request)
        top, nearest = _number(request, "top", TOP), _number(request, "nearest", NEAREST)
        return _told(await _predicted(front, request, top, nearest))

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/model", model),
        Route("/predict", predict, methods=["POST"]),
    ]
    handlers = {Refused: _refused, 404: _other, 405: _other, 500: _broken}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def _let_in(front: Front, request: Request) -> None:
    given = request.headers.get("authorization", "").encode("latin-1")
    if not hmac.compare_digest(given, f"Bearer {front.token}".encode()):
        thing = "no token, or the wrong one; send the header `Authorization: Bearer TOKEN`"
        raise Refused(401, thing, {"WWW-Authenticate": "Bearer"})


def _about(front: Front) -> dict[str, object]:
    return {
        "model": front.model,
        "answer": front.answer,
        "categories": len(front.categories),
        "threshold": front.threshold.value if front.threshold else None,
        "most_bytes": front.most_bytes,
        "training_pictures": _training(front),
    }


def _training(front: Front) -> dict[str, object]:
    training = front.training
    return {"there": len(training), "wanted": training.wanted, "note": training.note}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) <= MOST):
        raise Refused(400, f"{name}={text[:20]!r} is no number from 0 to {MOST}")
    return int(text)


async def _predicted(front: Front, request: Request, top: int, nearest: int) -> dict[str, object]:
    # counted before the body is read: what waits is held in memory
    if front.inside >= front.queue:
        raise _busy()
    front.inside += 1
    try:
        data = await read_upload(request, front.most_bytes)
        started = time.perf_counter()
        reply = await front.ask(data)
    except Busy as error:
        raise _busy() from error
    finally:
        front.inside -= 1
    if reply.error is not None:
        raise Refused(400, reply.error)
    return {**_answer(front, reply, top, nearest), "seconds": round(time.perf_counter() - started, 4)}


def _busy() -> Refused:
    thing = "the server has as many pictures as it can hold; ask again in a second"
    return Refused(503, thing, {"Retry-After": str(RETRY_SECONDS)})


def _answer(front: Front, reply: Reply, top: int, nearest: int) -> dict[str, object]:
    ranking = list(reply.ranking)
    unknown = front.threshold is not None and front.threshold.is_unknown(ranking)
    best = None if unknown or not ranking else ranking[0][1]
    near = [] if reply.objects is None else front.training.nearest(reply.objects, nearest)
    return {
        "model": front.model,
        "answer": front.answer,
        "name": UNKNOWN[1] if unknown else best,
        "unknown": unknown,
        "candidates": [
            {
                "category_id": category_id,
                "name": name,
                "score": round(score, 6),
                "description": front.by_id[category_id].description,
            }
            for category_id, name, score in ranking[:top]
        ],
        "nearest": [
            {
                "sample_id": shown.sample_id,
                "category_id": shown.category_id,
                "name": known.name if (known := front.by_id.get(shown.category_id)) else shown.category_id,
                "similarity": round(shown.similarity, 4),
                "thumbnail": "data:image/jpeg;base64," + base64.b64encode(shown.thumbnail).decode(),
            }
            for shown in near
        ],
        "training_pictures": _training(front),
    }


def _told(content: object, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, status, headers={**_JSON, **(headers or {})})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    # a body that was not read would be taken for the next request of the connection
    headers = {**error.headers, "Connection": "close"} if request.method == "POST" else error.headers
    return _told({"error": error.line}, error.status, headers)


async def _other(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    line = "no such page; there are GET /, /health and /model, and POST /predict"
    return _told({"error": line}, status, getattr(error, "headers", None))


async def _broken(request: Request, error: Exception) -> Response:
    print(f"error: {request.url.path}: {type(error).__name__}: {reason_of(error)}", file=sys.stderr)
    return _told({"error": "the server could not answer; its log says why"}, 500)
