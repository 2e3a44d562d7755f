"""Questions to a model, and how their answers are read."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from finedefics.describers.normal_form import is_unseen, words
from finedefics.describers.prompts import AGAIN, CATEGORY, DESCRIPTION, NAMES, VALUES, prompt

_LONGEST_VALUE = 60  # characters; what is longer is no value but talk
_NAMES_SHOWN = 200  # of a super-category; more would not fit a prompt


class Unreadable(Exception):
    """An answer that is not what was asked for; its text is the reason."""


@dataclass(frozen=True)
class Question:
    """One request: a text, and a picture where it is about one.

    Attributes:
        text: the whole prompt.
        prompts: identities of the prompts that it was made from.
        picture: content hash of the picture.
        image: the picture's encoded bytes; None until it is about to be asked.
        tokens: that the answer may have.
        attempt: 1, and more where an answer could not be read.
        names: attributes that the answer may be about.
    """

    text: str
    prompts: tuple[str, ...]
    picture: str | None = None
    image: bytes | None = field(default=None, repr=False, compare=False)
    tokens: int = 512
    attempt: int = 1
    names: tuple[str, ...] = ()

    form: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """Digest of all that determines the answer, but for the model."""
        asked = [self.form, self.text, self.prompts, self.picture, self.tokens, self.attempt]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]

    def again(self, reason: str) -> "Question":
        """The question with a word on why the last answer was of no use: a new question with its own key."""
        first = self.text if self.attempt == 1 else self.text[: self.text.rfind("\n\n")]
        more = prompt(AGAIN).fill(reason=reason)
        return replace(self, text=first.rstrip() + more, attempt=self.attempt + 1)

    def read(self, answer: str) -> Any:
        """What the answer says; `Unreadable` where it is not what was asked for."""
        raise NotImplementedError


@dataclass(frozen=True)
class NamesQuestion(Question):
    """Which attributes tell the members of a super-category apart."""

    form = "names"

    def read(self, answer: str) -> list[str]:
        """Attribute names in the order given, lower case, none twice."""
        found = _json(answer, list)
        if found is None and isinstance(one := _json(answer, dict), dict):
            found = next((value for value in one.values() if isinstance(value, list)), None)
        named = [" ".join(words(encodable(name))) for name in found or [] if isinstance(name, str)]
        named = list(dict.fromkeys(name for name in named if 0 < len(name) <= _LONGEST_VALUE))
        if not named:
            raise Unreadable("it holds no JSON list of attribute names")
        return named


@dataclass(frozen=True)
class ValuesQuestion(Question):
    """The value of each attribute, in a picture or of a category."""

    form = "values"

    def read(self, answer: str) -> dict[str, str]:
        """Values as they were said, of the attributes that were asked for and are visible."""
        found = _json(answer, dict)
        if found is None:
            raise Unreadable("it holds no JSON object")
        asked = {tuple(words(name)): name for name in self.names}
        said: dict[str, str] = {}
        answered = 0
        for key, value in found.items():
            name = asked.get(tuple(words(str(key))))
            if name is None:
                continue
            answered += 1
            text = _value(value)
            if text and not is_unseen(text):
                said.setdefault(name, text)
        if not answered:
            raise Unreadable("none of its keys is an attribute that was asked for")
        return {name: said[name] for name in self.names if name in said}


@dataclass(frozen=True)
class TextQuestion(Question):
    """Attributes put into words."""

    form = "text"

    def read(self, answer: str) -> str:
        """One line of text."""
        text = " ".join(encodable(answer).split()).strip('"')
        if not text:
            raise Unreadable("it is empty")
        return text


def ask_names(kind: str, members: Sequence[str], count: int) -> NamesQuestion:
    """Which attributes tell these members of a super-category apart; of many members, evenly chosen ones."""
    step = -(-len(members) // _NAMES_SHOWN) or 1
    shown = "\n".join(f"- {name}" for name in sorted(members)[::step])
    of = prompt(NAMES)
    return NamesQuestion(of.fill(kind=kind, names=shown, count=count), (of.identity,))


def ask_values(kind: str, names: Sequence[str], picture: str) -> ValuesQuestion:
    """The value of each attribute in the picture of this content hash."""
    of = prompt(VALUES)
    text = of.fill(kind=kind, attributes=_listed(names))
    return ValuesQuestion(text, (of.identity,), picture, tokens=_room(names), names=tuple(names))


def ask_category(kind: str, names: Sequence[str], category: str) -> ValuesQuestion:
    """The value of each attribute of a category, from its name alone."""
    of = prompt(CATEGORY)
    text = of.fill(kind=kind, attributes=_listed(names), name=category)
    return ValuesQuestion(text, (of.identity,), tokens=_room(names), names=tuple(names))


def ask_description(kind: str, attributes: dict[str, str]) -> TextQuestion:
    """A sentence that says these attributes; equal attributes give an equal question."""
    of = prompt(DESCRIPTION)
    listed = "\n".join(f"- {name}: {attributes[name]}" for name in sorted(attributes))
    return TextQuestion(of.fill(kind=kind, attributes=listed), (of.identity,), tokens=128)


def encodable(text: str) -> str:
    """The text with "?" for what no file can hold: JSON can say half a character ("\\ud83d")."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _listed(names: Sequence[str]) -> str:
    return "\n".join(f"- {name}" for name in names)


def _room(names: Sequence[str]) -> int:
    return 128 + 24 * len(names)


def _value(value: Any) -> str:
    """One short text of a JSON value: lists are joined, what is nested or talks is nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = " and ".join(str(item) for item in value if isinstance(item, str | int))
    if not isinstance(value, str | int | float):
        return ""
    text = " ".join(encodable(str(value)).split())
    return text if len(text) <= _LONGEST_VALUE else ""


def _json(text: str, kind: type) -> Any:
    """The first JSON value of a kind in a text, whatever stands around it (talk, a code fence)."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{" if kind is dict else r"\[", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, kind):
            return found
    return None
