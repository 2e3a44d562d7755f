"""A closed vocabulary: what one attribute may say, and which of it a value that was said means.

The contrast lets two rows repel each other where a value differs as a string. A model that is asked a picture
at a time says "grey" here and "greyish" there, so what it says is mapped to few values before anything is
compared: equal normal forms are one value, a value that hardly differs from a more frequent one is that one,
and what is left and rare says nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from finedefics.describers.normal_form import negations, normal_form, stem

Counts = dict[str, Counter[str]]  # of an attribute: how often each value was said, as it was said
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]  # texts to [texts, dim], normalised

# Words that shade a value and do not change which it is; only a rare value loses them.
_SHADE_WORDS = (
    "bright dark deep dull faint glossy intense light medium muted pale rich soft strong vivid brilliant "
    "small large big tiny long short thin thick fine bold prominent distinct pure"
)
_SHADES = frozenset(stem(word) for word in _SHADE_WORDS.split())


@dataclass(frozen=True)
class Closing:
    """How a vocabulary is closed.

    Attributes:
        similar: share of equal letters, 0 to 1, from which two forms are one (typing errors); 1: never.
        rare_share, rare_floor, rare_cap: a value said of fewer pictures than this share of those in which the
            attribute is seen, at least the floor and at most the cap, is rare.
        small: with fewer pictures than this nothing is rare.
        embedding: cosine from which a rare value is a frequent one, where an embedder is given.
    """

    similar: float = 0.9
    rare_share: float = 0.005
    rare_floor: int = 2
    rare_cap: int = 20
    small: int = 20
    embedding: float = 0.75

    def rare_below(self, seen: int) -> int:
        """The number of pictures from which a value is not rare."""
        if seen < self.small:
            return 1
        return max(self.rare_floor, min(self.rare_cap, round(self.rare_share * seen)))


ASKED = Closing()
# What a person annotated is meant as it stands: only spellings of one normal form are joined.
ANNOTATED = Closing(similar=1.0, rare_floor=1, rare_cap=1)


@dataclass(frozen=True)
class Vocabulary:
    """What each attribute may say.

    Attributes:
        meanings: of an attribute and a normal form, the value it stands for; a form that is missing is rare.
        counts: of an attribute and one of its values, pictures.
        dropped: of an attribute, pictures whose value was rare.
    """

    meanings: Mapping[str, Mapping[tuple[str, ...], str]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    def value(self, attribute: str, said: str) -> str | None:
        """The value that was meant, None where it is not visible, was never counted, or is rare."""
        return self.meanings.get(attribute, {}).get(normal_form(said, attribute))

    def attributes(self, said: Mapping[str, str]) -> dict[str, str]:
        """What was said of a picture, in the vocabulary's values; attributes without one are left out."""
        found = {name: self.value(name, value) for name, value in said.items()}
        return {name: value for name, value in found.items() if value is not None}

    @staticmethod
    def of(
        counts: Mapping[str, Mapping[str, int]],
        closing: Closing = ASKED,
        *,
        known: Mapping[str, Iterable[str]] | None = None,
        embed: Embed | None = None,
    ) -> "Vocabulary":
        """Close a vocabulary over what was said.

        Args:
            counts: of each attribute, of how many pictures each value was said.
            closing: how.
            known: values that stand whatever is said of pictures: those of the category table. Two of them
                are one only where their normal forms are equal.
            embed: maps texts to vectors; rare values then also join a frequent one of like meaning.
        """
        made = {
            name: _close(name, counts.get(name, {}), list((known or {}).get(name, ())), closing, embed)
            for name in sorted({*counts, *(known or {})})
        }
        return Vocabulary(
            {name: one.meanings for name, one in made.items()},
            {name: dict(one.counts.most_common()) for name, one in made.items()},
            {name: one.dropped for name, one in made.items() if one.dropped},
        )

    def as_dict(self) -> dict[str, dict[str, object]]:
        """For JSON: of each attribute its values with their pictures, and how many were left out as rare."""
        return {
            name: {"values": dict(values), "left_out": self.dropped.get(name, 0)}
            for name, values in self.counts.items()
        }


