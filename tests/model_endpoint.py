"""An endpoint on loopback that speaks OpenAI's chat completions, as well or as badly as a test wants."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = "hang"
COLOURS = ("red", "blue", "green", "black")


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived.

    Attributes:
        number: from 1, in order of arrival.
        question: its text and its picture, as one digest: equal questions are equal.
        picture: sha256 of the picture's bytes, None without one.
    """

    number: int
    text: str
    picture: str | None
    body: dict[str, Any]
    key: str | None

    @property
    def question(self) -> str:
        return hashlib.sha256(f"{self.text}\0{self.picture}".encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What is answered: a message's content, or a status with a body of its own."""

    content: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


Says = Callable[[Asked], Reply | str]  # a string is the content; HANG never answers


class Endpoint:
    """The server, and what it was asked."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.asked: list[Asked] = []
        self.answered: Counter[str] = Counter()  # complete answers that were sent, by question
        self.at_once = self._now = 0
        self.times: list[float] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def pictures(self) -> Counter[str]:
        """How often each picture was asked about."""
        return Counter(asked.picture for asked in self.asked if asked.picture)

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.times.append(time.monotonic())
                    endpoint._now += 1
                    endpoint.at_once = max(endpoint.at_once, endpoint._now)
                    asked = _asked(len(endpoint.asked) + 1, body, self.headers.get("Authorization"))
                    endpoint.asked.append(asked)
                try:
                    self._reply(asked, body)
                finally:
                    with endpoint._lock:
                        endpoint._now -= 1

            def _reply(self, asked: Asked, body: dict[str, Any]) -> None:
                said = endpoint.says(asked)
                if said == HANG:
                    endpoint._stop.wait(60)
                    self.close_connection = True
                    return
                reply = Reply(said) if isinstance(said, str) else said
                content = reply.body if reply.body is not None else _completion(reply, asked, body)
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    self.wfile.write(content)
                except OSError:  # whoever asked was killed
                    return
                if reply.status == 200 and reply.body is None:
                    with endpoint._lock:
                        endpoint.answered[asked.question] += 1

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def knows(asked: Asked) -> str:
    """A model that knows everything: attribute names, values, sentences."""
    if "JSON list" in asked.text:
        return '```json\n["crown colour", "wing pattern"]\n```'
    names = [line.removeprefix("- ") for line in asked.text.splitlines() if line.startswith("- ")]
    if "JSON object" not in asked.text:
        return "A bird with " + ", ".join(names) + "."
    told = asked.picture or hashlib.sha256(asked.text.encode()).hexdigest()
    return json.dumps({n: COLOURS[int(told[i], 16) % 4] for i, n in enumerate(names)})


@contextmanager
def endpoint(says: Says = knows) -> Iterator[Endpoint]:
    made = Endpoint(says)
    try:
        yield made
    finally:
        made.close()


def _asked(number: int, body: dict[str, Any], key: str | None) -> Asked:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return Asked(number, content, None, body, key)
    text = next(part["text"] for part in content if part["type"] == "text")
    url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    picture = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
    return Asked(number, text, picture, body, key)


def _completion(reply: Reply, asked: Asked, body: dict[str, Any]) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.content, "type": "error", "code": None}}).encode()
    message = {"role": "assistant", "content": reply.content}
    return json.dumps(
        {
            "id": f"c{asked.number}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    ).encode()
