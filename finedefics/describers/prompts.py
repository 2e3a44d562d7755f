"""Prompts are files with a version in their name: a changed prompt is a new file, and a new describer."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

NAMES, VALUES, CATEGORY, DESCRIPTION, AGAIN = (
    "attributes.v1",
    "values.v1",
    "category.v1",
    "description.v1",
    "again.v1",
)


@dataclass(frozen=True)
class Prompt:
    """A versioned prompt; ``$name`` in its text is filled in."""

    name: str
    text: str

    @property
    def identity(self) -> str:
        """Name, version and digest: an edited file is another prompt even under the same name."""
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    def fill(self, **values: object) -> str:
        """The text with every ``$name`` filled in; KeyError where one is missing."""
        return Template(self.text).substitute(values)


@cache
def prompt(name: str) -> Prompt:
    """The prompt in ``prompts/<name>.txt``."""
    file = files("finedefics.describers") / "prompts" / f"{name}.txt"
    return Prompt(name, file.read_text(encoding="utf-8").rstrip("\n"))
