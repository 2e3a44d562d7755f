"""When an answer is too unsure to be given: a threshold on its score, chosen on validation pictures.

The score of an answer is what it gives its best category (`Recogniser.recognise`). It says how sure an answer
is only where it is graded: a generated answer has none, and no threshold. The rule is that of detecting what
is foreign: the threshold is the highest at which the wanted share of validation pictures, all of known
categories, is still answered. Accuracy plays no part in it, so labelled pictures are all it asks for; and no
score depends on what other categories there are, so one that is added later changes no threshold.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError

UNKNOWN_FILE = "unknown.json"  # in the folder of a category index
TARGET = 0.95  # share of known pictures that are to be answered
RULE = "the highest threshold at which this share of the pictures is answered"


@dataclass(frozen=True)
class Unknown:
    """A threshold for each answer, and what they were chosen on.

    Attributes:
        thresholds: by answer; a picture whose best score is lower shows something unknown.
        dataset, split: whose labelled pictures decided.
        pictures: how many.
        target: the share of them that is answered at least.
    """

    thresholds: Mapping[str, float]
    dataset: str
    split: str
    pictures: int
    target: float = TARGET

    @staticmethod
    def choose(
        scores: Mapping[str, npt.NDArray[np.floating]], *, dataset: str, split: str, target: float = TARGET
    ) -> "Unknown":
        """The thresholds of answers.

        Args:
            scores: by answer the best score of each picture, [pictures] with at least one; -inf where nothing
                was answered.
            dataset, split: recorded.
            target: share of the pictures to be answered, in (0, 1].
        """
        assert 0 < target <= 1, target
        counts = {len(each) for each in scores.values()}
        assert len(counts) == 1, "every answer was given to the same pictures"
        (pictures,) = counts
        thresholds = {answer: _threshold(each, target) for answer, each in scores.items()}
        return Unknown(thresholds, dataset, split, pictures, target)

    def is_unknown(self, answer: str, score: float) -> bool:
        """Whether a picture shows something unknown, by the score of its best category.

        Raises:
            FinedeficsError: no threshold was chosen for this answer.
        """
        if answer not in self.thresholds:
            there = ", ".join(sorted(self.thresholds)) or "none"
            raise FinedeficsError(
                "no threshold was chosen for this answer, so nothing is unknown to it",
                place=f"answer `{answer}`",
                cure=f"use one that has one ({there}), or evaluate the model with "
                f"`--answers {answer} --unknown on`",
            )
        return score < self.thresholds[answer]

    def save(self, folder: Path) -> None:
        """Write ``unknown.json`` into the folder of a category index."""
        told = {**asdict(self), "rule": RULE}
        (folder / UNKNOWN_FILE).write_text(json.dumps(told, indent=1) + "\n")

    @staticmethod
    def load(folder: Path) -> "Unknown":
        """Read what `save` wrote; FinedeficsError where nothing was chosen for this index."""
        found = Unknown.find(folder)
        if found is None:
            raise FinedeficsError(
                "no threshold was chosen for this model, so nothing is unknown to it",
                place=str(folder),
                cure="evaluate it on a data set with labelled pictures in val: `finedefics evaluate MODEL "
                "--data DATASET --register NAME`",
            )
        return found

    @staticmethod
    def find(folder: Path) -> "Unknown | None":
        """Read what `save` wrote, if it did."""
        file = folder / UNKNOWN_FILE
        if not file.is_file():
            return None
        told = json.loads(file.read_text())
        told.pop("rule")
        return Unknown(**told)


def _threshold(scores: npt.NDArray[np.floating], target: float) -> float:
    refused = math.floor((1 - target) * len(scores) + 1e-9)
    return float(np.sort(scores)[refused])
