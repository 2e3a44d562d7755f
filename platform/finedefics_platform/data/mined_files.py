"""What a mining task does: rank the pictures of one samples file, and write the file of negatives."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finedefics.mining import EmbeddingMiner, Miner, Ranked, Ranking
from finedefics.mining.base import Confusable
from finedefics.records import CANDIDATES, NEGATIVES, attributes_from_arrow
from finedefics_platform.base.storage import Location
from finedefics_platform.data.embeddings import Embeddings, read_array
from finedefics_platform.data.parquet import TABLES_FOLDER, Part, write_planned
from finedefics_platform.data.store import Dataset, RowGroup


@dataclass(frozen=True)
class Votes:
    """How highly the labelled training pictures of a category rank each other one: summed reciprocal rank.

    Attributes:
        pairs: int64, sorted: position of the category times the number of categories, plus the other's.
        sums: float64, of each pair.
    """

    pairs: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]

    @staticmethod
    def of(pairs: npt.NDArray[np.int64], votes: npt.NDArray[np.float64]) -> "Votes":
        """Votes with equal pairs added up."""
        unique, place = np.unique(pairs, return_inverse=True)
        return Votes(unique, np.bincount(place, votes, len(unique)).astype(np.float64))

    def __add__(self, other: "Votes") -> "Votes":
        return Votes.of(np.concatenate([self.pairs, other.pairs]), np.concatenate([self.sums, other.sums]))


NO_VOTES = Votes(np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class MinedFile:
    """What a task wrote: a file of negatives.

    Attributes:
        likes: of each of its row groups, of each row, the position of the category it is most like, -1 where
            none is known.
        votes: of its labelled training pictures.
        most: candidates that any picture has.
        without: pictures without a candidate.
    """

    part: Part
    likes: tuple[tuple[int, ...], ...]
    votes: Votes
    most: int
    without: int


class FileMiner(Protocol):
    """Ranks the pictures of a samples file; travels pickled to tasks."""

    @property
    def miner_id(self) -> str:
        """All that determines the similarities."""
        ...

    def rank(self, dataset: Dataset, groups: Sequence[RowGroup], keep: int) -> Ranked:
        """Candidates of all rows of the file, as positions among `Dataset.categories`."""
        ...


@dataclass(frozen=True)
class ListedMiner:
    """A registered miner, which compares what is known of pictures in words.

    Attributes:
        code: name and digest of the `.py` file that it came from, None for an installed one.
    """

    miner: Miner
    code: str | None = None

    @property
    def miner_id(self) -> str:
        """The miner's own; of a file with its content, as an id is easily left as it is."""
        return f"{self.miner.miner_id}-{self.code}" if self.code else self.miner.miner_id

    def rank(self, dataset: Dataset, groups: Sequence[RowGroup], keep: int) -> Ranked:
        """All of a file at once: a miner compares many pictures faster than few."""
        pictures = [picture for group in groups for picture in _confusables(dataset, group)]
        return as_ranked(self.miner(pictures, keep), _positions(dataset), keep)


@dataclass(frozen=True)
class EmbeddedMiner:
    """Ranks by embeddings that are there already.

    Attributes:
        embeddings: of the pictures.
        targets: file of those of the categories, in the order of `Dataset.categories`.
    """

    embeddings: Embeddings
    targets: Location

    @property
    def miner_id(self) -> str:
        """Embedder and mode, and the content of what is compared with."""
        embeddings = self.embeddings
        return f"{embeddings.embedder_id}-{embeddings.mode}-{self.targets.name.removesuffix('.npy')}"

    def rank(self, dataset: Dataset, groups: Sequence[RowGroup], keep: int) -> Ranked:
        """Reads labels, and attributes where there are pictures without one."""
        labels: list[str | None] = []
        attributes: list[Mapping[str, str]] = []
        for group in groups:
            columns: dict[str, list[str]] = {"samples": ["category_id"]}
            if not group.labelled:
                columns["descriptions"] = ["attributes"]
            rows = dataset.read(group, columns)
            labels += rows["category_id"].to_pylist()
            if group.labelled:
                attributes += [{}] * group.rows
            else:
                attributes += map(attributes_from_arrow, rows["attributes"].to_pylist())
        part = self.embeddings.part(groups[0].file)
        return _ranker(self.targets, dataset.root).rank(part, labels, attributes, keep)


