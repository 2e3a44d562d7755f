"""The front of a server: who is let in, what is refused and how it is said. No Ray, no network."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from finedefics.records import Category
from finedefics.scoring import Recogniser
from finedefics_platform.models.unknown import Threshold
from finedefics_platform.serving.answering import Answerer, Reply
from finedefics_platform.serving.application import Busy, Front, application
from finedefics_platform.serving.nearest import TrainingPictures
from finedefics_platform.serving.uploads import Refused, read_upload

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
KNOWN = (Category("tern", "Tern", description="white belly"), Category("auk", "Auk"))
TERN = Reply((("tern", "Tern", 0.75), ("auk", "Auk", 0.25)), np.array([1, 0], np.float32))


async def says_tern(picture: bytes) -> Reply:
    return TERN


def front(**more: Any) -> Front:
    return Front(
        **{"model": "birds/1", "answer": "alignment", "categories": KNOWN, "ask": says_tern, "token": TOKEN}
        | more
    )


def client(served: Front) -> TestClient:
    return TestClient(application(served), raise_server_exceptions=False)


@pytest.mark.parametrize(
    "header",
    [None, "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer t\xf6ken"],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/model"), ("POST", "/predict")])
def test_without_the_token_nothing_is_told(header: str | None, method: str, path: str) -> None:
    asked: list[bytes] = []

    async def ask(picture: bytes) -> Reply:
        asked.append(picture)
        return TERN

    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    said = client(front(ask=ask)).request(method, path, headers=headers)
    assert said.status_code == 401
    assert said.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in said.json()["error"]
    assert asked == []


def test_page_and_health_are_open_and_tell_nothing_of_the_model() -> None:
    asked = client(front(model="secret-bird"))
    assert asked.get("/health").json() == {"status": "ok"}
    page = asked.get("/")
    assert "secret-bird" not in page.text
    assert TOKEN not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in page.text.replace("http-equiv", ""), "nothing is fetched from elsewhere"


def test_an_answer_has_names_descriptions_and_the_nearest_training_pictures() -> None:
    training = TrainingPictures(2)
    training.add("far", "auk", b"FAR", np.array([0, 1], np.float32))
    training.add("near", "tern", b"NEAR", np.array([0.8, 0.6], np.float32))
    asked = client(front(training=training))
    told = asked.post("/predict?nearest=1", content=b"picture", headers=BEARER).json()
    assert told["name"] == "Tern"
    assert told["unknown"] is False
    assert [(c["name"], c["score"], c["description"]) for c in told["candidates"]] == [
        ("Tern", 0.75, "white belly"),
        ("Auk", 0.25, None),
    ]
    (near,) = told["nearest"]
    assert (near["sample_id"], near["name"], near["similarity"]) == ("near", "Tern", 0.8)
    assert near["thumbnail"] == "data:image/jpeg;base64,TkVBUg=="
    assert told["training_pictures"] == {"there": 2, "wanted": 2, "note": None}
    few = asked.post("/predict?top=1&nearest=0", content=b"picture", headers=BEARER).json()
    assert (len(few["candidates"]), few["nearest"]) == (1, [])
    about = asked.get("/model", headers=BEARER).json()
    assert (about["model"], about["categories"], about["answer"]) == ("birds/1", 2, "alignment")


@pytest.mark.parametrize(("threshold", "name"), [(0.75, "Tern"), (0.76, "unknown")])
def test_below_its_threshold_a_picture_is_unknown(threshold: float, name: str) -> None:
    asked = client(front(threshold=Threshold("alignment", threshold)))
    told = asked.post("/predict", content=b"picture", headers=BEARER).json()
    assert (told["name"], told["unknown"]) == (name, name == "unknown")
    assert told["candidates"][0]["name"] == "Tern", "what it is likest to is told all the same"


def test_a_reply_without_a_category_names_none() -> None:
    async def ask(picture: bytes) -> Reply:
        return Reply()

    told = client(front(ask=ask)).post("/predict", content=b"picture", headers=BEARER).json()
    assert (told["name"], told["candidates"], told["nearest"]) == (None, [], [])


def form(*files: tuple[str | None, bytes], boundary: str = "----x") -> tuple[bytes, dict[str, str]]:
    parts = []
    for name, content in files:
        filename = f'; filename="{name}"' if name else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"{filename}\r\n\r\n'
        parts += [head.encode(), content, b"\r\n"]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_bytes_of_a_form_arrive_as_they_were_sent() -> None:
    drawn = random.Random(3)
    got: list[bytes] = []

    async def ask(picture: bytes) -> Reply:
        got.append(picture)
        return TERN

    sent = [drawn.randbytes(drawn.randrange(3000)) for _ in range(40)]
    sent += [
        b"",
        b"\n",
        b"\r",
        b"\r\n",
        b"\r\r\n\r",
        b"\n\n\r\n",
        b"a\x85b\x1c\x0c\x0bc",
        b"--\r\n----\r\n",
        b"\xff\xd8",
    ]
    asked = client(front(ask=ask))
    for content in sent:
        body, headers = form((None, b"a field"), ("bird.jpg", content))
        assert asked.post("/predict", content=body, headers=BEARER | headers).status_code == 200
    assert got == sent


@pytest.mark.parametrize("files", [[], [("a.jpg", b"a"), ("b.jpg", b"b")]])
def test_a_form_has_one_picture(files: list[tuple[str, bytes]]) -> None:
    body, headers = form(*files)
    said = client(front()).post("/predict", content=body, headers=BEARER | headers)
    assert said.status_code == 400
    assert said.json()["error"] == f"the form has {len(files)} files; send one picture a request"


def test_a_body_that_is_too_large_is_not_read() -> None:
    asked = client(front(most_bytes=100))
    assert asked.post("/predict", content=b"x" * 100, headers=BEARER).status_code == 200
    said = asked.post("/predict", content=b"x" * 101, headers=BEARER)
    assert said.status_code == 413
    assert "larger than 9.54e-05 MiB" in said.json()["error"]

    def piecemeal() -> Any:  # without a length
        yield from [b"x" * 60] * 3

    assert asked.post("/predict", content=piecemeal(), headers=BEARER).status_code == 413


def arriving(messages: Sequence[dict[str, Any]]) -> Request:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)
        return waiting.pop(0)

    return Request({"type": "http", "method": "POST", "headers": [], "path": "/predict"}, receive)


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    half = {"type": "http.request", "body": b"half", "more_body": True}
    with pytest.raises(Refused) as slow:
        asyncio.run(read_upload(arriving([half]), 100, seconds=0.05))
    assert slow.value.status == 408
    with pytest.raises(Refused) as gone:
        asyncio.run(read_upload(arriving([half, {"type": "http.disconnect"}]), 100))
    assert gone.value.status == 400


@pytest.mark.parametrize("query", ["top=51", "top=-1", "top=many", "nearest=1.5", "top=", "top=²"])
def test_a_wrong_number_is_named(query: str) -> None:
    said = client(front()).post(f"/predict?{query}", content=b"picture", headers=BEARER)
    assert said.status_code == 400
    assert said.json()["error"].startswith(query.partition("=")[0])


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def full(picture: bytes) -> Reply:
        raise Busy

    said = client(front(ask=full)).post("/predict", content=b"picture", headers=BEARER)
    assert (said.status_code, said.headers["retry-after"]) == (503, "1")

    async def crowd() -> tuple[list[int], int]:
        go, served = asyncio.Event(), 0

        async def waits(picture: bytes) -> Reply:
            await go.wait()
            return TERN

        crowded = front(ask=waits, queue=3)
        app = application(crowded)
        asking = [asyncio.create_task(post(app)) for _ in range(5)]
        while sum(task.done() for task in asking) < 2:
            await asyncio.sleep(0.01)
        go.set()
        statuses = [await task for task in asking]
        served = await post(app)
        assert crowded.inside == 0
        return statuses, served

    statuses, later = asyncio.run(crowd())
    assert sorted(statuses) == [200, 200, 200, 503, 503]
    assert later == 200, "a place is free again"


async def post(app: Callable[..., Any]) -> int:
    """The status of one picture that is asked for, by the ASGI protocol itself."""
    status = 0
    messages = iter([{"type": "http.request", "body": b"picture", "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"authorization", BEARER["Authorization"].encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b"",
        "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    return status


def test_other_places_and_ways_are_named_and_a_fault_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    async def fails(picture: bytes) -> Reply:
        raise RuntimeError("the path /secret/model")

    asked = client(front(ask=fails))
    assert "POST /predict" in asked.get("/nowhere").json()["error"]
    assert asked.get("/predict", headers=BEARER).status_code == 405
    broken = asked.post("/predict", content=b"picture", headers=BEARER)
    assert broken.status_code == 500
    assert "secret" not in broken.text
    assert "RuntimeError: the path /secret/model" in capfd.readouterr().err


def test_a_damaged_picture_costs_the_others_nothing(
    recogniser: Recogniser, pictures: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = Answerer(recogniser, "alignment", 2, embeds=True)
    monkeypatch.setattr("finedefics_platform.serving.answering.MOST_PIXELS", 200 * 200)
    sent = [pictures[0], b"", b"no picture", pictures[1][:200], huge(), pictures[1]]
    replies = answerer.replies(sent)
    alone = recogniser.recognise([pictures[0], pictures[1]], top=2)
    for reply, expected in zip((replies[0], replies[5]), alone, strict=True):
        assert [name for _, name, _ in reply.ranking] == [name for _, name, _ in expected]
        assert [s for *_, s in reply.ranking] == pytest.approx([s for *_, s in expected], abs=1e-5)
        assert reply.objects is not None
        assert np.linalg.norm(reply.objects) == pytest.approx(1, abs=1e-4)
    errors = [reply.error or "" for reply in replies[1:5]]
    assert (
        errors[0]
        == "picture: the picture cannot be decoded (the file is empty); copy it again, or leave it out"
    )
    assert "the file is text" in errors[1]
    assert "cannot be decoded" in errors[2]
    assert "it has 1000 x 1000 pixels" in errors[3]
    assert not any("0x" in error or "\n" in error for error in errors)
    said = client(front(ask=answered_by(answerer))).post("/predict", content=b"no picture", headers=BEARER)
    assert (said.status_code, said.json()) == (400, {"error": errors[1]})
    near = answerer.embedded([b"", pictures[0]])
    assert near[0].error == errors[0]
    np.testing.assert_allclose(near[1].objects, replies[0].objects, atol=1e-5)


def answered_by(answerer: Answerer) -> Callable[[bytes], Any]:
    async def ask(picture: bytes) -> Reply:
        (reply,) = answerer.replies([picture])
        return reply

    return ask


def huge() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_what_runs_beside_the_server_begins_and_ends_with_it() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def beside() -> AsyncIterator[None]:
        seen.append("begun")
        yield
        seen.append("ended")

    with TestClient(application(front(), beside)) as asked:
        assert asked.get("/health").status_code == 200
        assert seen == ["begun"]
    assert seen == ["begun", "ended"]
