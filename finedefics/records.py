"""What a sample, a category and a description are: the dataset store's tables, in memory and in Arrow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from finedefics.errors import wrong_use

SPLITS = ("train", "val", "test")

ATTRIBUTES = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG/PNG bytes exactly as ingested
        pa.field("category_id", pa.string()),  # null: a picture without a label
        pa.field("split", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # path relative to the ingested folder
        pa.field("look", pa.uint64(), nullable=False),  # difference hash: near duplicates differ in few bits
    ]
)

CATEGORIES = pa.schema(
    [
        pa.field("category_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("super_category", pa.string()),
        pa.field("description", pa.string()),  # category-level attribute description
        pa.field("attributes", ATTRIBUTES),
    ]
)

# What the source itself said of a picture; the describer "annotations" turns it into descriptions.
ANNOTATIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("attributes", ATTRIBUTES),
        pa.field("negatives", pa.list_(pa.string())),  # ids, hardest first; the miner "provided" takes them
    ]
)

DESCRIPTIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("attributes", ATTRIBUTES),
        pa.field("description", pa.string()),  # null: nobody had anything to say of the picture
        pa.field("describer_id", pa.string(), nullable=False),
    ]
)

CANDIDATES = pa.list_(pa.struct([("category_id", pa.string()), ("similarity", pa.float32())]))

NEGATIVES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        # most similar wrong category first; a search over their number takes a prefix, it never mines again
        pa.field("candidates", CANDIDATES),  # empty or null: none is known
        pa.field("miner_id", pa.string(), nullable=False),
    ]
)

# Each category's most similar others, as the negatives of its pictures rank them.
NEIGHBOURS = pa.schema(
    [
        pa.field("category_id", pa.string(), nullable=False),
        pa.field("candidates", CANDIDATES, nullable=False),
    ]
)

# What a labeller takes a picture without a label for: an inference, kept apart from the labels of samples.
LABELS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("category_id", pa.string()),  # null: nothing was inferred, or the picture has a label
        pa.field("probability", pa.float32()),  # that the labeller gives it
        pa.field("margin", pa.float32()),  # over the second likeliest
        pa.field("labeller_id", pa.string(), nullable=False),
    ]
)

# What there is to read, a row group a row: enough to plan a stream without opening a file of pictures.
ROW_GROUPS = pa.schema(
    [
        pa.field("file", pa.int32(), nullable=False),  # position among the files of the samples
        pa.field("index", pa.int32(), nullable=False),  # of the row group in that file
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),  # of the encoded pictures
        pa.field("split", pa.string(), nullable=False),
        pa.field("labelled", pa.bool_(), nullable=False),  # all of its rows, or none
        pa.field("described", pa.int32(), nullable=False),  # rows with a description
        # of each row: positions in the category table sorted by id, -1 where there is none
        pa.field("categories", pa.list_(pa.int32()), nullable=False),  # its label
        pa.field("likes", pa.list_(pa.int32())),  # its label, else the first of its negatives
        pa.field("inferred", pa.list_(pa.float32())),  # probability of its inferred label, -1 where none is
    ]
)

# What the attributes of descriptions may say, and which wordings were taken to mean it.
VOCABULARY = pa.schema(
    [
        pa.field("attribute", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("pictures", pa.int64(), nullable=False),
        pa.field("said", pa.list_(pa.string())),  # most frequent first
    ]
)

QUARANTINE = pa.schema([("source", pa.string()), ("split", pa.string()), ("reason", pa.string())])

# Companions of the samples: one row a sample in the same files, row groups and order.
ALIGNED = ("annotations", "descriptions", "negatives", "labels")

TABLES = {
    "samples": SAMPLES,
    "categories": CATEGORIES,
    "annotations": ANNOTATIONS,
    "descriptions": DESCRIPTIONS,
    "negatives": NEGATIVES,
    "labels": LABELS,
    "neighbours": NEIGHBOURS,
    "row_groups": ROW_GROUPS,
    "vocabulary": VOCABULARY,
    "quarantine": QUARANTINE,
}


@dataclass(frozen=True)
class Category:
    """A category known by its name, and by a text where one is given."""

    category_id: str
    name: str
    super_category: str | None = None
    description: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One picture as the training and evaluation code sees it.

    ``category_id`` is None for a picture that has a description but no label; ``negatives`` are the ids of
    the most similar wrong categories, most similar first.
    """

    sample_id: str
    image: bytes
    category_id: str | None = None
    description: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    negatives: tuple[str, ...] = ()


def attributes_from_arrow(pairs: list[dict[str, str]] | None) -> dict[str, str]:
    """Attribute pairs as Arrow gives them, as a mapping."""
    return {pair["name"]: pair["value"] for pair in pairs or []}


def attributes_to_arrow(attributes: Mapping[str, str]) -> list[dict[str, str]]:
    """The inverse of `attributes_from_arrow`, sorted by name so that equal mappings give equal bytes."""
    return [{"name": name, "value": attributes[name]} for name in sorted(attributes)]


def check_distinct(categories: Sequence[Category]) -> None:
    """FinedeficsError (exit code 2) where a name is empty, or two share an id, or a name up to case."""
    for category in categories:
        if not category.name.strip():
            raise wrong_use(
                "the name is empty",
                place=f"category {category.category_id}",
                cure="give it a name, or leave it out",
            )
    for what in ("category_id", "name"):
        seen: set[str] = set()
        for category in categories:
            value = str(getattr(category, what))
            if value.casefold() in seen:
                raise wrong_use(
                    f"two categories have the {what.removeprefix('category_')} {value!r}",
                    place="category table",
                    cure="rename one of them, or leave it out",
                )
            seen.add(value.casefold())
