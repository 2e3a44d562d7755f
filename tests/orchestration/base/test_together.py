"""Works side by side: in order, never too many, and ended together."""

import threading
from collections.abc import Callable
from functools import partial

import pytest

from finedefics_platform.base.progress import SILENT, Prefixed
from finedefics_platform.base.together import Stop, together


def test_results_come_in_the_order_of_the_works_and_no_more_run_than_may() -> None:
    running, most, lock = 0, 0, threading.Lock()
    pair = threading.Barrier(2, timeout=60)  # passes only if two run at once

    def work(number: int, stop: Stop) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pair.wait()
        with lock:
            running -= 1
        return number * number

    found = together({number: partial(work, number) for number in (3, 1, 2, 0)}, at_once=2)
    assert list(found.items()) == [(3, 9), (1, 1), (2, 4), (0, 0)]
    assert most == 2


def test_a_failure_ends_what_runs_and_what_has_not_begun_never_does() -> None:
    begun: list[str] = []
    told = threading.Event()
    runs = threading.Event()

    def fails(stop: Stop) -> None:
        assert runs.wait(20)
        raise ValueError("broken")

    def waits(stop: Stop) -> None:
        begun.append("waits")
        runs.set()
        if stop.wait(20):
            told.set()

    works: dict[str, Callable[[Stop], None]] = {"fails": fails, "waits": waits}
    works |= {f"late {i}": lambda stop: begun.append("late") for i in range(3)}
    with pytest.raises(ValueError, match="broken"):
        together(works, at_once=2)
    assert told.is_set(), "the one that ran was told, and waited for"
    assert begun == ["waits"]


def test_a_bar_says_whose_it_is() -> None:
    labels: list[str] = []

    class Bars:
        event, say = SILENT.event, SILENT.say

        def progress(self, label: str, total: int | None):  # type: ignore[no-untyped-def]
            labels.append(label)
            return SILENT.progress(label, total)

    with Prefixed(Bars(), "control").progress("starting 2 workers", None):
        pass
    assert labels == ["control: starting 2 workers"]
