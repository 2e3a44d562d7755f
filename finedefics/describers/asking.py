"""The three steps of the paper, asked of a model: attribute names, values a picture, one description.

Nothing here sends anything: the describer makes questions and reads answers, whoever asks keeps them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from finedefics.describers.contract import Description, Given, Subject
from finedefics.describers.hidden_names import HiddenNames
from finedefics.describers.models import Failure, Model, Outcome
from finedefics.describers.prompts import CATEGORY, DESCRIPTION, NAMES, VALUES, prompt
from finedefics.describers.questions import (
    NamesQuestion,
    Question,
    TextQuestion,
    Unreadable,
    ask_category,
    ask_description,
    ask_names,
    ask_values,
)
from finedefics.describers.vocabulary import ASKED
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category


@dataclass(frozen=True)
class Options:
    """What a user may say about the asking; all of it is part of the describer's id.

    Attributes:
        attributes: names to ask for; empty: those of the categories' own attributes, else the model is asked.
        count: attribute names that the model is asked for.
        hide_names: names of categories are taken out of what it says.
        wording: "fixed" puts attributes into words in one way, "model" asks the model, once an attribute set.
        attempts: how often a question is asked whose answers cannot be read.
        kind: what is in the pictures whose category has no super-category: "bird".
        edge: longest edge in pixels of a picture that is sent; larger ones are made smaller.
    """

    attributes: tuple[str, ...] = ()
    count: int = 16
    hide_names: bool = True
    wording: str = "fixed"
    attempts: int = 3
    kind: str = "object"
    edge: int = 1024

    @staticmethod
    def of(given: Mapping[str, object]) -> "Options":
        """Options from a mapping.

        Raises:
            FinedeficsError: a wording that there is none of (exit code 2).
        """
        known = {f.name for f in fields(Options)}
        made = Options(**{k: v for k, v in given.items() if k in known and v is not None})  # type: ignore[arg-type]
        if made.wording not in ("fixed", "model"):
            raise wrong_use("unknown wording", place=repr(made.wording), cure="choose fixed or model")
        return replace(made, attributes=tuple(made.attributes))


class AskingDescriber:
    """Describes by asking a model about each picture.

    Args:
        name: of the describer, as it begins its id.
        model: that answers.
        given: categories and options.
    """

    reads_images = True
    closing = ASKED

    def __init__(self, name: str, model: Model, given: Given) -> None:
        self.name, self.model = name, model
        self.options = Options.of(given.options)
        self.categories = {c.category_id: c for c in given.categories}
        self.names: dict[str, tuple[str, ...]] = {}  # attribute names by kind; `learn` completes them

    @cached_property
    def kinds(self) -> dict[str, list[Category]]:
        """Members of every super-category."""
        found: dict[str, list[Category]] = {}
        for category in self.categories.values():
            found.setdefault(category.super_category or self.options.kind, []).append(category)
        return found or {self.options.kind: []}

    @cached_property
    def hidden(self) -> HiddenNames:
        """The names that are kept out."""
        names = [category.name for category in self.categories.values()]
        return HiddenNames(names if self.options.hide_names else ())

    @property
    def describer_id(self) -> str:
        """Name, model and digest: of prompts, options and attribute names."""
        prompts = [prompt(name).identity for name in (NAMES, VALUES, CATEGORY, DESCRIPTION)]
        told = [self.model.model_id, prompts, asdict(self.options), sorted(self.names.items())]
        return f"{self.name}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"

    def naming(self) -> dict[str, NamesQuestion]:
        """Step 1, a question a kind: what tells its members apart. Names that are known are not asked for."""
        asked = {}
        for kind, members in self.kinds.items():
            own = self.options.attributes or _own_names(members)
            if own:
                self._know(kind, own)
            elif kind not in self.names:
                asked[kind] = ask_names(kind, [c.name for c in members] or [kind], self.options.count)
        return asked

    def learn(self, kind: str, names: Sequence[str]) -> None:
        """Take the model's answer to `naming`; names that hold a category's name are left out."""
        kept = [name for name in names if not self.hidden.within(name)]
        self._know(kind, kept[: self.options.count])

    def values(self, subject: Subject) -> Question:
        """Step 2: what a picture shows of each attribute, all in one request."""
        kind = self._kind(subject.category_id)
        question = ask_values(kind or self.options.kind, self._names(kind), subject.content_hash)
        return replace(question, prompts=(*question.prompts, f"edge {self.options.edge}"))

    def of_category(self, category: Category) -> Question:
        """What the model knows of a category in words."""
        kind = category.super_category or self.options.kind
        return ask_category(kind, self._names(kind), category.name)

    def text(self, category_id: str | None, attributes: Mapping[str, str]) -> TextQuestion:
        """Step 3, where the model words it: the same question for equal attributes of a kind."""
        return ask_description(self._kind(category_id) or self.options.kind, dict(attributes))

    def unnamed(self, said: Mapping[str, str]) -> tuple[dict[str, str], int]:
        """Values without names of categories, and in how many one was said; one that was all name is gone."""
        kept, named = {}, 0
        for name, value in said.items():
            rest = self.hidden.without(value)
            named += rest != value
            if rest:
                kept[name] = rest
        return kept, named

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """Ask at once, without keeping anything: for a few pictures outside of the platform."""
        outcomes: dict[str, Outcome] = {}

        def keep(question: Question, outcome: Outcome) -> None:
            outcomes[question.key] = outcome

        for kind, question in self.naming().items():
            self.model.answer_all([question], keep)
            found = outcomes[question.key]
            if isinstance(found, Failure):
                raise FinedeficsError(found.reason, place=self.name, cure="name the attributes yourself")
            self.learn(kind, question.read(found.text))
        asked = [replace(self.values(subject), image=subject.image) for subject in subjects]
        self.model.answer_all(asked, keep)
        return [_described(self, question, outcomes) for question in asked]

    def _kind(self, category_id: str | None) -> str | None:
        """The kind of a picture: its category's, or the only one there is; None where it may be any."""
        category = self.categories.get(category_id or "")
        if category is not None:
            return category.super_category or self.options.kind
        return next(iter(self.kinds)) if len(self.kinds) == 1 else None

    def _names(self, kind: str | None) -> tuple[str, ...]:
        if kind is not None:
            return self.names[kind]
        return tuple(sorted({name for names in self.names.values() for name in names}))

    def _know(self, kind: str, names: Sequence[str]) -> None:
        # sorted: the same names are the same question, whether the model named them or categories have them
        self.names[kind] = tuple(sorted(set(names)))


def _own_names(members: Sequence[Category]) -> list[str]:
    """Attributes that the categories themselves have: pictures and texts can then be compared."""
    return sorted({name for category in members for name in category.attributes})


def _described(
    describer: AskingDescriber, question: Question, outcomes: Mapping[str, Outcome]
) -> Description | None:
    outcome = outcomes[question.key]
    if isinstance(outcome, Failure):
        return None
    try:
        said, _ = describer.unnamed(question.read(outcome.text))
    except Unreadable:
        return None
    return Description("", said) if said else None
