"""Mine: the most similar wrong categories of every picture, and of every category."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.mining import KEEP, MINERS, Ranked, nearest, nearest_categories
from finedefics.records import NEIGHBOURS, Category
from finedefics.registry import split_spec
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.embeddings import category_rows, embed, named_embedder, write_array
from finedefics_platform.data.mined_files import (
    NO_VOTES,
    EmbeddedMiner,
    FileMiner,
    ListedMiner,
    MinedFile,
    as_ranked,
    candidates,
    mine_file,
)
from finedefics_platform.data.steps import step_digest, step_of
from finedefics_platform.data.store import Dataset, RowGroup, open_dataset
from finedefics_platform.data.versions import new_version

if TYPE_CHECKING:
    from finedefics.embedders import Settings

_READ = ("samples", "categories", "descriptions", "annotations")


@dataclass(frozen=True)
class Choice:
    """How negatives are mined: a miner or an embedder by name, and why this one."""

    why: str
    miner: str | None = None
    embedder: str | None = None

    @property
    def name(self) -> str:
        """As it is given on the command line."""
        return f"--miner {self.miner}" if self.miner else f"--embedder {self.embedder}"


def mine(
    workspace: Workspace,
    reference: str,
    *,
    miner: str | None = None,
    embedder: str | None = None,
    keep: int = KEEP,
    settings: "Settings | None" = None,
    gpus_per_worker: float | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Add the negatives table: for every picture the ``keep`` most similar wrong categories.

    The table of neighbours follows from it: a category's are those that its labelled training pictures rank
    highest. One without such pictures is compared by its text, where the embedder has one, else by its
    attributes.

    Args:
        miner, embedder: at most one; `choose` takes the best that the data allows where none is given.
        settings, gpus_per_worker: how an embedder runs.

    Raises:
        FinedeficsError: there is no such dataset, miner or embedder, or it cannot compare these categories.
    """
    dataset = open_dataset(workspace, reference)
    choice = choose(dataset, miner, embedder)
    progress.event("chosen", miner=choice.miner, embedder=choice.embedder, why=choice.why)
    progress.say(f"mining by {choice.miner or choice.embedder}: {choice.why}")
    categories = dataset.categories()
    ranks, texts = _miner(workspace, dataset, categories, choice, settings, gpus_per_worker, progress)
    step = step_digest("mine", dataset, _READ, [ranks.miner_id, keep])
    with step_of(workspace, dataset.name, step, "mine", progress) as done:
        if done:
            return done
        work = partial(_mine_files, dataset=dataset, miner=ranks, keep=keep)
        found: list[MinedFile] = run_tasks(
            dataset.groups_of_file(), work, chunk=1, label="mining negatives", progress=progress
        )
        provenance = {
            "step": "mine",
            "miner": ranks.miner_id,
            "chosen": choice.name,
            "why": choice.why,
            "keep": keep,
            "without_candidates": sum(file.without for file in found),
            "most": max((file.most for file in found), default=0),
        }
        draft = new_version(workspace, dataset.name)
        made_anew = ("negatives", "neighbours", "row_groups")
        draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
        draft.parts("negatives", [file.part for file in found], provenance)
        draft.write("neighbours", neighbours(categories, found, texts, keep), provenance)
        draft.write("row_groups", with_likes(dataset, found), provenance)
        return draft.publish(step)


def choose(dataset: Dataset, miner: str | None = None, embedder: str | None = None) -> Choice:
    """The best that the data allows; what is named is taken as it is.

    In this order:

    1. ``--miner provided``: the source names hard negatives itself;
    2. ``--miner attributes``: two categories or more have attributes;
    3. ``--embedder descriptions``: two categories or more have a description, or pictures have one.

    Embedders of pictures are never taken unasked: their models have to be had first.

    Raises:
        FinedeficsError: both are named (exit code 2), or nothing is known that could be compared.
    """
    if miner is not None and embedder is not None:
        raise wrong_use("a miner and an embedder are named", place="mine", cure="leave one of them out")
    if embedder == "attributes":
        miner, embedder = "attributes", None
    if miner is not None:
        return Choice("as asked", miner=miner)
    if embedder is not None:
        return Choice("as asked", embedder=embedder)
    if len(dataset.categories()) < 2:
        raise FinedeficsError(
            "there is no second category to take a picture for",
            place=dataset.reference,
            cure="ingest more categories, or name them in categories.jsonl",
        )
    if dataset.has("annotations"):
        named = dataset.table("annotations", ["negatives"])["negatives"]
        if count := pc.sum(pc.greater(pc.fill_null(pc.list_value_length(named), 0), 0)).as_py():
            return Choice(f"the source names hard negatives of {count} pictures", miner="provided")
    categories = dataset.categories()
    if (told := sum(bool(category.attributes) for category in categories)) > 1:
        return Choice(f"{told} of {len(categories)} categories have attributes", miner="attributes")
    # by their pictures' descriptions, categories are compared where they have labelled ones
    described = sum(group.described for group in dataset.row_groups("train") if group.labelled)
    if (told := sum(bool(category.description) for category in categories)) > 1 or described:
        why = f"{told} of {len(categories)} categories and {described} pictures have a description"
        return Choice(why, embedder="descriptions")
    raise FinedeficsError(
        "neither attributes nor descriptions are known, so nothing can be compared",
        place=dataset.reference,
        cure="name an embedder of pictures (--embedder clip:MODEL, vision:MODEL, tuned:RUN or a .py file), "
        "describe the dataset first, or give --miner confusions:EVALUATION",
    )


