"""Making things before they are asked for, in the order in which they will be."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in order, made up to ``count`` ahead in a thread that starts now; errors are raised here."""
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=count)

    def make() -> None:
        try:
            for item in items:
                made.put((True, item))
            made.put((False, None))
        except BaseException as error:  # of whatever kind, it belongs to the consumer
            made.put((False, error))

    def taken() -> Iterator[T]:
        while True:
            more, item = made.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item

    threading.Thread(target=make, name="stream", daemon=True).start()
    return taken()


def in_parallel(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """The function's results in the items' order, as many made at once; errors are raised in their turn.

    Worth it where the function spends its time outside of Python, as in decoding pictures.
    """
    making: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="made") as pool:
        for item in items:
            making.append(pool.submit(function, item))
            if len(making) > threads:
                yield making.popleft().result()
        while making:
            yield making.popleft().result()
