"""How events of the workers reach the driver: a small actor that rank 0 fills and the driver drains."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Event = dict[str, Any]
DRAIN_SECONDS = 0.2


class _Mailbox:
    """Actor: keeps events until they are taken."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken


class EventChannel:
    """Carries events from rank 0 to the driver; may be passed to other processes."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    @classmethod
    def open(cls) -> "EventChannel":
        """A channel in the connected Ray cluster; it costs no CPU of it."""
        import ray

        return cls(ray.remote(num_cpus=0)(_Mailbox).remote())

    def send(self, name: str, **fields: Any) -> None:
        """Send without waiting: training does not stand still for its record."""
        self._mailbox.put.remote({"event": name, **fields})

    def take(self) -> list[Event]:
        """Everything sent since the last call."""
        import ray

        return ray.get(self._mailbox.take.remote())

    def close(self) -> None:
        """End the actor; what was not taken is lost."""
        import ray

        ray.kill(self._mailbox)


@contextmanager
def drained(channel: EventChannel, handle: Callable[[Event], None]) -> Iterator[None]:
    """Hand every event to ``handle`` in a thread while the block runs, the last ones at its end.

    An error that ``handle`` raises is raised when the block ends, unless the block failed itself.
    """
    stop, failures = threading.Event(), []

    def drain() -> None:
        try:
            while not stop.wait(DRAIN_SECONDS):
                for event in channel.take():
                    handle(event)
            for event in channel.take():
                handle(event)
        except Exception as error:  # carried over to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=drain, name="events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        channel.close()
    if failures:
        raise failures[0]


class EventLog:
    """The run's ``events.jsonl``: one JSON object a line, written as it happens."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(json.dumps(event, default=str) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[Event]:
    """Events of a run folder's ``events.jsonl``, in order; a line cut off by a crash is left out."""
    events = []
    for line in path.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
