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

from finedefics.describers.normal_form import is_unseen, negations, normal_form, words
from finedefics.describers.shades import unshaded

Counts = dict[str, Counter[str]]  # of an attribute: how often each value was said, as it was said
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]  # texts to [texts, dim], normalised

_WORDINGS_KEPT = 50  # of a value, to be shown


@dataclass(frozen=True)
class Closing:
    """How a vocabulary is closed.

    Attributes:
        loose: equal normal forms are one value; otherwise only case, spaces and punctuation are looked past.
        similar: share of equal letters, 0 to 1, from which two forms are one (typing errors); 1: never.
        exception: a form that is said less often than this share of a value is that value already where it
            only shades it ("bright red", "crimson") or has `nearly` its letters; 0: never.
        nearly: share of equal letters that is enough for an exception.
        rare_share, rare_floor, rare_cap: a value said of fewer pictures than this share of those in which the
            attribute is seen, at least the floor and at most the cap, is rare.
        small: with fewer pictures than this nothing is rare.
        embedding: cosine from which a rare value is a frequent one, where an embedder is given.
    """

    loose: bool = True
    similar: float = 0.9
    exception: float = 0.25
    nearly: float = 0.85
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
# What a person annotated is meant as it stands: "small" and "very small" are two values, however rare one is.
ANNOTATED = Closing(loose=False, similar=1.0, exception=0.0, rare_floor=1, rare_cap=1)


@dataclass(frozen=True)
class Vocabulary:
    """What each attribute may say.

    Attributes:
        meanings: of an attribute and a normal form, the value it stands for; a form that is missing is rare.
        counts: of an attribute and one of its values, pictures.
        said: of an attribute and one of its values, the wordings that mean it, most frequent first.
        dropped: of an attribute, pictures whose value was rare.
        loose: as in `Closing`.
    """

    meanings: Mapping[str, Mapping[tuple[str, ...], str]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    said: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    loose: bool = True

    def value(self, attribute: str, said: str) -> str | None:
        """The value that was meant, None where it is not visible, was never counted, or is rare."""
        return self.meanings.get(attribute, {}).get(_form(said, attribute, self.loose))

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
            {name: one.wordings() for name, one in made.items()},
            {name: one.dropped for name, one in made.items() if one.dropped},
            closing.loose,
        )

    def rows(self) -> list[dict[str, object]]:
        """One row a value: attribute, value, pictures, and the wordings that mean it."""
        return [
            {"attribute": name, "value": value, "pictures": pictures, "said": list(self.said[name][value])}
            for name, values in self.counts.items()
            for value, pictures in values.items()
        ]


class _Closed:
    """One attribute's vocabulary while it is made."""

    def __init__(self) -> None:
        self.meanings: dict[tuple[str, ...], str] = {}
        self.counts: Counter[str] = Counter()
        self.said: dict[str, Counter[str]] = {}
        self.dropped = 0
        self.heads: dict[tuple[str, ...], str] = {}  # forms that are values of their own

    def add(self, form: tuple[str, ...], value: str, said: Counter[str], *, head: bool = False) -> None:
        self.meanings[form] = value
        self.counts[value] += said.total()
        self.said.setdefault(value, Counter()).update(said)
        if head:
            self.heads[form] = value

    def wordings(self) -> dict[str, list[str]]:
        return {
            value: sorted(said, key=lambda text: (-said[text], text))[:_WORDINGS_KEPT]
            for value, said in self.said.items()
        }


def _form(text: str, attribute: str, loose: bool) -> tuple[str, ...]:
    if loose or is_unseen(text):
        return normal_form(text, attribute)
    return tuple(words(text)) or tuple(text.split())


def _close(
    name: str, said: Mapping[str, int], known: Sequence[str], closing: Closing, embed: Embed | None
) -> _Closed:
    spellings: dict[tuple[str, ...], Counter[str]] = {}
    for text, count in said.items():
        if form := _form(text, name, closing.loose):
            spellings.setdefault(form, Counter())[" ".join(text.split())] += count
    closed = _Closed()
    for text in known:
        form = _form(text, name, closing.loose)
        if form and form not in closed.meanings:
            closed.add(form, text, spellings.pop(form, Counter()), head=True)
    # the most frequent first: what comes later joins what stands already; ties by form, for one result
    order = sorted(spellings, key=lambda form: (-spellings[form].total(), form))
    rare = closing.rare_below(sum(spellings[form].total() for form in order) + closed.counts.total())
    left = []
    for form in order:
        said_of = spellings[form].total()
        if meant := _hardly_other(form, said_of, closed, closing, rare):
            closed.add(form, meant, spellings[form])
        elif said_of >= rare:
            closed.add(form, _spelling(spellings[form]), spellings[form], head=True)
        else:
            left.append(form)
    texts = [_spelling(spellings[form]) for form in left]
    for form, meant in zip(left, _like_meanings(texts, closed, closing, embed), strict=True):
        if meant is None:
            closed.dropped += spellings[form].total()
        else:
            closed.add(form, meant, spellings[form])
    return closed


def _spelling(spellings: Counter[str]) -> str:
    """How a value is written: as most do, the shorter and then the first by letters where as many do."""
    return min(spellings, key=lambda text: (-spellings[text], len(text), text))


def _hardly_other(
    form: tuple[str, ...], said_of: int, closed: _Closed, closing: Closing, rare: int
) -> str | None:
    """The value that a form is, in other letters or another shade; None where it is one of its own."""

    def is_exception(value: str) -> bool:
        return said_of < closing.exception * closed.counts[value] or said_of < rare

    plain = unshaded(form)
    if plain != form and (value := closed.heads.get(plain)) and is_exception(value):
        return value
    found = _alike(form, closed.heads, closing.nearly) if closing.similar < 1 else None
    if found and (found[0] >= closing.similar or is_exception(found[1])):
        return found[1]
    return None


def _alike(
    form: tuple[str, ...], heads: Mapping[tuple[str, ...], str], least: float
) -> tuple[float, str] | None:
    """Share of equal letters and value of the most similar form; never one with another negation or digit."""
    from rapidfuzz import fuzz

    text = " ".join(form)
    if len(text) < 4:  # three letters leave no room for an error: "tan" is no "tin"
        return None
    best: tuple[float, str] | None = None
    for other, value in heads.items():
        score = fuzz.ratio(text, " ".join(other), score_cutoff=100 * least) / 100
        if score and negations(form) == negations(other) and (best is None or score > best[0]):
            best = (score, value)
    return best


def _like_meanings(
    left: Sequence[str], closed: _Closed, closing: Closing, embed: Embed | None
) -> list[str | None]:
    if embed is None or not left or not closed.heads:
        return [None] * len(left)
    values = list(dict.fromkeys(closed.heads.values()))
    similarity = embed(left) @ embed(values).T
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
