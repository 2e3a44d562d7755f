"""SIGTERM as an exception, so that a command that is ended ends in order and says how to go on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 143  # 128 + SIGTERM, as shells have it
INTERRUPTED = 130  # 128 + SIGINT


class Terminated(BaseException):
    """The process was asked to end (SIGTERM): as `KeyboardInterrupt`, no error of the work."""


class Dismissed(Terminated):
    """The work is not wanted any more: it ends as one that was asked to, and saves nothing for it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread; elsewhere than there it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """What is called inside (`ray.init`) may set signal handlers; afterwards those of before stand again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # once: a second one would break into the orderly end
    raise Terminated
