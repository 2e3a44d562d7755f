"""What a model knows of categories in words: texts for the table of categories."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from finedefics.describers import AskingDescriber, Vocabulary, write_description
from finedefics.describers.models import Failure
from finedefics.describers.vocabulary import Closing, count_values
from finedefics.records import CATEGORIES, Category, attributes_to_arrow
from finedefics_platform.data.describing.asking import Asker


def fill_categories(
    describer: AskingDescriber,
    asker: Asker,
    categories: Sequence[Category],
    known: Mapping[str, Sequence[str]],
    *,
    overwrite: bool,
) -> tuple[list[Category], dict[str, str]]:
    """Categories with the attributes and texts that the model knows, and why it knows nothing of others.

    Args:
        known: values that stand: those of categories, and of pictures where they are described already.
        overwrite: what is there already is replaced; otherwise only what is missing is filled in.
    """
    asked = [c for c in categories if overwrite or not c.attributes]
    found = asker.settle([describer.of_category(category) for category in asked])
    said: dict[str, dict[str, str]] = {}
    unknown: dict[str, str] = {}
    for category, one in zip(asked, found, strict=True):
        values = {} if isinstance(one, Failure) else describer.unnamed(one)[0]  # type: ignore[arg-type]
        said[category.category_id] = values
        if not values:
            unknown[category.name] = one.reason if isinstance(one, Failure) else "it knows nothing of it"
    # categories are few: what is said of one alone is not rare, but two wordings of one thing are one
    closing = Closing(rare_floor=1, rare_cap=1)
    vocabulary = Vocabulary.of(count_values(said.values()), closing, known=known)
    return [_filled(c, vocabulary, said.get(c.category_id), overwrite) for c in categories], unknown


def known_values(categories: Sequence[Category], vocabulary: pa.Table | None = None) -> dict[str, list[str]]:
    """Of each attribute the values that pictures and categories have, the most frequent first.

    Args:
        vocabulary: of the pictures, where they are described already.
    """
    counts = count_values(category.attributes for category in categories)
    for row in vocabulary.to_pylist() if vocabulary is not None else ():
        counts.setdefault(row["attribute"], Counter())[row["value"]] += row["pictures"]
    return {
        name: sorted(values, key=lambda value: (-values[value], value)) for name, values in counts.items()
    }


def in_vocabulary(categories: Sequence[Category], vocabulary: Vocabulary) -> list[Category]:
    """Categories whose values are the vocabulary's, so that they can be compared with pictures."""
    made = []
    for category in categories:
        attributes = vocabulary.attributes(category.attributes)
        text = category.description
        if attributes != category.attributes and text == write_description(category.attributes):
            text = write_description(attributes) or None
        made.append(replace(category, attributes=attributes, description=text))
    return made


def category_table(categories: Sequence[Category]) -> pa.Table:
    """Rows of the category table."""
    rows = [{**vars(c), "attributes": attributes_to_arrow(c.attributes)} for c in categories]
    return pa.Table.from_pylist(rows, schema=CATEGORIES)


def _filled(
    category: Category, vocabulary: Vocabulary, said: Mapping[str, str] | None, overwrite: bool
) -> Category:
    attributes = vocabulary.attributes(said) if said else {}
    attributes = attributes or dict(category.attributes)
    keep_text = category.description and not (overwrite and said)
    text = category.description if keep_text else write_description(dict(sorted(attributes.items()))) or None
    return replace(category, attributes=attributes, description=text)
