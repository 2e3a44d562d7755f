"""What a command prints: lines, tables and bars for a person, one JSON object a line for a machine."""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from finedefics_platform.base.progress import EVENTS_FILE

PIPE_WIDTH = 160  # columns where the output is no terminal; rich's 80 would cut paths and digests
ENDED_BARS = 4
EVENT_SECONDS = 1.0  # at most one "progress" event a label in this time

_REUSED = ("step", "run", "search", "evaluation")  # fields of "skipped" that say what

_machine: TextIO | None = None


@contextmanager
def machine_stdout() -> Iterator[None]:
    """Keep stdout for JSON lines alone: what libraries print meanwhile goes to stderr."""
    global _machine
    _machine = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _machine = None


class Reporter:
    """The `Progress` of one command. Safe to call from several threads.

    In ``--json`` mode every event is a line on stdout and nothing else is; otherwise lines and tables go to
    stdout and progress bars to stderr, so that ``finedefics … > file`` keeps the answer and shows the way.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._open_bars = 0
        self._reused: list[str] = []

    def event(self, name: str, /, **fields: Any) -> None:
        """Write ``{"event": name, **fields}``; a number that is not finite becomes null, as JSON has none."""
        if name == "skipped":
            self._reused.append(next((str(fields[key]) for key in _REUSED if key in fields), "work"))
        listener = os.environ.get(EVENTS_FILE)
        if self.json or listener:
            line = json.dumps(_plain({"event": name, **fields}), default=str)
            with self._lock:
                if self.json:
                    print(line, file=_machine or sys.stdout, flush=True)
                if listener:
                    with suppress(OSError), open(listener, "a") as file:
                        file.write(line + "\n")

    def say(self, text: str) -> None:
        """A line of rich markup for a person."""
        if not self.json:
            _console(sys.stdout).print(text, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for a person; None shows as an empty cell."""
        if self.json:
            return
        table = Table(title=title or None, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else str(cell) for cell in row))
        _console(sys.stdout).print(table)

    def show(self, renderable: RenderableType) -> None:
        """Something rich can draw, for a person."""
        if not self.json:
            _console(sys.stdout).print(renderable)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a bar over ``total`` items while the block runs; the yielded function advances it."""
        with self._events(label, total) if self.json else self._bar(label, total) as advance:
            yield advance

    def note(self, label: str, text: str) -> None:
        """Show a few words beside the open bar of that label; a machine gets events instead."""
        with self._lock:
            bars = self._bars
            for task in bars.tasks if bars else ():
                if bars and task.description == label and task.stop_time is None:
                    bars.update(task.id, note=text)

    def done(self, **fields: Any) -> None:
        """The last line of a command that succeeded; ``reused`` names what was found finished, if any."""
        if self._reused:
            fields.setdefault("reused", self._reused)
        self.event("done", **fields)

    @contextmanager
    def _events(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        count, told = 0, time.monotonic()
        self.event("progress", label=label, completed=0, total=total)

        def advance(items: int) -> None:
            nonlocal count, told
            count += items
            if time.monotonic() - told >= EVENT_SECONDS:
                told = time.monotonic()
                self.event("progress", label=label, completed=count, total=total)

        yield advance
        self.event("progress", label=label, completed=count, total=total)

    @contextmanager
    def _bar(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        # One live display holds every open bar: two displays at once would overwrite each other.
        with self._lock:
            if self._bars is None:
                self._bars = _bars()
                self._bars.start()
            bars, self._open_bars = self._bars, self._open_bars + 1
        task = bars.add_task(label, total=total, note="")
        try:
            yield lambda items: bars.advance(task, items)
            if total is None:
                bars.update(task, total=1, completed=1)
        finally:
            with self._lock:
                _stop(bars, task)
                self._open_bars -= 1
                if self._open_bars == 0:
                    bars.stop()
                    self._bars = None


def reporter(json: bool) -> Reporter:
    """The reporter of one command."""
    return Reporter(json=json)


def _stop(bars: Bars, ended: TaskID) -> None:
    """Stop a bar's clock; of those that have ended, the last few stay while others go on."""
    bars.stop_task(ended)
    over = [task.id for task in bars.tasks if task.stop_time is not None]
    for task in over[:-ENDED_BARS]:
        bars.remove_task(task)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)


def _bars() -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=_console(sys.stderr),
        # Redirected lines are drawn above the bar, on stderr: right on a terminal, wrong into a pipe.
        redirect_stdout=sys.stdout.isatty(),
        transient=sys.stderr.isatty(),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
