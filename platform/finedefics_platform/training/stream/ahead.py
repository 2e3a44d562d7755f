"""Making things before they are asked for, in the order in which they will be."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Ahead(Iterator[T], Generic[T]):
    """The items in order, made up to ``count`` ahead in a thread that starts now; errors are raised here."""

    def __init__(self, items: Iterable[T], count: int) -> None:
        self._items = iter(items)
        self._made: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=count)
        self._closed = threading.Event()
        threading.Thread(target=self._make, name="stream", daemon=True).start()

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        more, item = self._made.get()
        if more:
            found: T = item
            return found
        self._closed.set()
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """Want no more: the thread ends once the item in hand is made, and closes what it was made from."""
        self._closed.set()
        while not self._made.empty():  # the thread may wait for room, and puts nothing after that
            self._made.get_nowait()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._made.put((True, item))
                if self._closed.is_set():
                    return
            self._made.put((False, None))
        except BaseException as error:  # of whatever kind, it belongs to the consumer
            if not self._closed.is_set():
                self._made.put((False, error))
        finally:
            close(self._items)


def ahead(items: Iterable[T], count: int) -> Ahead[T]:
    """The items in order, made up to ``count`` ahead (see `Ahead`)."""
    return Ahead(items, count)


def close(items: Iterable[Any]) -> None:
    """Close what can be closed: a generator, or what is made ahead."""
    if callable(end := getattr(items, "close", None)):
        end()


def in_parallel(
    function: Callable[[S], T], items: Iterable[S], at_once: int, pool: Executor | None = None
) -> Iterator[T]:
    """The function's results in the items' order, as many made at once; errors are raised in their turn.

    Args:
        pool: who makes them, ended with the last; default: threads, worth it where the function spends its
            time outside of Python.
    """
    making: deque[Future[T]] = deque()
    makers = pool or ThreadPoolExecutor(at_once, thread_name_prefix="made")
    try:
        for item in items:
            making.append(makers.submit(function, item))
            if len(making) > at_once:
                yield making.popleft().result()
        while making:
            yield making.popleft().result()
    finally:
        makers.shutdown(cancel_futures=True)
        close(items)
