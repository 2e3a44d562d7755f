"""A stage's hard negatives: the dataset's, those of another version of it, or mined anew by the model itself.

What the model mines is kept in the run's storage, ``negatives/<stage>/``, and is complete when its
``tables.json`` is there: a run that goes on uses the same, whatever its weights are by then.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finedefics.errors import wrong_use
from finedefics.mining import KEEP, EmbeddingMiner, Ranked, check_finite
from finedefics.records import Category, attributes_from_arrow
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import MINED, MODEL, Stage
from finedefics_platform.data.embeddings import write_array
from finedefics_platform.data.mined_files import MinedFile, mine_file
from finedefics_platform.data.mining import neighbours, with_likes
from finedefics_platform.data.parquet import Part, write_part
from finedefics_platform.data.store import Dataset, RowGroup, open_dataset, open_version

if TYPE_CHECKING:
    from finedefics.backbones import Backbone
    from finedefics.scoring import AskedModel

TABLES = ("negatives", "neighbours", "row_groups")
DONE = "tables.json"
_AT_ONCE = 32  # pictures that are embedded in one call


def pinned(workspace: Workspace, stage: Stage, dataset: Dataset) -> Stage:
    """The stage with the version that its negatives come from named by digest.

    Raises:
        FinedeficsError: there is no such version, its pictures are others, or it has no negatives (exit
            code 2).
    """
    if stage.negatives in (MINED, MODEL):
        return stage
    other = open_dataset(workspace, stage.negatives)
    _check_same_pictures(stage, dataset, other)
    return stage.model_copy(update={"negatives": other.reference})


def stage_dataset(dataset: Dataset, stage: Stage, run: Location | None = None) -> Dataset | None:
    """The dataset as a stage sees it; None where the model has to mine first.

    Args:
        stage: with a pinned version (`pinned`).
        run: the run's storage; without it, what a model is to mine is never there.
    """
    if stage.negatives == MINED:
        return dataset
    if stage.negatives == MODEL:
        place = None if run is None else _place(run, stage)
        if place is None or not (place / DONE).is_file():
            return None
        made = (place / DONE).read_json()
        return dataset.with_tables(made["tables"], made["provenance"], home=place)
    other = open_version(dataset.root.parent / stage.negatives.rpartition("@")[2])
    _check_same_pictures(stage, dataset, other)
    # Row groups count descriptions and inferred labels of their own version: those of others would send the
    # stage to rows that have none here. Then the dataset's own stand, and with them what its rows are like.
    same = all(_digest(dataset, table) == _digest(other, table) for table in ("descriptions", "labels"))
    names = TABLES if same else TABLES[:2]
    taken = {name: other.manifest["tables"][name] for name in names}
    return dataset.with_tables(taken, {name: other.manifest["provenance"][name] for name in names})


def mine_with_model(
    backbone: "Backbone",
    dataset: Dataset,
    experiment: Experiment,
    stage: Stage,
    run: Location,
    rank: int,
    world: int,
) -> None:
    """Mine a stage's negatives with the model as it is, all ranks together: each embeds its share.

    Every rank makes equally many calls of the model, so that sharded weights are gathered by all together.
    Rank 0 writes the tables. The model must be in evaluation, and no gradient be wanted.

    Raises:
        FinedeficsError: an embedding is not finite; its sample is named.
    """
    from finedefics.scoring import AskedModel

    place, categories = _place(run, stage), dataset.categories()
    asked = AskedModel(
        backbone,
        categories,
        templates=experiment.data.templates.as_templates(),
        object_readout=experiment.model.object_readout,
        micro_tokens=experiment.evaluation.micro_tokens,
    )
    texts = asked.index.embeddings("sum").float().cpu().numpy()
    miner = EmbeddingMiner(categories, texts, str(backbone.device))
    pieces = _pieces(dataset)
    each = -(-len(pieces) // world)
    own = range(rank * each, (rank + 1) * each)
    positions, similarity = [np.zeros((0, KEEP), np.int32)], [np.zeros((0, KEEP), np.float32)]
    for number in own:
        piece = pieces[min(number, len(pieces) - 1)]  # the last one again where there are no more
        ranked = _rank_piece(asked, miner, dataset, piece)
        if number < len(pieces):
            positions.append(ranked.positions)
            similarity.append(ranked.similarity)
    write_array(place / f"positions-{rank}.npy", np.concatenate(positions))
    write_array(place / f"similarity-{rank}.npy", np.concatenate(similarity))
    _together()
    if rank == 0:
        _write_tables(place, dataset, categories, world, experiment.digest(), stage)
    _together()


@dataclass(frozen=True)
class _Piece:
    """Some rows of a row group of the split train."""

    group: RowGroup
    start: int
    stop: int


def _pieces(dataset: Dataset) -> list[_Piece]:
    return [
        _Piece(group, start, min(start + _AT_ONCE, group.rows))
        for group in dataset.row_groups("train")
        for start in range(0, group.rows, _AT_ONCE)
    ]


def _rank_piece(asked: "AskedModel", miner: EmbeddingMiner, dataset: Dataset, piece: _Piece) -> Ranked:
    from finedefics.pictures import decode_image

    columns = {"samples": ["sample_id", "image", "category_id"], "descriptions": ["attributes"]}
    rows = dataset.read(piece.group, columns).slice(piece.start, piece.stop - piece.start).to_pylist()
    pictures = [decode_image(row["image"], row["sample_id"]) for row in rows]
    names = [f"sample {row['sample_id']}" for row in rows]
    objects = asked.embed_objects(asked.encode(pictures), names)[0].float().cpu().numpy()
    check_finite(objects, [row["sample_id"] for row in rows], "sample")
    attributes = [attributes_from_arrow(row["attributes"]) for row in rows]
    return miner.rank(objects, [row["category_id"] for row in rows], attributes)


@dataclass(frozen=True)
class _Given:
    """A miner of a file whose ranking is known."""

    ranked: Ranked
    miner_id: str

    def rank(self, dataset: Dataset, groups: Sequence[RowGroup], keep: int) -> Ranked:
        return self.ranked


def _write_tables(
    place: Location, dataset: Dataset, categories: Sequence[Category], world: int, run: str, stage: Stage
) -> None:
    """Aligned negatives, neighbours and row groups below ``place``, then the word that they are complete."""
    miner_id = f"model-{run}-{stage.name}"
    positions, similarity = (
        np.concatenate([_read(place / f"{what}-{rank}.npy") for rank in range(world)])
        for what in ("positions", "similarity")
    )
    found: list[MinedFile] = []
    start = 0
    for groups in dataset.groups_of_file():
        of_file = [np.full((group.rows, KEEP), -1, np.int32) for group in groups]
        values = [np.full((group.rows, KEEP), np.nan, np.float32) for group in groups]
        for at, group in enumerate(groups):
            if group.split == "train":  # no other row is trained on
                of_file[at] = positions[start : start + group.rows]
                values[at] = similarity[start : start + group.rows]
                start += group.rows
        ranked = Ranked(np.concatenate(of_file), np.concatenate(values))
        found.append(mine_file(dataset, groups, _Given(ranked, miner_id), KEEP, home=place))
    made: dict[str, list[Part]] = {
        "negatives": [file.part for file in found],
        "neighbours": [write_part(place, "neighbours", [neighbours(categories, found, None, KEEP)])],
        "row_groups": [write_part(place, "row_groups", [with_likes(dataset, found)])],
    }
    entries = {
        name: {
            "digest": digest_of([name, [part.digest for part in parts]]),
            "rows": sum(part.rows for part in parts),
            "files": [part.way for part in parts],
        }
        for name, parts in made.items()
    }
    most = max((file.most for file in found), default=0)
    about = {"step": "mine", "miner": miner_id, "keep": KEEP, "most": most}
    (place / DONE).write_json({"tables": entries, "provenance": dict.fromkeys(TABLES, about)})


def _digest(dataset: Dataset, table: str) -> str | None:
    return dataset.manifest["tables"].get(table, {}).get("digest")


def _check_same_pictures(stage: Stage, dataset: Dataset, other: Dataset) -> None:
    where = f"stages.{stage.name}.negatives"
    if other.root.parent != dataset.root.parent or any(
        _digest(other, table) != _digest(dataset, table) for table in ("samples", "categories")
    ):
        raise wrong_use(
            f"{other.reference} has other pictures or categories than {dataset.reference}",
            place=where,
            cure=f"name a version of {dataset.name} that was mined otherwise, `{MINED}` or `{MODEL}`",
        )
    if not other.has("negatives"):
        raise wrong_use(
            f"{other.reference} has no negatives",
            place=where,
            cure=f"run `finedefics data mine {other.name}`",
        )


def _place(run: Location, stage: Stage) -> Location:
    return run / "negatives" / stage.name


def _read(file: Location) -> npt.NDArray[Any]:
    # not by the node's cache: another start of the run, on another number of ranks, may have written it
    return np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)


def _together() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
