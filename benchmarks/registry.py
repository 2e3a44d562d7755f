"""A benchmark returns one or more results; a result is a ratio or a count, with its aim."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Result:
    """One figure.

    Attributes:
        value: a ratio of two things timed in turn in one run (median over repeats), or a count that does not
            depend on the machine.
        unit: what the value counts.
        better: the direction in which it improves.
        aim: what it should reach.
        spread: lowest and highest over the repeats.
        how: one line on what was compared, and where the time went.
    """

    value: float
    unit: str
    better: Literal["higher", "lower"]
    aim: float
    spread: tuple[float, float]
    how: str

    @property
    def reached(self) -> bool:
        """Whether the aim is met."""
        return self.value >= self.aim if self.better == "higher" else self.value <= self.aim


Benchmark = Callable[[], Mapping[str, Result]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(*names: str) -> Callable[[Benchmark], Benchmark]:
    """Decorator: the function measures all of these names in one run."""

    def add(function: Benchmark) -> Benchmark:
        for name in names:
            if name in BENCHMARKS:
                raise ValueError(f"benchmark {name!r} is registered twice")
            BENCHMARKS[name] = function
        return function

    return add


def in_turn(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every contestant, each timed once a round so that a busy moment hits all alike.

    The first round warms up and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(repeats + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def speedup(slow: Sequence[float], fast: Sequence[float], *, aim: float, how: str) -> Result:
    """How many times faster: the median over rounds of the ratio within a round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    spread = (min(ratios), max(ratios))
    return Result(statistics.median(ratios), "times", "higher", aim, spread, how)
