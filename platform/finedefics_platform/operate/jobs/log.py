"""A job's log in the workspace: written while the job runs, read by whoever follows, whatever has died since.

On a disk lines are appended to a file and seen at once; an object store has no appending, so there a thread
writes small numbered objects, each a second old at most. Names order the pieces: by attempt, then by number.
"""

import threading

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location

FLUSH_SECONDS = 0.5  # of lines that a killed writer may lose in an object store; a disk has all
PIECE_BYTES = 1 << 20  # of a file on a disk, before the next one is begun


class LogWriter:
    """Writes the log of one attempt at ``place``; safe to call from several threads."""

    def __init__(self, place: Location, attempt: int) -> None:
        self._place, self._attempt = place, attempt
        prefix = f"{attempt:04}-"
        self._number = sum(way.startswith(prefix) for way in place.files())
        self._pending, self._sent = b"", b""  # `_sent`: what is under way, the beginning of `_pending`
        self._adding, self._sending = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_flushing, name="job log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Add whole lines; where the storage is away they are kept and written later, in order."""
        with self._adding:
            self._pending += text.encode()
        if self._place.local is not None:
            self._try()

    def close(self, seconds: float = 60) -> bool:
        """Write what is left; False where the storage did not take it within ``seconds``."""
        self._stop.set()
        ended = threading.Event()
        for _ in range(max(1, int(seconds))):
            if self._try() and self._try():  # what was under way, and what came meanwhile
                return True
            ended.wait(1)
        return False

    def _keep_flushing(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._try()

    def _try(self) -> bool:
        try:
            with self._sending:
                self._flush()
            return True
        except (FinedeficsError, OSError):  # away for a moment, or the disk is full: kept
            return False

    def _flush(self) -> None:
        with self._adding:
            content = self._sent = self._sent or self._pending
        if not content:
            return
        if self._place.local is None:
            # The same content under the same name until it is known to be there: no line is lost or doubled,
            # though an upload that is said to have failed may be there and have been read.
            (self._place / self._name(self._number + 1)).write_bytes(content)
            self._number += 1
        else:
            self._append(content)
        with self._adding:
            self._pending, self._sent = self._pending[len(content) :], b""

    def _append(self, content: bytes) -> None:
        assert self._place.local is not None
        self._place.local.mkdir(parents=True, exist_ok=True)
        file = self._place.local / self._name(max(1, self._number))
        if self._number == 0 or (file.exists() and file.stat().st_size > PIECE_BYTES):
            self._number += 1
            file = self._place.local / self._name(self._number)
        with file.open("ab") as stream:
            before = stream.tell()
            try:
                stream.write(content)
                stream.flush()
            except OSError:  # a full disk took a part: it is written again as a whole
                stream.truncate(before)
                raise

    def _name(self, number: int) -> str:
        return f"{self._attempt:04}-{number:08}.txt"


class LogReader:
    """Follows the log at ``place``: every line once, in order, over all attempts or from one on."""

    def __init__(self, place: Location, attempt: int | None = None) -> None:
        self._place, self._first = place, "" if attempt is None else f"{attempt:04}-"
        self._read: dict[str, int] = {}
        self._rest = b""
        self.seconds = 0.3 if place.local else 1.0  # between two looks

    def take(self, *, last: bool = False) -> list[str]:
        """Lines that are new; FinedeficsError if the storage does not answer, and no line is lost by it.

        Args:
            last: nobody writes any more, so that a line without an end is one as well.
        """
        found = b""
        for way in self._place.files():
            if way < self._first or (way in self._read and self._place.local is None):
                continue
            content = self._after(way)
            self._read[way] = self._read.get(way, 0) + len(content)
            self._rest += content
        whole, newline, rest = self._rest.rpartition(b"\n")
        if last and rest:
            found, self._rest = self._rest, b""
        else:
            found, self._rest = whole + newline, rest
        return (
            found.decode(errors="replace").split("\n")[: -1 if found.endswith(b"\n") else None]
            if found
            else []
        )

    def _after(self, way: str) -> bytes:
        file = self._place / way
        if file.local is None:
            return file.read_bytes()
        with file.local.open("rb") as stream:
            stream.seek(self._read.get(way, 0))
            return stream.read()
