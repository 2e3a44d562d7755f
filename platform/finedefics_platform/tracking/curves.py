"""Which points a run's curves have already, so that an event that is told again is recorded once.

A driver that was killed goes on from its last checkpoint: it tells its log again and repeats some steps.
MLflow keeps every point it is sent, and none can be taken back.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BITS = 1024


class Curves:
    """What the store has of each (run, metric), asked for once and kept up to date after that."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client
        self._steps: dict[str, dict[str, _Steps]] = {}
        self._new: set[str] = set()

    def opened(self, run_id: str) -> None:
        """A run was just made: the store has nothing of it."""
        self._new.add(run_id)

    def missing(self, run_id: str, step: int, values: dict[str, float]) -> Iterator[tuple[str, float]]:
        """The values whose metric has no point at this step; they count as recorded from now on."""
        known = self._steps.setdefault(run_id, {})
        for key, value in values.items():
            if key not in known:
                known[key] = _Steps() if run_id in self._new else self._asked(run_id, key)
            if known[key].add(step):
                yield key, value

    def forget(self, run_id: str) -> None:
        """Something went wrong on the way: only the store knows what it has."""
        self._steps.pop(run_id, None)
        self._new.discard(run_id)

    def _asked(self, run_id: str, key: str) -> "_Steps":
        steps = _Steps()
        for metric in self._client.get_metric_history(run_id, key):
            steps.add(metric.step)
        return steps


class _Steps:
    """A set of step numbers, a bit each: a long run has millions of points."""

    def __init__(self) -> None:
        self._words: dict[int, int] = {}

    def add(self, step: int) -> bool:
        """Put a number in; False if it was there."""
        word, bit = divmod(step, _BITS)
        before = self._words.get(word, 0)
        self._words[word] = before | 1 << bit
        return not before >> bit & 1
