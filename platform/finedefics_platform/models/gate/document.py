"""A gate as its YAML says it: which rules, with which settings, on which slices."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.digest import digest_of
from finedefics_platform.config.documents import override_by_text, read_yaml
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.models.gate.known import RULES, Rule

DEFAULT = Path(__file__).with_name("default.yaml")


class GateDocument(Section):
    """The keys of a gate's file."""

    slices: tuple[str, ...] = Field(
        (), description="What decides: slices or their first parts (`alignment`); default: every slice."
    )
    rules: dict[str, dict[str, Any] | None] = Field(
        description="Rule, or path of a .py file that registers one -> its settings."
    )


@dataclass(frozen=True)
class GateRule:
    """A rule of a gate: its name, what it is by its content, how it is asked, its settings in full."""

    name: str
    identity: str
    ask: Rule
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """A gate that can be asked (`finedefics_platform.models.gate.decide`)."""

    name: str
    rules: tuple[GateRule, ...]
    slices: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Of what it asks, whatever its file is called."""
        return digest_of([self.slices, [[rule.identity, rule.settings] for rule in self.rules]])

    def told(self) -> dict[str, Any]:
        """As a log keeps it: enough to ask again."""
        rules = {rule.name: dict(rule.settings) for rule in self.rules}
        return {"name": self.name, "digest": self.digest, "slices": list(self.slices), "rules": rules}


def load_gate(file: str | Path | None = None, given: Sequence[str] = ()) -> Gate:
    """A gate by its file.

    Args:
        file: YAML; default: the one that comes with the product (`DEFAULT`).
        given: settings that go before those of the file, each ``rules.minimum.accuracy=0.6``.

    Raises:
        FinedeficsError: the file cannot be read, or a rule, a setting or a value is wrong (exit code 2).
    """
    document = read_yaml(file or DEFAULT, "gate")
    for assignment in given:
        override_by_text(document, assignment)
    source = Path(file or DEFAULT)
    place = str(file) if file else "the default gate"
    return parse_gate(document, name=source.stem, place=place, folder=source.parent)


def parse_gate(document: Mapping[str, Any], *, name: str, place: str, folder: Path | None = None) -> Gate:
    """A gate by the mapping that its file holds; raises as `load_gate`.

    Args:
        folder: where a ``.py`` file of a rule is looked for first, as it mostly lies beside the gate.
    """
    read = parse_document(GateDocument, document, place=place)
    if not read.rules:
        raise wrong_use("no rule: it would let everything through", place=place, cure="name a rule")
    rules = tuple(_rule(of, settings or {}, place, folder) for of, settings in read.rules.items())
    return Gate(name, rules, read.slices)


def _rule(name: str, given: Mapping[str, Any], place: str, folder: Path | None) -> GateRule:
    if not name.endswith(".py") and name not in set(RULES):
        raise wrong_use(
            f"unknown rule `{name}`",
            place=place,
            cure=_choose(name, list(RULES)) + ", or name a .py file that registers one",
        )
    beside = None if folder is None else folder / name
    found = str(beside) if name.endswith(".py") and beside is not None and beside.is_file() else name
    rule = RULES[found]
    kind = _settings(rule)
    known = list(kind.model_fields)
    for key in given:
        if key not in known:
            what = f"unknown setting `{key}`"
            raise wrong_use(what, place=f"{place}, rule `{name}`", cure=_choose(key, known))
    read = parse_document(kind, given, place=f"{place}, rule `{name}`")
    return GateRule(name, RULES.identity(found), rule, read.model_dump(mode="json"))


def _settings(rule: Rule) -> type[Section]:
    """A rule's settings are its parameters after the case, with their types, bounds and defaults."""
    try:
        _, *parameters = inspect.signature(rule, eval_str=True).parameters.values()
    except ValueError as error:  # it has no parameter at all
        raise FinedeficsError(
            "this gate rule takes no case",
            place=getattr(rule, "__name__", str(rule)),
            cure="write `def rule(case, *, setting=default)`",
        ) from error
    fields: dict[str, Any] = {
        one.name: (
            Any if one.annotation is inspect.Parameter.empty else one.annotation,
            ... if one.default is inspect.Parameter.empty else one.default,
        )
        for one in parameters
    }
    return create_model("Settings", __base__=Section, **fields)


def _choose(wrong: str, known: Sequence[str]) -> str:
    near = get_close_matches(wrong, known, n=2)
    all_of_them = f"choose one of: {', '.join(sorted(known))}" if known else "it has no settings"
    return f"did you mean {' or '.join(near)}? {all_of_them}" if near else all_of_them
