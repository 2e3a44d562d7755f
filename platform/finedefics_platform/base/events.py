"""A run's events: rank 0 writes them into the run's storage, the driver follows and readers read them there.

On a disk a writer appends to a file of its own; in an object store, which has no appending, it writes small
numbered files, every second and whenever it is told to. Files are named by attempt (a driver's start) and
start of the worker group in it, so that their order is that of the names and no clock is asked.

A group of workers that starts says with ``configuration`` from which step of the run it goes on
(``total_step``). What earlier groups said of later steps is superseded, for those are done again: readers
leave it out.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import Location

Event = dict[str, Any]  # "event", "time" (Unix seconds, where it happened) and fields
FLUSH_SECONDS = 1.0  # of events that a killed writer may lose in an object store; a disk has all
_BEGINS = "configuration"
_OF_A_STAGE = ("stage", "stage_done", "facts", "resumed")


class _Sink(Protocol):
    def append(self, line: str) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class EventWriter:
    """Appends events to the log at ``place``.

    Args:
        place: folder of the log; several writers may follow each other in it.
        attempt: number of the driver's start, from 1.
    """

    def __init__(self, place: Location, attempt: int) -> None:
        before = {way.partition("/")[0] for way in place.files() if way.startswith(_prefix(attempt))}
        name = f"{_prefix(attempt)}{len(before) + 1:04}-{secrets.token_hex(3)}"
        self._sink: _Sink = _File(place / f"{name}.jsonl") if place.local else _Chunks(place / name)

    def write(self, name: str, /, **fields: Any) -> None:
        """Append an event, stamped now, its texts without secrets; an object store is not waited for here."""
        fields = {key: without_secrets(v) if isinstance(v, str) else v for key, v in fields.items()}
        self._sink.append(json.dumps({"event": name, "time": time.time(), **fields}, default=str) + "\n")

    def flush(self) -> None:
        """Make what was written as durable as a checkpoint; FinedeficsError if the store does not answer."""
        self._sink.flush()

    def close(self) -> None:
        """`flush`, and write no more."""
        self._sink.close()


class EventReader:
    """Follows the log at ``place``: each event once, in order; of one attempt, or of all."""

    def __init__(self, place: Location, attempt: int | None = None) -> None:
        self._place, self._prefix = place, "" if attempt is None else _prefix(attempt)
        self._read: dict[str, int] = {}  # bytes of each file that were handed out
        self.seconds = 0.2 if place.local else FLUSH_SECONDS  # between two looks

    def take(self) -> list[Event]:
        """What is new; FinedeficsError if the store does not answer, and nothing is lost by it."""
        found: list[Event] = []
        for way in self._place.files():
            if not way.startswith(self._prefix) or (way in self._read and not self._place.local):
                continue
            content = self._after(way)
            whole = content[: content.rfind(b"\n") + 1]  # the rest is being written, or was cut off
            self._read[way] = self._read.get(way, 0) + len(whole)
            found += [json.loads(line) for line in whole.splitlines()]
        return found

    def _after(self, way: str) -> bytes:
        file, done = self._place / way, self._read.get(way, 0)
        if file.local is None:
            return file.read_bytes()
        with file.local.open("rb") as stream:
            stream.seek(done)
            return stream.read()


def read_events(place: Location) -> list[Event]:
    """Every event of the log at ``place`` that still stands, in order; empty where there is no log."""
    return standing(EventReader(place).take())


def standing(events: Iterable[Event]) -> list[Event]:
    """The events without those of steps that a later group of workers did again."""
    kept: list[Event] = []
    for event in events:
        if event["event"] == _BEGINS:
            kept = up_to(kept, event.get("total_step", 0))
        kept.append(event)
    return kept


def up_to(events: Iterable[Event], total_step: int) -> list[Event]:
    """The events that a group of workers leaves standing which goes on after ``total_step`` steps."""
    return [event for event in events if not _superseded(event, total_step)]


def _superseded(event: Event, total_step: int) -> bool:
    step = event.get("total_step", -1)
    return step > total_step or (event["event"] in _OF_A_STAGE and step == total_step)


def _prefix(attempt: int) -> str:
    return f"{attempt:04}-"


class _File:
    """Lines appended to a file on a disk; each is seen at once."""

    def __init__(self, file: Location) -> None:
        assert file.local is not None
        file.local.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.local.open("a", buffering=1)

    def append(self, line: str) -> None:
        self._file.write(line)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()


class _Chunks:
    """Lines gathered and written as numbered objects by a thread."""

    def __init__(self, folder: Location) -> None:
        self._folder, self._pending, self._written = folder, "", 0
        self._adding, self._sending = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_flushing, name="events", daemon=True)
        self._thread.start()

    def append(self, line: str) -> None:
        with self._adding:
            self._pending += line

    def flush(self) -> None:
        with self._sending:
            with self._adding:
                lines = self._pending
            if lines:
                # Under the same name until it is known to be there: an event is neither lost nor doubled.
                (self._folder / f"{self._written + 1:08}.jsonl").write_text(lines)
                self._written += 1
                with self._adding:
                    self._pending = self._pending[len(lines) :]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.flush()

    def _keep_flushing(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except FinedeficsError:  # away for a moment: kept, and sent with the next ones
                continue
