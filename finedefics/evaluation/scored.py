"""Figures of others' replies: what each one means by both parses, how many are right, what must be known."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finedefics.errors import wrong_use
from finedefics.evaluation.chance import is_near_chance
from finedefics.evaluation.clustered import ClusteredEstimate, clustered_interval
from finedefics.evaluation.predictions import Prediction, PredictionFile
from finedefics.evaluation.schema import ITEMS
from finedefics.evaluation.statistics import Estimate, better_than_chance, interval
from finedefics.scoring.parsing import parse_letter, parse_letter_foci

STRICT, FOCI = "strict", "foci"
PARSES: Mapping[str, Callable[[str, str], int | None]] = {STRICT: parse_letter, FOCI: parse_letter_foci}
ANSWERS = {STRICT: "letters", FOCI: "letters_foci"}  # what the same way of asking is called here
_DIFFERS = 5e-4  # a twentieth of a point: less is rounding
_SAME_PLACE = 20  # questions; the truth in one place in so many is no shuffle


@dataclass(frozen=True)
class Scored:
    """A file's replies, read by one parse.

    Attributes:
        chosen: [items] position of the option that each reply means; -1 where it means none.
        correct: [items].
    """

    file: PredictionFile
    parse: str
    chosen: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @property
    def items(self) -> tuple[Prediction, ...]:
        """The questions with their replies."""
        return self.file.items

    @property
    def accuracy(self) -> Estimate:
        """With the interval by picture; a reply that means no option is wrong."""
        return interval(self.correct)

    @property
    def clustered(self) -> ClusteredEstimate:
        """The same with an interval for other categories too."""
        return clustered_interval(self.correct, [item.truth for item in self.items])

    @property
    def unparsed(self) -> int:
        """Replies that mean no option."""
        return int((self.chosen < 0).sum())

    @property
    def chance(self) -> float:
        """Share that guessing gets right."""
        return float(np.mean([1 / len(item.options) for item in self.items]))

    @property
    def near_chance(self) -> bool:
        """Whether guessing reaches the accuracy."""
        return is_near_chance(self.accuracy.low, self.chance)

    def told(self) -> dict[str, Any]:
        """All figures, for a machine."""
        found, wide = self.accuracy, self.clustered
        letters = Counter(self.file.letters[place] for place in self.chosen.tolist() if place >= 0)
        truths = Counter(self.file.letters[item.options.index(item.truth)] for item in self.items)
        return {
            "file": self.file.name,
            "data": self.file.data,
            "parse": self.parse,
            "accuracy": found.mean,
            "n": found.n,
            "unparsed": self.unparsed,
            "unparsed_share": self.unparsed / found.n,
            "ci95": [found.low, found.high],
            "ci95_clustered": None if wide.low is None else [wide.low, wide.high],
            "categories": wide.clusters,
            "near_chance": self.near_chance,
            "chance": self.chance,
            "p_chance": better_than_chance(self.correct, self.chance),
            "reported": self.file.reported,
            "letters": dict(sorted(letters.items())),
            "truths": dict(sorted(truths.items())),
        }


def score(file: PredictionFile, parse: str = STRICT) -> Scored:
    """Read every reply of a file.

    Args:
        parse: ``strict`` (`finedefics.scoring.parsing.parse_letter`: "Answer: B" is B) or ``foci``, the FOCI
            benchmark's own, for figures comparable with published ones ("Answer: B" is A).

    Raises:
        FinedeficsError: there is no such parse (exit code 2).
    """
    if parse not in PARSES:
        raise wrong_use("there is no such parse", place=parse, cure=f"choose one of: {', '.join(PARSES)}")
    chosen = [_chosen(item, file.letters, PARSES[parse]) for item in file.items]
    correct = [
        place >= 0 and item.options[place] == item.truth
        for place, item in zip(chosen, file.items, strict=True)
    ]
    return Scored(file, parse, np.array(chosen), np.array(correct, bool))


def _chosen(item: Prediction, letters: str, read: Callable[[str, str], int | None]) -> int:
    if item.reply is None:
        return -1 if item.predicted is None else item.options.index(item.predicted)
    place = read(item.reply, letters[: len(item.options)])
    return -1 if place is None else place


def warnings(scored: Scored) -> list[str]:
    """What a reader must know of a file's figures: guessing, another accuracy in it, options not shuffled."""
    found, chance, file = scored.accuracy, scored.chance, scored.file
    numbers = f"{100 * found.mean:.2f} % [{100 * found.low:.2f}, {100 * found.high:.2f}] of {found.n}"
    said = []
    if scored.near_chance:
        below = found.high < chance
        said.append(
            f"{file.name}: near chance: {numbers} is {'below' if below else 'not shown to be better than'} "
            f"guessing ({100 * chance:.2f} %): "
            + (
                "were pictures or labels mixed up, such as train and test pictures of one file name?"
                if below
                else "the model may know nothing of this, or pictures and labels were mixed up"
            )
        )
    if file.reported is not None and abs(file.reported - found.mean) > _DIFFERS:
        said.append(
            f"{file.name}: the file says {100 * file.reported:.2f} %, and its replies give "
            f"{100 * found.mean:.2f} % by the {scored.parse} parse"
        )
    places = {item.options.index(item.truth) for item in scored.items}
    if len(places) == 1 and found.n >= _SAME_PLACE:
        letter = file.letters[places.pop()]
        said.append(
            f"{file.name}: the right option is {letter} in all {found.n} questions: who always says {letter} "
            "is always right, so the accuracy means nothing unless the options were shuffled after that"
        )
    return said


def items_table(scored: Scored, ids: Sequence[str] | None = None) -> pa.Table:
    """The replies as the item table that an evaluation has, to be compared with one.

    Categories are called by their names, and all are of the group ``labelled``: the file does not say which
    ones had labels.

    Args:
        ids: [items] sample ids; default: the pictures' paths.
    """
    names = ids or [item.image for item in scored.items]
    return pa.Table.from_pylist(
        [
            {
                "sample_id": name,
                "category_id": item.truth,
                "group": "labelled",
                "answer": ANSWERS[scored.parse],
                "scope": "options",
                "predicted": item.options[place] if place >= 0 else None,
                "correct": correct,
                "description": item.reply,
                "options": list(item.options),
                "position": item.options.index(item.truth),
                "reply": item.reply,
                "rotation": 0,
            }
            for name, item, place, correct in zip(
                names, scored.items, scored.chosen.tolist(), scored.correct.tolist(), strict=True
            )
        ],
        ITEMS,
    )
