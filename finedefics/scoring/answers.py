"""What a strategy takes and gives, and the registry it is found in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finedefics.registry import Registry
from finedefics.scoring.asked import AskedModel, Pictures


@dataclass(frozen=True)
class Answered:
    """Scores [pictures, categories] (higher is likelier, -inf: not chosen) and what they cost.

    Attributes:
        forwarded_tokens: positions the language model computed, padding left out. Generated tokens count, all
            but the last of a text: nothing is asked after it.
        generated_tokens: those that were generated one after the other.
        texts: the model's own words, one a picture, where the strategy writes any.
        seconds: that the answer takes alone, decoding and encoding included: work that several answers share
            counts for each of them. `Recogniser` fills it in.
    """

    scores: Tensor
    forwarded_tokens: int
    generated_tokens: int = 0
    texts: tuple[str, ...] = ()
    seconds: float = 0.0


class Answer(Protocol):
    """A strategy. ``asks_options``: it shows the options to the model, so it answers among them only.

    One may have ``graded = False`` (`is_graded`) where its scores say nothing but what was chosen.
    """

    @property
    def asks_options(self) -> bool:
        """Whether the question itself lists what may be answered."""
        ...

    def __call__(self, model: AskedModel, pictures: Pictures) -> Answered:
        """Score the categories of ``model`` for every picture."""
        ...


ANSWERS: Registry[Answer] = Registry("answer", package="finedefics.scoring", group="finedefics.answers")


def is_graded(answer: str) -> bool:
    """Whether the score of what an answer chose says how sure it is: not so of a reply that is read."""
    return bool(getattr(ANSWERS[answer], "graded", True))


def best_category(scores: Tensor) -> list[int | None]:
    """Position of each row's likeliest category, rows [pictures, categories]; None where none was chosen."""
    return [_best(row, range(len(row))) for row in scores.tolist()]


def multiple_choice(scores: Tensor, options: Sequence[Sequence[int]]) -> list[int | None]:
    """The likeliest option of each picture as a position in the category table; None where none was chosen.

    Args:
        scores: [pictures, categories].
        options: for each picture the positions that may be chosen, in any order. Equal scores are decided by
            the category table, never by the order of the options, in which the truth often stands first.
    """
    return [_best(row, sorted(choice)) for row, choice in zip(scores.tolist(), options, strict=True)]


def _best(scores: Sequence[float], among: Sequence[int]) -> int | None:
    # Recogniser.answer refuses NaN, which is neither more nor less than a number: max would take any
    assert not any(math.isnan(scores[position]) for position in among), "scores that are not numbers"
    best = max(among, key=lambda position: scores[position])
    return None if scores[best] == -math.inf else best


def as_mapping(ranking: Sequence[tuple[str, str, float]]) -> list[Mapping[str, object]]:
    """A ranking as JSON-able rows."""
    return [{"category_id": i, "name": name, "score": round(score, 6)} for i, name, score in ranking]
