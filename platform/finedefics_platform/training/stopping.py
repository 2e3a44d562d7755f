"""A run that is asked to end saves first where it stands, all of its workers after the same step.

The driver leaves a request in the run's storage. Rank 0 looks for it beside its steps and names a step a few
ahead; the others read that from the process group's own store. Nothing is gathered, no device is waited for.
"""

import threading
import time
from types import TracebackType

from torch.distributed import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location

# Ranks wait for each other in every step, and none runs more than one ahead of its device: when rank 0 names
# a step so far ahead, no rank is there yet.
STEPS_AHEAD = 4
LOOK_SECONDS = 1.0  # between two looks for the request
END_SECONDS = 120.0  # for the driver to end the workers once they have saved
_AT = "at"


def request_of(training: Location, attempt: int) -> Location:
    """Where the driver of an attempt leaves its request."""
    return training / f"stop-{attempt:04}"


class StopWatch:
    """One rank's watch for the driver's request; the same answer after the same step on every rank.

    Args:
        request: of the attempt, see `request_of`.
        rank: rank 0 looks into the storage, in a thread.
        saves: whether there are checkpoints; without, nobody looks.
        store: of the process group; by default that of the group this process is in.
    """

    def __init__(
        self, request: Location, rank: int, *, saves: bool = True, store: Store | None = None
    ) -> None:
        self._request, self._rank, self._saves = request, rank, saves
        self._store = PrefixStore("finedefics-stop", _get_default_store() if store is None else store)
        self._asked, self._closed = threading.Event(), threading.Event()
        self._at: int | None = None

    def __enter__(self) -> "StopWatch":
        if self._saves and self._rank == 0:
            threading.Thread(target=self._look, name="stop request", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def ends_after(self, total_step: int) -> bool:
        """Whether the run is to be saved and ended, now that so many of its steps are done."""
        if self._saves and self._at is None:
            if self._rank == 0:
                if self._asked.is_set():
                    self._at = total_step + STEPS_AHEAD
                    self._store.set(_AT, str(self._at))
            elif self._store.check([_AT]):
                self._at = int(self._store.get(_AT))
        return self._at is not None and total_step >= self._at

    def wait_for_the_end(self) -> None:
        """After saving: the driver ends the workers once it sees the checkpoint.

        Raises:
            FinedeficsError: it did not, which is an end as well.
        """
        time.sleep(END_SECONDS)
        raise FinedeficsError(
            "it was asked to stop, and nobody ended it", place="training", cure="run again: it goes on"
        )

    def _look(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                if self._request.is_file():
                    self._asked.set()
                    return
            except FinedeficsError:  # a store that is away for a moment
                continue
