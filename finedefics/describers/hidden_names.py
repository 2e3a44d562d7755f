"""Names of categories kept out of what is said: a description that names its category teaches nothing."""

import re
import unicodedata
from collections.abc import Iterable

from finedefics.describers.normal_form import SPELLINGS, stem

# scripts that put no space between words, or none before what is added to a name
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "HANGUL")


class HiddenNames:
    """Finds names in texts, whatever their case, hyphens and plurals."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        unspaced: list[str] = []
        for name in names:
            if _is_unspaced(name):
                unspaced.append(name)
                continue
            stems = tuple(text for text, _, _ in _stems(name))
            if stems:
                self._by_first.setdefault(stems[0], []).append(stems)
        for known in self._by_first.values():
            known.sort(key=len, reverse=True)  # "great auk" before "great"
        unspaced.sort(key=len, reverse=True)
        self._unspaced = re.compile("|".join(map(re.escape, unspaced)), re.IGNORECASE) if unspaced else None

    def without(self, text: str) -> str:
        """The text without the names in it."""
        whole = text
        if self._unspaced:
            text = self._unspaced.sub(" ", text)
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
        return " ".join(text.split()).strip(" ,;-") if text != whole else text

    def within(self, text: str) -> bool:
        """Whether a name stands in the text."""
        if self._unspaced and self._unspaced.search(text):
            return True
        found = _stems(text)
        return any(self._length(found, position) for position in range(len(found)))

    def _length(self, found: list[tuple[str, int, int]], position: int) -> int:
        """Words of the name that begins here, 0 where none does."""
        for name in self._by_first.get(found[position][0], ()):
            if tuple(word for word, _, _ in found[position : position + len(name)]) == name:
                return len(name)
        return 0


def _is_unspaced(name: str) -> bool:
    return any(unicodedata.name(letter, "").startswith(_UNSPACED) for letter in name)


def _stems(text: str) -> list[tuple[str, int, int]]:
    """Keys of a text's words, each with where it begins and ends."""
    return [(_key(m.group()), m.start(), m.end()) for m in re.finditer(r"[^\W_]+", text)]


def _key(word: str) -> str:
    """What a word, its plural and its other spelling have in common, in names and in texts alike."""
    word = _bare(word)
    for other, usual in SPELLINGS.items():
        if word.startswith(other):
            word = usual + word.removeprefix(other)
    if re.search(r"[^aeiouy]y$", word):  # daisy: daisies
        word = word[:-1] + "ie"
    word = stem(word)
    return word[:-1] + "f" if word.endswith("v") else word  # wolves: wolf


def _bare(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
