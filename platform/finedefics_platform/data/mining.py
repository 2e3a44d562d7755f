"""Mine: the most similar wrong categories of every picture, and of every category."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from finedefics.negatives import KEEP, MINERS, Confusable, Miner, Ranking, nearest_categories
from finedefics.records import NEGATIVES, NEIGHBOURS, Category, attributes_from_arrow
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import Part, write_part
from finedefics_platform.data.steps import step_digest, step_of
from finedefics_platform.data.store import Dataset, RowGroup, open_dataset
from finedefics_platform.data.versions import new_version

Votes = dict[str, dict[str, float]]  # how highly the pictures of a category rank each other one


@dataclass(frozen=True)
class Mined:
    """What a task wrote: a file of negatives.

    Attributes:
        likes: of each of its row groups, of each row, the category it is most like, None where none is known.
        votes: of its labelled training pictures, summed reciprocal rank.
        most: candidates that any picture has.
        without: pictures without a candidate.
    """

    part: Part
    likes: tuple[tuple[str | None, ...], ...]
    votes: Votes
    most: int
    without: int


def mine(
    workspace: Workspace,
    reference: str,
    *,
    miner: str = "attributes",
    keep: int = KEEP,
    progress: Progress = SILENT,
) -> Dataset:
    """Add the negatives table: for every picture the ``keep`` most similar wrong categories.

    The table of neighbours follows from it: a category's are those that its labelled training pictures rank
    highest; one without such pictures is compared by its attributes.

    Raises:
        FinedeficsError: there is no such dataset or miner, or the miner cannot compare these categories.
    """
    dataset = open_dataset(workspace, reference)
    categories = dataset.categories()
    made = MINERS[miner](categories)
    tables = ("samples", "categories", "descriptions", "annotations")
    step = step_digest("mine", dataset, tables, [made.miner_id, keep])
    with step_of(workspace, dataset.name, step, "mine", progress) as done:
        if done:
            return done
        work = partial(_mine_files, dataset=dataset, miner=made, keep=keep)
        found: list[Mined] = run_tasks(
            dataset.groups_of_file(), work, chunk=1, label="mining negatives", progress=progress
        )
        provenance = {
            "step": "mine",
            "miner": made.miner_id,
            "keep": keep,
            "without_candidates": sum(file.without for file in found),
            "most": max((file.most for file in found), default=0),
        }
        draft = new_version(workspace, dataset.name)
        made_anew = ("negatives", "neighbours", "row_groups")
        draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
        draft.parts("negatives", [file.part for file in found], provenance)
        draft.write("neighbours", _neighbours(categories, found, keep), provenance)
        likes = [likes for file in found for likes in file.likes]
        draft.write("row_groups", _with_likes(dataset, categories, likes), provenance)
        return draft.publish(step)


def _neighbours(categories: Sequence[Category], found: Sequence[Mined], keep: int) -> pa.Table:
    votes: Votes = defaultdict(lambda: defaultdict(float))
    for file in found:
        for category, others in file.votes.items():
            for other, vote in others.items():
                votes[category][other] += vote
    # those that no picture speaks for are compared by what is known of them in words
    ranked: dict[str, Ranking] = {
        category: [(other, 1 / rank) for rank, other in enumerate(others, start=1)]
        for category, others in nearest_categories(categories, keep).items()
    }
    for category, others in votes.items():
        ranked[category] = sorted(others.items(), key=lambda pair: (-pair[1], pair[0]))[:keep]
    rows = [
        {"category_id": c.category_id, "candidates": _as_arrow(ranked[c.category_id])} for c in categories
    ]
    return pa.Table.from_pylist(rows, schema=NEIGHBOURS)


def _with_likes(
    dataset: Dataset, categories: Sequence[Category], likes: Sequence[Sequence[str | None]]
) -> pa.Table:
    groups = dataset.table("row_groups")
    position: Mapping[str | None, int] = {c.category_id: i for i, c in enumerate(categories)}
    field = groups.schema.field("likes")
    coded = pa.array([[position.get(like, -1) for like in group] for group in likes], field.type)
    return groups.set_column(groups.schema.get_field_index("likes"), field, coded)


def _mine_files(
    files: Sequence[Sequence[RowGroup]], *, dataset: Dataset, miner: Miner, keep: int
) -> list[Mined]:
    return [_mine_file(dataset, groups, miner, keep) for groups in files]


def _mine_file(dataset: Dataset, groups: Sequence[RowGroup], miner: Miner, keep: int) -> Mined:
    pictures = [_confusables(dataset, group) for group in groups]
    # all of a file at once: a miner compares many pictures faster than few
    rankings = iter(miner([picture for group in pictures for picture in group], keep))
    tables, likes = [], []
    votes: Votes = {}
    most = without = 0
    for group, members in zip(groups, pictures, strict=True):
        found = [next(rankings) for _ in members]
        tables.append(_rows(members, found, miner.miner_id))
        likes.append(
            tuple(m.category_id or (r[0][0] if r else None) for m, r in zip(members, found, strict=True))
        )
        most = max([most, *map(len, found)])
        without += sum(not ranking for ranking in found)
        if group.split == "train" and group.labelled:
            _vote(votes, members, found)
    part = write_part(dataset.root.parent, "negatives", tables)
    return Mined(part, tuple(likes), votes, most, without)


def _vote(votes: Votes, pictures: Sequence[Confusable], rankings: Sequence[Ranking]) -> None:
    for picture, ranking in zip(pictures, rankings, strict=True):
        own = votes.setdefault(picture.category_id or "", {})
        for rank, (other, _) in enumerate(ranking, start=1):
            own[other] = own.get(other, 0.0) + 1 / rank


def _confusables(dataset: Dataset, group: RowGroup) -> list[Confusable]:
    rows = dataset.read(
        group,
        {
            "samples": ["sample_id", "category_id"],
            "descriptions": ["attributes"],
            "annotations": ["negatives"],
        },
    )
    return [
        Confusable(
            row["sample_id"],
            row["category_id"],
            attributes_from_arrow(row["attributes"]),
            tuple(row["negatives"] or ()),
        )
        for row in rows.to_pylist()
    ]


def _rows(pictures: Sequence[Confusable], rankings: Sequence[Ranking], miner_id: str) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"sample_id": picture.sample_id, "candidates": _as_arrow(ranking), "miner_id": miner_id}
        for picture, ranking in zip(pictures, rankings, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=NEGATIVES)


def _as_arrow(ranking: Ranking) -> list[dict[str, Any]]:
    return [{"category_id": category, "similarity": value} for category, value in ranking]
