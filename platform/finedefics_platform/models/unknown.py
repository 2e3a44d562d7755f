"""The answer "unknown": below the threshold that an evaluation stored with a model's category index."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError

Ranking = list[tuple[str, str, float]]
Told = list[tuple[str | None, str, float]]
UNKNOWN = (None, "unknown")  # no category has this id


@dataclass(frozen=True)
class Threshold:
    """A picture whose best score by an answer is lower than ``value`` shows something unknown."""

    answer: str
    value: float

    def is_unknown(self, ranking: Ranking) -> bool:
        """Whether the best of a ranking (id, name, score) is too unsure; no ranking is unknown too."""
        return not ranking or ranking[0][2] < self.value

    def applied(self, top: int) -> Callable[[Ranking], Told]:
        """A function that puts "unknown", with the best score, before what it is likest to."""

        def told(ranking: Ranking) -> Told:
            if not self.is_unknown(ranking):
                return [*ranking]
            score = ranking[0][2] if ranking else float("-inf")
            return [(*UNKNOWN, score), *ranking][:top]

        return told


def threshold_of(reference: str, index: Path | None, answer: str) -> Threshold:
    """The threshold of an answer, stored with the model's category index.

    Raises:
        FinedeficsError: none was chosen, or none for this answer.
    """
    from finedefics.scoring.unknown import Unknown

    if index is None:
        raise FinedeficsError(
            "the model has no category index, so no threshold for `unknown` was stored with it",
            place=reference,
            cure=f"evaluate it: `finedefics evaluate {reference} --data DATASET`, or leave --unknown out",
        )
    try:
        thresholds = Unknown.load(index).thresholds
    except FinedeficsError as error:
        raise FinedeficsError(error.thing, place=reference, cure=error.cure) from error
    if answer not in thresholds:
        there = ", ".join(sorted(thresholds)) or "none"
        raise FinedeficsError(
            f"no threshold was chosen for the answer {answer}",
            place=reference,
            cure=f"use --answer with one that has one ({there}), or leave --unknown out",
        )
    return Threshold(answer, thresholds[answer])
