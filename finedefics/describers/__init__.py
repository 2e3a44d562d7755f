"""Attribute descriptions: the bridge between what a picture shows and the name of its category.

A describer is one registered function in one file: here, in an installed package (the entry-point group
``finedefics.describers``), or in a file of the user's own. It takes a `Given` and returns a `Describer`, or
an `AskingDescriber` where a model is asked.
"""

from finedefics.describers.asking import AskingDescriber
from finedefics.describers.contract import DESCRIBERS, Describer, Description, Given, Subject
from finedefics.describers.vocabulary import Closing, Vocabulary
from finedefics.describers.wording import write_description

__all__ = [
    "DESCRIBERS",
    "AskingDescriber",
    "Closing",
    "Describer",
    "Description",
    "Given",
    "Subject",
    "Vocabulary",
    "write_description",
]
