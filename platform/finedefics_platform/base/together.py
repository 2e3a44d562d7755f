"""Several works at a time in threads of this process, ended together: what they start runs elsewhere."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import TypeVar

Stop = threading.Event
Key = TypeVar("Key")
Result = TypeVar("Result")


def together(works: Mapping[Key, Callable[[Stop], Result]], at_once: int) -> dict[Key, Result]:
    """Do the works, at most so many at a time, and return what each returned, in their order.

    Args:
        works: each is given an event that is set once it had better end: another failed, or the caller was
            interrupted. Those that have not begun by then never do.

    Raises:
        BaseException: of the first work that failed, or an interrupt, once those that ran have ended.
    """
    stop = Stop()

    def guarded(work: Callable[[Stop], Result]) -> Result:
        if stop.is_set():
            raise CancelledError
        try:
            return work(stop)
        except BaseException:
            stop.set()  # before this thread takes the next one
            raise

    with ThreadPoolExecutor(max(1, at_once), thread_name_prefix="together") as pool:
        begun = {key: pool.submit(guarded, work) for key, work in works.items()}
        try:
            for ended in as_completed(begun.values()):
                if (error := ended.exception()) is not None and not isinstance(error, CancelledError):
                    raise error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {key: future.result() for key, future in begun.items()}
