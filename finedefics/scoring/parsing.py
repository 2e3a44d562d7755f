"""Which option a reply to a multiple choice means."""

import re

_AFTER = r"[\"'`*)\]]*"
_ALONE = re.compile(rf"[\"'`*(\[]*([A-Za-z]){_AFTER}[.:,)]?{_AFTER}")
_LEADING = re.compile(rf"[\"'`*(\[]*([A-Za-z])[\"'`*]*[.:)\]]{_AFTER}\s+(?P<rest>\S.*)", re.DOTALL)
_CUED = re.compile(
    r"\b(?:answer|choice|option|letter)\b(?:\s+(?:is|would\s+be|should\s+be))?\s*[:=]?\s*"
    r"[\"'`*(\[]*(?P<letter>[A-Z])(?![\w'-])",
    re.IGNORECASE,
)
_ENDS = re.compile(rf"{_AFTER}[ \t]*(?:[.,;:!?\n]|$)")
_OR_ELSE = re.compile(r"\W*(?:or|and)\W+[A-Za-z](?!\w)")
_MARKED = re.compile(r"\(([A-Z])\)|(?<![\w.-])([A-Z])[.)](?=\s|$)|\b(?:or|and)\s+([A-Z])(?![\w'-])")


def parse_letter(reply: str, offered: str) -> int | None:
    """The option that a reply clearly means, as a position in ``offered`` ("ABCD"); None where it is unclear.

    Understood are a letter alone in either case ("b", "(B)", "B."), a letter with its option ("B. House
    Finch"), and a letter that is announced ("Answer: B", "The answer is B"). A letter that was not offered,
    two different letters, a word that merely begins with a letter, or an article ("A bird") are no answer.
    """
    text = reply.strip()
    if alone := _ALONE.fullmatch(text):
        return _position(alone[1], offered)
    if leading := _LEADING.fullmatch(text):
        chosen, rest = leading[1].upper(), leading["rest"]
        others = {
            letter for found in _MARKED.findall(rest) for letter in found if letter in offered and letter
        }
        return _position(chosen, offered) if (others | _announced(rest)) <= {chosen} else None
    announced = _announced(text)
    return _position(announced.pop(), offered) if len(announced) == 1 else None


def parse_letter_foci(reply: str, offered: str) -> int | None:
    """The option whose letter the reply begins with, in either case: how the FOCI benchmark reads replies.

    Kept for comparable figures. It takes "Answer: B" and "A bird" for A.
    """
    return _position(reply[:1], offered)


def _announced(text: str) -> set[str]:
    """Letters that the text calls its answer; more than one where it wavers."""
    found: set[str] = set()
    for match in _CUED.finditer(text):
        letter, tail = match["letter"], text[match.end() :]
        # before another word, a small letter or an A may be the word "a", and an I the pronoun
        if _ENDS.match(tail) or letter not in "AI" + letter.lower():
            found.add(letter.upper())
        if other := _OR_ELSE.match(tail):
            found.add(other[0][-1].upper())
            found.add(letter.upper())
    return found


def _position(letter: str, offered: str) -> int | None:
    place = offered.find(letter.upper()) if letter else -1
    return place if place >= 0 else None
