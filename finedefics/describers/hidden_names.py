"""Names of categories kept out of what is said: a description that names its category teaches nothing."""

import re
import unicodedata
from collections.abc import Iterable

from finedefics.describers.normal_form import stem


class HiddenNames:
    """Finds names in texts, whatever their case, hyphens and plurals."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for name in names:
            stems = tuple(text for text, _, _ in _stems(name))
            if stems:
                self._by_first.setdefault(stems[0], []).append(stems)
        for known in self._by_first.values():
            known.sort(key=len, reverse=True)  # "great auk" before "great"

    def without(self, text: str) -> str:
        """The text without the names in it."""
        found = _stems(text)
        cuts: list[tuple[int, int]] = []
        position = 0
        while position < len(found):
            length = self._length(found, position)
            if length:
                cuts.append((found[position][1], found[position + length - 1][2]))
            position += length or 1
        for start, end in reversed(cuts):
            text = text[:start] + text[end:]
        return " ".join(text.split()).strip(" ,;-") if cuts else text

    def within(self, text: str) -> bool:
        """Whether a name stands in the text."""
        found = _stems(text)
        return any(self._length(found, position) for position in range(len(found)))

    def _length(self, found: list[tuple[str, int, int]], position: int) -> int:
        """Words of the name that begins here, 0 where none does."""
        for name in self._by_first.get(found[position][0], ()):
            if tuple(word for word, _, _ in found[position : position + len(name)]) == name:
                return len(name)
        return 0


def _stems(text: str) -> list[tuple[str, int, int]]:
    """Stems of a text's words, each with where it begins and ends."""
    return [(stem(_bare(m.group())), m.start(), m.end()) for m in re.finditer(r"[^\W_]+", text)]


def _bare(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
