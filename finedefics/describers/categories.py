"""The describer "categories": a labelled picture gets what is known of its category.

That is knowledge of the class, whether or not this picture shows it: a bird seen from behind gets its
breast's colour too. It costs nothing, and class attributes are all that some data sets have.
"""

from collections.abc import Sequence

from finedefics.describers.contract import DESCRIBERS, Description, Given, Subject
from finedefics.describers.wording import write_description
from finedefics.errors import FinedeficsError
from finedefics.records import Category


@DESCRIBERS.register("categories")
class CategoryDescriber:
    """Text and attributes of a picture's category; None for pictures without a label.

    Raises:
        FinedeficsError: no category has a text or attributes.
    """

    reads_images = False

    def __init__(self, given: Given) -> None:
        self._known = {c.category_id: _of(c) for c in given.categories if c.description or c.attributes}
        if not self._known:
            raise FinedeficsError(
                "no category has a text or attributes",
                place="describer 'categories'",
                cure="give them in categories.jsonl, or ask a model (`--describer names:openai:MODEL`)",
            )

    @property
    def describer_id(self) -> str:
        """The texts themselves are a table that every version names by its digest."""
        return "categories-1"

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """None for a picture without a label, or of a category of which nothing is known."""
        return [self._known.get(subject.category_id or "") for subject in subjects]


def _of(category: Category) -> Description:
    text = (category.description or "").strip()
    # a text that only says the attributes is written anew from them, in the vocabulary's values
    return Description("" if text == write_description(category.attributes) else text, category.attributes)