def mine_file(
    dataset: Dataset,
    groups: Sequence[RowGroup],
    miner: FileMiner,
    keep: int,
    home: Location | None = None,
) -> MinedFile:
    """Rank the pictures of a samples file and write its negatives, row group by row group.

    Args:
        home: the folder to write below; default: the dataset's.
    """
    ids = list(_positions(dataset))
    ranked = miner.rank(dataset, groups, keep)
    labels = [_labels(dataset, group) for group in groups]
    found = ranked.positions >= 0
    part = write_negatives(home or dataset.root.parent, dataset, groups, ranked, ids, miner.miner_id)
    likes, votes, start = [], NO_VOTES, 0
    for group, own in zip(groups, labels, strict=True):
        rows = slice(start, start + group.rows)
        start += group.rows
        best = ranked.positions[rows, 0] if ranked.positions.shape[1] else np.full(group.rows, -1)
        likes.append(tuple(int(like) for like in np.where(own >= 0, own, best)))
        if group.split == "train" and group.labelled:
            votes = votes + _votes(own, ranked.positions[rows], len(ids))
    counts = found.sum(1)
    return MinedFile(part, tuple(likes), votes, int(counts.max(initial=0)), int((counts == 0).sum()))


def write_negatives(
    home: Location,
    dataset: Dataset,
    groups: Sequence[RowGroup],
    ranked: Ranked,
    ids: Sequence[str],
    miner_id: str,
) -> Part:
    """Write the negatives of a samples file below a dataset's folder, unless they are there.

    Its name is made from the arrays that determine its rows, which is faster than from the rows.
    """
    names = [dataset.read(group, {"samples": ["sample_id"]})["sample_id"] for group in groups]
    sha = hashlib.sha256(repr([miner_id, [group.rows for group in groups], list(ids)]).encode())
    for column in names:
        sha.update("\0".join(column.to_pylist()).encode() + b"\1")
    sha.update(np.ascontiguousarray(ranked.positions).tobytes())
    sha.update(np.ascontiguousarray(ranked.similarity).tobytes())
    digest = sha.hexdigest()
    way = f"{TABLES_FOLDER}/negatives/{digest[:32]}.parquet"
    part = Part(way, digest, sum(group.rows for group in groups))

    def tables() -> list[pa.Table]:
        made, start = [], 0
        for group, column in zip(groups, names, strict=True):
            rows = slice(start, start + group.rows)
            some = Ranked(ranked.positions[rows], ranked.similarity[rows])
            miners = pa.array([miner_id] * group.rows)
            made.append(pa.table([column, candidates(some, ids), miners], NEGATIVES.names).cast(NEGATIVES))
            start += group.rows
        return made

    write_planned(home, "negatives", part, tables)
    return part


def candidates(ranked: Ranked, ids: Sequence[str]) -> pa.Array:
    """Candidates as the store's column, a list a row; made from arrays, not from a dictionary a candidate."""
    there = ranked.positions >= 0
    chosen = pa.array(ids, pa.string()).take(pa.array(ranked.positions[there]))
    similarity = pa.array(ranked.similarity[there], pa.float32())
    pairs = pa.StructArray.from_arrays([chosen, similarity], names=["category_id", "similarity"])
    offsets = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pairs).cast(CANDIDATES)


def as_ranked(rankings: Sequence[Ranking], position: Mapping[str, int], keep: int) -> Ranked:
    """Rankings by id as arrays."""
    positions = np.full((len(rankings), keep), -1, np.int32)
    similarity = np.full((len(rankings), keep), np.nan, np.float32)
    for row, ranking in enumerate(rankings):
        for column, (category, value) in enumerate(ranking[:keep]):
            positions[row, column], similarity[row, column] = position[category], value
    return Ranked(positions, similarity)


def _votes(own: npt.NDArray[np.int64], positions: npt.NDArray[np.int32], categories: int) -> Votes:
    there = (positions >= 0) & (own >= 0)[:, None]
    weights = np.broadcast_to(1 / np.arange(1, positions.shape[1] + 1), positions.shape)
    pairs = own[:, None].astype(np.int64) * categories + positions
    return Votes.of(pairs[there], weights[there])


def _labels(dataset: Dataset, group: RowGroup) -> npt.NDArray[np.int64]:
    position = _positions(dataset)
    ids = dataset.read(group, {"samples": ["category_id"]})["category_id"].to_pylist()
    return np.array([position.get(category, -1) if category else -1 for category in ids], np.int64)


def _confusables(dataset: Dataset, group: RowGroup) -> list[Confusable]:
    columns = {
        "samples": ["sample_id", "category_id"],
        "descriptions": ["attributes"],
        "annotations": ["negatives"],
    }
    return [
        Confusable(
            row["sample_id"],
            row["category_id"],
            attributes_from_arrow(row["attributes"]),
            tuple(row["negatives"] or ()),
        )
        for row in dataset.read(group, columns).to_pylist()
    ]


@lru_cache(maxsize=4)
def _positions_at(root: Location) -> dict[str, int]:
    from finedefics_platform.data.store import open_version

    return {c.category_id: i for i, c in enumerate(open_version(root).categories())}


def _positions(dataset: Dataset) -> dict[str, int]:
    return _positions_at(dataset.root)


@lru_cache(maxsize=2)
def _ranker(targets: Location, root: Location) -> EmbeddingMiner:
    """Made once a process: many files are ranked by one."""
    from finedefics_platform.data.store import open_version

    rows: Any = read_array(targets)
    return EmbeddingMiner(open_version(root).categories(), rows)
