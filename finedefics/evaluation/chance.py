"""The near-chance alarm: accuracies that guessing reaches as well, each with its numbers.

A model that knows nothing gives such figures, and so do pictures that were mixed up with others of the same
file name, labels in another order, or options that were parsed wrongly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from finedefics.evaluation.statistics import interval
from finedefics.evaluation.tables import GROUPS, Items

_AMONG = {"all": "all categories", "options": "options"}


@dataclass(frozen=True)
class Guess:
    """An accuracy that is not shown to be better than guessing; fractions.

    Attributes:
        group: ``labelled`` or ``new`` categories; None for all together.
        chance: share that guessing gets right.
    """

    answer: str
    scope: str
    group: str | None
    accuracy: float
    low: float
    high: float
    n: int
    chance: float

    def __str__(self) -> str:
        group = f" ({self.group})" if self.group else ""
        found = f"{100 * self.accuracy:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        below = ", below chance" if self.high < self.chance else ""
        return f"{self.answer}{group} {found} of {self.n}{below}"


def is_near_chance(low: float, chance: float) -> bool:
    """Whether an accuracy's 95 % interval, by picture, reaches down to chance.

    By picture, and not by category: guesses are independent, whatever the pictures show. One that lies below
    chance altogether is no better, and tells of mixed-up pictures or labels.
    """
    return low <= chance


def guesses(items: Items, chance: Mapping[str, float]) -> list[Guess]:
    """The answers whose accuracy on all items together guessing reaches.

    Args:
        items: one row an item, answer and scope; columns answer, scope and correct.
        chance: by scope, the share that guessing gets right; a scope without is not judged.
    """
    names = ["answer", "scope", "correct"]
    frame: pd.DataFrame = items.select(names).to_pandas() if isinstance(items, pa.Table) else items[names]
    found = []
    for (answer, scope), correct in frame.groupby(["answer", "scope"])["correct"]:
        if scope in chance:
            own = interval(correct.to_numpy())
            if is_near_chance(own.low, chance[scope]):
                figures = (own.mean, own.low, own.high, own.n)
                found.append(Guess(str(answer), str(scope), None, *figures, chance[scope]))
    return found


def near_chance(items: Items, chance: Mapping[str, float]) -> list[str]:
    """For a summary: the answers that guessing reaches in some scope, sorted."""
    return sorted({one.answer for one in guesses(items, chance)})


def guesses_in(table: Mapping[str, Mapping[str, Any]], scope: str, chance: float) -> list[Guess]:
    """The cells of one arm's `accuracy_table` that guessing reaches, labelled and new categories apart."""
    return [
        Guess(answer, scope, group, cell["accuracy"], cell["low"], cell["high"], cell["n"], chance)
        for answer, cells in table.items()
        for group in GROUPS
        if (cell := cells.get(group)) and is_near_chance(cell["low"], chance)
    ]


def warning(found: Iterable[Guess]) -> str | None:
    """One sentence that names the numbers of guesses of one scope; None where there are none."""
    several = list(found)
    if not several:
        return None
    among, share = _AMONG.get(several[0].scope, several[0].scope), f"{100 * several[0].chance:.1f} %"
    said = ", ".join(map(str, several))
    return f"not shown to be better than guessing among {among} ({share}): {said}"
