"""Ray Tune's trials as events of a `Progress`. Imported only where a search runs: it imports Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.search.trial import RUN, STEP

_SECONDS_TO_STOP = 180


@dataclass
class _Watcher:
    progress: Progress = SILENT
    advance: Callable[[int], None] = lambda count: None
    metric: str = ""


# Tune stores its callbacks beside the search's state, so whoever watches is no part of them.
_watcher = _Watcher()


@contextmanager
def watching(progress: Progress, advance: Callable[[int], None], metric: str) -> Iterator[None]:
    """Who is told of the trials of the search that runs in this process."""
    global _watcher
    before, _watcher = _watcher, _Watcher(progress, advance, metric)
    try:
        yield
    finally:
        _watcher = before


class TrialWatch(tune.Callback):
    """Tells of every trial's results and ends, and sees to it that a stopped one leaves nothing running."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """A validation check of a trial."""
        shown = {k: v for k, v in result.items() if k.startswith("val_") or k in (STEP, RUN, _watcher.metric)}
        _watcher.progress.event("trial", trial=trial.trial_id, config=trial.config, **shown)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that ran to its end or was stopped.

        Tune waits seconds for the last actors of a search and then kills them, and workers that such an actor
        started would keep their place in the cluster: so training is ended here, before Tune turns away.
        """
        if (actor := trial.temporary_state.ray_actor) is not None and RUN not in trial.last_result:
            ray.wait([actor.end.remote()], timeout=_SECONDS_TO_STOP)
        _watcher.advance(1)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that failed."""
        _watcher.advance(1)
