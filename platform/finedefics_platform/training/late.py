"""A step's figures, read once the next step is under way: training never waits for its device to tell them.

Numbers of a CUDA device leave for the host as soon as they are made, into pinned memory, and are read a step
later, when the device is busy with what comes next. That is also all that holds the program back: it runs no
more than a step ahead of its device.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from finedefics.errors import FinedeficsError

Figures = Mapping[str, Tensor | float]


class Sent:
    """Scalars on their way from the device to the host."""

    def __init__(self, figures: Figures) -> None:
        self._known = dict(figures)
        self._names = [name for name, value in figures.items() if isinstance(value, Tensor)]
        scalars = [v.detach().double().reshape(()) for v in figures.values() if isinstance(v, Tensor)]
        self._numbers = torch.stack(scalars) if scalars else torch.empty(0)
        self._arrived = None
        if self._numbers.is_cuda:
            self._numbers = self._numbers.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> dict[str, float]:
        """Every figure, in the order given; waits until they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers = dict(zip(self._names, self._numbers.tolist(), strict=True))
        return {name: numbers.get(name, value) for name, value in self._known.items()}


@dataclass(frozen=True)
class _Step:
    done: int
    terms: Sent
    metrics: Sent | None


class LateFigures:
    """The figures of a stage's steps, each told after the step that follows it was started.

    Args:
        stage: its name, for errors.
        tell: gets the steps done and the metrics of every step that is to be recorded, in order.
    """

    def __init__(self, stage: str, tell: Callable[[int, dict[str, float]], None]) -> None:
        self._stage, self._tell = stage, tell
        self._waiting: _Step | None = None

    def add(self, done: int, terms: Figures, metrics: Figures | None) -> None:
        """Take a step's figures, and tell those of the step before.

        Args:
            done: steps done with this one.
            terms: of the objective; they must be finite.
            metrics: to be told; None where the step is not recorded.

        Raises:
            FinedeficsError: a term of the step before is not finite.
        """
        step = _Step(done, Sent(terms), None if metrics is None else Sent(metrics))
        self.settle()
        self._waiting = step

    def settle(self) -> None:
        """Tell what is not told yet: before weights are saved or judged, and at the end of the stage.

        Raises:
            FinedeficsError: a term is not finite. Every rank has the same terms, so every rank stops there.
        """
        step, self._waiting = self._waiting, None
        if step is None:
            return
        for name, value in step.terms.read().items():
            if not math.isfinite(value):
                raise FinedeficsError(
                    f"term {name} is {value} at step {step.done}",
                    place=f"stage {self._stage}",
                    cure="lower its learning_rate or gradient_clip, or look at `finedefics data inspect`",
                )
        if step.metrics is not None:
            found = step.metrics.read()
            # a share of nothing is no number, and not told
            unknown = {n for n, v in found.items() if n.startswith("coverage_") and math.isnan(v)}
            self._tell(step.done, {name: value for name, value in found.items() if name not in unknown})

    @contextmanager
    def earlier_first(self) -> Iterator[None]:
        """Where the block fails, a failure of the step before is the one that is raised: it is the cause."""
        try:
            yield
        except FinedeficsError:
            self.settle()
            raise
