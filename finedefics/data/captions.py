"""What is said of a drawn picture: all that is visible, a part of that, in other words, or of another bird.

A caption is a function of a seed of its own: whatever is asked of captions, the pictures stay as they are.
And it grows with the settings: with more attributes it tells what it told with fewer, and a picture whose
caption is wrong at one share is wrong at every larger one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finedefics.data.birds import ATTRIBUTE_VALUES, describe
from finedefics.data.paraphrases import paraphrased

Seen = Mapping[str, str]  # attribute -> value, of those that are visible


@dataclass(frozen=True)
class Captions:
    """How captions are made.

    Attributes:
        attributes: so many of the visible ones are told (all where fewer are visible); None tells all.
        wrong: share that tells of another species of the family.
        paraphrased: values in one of their wordings each.
    """

    attributes: int | None = None
    wrong: float = 0.0
    paraphrased: bool = False

    def of(
        self, seen: Seen, kin: Sequence[Mapping[str, str]], seed: Sequence[int]
    ) -> tuple[str, dict[str, str]]:
        """A caption and the attributes it tells.

        Args:
            seen: what is visible in the picture.
            kin: all attributes of each other species of the family; with none, a caption is never wrong.
            seed: of the picture.
        """
        told = dict(seen)
        rng = np.random.default_rng([*seed, 11])
        chance, other = rng.random(), rng.random()
        if kin and chance < self.wrong:
            sibling = kin[int(other * len(kin))]
            told = {name: sibling[name] for name in seen}
        told = some(told, self.attributes, [*seed, 12])
        if not self.paraphrased:
            return describe(told), told
        worded = paraphrased(told, np.random.default_rng([*seed, 13]))
        # "a red crown" and "crown: red" name their attribute themselves
        said = (value if name in value else f"{value} {name}" for name, value in worded.items())
        return ", ".join(said), worded


def some(seen: Seen, count: int | None, seed: Sequence[int]) -> dict[str, str]:
    """So many of the attributes, in the order of a description; all of them for None."""
    if count is None:
        return dict(seen)
    order = np.random.default_rng(list(seed)).permutation(list(ATTRIBUTE_VALUES))
    kept = set([name for name in order if name in seen][:count])
    return {name: value for name, value in seen.items() if name in kept}
