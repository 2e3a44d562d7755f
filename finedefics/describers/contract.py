"""What a describer is given, what it is shown of a picture, and what it says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finedefics.records import Category
from finedefics.registry import Registry


@dataclass(frozen=True)
class Given:
    """What a describer is made from.

    Attributes:
        argument: what stands behind the colon of its name (``file:notes.jsonl``), None without one.
        categories: the category table, sorted by id.
        options: settings of describers that ask a model (`finedefics.describers.asking.Options`'s fields).
    """

    argument: str | None = None
    categories: Sequence[Category] = ()
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A picture to be described, with what is known of it."""

    sample_id: str
    image: bytes | None = field(default=None, repr=False)  # encoded; None unless the describer reads images
    description: str | None = None  # the source's own words
    attributes: Mapping[str, str] | None = None
    category_id: str | None = None
    source: str = ""  # path relative to the ingested folder
    content_hash: str = ""


@dataclass(frozen=True)
class Description:
    """What is visible in one picture; an empty text is written from the attributes later."""

    text: str
    attributes: Mapping[str, str]


class Describer(Protocol):
    """Describes pictures, a batch at a time. It travels pickled to wherever pictures are.

    One that says the same in many wordings may have an attribute ``closing`` (`vocabulary.ASKED`); without it
    what it says is meant as it stands (`vocabulary.ANNOTATED`).
    """

    reads_images: bool

    @property
    def describer_id(self) -> str:
        """Name and digest of all that determines the descriptions."""
        ...

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """One description a subject, None where there is nothing to say."""
        ...


# Describers are registered under the first part of their name: "openai" is asked for as "openai:MODEL".
DESCRIBERS: Registry[Callable[[Given], Describer]] = Registry(
    "describer", package="finedefics.describers", group="finedefics.describers"
)
