"""The terms of the objective: which there are, what feeds them, and how a stage weighs them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from finedefics.errors import wrong_use
from finedefics.readout import DEFAULT, Readout

# What a stage may be fed with: pictures with a label, pictures with a description and none, categories with a
# text, and pictures without a label that learn the name which was inferred for them.
FEEDS = ("labelled", "captioned", "text", "inferred")
GENERATION_TERMS = ("answer", "caption", "text", "choice")
CONTRASTIVE_TERMS = ("object_attribute", "attribute_category", "category_category", "object_category")
TERM_FEEDS = {  # on whose rows a term is defined
    "answer": ("labelled", "inferred"),
    "caption": ("labelled", "captioned"),
    "text": ("text",),
    "choice": ("labelled",),
    "object_attribute": ("labelled", "captioned"),
    "attribute_category": ("labelled", "text"),
    "category_category": ("labelled", "text"),
    "object_category": ("labelled",),
}


@dataclass(frozen=True)
class TermSettings:
    """Weight of a term of the objective and the feeds whose rows take part in it."""

    weight: float
    feeds: tuple[str, ...]


@dataclass(frozen=True)
class ObjectiveSettings:
    """The objective of one stage: its terms, its temperatures, its keys, and where an object is embedded.

    ``unique_keys``: a text is a key once for each row, so that one which was mined often, or which several
    rows share, weighs no more than others; False counts every copy, as the release does.
    ``learn_prompt``: where a picture is asked about, every token that follows another is learned, those of
    question and picture too, as the release does; False learns the answer and the end of its turn alone. The
    question is the same for every picture and a picture's places all hold one token, so there is nothing to
    learn in them, and they outnumber the answer's tokens many times.
    ``object_readout`` is ``"eos"`` (the paper's: the picture's tokens and end of sequence, a pass of its own)
    or ``"prompt"`` (the picture's last token within the prompt, read on the way of the answer's pass).

    Raises:
        FinedeficsError: a term is unknown or not defined on a feed, a weight or temperature is out of range,
            or no term has a weight and a feed (exit code 2).
    """

    terms: Mapping[str, TermSettings]
    object_attribute_temperature: float = 0.07
    attribute_category_temperature: float = 0.07
    learnable_temperatures: bool = False
    object_readout: Readout = DEFAULT
    unique_keys: bool = True
    learn_prompt: bool = False

    def __post_init__(self) -> None:
        for name, term in self.terms.items():
            if name not in TERM_FEEDS:
                raise wrong_use(f"unknown term {name!r}", place="terms", cure=f"use {', '.join(TERM_FEEDS)}")
            if strange := [feed for feed in term.feeds if feed not in TERM_FEEDS[name]]:
                known = ", ".join(TERM_FEEDS[name])
                raise wrong_use(
                    f"not defined on feed {strange[0]!r}", place=f"term {name}", cure=f"use {known}"
                )
            if not 0 <= term.weight < math.inf:
                raise wrong_use(f"weight {term.weight}", place=f"term {name}", cure="use 0 or more")
        for name in ("object_attribute_temperature", "attribute_category_temperature"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise wrong_use(f"temperature {value}", place=name, cure="use a number above 0")
        if not self.feeds(*self.terms):
            raise wrong_use(
                "no term has a weight above 0 and a feed", place="terms", cure="give one of them both"
            )

    def feeds(self, *terms: str) -> set[str]:
        """Feeds that take part in any of the terms at a weight above 0."""
        return {f for t in terms if t in self.terms and self.terms[t].weight > 0 for f in self.terms[t].feeds}
