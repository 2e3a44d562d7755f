"""How trials stand in MLflow: each an ordinary run, under the run of its search."""

from collections.abc import Mapping
from typing import Any

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.tracker import Tracker, environment


class TrialTracker(Tracker):
    """Records the training run of one trial, from the trial's own process, as a child of the search's run.

    Args:
        search_run: id of the search's run.
        tags: of the trial, beside those of every run.
    """

    def __init__(
        self, workspace: Workspace, experiment_name: str, search_run: str, tags: Mapping[str, Any]
    ) -> None:
        super().__init__(workspace, experiment_name)
        self._search_run, self._tags = search_run, tags
        self._run: str | None = None

    def parent(
        self,
        name: str,
        *,
        key: str,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        fresh: bool = False,
        time: float | None = None,
    ) -> str:
        """Open the run of the trial's training under the search: its key is its name there."""
        told = {**(tags or {}), "kind": "trial", "key": key, **self._tags}
        self._run = self.child(
            self._search_run, key, params=params, tags=told, time=time, texts=environment()
        )
        return self._run

    def stopped(self) -> None:
        """Say that it was the scheduler who ended the trial."""
        if self._run is not None:
            self.tags(self._run, {"stopped_early": True})
            self.flush()
