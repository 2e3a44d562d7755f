"""How long work tells its caller where it is, without knowing whether a person or a machine listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

EVENTS_FILE = "FINEDEFICS_EVENTS"  # names a file that gets every event of a command: whoever runs it reads it


class Progress(Protocol):
    """What platform functions report to; the CLI's `Reporter` is one, `SILENT` is another."""

    def event(self, name: str, /, **fields: Any) -> None:
        """Something a machine may act on: one JSON object a line in ``--json`` mode."""

    def say(self, text: str) -> None:
        """A line for a person (rich markup)."""

    def progress(self, label: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """A bar over ``total`` items (None: unknown); the yielded function advances it by so many items."""
        ...

    def note(self, label: str, text: str) -> None:
        """What stands beside the open bar of that label, for a person."""


def say_reused(progress: Progress, kind: str, name: str, *, how: str = "", **fields: Any) -> None:
    """Say that something was found finished and is taken as it is: every command that does so says it thus.

    Args:
        kind: what it is, and the field of the event: ``run``, ``search``, ``evaluation``.
        name: of it.
        how: to have it made again, or how it differs from what was asked.
    """
    progress.event("skipped", **{kind: name}, reason="finished before", **fields)
    progress.say(f"reused {kind} {name}: finished before{f'; {how}' if how else ''}")


class _Silent:
    def event(self, name: str, /, **fields: Any) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def note(self, label: str, text: str) -> None:
        pass


SILENT: Progress = _Silent()


class Prefixed:
    """A `Progress` whose bars say whose they are, where several works run side by side."""

    def __init__(self, progress: Progress, owner: str) -> None:
        self._progress, self._owner = progress, owner
        self.event, self.say = progress.event, progress.say

    def progress(self, label: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """A bar labelled ``owner: label``."""
        return self._progress.progress(f"{self._owner}: {label}", total)

    def note(self, label: str, text: str) -> None:
        """Beside the bar ``owner: label``."""
        self._progress.note(f"{self._owner}: {label}", text)
