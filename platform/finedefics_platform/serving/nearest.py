"""Training pictures to show beside an answer: which, as thumbnails, and how near they are.

``embeddings/nearest-<digest>/pictures.parquet`` in the workspace has a row a picture. The digest is of the
model's content, the dataset's, and how many of a category were taken, so that a model that is served again
has them at once. They are no part of a registered version: a version goes where its pictures may not.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from finedefics.rgb import as_rgb
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location, commit, committed, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset, Place

EDGE = 128  # of a thumbnail
MOST = 2_000  # pictures of all categories together
FILE = "pictures.parquet"
_FORMAT = 1


@dataclass(frozen=True)
class Shown:
    """A training picture beside an answer."""

    sample_id: str
    category_id: str
    thumbnail: bytes  # JPEG
    similarity: float  # cosine of the object embeddings


@dataclass
class TrainingPictures:
    """Training pictures that are embedded, more of them while a server starts.

    Attributes:
        wanted: how many there will be.
        note: why there are none or not all, for whoever looks; None where all are there.
    """

    wanted: int = 0
    note: str | None = None
    _about: list[tuple[str, str, bytes]] = field(default_factory=list)
    _objects: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _stacked: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._about)

    def add(
        self, sample_id: str, category_id: str, thumbnail: bytes, objects: npt.NDArray[np.float32]
    ) -> None:
        """One more: its thumbnail, and its embedding [dim], normalised."""
        self._about.append((sample_id, category_id, thumbnail))
        self._objects.append(objects)
        self._stacked = None

    def nearest(self, objects: npt.NDArray[np.float32], count: int) -> list[Shown]:
        """The nearest to an embedding [dim], nearest first; at most ``count``."""
        if not self._objects:
            return []
        if self._stacked is None:
            self._stacked = np.stack(self._objects)
        similar = self._stacked @ objects
        order = np.argsort(-similar, kind="stable")[:count].tolist()
        near = ((*self._about[row], float(similar[row])) for row in order)
        return [Shown(*each) for each in near]

    def save(self, place: Location) -> None:
        """Keep them for the next start."""
        sample_ids, category_ids, thumbnails = zip(*self._about, strict=True)
        table = pa.table(
            {
                "sample_id": sample_ids,
                "category_id": category_ids,
                "thumbnail": pa.array(thumbnails, pa.binary()),
                "objects": pa.array([row.tolist() for row in self._objects], pa.list_(pa.float32())),
            }
        )
        with commit(place) as draft:
            pq.write_table(table, draft / FILE)

    @staticmethod
    def load(place: Location) -> "TrainingPictures | None":
        """What `save` kept; None where nothing was."""
        if committed(place) is None:
            return None
        rows = pq.read_table(fetch(place) / FILE).to_pylist()
        found = TrainingPictures(len(rows))
        for row in rows:
            objects = np.array(row["objects"], np.float32)
            found.add(row["sample_id"], row["category_id"], row["thumbnail"], objects)
        return found


def kept_at(workspace: Workspace, model_digest: str, dataset: Dataset, each: int) -> Location:
    """Where they are kept of a model and a dataset, ``each`` of a category."""
    address = digest_of([_FORMAT, model_digest, dataset.digest, each, MOST, EDGE])
    return workspace.embeddings / f"nearest-{address}"


def choose(dataset: Dataset, each: int, most: int = MOST) -> list[Place]:
    """Where labelled training pictures lie: ``each`` of a category at most, as many of all of them.

    Samples lie in an order that is a hash of their content, so the first are as good as any drawn.
    """
    rows = dataset.table("row_groups", ["split", "labelled", "categories"]).to_pylist()
    labels = [
        label for row in rows if row["split"] == "train" and row["labelled"] for label in row["categories"]
    ]
    each = max(1, min(each, most // max(1, len(set(labels)))))
    taken: Counter[int] = Counter()
    positions = []
    for position, label in enumerate(labels):
        taken[label] += 1
        if taken[label] <= each:
            positions.append(position)
    return dataset.labelled_places("train", positions[:most])


def in_chunks(places: Sequence[Place], size: int) -> Iterator[Sequence[Place]]:
    """Some places at a time."""
    return (places[start : start + size] for start in range(0, len(places), size))


def thumbnail(data: bytes) -> bytes:
    """A small JPEG of a picture of the dataset."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (EDGE, EDGE))  # a JPEG is decoded no larger than it is needed
        small = as_rgb(picture)
    small.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