class _Closed:
    """One attribute's vocabulary while it is made."""

    def __init__(self) -> None:
        self.meanings: dict[tuple[str, ...], str] = {}
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self.heads: dict[tuple[str, ...], str] = {}  # forms that are values of their own

    def add(self, form: tuple[str, ...], value: str, count: int, *, head: bool = False) -> None:
        self.meanings[form] = value
        self.counts[value] += count
        if head:
            self.heads[form] = value


def _close(
    name: str, said: Mapping[str, int], known: Sequence[str], closing: Closing, embed: Embed | None
) -> _Closed:
    spellings: dict[tuple[str, ...], Counter[str]] = {}
    for text, count in said.items():
        if form := normal_form(text, name):
            spellings.setdefault(form, Counter())[" ".join(text.split())] += count
    closed = _Closed()
    for text in known:
        if (form := normal_form(text, name)) and form not in closed.meanings:
            closed.add(form, text, spellings.pop(form, Counter()).total(), head=True)
    # the most frequent first: what comes later joins what stands already; ties by form, for one result
    order = sorted(spellings, key=lambda form: (-spellings[form].total(), form))
    rare = closing.rare_below(sum(spellings[form].total() for form in order) + closed.counts.total())
    left = []
    for form in order:
        count = spellings[form].total()
        if like := _alike(form, closed.heads, closing.similar):
            closed.add(form, like, count)
        elif count >= rare:
            closed.add(form, _spelling(spellings[form]), count, head=True)
        elif shaded := _without_shades(form, closed.heads):
            closed.add(form, shaded, count)
        else:
            left.append((form, _spelling(spellings[form]), count))
    for (form, _, count), meant in zip(left, _like_meanings(left, closed, closing, embed), strict=True):
        if meant is None:
            closed.dropped += count
        else:
            closed.add(form, meant, count)
    return closed


def _spelling(spellings: Counter[str]) -> str:
    """How a value is written: as most do, the shorter and then the first by letters where as many do."""
    return min(spellings, key=lambda text: (-spellings[text], len(text), text))


def _alike(form: tuple[str, ...], heads: Mapping[tuple[str, ...], str], similar: float) -> str | None:
    """The most similar value that hardly differs in its letters; never one with another negation or digit."""
    from rapidfuzz import fuzz

    text = " ".join(form)
    if similar >= 1 or len(text) < 5:  # four letters leave no room for an error: "pink" is no "pine"
        return None
    best: tuple[float, str] | None = None
    for other, value in heads.items():
        score = fuzz.ratio(text, " ".join(other), score_cutoff=100 * similar)
        if score and negations(form) == negations(other) and (best is None or score > best[0]):
            best = (score, value)
    return best[1] if best else None


def _without_shades(form: tuple[str, ...], heads: Mapping[tuple[str, ...], str]) -> str | None:
    """ "Bright red" is red, where "bright red" is rare and red is not."""
    return heads.get(tuple(word for word in form if word not in _SHADES))


def _like_meanings(
    left: Sequence[tuple[tuple[str, ...], str, int]], closed: _Closed, closing: Closing, embed: Embed | None
) -> list[str | None]:
    if embed is None or not left or not closed.heads:
        return [None] * len(left)
    values = list(dict.fromkeys(closed.heads.values()))
    similarity = embed([text for _, text, _ in left]) @ embed(values).T
    best = similarity.argmax(axis=1)
    return [
        values[column] if similarity[row, column] >= closing.embedding else None
        for row, column in enumerate(best.tolist())
    ]


def count_values(rows: Iterable[Mapping[str, str]]) -> Counts:
    """How often each value was said of each attribute; merge several with `merge_counts`."""
    counts: Counts = {}
    for row in rows:
        for name, value in row.items():
            counts.setdefault(name, Counter())[value] += 1
    return counts


def merge_counts(parts: Iterable[Counts]) -> Counts:
    """The sum of several counts."""
    total: Counts = {}
    for part in parts:
        for name, values in part.items():
            total.setdefault(name, Counter()).update(values)
    return total
