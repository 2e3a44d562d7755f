"""The labeller "agreement": what a tuned model sees and what another reads, only where both say the same."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finedefics.errors import wrong_use
from finedefics.labellers.alignment import Aligned
from finedefics.labellers.contract import LABELLERS, Given, Inferred, Unnamed
from finedefics.labellers.reading import Reading

BETWEEN = ","  # the two models of an argument


@LABELLERS.register("agreement")
class Agreement:
    """Alignment and reading; probability and margin are the smaller of both.

    The argument names the tuned model and the one that reads, ``TUNED,BASE``.
    """

    reads = ("description", "image")
    splits = ("val",)

    def __init__(self, given: Given) -> None:
        tuned, _, base = (given.argument or "").partition(BETWEEN)
        if not tuned or not base:
            raise wrong_use(
                "it does not say which models",
                place="labeller 'agreement'",
                cure="write agreement:TUNED,BASE",
            )
        self.sees: Any = Aligned(replace(given, argument=tuned))
        self.reader: Any = Reading(replace(given, argument=base))

    @property
    def labeller_id(self) -> str:
        """Of both parts."""
        return f"agreement:{self.sees.labeller_id}+{self.reader.labeller_id}"

    def __call__(self, pictures: Sequence[Unnamed]) -> Inferred:
        """Costs what its parts cost."""
        return agreed(self.sees(pictures), self.reader(pictures))


def agreed(one: Inferred, other: Inferred) -> Inferred:
    """What both infer; nothing where they differ."""
    same = one.positions == other.positions
    return Inferred(
        np.where(same, one.positions, -1).astype(np.int32),
        np.where(same, np.minimum(one.probability, other.probability), 0).astype(np.float32),
        np.where(same, np.minimum(one.margin, other.margin), 0).astype(np.float32),
    )
