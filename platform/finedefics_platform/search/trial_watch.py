"""Ray Tune's trials as events of a `Progress`. Imported only where a search runs: it imports Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.util.metrics import Gauge

from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.search.document import Search
from finedefics_platform.search.trial import RUN, STEP

_SECONDS_TO_STOP = 180


@dataclass
class _Watcher:
    progress: Progress = SILENT
    advance: Callable[[int], None] = lambda count: None
    metric: str = ""
    gauges: "_Gauges | None" = None


class _Gauges:
    """A search's progress as Ray metrics, for Prometheus; Ray writes ``ray_`` before the names."""

    def __init__(self, search: Search) -> None:
        self._labels = {"search": search.name}
        self._better = min if search.mode == "min" else max
        self._trials = Gauge("finedefics_search_trials", "Trials by state", ("search", "state"))
        self._best = Gauge("finedefics_search_best", "Best value of the search's metric so far", ("search",))
        self._ended: dict[str, int] = {}
        self._found: float | None = None
        self._set("asked", search.trials)

    def ended(self, state: str) -> None:
        self._ended[state] = self._ended.get(state, 0) + 1
        self._set(state, self._ended[state])

    def measured(self, value: float) -> None:
        self._found = value if self._found is None else self._better(self._found, value)
        self._best.set(self._found, self._labels)

    def _set(self, state: str, count: int) -> None:
        self._trials.set(count, self._labels | {"state": state})


# Tune stores its callbacks beside the search's state, so whoever watches is no part of them.
_watcher = _Watcher()


@contextmanager
def watching(search: Search, progress: Progress, advance: Callable[[int], None]) -> Iterator[None]:
    """Who is told of the trials of the search that runs in this process."""
    global _watcher
    before, _watcher = _watcher, _Watcher(progress, advance, search.metric, _Gauges(search))
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
        if _watcher.gauges is not None and _watcher.metric in result:
            _watcher.gauges.measured(result[_watcher.metric])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that ran to its end or was stopped.

        Tune waits seconds for the last actors of a search and then kills them, and workers that such an actor
        started would keep their place in the cluster: so training is ended here, before Tune turns away.
        """
        if (actor := trial.temporary_state.ray_actor) is not None and RUN not in trial.last_result:
            ray.wait([actor.end.remote()], timeout=_SECONDS_TO_STOP)
        self._ended("finished" if RUN in trial.last_result else "stopped")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that failed."""
        self._ended("failed")

    def _ended(self, state: str) -> None:
        _watcher.advance(1)
        if _watcher.gauges is not None:
            _watcher.gauges.ended(state)
