"""Some pictures of a dataset to look at: drawn by a seed, spread over categories and splits, made small."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finedefics.records import SPLITS, attributes_from_arrow
from finedefics.rgb import as_rgb
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.data.inspection.rows import Rows
from finedefics_platform.data.store import Dataset

EDGE = 288  # pixels of a thumbnail's longer side: twice what is shown, for dense screens
_QUALITY = 78
_SEEN = 24  # pixels
_SHOWN_NEGATIVES = 4
_AT_ONCE = 64  # pictures read together: what is held in memory before they are made small


@dataclass(frozen=True)
class Shown:
    """A picture made small, with all that is known of it.

    Attributes:
        image: JPEG bytes.
        size: width and height in pixels as it was ingested.
        negatives: ids of the hard negatives with their similarity, most similar first.
    """

    row: int
    sample_id: str
    image: bytes
    size: tuple[int, int]
    source: str
    split: str
    category_id: str | None
    description: str | None
    attributes: dict[str, str]
    negatives: tuple[tuple[str, float], ...]


def choose_rows(dataset: Dataset, count: int, *, seed: int = 0) -> list[int]:
    """Rows by number, in file order: every category and split in turn, within one at random.

    Pictures without a label are spread over the categories that they are most like, where that is known.
    """
    table = dataset.table("row_groups", ["split", "labelled", "categories", "likes"]).to_pylist()
    strata = []
    for group in table:
        own = np.asarray(group["likes"] or group["categories"], np.int64)
        strata.append((own * len(SPLITS) + SPLITS.index(group["split"])) * 2 + group["labelled"])
    of_row = np.concatenate(strata)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(of_row))
    # how many of its stratum come before a row in the random order: who is first in all strata goes first
    sorted_order = order[np.argsort(of_row[order], kind="stable")]
    found, starts = np.unique(of_row[sorted_order], return_index=True)
    turn = np.arange(len(of_row)) - np.repeat(starts, np.diff(np.append(starts, len(of_row))))
    among = generator.permutation(len(found))[np.searchsorted(found, of_row[sorted_order])]
    chosen = sorted_order[np.lexsort((among, turn))][:count]
    return sorted(chosen.tolist())


def show(dataset: Dataset, rows: Sequence[int], progress: Progress = SILENT) -> list[Shown]:
    """The rows as thumbnails, in the order asked for.

    Raises:
        FinedeficsError: a file of the dataset is missing or damaged.
    """
    columns = {
        "samples": ["sample_id", "image", "category_id", "split", "width", "height", "source"],
        "descriptions": ["description", "attributes"],
        "negatives": ["candidates"],
    }
    reader, shown = Rows(dataset), []
    with progress.progress("making thumbnails", len(rows)) as advance:
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            for row, told in zip(part, reader.read(part, columns), strict=True):
                candidates = (told["candidates"] or [])[:_SHOWN_NEGATIVES]
                shown.append(
                    Shown(
                        row,
                        told["sample_id"],
                        thumbnail(told["image"]),
                        (told["width"], told["height"]),
                        told["source"],
                        told["split"],
                        told["category_id"],
                        told["description"],
                        attributes_from_arrow(told["attributes"]),
                        tuple((one["category_id"], one["similarity"]) for one in candidates),
                    )
                )
            advance(len(part))
    return shown


def agreement(one: bytes, other: bytes) -> float:
    """Correlation of two encoded pictures' brightness, seen very small: 1 for the same scene, 0 for none.

    A difference hash only says where it gets brighter, so of pictures with little in them unlike ones meet.
    """
    seen = []
    for image in (one, other):
        with Image.open(io.BytesIO(image)) as picture:
            grey = as_rgb(picture).convert("L").resize((_SEEN, _SEEN), Image.Resampling.BOX)
        values = np.asarray(grey, float).ravel()
        seen.append((values - values.mean()) / (values.std() or 1.0))
    return float((seen[0] * seen[1]).mean())


def thumbnail(image: bytes, edge: int = EDGE) -> bytes:
    """An encoded picture as a small JPEG, standing as the camera was held, without its metadata."""
    with Image.open(io.BytesIO(image)) as picture:
        # a JPEG is decoded at an eighth, a quarter or a half where that is enough
        picture.draft("RGB", (edge, edge))
        small = as_rgb(picture)
    if max(small.size) > edge:
        small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
