"""Ray Tune's trials as events of a `Progress`. Imported only where a search runs: it imports Ray."""

from collections.abc import Callable
from typing import Any

from ray import tune

from finedefics_platform.base.progress import SILENT, Progress

SHOWN = ("step", "loss")


class TrialWatch(tune.Callback):
    """Tells of every trial's results and counts those that ended.

    Tune stores its callbacks beside the search state; a restored one is silent, as whoever watched is gone.
    """

    def __init__(self, progress: Progress, advance: Callable[[int], None]) -> None:
        self._progress, self._advance = progress, advance

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """A validation check of a trial."""
        shown = {k: v for k, v in result.items() if k.startswith("val_") or k in SHOWN}
        self._progress.event("trial", trial=trial.trial_id, config=trial.config, **shown)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that ran to its end or was stopped."""
        self._advance(1)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial that failed."""
        self._advance(1)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(SILENT, lambda count: None)  # type: ignore[misc]
