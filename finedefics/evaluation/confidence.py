"""How far a probability can be believed: precision and coverage by threshold, and calibration."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finedefics.evaluation.statistics import interval

FEWEST = 20  # pictures whose precision says anything: of 20 right ones the 95 % interval begins at 84 %
_POINTS = 20  # of a curve
_BINS = 10  # of the calibration error


@dataclass(frozen=True)
class Point:
    """What a threshold does: ``pictures`` are accepted, of which ``precision`` are named rightly.

    Attributes:
        coverage: accepted pictures as a share of all.
        low, high: 95 % Wilson interval of the precision.
    """

    threshold: float
    precision: float
    coverage: float
    pictures: int
    low: float
    high: float


@dataclass(frozen=True)
class Confidence:
    """Answers with probabilities, judged by what is known.

    Attributes:
        pictures: all, whether or not one was answered.
        answered: those for which a category was named.
        accuracy: share of all pictures that were named rightly.
        ece: expected calibration error of the answered ones, in ten bins of equal width; None where none is.
        curve: at most twenty thresholds, from the most accepted pictures to the fewest.
        chosen: the lowest threshold that reaches the wanted precision; None where none does.
    """

    pictures: int
    answered: int
    accuracy: float
    ece: float | None
    curve: tuple[Point, ...]
    chosen: Point | None


def judge(
    correct: npt.NDArray[np.bool_], probability: npt.NDArray[np.float32], *, wanted: float
) -> Confidence:
    """Judge answers, each with its probability.

    Args:
        correct: [pictures]; an answer that was not given is not correct.
        probability: [pictures]; -1 where no answer was given.
        wanted: precision that the chosen threshold must reach, on `FEWEST` pictures or more.
    """
    order = np.argsort(-probability[probability >= 0], kind="stable")
    sure = probability[probability >= 0][order]
    right = correct[probability >= 0][order]
    if not len(sure):
        return Confidence(len(correct), 0, 0.0, None, (), None)
    # a threshold takes all pictures of equal probability, or none
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
    precision = np.cumsum(right)[ends] / (ends + 1)
    able = np.flatnonzero((precision >= wanted) & (ends + 1 >= FEWEST))
    shown = np.unique(np.linspace(0, len(ends) - 1, min(_POINTS, len(ends))).round().astype(int))

    def point(place: int) -> Point:
        count = int(ends[place]) + 1
        found = interval(right[:count])
        share = count / len(correct)
        return Point(float(sure[count - 1]), found.mean, share, count, found.low, found.high)

    return Confidence(
        pictures=len(correct),
        answered=len(sure),
        accuracy=float(right.sum() / len(correct)),
        ece=calibration_error(right, sure),
        curve=tuple(point(place) for place in shown[::-1]),
        chosen=point(int(able[-1])) if len(able) else None,
    )


def calibration_error(correct: npt.NDArray[np.bool_], probability: npt.NDArray[np.float32]) -> float:
    """Expected calibration error: the mean over pictures of |accuracy - mean probability| of their bin."""
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gaps = [
        (bins == number).mean() * abs(correct[bins == number].mean() - probability[bins == number].mean())
        for number in range(_BINS)
        if (bins == number).any()
    ]
    return float(sum(gaps))
