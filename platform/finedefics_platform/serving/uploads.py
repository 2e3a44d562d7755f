"""Taking a picture in over HTTP: never more bytes than allowed, never for longer than allowed."""

import asyncio
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

from starlette.requests import ClientDisconnect, Request

UPLOAD_SECONDS = 30.0  # for a body to arrive


class Refused(Exception):
    """A request that is not answered: an HTTP status, one line, and headers."""

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.headers = status, line, headers or {}


async def read_upload(request: Request, most: int, seconds: float = UPLOAD_SECONDS) -> bytes:
    """The picture in a request's body: the body itself, or the one file of a multipart form.

    Args:
        most: bytes of a body, at most.
        seconds: for it to arrive.

    Raises:
        Refused: it is too large (413), takes too long (408), or there is not one picture in it (400).
    """
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            body = await _body(request, most)
    except TimeoutError as error:
        raise Refused(408, f"the picture did not arrive within {seconds:.0f} seconds") from error
    except ClientDisconnect as error:
        raise Refused(400, "the connection ended before the picture was there") from error
    kind = request.headers.get("content-type", "")
    return _form_file(kind, body) if kind.lower().startswith("multipart/form-data") else body


async def _body(request: Request, most: int) -> bytes:
    parts, held = [], 0
    async for part in request.stream():
        held += len(part)
        if held > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    megabytes = f"{most / 2**20:.3g} MiB"
    return Refused(413, f"the picture is larger than {megabytes}; send a smaller one")


def _form_file(kind: str, body: bytes) -> bytes:
    """The file of a form. A form is a MIME message, and the standard library reads those."""
    head = f"Content-Type: {kind}\r\n\r\n".encode("latin-1", "replace")
    form = BytesParser(policy=HTTP).parsebytes(head + body)
    files = [part for part in form.iter_parts() if part.get_filename()] if form.is_multipart() else []
    if len(files) != 1:
        raise Refused(400, f"the form has {len(files)} files; send one picture a request")
    return _content(files[0])


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""