def _miner(
    workspace: Workspace,
    dataset: Dataset,
    categories: Sequence[Category],
    choice: Choice,
    settings: "Settings | None",
    gpus_per_worker: float | None,
    progress: Progress,
) -> tuple[FileMiner, npt.NDArray[np.float32] | None]:
    """Who ranks pictures, and the embeddings of categories' texts where there are such."""
    if choice.miner is not None:
        name, argument = (choice.miner, None) if choice.miner.endswith(".py") else split_spec(choice.miner)
        if name == "confusions" and argument:
            argument = _evaluation(workspace, argument)
        code = MINERS.identity(name) if name.endswith(".py") else None
        return ListedMiner(MINERS[name](categories, argument), code), None
    assert choice.embedder is not None
    named = named_embedder(workspace, choice.embedder, categories, settings, gpus_per_worker)
    embeddings = embed(workspace, dataset, named, progress)
    targets = category_rows(embeddings, dataset, named, progress=progress)
    if not targets.any():
        raise FinedeficsError(
            "no category has a labelled training picture or a text to compare pictures with",
            place=f"{dataset.reference}, embedder {choice.embedder}",
            cure="label some pictures of the split train, or take an embedder of pictures and texts",
        )
    file = embeddings.place / f"targets-{hashlib.sha256(targets.tobytes()).hexdigest()[:12]}.npy"
    if not file.is_file():
        write_array(file, targets)
    return EmbeddedMiner(embeddings, file), targets if embeddings.mode != "centroids" else None


def _evaluation(workspace: Workspace, name: str) -> str:
    """The local folder of an evaluation: one of the workspace by its name, or a path."""
    inside = "/" not in name and (workspace.evaluations / name).exists()
    place = workspace.evaluations / name if inside else workspace.place_of(name)
    try:
        return str(fetch(place))
    except FileNotFoundError as error:
        known = ", ".join(one.name for one in workspace.evaluations.children()[:12])
        raise wrong_use(
            "there is no such evaluation",
            place=f"miner confusions:{name}",
            cure=f"choose one of: {known}" if known else "make one with `finedefics evaluate … --split val`",
        ) from error


def neighbours(
    categories: Sequence[Category],
    found: Sequence[MinedFile],
    texts: npt.NDArray[np.float32] | None,
    keep: int,
) -> pa.Table:
    """Each category's most similar others (schema `NEIGHBOURS`).

    Args:
        found: files with the votes of the categories' pictures.
        texts: embeddings of the categories' texts, for those that no picture speaks for; None: attributes.
    """
    count, ids = len(categories), [category.category_id for category in categories]
    votes = reduce(lambda one, other: one + other, (file.votes for file in found), NO_VOTES)
    ranked = _by_words(categories, texts, keep)
    own, others = np.divmod(votes.pairs, max(1, count))
    # by category, then falling votes, then the other's id
    order = np.lexsort((others, -votes.sums, own))
    starts = np.searchsorted(own[order], np.arange(count + 1))
    for category in range(count):
        best = order[starts[category] : starts[category + 1]][:keep]
        if len(best):
            ranked.positions[category] = -1
            ranked.positions[category, : len(best)] = others[best]
            ranked.similarity[category, : len(best)] = votes.sums[best]
    columns: list[Any] = [pa.array(ids, pa.string()), candidates(ranked, ids)]
    return pa.table(columns, NEIGHBOURS.names).cast(NEIGHBOURS)


def _by_words(categories: Sequence[Category], texts: npt.NDArray[np.float32] | None, keep: int) -> Ranked:
    if texts is not None:
        rows = torch.from_numpy(np.ascontiguousarray(texts))
        there = (rows != 0).any(1)
        ranked = nearest(rows, rows, keep, own=torch.arange(len(rows)), allowed=there)
        ranked.positions[~there.numpy()] = -1
        return ranked
    position = {category.category_id: i for i, category in enumerate(categories)}
    by_id = nearest_categories(categories, keep)
    rankings = [
        [(other, 1 / rank) for rank, other in enumerate(by_id[category.category_id], start=1)]
        for category in categories
    ]
    return as_ranked(rankings, position, keep)


def with_likes(dataset: Dataset, found: Sequence[MinedFile]) -> pa.Table:
    """The table of row groups with what each row is most like."""
    groups = dataset.table("row_groups")
    field = groups.schema.field("likes")
    likes = pa.array([list(likes) for file in found for likes in file.likes], field.type)
    return groups.set_column(groups.schema.get_field_index("likes"), field, likes)


def _mine_files(
    files: Sequence[Sequence[RowGroup]], *, dataset: Dataset, miner: FileMiner, keep: int
) -> list[MinedFile]:
    return [mine_file(dataset, groups, miner, keep) for groups in files]
