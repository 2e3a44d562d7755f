"""The normal form of a value: two wordings that mean one thing to a reader have one form.

Nothing here is learned or looked up in a model: case, accents, articles, hedges, the attribute's own name,
endings ("greyish", "spots", "spotted", "striped") and the order of what is listed are taken off. The form
is a key and is never shown.
"""

import re
import unicodedata
from functools import lru_cache

NOT_VISIBLE = "not visible"

_UNSEEN = re.compile(
    r"\b(?:not|cannot|can't|isn't|hardly|barely|un)\W*(?:be\W+)?"
    r"(?:visible|seen|sure|clear|shown|determined?|known|identifiable|discernible|applicable|given|in view)"
    r"|\b(?:hidden|obscured|occluded|out of (?:view|frame)|indeterminate|unclear|unknown|unsure|invisible)\b"
)


def _set(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_UNSEEN_ALONE = frozenset({"", *_set("n/a na null nil nan not - -- ? … ...")})
_ARTICLES = _set("a an the its it is are has have with of in be colour color coloured colored hued and")
_HEDGES = _set(
    "mostly mainly predominantly primarily largely slightly somewhat rather quite very fairly appears appear "
    "seems seem approximately about roughly clearly possibly probably looks look overall generally"
)
_NEGATIONS = _set("no not non without none zero")
_NUMBERS = {"none": "no", "zero": "no", "0": "no", "single": "one", "double": "two"} | {
    str(number): word
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), 1)
}
SPELLINGS = {"gray": "grey", "centre": "center"}
_ENDINGS = ("ish", "ing", "ed", "es", "s", "y", "e")


def is_unseen(value: str) -> bool:
    """Whether the value says that the attribute cannot be seen."""
    text = _plain(value)
    return text in _UNSEEN_ALONE or bool(_UNSEEN.search(text))


@lru_cache(maxsize=65536)
def normal_form(value: str, attribute: str = "") -> tuple[str, ...]:
    """Sorted stems of a value's words, empty where nothing is said or seen.

    Args:
        value: as it was said: "A greyish crown".
        attribute: whose value it is; its own words say nothing new ("crown").
    """
    if is_unseen(value):
        return ()
    own = {stem(word) for word in words(attribute)}
    kept = [word for word in words(value) if word not in _ARTICLES and word not in _HEDGES]
    stems = [stem(SPELLINGS.get(word, _NUMBERS.get(word, word))) for word in kept]
    # where only the attribute's name was said ("crest" of the crest), it is the value
    return tuple(sorted(set([s for s in stems if s not in own] or stems)))


def negations(form: tuple[str, ...]) -> frozenset[str]:
    """What turns a form into its opposite; two forms that differ in it are never one."""
    return frozenset(
        word for word in form if word in _NEGATIONS or word.startswith(("un", "non", "in")) or word.isdigit()
    )


def words(text: str) -> list[str]:
    """Words of a text in lower case without accents, cut at everything that is no letter or digit."""
    return re.findall(r"[^\W_]+", _plain(text))


def stem(word: str) -> str:
    """A word without its ending: "spots", "spotted" and "spotty" give one, as "grey" and "greyish" do.

    Three letters stay at least, so that "red" is no form of "r"; letters that the ending doubled are undone.
    """
    while ending := next((e for e in _ENDINGS if _ends(word, e)), ""):
        word = word.removesuffix(ending)
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word


def _ends(word: str, ending: str) -> bool:
    return word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss")


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.replace("’", "'"))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold().strip(" .,;:!\"'")
