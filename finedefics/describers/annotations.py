"""The describer "annotations": what the source itself says of a picture."""

import hashlib
from collections.abc import Sequence

from finedefics.describers.contract import DESCRIBERS, Description, Given, Subject
from finedefics.describers.wording import WORDING, write_description


@DESCRIBERS.register("annotations")
class AnnotatedDescriber:
    """Takes the source's description, or writes one from the source's attributes."""

    reads_images = False

    def __init__(self, given: Given | None = None) -> None:
        pass

    @property
    def describer_id(self) -> str:
        """``annotations-`` and the digest of the wording."""
        return "annotations-" + hashlib.sha256(WORDING.encode()).hexdigest()[:12]

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """None for a subject with neither description nor attributes."""
        return [_describe(subject) for subject in subjects]


def _describe(subject: Subject) -> Description | None:
    attributes = subject.attributes or {}
    text = (subject.description or "").strip()
    return Description(text, attributes) if text or write_description(attributes) else None
