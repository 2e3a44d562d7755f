"""Attribute descriptions: the bridge between what a picture shows and the name of its category.

A describer turns pictures into descriptions. "annotations" takes what the source itself says; describers
that ask a model register beside it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from finedefics.registry import Registry


@dataclass(frozen=True)
class Subject:
    """A picture to be described, with what its source said of it."""

    sample_id: str
    image: bytes | None = None  # encoded; None unless the describer reads images
    description: str | None = None
    attributes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Description:
    """What is visible in one picture."""

    text: str
    attributes: Mapping[str, str]


class Describer(Protocol):
    """Describes pictures, a batch at a time."""

    reads_images: bool

    @property
    def describer_id(self) -> str:
        """Name and digest of all that determines the answers."""
        ...

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """One description a subject, None where there is nothing to say."""
        ...


DESCRIBERS: Registry[Callable[[], Describer]] = Registry("describer")


@DESCRIBERS.register("annotations")
class AnnotatedDescriber:
    """Takes the source's description, or writes one from the source's attributes."""

    reads_images = False
    _WORDING = "{value} {name}"

    @property
    def describer_id(self) -> str:
        """``annotations-`` and the digest of the wording."""
        return "annotations-" + hashlib.sha256(self._WORDING.encode()).hexdigest()[:12]

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """None for a subject with neither description nor attributes."""
        return [self._describe(subject.description, subject.attributes or {}) for subject in subjects]

    def _describe(self, text: str | None, attributes: Mapping[str, str]) -> Description | None:
        text = (text or "").strip() or write_description(attributes, self._WORDING)
        return Description(text, attributes) if text else None


def write_description(attributes: Mapping[str, str], wording: str = "{value} {name}") -> str:
    """Attributes as a phrase: ``{"crown": "red", "wing_bars": "2"}`` gives "red crown and 2 wing bars"."""
    phrases = [
        wording.format(name=name.replace("_", " "), value=value)
        for name, value in attributes.items()
        if value
    ]
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))
