"""The describer "names:openai:MODEL" or "names:transformers:MODEL": what a model knows of categories.

It describes no picture: it fills in the texts and attributes of categories, for those without a picture above
all. The names of attributes are asked for as the same model's picture describer asks for them, so that both
speak of the same ones.
"""

from finedefics.describers.asking import AskingDescriber
from finedefics.describers.contract import DESCRIBERS, Given
from finedefics.errors import wrong_use
from finedefics.registry import split_spec


class CategoryNamesDescriber(AskingDescriber):
    """Asks about categories instead of pictures."""

    reads_images = False


@DESCRIBERS.register("names")
def names_describer(given: Given) -> CategoryNamesDescriber:
    """Asks the model that the argument names.

    Raises:
        FinedeficsError: the argument names no model (exit code 2).
    """
    name, argument = split_spec(given.argument or "")
    model = None
    if argument:
        asked = DESCRIBERS[name](Given(argument, given.categories, given.options))
        model = asked.model if isinstance(asked, AskingDescriber) else None
    if model is None:
        raise wrong_use(
            "no model is named",
            place="describer 'names'",
            cure="write names:openai:MODEL or names:transformers:MODEL",
        )
    return CategoryNamesDescriber("names", model, given)
