"""Which category a free reply names: what two spellings of one name have in common."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

ARTICLES = frozenset(("a", "an", "the"))
_POSSESSIVE = re.compile(r"(?<=\w)['’`´](?=\w)|(?<=s)['’`´](?!\w)", re.IGNORECASE)
_ES = ("ches", "shes", "sses", "xes", "zes")
_NO_PLURAL = ("ss", "us", "is")


def plain(text: str) -> str:
    """A name's words in lower case, one space between them: case, spacing and punctuation do not count."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def normalised(text: str) -> str:
    """What is left of a name where its spelling does not count.

    In turn: compatible characters are one (NFKC) and case is folded; an apostrophe inside a word or after an
    s goes, so that "Cassin's" is "cassins"; underscores, hyphens and all other punctuation are spaces;
    articles in front go; the last word is put into the singular by its ending: "-ies" to "-y", "-ches",
    "-shes", "-sses", "-xes" and "-zes" less "es", another "-s" less it, unless it is "-ss", "-us" or "-is".
    The rule for the plural is applied to names and replies alike: it need not be right, only the same.
    """
    text = _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).casefold())
    words = re.findall(r"[^\W_]+", text)
    while len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return " ".join([*words[:-1], *map(_singular, words[-1:])])


def named(
    replies: Sequence[str], names: Sequence[str], form: Callable[[str], str] = plain
) -> list[int | None]:
    """For each reply the position of the name that it is, by a form in which the two are equal.

    None where it is no name, where two names have its form, or where nothing is left of it.
    """
    forms = [form(name) for name in names]
    times = Counter(forms)
    known = {words: position for position, words in enumerate(forms) if words and times[words] == 1}
    return [known.get(form(reply)) for reply in replies]


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(_ES) and len(word) > 4:
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith(_NO_PLURAL) else word
